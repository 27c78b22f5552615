"""The outcome of a reply that is no report, by its HTTP status: the same for every source."""

from __future__ import annotations

import datetime as dt
import re
from email.utils import parsedate_to_datetime

from cowrieprocessor.enrichment.providers.base import Failed, RateLimited, Refused, Reply
from cowrieprocessor.enrichment.providers.json_values import redact, text
from cowrieprocessor.sanitize import terminal_safe

MAX_RETRY_AFTER = dt.timedelta(days=31)
"""The longest Retry-After that is honoured: the longest quota window is a month."""

_MAX_MESSAGE_CHARS = 200
_SECONDS = re.compile(r"[0-9]{1,18}")


def error_outcome(reply: Reply, source: str, message: str | None, *, key: str | None) -> RateLimited | Refused | Failed:
    """Return the outcome of a reply that a source sends in place of a report.

    Args:
        reply: the reply.
        source: the source's name for people.
        message: the source's own error message in the body; None if the body is not the source's own, but the page of
            a proxy or a firewall.
        key: redacted if the reply repeats it.
    """
    reason = describe(reply, source, message, key=key)
    retry_at = retry_after(reply)
    match reply.status:
        case 429:
            return RateLimited(reason, retry_at)
        case 401:
            return Refused(f"{reason}; check the key", "source")
        case 403 if message is not None or not reply.body.strip():
            return Refused(f"{reason}; check the key and what it is allowed to do", "source")
        case 400 if message is not None:
            return Refused(reason, "file")
        case status if 300 <= status < 400:
            return Failed("redirect", reason, retry_at)
        case status if status >= 500:
            return Failed("server-error", reason, retry_at)
        case status if status in (200, 204) and not reply.body.strip():
            return Failed("empty-answer", reason, retry_at)
        case 200:
            return Failed("bad-body", reason, retry_at)
    return Failed("other", reason, retry_at)


def describe(reply: Reply, source: str, message: str | None, *, key: str | None) -> str:
    """Return a description of a reply for people, without any key."""
    if message is not None:
        return f"{source} answers {reply.status}: {printable(message, key)}"
    if not reply.body.strip():
        return f"{source} answers {reply.status} and nothing else"
    return (
        f"{source} answers {reply.status} with something that is not its own: is the address right, or a proxy between?"
    )


def printable(untrusted: str, *keys: str | None) -> str:
    """Return untrusted text as one bounded line that is safe to print, with every key redacted."""
    line = terminal_safe(" ".join(redact(untrusted, *keys).split()))
    return text(line, _MAX_MESSAGE_CHARS) or "nothing"


def retry_after(reply: Reply) -> dt.datetime | None:
    """Return when a source wants to be asked again, from its header Retry-After; None if that is missing or invalid.

    The header holds seconds or a date. The result is never before the reply arrived, and at most 31 days after it.

    Source: RFC 9110, section 10.2.3.
    """
    given = reply.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(given):
        return reply.received_at + min(dt.timedelta(seconds=min(int(given), 10**8)), MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(given)
        at = date.replace(tzinfo=dt.UTC) if date.tzinfo is None else date.astimezone(dt.UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(at, reply.received_at), reply.received_at + MAX_RETRY_AFTER)
