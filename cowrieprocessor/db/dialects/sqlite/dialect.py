"""SQLite as a dialect: its engines, its transactions, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

from cowrieprocessor.db.dialects.base import (
    OPTIONS_KEY,
    READING_KEY,
    Dialect,
    EngineOptions,
    Storage,
    options_of,
)
from cowrieprocessor.db.dialects.sqlite.connection import (
    begin_writing,
    connect,
    connect_in_memory,
    driver_errors,
    load_driver,
    primary_code,
    wal_reset_bug,
)
from cowrieprocessor.db.dialects.sqlite.interrupts import interruptible
from cowrieprocessor.db.dialects.sqlite.online_backup import SqliteDatabaseFiles
from cowrieprocessor.errors import (
    ConfigurationError,
    DatabaseDamaged,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    NotADatabase,
)

__all__ = ["SQLITE", "SqliteDialect", "load_driver", "wal_reset_bug"]

MEMORY = ":memory:"
ANALYZED_ENTRIES = 1000

_ERRORS: dict[int, tuple[type[DatabaseError], str]] = {
    sqlite3.SQLITE_BUSY: (
        DatabaseLocked,
        "another process is writing; wait for it, or stop it, then repeat the command",
    ),
    sqlite3.SQLITE_LOCKED: (
        DatabaseLocked,
        "another connection of this process is using the table; repeat the command",
    ),
    sqlite3.SQLITE_READONLY: (
        DatabaseReadOnly,
        "may not be written; check the permissions of the file, its folder, and how the disk is mounted",
    ),
    sqlite3.SQLITE_PERM: (
        DatabaseReadOnly,
        "access was refused; check the permissions of the file and its folder",
    ),
    sqlite3.SQLITE_CORRUPT: (
        DatabaseDamaged,
        "the database is damaged; `cowrieprocessor db check --full` says more; restore a backup",
    ),
    sqlite3.SQLITE_FULL: (DatabaseFull, "the disk is full; make room, then repeat the command"),
    sqlite3.SQLITE_IOERR: (
        DatabaseError,
        "the disk could not be read or written; look at the system log, then run `cowrieprocessor db check`",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        DatabaseError,
        "cannot be opened; check the permissions of the file and of its folder (a database in WAL mode needs "
        "-wal and -shm files beside it, even for reading)",
    ),
    sqlite3.SQLITE_NOTADB: (NotADatabase, "is not an SQLite database; name another file with --db"),
}
"""SQLite's primary result codes that are no mistake of ours. Source: sqlite.org/rescode.html."""


def _on_begin(connection: Connection) -> None:
    """Begin a transaction: BEGIN to read, BEGIN IMMEDIATE to write."""
    raw: Any = connection.connection.driver_connection
    if raw.isolation_level is not None:  # an engine that SQLAlchemy made directly
        raw.isolation_level = None
    options = options_of(connection)
    if options.read_only or connection.get_execution_options().get(READING_KEY):
        raw.execute("BEGIN")
    else:
        begin_writing(raw, options)


