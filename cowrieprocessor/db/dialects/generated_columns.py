"""Columns that SQLite computes from a JSON payload and that the writer fills on PostgreSQL.

A column says so itself: `Column(info={GENERATED_FROM_PAYLOAD: "session"})`. SQLite then gets v3's clause.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn

from cowrieprocessor.db.models import GENERATED_FROM_PAYLOAD


@compiles(CreateColumn, "sqlite")
def _create_column(element: CreateColumn, compiler: Any, **options: Any) -> str:
    """Return the column's definition in CREATE TABLE, computed from the payload where the column says so."""
    column = element.element
    field = column.info.get(GENERATED_FROM_PAYLOAD)
    if field is None:
        return str(compiler.visit_create_column(element, **options))
    name = compiler.preparer.format_column(column)
    kind = compiler.dialect.type_compiler_instance.process(column.type, type_expression=column)
    return f"{name} {kind} GENERATED ALWAYS AS (json_extract(payload, '$.{field}')) VIRTUAL"
