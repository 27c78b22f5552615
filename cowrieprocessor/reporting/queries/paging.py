"""Pages of a list that stay right while rows are added, in an order that is total everywhere.

A page is continued by a cursor `VALUE,ID` that names the last row shown: the value it was ordered by and its
identity. Rows that appear or move meanwhile neither shift the next page nor end it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, String, and_, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from cowrieprocessor.errors import ConfigurationError

Row = TypeVar("Row")


class Bytewise(FunctionElement[str]):
    """Text compared by its bytes, so that every database gives the same order.

    SQLite compares bytes anyway; PostgreSQL would use the language of its cluster and is told `COLLATE "C"`.
    """

    name = "bytewise"
    type = String()
    inherit_cache = True


@compiles(Bytewise)
def _plain(element: Bytewise, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(Bytewise, "postgresql")
def _collated(element: Bytewise, compiler: SQLCompiler, **options: Any) -> str:
    return f'({compiler.process(element.clauses, **options)} COLLATE "C")'


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows of a list, and the cursor of the next ones (None at the end)."""

    rows: tuple[Row, ...]
    next: str | None


def page_of(rows: Sequence[Row], limit: int, cursor_of: Callable[[Row], str]) -> Page[Row]:
    """Return the page for rows of which one more than `limit` was asked for."""
    shown = tuple(rows[:limit])
    return Page(shown, cursor_of(shown[-1]) if len(rows) > limit else None)


def time_cursor(moment: dt.datetime | None, identity: str) -> str:
    """Return the cursor of a row in a list ordered by time."""
    value = moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else ""
    return f"{value},{identity}"


def parse_time_cursor(cursor: str) -> tuple[dt.datetime | None, str]:
    """Return what `time_cursor` was made of.

    Raises:
        ConfigurationError: it is no such cursor.
    """
    value, comma, identity = cursor.partition(",")
    if not comma:
        raise _not_a_cursor(cursor)
    if not value:
        return None, identity
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        raise _not_a_cursor(cursor) from None
    if moment.tzinfo is None:
        raise _not_a_cursor(cursor)
    return moment, identity


def parse_count_cursor(cursor: str) -> tuple[int, str]:
    """Return the count and the identity in a cursor of a list ordered by a count.

    Raises:
        ConfigurationError: it is no such cursor.
    """
    value, comma, identity = cursor.partition(",")
    if not comma or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise _not_a_cursor(cursor)
    return int(value), identity


def _not_a_cursor(cursor: str) -> ConfigurationError:
    return ConfigurationError(f"--after {cursor!r}: not a cursor of this list; take the one printed below the page")


EARLIEST = dt.datetime.min.replace(tzinfo=dt.UTC)
"""A bound below every moment. SQLite's planner would rather sort a whole table for a page of one row than walk an
index that no condition speaks of; `value >= EARLIEST` speaks of it."""


def after_descending(
    value: ColumnElement[Any], last_value: object, identity: ColumnElement[Any], last_identity: str
) -> ColumnElement[bool]:
    """Return the condition for rows after one, in descending order of value and ascending order of identity.

    Written so that an index on the value alone gives the range.
    """
    return and_(value <= last_value, or_(value < last_value, identity > last_identity))
