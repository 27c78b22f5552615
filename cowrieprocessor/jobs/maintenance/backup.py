"""Online backup of a database: a verified copy of one moment, complete or not there at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

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
from cowrieprocessor.jobs.maintenance.atomic_file import (
    discard,
    free_bytes,
    fsync_path,
    prepare_part,
    publish,
    require_room,
)
from cowrieprocessor.jobs.runtime.job import READS_ONLY, report_steps, run_job
from cowrieprocessor.jobs.runtime.job_file import JobFile
from cowrieprocessor.jobs.runtime.progress import JobProgress

JOB = "backup"
STEPS = {
    "copying": ("copying", "pages"),
    "counting": ("counting rows", "tables"),
    "checking": ("checking the copy", "checks"),
}
"""What is done in each step, and what is counted in it."""

COPY_BYTES_PER_S = 150_000_000
CHECK_BYTES_PER_S = 50_000_000
QUICK_CHECK_BYTES_PER_S = 150_000_000
"""Rough rates of an SSD and a processor, for estimates."""

BUSY_LOG_BYTES_PER_S = 2_000_000
"""Roughly what a loader at 500 events a second adds to the write-ahead log."""

SERVER_REMEDY = (
    "on PostgreSQL `pg_dump --format=custom --file=DEST` makes a backup and `pg_restore` brings it back; "
    "both work while loaders write"
)


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """What a backup will do.

    Attributes:
        database: its name.
        destination: the file to create.
        size_bytes: its size.
        free_bytes: free space on its disk.
        wal_bytes: present size of the database's write-ahead log.
        copying_s: estimated duration of the copying, during which the log cannot shrink.
        checking_s: estimated duration of the verification.
        log_growth_bytes: estimated growth of the log while a loader stores 500 events a second.
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
    """Result of a backup.

    Attributes:
        destination: the file.
        size_bytes: its size.
        schema_version: its schema version.
        rows: number of rows of each table.
        check: full or quick.
        duration_s: duration, verification included.
        log_peak_bytes: largest size of the database's write-ahead log during the copying.
    """

    destination: str
    size_bytes: int
    schema_version: int
    rows: dict[str, int]
    check: str
    duration_s: float
    log_peak_bytes: int


def checking_s(size_bytes: int, *, quick: bool) -> float:
    """Return the estimated seconds that checking a database of `size_bytes` takes."""
    return size_bytes / (QUICK_CHECK_BYTES_PER_S if quick else CHECK_BYTES_PER_S)


def plan_backup(engine: Engine, destination: Path, *, quick: bool = False) -> BackupPlan:
    """Return what a backup would do; nothing is written.

    Raises:
        ConfigurationError: the database is not an SQLite file; the message tells what to use.
        CopyRefused: the destination exists.
        DatabaseFull: its disk has too little free space.
        SchemaVersionError, NotADatabase: it is not one of our databases.
    """
    files, path = database_file(engine, SERVER_REMEDY)
    destination = _destination(files, destination)
    reader = read_only_engine(engine)
    try:
        with read_transaction(reader) as connection:
            usable_version(connection, describe(engine))
            storage = dialect_of(reader).storage(connection)
    finally:
        dispose(reader)
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
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
) -> BackupResult:
    """Copy a database to a new file while other processes use it, and verify the copy.

    The copy has the state at the beginning. It is written to `DESTINATION.part` and renamed when it is verified: sound,
    with the version and the row counts of that state. If this ends early, even by a kill, there is no DESTINATION, and
    the next run removes the remains.

    Args:
        engine: the database, which is only read.
        destination: the file to create.
        quick: verify without comparing tables with their indexes.
        stop: once set, the backup ends at the next group of pages, and nothing is left of it.
        on_progress: called with its progress.

    Raises:
        JobTaken: another process makes a backup of this database.
        JobStopped: it was asked to stop.
        DatabaseDamaged: the copy, and so the database, is damaged.
        CopyRefused: the destination exists, or the copy differs from the database.
        DatabaseError: see `plan_backup`.
    """
    started = time.monotonic()
    plan = plan_backup(engine, destination, quick=quick)
    files, path = database_file(engine, SERVER_REMEDY)
    target = Path(plan.destination)
    log = _LogSize(files.companions(path)[0])
    record = JobFile(engine, JOB)
    with (
        maintenance_lock(target, options_of(engine)),
        run_job(
            engine, JOB, kept_in=record, goes_on=False, stop=stop, on_progress=on_progress, limits=READS_ONLY
        ) as job,
    ):
        on_step = report_steps(job, STEPS)
        part = prepare_part(files, target)
        is_published = False
        try:
            census = _copy(engine, part, on_step, log.sample)
            verify_copy(engine, part, census, quick=quick, on_step=on_step)
            fsync_path(part)
            _destination(files, target)
            publish(part, target)
            is_published = True
        finally:
            if not is_published:
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


def _copy(engine: Engine, part: Path, on_step: StepReport, sample_log: Callable[[], None]) -> Census:
    """Write the copy and return its expected content; `sample_log` is called after each group of pages."""

    def on_pages(step: str, done: int, total: int) -> None:
        sample_log()
        on_step(step, done, total)

    source = snapshot_engine(engine)
    try:
        with read_transaction(source) as connection:
            usable_version(connection, describe(engine))  # the first read fixes the state that is copied
            copy_snapshot(connection, part, in_use=False, on_step=on_pages)
            return take_census(connection, describe(engine), on_step)
    finally:
        dispose(source)


class _LogSize:
    """The largest sampled size of a database's write-ahead log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.peak_bytes = 0

    def sample(self) -> None:
        """Take a sample."""
        if self._log.exists():
            self.peak_bytes = max(self.peak_bytes, self._log.stat().st_size)


def _destination(files: DatabaseFiles, destination: Path) -> Path:
    """Return the destination's full path.

    Raises:
        CopyRefused: it exists, its folder is missing or may not be entered, or companions of another database have
            its name.
    """
    target = destination.expanduser()
    target = target.parent.resolve() / target.name
    if not target.parent.is_dir():
        raise CopyRefused(f"{target.parent}: no such folder; create it, or name another file")
    if not os.access(target.parent, os.X_OK, effective_ids=True):
        raise CopyRefused(f"{target}: permission denied; name a file in a folder that you may write to")
    for path in (target, *files.companions(target)):
        if path.exists() or path.is_symlink():
            raise CopyRefused(f"{path}: exists already and is not overwritten; name another file, or move it")
    return target
