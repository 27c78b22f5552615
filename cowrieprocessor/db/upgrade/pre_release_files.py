"""Rows of a `files` table that another program made from the plan, taken over into v4.

The backfill then meets the same pairs of session and hash again in raw_events and merges them, so that afterwards they
are what it would have made of an empty table. For that, what merges by the smallest value must not begin with one that
is too small: `origin` begins with `upload`, the larger of `download` and `upload`.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, Engine, and_, bindparam, delete, exists, func, insert, select, update

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.file_status import PENDING
from cowrieprocessor.db.enrichment.propagation import propagate_hash
from cowrieprocessor.db.models import FILES, HASHES, VERDICT_COLUMNS, Base, SessionSummary
from cowrieprocessor.db.upgrade.v3_digest import MigrationRecord, read_record
from cowrieprocessor.db.upgrade.v4_state import (
    FETCHED_ROWS,
    JUDGEMENT_COLUMNS,
    STREAMED,
    Row,
    best_of,
    judged_more_recently,
    lower_sha256,
    planned_judgement,
    planned_verdict,
)

JOB_NAME = "planned-files"
ROWS_AT_ONCE = 1_000
"""Rows of `files` that one step changes."""

TRANSACTION_S = 0.1
"""When a transaction has lasted so long it ends behind the step that it is at."""

LARGEST_OFFSET = dt.timedelta(hours=14)
"""v3 stored a time with an offset as local time; no zone is further from UTC."""

JOBS = Base.metadata.tables["jobs"]
_ARTIFACTS = ("artifact:", "artifact;")
"""The sessions of files that no log names lie between these two, in the order of the unique index."""

Step = Callable[[Connection], "Step | None"]
"""Something to do in a write transaction; it returns what of it is left to do."""


def import_pre_release_files(engine: Engine, on_progress: Callable[[int], None] | None = None) -> int:
    """Count the rows of a planned `files` table in `file_hashes`, and give their verdicts to their hashes.

    Does nothing where there was no such table at the migration, and nothing again once it is done. It may be killed
    and goes on there; loaders may write meanwhile. It has to end before the backfill begins.

    Args:
        engine: a database at our version.
        on_progress: called now and then with the number of hashes taken over so far.

    Returns:
        The number of hashes taken over by this call.
    """
    with read_transaction(engine) as connection:
        record = read_record(connection)
        done, after = _progress(connection)
    if record is None or not record.planned_files_max_id or done:
        return 0
    taken = 0
    while hashes := _next_hashes(engine, after):
        steps = [step for shasum in hashes for step in _steps(engine, shasum, record)]
        taken += len(hashes)
        after = hashes[-1]
        _run(engine, [*steps, _note(after, taken, ended=False)])
        if on_progress is not None:
            on_progress(taken)
    _run(engine, [_note(after, taken, ended=True)])
    return taken


def _progress(connection: Connection) -> tuple[bool, str]:
    row = connection.execute(select(JOBS.c.state, JOBS.c.cursor).where(JOBS.c.name == JOB_NAME)).one_or_none()
    return (False, "") if row is None else (row.state == "done", str((row.cursor or {}).get("last", "")))


def _next_hashes(engine: Engine, after: str) -> list[str]:
    """Return the next hashes as they are written in `files`, one look into the index each."""
    found: list[str] = []
    with read_transaction(engine) as connection:
        while len(found) < FETCHED_ROWS:
            following = connection.execute(select(func.min(FILES.c.shasum)).where(FILES.c.shasum > after)).scalar()
            if following is None:
                break
            found.append(following)
            after = following
    return found


def _run(engine: Engine, steps: Iterable[Step]) -> None:
    """Run the steps one after the other, several in one transaction while it is short."""
    waiting = deque(steps)
    while waiting:
        with write_transaction(engine) as connection:
            until = time.monotonic() + TRANSACTION_S
            while waiting:
                if (rest := waiting.popleft()(connection)) is not None:
                    waiting.appendleft(rest)
                if time.monotonic() >= until:
                    break


def _steps(engine: Engine, shasum: str, record: MigrationRecord) -> list[Step]:
    """Return what is to be done with one hash; nothing for what is none: `db validate` names such rows."""
    sha256 = lower_sha256(shasum)
    if sha256 is None:
        return []
    with read_transaction(engine) as connection:
        known = _what_is_known(connection, shasum, sha256, record)
    if known is None:
        return []
    rows = [] if shasum == sha256 else [_lower_case(shasum, sha256)]
    return [*rows, _count(sha256, known), _correct_rows(sha256, record, 0)]


def _what_is_known(connection: Connection, shasum: str, sha256: str, record: MigrationRecord) -> Row | None:
    """Return the row of `file_hashes` that the planned rows of a hash amount to; None if it has none.

    The backfill lowers first_seen and raises last_seen to what the events say. So last_seen begins before the last of
    the sessions does: `first_seen` may be when the row was made, and v3's times may be local.
    """
    mine = and_(FILES.c.shasum == shasum, FILES.c.id <= record.planned_files_max_id)
    first_seen, began = connection.execute(
        select(func.min(FILES.c.first_seen), func.max(SessionSummary.first_event_at))
        .select_from(FILES.outerjoin(SessionSummary.__table__, SessionSummary.session_id == FILES.c.session_id))
        .where(mine)
    ).one()
    if first_seen is None:
        return None
    columns = (FILES.c.first_seen, *(FILES.c[name] for name in VERDICT_COLUMNS))
    judged = select(*columns).where(mine, planned_judgement()).order_by(FILES.c.id)
    rows = connection.execute(judged, execution_options=STREAMED).mappings()
    best = best_of(map(dict, rows))
    blank = dict.fromkeys(VERDICT_COLUMNS) | {"vt_malicious": False, "enrichment_status": PENDING}
    verdict = planned_verdict(best or blank | {"first_seen": first_seen}, sha256)
    return verdict | {"first_seen": first_seen, "last_seen": began - LARGEST_OFFSET if began else first_seen}


def _lower_case(shasum: str, sha256: str) -> Step:
    """Return the step that writes a hash in lower case; rows whose pair is there in lower case go."""

    def step(connection: Connection) -> Step | None:
        ids = connection.scalars(select(FILES.c.id).where(FILES.c.shasum == shasum).limit(ROWS_AT_ONCE)).all()
        if not ids:
            return None
        other = FILES.alias()
        twin = exists().where(other.c.session_id == FILES.c.session_id, other.c.shasum == sha256)
        named = [{"row_id": one} for one in ids]
        mine = FILES.c.id == bindparam("row_id")
        connection.execute(update(FILES).where(mine, ~twin).values(shasum=sha256), named)
        connection.execute(delete(FILES).where(mine, FILES.c.shasum == shasum), named)
        return step

    return step


def _count(sha256: str, known: Row) -> Step:
    """Return the step that adds a hash or merges what is known of it, and counts its sessions."""

    def step(connection: Connection) -> None:
        mine = HASHES.c.sha256 == sha256
        current = connection.execute(select(HASHES).where(mine).with_for_update()).mappings().one_or_none()
        if current is None:
            connection.execute(insert(HASHES), [known | {"session_count": 0, "updated_at": dt.datetime.now(dt.UTC)}])
        elif changed := _merged(dict(current), known):
            connection.execute(update(HASHES).where(mine).values(changed))
        # Whoever adds a row of this hash holds the row in file_hashes: none comes between counting and writing.
        first, behind = _ARTIFACTS
        of_a_scan = and_(FILES.c.session_id >= first, FILES.c.session_id < behind, FILES.c.shasum == sha256)
        connection.execute(delete(FILES).where(of_a_scan, FILES.c.origin == "artifact"))
        sessions = select(func.count()).where(FILES.c.shasum == sha256).scalar_subquery()
        connection.execute(update(HASHES).where(mine).values(session_count=sessions))

    return step


def _merged(current: Row, known: Row) -> Row:
    of_a_scan = current["session_count"] == 0
    first_seen = known["first_seen"] if of_a_scan else min(current["first_seen"], known["first_seen"])
    last_seen = known["last_seen"] if of_a_scan else max(current["last_seen"], known["last_seen"])
    changed: Row = {"first_seen": first_seen, "last_seen": last_seen}
    if judged_more_recently(known, current):
        changed |= {name: known[name] for name in JUDGEMENT_COLUMNS}
    return {name: value for name, value in changed.items() if current[name] != value}


def _correct_rows(sha256: str, record: MigrationRecord, after_id: int) -> Step:
    """Return the step that gives rows their hash's verdict, and planned rows the origin that merging begins with."""

    def step(connection: Connection) -> Step | None:
        *_, next_id = propagate_hash(connection, sha256, after_id, ROWS_AT_ONCE)
        if not record.planned_origin:
            last_id = record.planned_files_max_id if next_id is None else min(next_id, record.planned_files_max_id)
            of_the_plan = and_(FILES.c.shasum == sha256, FILES.c.id > after_id, FILES.c.id <= last_id)
            connection.execute(update(FILES).where(of_the_plan).values(origin="upload"))
        return None if next_id is None else _correct_rows(sha256, record, next_id)

    return step


def _note(after: str, taken: int, *, ended: bool) -> Step:
    """Return the step that writes how far it came."""

    def step(connection: Connection) -> None:
        now = dt.datetime.now(dt.UTC)
        values: dict[str, Any] = {
            "state": "done" if ended else "running",
            "cursor": {"last": after},
            "counters": {"hashes": taken},
            "updated_at": now,
            "finished_at": now if ended else None,
        }
        changed = connection.execute(update(JOBS).where(JOBS.c.name == JOB_NAME).values(values))
        if not changed.rowcount:
            connection.execute(insert(JOBS).values(name=JOB_NAME, started_at=now, **values))

    return step
