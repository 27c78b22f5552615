"""The SQLite dialect: engines, transactions, and the translation of errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

from cowrieprocessor.db.dialects.base import (
    OPTIONS_KEY,
    READ_ONLY_KEY,
    Dialect,
    EngineOptions,
    Storage,
    options_of,
)
from cowrieprocessor.db.dialects.sqlite.connection import (
    begin_immediate,
    connect,
    connect_in_memory,
    driver_errors,
    load_driver,
    wal_reset_bug,
)
from cowrieprocessor.db.dialects.sqlite.files import primary_code
from cowrieprocessor.db.dialects.sqlite.interrupts import interruptible
from cowrieprocessor.db.dialects.sqlite.online_backup import SqliteDatabaseFiles
from cowrieprocessor.db.dialects.sqlite.recovery import looks_hot
from cowrieprocessor.errors import (
    ConfigurationError,
    DatabaseDamaged,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    NotADatabase,
)
from cowrieprocessor.filesystems import lack_of_room, os_error_text

if TYPE_CHECKING:  # each is imported when it is first asked for
    from cowrieprocessor.db.dialects.sqlite.bulk import SqliteBulkInsert
    from cowrieprocessor.db.dialects.sqlite.definitions import SqliteDefinitions
    from cowrieprocessor.db.dialects.sqlite.pressure import SqlitePressure
    from cowrieprocessor.db.dialects.sqlite.scan import SqliteTableScan
    from cowrieprocessor.db.dialects.sqlite.sql import SqliteExpressions

__all__ = ["SQLITE", "SqliteDialect", "load_driver", "wal_reset_bug"]

MEMORY = ":memory:"
ANALYZED_ENTRIES = 1000
"""Approximate number of entries of each index that ANALYZE reads."""

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
        "is not writable; check the permissions of the file, its folder, and how the disk is mounted",
    ),
    sqlite3.SQLITE_PERM: (
        DatabaseReadOnly,
        "access was refused; check the permissions of the file and its folder",
    ),
    sqlite3.SQLITE_CORRUPT: (
        DatabaseDamaged,
        "the database is damaged; `db check --full` shows details; restore a backup",
    ),
    sqlite3.SQLITE_FULL: (DatabaseFull, "the disk is full; make room, then repeat the command"),
    sqlite3.SQLITE_IOERR: (
        DatabaseError,
        "the disk could not be read or written; see the system log, then run `db check`",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        DatabaseError,
        "cannot be opened; check the permissions of the file and of its folder (a database in WAL mode needs "
        "-wal and -shm files next to it, even for reading)",
    ),
    sqlite3.SQLITE_NOTADB: (NotADatabase, "is not an SQLite database; name another file with --db"),
}
"""Errors by SQLite's primary result code, except those that only a bug causes. Source: sqlite.org/rescode.html."""


def _on_begin(connection: Connection) -> None:
    """Begin a transaction: BEGIN for reading, BEGIN IMMEDIATE for writing."""
    raw: Any = connection.connection.driver_connection
    if raw.isolation_level is not None:  # the engine was created with SQLAlchemy directly
        raw.isolation_level = None
    options = options_of(connection)
    if options.read_only or connection.get_execution_options().get(READ_ONLY_KEY):
        raw.execute("BEGIN")
    else:
        begin_immediate(raw, options)


