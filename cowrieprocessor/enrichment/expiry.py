"""How long an answer holds, and when a question that got none is asked again."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

from cowrieprocessor.db.enrichment.provider_verdict import CLEAN, KNOWN_GOOD, MALICIOUS, SUSPICIOUS, UNKNOWN
from cowrieprocessor.db.enrichment.response_cache import CacheEntry

FIRST_RETRY_S = 60.0
LAST_RETRY_S = 6 * 3600.0
JITTER = 0.1
"""Retries come up to this share later, each hash by its own, so that what failed together is not asked together."""

_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Ttl:
    """How many seconds answers hold.

    Attributes:
        malicious_s: malicious and known-good.
        clean_s: clean and suspicious.
        unknown_s: a file that the source does not know, the first time.
        unknown_max_s: the longest for such a file: the time doubles for each such answer in a row.
    """

    malicious_s: float
    clean_s: float
    unknown_s: float
    unknown_max_s: float


def expires_at(verdict: str, fetched_at: dt.datetime, previous: CacheEntry | None, ttl: Ttl) -> dt.datetime:
    """Return until when an answer holds.

    Args:
        verdict: what it says.
        fetched_at: when it was given.
        previous: the source's answer before it to the same question, if there was one.
        ttl: how long answers hold.
    """
    if verdict in (MALICIOUS, KNOWN_GOOD):
        seconds = ttl.malicious_s
    elif verdict in (CLEAN, SUSPICIOUS):
        seconds = ttl.clean_s
    else:
        seconds = ttl.unknown_s
        if previous is not None and previous.status == UNKNOWN:
            held_s = (previous.expires_at - previous.fetched_at).total_seconds()
            seconds = max(seconds, 2 * held_s)
        seconds = max(ttl.unknown_s, min(seconds, ttl.unknown_max_s))
    return fetched_at + dt.timedelta(seconds=seconds)


def retry_at(attempts: int, now: dt.datetime, sha256: str) -> dt.datetime:
    """Return when a question is asked again that got no usable answer: after a minute, doubling to six hours.

    Args:
        attempts: how often in a row it was asked by now, from 1.
        now: the time.
        sha256: the file; of it depends by how much the time is longer than that, up to a tenth.
    """
    doublings = min(max(attempts - 1, 0), _MOST_DOUBLINGS)
    seconds = min(FIRST_RETRY_S * 2**doublings, LAST_RETRY_S)
    share = int.from_bytes(hashlib.blake2b(sha256.encode(), digest_size=2).digest(), "big") / 0xFFFF
    return now + dt.timedelta(seconds=seconds * (1 + JITTER * share))
