"""SQL of the scan of captured files.

Each transaction locks rows of `file_hashes`, in the order of their hashes, before it reads `files`. A loader on
PostgreSQL does the same and can therefore run concurrently: neither misses the other's rows, and they cannot deadlock.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Engine,
    Table,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)

from cowrieprocessor.analysis.captured_file import CapturedFile
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.skipped_hashes import initial_status
from cowrieprocessor.db.jobs import end_reason
from cowrieprocessor.db.models import FILES, HASHES, VERDICT_COLUMNS, Base, UtcDateTime
from cowrieprocessor.errors import DatabaseError
from cowrieprocessor.sanitize import inert_cut
from cowrieprocessor.wording import plural

JOB_NAME = "scan"
SIZES_PER_TRANSACTION = 5_000

JOBS: Table = Base.metadata.tables["jobs"]


# On PostgreSQL, an existing row is locked even if the WHERE is false.
_MERGE_HASH = text(
    "INSERT INTO file_hashes AS h (sha256, first_seen, last_seen, session_count, enrichment_status, updated_at)"
    " VALUES (:sha256, :first_seen, :last_seen, 0, :status, :now) ON CONFLICT (sha256) DO UPDATE SET"
    " first_seen = CASE WHEN excluded.first_seen < h.first_seen THEN excluded.first_seen ELSE h.first_seen END,"
    " last_seen = CASE WHEN excluded.last_seen > h.last_seen THEN excluded.last_seen ELSE h.last_seen END,"
    " updated_at = excluded.updated_at"
    " WHERE :is_dated AND h.session_count = 0"
    " AND (excluded.first_seen < h.first_seen OR excluded.last_seen > h.last_seen)"
).bindparams(*(bindparam(name, type_=UtcDateTime()) for name in ("first_seen", "last_seen", "now")))

_START_JOB = text(
    "INSERT INTO jobs (name, state, counters, started_at, updated_at)"
    " VALUES (:name, 'running', :counters, :now, :now)"
    " ON CONFLICT (name) DO UPDATE SET state = 'running', cursor = NULL, counters = excluded.counters,"
    " started_at = excluded.started_at, updated_at = excluded.updated_at, finished_at = NULL, reason = NULL"
).bindparams(bindparam("counters", type_=JSON()), bindparam("now", type_=UtcDateTime()))


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the database has on one hash.

    Attributes:
        session_count: number of sessions in logs; 0 if the hash is known from scans only, with the files' times.
        artifact_at: `first_seen` of this sensor's artifact row, None if it has none.
        settled: whether `files` lacks nothing either.
    """

    sha256: str
    size_bytes: int | None
    md5: str | None
    sha1: str | None
    mime_type: str | None
    file_type: str | None
    first_seen: dt.datetime
    last_seen: dt.datetime
    session_count: int
    artifact_at: dt.datetime | None
    settled: bool

    @property
    def has_hashes(self) -> bool:
        """Whether the file has been read before."""
        return self.md5 is not None and self.sha1 is not None

    def spans(self, modified_at: dt.datetime | None) -> bool:
        """Return whether a file with this modification time adds nothing to the times at which the hash was seen."""
        if self.session_count or modified_at is None:
            return True
        is_later = self.artifact_at is None or self.artifact_at <= modified_at
        return self.first_seen <= modified_at <= self.last_seen and is_later

    def as_captured(self, modified_at: dt.datetime | None) -> CapturedFile:
        """Return the file as read before, with a new modification time.

        Raises:
            ValueError: it has not been read before.
        """
        if self.sha1 is None or self.md5 is None or self.size_bytes is None:
            raise ValueError(f"{self.sha256}: has not been read before")
        return CapturedFile(
            sha256=self.sha256,
            sha1=self.sha1,
            md5=self.md5,
            size_bytes=self.size_bytes,
            first_modified_at=modified_at,
            last_modified_at=modified_at,
            mime_type=self.mime_type,
            file_type=self.file_type,
        )


@dataclass(frozen=True, slots=True)
class StoreResult:
    """Number of files that were new, were completed, or needed nothing, and of rows added to `files`."""

    new: int
    completed: int
    unchanged: int
    artifacts: int


@dataclass(frozen=True, slots=True)
class SizeCursor:
    """Progress of `set_sizes`: rows up to and including this one have their size."""

    shasum: str
    row_id: int


