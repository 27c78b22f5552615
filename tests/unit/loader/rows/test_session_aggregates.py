"""What events say about their sessions: the same in whatever order and batches they come."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowrieprocessor.events import (
    CLIENT_KEX,
    COMMAND_INPUT,
    EVENT_NAMES,
    FILE_DOWNLOAD,
    FILE_DOWNLOAD_FAILED,
    FILE_UPLOAD,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    SESSION_CLOSED,
    SESSION_CONNECT,
    Event,
    parse_event,
)
from cowrieprocessor.loader.rows.session_aggregates import (
    CONNECT,
    NO_MOMENT,
    OTHER,
    AttributeAggregate,
    CommandAggregate,
    LoginAggregate,
    SessionAggregate,
    SessionAggregates,
)


def event(name: str | None = None, *, session: str | None = "s", timestamp: Any = None, **fields: Any) -> Event:
    """Return an event with these fields."""
    found = {"eventid": name, "session": session, "timestamp": timestamp, **fields}
    raw = json.dumps({key: value for key, value in found.items() if value is not None}).encode()
    made = parse_event(raw, json.loads(raw))
    assert isinstance(made, Event)
    return made


def at(second: int) -> str:
    """Return a timestamp."""
    return f"2026-11-21T23:48:{second:02}.000000Z"


def moment(second: int) -> str:
    """Return the same time in its stored form."""
    return f"2026-11-21 23:48:{second:02}.000000"


def tallied(*events: Event) -> SessionAggregates:
    """Return the aggregates of events."""
    tallies = SessionAggregates()
    for one in events:
        tallies.add(one)
    return tallies


def session(*events: Event) -> SessionAggregate:
    """Return the aggregate of the only session of events."""
    (tally,) = tallied(*events).sessions.values()
    return tally


def attributes(*events: Event) -> AttributeAggregate:
    """Return the attributes of the only session of events."""
    (tally,) = tallied(*events).attributes.values()
    return tally


# --- counters ---


def test_every_event_counts_for_its_session() -> None:
    """Each event counts once, whatever its type; only the numbers of its session change."""
    found = tallied(
        event(SESSION_CONNECT), event("cowrie.teapot"), event(None), event(SESSION_CLOSED, session="t")
    ).sessions

    assert {name: tally.event_count for name, tally in found.items()} == {"s": 3, "t": 1}


@pytest.mark.parametrize("nobody", [None, ""])
def test_event_without_a_session_is_not_counted(nobody: str | None) -> None:
    """An event without a session, or with an empty one, is not counted."""
    assert tallied(event(LOGIN_FAILED, session=nobody), event(COMMAND_INPUT, session=nobody, input="w")) == (
        SessionAggregates()
    )


def test_counters_by_event_type() -> None:
    """Logins of either outcome, commands and downloads are counted; uploads and failed downloads are not."""
    names = [
        *[LOGIN_SUCCESS] * 1,
        *[LOGIN_FAILED] * 2,
        *[COMMAND_INPUT] * 3,
        *[FILE_DOWNLOAD] * 4,
        *[FILE_DOWNLOAD_FAILED] * 5,
        *[FILE_UPLOAD] * 6,
        "cowrie.command.failed",
    ]
    tally = session(*(event(name) for name in names))

    assert (tally.login_attempts, tally.command_count, tally.file_downloads, tally.event_count) == (3, 3, 4, 22)


def test_first_and_last_time() -> None:
    """The first and last time are those of the earliest and latest event with a time, in UTC."""
    tally = session(
        event(timestamp=at(20)),
        event(timestamp="yesterday"),
        event(timestamp="2026-11-22T01:48:05.000000+0200"),
        event(timestamp=at(30)),
        event(),
    )

    assert (tally.first_event_at, tally.last_event_at) == (moment(5), moment(30))


def test_session_without_any_time_has_none() -> None:
    """A session whose events have no readable time has no first and last time, but is counted."""
    assert session(event(timestamp="yesterday"), event()) == SessionAggregate(event_count=2)


@pytest.mark.parametrize(
    ("sensors", "expected"),
    [
        (["b", "a", "b"], {"a", "b"}),
        ([None, "b", ""], {"b"}),
        ([None, ""], set()),
        ([["a"], 5, {"a": 1}], set()),
        (["x" * 40, "x" * 41], {"x" * 40, "x" * 41}),
        (["\x1b[31m"], {r"\x1b[31m"}),
    ],
)
def test_sensors_are_the_names_in_the_events(sensors: list[Any], expected: set[str]) -> None:
    """A session's sensors are the names in its events, inert and whole; empty names are ignored."""
    assert session(*(event(sensor=sensor) for sensor in sensors)).sensors == expected


def test_the_first_and_the_last_connect_are_kept() -> None:
    """Of several connects of a session the first and the last time are kept; other events do not count."""
    found = session(event(timestamp=at(1)), *(event(SESSION_CONNECT, timestamp=at(second)) for second in (5, 3, 4)))

    assert (found.first_connect_at, found.last_connect_at) == (moment(3), moment(5))


