"""Lists of sessions, and one session with its events in order."""

from __future__ import annotations

import datetime as dt
import random

import pytest
from sqlalchemy import Engine, insert

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import SessionSensor
from cowrieprocessor.errors import NotFound
from cowrieprocessor.reporting.queries.sessions import (
    SessionCommand,
    SessionFilter,
    list_sessions,
    session_details,
)
from tests.unit.reporting.scene import add_events, add_file, add_session, at, sha


def _ids(engine: Engine, filters: SessionFilter) -> list[str]:
    with read_transaction(engine) as connection:
        return [row.session_id for row in list_sessions(connection, filters).rows]


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_pages_together_are_the_whole_list(engine: Engine, size: int) -> None:
    """Walking the pages gives every session once: latest first, ties by id in bytes, those without a time last."""
    rng = random.Random(3)
    names = [f"{prefix}{n}" for n in range(8) for prefix in ("a", "B", "ä", "_")]
    times = {name: rng.choice([at(1), at(2), None]) for name in names}
    with write_transaction(engine) as connection:
        for name in rng.sample(names, len(names)):
            add_session(connection, name, times[name])
    dated = sorted((name for name in names if times[name]), key=str.encode)
    expected = sorted(dated, key=lambda name: times[name] or at(0), reverse=True)
    expected += sorted((name for name in names if times[name] is None), key=str.encode)
    walked: list[str] = []
    cursor = None
    with read_transaction(engine) as connection:
        for _ in range(len(names) + 1):
            page = list_sessions(connection, limit=size, after=cursor)
            walked += [row.session_id for row in page.rows]
            cursor = page.next
            if cursor is None:
                break
    assert expected == walked


def test_filters_pick_exactly_the_matching_sessions(engine: Engine) -> None:
    """Time, address, sensor, files and flags each leave exactly the sessions that match; `until` is not included."""
    long_name = "a-very-long-host-name-of-a-container-0001"
    with write_transaction(engine) as connection:
        add_session(connection, "early", at(0), src_ip="10.0.0.1")
        add_session(connection, "late", at(5), sensor="office", vt_flagged=True)
        add_session(connection, "later", at(6), dshield_flagged=True, src_ip=None, attributes=False)
        add_session(connection, "undated", None, sensor=long_name[:31] + "…")
        add_file(connection, "early", sha(1), at(0))
    assert _ids(engine, SessionFilter(since=at(5))) == ["later", "late"]
    assert _ids(engine, SessionFilter(until=at(5))) == ["early"]
    assert _ids(engine, SessionFilter(src_ip="10.0.0.1")) == ["early"]
    assert _ids(engine, SessionFilter(sensor="office")) == ["late"]
    assert _ids(engine, SessionFilter(sensor=long_name)) == ["undated"]
    assert _ids(engine, SessionFilter(with_files=True)) == ["early"]
    assert _ids(engine, SessionFilter(flagged=True)) == ["later", "late"]
    assert _ids(engine, SessionFilter()) == ["later", "late", "early", "undated"]


def test_listing_joins_attributes_and_counts_files(engine: Engine) -> None:
    """A listed session has its address, user and number of files; without attributes these are empty."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(2), username="root", login_success=False, commands={"id": 2, "w": 1})
        add_session(connection, "b", at(1), attributes=False)
        for number in (1, 2):
            add_file(connection, "a", sha(number), at(2))
    with read_transaction(engine) as connection:
        first, second = list_sessions(connection).rows
    assert (
        first.src_ip,
        first.protocol,
        first.username,
        first.login_success,
        first.files,
        first.command_count,
    ) == ("203.0.113.5", "ssh", "root", False, 2, 3)
    assert (second.src_ip, second.username, second.login_success, second.files) == (None, None, None, 0)


def test_events_come_in_order_of_time_whatever_their_zone(engine: Engine) -> None:
    """Events are ordered by their moment in UTC, then by their line; those without a readable time come last."""
    stamps = [
        "2026-11-21T03:00:00.000000Z",
        "not a time",
        "2026-11-21T03:30:00+0200",
        "2026-11-21T03:00:00.000000Z",
        None,
        "2026-11-21T01:29:59Z",
    ]
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1))
        add_events(
            connection,
            [
                {"session": "a", "eventid": "cowrie.command.input", "input": str(n)}
                | ({"timestamp": stamp} if stamp else {})
                for n, stamp in enumerate(stamps)
            ]
            + [{"session": "b", "eventid": "x", "timestamp": "2026-11-21T00:00:00Z"}],
        )
    with read_transaction(engine) as connection:
        details = session_details(connection, "a")
        cut = session_details(connection, "a", limit=2)
    assert [event.fields["input"] for event in details.events] == ["5", "2", "0", "3", "1", "4"]
    assert [dt.datetime(2026, 11, 21, 1, 30, tzinfo=dt.UTC), None] == [details.events[1].at, details.events[5].at]
    assert details.events_total == 6
    assert ([event.fields["input"] for event in cut.events], cut.events_total) == (["5", "2"], 6)


def test_details_have_files_and_commands_up_to_the_limit(engine: Engine) -> None:
    """Files come by time and commands by frequency, each up to the limit, with how many there are."""
    with write_transaction(engine) as connection:
        add_session(
            connection, "a", at(1), commands={"b": 2, "a": 2, "c": 5}, source_files=["/logs/1.json", "/logs/2.json"]
        )
        for number, hours in ((3, 1), (1, 2), (2, 1)):
            add_file(connection, "a", sha(number), at(hours), filename=f"n{number}", file_size=7)
    with read_transaction(engine) as connection:
        details = session_details(connection, "a", limit=2)
    assert (SessionCommand("c", 5, False), SessionCommand("a", 2, False)) == details.commands
    assert ([sha(2), sha(3)], 3, 3) == (
        [file.sha256 for file in details.files],
        details.files_total,
        details.commands_total,
    )
    assert details.source_files == ("/logs/1.json", "/logs/2.json")


def test_json_null_instead_of_a_list_is_an_empty_list(engine: Engine) -> None:
    """A session whose list of logs is the JSON text null, as in version 3, has no logs."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1), source_files=None)
    with read_transaction(engine) as connection:
        assert session_details(connection, "a").source_files == ()


def test_an_unknown_session_is_not_found(engine: Engine) -> None:
    """An unknown session is an error that names it and the list."""
    with read_transaction(engine) as connection, pytest.raises(NotFound, match=r"no session zz.*sessions list"):
        session_details(connection, "zz")


LONG = "a sensor with a name of more than 32 characters"


@pytest.mark.parametrize("name", ["vm", LONG])
def test_sessions_whose_sensor_v3_left_empty_are_found(engine: Engine, name: str) -> None:
    """Where v3's column is empty the name of the events decides; where it says a name, that one does."""
    with write_transaction(engine) as connection:
        for session_id, stored, logged in (
            ("empty", None, name),
            ("filled", name[:31] + "…" if name == LONG else name, name),
            ("unnamed", None, None),
            ("other", None, "other"),
        ):
            add_session(connection, session_id, at(1), sensor=stored)
            connection.execute(insert(SessionSensor).values(session_id=session_id, logged_sensor=logged))

    assert _ids(engine, SessionFilter(sensor=name)) == ["empty", "filled"]
    assert _ids(engine, SessionFilter(sensor="other")) == ["other"]
