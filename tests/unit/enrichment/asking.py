"""Samples, replies and checks of outcomes that the tests of sources share."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import threading
from collections.abc import Mapping

from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS, ProviderVerdict
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Outcome,
    RateLimited,
    Refused,
    Reply,
    Sample,
    Unknown,
)

NOW = dt.datetime(2026, 11, 22, 13, 14, 15, tzinfo=dt.UTC)
KEY = hashlib.sha256(b"a canary").hexdigest()
SHA256 = hashlib.sha256(b"one file").hexdigest()
OTHER = hashlib.sha256(b"another file").hexdigest()
FAILURES = {
    "timeout",
    "connection",
    "server-error",
    "redirect",
    "empty-answer",
    "bad-body",
    "too-large",
    "not-yet",
    "other",
}
MAX_CHARS = {"classification": 128, "description": 4000, "family": 128, "tlsh": 72, "file_type": 256}
HTML = b"<html><head><title>Sign in</title></head><body>to the hotel's network</body></html>"


class FixedClock:
    """A clock that stands still: the timeout of a request does not depend on it."""

    def now(self) -> dt.datetime:
        """Return the fixed time."""
        return NOW

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Fail: sending never waits on the clock."""
        raise AssertionError("sending never waits by the clock")


def reply(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply with a JSON body, or with the given bytes."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Reply(status, headers or {}, body, NOW)


def sample(sha256: str = SHA256, **known: object) -> Sample:
    """Return a file, its MD5 and SHA-1 made up from its SHA-256."""
    return Sample(sha256, **{"md5": md5_of(sha256), "sha1": sha1_of(sha256), **known})  # type: ignore[arg-type]


def md5_of(sha256: str) -> str:
    """Return the MD5 that the tests give a file."""
    return hashlib.md5(sha256.encode(), usedforsecurity=False).hexdigest()


def sha1_of(sha256: str) -> str:
    """Return the SHA-1 that the tests give a file."""
    return hashlib.sha1(sha256.encode(), usedforsecurity=False).hexdigest()


def assert_sound(outcome: Outcome) -> None:
    """Check that an outcome can be stored in every database and contains no key."""
    match outcome:
        case Found(verdict):
            assert_storable(verdict)
        case Unknown(response):
            assert_storable_response(response)
        case Failed(kind, reason, retry_at):
            assert kind in FAILURES
            assert_printable(reason)
            assert retry_at is None or NOW <= retry_at <= NOW + dt.timedelta(days=31)
        case Refused(reason, scope):
            assert scope in {"file", "source"}
            assert_printable(reason)
        case RateLimited(reason, retry_at):
            assert_printable(reason)
            assert retry_at is None or NOW <= retry_at <= NOW + dt.timedelta(days=31)


def assert_printable(reason: str) -> None:
    """Check that a reason is one bounded line without the key."""
    assert 0 < len(reason) <= 500
    assert "\n" not in reason
    assert KEY not in reason.lower()
    assert "\0" not in reason
    reason.encode()


def assert_storable(verdict: ProviderVerdict) -> None:
    """Check that a verdict has what `ProviderVerdict` guarantees of its fields."""
    assert verdict.verdict in VERDICTS
    assert_storable_texts(verdict)
    for moment in (verdict.first_seen, verdict.last_analysis):
        assert moment is None or moment.utcoffset() == dt.timedelta(0)
    assert (verdict.positives is None) == (verdict.total is None)
    if verdict.positives is not None and verdict.total is not None:
        assert 0 <= verdict.positives <= verdict.total < 2**31
    assert verdict.size_bytes is None or 0 <= verdict.size_bytes < 2**63
    assert_storable_response(verdict.response)


def assert_storable_texts(verdict: ProviderVerdict) -> None:
    """Check that the strings of a verdict fit their columns, and contain neither NUL nor the key."""
    for name, max_chars in MAX_CHARS.items():
        value = getattr(verdict, name)
        if value is not None:
            assert isinstance(value, str)
            assert 0 < len(value) <= max_chars
            assert "\0" not in value
            assert KEY not in value.lower()
            value.encode()
    for name, length in (("md5", 32), ("sha1", 40)):
        value = getattr(verdict, name)
        assert value is None or re.fullmatch(f"[0-9a-f]{{{length}}}", value)


def assert_storable_response(response: dict[str, object]) -> None:
    """Check that a response is bounded JSON that every database stores, without the key."""
    stored = json.dumps(response, allow_nan=False)
    assert len(stored) <= 64 * 1024
    assert "\\u0000" not in stored.replace("\\\\", "")
    assert KEY not in stored.lower()
    json.dumps(response, ensure_ascii=False).encode()
    assert json.loads(stored) == response
