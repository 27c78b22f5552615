"""Table definitions of PostgreSQL, reflected from its catalog, and table locks."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, inspect

from cowrieprocessor.db.dialects.definitions import Definitions


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