class SqliteDialect(Dialect):
    """SQLite, by whichever driver is there."""

    name: ClassVar[str] = "sqlite"
    ours_alone: ClassVar[bool] = True

    @property
    def files(self) -> SqliteDatabaseFiles:
        """What can be done with its file."""
        return SqliteDatabaseFiles()

    @property
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """The root error classes of both drivers."""
        return driver_errors()

    def create_engine(self, url: URL, options: EngineOptions) -> Engine:
        """Return an engine on a file, or on a private database in memory.

        Raises:
            ConfigurationError: the URL has parameters; what they would say is ours to decide.
        """
        if url.query:
            raise ConfigurationError(f"{self.describe(url)}: an SQLite URL takes no parameters; give the path alone")
        in_memory = url.database in (None, "", MEMORY)
        path = Path(url.database or "").expanduser()
        engine = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            module=load_driver(options.driver),
            creator=lambda: connect_in_memory(options) if in_memory else connect(path, options),
            poolclass=StaticPool if in_memory else QueuePool,
            hide_parameters=True,
            execution_options={OPTIONS_KEY: options},
        )
        self.adopt(engine)
        return engine

    def adopt(self, engine: Engine) -> None:
        """Let our listener begin the engine's transactions."""
        if not event.contains(engine, "begin", _on_begin):
            event.listen(engine, "begin", _on_begin)

    @contextmanager
    def reading(self, engine: Engine) -> Iterator[Connection]:
        """Yield a connection in a deferred transaction that SQLite lets write nothing."""
        with engine.connect() as connection:
            connection = connection.execution_options(**{READING_KEY: True})
            raw: Any = connection.connection.driver_connection
            raw.execute("PRAGMA query_only=ON")
            try:
                with connection.begin():
                    yield connection
            finally:
                if not options_of(engine).read_only:
                    raw.execute("PRAGMA query_only=OFF")

    def describe(self, url: URL) -> str:
        """Return the path."""
        return url.database or MEMORY

    def explain(self, error: BaseException, url: URL) -> DatabaseError | None:
        """Return our error for SQLite's result code."""
        code = primary_code(error)
        if code not in _ERRORS:
            return None
        kind, remedy = _ERRORS[code]
        return kind(f"{self.describe(url)}: {remedy} (SQLite says: {error})")

    def hold_migration_lock(self, connection: Connection) -> None:
        """Do nothing: BEGIN IMMEDIATE already holds the only write lock there is."""

    def table_names(self, connection: Connection) -> Collection[str]:
        """Return all tables and views of the file but SQLite's own."""
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return {str(name) for (name,) in rows if not str(name).startswith("sqlite_")}

    def column_names(self, connection: Connection, table: str) -> Collection[str]:
        """Return the names of a table's columns, computed ones included."""
        rows = connection.exec_driver_sql("SELECT name FROM pragma_table_xinfo(?)", (table,))
        return {str(name) for (name,) in rows}

    def storage(self, connection: Connection) -> Storage:
        """Return the library in use, the journal mode, and the sizes of the file and its log."""
        journal_mode = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
        pages, page_bytes = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in ("page_count", "page_size")
        )
        driver = load_driver(options_of(connection).driver)
        log = Path(f"{Path(self.describe(connection.engine.url)).expanduser().resolve()}-wal")
        return Storage(
            library=f"SQLite {driver.sqlite_version} ({driver.__name__.partition('.')[0]})",
            wal_reset_bug=wal_reset_bug(driver.sqlite_version_info),
            journal_mode=journal_mode,
            size_bytes=pages * page_bytes,
            wal_bytes=log.stat().st_size if log.exists() else 0,
        )

    def estimated_rows(self, connection: Connection, table: str) -> int:
        """Return the largest rowid, which SQLite finds at once; deleted rows still count."""
        quoted = connection.dialect.identifier_preparer.quote(table)
        return int(connection.exec_driver_sql(f"SELECT coalesce(max(rowid), 0) FROM {quoted}").scalar_one())

    def exact_rows(self, connection: Connection, table: str) -> int:
        """Count through the smallest index there is."""
        quoted = connection.dialect.identifier_preparer.quote(table)
        raw: Any = connection.connection.driver_connection
        with interruptible(raw):
            return int(raw.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0])

    def damages(self, connection: Connection, *, full: bool) -> list[str]:
        """Run SQLite's quick_check, or its integrity_check, which also compares tables with their indexes."""
        raw: Any = connection.connection.driver_connection
        with interruptible(raw):
            rows = raw.execute(f"PRAGMA {'integrity_check' if full else 'quick_check'}").fetchall()
        return [str(line) for (line,) in rows if line != "ok"]

    def reusable_bytes(self, connection: Connection) -> int:
        """Return the size of the pages that are in no use."""
        pages, page_bytes = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in ("freelist_count", "page_size")
        )
        return pages * page_bytes

    def refresh_statistics(self, connection: Connection) -> None:
        """Run ANALYZE over about a thousand entries of each index, however large it is."""
        connection.exec_driver_sql(f"PRAGMA analysis_limit={ANALYZED_ENTRIES}")
        connection.exec_driver_sql("ANALYZE")


SQLITE = SqliteDialect()
