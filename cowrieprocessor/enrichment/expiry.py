"""How long an answer is valid, and when a question without an answer is asked again."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

from cowrieprocessor.db.enrichment.provider_verdict import CLEAN, KNOWN_GOOD, MALICIOUS, SUSPICIOUS, UNKNOWN
from cowrieprocessor.db.enrichment.response_cache import CacheEntry

FIRST_RETRY_S = 60.0
LAST_RETRY_S = 6 * 3600.0
JITTER = 0.1
"""A retry is delayed by up to this share more, depending on the hash, so that retries do not come all at once."""

_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Ttl:
    """How many seconds an answer is valid (time to live).

    Attributes:
        malicious_s: malicious and known-good.
        clean_s: clean and suspicious.
        unknown_s: unknown, the first time; it doubles for each `unknown` in a row.
        unknown_max_s: the maximum for unknown.
    """

    malicious_s: float
    clean_s: float
    unknown_s: float
    unknown_max_s: float


def expires_at(verdict: str, fetched_at: dt.datetime, previous: CacheEntry | None, ttl: Ttl) -> dt.datetime:
    """Return when an answer expires.

    Args:
        verdict: one of `VERDICTS`.
        fetched_at: when the source gave it.
        previous: the source's previous answer to the same question, if there is one.
        ttl: how long answers are valid.
    """
    if verdict in (MALICIOUS, KNOWN_GOOD):
        seconds = ttl.malicious_s
    elif verdict in (CLEAN, SUSPICIOUS):
        seconds = ttl.clean_s
    else:
        seconds = ttl.unknown_s
        if previous is not None and previous.status == UNKNOWN:
            previous_s = (previous.expires_at - previous.fetched_at).total_seconds()
            seconds = max(seconds, 2 * previous_s)
        seconds = max(ttl.unknown_s, min(seconds, ttl.unknown_max_s))
    return fetched_at + dt.timedelta(seconds=seconds)


def retry_at(attempts: int, now: dt.datetime, sha256: str) -> dt.datetime:
    """Return when to ask again after an attempt without a usable answer: a minute later, doubling up to six hours.

    Args:
        attempts: attempts in a row without an answer, from 1.
        now: the current time.
        sha256: the file; its hash decides on the jitter, up to a tenth of the delay.
    """
    doublings = min(max(attempts - 1, 0), _MOST_DOUBLINGS)
    seconds = min(FIRST_RETRY_S * 2**doublings, LAST_RETRY_S)
    share = int.from_bytes(hashlib.blake2b(sha256.encode(), digest_size=2).digest(), "big") / 0xFFFF
    return now + dt.timedelta(seconds=seconds * (1 + JITTER * share))
