"""Table definitions of SQLite, read from its catalog."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.definitions import Definitions


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
