"""Lists of files: order, pages, filters, names."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import NotFound
from cowrieprocessor.reporting.queries.file_sessions import captured_on, list_file_sessions
from cowrieprocessor.reporting.queries.files import (
    FileFilter,
    FileListing,
    FileOrder,
    list_files,
)
from tests.unit.reporting.scene import add_file, add_hash, add_session, at, sha


def _hashes(engine: Engine, filters: FileFilter) -> list[str]:
    with read_transaction(engine) as connection:
        return [row.sha256 for row in list_files(connection, filters).rows]


@pytest.mark.parametrize("order", ["last-seen", "first-seen", "sessions"])
def test_pages_together_are_the_whole_list(engine: Engine, order: FileOrder) -> None:
    """Walking the pages gives every file once, in the list's order, though many have the same time and count."""
    rng = random.Random(7)
    rows = [(sha(n), at(rng.randrange(3)), at(9 + rng.randrange(3)), rng.randrange(1, 4)) for n in range(60)]
    with write_transaction(engine) as connection:
        for sha256, first, last, sessions in rng.sample(rows, len(rows)):
            add_hash(connection, sha256, first, last, session_count=sessions)
    key = {"first-seen": 1, "last-seen": 2, "sessions": 3}[order]
    by_hash = sorted(rows)
    expected = [row[0] for row in sorted(by_hash, key=lambda row: row[key], reverse=True)]
    walked: list[str] = []
    cursor = None
    with read_transaction(engine) as connection:
        while True:
            page = list_files(connection, order=order, limit=7, after=cursor)
            walked += [row.sha256 for row in page.rows]
            cursor = page.next
            if cursor is None:
                break
    assert expected == walked


def test_filters_pick_exactly_the_matching_files(engine: Engine) -> None:
    """Verdict, times, sensor and part of a name each leave exactly the files that match."""
    with write_transaction(engine) as connection:
        add_session(connection, "s1", at(1), sensor="lab")
        add_session(connection, "s2", at(2), sensor="office")
        add_hash(connection, sha(1), at(1), at(5), verdict="malicious")
        add_hash(connection, sha(2), at(2), at(3))
        add_hash(connection, sha(3), at(4))
        add_file(connection, "s1", sha(1), at(1), filename="/tmp/Redtail.x86")
        add_file(connection, "s2", sha(2), at(2), filename="/tmp/50%_off")
        add_file(connection, "artifact:lab", sha(3), at(4), origin="artifact")
    assert [sha(1)] == _hashes(engine, FileFilter(verdict="malicious"))
    assert [sha(1), sha(3)] == _hashes(engine, FileFilter(since=at(4)))
    assert [sha(1)] == _hashes(engine, FileFilter(until=at(2)))
    assert [sha(1), sha(3)] == _hashes(engine, FileFilter(sensor="lab"))
    assert [sha(2)] == _hashes(engine, FileFilter(sensor="office"))
    with pytest.raises(NotFound, match=r"no sensor 'lab%' in this database; it has: lab, office .*sensors list"):
        _hashes(engine, FileFilter(sensor="lab%"))
    assert [sha(1)] == _hashes(engine, FileFilter(name="redTAIL"))
    assert [sha(2)] == _hashes(engine, FileFilter(name="50%_"))
    assert _hashes(engine, FileFilter(name="5_%")) == []


def test_name_is_from_the_first_sighting_whatever_was_stored_first(engine: Engine) -> None:
    """A file is listed under the name in its first sighting, else in its last, else in any other."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(1), at(3))
        add_file(connection, "c", sha(1), at(3), filename="third")
        add_file(connection, "b", sha(1), at(2), filename="second")
        add_file(connection, "a", sha(1), at(1), filename="first")
        add_hash(connection, sha(2), at(1), at(3))
        add_file(connection, "a", sha(2), at(1))
        add_file(connection, "b", sha(2), at(2), filename="middle")
        add_file(connection, "c", sha(2), at(3), filename="last")
        add_hash(connection, sha(3), at(1), at(3))
        add_file(connection, "a", sha(3), at(1))
        add_file(connection, "b", sha(3), at(2), filename="somewhere")
        add_hash(connection, sha(4), at(1))
        add_file(connection, "d", sha(4), at(1))
    with read_transaction(engine) as connection:
        names = {row.sha256: row.name for row in list_files(connection).rows}
    assert {sha(1): "first", sha(2): "last", sha(3): "somewhere", sha(4): None} == names


def test_listing_has_the_properties_of_the_hash(engine: Engine) -> None:
    """A row has size, type, verdict, family and the engines' count of its hash."""
    with write_transaction(engine) as connection:
        add_hash(
            connection,
            sha(1),
            at(1),
            at(2),
            session_count=3,
            size_bytes=5_000_000_000,
            mime_type="application/x-executable",
            verdict="malicious",
            family="redtail",
            vt_positives=58,
            vt_total=72,
            enrichment_status="enriched",
        )
    expected = FileListing(
        sha256=sha(1),
        name=None,
        size_bytes=5_000_000_000,
        mime_type="application/x-executable",
        verdict="malicious",
        family="redtail",
        vt_positives=58,
        vt_total=72,
        session_count=3,
        first_seen=at(1),
        last_seen=at(2),
        enrichment_status="enriched",
    )
    with read_transaction(engine) as connection:
        assert (expected,) == list_files(connection).rows


def test_sessions_of_a_file_are_listed_latest_first_and_paged(engine: Engine) -> None:
    """The sessions of a file come latest first with address, user and sensor; a captured file is in none."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(1))
        for name in ("b", "a", "B", "ä"):
            add_session(connection, name, at(2), sensor="lab", src_ip="2001:db8::1", username="root")
            add_file(connection, name, sha(1), at(2), filename="x", download_url="http://198.51.100.7/x")
        add_file(connection, "artifact:box", sha(1), at(1), origin="artifact")
        add_file(connection, "elsewhere", sha(2), at(1))
        add_file(connection, "no-summary", sha(1), at(0))
    with read_transaction(engine) as connection:
        first = list_file_sessions(connection, sha(1), limit=3)
        second = list_file_sessions(connection, sha(1), limit=3, after=first.next)
        captured = list_file_sessions(connection, sha(1), captured=True).rows[4]
        sensors = captured_on(connection, sha(1))
    assert [row.session_id for row in first.rows + second.rows] == ["B", "a", "b", "ä", "no-summary"]
    assert second.next is None
    assert (first.rows[0].src_ip, first.rows[0].username, first.rows[0].sensor) == ("2001:db8::1", "root", "lab")
    assert second.rows[1].sensor is None
    assert (captured.session_id, captured.sensor, sensors) == ("artifact:box", "box", ("box",))
