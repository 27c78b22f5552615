"""Rows for the tests of lists and reports, inserted through the models."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from cowrieprocessor.db.models import (
    CommandStat,
    DeadLetterEvent,
    EnrichmentQueueItem,
    FileHash,
    FileMention,
    Files,
    FileVerdict,
    LogFile,
    RawEvent,
    SessionAttribute,
    SessionLogin,
    SessionSummary,
)
from cowrieprocessor.loader.rows.file_mentions import NAME, URL

DAY = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202egnp.exe\u2066 \x1b]8;;http://198.51.100.7/a\x1b\\click\x1b]8;;\x1b\\"
    "\r\noverwritten\x00\x08[red]markup[/red][link=http://198.51.100.7]x[/link] :skull: \ufeff\u2028\U000e0041"
)
"""Escape sequences, C1 controls, an OSC 8 link, right-to-left overrides, CR, LF, NUL, tags, and rich's markup."""

FORMULA = '=HYPERLINK("http://198.51.100.7/x",1)'


def sha(number: int) -> str:
    """Return a SHA-256 that begins with the number in six hexadecimal digits."""
    return f"{number:06x}" + "0" * 58


def at(hours: float = 0.0, *, days: int = 0) -> dt.datetime:
    """Return a time relative to the midnight at which the scene's day begins."""
    return DAY + dt.timedelta(days=days, hours=hours)


def add_session(
    connection: Connection,
    session_id: str,
    first: dt.datetime | None,
    *,
    sensor: str | None = "lab",
    src_ip: str | None = "203.0.113.5",
    username: str | None = "root",
    login_success: bool | None = True,
    protocol: str | None = "ssh",
    commands: Mapping[str, int] | None = None,
    attributes: bool = True,
    **columns: Any,
) -> None:
    """Add a session with its attributes, its logins under one name, and its commands."""
    commands = commands or {}
    row = {
        "event_count": 10,
        "login_attempts": 2,
        "command_count": sum(commands.values()),
        "last_event_at": first + dt.timedelta(seconds=30) if first else None,
        **columns,
    }
    connection.execute(
        insert(SessionSummary).values(session_id=session_id, first_event_at=first, matcher=sensor, **row)
    )
    if attributes:
        connection.execute(
            insert(SessionAttribute).values(
                session_id=session_id,
                src_ip=src_ip,
                username=username,
                login_success=login_success,
                protocol=protocol,
            )
        )
        if username is not None:
            attempts = {"attempts": row["login_attempts"], "successes": int(bool(login_success))}
            connection.execute(insert(SessionLogin).values(session_id=session_id, username=username, **attempts))
    for command, times in commands.items():
        connection.execute(
            insert(CommandStat).values(session_id=session_id, command_normalized=command, occurrences=times)
        )


def add_file(connection: Connection, session_id: str, sha256: str, seen: dt.datetime, **columns: Any) -> None:
    """Add a row of `files`, and what the event that it is from mentions."""
    connection.execute(insert(Files).values(session_id=session_id, shasum=sha256, first_seen=seen, **columns))
    for kind, column in ((NAME, "filename"), (URL, "download_url")):
        if columns.get(column) is not None:
            add_mention(connection, session_id, sha256, kind, columns[column], seen)


def add_mention(
    connection: Connection,
    session_id: str,
    sha256: str,
    kind: str,
    value: str,
    seen: dt.datetime,
    last: dt.datetime | None = None,
) -> None:
    """Add a row of `file_mentions`."""
    digest = hashlib.sha256(f"{kind}\0{sha256}\0{value}".encode()).hexdigest()[:32]
    row = {"shasum": sha256, "kind": kind, "value": value, "first_seen": seen, "last_seen": last or seen}
    connection.execute(insert(FileMention).values(session_id=session_id, digest=digest, **row))


def add_hash(
    connection: Connection, sha256: str, first: dt.datetime, last: dt.datetime | None = None, **columns: Any
) -> None:
    """Add a row of `file_hashes`."""
    columns.setdefault("session_count", 1)
    connection.execute(insert(FileHash).values(sha256=sha256, first_seen=first, last_seen=last or first, **columns))


def add_verdict(
    connection: Connection,
    sha256: str,
    provider: str,
    fetched: dt.datetime,
    verdict: str = "malicious",
    positives: int | None = None,
    total: int | None = None,
    **columns: Any,
) -> None:
    """Add a row of `file_verdicts`."""
    columns.setdefault("confirmed_at", fetched)
    columns |= {"verdict": verdict, "positives": positives, "total": total}
    connection.execute(insert(FileVerdict).values(sha256=sha256, provider=provider, fetched_at=fetched, **columns))


def add_queued(connection: Connection, sha256: str, provider: str, status: str, **columns: Any) -> None:
    """Add a row of `enrichment_queue`."""
    connection.execute(insert(EnrichmentQueueItem).values(sha256=sha256, provider=provider, status=status, **columns))


def add_events(
    connection: Connection, payloads: Iterable[Mapping[str, Any]], *, source: str = "/logs/cowrie.json"
) -> None:
    """Add raw events, one per line of a known log; columns that SQLite computes are set on PostgreSQL."""
    identity = hashlib.sha256(source.encode()).hexdigest()
    if not connection.scalar(select(LogFile.identity).where(LogFile.identity == identity)):
        log = {"source": source, "source_inode": "1", "source_generation": 0, "current_path": source}
        connection.execute(insert(LogFile).values(identity=identity, generation=0, updated_at=DAY, **log))
    for line, payload in enumerate(payloads):
        row: dict[str, Any] = {"source": source, "source_inode": "1", "source_offset": line, "payload": payload}
        if connection.dialect.name == "postgresql":
            row |= {
                "session_id": payload.get("session"),
                "event_type": payload.get("eventid"),
                "event_timestamp": payload.get("timestamp"),
            }
        connection.execute(insert(RawEvent).values(row))


def add_dead_letter(connection: Connection, reason: str, payload: Any, **columns: Any) -> None:
    """Add a dead letter."""
    columns.setdefault("source", "/logs/cowrie.json")
    connection.execute(insert(DeadLetterEvent).values(reason=reason, payload=payload, **columns))
