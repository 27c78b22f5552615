"""Session ids that were used more than once: by two sensors, for two connections, or again after a long pause.

Cowrie's session ids are unique on a sensor only in practice. Lists find the few sessions that may be such by
`session_sensors` and their times; whether one is, and its parts, is decided here, from its stored events.
"""

from __future__ import annotations

import datetime as dt
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, literal_column, or_, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest import event_scan
from cowrieprocessor.db.ingest.sensor_names import Log, SensorNames
from cowrieprocessor.db.models import LogSensor, OverlappingEvent, OverlappingSession, SessionSensor
from cowrieprocessor.db.models import SessionSummary as Summary
from cowrieprocessor.events import SESSION_CONNECT, Event, parse_stored
from cowrieprocessor.interpret.sensors import sensor_name

DEFAULT_GAP = dt.timedelta(hours=24)
_EVENTS_AT_ONCE = 50
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_FORWARDED = "cowrie.direct-tcpip."
"""Events whose addresses are the attacker's word."""


@dataclass(frozen=True, slots=True)
class SessionPart:
    """One use of a session id.

    Attributes:
        sensor: its sensor; None if no event says one.
        src_ip: the address that its first event came from.
        first_event_at: the time of its first event; None if none has a time.
        last_event_at: that of its last event.
        events: number of its events.
    """

    sensor: str | None
    src_ip: str | None
    first_event_at: dt.datetime | None
    last_event_at: dt.datetime | None
    events: int


class Parts(NamedTuple):
    """The parts of a session in order of time, and the index of the part of each event that was asked for, by id."""

    parts: tuple[SessionPart, ...]
    part_of: Mapping[int, int]


class _Names(NamedTuple):
    """The names of an event: the smallest one given to a log that holds it, and the one that it says."""

    given: str | None
    logged: str | None


@dataclass(slots=True)
class _Stream:
    """Events of a session on one sensor. Times are in microseconds since 1970; 8 bytes an event.

    Attributes:
        moments: times of the events.
        connects: times of those that are a `cowrie.session.connect`.
        sources: (time, address), where it is not that of the event read before.
        undated: number of events without a time.
    """

    moments: array[int] = field(default_factory=lambda: array("q"))
    connects: array[int] = field(default_factory=lambda: array("q"))
    sources: list[tuple[int, str]] = field(default_factory=list)
    undated: int = 0

    def add(self, event: Event, moment: int | None) -> None:
        """Add one event."""
        if moment is None:
            self.undated += 1
            return
        self.moments.append(moment)
        if event.event_type == SESSION_CONNECT:
            self.connects.append(moment)
        src_ip = event.fields.get("src_ip")
        if not isinstance(src_ip, str) or not src_ip or (event.event_type or "").startswith(_FORWARDED):
            return
        if not self.sources or self.sources[-1][1] != src_ip or moment < self.sources[-1][0]:
            self.sources.append((moment, src_ip))

    def merge(self, other: _Stream) -> None:
        """Add the events of another stream."""
        self.moments.extend(other.moments)
        self.connects.extend(other.connects)
        self.sources += other.sources
        self.undated += other.undated

    def starts(self, gap: int) -> list[int]:
        """Return when each use begins: at the first event, after a longer pause than `gap`, at each further connect."""
        self.moments = array("q", sorted(self.moments))
        starts = list(self.moments[:1])
        starts += [now for before, now in zip(self.moments, self.moments[1:], strict=False) if now - before > gap]
        connects = sorted(set(self.connects))
        uses = [bisect_right(starts, connect) for connect in connects]
        further = [now for now, use, before in zip(connects[1:], uses[1:], uses, strict=False) if use == before]
        return sorted({*starts, *further})

    def parts(self, sensor: str | None, gap: int) -> list[SessionPart]:
        """Return its uses in order of time; events without a time count for the first."""
        starts = self.starts(gap)
        if not starts:
            return [SessionPart(sensor, None, None, None, self.undated)]
        ends = [*(bisect_right(self.moments, start - 1) for start in starts[1:]), len(self.moments)]
        self.sources.sort()
        begin, made = 0, list[SessionPart]()
        for end in ends:
            first, last = self.moments[begin], self.moments[end - 1]
            source = bisect_left(self.sources, (first, ""))
            is_in_part = source < len(self.sources) and self.sources[source][0] <= last
            src_ip = self.sources[source][1] if is_in_part else None
            count = end - begin + (0 if made else self.undated)
            made.append(SessionPart(sensor, src_ip, _time(first), _time(last), count))
            begin = end
        return made


def may_be_reused(connection: Connection, gap: dt.timedelta) -> ColumnElement[bool]:
    """Return the condition that a row of session_summaries, outer-joined with its sensors, has to be looked at."""
    seconds = dialect_of(connection).sql.seconds_between(
        "session_summaries.first_event_at", "session_summaries.last_event_at"
    )
    return or_(
        SessionSensor.sensors_differ.is_(True),
        SessionSensor.first_connect_at != SessionSensor.last_connect_at,
        literal_column(seconds) > gap.total_seconds() - 1,  # the databases round it
    )


