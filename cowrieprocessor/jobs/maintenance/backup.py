"""A copy of a database made beside readers and writers: of one moment, verified, and never half there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import DatabaseFiles, options_of
from cowrieprocessor.db.engine import describe, dispose, read_transaction
from cowrieprocessor.db.files.database_copy import (
    Census,
    StepReport,
    copy_snapshot,
    database_file,
    read_only_engine,
    snapshot_engine,
    take_census,
    usable_version,
    verify_copy,
)
from cowrieprocessor.db.files.maintenance_lock import maintenance_lock
from cowrieprocessor.errors import CopyRefused
from cowrieprocessor.jobs.maintenance.atomic_file import clear_part, discard, free_bytes, publish, require_room, sync

COPY_BYTES_PER_S = 150_000_000
CHECK_BYTES_PER_S = 50_000_000
QUICK_CHECK_BYTES_PER_S = 150_000_000
"""What an SSD and a processor do, roughly; for the times that are said before."""

BUSY_LOG_BYTES_PER_S = 2_000_000
"""What a loader at 500 events a second adds to the log, roughly."""

SERVER_REMEDY = (
    "on PostgreSQL `pg_dump --format=custom --file=DEST` makes a backup and `pg_restore` brings it back; "
    "both work while loaders write"
)


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """What a backup is going to do.

    Attributes:
        database: its name.
        destination: the file it makes.
        size_bytes: how large that becomes.
        free_bytes: room on its disk.
        wal_bytes: the database's log now.
        copying_s: about how long the copying takes; the log cannot shrink meanwhile.
        checking_s: about how long the copy is verified after that.
        log_growth_bytes: about how much it grows beside a loader that stores 500 events a second.
    """

    database: str
    destination: str
    size_bytes: int
    free_bytes: int
    wal_bytes: int
    copying_s: float
    checking_s: float
    log_growth_bytes: int


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup made.

    Attributes:
        destination: the file.
        size_bytes: how large it is.
        schema_version: of the moment that it shows.
        rows: of each table at that moment.
        check: full or quick.
        duration_s: how long it took, verifying included.
        log_peak_bytes: how large the database's log was at most while it was copied.
    """

    destination: str
    size_bytes: int
    schema_version: int
    rows: dict[str, int]
    check: str
    duration_s: float
    log_peak_bytes: int


def checking_s(size_bytes: int, *, quick: bool) -> float:
    """Return about how many seconds it takes to check a database of that size."""
    return size_bytes / (QUICK_CHECK_BYTES_PER_S if quick else CHECK_BYTES_PER_S)


def plan_backup(engine: Engine, destination: Path, *, quick: bool = False) -> BackupPlan:
    """Return what a backup would do; nothing is written.

    Raises:
        ConfigurationError: the database is no SQLite file; the message says what to use.
        CopyRefused: something is where the backup should be.
        DatabaseFull: its disk has too little room.
        SchemaVersionError, NotADatabase: there is nothing of ours to back up.
    """
    files, path = database_file(engine, SERVER_REMEDY)
    destination = _destination(files, destination)
    looking = read_only_engine(engine)
    try:
        with read_transaction(looking) as connection:
            usable_version(connection, describe(engine))
            storage = dialect_of(looking).storage(connection)
    finally:
        dispose(looking)
    copying_s = storage.size_bytes / COPY_BYTES_PER_S
    growth = int(copying_s * BUSY_LOG_BYTES_PER_S)
    same_disk = path.stat().st_dev == destination.parent.stat().st_dev
    require_room(destination.parent, storage.size_bytes + (growth if same_disk else 0), "the backup")
    return BackupPlan(
        database=describe(engine),
        destination=str(destination),
        size_bytes=storage.size_bytes,
        free_bytes=free_bytes(destination.parent),
        wal_bytes=storage.wal_bytes or 0,
        copying_s=copying_s,
        checking_s=checking_s(storage.size_bytes, quick=quick),
        log_growth_bytes=growth,
    )


def backup(
    engine: Engine,
    destination: Path,
    *,
    quick: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> BackupResult:
    """Copy a database into a new file while others go on with it, and verify the copy.

    The copy shows the moment at which it began. It is written to `DESTINATION.part`, and gets its name when it was
    found sound, with the version and as many rows of each table as that moment had. Whatever ends this early, a kill
    included, leaves no DESTINATION, and the next run removes the rest.

    Args:
        engine: the database; it is only read.
        destination: the file to make.
        quick: verify without comparing tables with their indexes.
        on_progress: called with the step (copying, counting, checking), how much is done, and how much there is.

    Raises:
        DatabaseDamaged: the copy, and so the database, is damaged.
        CopyRefused: something is where the backup should be, or the copy is not what it was copied from.
        DatabaseError: see `plan_backup`.
    """
    started = time.monotonic()
    plan = plan_backup(engine, destination, quick=quick)
    on_step = on_progress or _say_nothing
    files, path = database_file(engine, SERVER_REMEDY)
    target = Path(plan.destination)
    log = _LogWatch(files.companions(path)[0])
    with maintenance_lock(target, options_of(engine)):
        part = clear_part(files, target)
        done = False
        try:
            census = _copy(engine, part, on_step, log.look)
            verify_copy(engine, part, census, quick=quick, on_step=on_step)
            sync(part)
            _destination(files, target)
            publish(part, target)
            done = True
        finally:
            if not done:
                discard(files, part)
    return BackupResult(
        destination=str(target),
        size_bytes=target.stat().st_size,
        schema_version=census.version,
        rows=census.rows,
        check="quick" if quick else "full",
        duration_s=time.monotonic() - started,
        log_peak_bytes=log.peak_bytes,
    )


def _copy(engine: Engine, part: Path, on_step: StepReport, look: Callable[[], None]) -> Census:
    """Write the copy and return what it has to hold; `look` is called between the steps of copying."""

    def on_pages(step: str, done: int, total: int) -> None:
        look()
        on_step(step, done, total)

    source = snapshot_engine(engine)
    try:
        with read_transaction(source) as connection:
            usable_version(connection, describe(engine))  # the first look: from here on one moment is seen
            copy_snapshot(connection, part, in_use=False, on_step=on_pages)
            return take_census(connection, describe(engine), on_step)
    finally:
        dispose(source)


class _LogWatch:
    """The largest size of a database's log that was seen."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.peak_bytes = 0

    def look(self) -> None:
        """Look once more."""
        if self._log.exists():
            self.peak_bytes = max(self.peak_bytes, self._log.stat().st_size)


def _destination(files: DatabaseFiles, destination: Path) -> Path:
    """Return the destination's full path.

    Raises:
        CopyRefused: it is there already, has no folder, or the rest of another database lies there.
    """
    target = destination.expanduser()
    target = target.parent.resolve() / target.name
    if not target.parent.is_dir():
        raise CopyRefused(f"{target.parent}: no such folder; create it, or name another file")
    for path in (target, *files.companions(target)):
        if path.exists() or path.is_symlink():
            raise CopyRefused(f"{path}: is there already and is not overwritten; name another file, or move it")
    return target


def _say_nothing(_step: str, _done: int, _total: int) -> None:
    """Report to nobody."""
