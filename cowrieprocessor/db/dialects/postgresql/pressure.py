"""Write pressure on a PostgreSQL server: none that a long job has to yield to."""

from __future__ import annotations

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.pressure import Pressure


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
