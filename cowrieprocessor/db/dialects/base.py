"""The interface of a dialect, and the options of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from cowrieprocessor.errors import DatabaseError

if TYPE_CHECKING:  # each is imported when it is first asked for
    from cowrieprocessor.db.dialects.bulk import BulkInsert
    from cowrieprocessor.db.dialects.definitions import Definitions
    from cowrieprocessor.db.dialects.pressure import Pressure
    from cowrieprocessor.db.dialects.scan import TableScan
    from cowrieprocessor.db.dialects.sql import SqlExpressions

OPTIONS_KEY = "cowrieprocessor"
"""Execution option of an engine for its `EngineOptions`."""

READ_ONLY_KEY = "cowrieprocessor_reading"
"""Execution option of a connection whose transaction is read-only."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine behaves.

    Attributes:
        read_only: change no row and create no database; only what a killed writer left unfinished is rolled back.
        lock_timeout_s: seconds to wait for another writer.
        on_wait: called about every five seconds while waiting, with the seconds waited so far.
        driver: the SQLite library: auto, pysqlite3 or stdlib.
        leave_no_trace: with `read_only`, also create no file next to the database (SQLite).
    """

    read_only: bool = False
    lock_timeout_s: float = 600.0
    on_wait: Callable[[float], None] | None = None
    driver: str = "auto"
    leave_no_trace: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """Where and how a database is stored.

    Attributes:
        library: the library or server, with its version.
        wal_reset_bug: whether that library can corrupt a database in WAL mode; writers are then serialized.
        journal_mode: SQLite's journal mode; None on PostgreSQL.
        size_bytes: the size of the database without its log.
        wal_bytes: the size of the write-ahead log; None on PostgreSQL.
    """

    library: str
    wal_reset_bug: bool
    journal_mode: str | None
    size_bytes: int
    wal_bytes: int | None


def options_of(database: Engine | Connection) -> EngineOptions:
    """Return the options of an engine; the defaults for an engine that was created with SQLAlchemy directly."""
    options = database.get_execution_options().get(OPTIONS_KEY)
    return options if isinstance(options, EngineOptions) else EngineOptions()


class DatabaseFiles(ABC):
    """Operations on a database that is a file."""

    @abstractmethod
    def path_of(self, url: URL) -> Path | None:
        """Return the resolved path of a database's file; None for an in-memory database."""

    @abstractmethod
    def companions(self, path: Path) -> tuple[Path, ...]:
        """Return the paths of the additional files that belong to a database, whether they exist or not."""

    @abstractmethod
    def looks_like_database(self, path: Path) -> bool:
        """Return whether a file that is not open anywhere is empty or starts like a database."""

    @abstractmethod
    def file_system(self, path: Path) -> str | None:
        """Return the type of the file system of a path; None if the operating system does not report it."""

    @abstractmethod
    def require_local_disk(self, path: Path) -> None:
        """Refuse a path on a network file system.

        Raises:
            DatabaseError: the message names the remedy.
        """

    @abstractmethod
    def copy(
        self, connection: Connection, target: Path, *, in_use: bool, on_progress: Callable[[int, int], None]
    ) -> None:
        """Write the snapshot that a read transaction sees to a new file, which only its owner can read.

        Args:
            connection: a connection in a read transaction, which preserves the snapshot while others write.
            target: the file to create; it must not exist.
            in_use: prepare the copy for use; otherwise it is a single file for storage.
            on_progress: called with the number of pages copied so far and of all pages.
        """

    @abstractmethod
    def consolidate(self, path: Path, options: EngineOptions) -> None:
        """Move everything that belongs to a database into its main file, and close it.

        Raises:
            DatabaseInUse: another connection has it open.
            DatabaseError: it is damaged, or cannot be written.
        """


