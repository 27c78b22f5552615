"""How each database writes the few expressions that the loader's merges need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from sqlalchemy import Connection

from cowrieprocessor.errors import ConfigurationError

LOADING_LOCKS = 0x6C6F6164  # "load", the first key of our loaders' advisory locks


class SqlExpressions(ABC):
    """Expressions for merging a new row into the one that is there."""

    computes_event_columns: ClassVar[bool]
    """Whether raw_events reads session_id, event_type and event_timestamp from the payload by itself."""

    @abstractmethod
    def statement(self, sql: str) -> str:
        """Return a statement written with `?` for its values in the driver's own style."""

    @abstractmethod
    def earliest(self, one: str, other: str) -> str:
        """Return the smaller of two expressions, or the one that is not NULL."""

    @abstractmethod
    def latest(self, one: str, other: str) -> str:
        """Return the larger of two expressions, or the one that is not NULL."""

    @abstractmethod
    def binary(self, text: str) -> str:
        """Return a text expression that compares by its UTF-8 bytes."""

    @abstractmethod
    def merged_lists(self, one: str, other: str) -> str:
        """Return the sorted union of two JSON lists of texts; what is no list counts as empty."""

    @abstractmethod
    def json_text(self, column: str) -> str:
        """Return the text of a JSON column."""

    @abstractmethod
    def for_update(self) -> str:
        """Return the clause that keeps a row that was read from changing until the end of the transaction."""

    @abstractmethod
    def numbered_locks(self) -> str | None:
        """Return the statement that waits for locks, held until the end of the transaction; its value is a list.

        None where whoever writes is alone anyway.
        """


class SqliteExpressions(SqlExpressions):
    """SQLite: the write lock is held from the beginning, text compares by bytes."""

    computes_event_columns = True

    def statement(self, sql: str) -> str:
        """Return the statement as it is: SQLite's drivers use `?`."""
        return sql

    def earliest(self, one: str, other: str) -> str:
        """Return SQLite's scalar min, which is NULL if either argument is."""
        return f"min(coalesce({one}, {other}), coalesce({other}, {one}))"

    def latest(self, one: str, other: str) -> str:
        """Return SQLite's scalar max, which is NULL if either argument is."""
        return f"max(coalesce({one}, {other}), coalesce({other}, {one}))"

    def binary(self, text: str) -> str:
        """Return the expression itself: BINARY is SQLite's default."""
        return text

    def merged_lists(self, one: str, other: str) -> str:
        """Return the union through json_each; most often the two are equal."""
        return (
            f"CASE WHEN {one} = {other} THEN {one} ELSE (SELECT json_group_array(value) FROM ("
            f"SELECT value FROM json_each(CASE json_type({one}) WHEN 'array' THEN {one} ELSE '[]' END) UNION "
            f"SELECT value FROM json_each({other}) ORDER BY 1)) END"
        )

    def json_text(self, column: str) -> str:
        """Return the column itself: JSON is text."""
        return column

    def for_update(self) -> str:
        """Return nothing: nobody else writes."""
        return ""

    def numbered_locks(self) -> None:
        """Return None: nobody else writes."""
        return


class PostgresqlExpressions(SqlExpressions):
    """PostgreSQL: other loaders write at the same time, and text compares by the database's collation."""

    computes_event_columns = False

    def statement(self, sql: str) -> str:
        """Return the statement with psycopg's placeholders."""
        return sql.replace("%", "%%").replace("?", "%s")

    def earliest(self, one: str, other: str) -> str:
        """Return LEAST, which passes over NULL."""
        return f"LEAST({one}, {other})"

    def latest(self, one: str, other: str) -> str:
        """Return GREATEST, which passes over NULL."""
        return f"GREATEST({one}, {other})"

    def binary(self, text: str) -> str:
        """Return the expression with the collation that compares bytes."""
        return f'({text}) COLLATE "C"'

    def merged_lists(self, one: str, other: str) -> str:
        """Return the union through json_array_elements_text."""
        first = f"CASE json_typeof({one}) WHEN 'array' THEN {one} ELSE '[]'::json END"
        return (
            '(SELECT json_agg(path ORDER BY path COLLATE "C") FROM ('
            f"SELECT json_array_elements_text({first}) UNION SELECT json_array_elements_text({other})) AS paths(path))"
        )

    def json_text(self, column: str) -> str:
        """Return the column as the text that was stored."""
        return f"{column}::text"

    def for_update(self) -> str:
        """Return the row lock."""
        return " FOR UPDATE"

    def numbered_locks(self) -> str:
        """Return advisory locks, taken in the order of the list; those with two keys are nobody else's."""
        return f"SELECT pg_advisory_xact_lock({LOADING_LOCKS}, number) FROM unnest(?::int[]) AS number"


_BY_NAME: dict[str, SqlExpressions] = {"sqlite": SqliteExpressions(), "postgresql": PostgresqlExpressions()}


def sql_of(connection: Connection) -> SqlExpressions:
    """Return how a connection's database writes.

    Raises:
        ConfigurationError: it is neither SQLite nor PostgreSQL.
    """
    try:
        return _BY_NAME[connection.dialect.name]
    except KeyError:
        raise ConfigurationError(f"{connection.dialect.name}: not supported") from None
