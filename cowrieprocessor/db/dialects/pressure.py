"""Write pressure: what a long job checks before it writes more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.sqlite.connection import empty_log
from cowrieprocessor.errors import ConfigurationError


class Pressure(ABC):
    """The signs that other connections write to a database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def log_bytes(self) -> int:
        """Return the size of the write-ahead log that is not yet checkpointed; 0 if there is none."""

    @abstractmethod
    def empty_log(self) -> None:
        """Checkpoint the log and truncate it as far as readers allow."""

    @abstractmethod
    def others_wrote(self, connection: Connection) -> bool:
        """Return whether others have committed since the previous call on the same connection."""


class SqlitePressure(Pressure):
    """SQLite: one write-ahead log, which an open reader keeps from being truncated, and one writer at a time."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._log = Path(f"{Path(engine.url.database or '').expanduser().resolve()}-wal")
        self._version: tuple[int, int] | None = None

    def log_bytes(self) -> int:
        """Return the size of the `-wal` file."""
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def empty_log(self) -> None:
        """Checkpoint and truncate, without interrupting readers or writers."""
        raw = self.engine.raw_connection()
        try:
            empty_log(raw.driver_connection)
        finally:
            raw.close()

    def others_wrote(self, connection: Connection) -> bool:
        """Compare `PRAGMA data_version`, which other connections' commits change. Source: sqlite.org/pragma.html."""
        raw: Any = connection.connection.driver_connection
        now = (id(raw), int(raw.execute("PRAGMA data_version").fetchone()[0]))
        before, self._version = self._version, now
        return before is not None and before[0] == now[0] and before[1] != now[1]


class PostgresqlPressure(Pressure):
    """PostgreSQL: writers of different rows do not block each other, and the server manages its log."""

    def log_bytes(self) -> int:
        """Return 0: the server manages its log."""
        return 0

    def empty_log(self) -> None:
        """Do nothing: the server manages its log."""

    def others_wrote(self, connection: Connection) -> bool:
        """Return False: there is no need to yield to other writers."""
        return False


_BY_NAME: dict[str, type[Pressure]] = {"sqlite": SqlitePressure, "postgresql": PostgresqlPressure}


def pressure_of(engine: Engine) -> Pressure:
    """Return the write pressure of a database.

    Raises:
        ConfigurationError: the database is neither SQLite nor PostgreSQL.
    """
    try:
        return _BY_NAME[engine.dialect.name](engine)
    except KeyError:
        raise ConfigurationError(f"{engine.dialect.name}: not supported") from None
