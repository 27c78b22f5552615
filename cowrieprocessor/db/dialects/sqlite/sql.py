"""The SQL expressions of SQLite."""

from __future__ import annotations

from cowrieprocessor.db.dialects.sql import SqlExpressions


class SqliteExpressions(SqlExpressions):
    """SQLite: a write transaction has the write lock from its start, and text compares by bytes."""

    def statement(self, sql: str) -> str:
        """Return the statement unchanged: SQLite's drivers use `?`."""
        return sql

    def time_value(self) -> str:
        """Return the bare placeholder: times are texts."""
        return "?"

    def earliest(self, left: str, right: str) -> str:
        """Return SQLite's scalar min with coalesced arguments, because it is NULL if either argument is."""
        return f"min(coalesce({left}, {right}), coalesce({right}, {left}))"

    def latest(self, left: str, right: str) -> str:
        """Return SQLite's scalar max with coalesced arguments, because it is NULL if either argument is."""
        return f"max(coalesce({left}, {right}), coalesce({right}, {left}))"

    def binary(self, text: str) -> str:
        """Return the expression itself: BINARY is SQLite's default collation."""
        return text

    def differs(self, left: str, right: str) -> str:
        """Return SQLite's IS NOT."""
        return f"({left}) IS NOT ({right})"

    def merged_lists(self, left: str, right: str) -> str:
        """Return the union with json_each; usually the two are equal."""
        return (
            f"CASE WHEN {left} = {right} THEN {left} ELSE (SELECT json_group_array(value) FROM ("
            f"SELECT value FROM json_each(CASE json_type({left}) WHEN 'array' THEN {left} ELSE '[]' END) UNION "
            f"SELECT value FROM json_each({right}) ORDER BY 1)) END"
        )

    def list_values(self, column: str) -> str:
        """Return json_each."""
        return f"json_each(CASE json_type({column}) WHEN 'array' THEN {column} ELSE '[]' END) AS paths"

    def json_text(self, column: str) -> str:
        """Return the column itself: JSON is text."""
        return column

    def moment(self, column: str) -> str:
        """Return the column, with the decimals that SQLite's CURRENT_TIMESTAMP omits."""
        return f"CASE length({column}) WHEN 19 THEN {column} || '.000000' ELSE {column} END"

    def seconds_between(self, first: str, last: str) -> str:
        """Return the difference of their Julian day numbers."""
        return f"((julianday({last}) - julianday({first})) * 86400.0)"

    def for_update(self) -> str:
        """Return an empty text: there is no other writer."""
        return ""

    def numbered_locks(self) -> None:
        """Return None: there is no other writer."""
        return

    def named_lock(self, key: int, *, shared: bool) -> None:
        """Return None: there is no other writer."""
        return
