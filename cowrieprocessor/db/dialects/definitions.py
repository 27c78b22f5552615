"""What rolling back and the digest of v3's tables ask of a database: definitions, locks, room to sort in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from sqlalchemy import Connection, inspect

from cowrieprocessor.errors import ConfigurationError


class Definitions(ABC):
    """How one database tells what a table is, and how tables are taken away from it."""

    @abstractmethod
    def of_table(self, connection: Connection, table: str, *, without_index: str) -> list[str]:
        """Return a table's definition and those of its indexes, normalised and sorted, but for one index."""

    @abstractmethod
    def index_names(self, connection: Connection, table: str) -> set[str]:
        """Return the names of a table's indexes."""

    @abstractmethod
    def statistics_tables(self, connection: Connection) -> list[str]:
        """Return the tables that ANALYZE has made beside ours."""

    @abstractmethod
    def keep_others_out(self, connection: Connection, tables: Iterable[str]) -> None:
        """Have every other connection wait that wants one of the tables, until this transaction ends."""

    @abstractmethod
    def sort_on_disk(self, connection: Connection) -> None:
        """Let the connection sort in files instead of memory: the index of a large table is built by sorting.

        It has to be a new connection, and this the first statement of its transaction.
        """

    @abstractmethod
    def empty(self, connection: Connection, table: str) -> None:
        """Delete all rows of a table, at once however many there are."""


class SqliteDefinitions(Definitions):
    """SQLite: the statements that made everything are kept, and a writer is alone."""

    def of_table(self, connection: Connection, table: str, *, without_index: str) -> list[str]:
        """Return the statements, every run of white space as one blank."""
        query = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL AND name <> ?"
        return sorted(
            " ".join(str(sql).split()) for (sql,) in connection.exec_driver_sql(query, (table, without_index))
        )

    def index_names(self, connection: Connection, table: str) -> set[str]:
        """Return the names that SQLite's catalogue has."""
        query = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?"
        return {str(name) for (name,) in connection.exec_driver_sql(query, (table,))}

    def statistics_tables(self, connection: Connection) -> list[str]:
        """Return those of sqlite_stat1 to sqlite_stat4 that are there. Source: sqlite.org/fileformat2.html, 2.6.3."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'sqlite_stat[1-4]' ORDER BY name"
        return [str(name) for (name,) in connection.exec_driver_sql(query)]

    def keep_others_out(self, connection: Connection, tables: Iterable[str]) -> None:
        """Do nothing: the write lock is held since the transaction began."""

    def sort_on_disk(self, connection: Connection) -> None:
        """Turn off our own PRAGMA temp_store=MEMORY. Source: sqlite.org/tempfiles.html, section 2.8."""
        connection.exec_driver_sql("PRAGMA temp_store=FILE")

    def empty(self, connection: Connection, table: str) -> None:
        """DELETE without WHERE, which SQLite does by the page. Source: sqlite.org/lang_delete.html, section 3."""
        connection.exec_driver_sql(f"DELETE FROM {connection.dialect.identifier_preparer.quote(table)}")


class PostgresqlDefinitions(Definitions):
    """PostgreSQL: the catalogue knows the parts; others read and write meanwhile."""

    def of_table(self, connection: Connection, table: str, *, without_index: str) -> list[str]:
        """Return columns and indexes, one text each."""
        inspector = inspect(connection)
        columns = [f"column {one['name']} {one['type']} {one['nullable']}" for one in inspector.get_columns(table)]
        indexes = [
            f"index {one['name']} {one['column_names']} {one['unique']}"
            for one in inspector.get_indexes(table)
            if one["name"] != without_index
        ]
        return sorted(columns + indexes)

    def index_names(self, connection: Connection, table: str) -> set[str]:
        """Return the names that the catalogue has."""
        return {str(one["name"]) for one in inspect(connection).get_indexes(table)}

    def statistics_tables(self, connection: Connection) -> list[str]:
        """Return none: statistics are in the server's own catalogue."""
        return []

    def keep_others_out(self, connection: Connection, tables: Iterable[str]) -> None:
        """Lock the tables, in one order for all."""
        quote = connection.dialect.identifier_preparer.quote
        if names := ", ".join(quote(table) for table in sorted(tables)):
            connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")

    def sort_on_disk(self, connection: Connection) -> None:
        """Do nothing: the server sorts within maintenance_work_mem."""

    def empty(self, connection: Connection, table: str) -> None:
        """TRUNCATE, which is undone with its transaction."""
        connection.exec_driver_sql(f"TRUNCATE TABLE {connection.dialect.identifier_preparer.quote(table)}")


_BY_NAME: dict[str, Definitions] = {"sqlite": SqliteDefinitions(), "postgresql": PostgresqlDefinitions()}


def definitions_of(connection: Connection) -> Definitions:
    """Return how a connection's database tells of its tables.

    Raises:
        ConfigurationError: it is neither SQLite nor PostgreSQL.
    """
    try:
        return _BY_NAME[connection.dialect.name]
    except KeyError:
        raise ConfigurationError(f"{connection.dialect.name}: not supported") from None