# --- attributes ---


def test_address_and_protocol_are_of_the_earliest_connect() -> None:
    """Address and protocol are those of the earliest connect, even if it comes last."""
    found = attributes(
        event(SESSION_CONNECT, timestamp=at(9), src_ip="198.51.100.1", protocol="ssh"),
        event(SESSION_CONNECT, src_ip="198.51.100.0", protocol="ssh"),
        event(SESSION_CONNECT, timestamp=at(3), src_ip="198.51.100.2", protocol="telnet"),
    )

    assert found == AttributeAggregate(
        connect=moment(3), address=(CONNECT, moment(3), "198.51.100.2"), protocol=(CONNECT, moment(3), "telnet")
    )


def test_connect_without_a_time_is_used_if_there_is_no_other() -> None:
    """The address of a connect without a time is used if there is no other."""
    assert attributes(event(SESSION_CONNECT, src_ip="198.51.100.1")) == AttributeAggregate(
        connect=NO_MOMENT, address=(CONNECT, NO_MOMENT, "198.51.100.1")
    )


def test_any_event_names_address_and_protocol() -> None:
    """Without a connect the earliest event that names them decides, each for itself; a connect goes before all."""
    late = event(LOGIN_FAILED, timestamp=at(9), src_ip="198.51.100.1", protocol="ssh", username="root")
    early = event("cowrie.log.closed", timestamp=at(5), src_ip="198.51.100.2")
    unknown = event(None, timestamp=at(7), src_ip="198.51.100.3", protocol="telnet")
    connect = event(SESSION_CONNECT, timestamp=at(30), src_ip="198.51.100.4")

    found = attributes(late, early, unknown)
    assert (found.address, found.protocol) == ((OTHER, moment(5), "198.51.100.2"), (OTHER, moment(7), "telnet"))
    assert attributes(early, connect).address == (CONNECT, moment(30), "198.51.100.4")
    assert attributes(connect, late).protocol == (OTHER, moment(9), "ssh")


@pytest.mark.parametrize("name", [name for name in EVENT_NAMES if "-tcpip." in name])
def test_forwarded_connections_name_no_address(name: str) -> None:
    """The address in an event of a forwarded connection is the client's word: it never counts."""
    assert tallied(event(name, src_ip="203.0.113.66", protocol="http")).attributes == {}


@pytest.mark.parametrize("spelling", ["::ffff:198.51.100.7", "::FFFF:C633:6407", "198.51.100.7"])
def test_an_address_has_one_form(spelling: str) -> None:
    """Whichever way a log spells an address, the session has the same."""
    assert attributes(event(SESSION_CONNECT, src_ip=spelling)).address == (CONNECT, NO_MOMENT, "198.51.100.7")


def test_hassh_is_of_the_earliest_key_exchange() -> None:
    """The HASSH is that of the earliest key exchange."""
    found = attributes(event(CLIENT_KEX, timestamp=at(2), hassh="b"), event(CLIENT_KEX, timestamp=at(1), hassh="c"))

    assert found == AttributeAggregate(kex=(moment(1), "c"))


def test_user_name_is_of_the_earliest_success() -> None:
    """The user name is that of the earliest successful login, or of the earliest failed one if there is none."""
    failed = event(LOGIN_FAILED, timestamp=at(1), username="admin")
    late, early = (event(LOGIN_SUCCESS, timestamp=at(n), username=name) for n, name in ((9, "root"), (5, "pi")))

    assert attributes(failed).login == (1, moment(1), "admin")
    assert attributes(failed, late).login == (0, moment(9), "root")
    assert attributes(failed, late, early).login == (0, moment(5), "pi")


def test_attributes_of_other_types_are_none() -> None:
    """An address or name that is not text is ignored; long or hostile ones are cut and made inert."""
    assert attributes(event(SESSION_CONNECT, src_ip=5, protocol=["ssh"])) == AttributeAggregate(connect=NO_MOMENT)
    assert attributes(event(LOGIN_FAILED, username="\0" + "x" * 300)).login == (
        1,
        NO_MOMENT,
        r"\x00" + "x" * 250 + "…",
    )


# --- logins ---


def test_logins_are_counted_by_the_name_that_was_tried() -> None:
    """Attempts count under the name that was tried, long names apart; a login without a name under the empty one."""
    long = "x" * 300
    found = tallied(
        event(LOGIN_FAILED, timestamp=at(4), username="root"),
        event(LOGIN_SUCCESS, timestamp=at(9), username="root"),
        event(LOGIN_FAILED, username="admin"),
        event(LOGIN_FAILED, username=long + "1"),
        event(LOGIN_FAILED, username=long + "2"),
        event(LOGIN_FAILED, username=5),
    ).logins

    names = {name: login for (_, name), login in found.items() if len(name) < 100}
    assert names == {
        "root": LoginAggregate(2, 1, moment(4), moment(9)),
        "admin": LoginAggregate(1),
        "": LoginAggregate(1),
    }
    assert sorted(len(name) for _, name in found) == [0, 4, 5, 255, 255]


