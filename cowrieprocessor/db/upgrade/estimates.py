"""How much a migration and the backfill after it have to do: estimated, so that it takes a moment at any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import RawEvent, SessionSummary
from cowrieprocessor.db.schema_facts import OUR_TABLES, SchemaFacts

FILE_EVENTS = ("cowrie.session.file_download", "cowrie.session.file_upload")
COMMAND_EVENTS = ("cowrie.command.input",)
SAMPLES = 500
ROWS_PER_SAMPLE = 40
"""So many places of raw_events are looked at, each so many rows long."""

MAX_COUNTED_PER_TYPE = 500_000
"""Up to here the events of a type are counted, through their index."""

FILE_ROW_BYTES = 700
SESSION_ROW_BYTES = 220
COMMAND_ROW_BYTES = 280
"""What a row takes with its indexes: files with its share of file_hashes, session_attributes, command_stats."""


@dataclass(frozen=True, slots=True)
class ExpectedWork:
    """About how much there is to do.

    Attributes:
        events: rows of raw_events.
        events_by_type: of those that rows are made of, one each at most.
        sessions: rows of session_summaries.
    """

    events: int
    events_by_type: dict[str, int]
    sessions: int

    @property
    def file_events(self) -> int:
        """Events that name a file: at most so many rows come into `files`."""
        return self._sum(FILE_EVENTS)

    @property
    def new_bytes(self) -> int:
        """What the new rows take, indexes included."""
        return (
            self.file_events * FILE_ROW_BYTES
            + self.sessions * SESSION_ROW_BYTES
            + self._sum(COMMAND_EVENTS) * COMMAND_ROW_BYTES
        )

    def _sum(self, names: Iterable[str]) -> int:
        return sum(self.events_by_type[name] for name in names)


def tables_to_add(facts: SchemaFacts) -> list[str]:
    """Return the tables that a migration would make."""
    return [] if facts.complete else sorted(OUR_TABLES - facts.tables)


def expected_work(connection: Connection, facts: SchemaFacts) -> ExpectedWork:
    """Return about how much there is to do.

    Rows are taken from many places spread evenly over raw_events: loading appends, so that what a sensor saw in one
    week lies together. Types with fewer events than COUNTED_OF_A_TYPE are counted.
    """
    names = (*FILE_EVENTS, *COMMAND_EVENTS)
    if RawEvent.__tablename__ not in facts.tables:
        return ExpectedWork(0, dict.fromkeys(names, 0), 0)
    first, last = connection.execute(select(func.min(RawEvent.id), func.max(RawEvent.id))).one()
    sessions = dialect_of(connection).estimated_rows(connection, SessionSummary.__tablename__)
    if first is None:
        return ExpectedWork(0, dict.fromkeys(names, 0), sessions)
    span = last - first + 1
    seen, events = (
        _count_by_type(connection) if span <= SAMPLES * ROWS_PER_SAMPLE else _sample_by_type(connection, first, span)
    )
    share = events / max(1, seen.total())
    by_type = {name: _count_of_type(connection, name, about=round(seen[name] * share)) for name in names}
    return ExpectedWork(events, by_type, sessions)


def _count_of_type(connection: Connection, name: str, about: int) -> int:
    """Return how many events have a type: exactly where they are few, else what the sample says."""
    some = select(RawEvent.id).where(RawEvent.event_type == name).limit(MAX_COUNTED_PER_TYPE + 1).subquery()
    counted = int(connection.execute(select(func.count()).select_from(some)).scalar_one())
    return counted if counted <= MAX_COUNTED_PER_TYPE else max(counted, about)


def _count_by_type(connection: Connection) -> tuple[Counter[str | None], int]:
    rows = connection.execute(select(RawEvent.event_type, func.count()).group_by(RawEvent.event_type))
    seen: Counter[str | None] = Counter()
    for name, count in rows:
        seen[name] += count
    return seen, seen.total()


def _sample_by_type(connection: Connection, first: int, span: int) -> tuple[Counter[str | None], int]:
    """Return the types of the rows looked at, and about how many rows there are."""
    seen: Counter[str | None] = Counter()
    for number in range(SAMPLES):
        begin = first + span * number // SAMPLES
        window = select(RawEvent.event_type).where(RawEvent.id >= begin, RawEvent.id < begin + ROWS_PER_SAMPLE)
        seen.update(connection.execute(window).scalars())
    return seen, round(span * seen.total() / (SAMPLES * ROWS_PER_SAMPLE))
