"""The verdict of one provider about one file, as the history, the cache and the row of its hash store it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

MALICIOUS, SUSPICIOUS, CLEAN, KNOWN_GOOD, UNKNOWN = "malicious", "suspicious", "clean", "known-good", "unknown"
VERDICTS = (MALICIOUS, KNOWN_GOOD, SUSPICIOUS, CLEAN, UNKNOWN)
"""Every verdict, in order of precedence: of several providers' verdicts the first in this order is the file's, so that
a known-good name never hides malware."""

VIRUSTOTAL = "virustotal"
COWRIE_VIRUSTOTAL = "cowrie-virustotal"


@dataclass(frozen=True, slots=True)
class ProviderVerdict:
    """The verdict of one provider about one file. A file that it does not know has the verdict `unknown` and no more.

    Texts are valid Unicode without NUL and no longer than their columns; times are aware, in UTC.

    Attributes:
        verdict: one of VERDICTS.
        classification: the provider's name for it, at most 128 characters (a threat label, a signature).
        description: the kind of file, for display; at most 4,000 characters.
        family: the malware family, at most 128 characters.
        positives: number of engines that say malicious.
        total: number of engines with a result.
        first_seen: when the provider first saw the file.
        last_analysis: when the provider last analysed it.
        md5: lower case.
        sha1: lower case.
        tlsh: as the provider gives it, at most 72 characters.
        size_bytes: the size of the file.
        file_type: a short name of its type, at most 256 characters.
        response: the answer, bounded in size, from which the verdict can be parsed again.
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