# --- commands ---


def test_commands_are_counted_by_session_and_normal_form() -> None:
    """A command is counted by session and normal form, with its first and last time and its risk."""
    found = tallied(
        event(COMMAND_INPUT, timestamp=at(9), input="wget  x"),
        event(COMMAND_INPUT, timestamp=at(4), input=" wget x\n"),
        event(COMMAND_INPUT, input="wget x"),
        event(COMMAND_INPUT, input="w", session="t"),
    ).commands

    assert found == {
        ("s", "wget x"): CommandAggregate(3, moment(4), moment(9), True),
        ("t", "w"): CommandAggregate(1, None, None, False),
    }


@pytest.mark.parametrize("text", [None, "", 5, ["w"], {"w": 1}])
def test_command_without_text_is_counted_but_not_listed(text: Any) -> None:
    """A command event without text counts as a command of its session, but is not listed."""
    found = tallied(event(COMMAND_INPUT, input=text))

    assert (found.sessions["s"].command_count, found.commands) == (1, {})


# --- order and batches ---


def smaller(one: Any, other: Any) -> Any:
    """Return the smaller of two, where None is larger than anything."""
    return other if one is None else one if other is None else min(one, other)


def larger(one: Any, other: Any) -> Any:
    """Return the larger of two, where None is smaller than anything."""
    return other if one is None else one if other is None else max(one, other)


MERGED_BY = {
    SessionAggregate: {
        "first_event_at": smaller,
        "last_event_at": larger,
        "sensors": set.union,
        "first_connect_at": smaller,
        "last_connect_at": larger,
    },
    AttributeAggregate: dict.fromkeys(("connect", "address", "protocol", "kex", "login"), smaller),
    CommandAggregate: {"first_seen": smaller, "last_seen": larger, "high_risk": larger},
    LoginAggregate: {"first_seen": smaller, "last_seen": larger},
}
"""How two batches are merged: as the module says; what is not named is a sum."""


def merged(batches: list[SessionAggregates]) -> dict[str, dict[Any, tuple[Any, ...]]]:
    """Return all batches merged, as plain values."""
    whole: dict[str, dict[Any, tuple[Any, ...]]] = {"sessions": {}, "attributes": {}, "commands": {}, "logins": {}}
    for batch in batches:
        for kind, found in whole.items():
            for key, tally in getattr(batch, kind).items():
                ways = MERGED_BY[type(tally)]
                if key not in found:
                    found[key] = astuple(tally)
                    continue
                found[key] = tuple(
                    ways.get(name, lambda one, other: one + other)(before, getattr(tally, name))
                    for name, before in zip(type(tally).__slots__, found[key], strict=True)
                )
    return whole


WORDS = st.sampled_from([None, "", "a", "b", "\x1b", "x" * 40, "…"])
EVENTS = st.builds(
    event,
    st.sampled_from(
        [
            SESSION_CONNECT,
            CLIENT_KEX,
            LOGIN_SUCCESS,
            LOGIN_FAILED,
            COMMAND_INPUT,
            FILE_DOWNLOAD,
            FILE_UPLOAD,
            "cowrie.direct-tcpip.request",
            None,
        ]
    ),
    session=st.sampled_from(["s", "t", "", None]),
    timestamp=st.one_of(st.none(), st.sampled_from([at(1), at(2), at(3), "yesterday", 1795304907])),
    src_ip=st.one_of(WORDS, st.sampled_from(["198.51.100.7", "::ffff:198.51.100.7", "2001:DB8::1"])),
    protocol=WORDS,
    hassh=WORDS,
    username=WORDS,
    sensor=WORDS,
    input=st.sampled_from([None, "", "w", " w", "wget x", "wget\tx", "x" * 600]),
)


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=12), st.data())
def test_order_and_batches_do_not_matter(events: list[Event], data: st.DataObject) -> None:
    """Events in any order and any split into batches give the same aggregates."""
    expected = merged([tallied(*events)])

    shuffled = data.draw(st.permutations(events))
    edges = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    batches = [shuffled[start:end] for start, end in zip([0, *edges], [*edges, len(events)], strict=True)]

    assert merged([tallied(*shuffled)]) == expected
    assert merged([tallied(*batch) for batch in batches]) == expected


def test_real_sessions_do_not_depend_on_order(corpus: Path) -> None:
    """The sessions of a real log are the same in reverse order, and with one event per batch."""
    lines = (corpus / "cowrie-3.1.4" / "cowrie.json").read_bytes().splitlines()
    events = [found for line in lines if isinstance(found := parse_event(line, json.loads(line)), Event)]
    expected = merged([tallied(*events)])

    assert len(expected["sessions"]) == 125
    assert merged([tallied(*reversed(events))]) == expected
    assert merged([tallied(one) for one in events]) == expected
