"""The few SQL expressions of the loader that differ between the databases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from sqlalchemy import Connection

from cowrieprocessor.errors import ConfigurationError

LOADING_LOCKS = 0x6C6F6164  # "load", the first key of our loaders' advisory locks


class SqlExpressions(ABC):
    """Expressions for merging a new row into an existing row."""

    computes_event_columns: ClassVar[bool]
    """Whether the database itself computes session_id, event_type and event_timestamp of raw_events."""

    @abstractmethod
    def statement(self, sql: str) -> str:
        """Return a statement with `?` as placeholders in the style of the driver."""

    @abstractmethod
    def earliest(self, left: str, right: str) -> str:
        """Return the smaller of two expressions; NULL only if both are."""

    @abstractmethod
    def latest(self, left: str, right: str) -> str:
        """Return the larger of two expressions; NULL only if both are."""

    @abstractmethod
    def binary(self, text: str) -> str:
        """Return a text expression that compares by its UTF-8 bytes."""

    @abstractmethod
    def merged_lists(self, left: str, right: str) -> str:
        """Return the sorted union of two JSON lists of texts; `left` counts as empty if it is not a list."""

    @abstractmethod
    def list_values(self, column: str) -> str:
        """Return a table `paths(value)` of the texts in a JSON list; empty if the column holds no list."""

    @abstractmethod
    def json_text(self, column: str) -> str:
        """Return the text of a JSON column."""

    @abstractmethod
    def seconds_between(self, first: str, last: str) -> str:
        """Return the seconds between two time columns, rounded to a few milliseconds; NULL if either is."""

    @abstractmethod
    def for_update(self) -> str:
        """Return the clause that locks the selected rows until the end of the transaction."""

    @abstractmethod
    def numbered_locks(self) -> str | None:
        """Return the statement that acquires numbered locks until the end of the transaction.

        Its parameter is the list of numbers. None if the database has only one writer at a time.
        """

    @abstractmethod
    def named_lock(self, key: int, *, shared: bool) -> str | None:
        """Return the statement that acquires one lock until the end of the transaction, beside others or alone.

        None if the database has only one writer at a time.
        """


class SqliteExpressions(SqlExpressions):
    """SQLite: a write transaction has the write lock from its start, and text compares by bytes."""

    computes_event_columns = True

    def statement(self, sql: str) -> str:
        """Return the statement unchanged: SQLite's drivers use `?`."""
        return sql

    def earliest(self, left: str, right: str) -> str:
        """Return SQLite's scalar min with coalesced arguments, because it is NULL if either argument is."""
        return f"min(coalesce({left}, {right}), coalesce({right}, {left}))"

    def latest(self, left: str, right: str) -> str:
        """Return SQLite's scalar max with coalesced arguments, because it is NULL if either argument is."""
        return f"max(coalesce({left}, {right}), coalesce({right}, {left}))"

    def binary(self, text: str) -> str:
        """Return the expression itself: BINARY is SQLite's default collation."""
        return text

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


class PostgresqlExpressions(SqlExpressions):
    """PostgreSQL: other loaders write at the same time, and text compares by the database's collation."""

    computes_event_columns = False

    def statement(self, sql: str) -> str:
        """Return the statement with psycopg's placeholders."""
        return sql.replace("%", "%%").replace("?", "%s")

    def earliest(self, left: str, right: str) -> str:
        """Return LEAST, which ignores NULL."""
        return f"LEAST({left}, {right})"

    def latest(self, left: str, right: str) -> str:
        """Return GREATEST, which ignores NULL."""
        return f"GREATEST({left}, {right})"

    def binary(self, text: str) -> str:
        """Return the expression with the byte-wise collation."""
        return f'({text}) COLLATE "C"'

    def merged_lists(self, left: str, right: str) -> str:
        """Return the union with json_array_elements_text."""
        first = f"CASE json_typeof({left}) WHEN 'array' THEN {left} ELSE '[]'::json END"
        return (
            '(SELECT json_agg(path ORDER BY path COLLATE "C") FROM ('
            f"SELECT json_array_elements_text({first}) UNION SELECT json_array_elements_text({right})) AS paths(path))"
        )

    def list_values(self, column: str) -> str:
        """Return json_array_elements_text."""
        array = f"CASE json_typeof({column}) WHEN 'array' THEN {column} ELSE '[]'::json END"
        return f"LATERAL json_array_elements_text({array}) AS paths(value)"

    def json_text(self, column: str) -> str:
        """Return the column as the text that was stored."""
        return f"{column}::text"

    def seconds_between(self, first: str, last: str) -> str:
        """Return the seconds of their difference."""
        return f"EXTRACT(EPOCH FROM {last} - {first})"

    def for_update(self) -> str:
        """Return the row lock."""
        return " FOR UPDATE"

    def numbered_locks(self) -> str:
        """Return advisory locks, acquired in the order of the list; locks with two keys do not clash with others."""
        return f"SELECT pg_advisory_xact_lock({LOADING_LOCKS}, number) FROM unnest(?::int[]) AS number"

    def named_lock(self, key: int, *, shared: bool) -> str:
        """Return an advisory lock with one key, which does not clash with those with two."""
        return f"SELECT pg_advisory_xact_lock{'_shared' if shared else ''}({key})"


_BY_NAME: dict[str, SqlExpressions] = {"sqlite": SqliteExpressions(), "postgresql": PostgresqlExpressions()}


def sql_of(connection: Connection) -> SqlExpressions:
    """Return the SQL expressions for the database of a connection.

    Raises:
        ConfigurationError: the database is neither SQLite nor PostgreSQL.
    """
    try:
        return _BY_NAME[connection.dialect.name]
    except KeyError:
        raise ConfigurationError(f"{connection.dialect.name}: not supported") from None
