"""The shape of a schema as data, so that two databases can be compared."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from tests.other_connections import sqlite3

Shape = dict[str, dict[str, object]]

_TABLES = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"


def sqlite_shape(path: Path) -> Shape:
    """Return tables, columns and indexes of an SQLite file, read by the standard library's driver."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return {name: _sqlite_table(connection, name, sql) for name, sql in connection.execute(_TABLES)}


def _sqlite_table(connection: Any, table: str, sql: str) -> dict[str, object]:
    indexes: dict[str, object] = {}
    for _, name, unique, origin, partial in connection.execute(f"PRAGMA index_list({table})"):
        columns = connection.execute(f"PRAGMA index_xinfo({name})").fetchall()
        indexes[name] = (unique, origin, partial, columns)
    return {
        "sql": normalised(sql),
        "columns": connection.execute(f"PRAGMA table_xinfo({table})").fetchall(),
        "indexes": indexes,
    }


def normalised(sql: str) -> str:
    """Return a statement with every run of white space as one blank, and none beside brackets and commas."""
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.split()))


_PG_COLUMNS = """
    SELECT table_name, ordinal_position, column_name, data_type, udt_name, character_maximum_length,
           is_nullable, column_default, is_generated
    FROM information_schema.columns WHERE table_schema = current_schema()"""
_PG_INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
_PG_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = current_schema()::regnamespace"""


def postgres_shape(engine: Engine) -> Shape:
    """Return columns, indexes and constraints of the current schema of a PostgreSQL database."""
    shape: Shape = {}
    with engine.connect() as connection:
        for kind, query in (("columns", _PG_COLUMNS), ("indexes", _PG_INDEXES), ("constraints", _PG_CONSTRAINTS)):
            for table, *rest in connection.execute(text(query)):
                rows = shape.setdefault(table, {}).setdefault(kind, [])
                assert isinstance(rows, list)
                rows.append(tuple(rest))
    return {table: {kind: sorted(rows, key=repr) for kind, rows in kinds.items()} for table, kinds in shape.items()}  # type: ignore[call-overload]
