"""Statements on dead letters: selection, and positions of their values."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, insert

from cowrieprocessor.db.chunks import MAX_PARAMETERS
from cowrieprocessor.db.dead_letters import statements as table
from cowrieprocessor.db.dead_letters.positions import payload_at, source_keys_of, taken_offsets
from cowrieprocessor.db.dead_letters.statements import LetterFilter
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.db.models import DeadLetterEvent, RawEvent


def test_many_ids_are_looked_up_in_chunks(engine: Engine) -> None:
    """More ids than one statement may name, most of them missing, return the existing ones in order."""
    with write_transaction(engine) as connection:
        connection.execute(insert(DeadLetterEvent), [{"reason": "r", "payload": {"n": n}} for n in range(1_000)])
    ids = tuple(range(-2 * MAX_PARAMETERS, 1_200, 2))
    with read_transaction(engine) as connection:
        choice = LetterFilter(ids=ids)
        found, after = [], 0
        while part := table.next_ids(connection, choice, after, 901, 130):
            found += part
            after = part[-1]
        assert list(range(2, 901, 2)) == found
        assert {"r": 500} == table.count(connection, choice)
        letters = table.read_letters(connection, found)
        assert found == [letter.id for letter in letters]
        assert {letter.id: len(letter.payload) for letter in letters} == table.payload_chars(connection, found)


def test_sources_of_a_path(engine: Engine, tmp_path: Path) -> None:
    """The sources of a path are the path itself, as given and absolute, with unstorable characters escaped."""
    with read_transaction(engine) as connection:
        assert (str(tmp_path / "a"),) == table.sources_of(connection, str(tmp_path / "a"))
        assert {"a\x1b", "a\\x1b", str(Path.cwd() / "a\\x1b")} == set(table.sources_of(connection, "a\x1b"))


def test_source_keys_are_found_by_a_skip_scan(engine: Engine) -> None:
    """Each inode and generation of a source is returned once, also without an inode, and none of another source."""
    rows = [
        (source, inode, generation, offset)
        for source, inode, generation in (
            ("/a", "1", 0),
            ("/a", "1", 3),
            ("/a", "22", 0),
            ("/a", None, 0),
            ("/a", None, 2),
            ("/b", "9", 0),
        )
        for offset in range(4)
    ]
    with write_transaction(engine) as connection:
        columns = ("source", "source_inode", "source_generation", "source_offset")
        values = [dict(zip(columns, row, strict=True)) | {"payload": {"at": row[3]}} for row in rows]
        connection.execute(insert(RawEvent), values)
    with read_transaction(engine) as connection:
        found = source_keys_of(connection, "/a")
        assert [("/a", "1", 0), ("/a", "1", 3), ("/a", "22", 0), ("/a", None, 0), ("/a", None, 2)] == found
        assert [] == source_keys_of(connection, "/c")
        assert {1, 2, 3} == taken_offsets(connection, SourceKey("/a", None, 2), 1, 9)
        assert ('{"at": 2}', None) == (
            payload_at(connection, SourceKey("/a", None, 2), 2),
            payload_at(connection, SourceKey("/a", "1", 1), 2),
        )
