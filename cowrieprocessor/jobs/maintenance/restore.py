"""A backup put in a database's place: verified before, and the old database kept beside it."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import DatabaseFiles, options_of
from cowrieprocessor.db.engine import dispose, read_transaction, translate_errors
from cowrieprocessor.db.files.database_copy import (
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
from cowrieprocessor.jobs.maintenance.atomic_file import clear_part, discard, free_bytes, publish, require_room, sync
from cowrieprocessor.jobs.maintenance.backup import COPY_BYTES_PER_S, checking_s

SERVER_REMEDY = "on PostgreSQL `pg_restore --clean --dbname=NAME BACKUP` brings a backup of pg_dump back"


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What restoring is going to do.

    Attributes:
        source: the backup.
        database: what it replaces.
        schema_version: of the backup.
        size_bytes: of the backup.
        replaced_bytes: of the database that is there; None if none is.
        free_bytes: room on the database's disk.
        duration_s: about how long it takes.
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
    """What was restored.

    Attributes:
        source: the backup.
        database: what is that backup now.
        schema_version: of both.
        rows: of each table.
        kept: where the database that was there lies now; None if none was.
        check: full or quick.
        duration_s: how long it took.
    """

    source: str
    database: str
    schema_version: int
    rows: dict[str, int]
    kept: str | None
    check: str
    duration_s: float


def plan_restore(engine: Engine, source: Path, *, quick: bool = False) -> RestorePlan:
    """Return what restoring would do; nothing is written.

    Raises:
        ConfigurationError: the database to replace is no SQLite file; the message says what to use.
        CopyRefused: the backup is the database itself.
        DatabaseInUse: another process has the database open.
        NotADatabase, SchemaVersionError: the backup, or what it would replace, is none of ours.
        DatabaseFull: there is too little room beside the database.
    """
    files, path = database_file(engine, SERVER_REMEDY)
    source = source.expanduser().resolve()
    if path.exists() and source.exists() and path.samefile(source):
        raise CopyRefused(f"{source}: is the database itself; name the backup")
    files.require_local_disk(path)
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
            raise CopyRefused(f"{path}: is no regular file; name the database file itself")
        _is_readable(engine, files, path)
    _refuse_holders(path)
    require_room(path.parent, size_bytes, "the restored database, beside the one that is kept,")
    return RestorePlan(
        source=str(source),
        database=str(path),
        schema_version=version,
        size_bytes=size_bytes,
        replaced_bytes=path.stat().st_size if path.exists() else None,
        free_bytes=free_bytes(path.parent),
        duration_s=size_bytes / COPY_BYTES_PER_S + 2 * checking_s(size_bytes, quick=quick),
    )


def restore(
    engine: Engine,
    source: Path,
    *,
    quick: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> RestoreResult:
    """Verify a backup, copy it beside the database, verify the copy, and let it take the database's place.

    The old database stays beside it as `NAME.before-restore-TIME`. Whatever ends this early, a kill included, leaves
    the old database or the new one under the name, whole.

    Args:
        engine: the database to replace, which may be missing or damaged; nothing may have it open.
        source: the backup.
        quick: verify without comparing tables with their indexes.
        on_progress: called with the step (copying, counting, checking), how much is done, and how much there is.

    Raises:
        DatabaseDamaged: the backup is damaged; the database is as it was.
        DatabaseInUse: another process has the database open; it is as it was.
        DatabaseError: see `plan_restore`.
    """
    started = time.monotonic()
    on_step = on_progress or _say_nothing
    files, path = database_file(engine, SERVER_REMEDY)
    options = options_of(engine)
    with maintenance_lock(path, options):
        plan = plan_restore(engine, source, quick=quick)
        part = clear_part(files, path)
        _forget_second_names(files, path)
        done = False
        try:
            backup = read_only_engine(engine, Path(plan.source))
            try:
                with read_transaction(backup) as connection:
                    require_intact(connection, plan.source, quick=quick, on_step=on_step)
                    census = take_census(connection, plan.source, on_step)
                    copy_snapshot(connection, part, in_use=True, on_step=on_step)
            finally:
                dispose(backup)
            verify_copy(engine, part, census, quick=quick, on_step=on_step)
            _keep_owner(path, part)
            sync(part)
            kept = _take_the_place(engine, files, path, part)
            done = True
        finally:
            if not done:
                discard(files, part)
    return RestoreResult(
        source=plan.source,
        database=plan.database,
        schema_version=census.version,
        rows=census.rows,
        kept=str(kept) if kept is not None else None,
        check="quick" if quick else "full",
        duration_s=time.monotonic() - started,
    )


def _take_the_place(engine: Engine, files: DatabaseFiles, path: Path, part: Path) -> Path | None:
    """Give the finished copy the database's name; return where the old database lies now.

    The old database gets its second name before it loses the first, so that there is one at every moment.
    """
    if not path.exists():
        for left in files.companions(path):  # a log whose database is gone would be taken for the new one's
            if left.exists():
                left.rename(_unused(left.with_name(f"{left.name}.before-restore-{_now()}")))
        publish(part, path)
        return None
    if _is_readable(engine, files, path):  # otherwise it is kept as it is, its log beside it
        with suppress(DatabaseDamaged), translate_errors(engine):
            files.consolidate(path, options_of(engine))
    kept = _unused(path.with_name(f"{path.name}.before-restore-{_now()}"))
    _second_name(path, kept)
    try:
        _refuse_holders(kept)
        _move_companions(files, path, kept)
        part.replace(path)
        _give_back_if_opened(files, path, kept)
    finally:
        if part.exists():
            _undo(files, path, kept)
    sync(path.parent)
    return kept


def _give_back_if_opened(files: DatabaseFiles, path: Path, kept: Path) -> None:
    """Let the old database have its name again if somebody opened it in the last moment.

    That process would write its log under the name that both databases had.

    Raises:
        DatabaseInUse: somebody did.
    """
    found = holders_of(kept)
    if found is None or not found.processes:
        return
    kept.replace(path)
    _move_companions(files, kept, path)
    raise DatabaseInUse(
        f"{path}: was opened in this moment by {name_holders(found.processes)}; nothing was replaced; "
        "stop that, then repeat the command"
    )


def _undo(files: DatabaseFiles, path: Path, kept: Path) -> None:
    """Give the old database back what was taken."""
    _move_companions(files, kept, path)
    if path.exists():
        kept.unlink()
    else:
        kept.rename(path)


def _move_companions(files: DatabaseFiles, database: Path, other: Path) -> None:
    """Give what lies beside one name of a database the names beside another one."""
    for here, there in zip(files.companions(database), files.companions(other), strict=True):
        if here.exists():
            here.rename(there)


def _second_name(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept)
    except OSError:  # a file system without hard links: for a moment there is only the new name
        path.rename(kept)


def _forget_second_names(files: DatabaseFiles, path: Path) -> None:
    """Remove the second name that a run gave the database before it was killed, and give its log back."""
    for kept in path.parent.iterdir():
        if kept.name.startswith(f"{path.name}.before-restore-") and path.exists() and kept.samefile(path):
            _move_companions(files, kept, path)
            kept.unlink()


def _keep_owner(path: Path, part: Path) -> None:
    """Let whoever owned the old database own the new one: root restores, and a service goes on with it."""
    if not path.exists():
        return
    old, new = path.stat(), part.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.chown(part, old.st_uid, old.st_gid)
        except PermissionError as error:
            raise CopyRefused(
                f"{path}: belongs to another user (id {old.st_uid}); restore as that user or as root"
            ) from error


def _is_readable(engine: Engine, files: DatabaseFiles, path: Path) -> bool:
    """Return whether the database to replace can be opened; what is damaged or empty may be replaced.

    Raises:
        NotADatabase: it is another application's.
    """
    looking = read_only_engine(engine)
    foreign: NotADatabase | None = None
    try:
        with read_transaction(looking) as connection:
            read_facts(connection, str(path))
    except DatabaseDamaged:
        return False
    except SchemaVersionError:
        return True
    except NotADatabase as error:
        foreign = error
    finally:
        dispose(looking)
    if foreign is not None and files.looks_like_database(path):
        raise foreign
    return foreign is None


def _refuse_holders(path: Path) -> None:
    """Refuse while another process has the database open, as far as the system tells; SQLite's locks tell the rest."""
    found = holders_of(path)
    if found is not None and found.processes:
        raise DatabaseInUse(f"{path}: is open in {name_holders(found.processes)}; stop that, then repeat the command")


def _unused(path: Path) -> Path:
    """Return the name, or the first of `NAME-2`, `NAME-3` … that nothing has."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")


def _say_nothing(_step: str, _done: int, _total: int) -> None:
    """Report to nobody."""
