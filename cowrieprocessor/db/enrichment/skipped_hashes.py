"""The two skipped hashes: files that every honeypot captures by the thousand and that tell nothing.

They are the empty file (an interrupted download, `touch`) and a file of one newline (`echo > x`). They are
stored like any other file, and no request to a provider is ever spent on them.
"""

from __future__ import annotations

EMPTY_FILE_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
LONE_NEWLINE_SHA256 = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"
SKIPPED_SHA256 = frozenset({EMPTY_FILE_SHA256, LONE_NEWLINE_SHA256})


def initial_status(sha256: str) -> str:
    """Return the enrichment_status of a new hash: `skipped` if it is one of SKIPPED_SHA256, else `pending`."""
    return "skipped" if sha256 in SKIPPED_SHA256 else "pending"
