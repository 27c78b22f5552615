"""Write pressure on an SQLite file: the size of its write-ahead log, and commits of other connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.pressure import Pressure
from cowrieprocessor.db.dialects.sqlite.connection import empty_log


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