def known_files(connection: Connection, hashes: Sequence[str], session_id: str) -> dict[str, KnownFile]:
    """Return what the database has on the given hashes, without those that it does not know.

    Args:
        connection: any connection; nothing is written.
        hashes: SHA-256 in lower case, at most 500.
        session_id: the session of this sensor's files that no log mentions.
    """
    of_hash = FILES.c.shasum == HASHES.c.sha256
    of_sensor = (FILES.c.session_id == session_id) & (FILES.c.origin == "artifact")
    named = exists().where(of_hash, _names_the_file(session_id))
    unsized = exists().where(of_hash, _lacks_size())
    rows = connection.execute(
        select(
            HASHES.c.sha256,
            HASHES.c.size_bytes,
            HASHES.c.md5,
            HASHES.c.sha1,
            HASHES.c.mime_type,
            HASHES.c.file_type,
            HASHES.c.first_seen,
            HASHES.c.last_seen,
            HASHES.c.session_count,
            select(FILES.c.first_seen).where(of_hash, of_sensor).scalar_subquery().label("artifact_at"),
            (named & ~unsized).label("settled"),
        ).where(HASHES.c.sha256.in_(hashes))
    )
    return {row["sha256"]: KnownFile(**row) for row in rows.mappings()}


def store(connection: Connection, files: Sequence[CapturedFile], session_id: str) -> StoreResult:
    """Write the files to `file_hashes`, and to `files` those without a row there.

    A hash known from a log keeps its first_seen and last_seen. For a hash known from scans only, they are the earliest
    and the latest time of its files, in whatever order these were scanned.

    Args:
        connection: inside a write transaction.
        files: at most 500, sorted by hash, each hash once.
        session_id: the session of files that no log mentions.
    """
    hashes = [file.sha256 for file in files]
    before = known_files(connection, hashes, session_id)
    now = _now()
    connection.execute(
        _MERGE_HASH,
        [
            {
                "sha256": file.sha256,
                "first_seen": file.first_modified_at or now,
                "last_seen": file.last_modified_at or now,
                "is_dated": file.first_modified_at is not None,
                "status": initial_status(file.sha256),
                "now": now,
            }
            for file in files
        ],
    )
    completed = _complete(connection, files)
    artifacts = _add_artifacts(connection, files, session_id)
    new = set(hashes) - before.keys()
    dated = {file.sha256 for file in files if (known := before.get(file.sha256)) and not _is_spanned(known, file)}
    changed = (completed | dated) - new
    return StoreResult(
        new=len(new),
        completed=len(changed),
        unchanged=len(files) - len(new) - len(changed),
        artifacts=artifacts,
    )


def _is_spanned(known: KnownFile, file: CapturedFile) -> bool:
    return known.spans(file.first_modified_at) and known.spans(file.last_modified_at)


def _complete(connection: Connection, files: Sequence[CapturedFile]) -> set[str]:
    """Lock the rows of the hashes, update those that differ from their file, and return the updated hashes."""
    names = ("size_bytes", "md5", "sha1", "mime_type", "file_type")
    rows = connection.execute(
        select(HASHES.c.sha256, *(HASHES.c[name] for name in names))
        .where(HASHES.c.sha256.in_([file.sha256 for file in files]))
        .order_by(HASHES.c.sha256)
        .with_for_update()
    )
    current = {row.sha256: row for row in rows}
    changes = []
    for file in files:
        row = current[file.sha256]
        expected = (
            file.size_bytes,
            file.md5,
            file.sha1,
            file.mime_type if file.mime_type is not None else row.mime_type,
            file.file_type if file.file_type is not None else row.file_type,
        )
        if expected != tuple(row[1:]):
            changes.append(dict(zip(names, expected, strict=True)) | {"hash": file.sha256, "updated_at": _now()})
    if changes:
        connection.execute(update(HASHES).where(HASHES.c.sha256 == bindparam("hash")), changes)
    return {str(change["hash"]) for change in changes}


def _names_the_file(session_id: str) -> ColumnElement[bool]:
    """Return the condition on rows that make an artifact row of this session unnecessary."""
    return or_(FILES.c.origin != "artifact", FILES.c.session_id == session_id)


def _lacks_size() -> ColumnElement[bool]:
    return or_(FILES.c.file_size.is_(None), FILES.c.file_size != HASHES.c.size_bytes)


def _add_artifacts(connection: Connection, files: Sequence[CapturedFile], session_id: str) -> int:
    """Add artifact rows for files without a row, backdate those of this sensor; return the number of rows added."""
    hashes = [file.sha256 for file in files]
    rows = connection.execute(
        select(FILES.c.shasum, func.max(case((FILES.c.origin == "artifact", FILES.c.first_seen))).label("artifact_at"))
        .where(FILES.c.shasum.in_(hashes), _names_the_file(session_id))
        .group_by(FILES.c.shasum)
    )
    named = {row.shasum: row.artifact_at for row in rows}
    _add_rows(connection, [file for file in files if file.sha256 not in named], session_id)
    earlier = [
        {"hash": file.sha256, "first_seen": at, "last_updated": _now()}
        for file in files
        if (at := file.first_modified_at) and (known_at := named.get(file.sha256)) and at < known_at
    ]
    if earlier:
        of_sensor = (FILES.c.session_id == session_id, FILES.c.origin == "artifact")
        connection.execute(update(FILES).where(FILES.c.shasum == bindparam("hash"), *of_sensor), earlier)
    return len(files) - len(named)


