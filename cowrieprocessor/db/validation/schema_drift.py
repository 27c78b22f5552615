"""The differences between the schema of a database and the schema that the models declare."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Inspector, Table, UniqueConstraint, inspect

from cowrieprocessor.db.columns import GENERATED_FROM_PAYLOAD
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import Base

V3_REDUNDANT_INDEX = "uq_raw_events_source_gen"
"""The redundant unique index of v3; a migrated database may have it."""

_V3_UNIQUES = {"raw_events": {("source", "source_offset")}}
"""Unique constraints by table that only v3 files have."""

_CAST = re.compile(r"::[a-z ]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference from the models.

    Attributes:
        table: the table.
        what: a description of the difference.
    """

    table: str
    what: str


def schema_drift(connection: Connection) -> list[Drift]:
    """Return what is missing or different; additional tables, columns and indexes do not matter.

    An additional unique constraint does matter, because it would reject valid rows, except for those of v3 files.
    """
    inspector = inspect(connection)
    existing = set(inspector.get_table_names())
    drifts: list[Drift] = []
    for name, table in sorted(Base.metadata.tables.items()):
        if name not in existing:
            drifts.append(Drift(name, "the table is missing"))
            continue
        for what in (
            *_compare_columns(connection, inspector, table),
            *_compare_indexes(inspector, table),
            *_compare_uniques(inspector, table),
        ):
            drifts.append(Drift(name, what))
    return drifts


def _compare_columns(connection: Connection, inspector: Inspector, table: Table) -> Iterator[str]:
    existing = {str(column["name"]): column for column in inspector.get_columns(table.name)}
    primary = inspector.get_pk_constraint(table.name)["constrained_columns"]
    declared = [column.name for column in table.primary_key.columns]
    if list(primary) != declared:
        yield f"the primary key is ({', '.join(primary)}) instead of ({', '.join(declared)})"
    for column in table.columns:
        reflected = existing.get(column.name)
        if reflected is None:
            yield f"the column {column.name} is missing"
            continue
        yield from _compare_type(connection, column, reflected)
        if column.info.get(GENERATED_FROM_PAYLOAD) is not None and dialect_of(connection).computes_event_columns:
            yield from _compare_expression(column, reflected)
        else:
            yield from _compare_default(column, reflected)


def _compare_type(connection: Connection, column: Column[Any], reflected: Any) -> Iterator[str]:
    declared, actual = (str(kind.compile(connection.dialect)) for kind in (column.type, reflected["type"]))
    if actual != declared:
        yield f"the column {column.name} is {actual} instead of {declared}"
    if bool(reflected["nullable"]) != bool(column.nullable):
        verb = "allows" if reflected["nullable"] else "does not allow"
        yield f"the column {column.name} {verb} NULL, contrary to its declaration"


def _compare_expression(column: Column[Any], reflected: Any) -> Iterator[str]:
    """Compare the expression of a generated column."""
    computed = str((reflected.get("computed") or {}).get("sqltext") or "")
    if "".join(computed.split()) != f"json_extract(payload,'$.{column.info[GENERATED_FROM_PAYLOAD]}')":
        yield f"the column {column.name} is computed as {computed or 'nothing'}"


def _compare_default(column: Column[Any], reflected: Any) -> Iterator[str]:
    """Compare the server default of a column that is not part of the primary key."""
    if not column.primary_key and _normalize_default(reflected["default"]) != _declared_default(column):
        yield f"the default of {column.name} is {reflected['default']} instead of {_declared_default(column)}"


def _normalize_default(default: object) -> str | None:
    if default is None:
        return None
    text = _CAST.sub("", str(default)).strip().strip("()").strip("'").lower()
    return "current_timestamp" if text in ("now", "current_timestamp") else {"false": "0"}.get(text, text)


def _declared_default(column: Column[Any]) -> str | None:
    declared = column.server_default
    if declared is None:
        return None
    argument = getattr(declared, "arg", None)
    return _normalize_default(argument if isinstance(argument, str) else str(argument))


def _compare_indexes(inspector: Inspector, table: Table) -> Iterator[str]:
    existing = {index["name"]: index for index in inspector.get_indexes(table.name)}
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        reflected = existing.get(str(index.name))
        declared = [_column_of(expression) for expression in index.expressions]
        if reflected is None:
            yield f"the index {index.name} is missing"
        elif list(reflected["column_names"]) != declared or bool(reflected["unique"]) != bool(index.unique):
            columns = ", ".join(str(name) for name in reflected["column_names"])
            yield f"the index {index.name} is on ({columns}) instead of ({', '.join(declared)})"


def _column_of(expression: Any) -> str:
    return str(getattr(expression, "name", None) or str(expression).split()[0])


def _compare_uniques(inspector: Inspector, table: Table) -> Iterator[str]:
    existing, declared = _existing_uniques(inspector, table), _declared_uniques(table)
    for columns in sorted(declared - existing):
        yield f"the unique constraint on ({', '.join(columns)}) is missing"
    for columns in sorted(existing - declared - _V3_UNIQUES.get(table.name, set())):
        yield f"a unique constraint on ({', '.join(columns)}) rejects valid rows"


def _existing_uniques(inspector: Inspector, table: Table) -> set[tuple[str, ...]]:
    """Return the columns of the unique constraints and unique indexes in the database."""
    constraints = {tuple(unique["column_names"]) for unique in inspector.get_unique_constraints(table.name)}
    return constraints | {
        tuple(str(name) for name in index["column_names"])
        for index in inspector.get_indexes(table.name)
        if index["unique"] and index["name"] != V3_REDUNDANT_INDEX
    }


def _declared_uniques(table: Table) -> set[tuple[str, ...]]:
    """Return the columns of the unique constraints in the model."""
    return {
        tuple(column.name for column in constraint.columns)
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
    }
