"""What a dialect has to answer, and the options that an engine carries with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
    """

    read_only: bool = False
    lock_timeout_s: float = 600.0
    on_wait: Callable[[float], None] | None = None
    driver: str = "auto"


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


class Dialect(ABC):
    """Everything that one database does in its own way."""

    name: ClassVar[str]
    """SQLAlchemy's name of it."""

    ours_alone: ClassVar[bool]
    """True where a database with other tables cannot be ours; a server's database may be shared."""

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