def _add_rows(connection: Connection, files: Sequence[CapturedFile], session_id: str) -> None:
    if not files:
        return
    now = _now()
    copied = [HASHES.c[name] for name in VERDICT_COLUMNS]
    source = select(
        literal(session_id),
        HASHES.c.sha256,
        HASHES.c.size_bytes,
        bindparam("modified_at", type_=UtcDateTime()),
        bindparam("now", type_=UtcDateTime()),
        literal("artifact"),
        *copied,
    ).where(HASHES.c.sha256 == bindparam("hash"))
    columns = ["session_id", "shasum", "file_size", "first_seen", "last_updated", "origin", *VERDICT_COLUMNS]
    connection.execute(
        insert(FILES).from_select(columns, source),
        [{"hash": file.sha256, "modified_at": file.first_modified_at or now, "now": now} for file in files],
    )


def set_sizes(
    connection: Connection,
    hashes: Sequence[str],
    after: SizeCursor | None = None,
    *,
    limit: int = SIZES_PER_TRANSACTION,
) -> tuple[int, SizeCursor | None]:
    """Copy the size of the hashes to rows of `files` that lack it.

    Args:
        connection: inside a write transaction.
        hashes: at most 500, whose size is in `file_hashes`.
        after: the cursor that the previous call returned.
        limit: rows to change, at most.

    Returns:
        The number of rows changed, and the cursor for the next transaction; None at the end.
    """
    rest = [sha256 for sha256 in hashes if after is None or sha256 >= after.shasum]
    _lock_hashes(connection, rest)
    query = (
        select(FILES.c.id, FILES.c.shasum, HASHES.c.size_bytes)
        .join(HASHES, FILES.c.shasum == HASHES.c.sha256)
        .where(FILES.c.shasum.in_(rest), _lacks_size())
        .order_by(FILES.c.shasum, FILES.c.id)
        .limit(limit)
    )
    if after:
        query = query.where(tuple_(FILES.c.shasum, FILES.c.id) > tuple_(after.shasum, after.row_id))
    rows = connection.execute(query).all()
    if rows:
        connection.execute(
            update(FILES).where(FILES.c.id == bindparam("row_id")),
            [{"row_id": row.id, "file_size": row.size_bytes, "last_updated": _now()} for row in rows],
        )
    if len(rows) < limit:
        return len(rows), None
    return len(rows), SizeCursor(rows[-1].shasum, rows[-1].id)


def _lock_hashes(connection: Connection, hashes: Sequence[str]) -> None:
    query = select(HASHES.c.sha256).where(HASHES.c.sha256.in_(hashes)).order_by(HASHES.c.sha256)
    connection.execute(query.with_for_update())


@contextmanager
def recorded_job(engine: Engine, counters: Callable[[], dict[str, int]], unreadable: str) -> Iterator[None]:
    """Maintain the row `scan` of the table `jobs`: running, then done, failed or stopped with a reason.

    Args:
        engine: the database of the scan.
        counters: returns the current counters.
        unreadable: the counter that, if not 0, marks a finished scan as failed.
    """
    with write_transaction(engine) as connection:
        connection.execute(_START_JOB, {"name": JOB_NAME, "counters": counters(), "now": _now()})
    ended = False
    try:
        yield
        ended = True
    finally:
        if not ended:
            with suppress(DatabaseError):
                _end_job(engine, "stopped", counters(), inert_cut(end_reason(sys.exception()), 1000))
    failed = counters().get(unreadable, 0)
    reason = f"{plural(failed, 'file')} could not be read" if failed else None
    _end_job(engine, "failed" if failed else "done", counters(), reason)


def _end_job(engine: Engine, state: str, counters: dict[str, int], reason: str | None) -> None:
    now = _now()
    values = {"state": state, "counters": counters, "updated_at": now, "finished_at": now, "reason": reason}
    with write_transaction(engine) as connection:
        connection.execute(update(JOBS).where(JOBS.c.name == JOB_NAME).values(values))


def record_progress(connection: Connection, counters: dict[str, int]) -> None:
    """Write the counters of the running scan to its row, in the transaction that they describe."""
    values = {"counters": counters, "updated_at": _now()}
    connection.execute(update(JOBS).where(JOBS.c.name == JOB_NAME).values(values))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
