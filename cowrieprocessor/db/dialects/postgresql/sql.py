"""The SQL expressions of PostgreSQL."""

from __future__ import annotations

from cowrieprocessor.db.dialects.sql import SqlExpressions

LOADING_LOCKS = 0x6C6F6164  # "load", the first key of our loaders' advisory locks


class PostgresqlExpressions(SqlExpressions):
    """PostgreSQL: other loaders write at the same time, and text compares by the database's collation."""

    def statement(self, sql: str) -> str:
        """Return the statement with psycopg's placeholders."""
        return sql.replace("%", "%%").replace("?", "%s")

    def time_value(self) -> str:
        """Return the placeholder with its type."""
        return "CAST(? AS TIMESTAMP WITH TIME ZONE)"

    def earliest(self, left: str, right: str) -> str:
        """Return LEAST, which ignores NULL."""
        return f"LEAST({left}, {right})"

    def latest(self, left: str, right: str) -> str:
        """Return GREATEST, which ignores NULL."""
        return f"GREATEST({left}, {right})"

    def binary(self, text: str) -> str:
        """Return the expression with the byte-wise collation."""
        return f'({text}) COLLATE "C"'

    def differs(self, left: str, right: str) -> str:
        """Return IS DISTINCT FROM."""
        return f"({left}) IS DISTINCT FROM ({right})"

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

    def moment(self, column: str) -> str:
        """Return the column formatted with to_char."""
        return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"

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
