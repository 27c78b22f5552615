"""Table definitions, table locks and sort space, for the rollback and the digest of the v3 tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from sqlalchemy import Connection, inspect

from cowrieprocessor.errors import ConfigurationError


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


class SqliteDefinitions(Definitions):
    """SQLite: the catalog has the original CREATE statements, and there is only one writer."""

    def of_table(self, connection: Connection, table: str, *, without_index: str) -> list[str]:
        """Return the CREATE statements, with each run of whitespace as one space."""
        query = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL AND name <> ?"
        return sorted(
            " ".join(str(sql).split()) for (sql,) in connection.exec_driver_sql(query, (table, without_index))
        )

    def index_names(self, connection: Connection, table: str) -> set[str]:
        """Return the names from SQLite's catalog."""
        query = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?"
        return {str(name) for (name,) in connection.exec_driver_sql(query, (table,))}

    def statistics_tables(self, connection: Connection) -> list[str]:
        """Return those of sqlite_stat1 to sqlite_stat4 that exist. Source: sqlite.org/fileformat2.html, 2.6.3."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'sqlite_stat[1-4]' ORDER BY name"
        return [str(name) for (name,) in connection.exec_driver_sql(query)]

    def lock_tables(self, connection: Connection, tables: Iterable[str]) -> None:
        """Do nothing: the transaction already has the write lock."""

    def sort_on_disk(self, connection: Connection) -> None:
        """Override our PRAGMA temp_store=MEMORY. Source: sqlite.org/tempfiles.html, section 2.8."""
        connection.exec_driver_sql("PRAGMA temp_store=FILE")

    def empty(self, connection: Connection, table: str) -> None:
        """DELETE without WHERE, which SQLite does page by page. Source: sqlite.org/lang_delete.html, section 3."""
        connection.exec_driver_sql(f"DELETE FROM {connection.dialect.identifier_preparer.quote(table)}")


class PostgresqlDefinitions(Definitions):
    """PostgreSQL: the catalog has the parts of a definition; other connections read and write concurrently."""

    def of_table(self, connection: Connection, table: str, *, without_index: str) -> list[str]:
        """Return one text for each column and index."""
        inspector = inspect(connection)
        columns = [
            f"column {column['name']} {column['type']} {column['nullable']}" for column in inspector.get_columns(table)
        ]
        indexes = [
            f"index {index['name']} {index['column_names']} {index['unique']}"
            for index in inspector.get_indexes(table)
            if index["name"] != without_index
        ]
        return sorted(columns + indexes)

    def index_names(self, connection: Connection, table: str) -> set[str]:
        """Return the names from the catalog."""
        return {str(index["name"]) for index in inspect(connection).get_indexes(table)}

    def statistics_tables(self, connection: Connection) -> list[str]:
        """Return an empty list: statistics are in the server's own catalog."""
        return []

    def lock_tables(self, connection: Connection, tables: Iterable[str]) -> None:
        """Lock the tables, always in the same order."""
        quote = connection.dialect.identifier_preparer.quote
        if names := ", ".join(quote(table) for table in sorted(tables)):
            connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")

    def sort_on_disk(self, connection: Connection) -> None:
        """Do nothing: the server sorts within maintenance_work_mem."""

    def empty(self, connection: Connection, table: str) -> None:
        """TRUNCATE, which a rollback undoes."""
        connection.exec_driver_sql(f"TRUNCATE TABLE {connection.dialect.identifier_preparer.quote(table)}")


_BY_NAME: dict[str, Definitions] = {"sqlite": SqliteDefinitions(), "postgresql": PostgresqlDefinitions()}


def definitions_of(connection: Connection) -> Definitions:
    """Return the definitions for the database of a connection.

    Raises:
        ConfigurationError: the database is neither SQLite nor PostgreSQL.
    """
    try:
        return _BY_NAME[connection.dialect.name]
    except KeyError:
        raise ConfigurationError(f"{connection.dialect.name}: not supported") from None
