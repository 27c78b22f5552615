"""Keyset pagination: pages that stay correct while rows are added, in an order that is total on every database.

A cursor `VALUE,ID` names the last row of a page: the value it is ordered by, and its identity. Rows that appear or
move in the meantime neither shift nor cut the next page.
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

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.events import utc_text

Row = TypeVar("Row")


class Bytewise(FunctionElement[str]):
    """Text compared by its bytes, so that every database gives the same order: see `SqlExpressions.binary`."""

    name = "bytewise"
    type = String()
    inherit_cache = True


@compiles(Bytewise)
def _compile_bytewise(element: Bytewise, compiler: SQLCompiler, **options: Any) -> str:
    return dialect_of(compiler).sql.binary(compiler.process(element.clauses, **options))


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows of a list, and the cursor of the next page; None on the last page."""

    rows: tuple[Row, ...]
    next: str | None


def page_of(rows: Sequence[Row], limit: int, cursor_of: Callable[[Row], str]) -> Page[Row]:
    """Return the page for the rows of a query with `limit + 1`: the extra row tells whether there is a next page."""
    page = tuple(rows[:limit])
    return Page(page, cursor_of(page[-1]) if len(rows) > limit else None)


def time_cursor(moment: dt.datetime | None, identity: str) -> str:
    """Return the cursor of a row in a list ordered by time."""
    value = f"{utc_text(moment).replace(' ', 'T')}Z" if moment else ""
    return f"{value},{identity}"


def parse_time_cursor(cursor: str) -> tuple[dt.datetime | None, str]:
    """Return the time and the identity in a cursor made by `time_cursor`; the time is None for an undated row.

    Raises:
        ConfigurationError: this is not such a cursor.
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
        ConfigurationError: this is not such a cursor.
    """
    value, comma, identity = cursor.partition(",")
    if not comma or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise _not_a_cursor(cursor)
    return int(value), identity


def _not_a_cursor(cursor: str) -> ConfigurationError:
    return ConfigurationError(f"--after {cursor!r}: not a cursor of this list; take the one printed below the page")


EARLIEST = dt.datetime.min.replace(tzinfo=dt.UTC)
"""A lower bound for every time. Without a condition on the indexed column, SQLite's planner sorts the whole table even
for a page of one row; `value >= EARLIEST` makes it walk the index."""


def after_descending(
    value: ColumnElement[Any], last_value: object, identity: ColumnElement[Any], last_identity: str
) -> ColumnElement[bool]:
    """Return the condition for rows after the last one, by descending value and ascending identity.

    Written so that an index on the value alone is enough for a range scan.
    """
    return and_(value <= last_value, or_(value < last_value, identity > last_identity))
