"""How the schema of a database differs from the one that the models declare."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Inspector, Table, inspect

from cowrieprocessor.db.columns import GENERATED_FROM_PAYLOAD
from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.models import Base

V3_REDUNDANT_INDEX = "uq_raw_events_source_gen"
"""v3's second unique index; a migrated database may have it."""

_CAST = re.compile(r"::[a-z ]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as declared: in which table, and what."""

    table: str
    what: str


def schema_drift(connection: Connection) -> list[Drift]:
    """Return what is missing or different; tables, columns and indexes that others added do not matter.

    A unique constraint too many would keep rows out, so it does matter, but for those that v3 files have.
    """
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    found: list[Drift] = []
    for name, table in sorted(Base.metadata.tables.items()):
        if name not in present:
            found.append(Drift(name, "the table is missing"))
            continue
        for what in (*_columns(connection, inspector, table), *_indexes(inspector, table), *_uniques(inspector, table)):
            found.append(Drift(name, what))
    return found


def _columns(connection: Connection, inspector: Inspector, table: Table) -> Iterator[str]:
    present = {str(column["name"]): column for column in inspector.get_columns(table.name)}
    primary = inspector.get_pk_constraint(table.name)["constrained_columns"]
    declared = [column.name for column in table.primary_key.columns]
    if list(primary) != declared:
        yield f"the primary key is ({', '.join(primary)}), declared is ({', '.join(declared)})"
    for column in table.columns:
        found = present.get(column.name)
        if found is None:
            yield f"the column {column.name} is missing"
            continue
        yield from _column(connection, column, found)


def _column(connection: Connection, column: Column[Any], found: Any) -> Iterator[str]:
    should, does = (str(kind.compile(connection.dialect)) for kind in (column.type, found["type"]))
    if should != does:
        yield f"the column {column.name} is {does}, declared is {should}"
    if bool(found["nullable"]) != bool(column.nullable):
        yield f"the column {column.name} {'may' if found['nullable'] else 'may not'} be NULL, declared is the opposite"
    field = column.info.get(GENERATED_FROM_PAYLOAD)
    if field is not None and sql_of(connection).computes_event_columns:
        computed = str((found.get("computed") or {}).get("sqltext") or "")
        if "".join(computed.split()) != f"json_extract(payload,'$.{field}')":
            yield f"the column {column.name} is computed as {computed or 'nothing'}"
    elif not column.primary_key and _default(found["default"]) != _declared_default(column):
        yield f"the default of {column.name} is {found['default']}, declared is {_declared_default(column)}"


def _default(found: object) -> str | None:
    if found is None:
        return None
    text = _CAST.sub("", str(found)).strip().strip("()").strip("'").lower()
    return "current_timestamp" if text in ("now", "current_timestamp") else {"false": "0"}.get(text, text)


def _declared_default(column: Column[Any]) -> str | None:
    declared = column.server_default
    if declared is None:
        return None
    argument = getattr(declared, "arg", None)
    return _default(argument if isinstance(argument, str) else str(argument))


def _indexes(inspector: Inspector, table: Table) -> Iterator[str]:
    present = {index["name"]: index for index in inspector.get_indexes(table.name)}
    for index in sorted(table.indexes, key=lambda one: str(one.name)):
        found = present.get(str(index.name))
        declared = [_column_of(expression) for expression in index.expressions]
        if found is None:
            yield f"the index {index.name} is missing"
        elif list(found["column_names"]) != declared or bool(found["unique"]) != bool(index.unique):
            columns = ", ".join(str(name) for name in found["column_names"])
            yield f"the index {index.name} is on ({columns}), declared is ({', '.join(declared)})"


def _column_of(expression: Any) -> str:
    return str(getattr(expression, "name", None) or str(expression).split()[0])


def _uniques(inspector: Inspector, table: Table) -> Iterator[str]:
    present = {tuple(one["column_names"]) for one in inspector.get_unique_constraints(table.name)}
    present |= {
        tuple(str(name) for name in one["column_names"])
        for one in inspector.get_indexes(table.name)
        if one["unique"] and one["name"] != V3_REDUNDANT_INDEX
    }
    declared = {
        tuple(column.name for column in one.columns)  # type: ignore[attr-defined]
        for one in table.constraints
        if type(one).__name__ == "UniqueConstraint"
    }
    legacy = {("source", "source_offset")} if table.name == "raw_events" else set()
    for columns in sorted(declared - present):
        yield f"the unique constraint on ({', '.join(columns)}) is missing"
    for columns in sorted(present - declared - legacy):
        yield f"a unique constraint on ({', '.join(columns)}) keeps rows out that belong there"
