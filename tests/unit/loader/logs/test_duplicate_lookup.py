"""What counts as stored already: rows of version 3 and of other logs, on both databases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, insert, select

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest.stored_events import SourceKey, times_stored
from cowrieprocessor.db.models import IngestCursor, LogFile, RawEvent
from cowrieprocessor.events import Event, parse_event
from cowrieprocessor.json_text import hash_payload
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.logs.duplicate_lookup import DuplicateLookup, V3Log
from cowrieprocessor.loader.logs.v3_logs import FirstValue, find_v3_log

V3 = SourceKey("/logs/cowrie.json", "77", 0)
OURS = SourceKey("/logs/ours.json", "78", 0)

TORN = {"text": '{"torn'}


def event(number: int, **more: object) -> Event:
    """Return an event of a log."""
    stamp = f"2025-01-02T03:04:{number % 60:02d}.{number:06d}Z"
    fields = {"eventid": "cowrie.x", "session": "5e55", "timestamp": stamp, "number": number} | more
    raw = json.dumps({key: value for key, value in fields.items() if value is not None}).encode()
    parsed = parse_event(raw, json.loads(raw))
    assert isinstance(parsed, Event)
    return parsed


def keep(engine: Engine, offset: int, payload: Mapping[str, object], place: SourceKey = V3, **more: object) -> None:
    """Put a row into raw_events as version 3 left it, or as it came with a copy of its database."""
    row: dict[str, object] = {
        "source": place.source,
        "source_inode": place.source_inode,
        "source_generation": place.source_generation,
        "source_offset": offset,
        "payload": dict(payload),
        "payload_hash": hash_payload(dict(payload)),
    }
    with write_transaction(engine) as connection:
        if not dialect_of(connection).computes_event_columns:
            names = {"session_id": "session", "event_type": "eventid", "event_timestamp": "timestamp"}
            row |= {column: payload.get(key) for column, key in names.items()}
        connection.execute(insert(RawEvent).values(row | more))


def new_lookup(engine: Engine, *, of_v3: V3Log | None = None, limit: int = 50, start: int = 0) -> DuplicateLookup:
    """Return the lookup for the events of a new log."""
    return DuplicateLookup(OURS, "a" * 64, 0, partial(read_transaction, engine), limit, start=start, of_v3=of_v3)


def answers(lookup: DuplicateLookup, *events: Event, start: int = 0) -> list[bool]:
    """Return which events of a log are stored."""
    try:
        return [lookup.is_stored(event, start + number) for number, event in enumerate(events)]
    finally:
        lookup.release()


def test_a_command_that_version_3_rewrote_is_known(engine: Engine) -> None:
    """Its row is compared without what was rewritten: two commands of one moment differ by the rest."""
    emptied: dict[str, object] = {"input": None, "command": None, "input_safe": "a [SC] b", "input_hash": "0"}
    keep(engine, 0, event(1, message="CMD: a;b").fields | emptied)

    same, other = event(1, message="CMD: a;b", input="a;b"), event(1, message="CMD: c", input="c")

    assert [True, False] == answers(new_lookup(engine), same, other)


def test_a_large_payload_of_version_3_is_compared_too(engine: Engine) -> None:
    """A payload that is too long to be fetched with others is fetched separately."""
    text = "x" * 70_000
    keep(engine, 0, event(1, message=text).fields | {"input": None, "input_safe": text})

    assert [True, False] == answers(new_lookup(engine), event(1, message=text, input="y"), event(1, message=text + "x"))


def test_what_version_3_stored_under_several_names_is_one_event(engine: Engine) -> None:
    """Rows of one event under two sources, or twice without an inode, do not stand for two equal lines."""
    for place in (V3, V3._replace(source="/logs/cowrie.json.1", source_inode=None)):
        for _ in range(1 + (place.source_inode is None)):
            keep(engine, 4, event(1).fields, place)

    assert [True, False] == answers(new_lookup(engine), event(1), event(1))


def test_equal_lines_that_version_3_stored_are_both_known(engine: Engine) -> None:
    """Two rows of one log at different lines stand for two events."""
    for offset in (4, 5):
        keep(engine, offset, event(1).fields)

    assert [True, True, False] == answers(new_lookup(engine), event(1), event(1), event(1))


def test_an_event_without_session_or_time_is_known_by_its_line(engine: Engine) -> None:
    """In a log that version 3 loaded, what cannot be looked up is compared with the row at its line."""
    bare = {"session": None, "timestamp": None}
    for number, stored in enumerate((event(0, **bare), event(1), event(2, **bare))):
        keep(engine, number, stored.fields)
    of_v3 = V3Log(V3, 0, 2)

    assert [True, True, True] == answers(new_lookup(engine, of_v3=of_v3), event(0, **bare), event(1), event(2, **bare))
    assert [False, True, False] == answers(new_lookup(engine), event(0, **bare), event(1), event(9, **bare))


def test_a_line_that_version_3_could_not_read_is_known_by_its_number(engine: Engine) -> None:
    """A refused value is stored already where version 3 has a row for its line, and nowhere else."""
    keep(engine, 0, {"malformed": "torn {"}, quarantined=True)
    keep(engine, 1, event(1).fields)
    keep(engine, 3, {"malformed": "torn"}, quarantined=True)
    lookup = new_lookup(engine, of_v3=V3Log(V3, 0, 3))

    refused = [
        lookup.is_refused_stored(0, TORN),
        *answers(lookup, event(1), start=1),
        *(lookup.is_refused_stored(offset, TORN) for offset in (2, 3, 4)),
    ]
    lookup.release()

    assert [True, True, False, True, False] == refused


def test_a_refused_value_of_an_unknown_log_is_not_stored(engine: Engine) -> None:
    """Before anything of a log was found, none of its values counts as stored."""
    keep(engine, 0, {"malformed": "torn {"})
    lookup = new_lookup(engine)

    assert not lookup.is_refused_stored(0, TORN)
    lookup.release()


def test_all_that_version_3_reached_is_looked_up(engine: Engine) -> None:
    """Up to the last line that version 3 read, the lookup does not end."""
    keep(engine, 500, event(500).fields)
    lookup = new_lookup(engine, of_v3=V3Log(V3, 0, 500), limit=5)

    held = answers(lookup, *map(event, range(500)))
    is_active = lookup.is_active
    last = answers(lookup, event(500), start=500)

    assert (0, True, [True]) == (sum(held), is_active, last)


def test_the_lookup_ends_where_nothing_is_found(engine: Engine) -> None:
    """After `initial_limit` new events in a row the rest is not looked up."""
    lookup = new_lookup(engine, limit=5)
    answers(lookup, *map(event, range(4)))
    before = lookup.is_active
    answers(lookup, event(4), start=4)

    assert (True, False) == (before, lookup.is_active)


def test_what_is_new_is_noted_with_the_rows_that_equal_it(engine: Engine) -> None:
    """For each new event the number of equal rows of other logs is returned, with a time or without; once."""
    for place in (V3, V3._replace(source="/logs/other.json"), OURS):
        keep(engine, 1, event(1).fields, place)
        keep(engine, 2, event(2, timestamp=None).fields, place)
    bare = {"session": None, "timestamp": None}
    timed, timeless, new = event(1), event(2, timestamp=None), event(3)
    lookup = new_lookup(engine)

    held = answers(lookup, timed, timed, timeless, timeless, timeless, new, event(4, **bare))
    looked_up = lookup.take_looked_up()

    assert [True, False, True, False, False, False, False] == held
    assert [
        ["5e55", timed.timestamp, timed.payload_hash, 2],
        ["5e55", None, timeless.payload_hash, 2],
        ["5e55", None, timeless.payload_hash, 2],
        ["5e55", new.timestamp, new.payload_hash, 0],
    ] == looked_up.new
    assert {timed.payload_hash: 1, timeless.payload_hash: 1} == looked_up.left_out
    assert ([], {}, {}) == lookup.take_looked_up()


def test_equal_rows_are_counted_in_other_logs(engine: Engine) -> None:
    """Rows with the same events are counted, for any number of events; those of the log itself are not."""
    events = [event(number, **({"timestamp": None} if number % 3 == 0 else {})) for number in range(900)]
    for number in (0, 1, 450, 899):
        keep(engine, number, events[number].fields)
        keep(engine, number, events[number].fields, V3._replace(source_generation=1))
    keep(engine, 899, events[899].fields, OURS)
    keys = [(event.session_id, event.timestamp, event.payload_hash, "more") for event in events]

    with read_transaction(engine) as connection:
        found = times_stored(connection, OURS, keys)
        from_v3 = times_stored(connection, V3, keys)

    names = [events[number].payload_hash for number in (0, 1, 450, 899)]
    assert dict.fromkeys(names, 2) == found
    assert dict.fromkeys(names, 1) | {names[-1]: 2} == from_v3


def find(engine: Engine, values: list[FirstValue]) -> V3Log | None:
    """Return the log of version 3 that a log with these first values is."""
    with read_transaction(engine) as connection:
        return find_v3_log(connection, values)


def add_cursor(engine: Engine, last_offset: int, metadata: object, place: SourceKey = V3) -> None:
    """Put a cursor of version 3 into the database."""
    with write_transaction(engine) as connection:
        connection.execute(
            insert(IngestCursor).values(
                source=place.source, inode=place.source_inode, last_offset=last_offset, metadata_json=metadata
            )
        )


def test_the_log_of_version_3_is_found_by_its_events(engine: Engine) -> None:
    """Of several sources with the first events the furthest is taken; a cursor may go further than the rows."""
    other = V3._replace(source="/logs/longer.json", source_generation=2)
    for number in range(3):
        keep(engine, number, event(number).fields)
        keep(engine, number, event(number).fields, other)
    keep(engine, 9, event(9).fields, other)
    values: list[FirstValue] = [(number, event(number)) for number in range(3)]

    assert V3Log(other, 0, 9) == find(engine, values)
    add_cursor(engine, 40, {"generation": 0, "first_hash": "x"})
    assert V3Log(V3, 0, 40) == find(engine, values)


def test_a_log_that_begins_in_the_middle_of_one_of_version_3_is_found(engine: Engine) -> None:
    """The lines of a part are counted from the beginning of the part."""
    for number in range(20):
        keep(engine, number, event(number).fields)

    assert V3Log(V3, 15, 4) == find(engine, [(number, event(number + 15)) for number in range(5)])


def test_the_log_of_version_3_is_found_by_its_cursor(engine: Engine) -> None:
    """Where none of the first events is stored, the hash of the first line identifies the log."""
    keep(engine, 70, event(70).fields)
    add_cursor(engine, 90, {"generation": 0, "first_hash": event(0).payload_hash})
    torn = V3._replace(source="/logs/torn.json")
    keep(engine, 70, event(170).fields, torn)
    add_cursor(engine, 60, {"generation": 0, "first_hash": hash_payload({"malformed": "torn {"})}, torn)

    assert V3Log(V3, 0, 90) == find(engine, [(0, event(0)), (1, event(1))])
    assert V3Log(torn, 0, 70) == find(engine, [(0, b"torn {"), (1, event(1))])
    assert None is find(engine, [(0, event(2))])


def test_a_cursor_alone_is_not_trusted(engine: Engine) -> None:
    """A cursor of a log of which nothing is stored is ignored; so is a damaged cursor."""
    add_cursor(engine, 90, {"generation": 0, "first_hash": event(0).payload_hash})
    add_cursor(engine, 5, ["no object"], V3._replace(source="/logs/other.json"))

    assert None is find(engine, [(0, event(0))])
    assert None is find(engine, [])


def test_a_log_that_is_stored_whole_gets_a_checkpoint(engine: Engine, tmp_path: Path) -> None:
    """For a log that version 3 stored whole only a checkpoint is added, and its bytes add up."""
    lines = [event(number) for number in range(30)]
    path = tmp_path / "cowrie.json"
    path.write_text("".join(f"{line.payload}\n" for line in lines))
    for number, line in enumerate(lines):
        keep(engine, number, line.fields)
    size = path.stat().st_size

    first, again = (BulkLoader(engine).load([path]).counters["events"] for _ in range(2))

    with read_transaction(engine) as connection:
        log = connection.execute(select(LogFile.__table__)).one()
    assert (0, 0, 30, size, size) == (first, again, log.values_done, log.byte_pos, log.bytes_stored)
