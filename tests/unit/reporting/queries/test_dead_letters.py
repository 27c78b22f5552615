"""Lists of dead letters."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.reporting.queries.dead_letters import (
    EXCERPT_CHARS,
    ReasonCount,
    count_dead_letters,
    list_dead_letters,
)
from tests.unit.reporting.scene import add_dead_letter, at


def test_list_filters_counts_and_pages(engine: Engine) -> None:
    """The latest come first, resolved ones only on request, and the pages together are the list."""
    with write_transaction(engine) as connection:
        for line in range(5):
            add_dead_letter(connection, "not JSON", {"malformed": f"line {line}"}, source_offset=line, created_at=at(1))
        add_dead_letter(connection, "Validation", {}, metadata_json={"detail": "x"})
        add_dead_letter(connection, "validation", {}, resolved=True, resolved_at=at(2))
    with read_transaction(engine) as connection:
        first = list_dead_letters(connection, reason="not JSON", limit=3)
        second = list_dead_letters(connection, reason="not JSON", limit=3, after=first.next)
        everything = list_dead_letters(connection, resolved=True)
        unresolved = count_dead_letters(connection)
        all_counts = count_dead_letters(connection, resolved=True)
    assert [row.source_offset for row in first.rows + second.rows] == [4, 3, 2, 1, 0]
    assert (second.next, len(everything.rows)) == (None, 7)
    assert (True, at(2)) == (everything.rows[0].resolved, everything.rows[0].resolved_at)
    assert everything.rows[1].details == {"detail": "x"}
    assert (ReasonCount("not JSON", 5), ReasonCount("Validation", 1)) == unresolved
    assert (ReasonCount("not JSON", 5), ReasonCount("Validation", 1), ReasonCount("validation", 1)) == all_counts


def test_only_the_beginning_of_a_payload_is_read(engine: Engine) -> None:
    """Of a payload of a megabyte the list has an excerpt and the length."""
    with write_transaction(engine) as connection:
        add_dead_letter(connection, "not JSON", {"malformed": "x" * 1_000_000})
    with read_transaction(engine) as connection:
        (row,) = list_dead_letters(connection).rows
    assert (EXCERPT_CHARS, 1_000_000 + len('{"malformed": ""}')) == (len(row.excerpt), row.payload_chars)
    assert row.excerpt.startswith('{"malformed": "xxx')


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1" * 30, "²"])
def test_an_invalid_cursor_is_refused(engine: Engine, cursor: str) -> None:
    """A cursor that is not an id is an error."""
    with read_transaction(engine) as connection, pytest.raises(ConfigurationError, match="--after"):
        list_dead_letters(connection, after=cursor)
