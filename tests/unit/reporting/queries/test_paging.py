"""Cursors, and the order that is the same on every database."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import column, select
from sqlalchemy.dialects import postgresql, sqlite

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.reporting.queries.paging import (
    Bytewise,
    page_of,
    parse_count_cursor,
    parse_time_cursor,
    time_cursor,
)


def test_time_cursor_round_trips() -> None:
    """A time cursor keeps the microseconds, and everything in the identity, commas too."""
    moment = dt.datetime(2026, 11, 21, 1, 2, 3, 4, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert (moment, "a,b") == parse_time_cursor(time_cursor(moment, "a,b"))
    assert parse_time_cursor(time_cursor(None, "x")) == (None, "x")


@pytest.mark.parametrize("cursor", ["", "nonsense", "yesterday,a", "2026-11-21T00:00:00,a", "2026-11-21"])
def test_an_invalid_time_cursor_is_refused(cursor: str) -> None:
    """A text that is not a cursor of a list by time is an error that names `--after`."""
    with pytest.raises(ConfigurationError, match="--after"):
        parse_time_cursor(cursor)


@pytest.mark.parametrize("cursor", ["", "5", "-5,a", "٣,a", "1" * 30 + ",a", "2026-11-21T00:00:00Z,a"])
def test_an_invalid_count_cursor_is_refused(cursor: str) -> None:
    """A text that is not a cursor of a list by a count is an error, also digits of other scripts and huge numbers."""
    with pytest.raises(ConfigurationError, match="--after"):
        parse_count_cursor(cursor)


def test_the_last_page_has_no_cursor() -> None:
    """Only a page with rows after it has a cursor."""
    assert page_of([1, 2], 2, str).next is None
    assert page_of([1, 2, 3], 2, str).next == "2"
    assert page_of([1, 2, 3], 2, str).rows == (1, 2)


def test_order_is_bytewise_on_both_databases() -> None:
    """PostgreSQL gets the collation that compares bytes; SQLite compares bytes by default and gets the bare column."""
    query = select(column("a")).order_by(Bytewise(column("a")))
    assert 'ORDER BY (a) COLLATE "C"' in str(query.compile(dialect=postgresql.dialect()))
    assert str(query.compile(dialect=sqlite.dialect())).endswith("ORDER BY a")
