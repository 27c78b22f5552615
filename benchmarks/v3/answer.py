"""The exact content of a v3 database after migration and backfill: as counted by its maker, and as read back."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Executable

FIGURES_OF_V3 = ("raw_events", "malformed_rows", "sessions", "doubled_sessions")
"""Figures that can already be counted before the migration."""

_WITHOUT_FILE = "file_event_"
_ROWS_AT_ONCE = 5000


@dataclass(slots=True)
class V3Answer:
    """The exact answer for one v3 database; serializable as JSON.

    Attributes:
        raw_events: rows of raw_events.
        malformed_rows: rows of lines that were not JSON, and of values that were no objects.
        sessions: rows of session_summaries.
        doubled_sessions: sessions for which v3 counted more events than there are rows.
        files: pairs of session and hash.
        hashes: different hashes.
        file_events_refused: file events that cannot be stored, by the reason of their dead letter.
        file_events_without_file: file events that name no file, by the name of their counter.
        sessions_with_attributes: rows of session_attributes.
        command_stats: rows of command_stats.
        session_logins: rows of session_logins.
        command_occurrences: the sum of their occurrences.
        files_digest: of (session_id, shasum, filename, download_url, origin, first_seen).
        file_hashes_digest: of (sha256, first_seen, last_seen, session_count).
        session_attributes_digest: of (session_id, connect_at, src_ip, protocol, hassh_at, hassh, login_at,
            username, login_success).
    """

    raw_events: int = 0
    malformed_rows: int = 0
    sessions: int = 0
    doubled_sessions: int = 0
    files: int = 0
    hashes: int = 0
    file_events_refused: dict[str, int] = field(default_factory=dict)
    file_events_without_file: dict[str, int] = field(default_factory=dict)
    sessions_with_attributes: int = 0
    command_stats: int = 0
    session_logins: int = 0
    command_occurrences: int = 0
    files_digest: str = ""
    file_hashes_digest: str = ""
    session_attributes_digest: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain data."""
        return asdict(self)


class RowDigest:
    """A digest of rows that is independent of their order: the sum of their SHA-256, modulo 2^256."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, row: Sequence[object]) -> None:
        """Add a row of strings, numbers, booleans and None."""
        canonical = json.dumps(row, separators=(",", ":")).encode()
        self._sum += int.from_bytes(hashlib.sha256(canonical).digest())

    def text(self) -> str:
        """Return the digest in hexadecimal."""
        return f"{self._sum % (1 << 256):064x}"


def answer_of(engine: Engine) -> dict[str, Any]:
    """Return the same figures and digests as `V3Answer.as_dict`, read from a migrated and backfilled database.

    Reads every row of the tables that v4 adds, in chunks, and of raw_events only indexes and the rows without an event
    type.
    """
    from sqlalchemy import func, select

    from cowrieprocessor.db.engine import read_transaction
    from cowrieprocessor.db.models import (
        CommandStat,
        FileHash,
        Files,
        RawEvent,
        SessionAttribute,
        SessionLogin,
        SessionSummary,
    )

    files = select(Files.session_id, Files.shasum, Files.filename, Files.download_url, Files.origin, Files.first_seen)
    hashes = select(FileHash.sha256, FileHash.first_seen, FileHash.last_seen, FileHash.session_count)
    attributes = select(
        SessionAttribute.session_id,
        SessionAttribute.connect_at,
        SessionAttribute.src_ip,
        SessionAttribute.protocol,
        SessionAttribute.hassh_at,
        SessionAttribute.hassh,
        SessionAttribute.login_at,
        SessionAttribute.username,
        SessionAttribute.login_success,
    )
    rows_of_session = (
        select(func.count())
        .where(RawEvent.session_id == SessionSummary.session_id)
        .correlate(SessionSummary)
        .scalar_subquery()
    )
    malformed = select(func.count()).where(RawEvent.event_type.is_(None), RawEvent.quarantined)
    with read_transaction(engine) as connection:
        answer: dict[str, Any] = {
            "raw_events": connection.scalar(select(func.count()).select_from(RawEvent)),
            "malformed_rows": connection.scalar(malformed),
            "sessions": connection.scalar(select(func.count()).select_from(SessionSummary)),
            "doubled_sessions": connection.scalar(
                select(func.count()).select_from(SessionSummary).where(SessionSummary.event_count > rows_of_session)
            ),
            "file_events_refused": _refused(connection),
            "file_events_without_file": _without_file(connection),
            "command_stats": connection.scalar(select(func.count()).select_from(CommandStat)),
            "session_logins": connection.scalar(select(func.count()).select_from(SessionLogin)),
            "command_occurrences": int(connection.scalar(select(func.sum(CommandStat.occurrences))) or 0),
        }
        answer["files"], answer["files_digest"] = _digest(connection, files)
        answer["hashes"], answer["file_hashes_digest"] = _digest(connection, hashes)
        answer["sessions_with_attributes"], answer["session_attributes_digest"] = _digest(connection, attributes)
    return answer


def differences(answer: V3Answer | Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure that differs from the answer.

    Args:
        answer: the expected figures.
        found: the figures that were read back.
    """
    expected = answer.as_dict() if isinstance(answer, V3Answer) else answer
    return [
        f"{name}: the answer is {expected.get(name)!r}, found was {found.get(name)!r}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def _digest(connection: Connection, query: Executable) -> tuple[int, str]:
    digest, count = RowDigest(), 0
    for row in connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE}):
        digest.add([_plain(value) for value in row])
        count += 1
    return count, digest.text()


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


def _refused(connection: Connection) -> dict[str, int]:
    """Return the number of dead letters of stored file events, by reason."""
    from sqlalchemy import func, or_, select

    from cowrieprocessor.db.models import DeadLetterEvent

    reason = DeadLetterEvent.reason
    query = select(reason, func.count()).where(or_(reason.like("file: %"), reason.like("backfill: %"))).group_by(reason)
    return {row[0]: row[1] for row in connection.execute(query)}


def _without_file(connection: Connection) -> dict[str, int]:
    """Return the sums, over all jobs, of the counters of events that name no file."""
    from sqlalchemy import select

    from cowrieprocessor.db.models import Job

    totals: dict[str, int] = {}
    for counters in connection.scalars(select(Job.counters)):
        for name, count in (counters or {}).items():
            if name.startswith(_WITHOUT_FILE):
                totals[name] = totals.get(name, 0) + count
    return totals
