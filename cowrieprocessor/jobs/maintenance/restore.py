"""Restore of a backup: it is verified first, and the replaced database is kept next to it."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import DatabaseFiles, options_of
from cowrieprocessor.db.engine import dispose, read_transaction, translate_errors
from cowrieprocessor.db.files.database_copy import (
    Census,
    StepReport,
    copy_snapshot,
    database_file,
    read_only_engine,
    require_intact,
    take_census,
    usable_version,
    verify_copy,
)
from cowrieprocessor.db.files.maintenance_lock import maintenance_lock
from cowrieprocessor.db.files.open_files import holders_of, name_holders
from cowrieprocessor.db.schema_facts import read_facts
from cowrieprocessor.errors import (
    CopyRefused,
    DatabaseDamaged,
    DatabaseInUse,
    NotADatabase,
    SchemaVersionError,
)
from cowrieprocessor.jobs.maintenance.atomic_file import (
    discard,
    free_bytes,
    fsync_path,
    prepare_part,
    publish,
    require_room,
)
from cowrieprocessor.jobs.maintenance.backup import COPY_BYTES_PER_S, STEPS, checking_s
from cowrieprocessor.jobs.runtime.job import READS_ONLY, report_steps, run_job
from cowrieprocessor.jobs.runtime.job_file import JobFile
from cowrieprocessor.jobs.runtime.progress import JobProgress

JOB = "restore"

SERVER_REMEDY = "on PostgreSQL `pg_restore --clean --dbname=NAME BACKUP` brings a backup of pg_dump back"


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore will do.

    Attributes:
        source: the backup.
        database: the database to replace.
        schema_version: schema version of the backup.
        size_bytes: size of the backup.
        replaced_bytes: size of the database to replace; None if it does not exist.
        free_bytes: free space on the database's disk.
        duration_s: estimated duration.
    """

    source: str
    database: str
    schema_version: int
    size_bytes: int
    replaced_bytes: int | None
    free_bytes: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Result of a restore.

    Attributes:
        source: the backup.
        database: the restored database.
        schema_version: schema version of both.
        rows: number of rows of each table.
        kept: path of the replaced database; None if there was none.
        check: full or quick.
        duration_s: duration.
    """

    source: str
    database: str
    schema_version: int
    rows: dict[str, int]
    kept: str | None
    check: str
    duration_s: float


def plan_restore(engine: Engine, source: Path, *, quick: bool = False) -> RestorePlan:
    """Return what a restore would do; nothing is written.

    Raises:
        ConfigurationError: the database to replace is not an SQLite file; the message tells what to use.
        CopyRefused: there is no such backup, or it is the database itself.
        DatabaseInUse: another process has the database open.
        NotADatabase, SchemaVersionError: the backup, or the database to replace, is not one of ours.
        DatabaseFull: the database's disk has too little free space.
    """
    files, path = database_file(engine, SERVER_REMEDY)
    source = source.expanduser().resolve()
    files.require_local_disk(path)
    _require_other_file(path, source)
    backup = read_only_engine(engine, source)
    try:
        with read_transaction(backup) as connection:
            version = usable_version(connection, str(source))
            size_bytes = dialect_of(backup).storage(connection).size_bytes
    finally:
        dispose(backup)
    if not path.parent.is_dir():
        raise CopyRefused(f"{path.parent}: no such folder; create it, or name another database with --db")
    if path.exists():
        if not path.is_file():
            raise CopyRefused(f"{path}: is not a regular file; name the database file itself")
        _is_readable(engine, files, path)  # raises if it is another application's
    _refuse_holders(path)
    require_room(path.parent, size_bytes, "the restored database, next to the one that is kept,")
    return RestorePlan(
        source=str(source),
        database=str(path),
        schema_version=version,
        size_bytes=size_bytes,
        replaced_bytes=path.stat().st_size if path.exists() else None,
        free_bytes=free_bytes(path.parent),
        duration_s=size_bytes / COPY_BYTES_PER_S + 2 * checking_s(size_bytes, quick=quick),
    )


def _require_other_file(path: Path, source: Path) -> None:
    try:
        source.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise CopyRefused(f"{source}: no such file; name a backup that `cowrieprocessor db backup` made") from None
    except OSError:
        return  # opening it says what is wrong
    if path.exists() and path.samefile(source):
        raise CopyRefused(f"{source}: is the database itself; name the backup")


def restore(
    engine: Engine,
    source: Path,
    *,
    quick: bool = False,
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
) -> RestoreResult:
    """Verify a backup, copy it next to the database, verify the copy, and replace the database with it.

    The old database is kept as `NAME.before-restore-TIME`. If this ends early, even by a kill, the old or the new
    database has the name, complete.

    Args:
        engine: the database to replace, which may be missing or damaged; no process may have it open.
        source: the backup.
        quick: verify without comparing tables with their indexes.
        stop: once set, the restore ends before it replaces anything, and nothing is left of it.
        on_progress: called with its progress.

    Raises:
        JobStopped: it was asked to stop; the database is unchanged.
        DatabaseDamaged: the backup is damaged; the database is unchanged.
        DatabaseInUse: another process has the database open; it is unchanged.
        DatabaseError: see `plan_restore`.
    """
    started = time.monotonic()
    files, path = database_file(engine, SERVER_REMEDY)
    options = options_of(engine)
    with maintenance_lock(path, options):
        plan = plan_restore(engine, source, quick=quick)
        with run_job(
            engine,
            JOB,
            kept_in=JobFile(engine, JOB),
            goes_on=False,
            stop=stop,
            on_progress=on_progress,
            limits=READS_ONLY,
        ) as job:
            census, kept = _put_back(engine, files, path, Path(plan.source), report_steps(job, STEPS), quick=quick)
    return RestoreResult(
        source=plan.source,
        database=plan.database,
        schema_version=census.version,
        rows=census.rows,
        kept=str(kept) if kept is not None else None,
        check="quick" if quick else "full",
        duration_s=time.monotonic() - started,
    )


def _put_back(
    engine: Engine, files: DatabaseFiles, path: Path, source: Path, on_step: StepReport, *, quick: bool
) -> tuple[Census, Path | None]:
    """Verify the backup and a copy of it, and replace the database; return its census and the old one's path."""
    part = prepare_part(files, path)
    _remove_second_names(files, path)
    is_replaced = False
    try:
        backup = read_only_engine(engine, source)
        try:
            with read_transaction(backup) as connection:
                require_intact(connection, str(source), quick=quick, on_step=on_step)
                census = take_census(connection, str(source), on_step)
                copy_snapshot(connection, part, in_use=True, on_step=on_step)
        finally:
            dispose(backup)
        verify_copy(engine, part, census, quick=quick, on_step=on_step)
        _keep_owner(path, part)
        fsync_path(part)
        kept = _replace(engine, files, path, part)
        is_replaced = True
    finally:
        if not is_replaced:
            discard(files, part)
    return census, kept