class Dialect(ABC):
    """Everything that is specific to one kind of database."""

    name: ClassVar[str]
    """SQLAlchemy's name of the dialect."""

    is_dedicated: ClassVar[bool]
    """Whether a database belongs to one application only; a database on a server may be shared."""

    computes_event_columns: ClassVar[bool]
    """Whether the database itself computes session_id, event_type and event_timestamp of raw_events."""

    @property
    @abstractmethod
    def sql(self) -> SqlExpressions:
        """The SQL expressions that differ between the databases."""

    @property
    @abstractmethod
    def bulk(self) -> BulkInsert:
        """The insertion of many rows of a table."""

    @property
    @abstractmethod
    def definitions(self) -> Definitions:
        """The definitions and locks of tables."""

    @abstractmethod
    def pressure(self, engine: Engine) -> Pressure:
        """Return the write pressure on a database; it remembers what it has seen."""

    @abstractmethod
    def scan(self, engine: Engine) -> AbstractContextManager[TableScan]:
        """Return the scan of a database's tables, open for as long as the context."""

    @property
    @abstractmethod
    def files(self) -> DatabaseFiles | None:
        """The operations on the file of a database; None if a server manages the files."""

    @property
    @abstractmethod
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """The base error classes of the drivers in use."""

    @abstractmethod
    def parsed(self, url: URL) -> URL:
        """Return the URL that `create_engine` takes, from a URL as the user wrote it."""

    @abstractmethod
    def create_engine(self, url: URL, options: EngineOptions) -> Engine:
        """Return an engine with our connection settings; no connection is opened yet."""

    @abstractmethod
    def install_listeners(self, engine: Engine) -> None:
        """Install our transaction handling in an engine, unless it already has it."""

    @contextmanager
    def read_transaction(self, engine: Engine) -> Iterator[Connection]:
        """Yield a connection that sees one snapshot of the database and cannot write.

        Raises:
            DatabaseError: the database does not exist or cannot be read; the message names the remedy.
        """
        self.install_listeners(engine)
        with self.translate_errors(engine), self._snapshot(engine) as connection:
            yield connection

    @abstractmethod
    def _snapshot(self, engine: Engine) -> AbstractContextManager[Connection]:
        """Return a transaction that sees one snapshot of the database and cannot write."""

    @contextmanager
    def translate_errors(self, engine: Engine) -> Iterator[None]:
        """Translate the errors of the database drivers to ours, with the remedy in the message.

        Errors that only a bug in our code can cause (a violated constraint, an SQL error) are not translated.
        """
        errors: tuple[type[Exception], ...] = (DBAPIError, *self.driver_errors)
        try:
            yield
        except errors as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            translated = self.explain(cause, engine.url) if cause is not None else None
            if translated is None:
                raise
            raise translated from error

    @abstractmethod
    def describe(self, url: URL) -> str:
        """Return the display name of a database, without any password."""

    def address(self, url: URL) -> str:
        """Return what `--db` takes to name a database, without any password."""
        return self.describe(url)

    @abstractmethod
    def explain(self, error: BaseException, url: URL) -> DatabaseError | None:
        """Return our error for a driver's error; None if the cause is a bug in our code."""

    @abstractmethod
    def lock_migrations(self, connection: Connection) -> None:
        """Block every other migration until this transaction ends."""

    @abstractmethod
    def table_names(self, connection: Connection) -> Collection[str]:
        """Return the names of all visible tables, including those of other applications."""

    @abstractmethod
    def column_names(self, connection: Connection, table: str) -> Collection[str]:
        """Return the names of a table's columns, including generated columns."""

    @abstractmethod
    def storage(self, connection: Connection) -> Storage:
        """Return where and how the database is stored."""

    @abstractmethod
    def estimated_rows(self, connection: Connection, table: str) -> int:
        """Return the approximate number of rows of a table, quickly at any size."""

    @abstractmethod
    def find_damage(self, connection: Connection, *, full: bool) -> list[str]:
        """Return a description of each problem of a damaged database; `full` reads all of it."""

    @abstractmethod
    def reusable_bytes(self, connection: Connection) -> int:
        """Return how many bytes of the database's file are free for new rows; 0 if a server manages free space."""

    @abstractmethod
    def refresh_statistics(self, connection: Connection) -> None:
        """Update the query planner's statistics from a bounded sample of every table."""

    @abstractmethod
    def exact_rows(self, connection: Connection, table: str) -> int:
        """Count the rows of a table; Ctrl-C interrupts it."""
