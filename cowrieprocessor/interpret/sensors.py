"""What names a sensor: the texts by which sensors are stored and compared."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

from cowrieprocessor.sanitize import cut_inert, inert, inert_cut

MAX_NAME_CHARS = 255
"""Longest name of a sensor; a host name has at most 253 characters. Source: RFC 1035, section 2.3.4."""

MATCHER_CHARS = 32
"""Length of version 3's column for the sensor of a session, `session_summaries.matcher`."""

_DIGEST_CHARS = 8


@lru_cache(maxsize=4096)
def sensor_name(text: str) -> str:
    """Return the name of a sensor as it is stored: inert, at most MAX_NAME_CHARS characters.

    A longer one is cut and ends with part of its hash, so that two sensors stay two.
    """
    name = inert(text)
    if len(name) <= MAX_NAME_CHARS:
        return name
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    return f"{inert_cut(text, MAX_NAME_CHARS - _DIGEST_CHARS - 1)}~{digest}"


@lru_cache(maxsize=4096)
def matcher(name: str) -> str:
    """Return a stored name cut to the length of `session_summaries.matcher`."""
    return cut_inert(name, MATCHER_CHARS)
