"""What an answer means that is not the answer asked for: the same HTTP statuses for every source."""

from __future__ import annotations

import datetime as dt
import re
from email.utils import parsedate_to_datetime

from cowrieprocessor.enrichment.providers.base import Failed, RateLimited, Refused, Reply
from cowrieprocessor.enrichment.providers.json_values import hide, text
from cowrieprocessor.sanitize import terminal_safe

MAX_RETRY_AFTER = dt.timedelta(days=31)
"""The longest that a source is believed when it says when to come back: the longest quota window is a month."""

_MAX_SAID_CHARS = 200
_SECONDS = re.compile(r"[0-9]{1,18}")


def trouble(reply: Reply, source: str, said: str | None, *, key: str | None) -> RateLimited | Refused | Failed:
    """Return what an answer means that a source gives in place of a report.

    Args:
        reply: the answer.
        source: the source as people call it.
        said: what the source itself says in the body; None if the body is not the source's own: a proxy's page, or a
            firewall's.
        key: never shown, should the answer repeat it.
    """
    reason = describe(reply, source, said, key=key)
    retry_at = retry_after(reply)
    match reply.status:
        case 429:
            return RateLimited(reason, retry_at)
        case 401:
            return Refused(f"{reason}; check the key", "source")
        case 403 if said is not None or not reply.body.strip():
            return Refused(f"{reason}; check the key and what it is allowed to do", "source")
        case 400 if said is not None:
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


def describe(reply: Reply, source: str, said: str | None, *, key: str | None) -> str:
    """Return in words for people how a source answered, without any key."""
    if said is not None:
        return f"{source} answers {reply.status}: {sayable(said, key)}"
    if not reply.body.strip():
        return f"{source} answers {reply.status} and nothing else"
    return (
        f"{source} answers {reply.status} with something that is not its own: is the address right, or a proxy between?"
    )


def sayable(said: str, *keys: str | None) -> str:
    """Return what somebody else wrote as one bounded line without any key."""
    one_line = terminal_safe(" ".join(hide(said, *keys).split()))
    return text(one_line, _MAX_SAID_CHARS) or "nothing"


def retry_after(reply: Reply) -> dt.datetime | None:
    """Return when a source wants to be asked again, by its header Retry-After; None if it does not say.

    Seconds and dates are understood, anything else counts as not said. Never before the answer came, and never later
    than 31 days after it.

    Source: RFC 9110, section 10.2.3.
    """
    given = reply.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(given):
        return reply.received_at + min(dt.timedelta(seconds=min(int(given), 10**8)), MAX_RETRY_AFTER)
    try:
        asked = parsedate_to_datetime(given)
        at = asked.replace(tzinfo=dt.UTC) if asked.tzinfo is None else asked.astimezone(dt.UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(at, reply.received_at), reply.received_at + MAX_RETRY_AFTER)