class SqliteDialect(Dialect):
    """SQLite, with pysqlite3 or Python's own driver."""

    name: ClassVar[str] = "sqlite"
    is_dedicated: ClassVar[bool] = True
    computes_event_columns: ClassVar[bool] = True

    @cached_property
    def sql(self) -> SqliteExpressions:
        """The SQL expressions of SQLite."""
        from cowrieprocessor.db.dialects.sqlite.sql import SqliteExpressions

        return SqliteExpressions()

    @cached_property
    def bulk(self) -> SqliteBulkInsert:
        """Insertion with executemany."""
        from cowrieprocessor.db.dialects.sqlite.bulk import SqliteBulkInsert

        return SqliteBulkInsert()

    @cached_property
    def definitions(self) -> SqliteDefinitions:
        """The catalog, and locks of tables."""
        from cowrieprocessor.db.dialects.sqlite.definitions import SqliteDefinitions

        return SqliteDefinitions()

    def pressure(self, engine: Engine) -> SqlitePressure:
        """Return the write pressure on a file."""
        from cowrieprocessor.db.dialects.sqlite.pressure import SqlitePressure

        return SqlitePressure(engine)

    @contextmanager
    def scan(self, engine: Engine) -> Iterator[SqliteTableScan]:
        """Yield a scan in many short transactions."""
        from cowrieprocessor.db.dialects.sqlite.scan import SqliteTableScan

        yield SqliteTableScan(engine, self)

    @property
    def files(self) -> SqliteDatabaseFiles:
        """The operations on the file of a database."""
        return SqliteDatabaseFiles()

    @property
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """The base error classes of both drivers."""
        return driver_errors()

    def parsed(self, url: URL) -> URL:
        """Return the URL with the path as it is."""
        return url.set(drivername="sqlite")

    def create_engine(self, url: URL, options: EngineOptions) -> Engine:
        """Return an engine for a file, or for a private in-memory database.

        Raises:
            ConfigurationError: the URL has parameters; connection settings are not configurable.
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
        self.install_listeners(engine)
        return engine

    def install_listeners(self, engine: Engine) -> None:
        """Install the listener that begins the transactions of an engine, unless it is installed."""
        if not event.contains(engine, "begin", _on_begin):
            event.listen(engine, "begin", _on_begin)

    @contextmanager
    def _snapshot(self, engine: Engine) -> Iterator[Connection]:
        """Yield a connection in a deferred transaction that is rolled back: whatever it writes is gone, and an error.

        `PRAGMA query_only` would refuse writes at once, and makes a connection prepare all its statements anew. Source:
        OP_Expire in PragTyp_FLAG of SQLite's pragma.c.
        """
        with engine.connect() as connection:
            connection = connection.execution_options(**{READ_ONLY_KEY: True})
            raw: Any = connection.connection.driver_connection
            changes_before = raw.total_changes
            transaction = connection.begin()
            try:
                yield connection
            finally:
                transaction.rollback()
            if raw.total_changes != changes_before:
                raise DatabaseReadOnly("a transaction for reading has written; nothing of it is kept")

    def describe(self, url: URL) -> str:
        """Return the path."""
        return url.database or MEMORY

    def explain(self, error: BaseException, url: URL) -> DatabaseError | None:
        """Return our error for SQLite's result code, and for a full disk that SQLite reports as an I/O error."""
        code = primary_code(error)
        if code not in _ERRORS:
            return None
        kind, remedy = _ERRORS[code]
        path = self.files.path_of(url)
        if code == sqlite3.SQLITE_READONLY and path is not None and looks_hot(path):
            remedy = "a program that was killed left an unfinished transaction; repeat the command, which rolls it back"
        elif code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and (full := self._lack_of_room(path)) is not None:
            kind, remedy = DatabaseFull, f"{os_error_text(full)}; make room, then repeat the command"
        return kind(f"{self.describe(url)}: {remedy} (SQLite says: {error})")

    @staticmethod
    def _lack_of_room(path: Path | None) -> OSError | None:
        """Return the error if the disk or quota of a database file is full. Source: sqlite3's unixWrite, unixShmMap."""
        return lack_of_room(path.parent) if path is not None and path.parent.is_dir() else None

    def lock_migrations(self, connection: Connection) -> None:
        """Do nothing: after BEGIN IMMEDIATE the transaction has the only write lock."""

    def table_names(self, connection: Connection) -> Collection[str]:
        """Return all tables and views of the file except SQLite's own."""
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return {str(name) for (name,) in rows if not str(name).startswith("sqlite_")}

    def column_names(self, connection: Connection, table: str) -> Collection[str]:
        """Return the names of a table's columns, including generated columns."""
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
        """Return the largest rowid, which SQLite finds immediately; deleted rows still count."""
        quoted = connection.dialect.identifier_preparer.quote(table)
        return int(connection.exec_driver_sql(f"SELECT coalesce(max(rowid), 0) FROM {quoted}").scalar_one())

    def exact_rows(self, connection: Connection, table: str) -> int:
        """Count all rows; SQLite uses the smallest index."""
        quoted = connection.dialect.identifier_preparer.quote(table)
        raw: Any = connection.connection.driver_connection
        with interruptible(raw):
            return int(raw.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0])

    def find_damage(self, connection: Connection, *, full: bool) -> list[str]:
        """Run quick_check, or with `full` integrity_check, which also compares tables with their indexes."""
        raw: Any = connection.connection.driver_connection
        with interruptible(raw):
            rows = raw.execute(f"PRAGMA {'integrity_check' if full else 'quick_check'}").fetchall()
        return [str(line) for (line,) in rows if line != "ok"]

    def reusable_bytes(self, connection: Connection) -> int:
        """Return the total size of the free pages."""
        pages, page_bytes = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in ("freelist_count", "page_size")
        )
        return pages * page_bytes

    def refresh_statistics(self, connection: Connection) -> None:
        """Run ANALYZE on about ANALYZED_ENTRIES entries of each index, at any size."""
        connection.exec_driver_sql(f"PRAGMA analysis_limit={ANALYZED_ENTRIES}")
        connection.exec_driver_sql("ANALYZE")


SQLITE = SqliteDialect()
