"""Session ids that were used more than once: which they are, and their parts."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import RawEvent, SessionSummary
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.reuse import DEFAULT_GAP, Reuse
from cowrieprocessor.settings.sensor_paths import SensorPaths

CONNECT, COMMAND = "cowrie.session.connect", "cowrie.command.input"
Load = Callable[..., None]


def event(at: str | None, eventid: str = COMMAND, sensor: str | None = "pot", **more: object) -> str:
    """Return a line about the session `s`."""
    fields = {"session": "s", "eventid": eventid, "timestamp": at, "sensor": sensor, **more}
    return json.dumps({key: value for key, value in fields.items() if value is not None})


@pytest.fixture
def load(engine: Engine, tmp_path: Path) -> Load:
    """Load lines as a log of their own, of a sensor if one is given."""
    numbers = iter(range(100))

    def load_lines(lines: Sequence[str], name: str | None = None) -> None:
        path = tmp_path / f"{next(numbers)}.json"
        path.write_text("".join(f"{line}\n" for line in lines))
        BulkLoader(engine, sensors=SensorPaths(name=name)).load([path])

    return load_lines


def parts(engine: Engine, gap: dt.timedelta = DEFAULT_GAP) -> list[tuple[str | None, str | None, int]]:
    """Return sensor, begin and number of events of each part, after checking that lists and counts agree."""
    with read_transaction(engine) as connection:
        reuse = Reuse(connection, gap)
        ids = connection.execute(select(RawEvent.id)).scalars().all()
        found = reuse.parts("s", ids)
        is_reused = len(found.parts) > 1
        assert reuse.among(["s", "other"]) == ({"s"} if is_reused else set())
        assert reuse.count(select(SessionSummary.session_id)) == is_reused
    assert [list(found.part_of.values()).count(number) for number in range(len(found.parts))] == [
        part.events for part in found.parts
    ]
    begin = [part.first_event_at and f"{part.first_event_at:%Y-%m-%d %H:%M:%S}" for part in found.parts]
    return [(part.sensor, at, part.events) for part, at in zip(found.parts, begin, strict=True)]


def test_one_use_is_one_part(engine: Engine, load: Load) -> None:
    """A session with one connect, on one sensor, without a long pause, is not marked; an undated event counts."""
    load([event("2026-01-01T00:00:00Z", CONNECT), event("2026-01-01T23:00:00Z"), event(None)])

    assert parts(engine) == [("pot", "2026-01-01 00:00:00", 3)]


def test_two_sensors_are_two_uses(engine: Engine, load: Load) -> None:
    """Events of two sensors at the same time are two parts."""
    load([event("2026-01-01T00:00:00Z"), event("2026-01-01T00:00:02Z")])
    load([event("2026-01-01T00:00:01Z", sensor="other")])

    assert parts(engine) == [("pot", "2026-01-01 00:00:00", 2), ("other", "2026-01-01 00:00:01", 1)]


def test_each_further_connect_is_a_use(engine: Engine, load: Load) -> None:
    """Two connects on one sensor are two parts; the same connect twice is one, as are events before the first."""
    load(
        [
            event("2026-01-01T00:00:00Z"),
            event("2026-01-01T00:00:01Z", CONNECT),
            event("2026-01-01T00:00:01Z", CONNECT),
            event("2026-01-01T00:00:02Z"),
        ]
    )
    assert parts(engine) == [("pot", "2026-01-01 00:00:00", 4)]

    load([event("2026-01-01T00:00:05Z", CONNECT), event("2026-01-01T00:00:06Z")])
    assert parts(engine) == [("pot", "2026-01-01 00:00:00", 4), ("pot", "2026-01-01 00:00:05", 2)]


@pytest.mark.parametrize(
    ("after", "is_reused"),
    [("2026-01-02T00:00:00Z", False), ("2026-01-02T00:00:00.000001Z", True), ("2026-01-02T00:00:01Z", True)],
)
def test_more_than_a_day_between_neighbours_is_another_use(
    engine: Engine, load: Load, after: str, is_reused: bool
) -> None:
    """Exactly a day is not more than a day."""
    load([event(after), event("2026-01-01T00:00:00Z")])

    assert (len(parts(engine)) == 2) is is_reused


def test_a_long_session_without_a_pause_is_one(engine: Engine, load: Load) -> None:
    """A session of a week with an event each half day was used once; with a setting of an hour it is many."""
    load([event(f"2026-01-{1 + half // 2:02d}T{half % 2 * 12:02d}:00:00Z") for half in range(14)])

    assert len(parts(engine)) == 1
    assert len(parts(engine, dt.timedelta(hours=1))) == 14


def test_of_an_event_in_several_logs_the_smallest_given_name_counts(engine: Engine, load: Load) -> None:
    """The same events in logs of two sensors are one use, of the smaller name; others of that log are another's."""
    shared = [event("2026-01-01T00:00:00Z", CONNECT), event("2026-01-01T00:00:01Z")]
    load(shared, "pot-2")
    load([event("2025-12-31T23:59:59Z", eventid="x"), *shared], "pot-1")
    assert parts(engine) == [("pot-1", "2025-12-31 23:59:59", 3)]

    load([*shared[1:], event("2026-01-01T00:00:02Z")], "pot-3")
    assert parts(engine) == [("pot-1", "2025-12-31 23:59:59", 3), ("pot-3", "2026-01-01 00:00:02", 1)]


def test_half_of_the_logs_of_a_sensor_without_a_name_is_no_other_sensor(engine: Engine, load: Load) -> None:
    """Events in a log without a given name are of the sensor whose events say the same name."""
    load([event("2026-01-01T00:00:00Z", sensor="localhost")], "pot-1")
    load([event("2026-01-01T00:00:01Z", sensor="localhost")])
    assert parts(engine) == [("pot-1", "2026-01-01 00:00:00", 2)]

    load([event("2026-01-01T00:00:02Z", sensor="elsewhere")])
    assert parts(engine) == [("pot-1", "2026-01-01 00:00:00", 2), ("elsewhere", "2026-01-01 00:00:02", 1)]


def test_the_address_of_a_part_is_that_of_its_first_event(engine: Engine, load: Load) -> None:
    """A part tells where it came from; the addresses in forwarded requests are the attacker's word."""
    load(
        [
            event("2026-01-01T00:00:00Z", "cowrie.direct-tcpip.request", src_ip="6.6.6.6"),
            event("2026-01-01T00:00:01Z", src_ip="198.51.100.7"),
            event("2026-01-05T00:00:00Z", src_ip="203.0.113.9"),
        ]
    )

    with read_transaction(engine) as connection:
        found = Reuse(connection).parts("s").parts

    assert [part.src_ip for part in found] == ["198.51.100.7", "203.0.113.9"]
