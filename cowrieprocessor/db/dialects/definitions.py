"""Table definitions, table locks and sort space, for the rollback and the digest of the v3 tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from sqlalchemy import Connection


class Definitions(ABC):
    """How one kind of database describes, locks and empties its tables."""

    @abstractmethod
    def of_table(self, connection: Connection, table: str, *, without_index: str) -> list[str]:
        """Return the normalized, sorted definitions of a table and its indexes, except for `without_index`."""

    @abstractmethod
    def index_names(self, connection: Connection, table: str) -> set[str]:
        """Return the names of a table's indexes."""

    @abstractmethod
    def statistics_tables(self, connection: Connection) -> list[str]:
        """Return the tables that ANALYZE has created."""

    @abstractmethod
    def lock_tables(self, connection: Connection, tables: Iterable[str]) -> None:
        """Block other connections' access to the tables until this transaction ends."""

    @abstractmethod
    def sort_on_disk(self, connection: Connection) -> None:
        """Let the connection sort in files instead of memory, because building the index of a large table sorts it.

        This must be the first statement on a new connection.
        """

    @abstractmethod
    def empty(self, connection: Connection, table: str) -> None:
        """Delete all rows of a table, quickly at any size."""
