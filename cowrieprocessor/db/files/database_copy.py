"""Copy a whole database while others write, and verify the copy by its row counts. Nothing here renames a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import DatabaseFiles, options_of
from cowrieprocessor.db.engine import describe, dispose, read_transaction, translate_errors
from cowrieprocessor.db.schema_facts import read_facts, refuse_unsupported
from cowrieprocessor.errors import ConfigurationError, CopyRefused, DatabaseDamaged, SchemaVersionError

SHOWN_PROBLEMS = 5

StepReport = Callable[[str, int, int], None]
"""Called with the step (copying, counting, checking), the amount done, and the total amount."""


@dataclass(frozen=True, slots=True)
class Census:
    """What a copy must have in common with its source: the schema version, and the number of rows of each table."""

    version: int
    rows: dict[str, int]


def database_file(engine: Engine, remedy: str) -> tuple[DatabaseFiles, Path]:
    """Return the file operations of an engine's database, and the path of its file.

    Args:
        engine: the database.
        remedy: what to do instead if the database is not a file, for the message.

    Raises:
        ConfigurationError: the database is on a server or in memory.
    """
    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    if files is None or path is None:
        raise ConfigurationError(f"{describe(engine)}: is not an SQLite file; {remedy}")
    return files, path


def read_only_engine(engine: Engine, path: Path | None = None) -> Engine:
    """Return a read-only engine for the same database, or another file, that creates no files next to it."""
    options = replace(options_of(engine), read_only=True, leave_no_trace=True)
    url = engine.url if path is None else engine.url.set(database=str(path))
    return dialect_of(engine).create_engine(url, options)


def snapshot_engine(engine: Engine) -> Engine:
    """Return a read-only engine for the same database, for a snapshot that is read while others write."""
    return dialect_of(engine).create_engine(engine.url, replace(options_of(engine), read_only=True))


def copy_snapshot(
    connection: Connection,
    target: Path,
    *,
    in_use: bool,
    on_step: StepReport,
) -> None:
    """Write the snapshot that a read transaction sees to a new file; see `DatabaseFiles.copy`.

    Raises:
        DatabaseError: it cannot be read or written; the message names the new file, because its disk fills up first.
    """
    engine = connection.engine
    files, _ = database_file(engine, "only a file can be copied")
    with translate_errors(read_only_engine(engine, target)):
        files.copy(connection, target, in_use=in_use, on_progress=lambda done, total: on_step("copying", done, total))


def take_census(connection: Connection, database: str, on_step: StepReport) -> Census:
    """Count the rows of every table.

    Raises:
        NotADatabase: the tables belong to another application.
        SchemaVersionError: the database is empty, or of an unsupported version.
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
    """Return the schema version, if it can be used or migrated.

    Raises:
        NotADatabase: the tables belong to another application.
        SchemaVersionError: the database is empty, or of an unsupported version.
    """
    facts = read_facts(connection, database)
    if facts.version is None:
        raise SchemaVersionError(f"{database}: is empty; there is nothing to copy; name another database")
    refuse_unsupported(facts, database)
    return facts.version


def require_intact(connection: Connection, database: str, *, quick: bool, on_step: StepReport) -> None:
    """Check that a database is not damaged.

    Args:
        connection: a connection in a read transaction.
        database: the name of the database, for messages.
        quick: do not compare tables with their indexes.
        on_step: called with the progress.

    Raises:
        DatabaseDamaged: the message quotes the first problems.
    """
    on_step("checking", 0, 1)
    problems = dialect_of(connection).find_damage(connection, full=not quick)
    if problems:
        raise DatabaseDamaged(f"{database}: is damaged: {'; '.join(problems[:SHOWN_PROBLEMS])}")
    on_step("checking", 1, 1)


def verify_copy(engine: Engine, copied: Path, expected: Census, *, quick: bool, on_step: StepReport) -> None:
    """Check that a copy is not damaged and has the expected rows.

    Args:
        engine: an engine of the same kind, whose options are used to open the copy.
        copied: the path of the copy.
        expected: the census of the source.
        quick: do not compare tables with their indexes.
        on_step: called with the progress.

    Raises:
        CopyRefused: the copy differs; the message says how.
        DatabaseDamaged: the copy is damaged.
    """
    copy = read_only_engine(engine, copied)
    try:
        with read_transaction(copy) as connection:
            require_intact(connection, f"{copied}: the copy", quick=quick, on_step=on_step)
            census = take_census(connection, str(copied), on_step)
    finally:
        dispose(copy)
    if census != expected:
        tables = expected.rows.keys() | census.rows.keys()
        different = sorted(table for table in tables if expected.rows.get(table) != census.rows.get(table))
        what = f"rows of {', '.join(different[:SHOWN_PROBLEMS])}" if different else "version"
        raise CopyRefused(f"{copied}: the copy differs from the database in the {what}; check the disk, then repeat")
