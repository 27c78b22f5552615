"""A whole database copied while others write, counted on both sides, and compared. Nothing here names a file anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import URL, Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import DatabaseFiles, options_of
from cowrieprocessor.db.engine import describe, dispose, read_transaction, translate_errors
from cowrieprocessor.db.schema_facts import read_facts, refuse_unsupported
from cowrieprocessor.errors import ConfigurationError, CopyRefused, DatabaseDamaged, SchemaVersionError

SHOWN_DAMAGES = 5

StepReport = Callable[[str, int, int], None]
"""Called with the step (copying, counting, checking), how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Census:
    """What a copy has to agree in: the schema's version, and how many rows each table has."""

    version: int
    rows: dict[str, int]


def database_file(engine: Engine, remedy: str) -> tuple[DatabaseFiles, Path]:
    """Return the file of an engine's database, and what can be done with it.

    Raises:
        ConfigurationError: a server keeps it, or it is in memory; `remedy` says what to do there.
    """
    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    if files is None or path is None:
        raise ConfigurationError(f"{describe(engine)}: is not an SQLite file; {remedy}")
    return files, path


def read_only_engine(engine: Engine, path: Path | None = None) -> Engine:
    """Return an engine that looks at the same database, or at another file, and leaves no trace beside it."""
    options = replace(options_of(engine), read_only=True, leave_no_trace=True)
    url = engine.url if path is None else URL.create("sqlite", database=str(path))
    return dialect_of(engine).create_engine(url, options)


def reading_engine(engine: Engine) -> Engine:
    """Return an engine that reads the same database, for a transaction that others may write beside."""
    return dialect_of(engine).create_engine(engine.url, replace(options_of(engine), read_only=True))


def copy_snapshot(
    connection: Connection,
    target: Path,
    *,
    in_use: bool,
    on_step: StepReport,
) -> None:
    """Write the state that a reading transaction sees into a new file; see `DatabaseFiles.copy`.

    Raises:
        DatabaseError: it cannot be read or written; the message names the file written, for its disk fills first.
    """
    engine = connection.engine
    files, _ = database_file(engine, "only a file is copied as one")
    with translate_errors(read_only_engine(engine, target)):
        files.copy(connection, target, in_use=in_use, on_progress=lambda done, total: on_step("copying", done, total))


def take_census(connection: Connection, database: str, on_step: StepReport) -> Census:
    """Count the rows of every table.

    Raises:
        NotADatabase: the tables are another application's.
        SchemaVersionError: it is empty, or of a version that nothing here can use.
    """
    version = usable_version(connection, database)
    dialect = dialect_of(connection)
    tables = sorted(dialect.table_names(connection))
    rows = {}
    for number, table in enumerate(tables):
        on_step("counting", number, len(tables))
        rows[table] = dialect.exact_rows(connection, table)
    on_step("counting", len(tables), len(tables))
    return Census(version, rows)


def usable_version(connection: Connection, database: str) -> int:
    """Return the schema's version, if it is one that we use or migrate.

    Raises:
        NotADatabase: the tables are another application's.
        SchemaVersionError: it is empty, or of another version.
    """
    version = read_facts(connection, database).version
    if version is None:
        raise SchemaVersionError(f"{database}: is empty; there is nothing to copy; name another database")
    refuse_unsupported(version, database)
    return version


def require_sound(connection: Connection, database: str, *, quick: bool, on_step: StepReport) -> None:
    """Make sure that a database is not damaged.

    Raises:
        DatabaseDamaged: the message names the first damages.
    """
    on_step("checking", 0, 1)
    damages = dialect_of(connection).damages(connection, full=not quick)
    if damages:
        raise DatabaseDamaged(f"{database}: is damaged: {'; '.join(damages[:SHOWN_DAMAGES])}")
    on_step("checking", 1, 1)


def verify_copy(engine: Engine, copied: Path, expected: Census, *, quick: bool, on_step: StepReport) -> None:
    """Make sure that a copy is sound and holds what was there.

    Args:
        engine: on any database of the same kind: the copy is opened as that one is.
        copied: the copy.
        expected: what it has to hold.
        quick: do not compare tables with their indexes.
        on_step: told about the steps.

    Raises:
        CopyRefused: it differs; the message says in what.
        DatabaseDamaged: it is damaged.
    """
    copy = read_only_engine(engine, copied)
    try:
        with read_transaction(copy) as connection:
            require_sound(connection, f"{copied}: the copy", quick=quick, on_step=on_step)
            found = take_census(connection, str(copied), on_step)
    finally:
        dispose(copy)
    if found != expected:
        different = sorted(
            name for name in expected.rows.keys() | found.rows.keys() if expected.rows.get(name) != found.rows.get(name)
        )
        what = f"rows of {', '.join(different[:SHOWN_DAMAGES])}" if different else "version"
        raise CopyRefused(f"{copied}: the copy has other {what} than the database; look at the disk, then repeat")
