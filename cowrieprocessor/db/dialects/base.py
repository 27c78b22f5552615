"""What a dialect has to answer, and the options that an engine carries with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sqlalchemy import URL, Connection, Engine

from cowrieprocessor.errors import DatabaseError

OPTIONS_KEY = "cowrieprocessor"
"""Execution option under which an engine carries its `EngineOptions`."""

READING_KEY = "cowrieprocessor_reading"
"""Execution option of a connection whose transaction only reads."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine behaves.

    Attributes:
        read_only: nothing is ever written or created through it.
        lock_timeout_s: seconds to wait for another writer.
        on_wait: called about every five seconds of waiting with the seconds waited so far.
        driver: which SQLite library: auto, pysqlite3 or stdlib.
        leave_no_trace: for looking only, and no file is made beside the database either (SQLite).
    """

    read_only: bool = False
    lock_timeout_s: float = 600.0
    on_wait: Callable[[float], None] | None = None
    driver: str = "auto"
    leave_no_trace: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """Where and how a database is kept.

    Attributes:
        library: the library or server that reads it, with its version.
        wal_reset_bug: whether that library can corrupt a database in WAL mode; writers are then serialized.
        journal_mode: SQLite's journal mode; None on PostgreSQL.
        size_bytes: the database without its log.
        wal_bytes: the write-ahead log beside it; None on PostgreSQL.
    """

    library: str
    wal_reset_bug: bool
    journal_mode: str | None
    size_bytes: int
    wal_bytes: int | None


def options_of(database: Engine | Connection) -> EngineOptions:
    """Return the options that an engine carries; the defaults for one that SQLAlchemy made directly."""
    options = database.get_execution_options().get(OPTIONS_KEY)
    return options if isinstance(options, EngineOptions) else EngineOptions()


class DatabaseFiles(ABC):
    """What can be done with a database that is a file."""

    @abstractmethod
    def path_of(self, url: URL) -> Path | None:
        """Return the file a database is kept in, resolved; None for one in memory."""

    @abstractmethod
    def companions(self, path: Path) -> tuple[Path, ...]:
        """Return the files that may lie beside a database and belong to it, there or not."""

    @abstractmethod
    def looks_like_one(self, path: Path) -> bool:
        """Return whether a file that nothing has open is empty or begins as a database does."""

    @abstractmethod
    def file_system(self, path: Path) -> str | None:
        """Return the type of the file system that a path lies on; None where the system does not tell."""

    @abstractmethod
    def require_local_disk(self, path: Path) -> None:
        """Refuse a path on a disk that other machines share.

        Raises:
            DatabaseError: the message names the remedy.
        """

    @abstractmethod
    def copy(
        self, connection: Connection, target: Path, *, in_use: bool, on_progress: Callable[[int, int], None]
    ) -> None:
        """Write the state that a reading transaction sees into a new file, which only we may read.

        Args:
            connection: in a transaction that reads; it keeps the state, whoever writes meanwhile.
            target: the file to make; nothing may be there.
            in_use: make it ready to be worked on; otherwise it is one file that lies still.
            on_progress: called with the pages copied so far and all pages.
        """

    @abstractmethod
    def settle(self, path: Path, options: EngineOptions) -> None:
        """Bring everything that belongs to a database into its one file, and close it.

        Raises:
            DatabaseInUse: another connection has it open.
            DatabaseError: it is damaged, or cannot be written.
        """


class Dialect(ABC):
    """Everything that one database does in its own way."""

    name: ClassVar[str]
    """SQLAlchemy's name of it."""

    ours_alone: ClassVar[bool]
    """True where a database with other tables cannot be ours; a server's database may be shared."""

    @property
    @abstractmethod
    def files(self) -> DatabaseFiles | None:
        """What can be done with its files; None where a server keeps them."""

    @property
    @abstractmethod
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """The root error classes of the drivers in use."""

    @abstractmethod
    def create_engine(self, url: URL, options: EngineOptions) -> Engine:
        """Return an engine that opens connections as we need them; nothing is opened yet."""

    @abstractmethod
    def adopt(self, engine: Engine) -> None:
        """Give an engine that SQLAlchemy made directly our way of beginning transactions; once."""

    @abstractmethod
    def reading(self, engine: Engine) -> AbstractContextManager[Connection]:
        """Return a transaction that sees one state of the database and cannot write."""

    @abstractmethod
    def describe(self, url: URL) -> str:
        """Return the database's name for people, without any password."""

    @abstractmethod
    def explain(self, error: BaseException, url: URL) -> DatabaseError | None:
        """Return the error that stands for a driver's error; None if it is a mistake in our code."""

    @abstractmethod
    def hold_migration_lock(self, connection: Connection) -> None:
        """Make every other migration wait until this transaction ends."""

    @abstractmethod
    def table_names(self, connection: Connection) -> Collection[str]:
        """Return the names of all tables that can be seen, whoever made them."""

    @abstractmethod
    def column_names(self, connection: Connection, table: str) -> Collection[str]:
        """Return the names of a table's columns, computed ones included."""

    @abstractmethod
    def storage(self, connection: Connection) -> Storage:
        """Return where and how the database is kept."""

    @abstractmethod
    def estimated_rows(self, connection: Connection, table: str) -> int:
        """Return about how many rows a table has, at once however many there are."""

    @abstractmethod
    def damages(self, connection: Connection, *, full: bool) -> list[str]:
        """Return what is wrong with the database; `full` reads all of it."""

    @abstractmethod
    def reusable_bytes(self, connection: Connection) -> int:
        """Return how much of the database's file is free for new rows; 0 where a server looks after that."""

    @abstractmethod
    def refresh_statistics(self, connection: Connection) -> None:
        """Have the database look at a bounded sample of every table, for better plans of queries."""

    @abstractmethod
    def exact_rows(self, connection: Connection, table: str) -> int:
        """Return how many rows a table has, counted; Ctrl-C ends it."""