class Reuse:
    """Decides which session ids were used more than once, as one transaction sees them.

    Args:
        connection: a connection in a transaction.
        gap: a longer pause between neighbouring events begins another use.
    """

    def __init__(self, connection: Connection, gap: dt.timedelta = DEFAULT_GAP) -> None:
        self._connection = connection
        self._gap = gap

    def among(self, session_ids: Collection[str]) -> set[str]:
        """Return those of some sessions whose ids were used more than once."""
        found: set[str] = set()
        for part in chunks(sorted(session_ids)):
            found.update(self._reused(select(Summary.session_id).where(Summary.session_id.in_(part))))
        return found

    def count(self, sessions: Select[Any]) -> int:
        """Return how many of the sessions that a query on session_summaries selects by id have a reused id."""
        return sum(1 for _ in self._reused(sessions))

    def parts(self, session_id: str, wanted: Collection[int] = ()) -> Parts:
        """Return the parts of a session, a single one unless its id was used more than once.

        Args:
            session_id: the session.
            wanted: ids of events in raw_events for which the part is returned.
        """
        streams: dict[_Names, _Stream] = {}
        places: dict[int, tuple[_Names, int | None]] = {}
        for event_id, names, event in self._events(session_id):
            moment = None if event.moment is None else _microseconds(event.moment)
            streams.setdefault(names, _Stream()).add(event, moment)
            if event_id in wanted:
                places[event_id] = (names, moment)
        sensors = _sensors(streams)
        merged: dict[str | None, _Stream] = {}
        for names, stream in streams.items():
            merged.setdefault(sensors[names], _Stream()).merge(stream)
        gap = self._gap // _MICROSECOND
        parts = [part for sensor, stream in merged.items() for part in stream.parts(sensor, gap)]
        parts.sort(key=lambda part: (part.first_event_at or _EPOCH, part.sensor or ""))
        part_of = {event_id: _part_of(parts, sensors[names], moment) for event_id, (names, moment) in places.items()}
        return Parts(tuple(parts), part_of)

    def _reused(self, sessions: Select[Any]) -> Iterator[str]:
        """Yield the sessions of a query whose ids were used more than once; two connects need no look at the events."""
        query = (
            sessions.outerjoin(SessionSensor, SessionSensor.session_id == Summary.session_id)
            .add_columns((SessionSensor.first_connect_at != SessionSensor.last_connect_at).label("has_connects"))
            .where(may_be_reused(self._connection, self._gap))
        )
        for session_id, has_connects in self._connection.execute(query).all():
            if has_connects or len(self.parts(session_id).parts) > 1:
                yield session_id

    def _events(self, session_id: str) -> Iterator[tuple[int, _Names, Event]]:
        """Yield id, names and content of a session's events."""
        also_in = self._logs_that_left_out(session_id)
        after = 0
        while rows := list(event_scan.events_of_session(self._connection, session_id, after, _EVENTS_AT_ONCE)):
            held = self._left_out({row.payload_hash for row in rows}, also_in)
            for row in rows:
                event = parse_stored(row.payload)
                if event is not None:
                    yield row.id, self._names_of(row, event, also_in, held), event
            after = rows[-1].id

    def _names_of(
        self,
        row: event_scan.StoredEvent,
        event: Event,
        also_in: Mapping[Log, str],
        held: Collection[tuple[Log, str | None]],
    ) -> _Names:
        # A row of version 3 has no hash of ours: it counts for every log that left out events of its session.
        own = self._names.of_source(row.source_key)
        given = {name for log, name in also_in.items() if not own.is_ours or (log, row.payload_hash) in held}
        if own.given is not None:
            given.add(own.given)
        sensor = event.fields.get("sensor")
        logged = self._names.resolve(sensor_name(sensor)) if isinstance(sensor, str) and sensor else None
        return _Names(min(given, default=None), logged)

    def _logs_that_left_out(self, session_id: str) -> dict[Log, str]:
        """Return the logs with a given sensor whose events of a session were stored already."""
        query = (
            select(LogSensor.identity, LogSensor.generation, LogSensor.sensor)
            .join(
                OverlappingSession,
                (OverlappingSession.identity == LogSensor.identity)
                & (OverlappingSession.generation == LogSensor.generation),
            )
            .where(OverlappingSession.session_id == session_id)
        )
        return {(row[0], row[1]): self._names.resolve(row[2]) for row in self._connection.execute(query)}

    def _left_out(self, hashes: Collection[str | None], logs: Collection[Log]) -> set[tuple[Log, str | None]]:
        found: set[tuple[Log, str | None]] = set()
        for identity, generation in logs:
            query = select(OverlappingEvent.payload_hash).where(
                OverlappingEvent.identity == identity,
                OverlappingEvent.generation == generation,
                OverlappingEvent.payload_hash.in_([payload_hash for payload_hash in hashes if payload_hash]),
            )
            found.update(((identity, generation), row[0]) for row in self._connection.execute(query))
        return found

    @cached_property
    def _names(self) -> SensorNames:
        return SensorNames(self._connection)


def _sensors(streams: Collection[_Names]) -> dict[_Names, str | None]:
    """Return the sensor of events by their names.

    Events that are in no log with a given sensor are on the one of the session's other events that say the same name:
    then only some of the logs of that sensor were given it.
    """
    given: dict[str | None, str] = {}
    for names in streams:
        if names.given is not None:
            given[names.logged] = min(names.given, given.get(names.logged, names.given))
    return {names: names.given or given.get(names.logged) or names.logged for names in streams}


def _part_of(parts: list[SessionPart], sensor: str | None, moment: int | None) -> int:
    """Return the index of the part with an event: of its sensor, the last one that began by then, else the first."""
    numbers = [number for number, part in enumerate(parts) if part.sensor == sensor]
    if moment is None:
        return numbers[0]
    at = _time(moment)
    return max((number for number in numbers if (parts[number].first_event_at or at) <= at), default=numbers[0])


def _microseconds(moment: str) -> int:
    return (dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND


def _time(microseconds: int) -> dt.datetime:
    return _EPOCH + microseconds * _MICROSECOND
