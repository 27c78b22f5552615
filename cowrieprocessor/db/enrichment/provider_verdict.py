"""What one source said about one file, as the history, the cache and the row of its hash keep it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

MALICIOUS, SUSPICIOUS, CLEAN, KNOWN_GOOD, UNKNOWN = "malicious", "suspicious", "clean", "known-good", "unknown"
VERDICTS = (MALICIOUS, KNOWN_GOOD, SUSPICIOUS, CLEAN, UNKNOWN)
"""Every verdict. Of several sources the one that stands first here is the file's: a good name never hides malware."""

VIRUSTOTAL = "virustotal"
COWRIE_VIRUSTOTAL = "cowrie-virustotal"
VIRUSTOTAL_SOURCES = (VIRUSTOTAL, COWRIE_VIRUSTOTAL)
"""Whose findings the vt_* columns show: VirusTotal's own where it knows the file, else what Cowrie logged of it."""


@dataclass(frozen=True, slots=True)
class ProviderVerdict:
    """What one source said about one file. A file that it does not know has the verdict `unknown` and nothing else.

    Texts are valid Unicode without NUL and no longer than their columns; times are aware, in UTC.

    Attributes:
        verdict: one of VERDICTS.
        classification: what the source calls it, at most 128 characters (a threat label, a signature).
        description: what kind of file it is, for people; at most 4,000 characters.
        family: the family of malware, at most 128 characters.
        positives: how many engines say malicious.
        total: how many engines said anything.
        first_seen: when the source first saw the file.
        last_analysis: when it last looked at it itself.
        md5: lower case.
        sha1: lower case.
        tlsh: as the source gives it, at most 72 characters.
        size_bytes: the size of the file.
        file_type: a short name of its type, at most 256 characters.
        response: the answer, bounded, so that the finding can be read from it again.
    """

    verdict: str
    classification: str | None = None
    description: str | None = None
    family: str | None = None
    positives: int | None = None
    total: int | None = None
    first_seen: dt.datetime | None = None
    last_analysis: dt.datetime | None = None
    md5: str | None = None
    sha1: str | None = None
    tlsh: str | None = None
    size_bytes: int | None = None
    file_type: str | None = None
    response: dict[str, Any] = field(default_factory=dict, repr=False)
