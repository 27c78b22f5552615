"""The base class of the models, and the column types common to both databases."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, DateTime, Integer, MetaData, TypeDecorator, text
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import CreateColumn

UTC = dt.UTC
GENERATED_FROM_PAYLOAD = "generated_from_payload"
"""Key in `Column.info`: the field of the JSON payload from which SQLite computes this column.

On PostgreSQL the writer fills the column.
"""


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A datetime in UTC: timestamptz on PostgreSQL, text `YYYY-MM-DD HH:MM:SS.ffffff` on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Return the datetime in UTC.

        Raises:
            ValueError: the datetime is naive; its time zone would be a guess.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: give it a time zone")
        return value.astimezone(UTC)  # SQLite's text has no time zone

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Return the stored value as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


RowId = Integer().with_variant(BigInteger(), "postgresql")
"""A surrogate key: SQLite's rowid alias, a bigserial on PostgreSQL."""

ZERO = text("'0'")
FALSE = text("'0'")
EMPTY = text("''")


class Base(DeclarativeBase):
    """Declarative base; primary keys are named `pk_<table>` as in v3."""

    metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s"})
    type_annotation_map: ClassVar[dict[Any, Any]] = {dt.datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON}


@compiles(CreateColumn, "sqlite")
def _create_column(element: CreateColumn, compiler: Any, **options: Any) -> str:
    """Return the definition of a column for CREATE TABLE, as a generated column if its `info` asks for one."""
    column = element.element
    field = column.info.get(GENERATED_FROM_PAYLOAD)
    if field is None:
        return str(compiler.visit_create_column(element, **options))
    name = compiler.preparer.format_column(column)
    kind = compiler.dialect.type_compiler_instance.process(column.type, type_expression=column)
    return f"{name} {kind} GENERATED ALWAYS AS (json_extract(payload, '$.{field}')) VIRTUAL"