def _replace(engine: Engine, files: DatabaseFiles, path: Path, part: Path) -> Path | None:
    """Give the finished copy the database's name; return the path of the old database.

    The old database gets its second name before it loses the first, so that the name exists at every moment.
    """
    if not path.exists():
        for orphan in files.companions(path):  # SQLite would apply the log of a missing database to the new one
            if orphan.exists():
                orphan.rename(_unused(orphan.with_name(f"{orphan.name}.before-restore-{_now()}")))
        fsync_path(path.parent)  # otherwise a power failure could bring them back next to the new database
        publish(part, path)
        return None
    if _is_readable(engine, files, path):  # otherwise it is kept unchanged, with its log
        with suppress(DatabaseDamaged), translate_errors(engine):
            files.consolidate(path, options_of(engine))
    kept = _unused(path.with_name(f"{path.name}.before-restore-{_now()}"))
    _add_second_name(path, kept)
    try:
        _refuse_holders(kept)
        _move_companions(files, path, kept)
        fsync_path(path.parent)  # the second name stands, and nothing lies next to the first that SQLite would apply
        part.replace(path)
        _undo_if_opened(files, path, kept)
    finally:
        if part.exists():
            _undo(files, path, kept)
    fsync_path(path.parent)
    return kept


def _undo_if_opened(files: DatabaseFiles, path: Path, kept: Path) -> None:
    """Give the old database its name again if a process opened it just before the replacement.

    That process would write its log under the name that both databases had.

    Raises:
        DatabaseInUse: a process did.
    """
    holders = holders_of(kept)
    if holders is None or not holders.processes:
        return
    kept.replace(path)
    _move_companions(files, kept, path)
    fsync_path(path.parent)
    raise DatabaseInUse(
        f"{path}: was opened at this moment by {name_holders(holders.processes)}; nothing was replaced; "
        "stop that, then repeat the command"
    )


def _undo(files: DatabaseFiles, path: Path, kept: Path) -> None:
    """Give the old database its name and its companions again."""
    _move_companions(files, kept, path)
    if path.exists():
        kept.unlink()
    else:
        kept.rename(path)


def _move_companions(files: DatabaseFiles, database: Path, other: Path) -> None:
    """Rename the companions of one database name to those of another."""
    for old, new in zip(files.companions(database), files.companions(other), strict=True):
        if old.exists():
            old.rename(new)


def _add_second_name(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept)
    except OSError:  # a file system without hard links: for a moment only the new name exists
        path.rename(kept)


def _remove_second_names(files: DatabaseFiles, path: Path) -> None:
    """Remove a second name of the database left by a killed run, and give its companions their names again."""
    for kept in path.parent.iterdir():
        if kept.name.startswith(f"{path.name}.before-restore-") and path.exists() and kept.samefile(path):
            _move_companions(files, kept, path)
            kept.unlink()


def _keep_owner(path: Path, part: Path) -> None:
    """Give the new database the owner of the old one: root may restore what a service uses."""
    if not path.exists():
        return
    old, new = path.stat(), part.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.chown(part, old.st_uid, old.st_gid)
        except PermissionError as error:
            whose = f"user (id {old.st_uid})" if old.st_uid != new.st_uid else f"group (id {old.st_gid})"
            raise CopyRefused(f"{path}: belongs to another {whose}; restore as its owner or as root") from error


def _is_readable(engine: Engine, files: DatabaseFiles, path: Path) -> bool:
    """Return whether the database to replace can be opened; a damaged or empty file may be replaced.

    Raises:
        NotADatabase: it is another application's.
    """
    reader = read_only_engine(engine)
    foreign: NotADatabase | None = None
    try:
        with read_transaction(reader) as connection:
            read_facts(connection, str(path))
    except DatabaseDamaged:
        return False
    except SchemaVersionError:
        return True
    except NotADatabase as error:
        foreign = error
    finally:
        dispose(reader)
    if foreign is not None and files.looks_like_database(path):
        raise foreign
    return foreign is None


def _refuse_holders(path: Path) -> None:
    """Refuse while the system reports another process that has the database open; SQLite's locks detect the others."""
    holders = holders_of(path)
    if holders is not None and holders.processes:
        raise DatabaseInUse(f"{path}: is open in {name_holders(holders.processes)}; stop that, then repeat the command")


def _unused(path: Path) -> Path:
    """Return the path, or the first of `NAME-2`, `NAME-3` … that does not exist."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
