"""Import of a pre-release `files` table, which another program created from the plan for v4.

The backfill later finds the same (session, hash) pairs in raw_events and merges them, so that the rows end as if it had
filled an empty table. A column that merges to its smallest value therefore must not start with a value that is too
small: `origin` starts with `upload`, the larger of `download` and `upload`.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, and_, bindparam, delete, exists, func, insert, select, update

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.file_status import PENDING
from cowrieprocessor.db.enrichment.propagation import propagate_hash
from cowrieprocessor.db.jobs import DONE, load_job
from cowrieprocessor.db.models import FILES, HASHES, JUDGEMENT_COLUMNS, VERDICT_COLUMNS, Base, SessionSummary
from cowrieprocessor.db.upgrade.v3_digest import MigrationRecord, read_record
from cowrieprocessor.db.upgrade.v4_state import (
    FETCHED_ROWS,
    STREAMED,
    Row,
    has_newer_verdict,
    has_pre_release_verdict,
    hash_row_of_pre_release,
    latest_verdict,
    lower_sha256,
)

JOB_NAME = "planned-files"
LARGEST_OFFSET = dt.timedelta(hours=14)
"""Largest UTC offset of any time zone; v3 stored times with an offset as local time."""

JOBS = Base.metadata.tables["jobs"]
_ARTIFACTS = ("artifact:", "artifact;")
"""Bounds, in the order of the unique index, of the session ids of files that no log names."""

Step = Callable[[Connection], "Step | None"]
"""A unit of work in a write transaction; returns the step that remains, None when done."""


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """Bounds of the import.

    Attributes:
        hashes_at_once: hashes read at a time.
        rows_at_once: rows of `files` that one step changes.
        transaction_s: a transaction ends after the step during which it reaches this age.
    """

    hashes_at_once: int = FETCHED_ROWS
    rows_at_once: int = 1_000
    transaction_s: float = 0.1


def import_pre_release_files(
    engine: Engine, on_progress: Callable[[int], None] | None = None, *, limits: ImportLimits | None = None
) -> int:
    """Add the rows of a pre-release `files` table to `file_hashes`: session counts and verdicts.

    Does nothing if there was no such table at the migration or the import is complete. If killed, the next call resumes
    where this one stopped. Loaders may write meanwhile. The import must end before the backfill begins.

    Args:
        engine: a database at the current schema version.
        on_progress: called after each group of hashes with the number of hashes imported so far, by killed calls, too.
        limits: bounds of memory and transactions.

    Returns:
        The number of hashes imported by this call.
    """
    limits = limits or ImportLimits()
    with read_transaction(engine) as connection:
        record = read_record(connection)
        done, after, before = _progress(connection)
    if record is None or not record.planned_files_max_id or done:
        return 0
    imported = 0
    while hashes := _next_hashes(engine, after, limits.hashes_at_once):
        steps = [step for shasum in hashes for step in _steps(engine, shasum, record, limits)]
        imported += len(hashes)
        after = hashes[-1]
        _run(engine, [*steps, _progress_step(after, before + imported, ended=False)], limits.transaction_s)
        if on_progress is not None:
            on_progress(before + imported)
    _run(engine, [_progress_step(after, before + imported, ended=True)], limits.transaction_s)
    return imported


def _progress(connection: Connection) -> tuple[bool, str, int]:
    """Return whether the import is complete, the last imported hash, and how many are imported."""
    job = load_job(connection, JOB_NAME)
    if job is None:
        return False, "", 0
    return job.state == DONE, str(job.cursor.get("last", "")), int(job.counters.get("hashes", 0))


def _next_hashes(engine: Engine, after: str, limit: int) -> list[str]:
    """Return up to `limit` distinct hashes of `files` after one, as they are spelled, by a skip scan of the index."""
    hashes: list[str] = []
    with read_transaction(engine) as connection:
        while len(hashes) < limit:
            following = connection.execute(select(func.min(FILES.c.shasum)).where(FILES.c.shasum > after)).scalar()
            if following is None:
                break
            hashes.append(following)
            after = following
    return hashes


def _run(engine: Engine, steps: Iterable[Step], transaction_s: float) -> None:
    """Run the steps in order, as many in each transaction as fit into `transaction_s` seconds."""
    waiting = deque(steps)
    while waiting:
        with write_transaction(engine) as connection:
            until = time.monotonic() + transaction_s
            while waiting:
                if (remainder := waiting.popleft()(connection)) is not None:
                    waiting.appendleft(remainder)
                if time.monotonic() >= until:
                    break


def _steps(engine: Engine, shasum: str, record: MigrationRecord, limits: ImportLimits) -> list[Step]:
    """Return the steps for one hash; none for a value that is not a SHA-256, which `db validate` reports."""
    sha256 = lower_sha256(shasum)
    if sha256 is None:
        return []
    with read_transaction(engine) as connection:
        given = _hash_row(connection, shasum, sha256, record)
    if given is None:
        return []
    lower_case = [] if shasum == sha256 else [_lower_case_step(shasum, sha256, limits.rows_at_once)]
    return [*lower_case, _count_step(sha256, given), _correct_rows_step(sha256, record, 0, limits.rows_at_once)]


def _hash_row(connection: Connection, shasum: str, sha256: str, record: MigrationRecord) -> Row | None:
    """Return the row of `file_hashes` equivalent to the pre-release rows of a hash; None if it has none.

    The backfill later lowers first_seen and raises last_seen to the times of the events. last_seen therefore starts
    before the begin of the last session: `first_seen` may be the time when the row was created, and v3's times may be
    local.
    """
    is_given = and_(FILES.c.shasum == shasum, FILES.c.id <= record.planned_files_max_id)
    first_seen, began = connection.execute(
        select(func.min(FILES.c.first_seen), func.max(SessionSummary.first_event_at))
        .select_from(FILES.outerjoin(SessionSummary.__table__, SessionSummary.session_id == FILES.c.session_id))
        .where(is_given)
    ).one()
    if first_seen is None:
        return None
    columns = (FILES.c.first_seen, *(FILES.c[name] for name in VERDICT_COLUMNS))
    query = select(*columns).where(is_given, has_pre_release_verdict()).order_by(FILES.c.id)
    rows = connection.execute(query, execution_options=STREAMED).mappings()
    latest = latest_verdict(map(dict, rows))
    blank = dict.fromkeys(VERDICT_COLUMNS) | {"vt_malicious": False, "enrichment_status": PENDING}
    verdict = hash_row_of_pre_release(latest or blank | {"first_seen": first_seen}, sha256)
    return verdict | {"first_seen": first_seen, "last_seen": began - LARGEST_OFFSET if began else first_seen}


def _lower_case_step(shasum: str, sha256: str, rows_at_once: int) -> Step:
    """Return the step that changes a hash to lower case, and deletes rows whose lower-case pair exists already."""

    def step(connection: Connection) -> Step | None:
        ids = connection.scalars(select(FILES.c.id).where(FILES.c.shasum == shasum).limit(rows_at_once)).all()
        if not ids:
            return None
        other = FILES.alias()
        twin = exists().where(other.c.session_id == FILES.c.session_id, other.c.shasum == sha256)
        rows = [{"row_id": row_id} for row_id in ids]
        is_row = FILES.c.id == bindparam("row_id")
        connection.execute(update(FILES).where(is_row, ~twin).values(shasum=sha256), rows)
        connection.execute(delete(FILES).where(is_row, FILES.c.shasum == shasum), rows)
        return step

    return step


def _count_step(sha256: str, given: Row) -> Step:
    """Return the step that inserts a hash or merges `given` into it, and counts its sessions."""

    def step(connection: Connection) -> None:
        is_hash = HASHES.c.sha256 == sha256
        current = connection.execute(select(HASHES).where(is_hash).with_for_update()).mappings().one_or_none()
        if current is None:
            connection.execute(insert(HASHES), [given | {"session_count": 0, "updated_at": dt.datetime.now(dt.UTC)}])
        elif changed := _changed_columns(dict(current), given):
            connection.execute(update(HASHES).where(is_hash).values(changed))
        # Writers of `files` lock the hash row first, so no row is added between counting and writing.
        first, end = _ARTIFACTS
        is_artifact = and_(FILES.c.session_id >= first, FILES.c.session_id < end, FILES.c.shasum == sha256)
        connection.execute(delete(FILES).where(is_artifact, FILES.c.origin == "artifact"))
        sessions = select(func.count()).where(FILES.c.shasum == sha256).scalar_subquery()
        connection.execute(update(HASHES).where(is_hash).values(session_count=sessions))

    return step


def _changed_columns(current: Row, given: Row) -> Row:
    """Return the columns of a hash that merging `given` changes."""
    is_only_scanned = current["session_count"] == 0
    first_seen = given["first_seen"] if is_only_scanned else min(current["first_seen"], given["first_seen"])
    last_seen = given["last_seen"] if is_only_scanned else max(current["last_seen"], given["last_seen"])
    changed: Row = {"first_seen": first_seen, "last_seen": last_seen}
    if has_newer_verdict(given, current):
        changed |= {name: given[name] for name in (*VERDICT_COLUMNS, *JUDGEMENT_COLUMNS)}
    return {name: value for name, value in changed.items() if current[name] != value}


def _correct_rows_step(sha256: str, record: MigrationRecord, after_id: int, rows_at_once: int) -> Step:
    """Return the step that copies a hash's verdict to its rows, and sets the initial origin of pre-release rows."""

    def step(connection: Connection) -> Step | None:
        *_, next_id = propagate_hash(connection, sha256, after_id, rows_at_once)
        if not record.planned_origin:
            last_id = record.planned_files_max_id if next_id is None else min(next_id, record.planned_files_max_id)
            is_pre_release = and_(FILES.c.shasum == sha256, FILES.c.id > after_id, FILES.c.id <= last_id)
            connection.execute(update(FILES).where(is_pre_release).values(origin="upload"))
        return None if next_id is None else _correct_rows_step(sha256, record, next_id, rows_at_once)

    return step


def _progress_step(after: str, imported: int, *, ended: bool) -> Step:
    """Return the step that stores the progress of the import."""

    def step(connection: Connection) -> None:
        now = dt.datetime.now(dt.UTC)
        values: dict[str, Any] = {
            "state": "done" if ended else "running",
            "cursor": {"last": after},
            "counters": {"hashes": imported},
            "updated_at": now,
            "finished_at": now if ended else None,
        }
        changed = connection.execute(update(JOBS).where(JOBS.c.name == JOB_NAME).values(values))
        if not changed.rowcount:
            connection.execute(insert(JOBS).values(name=JOB_NAME, started_at=now, **values))

    return step
