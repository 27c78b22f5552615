"""The events of a database read once for a validation, and caught up with while others write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import orjson
from sqlalchemy import Connection

from cowrieprocessor.db.table_scan import Row, TableScan
from cowrieprocessor.db.validation import events as stored
from cowrieprocessor.db.validation.spill import ATTRIBUTES, COMMANDS, FILES, Spill
from cowrieprocessor.jobs.validation import independent_rules as rules

FLUSH_PARTS = 20_000


class EventsRead(ABC):
    """The events that one job of the backfill answers for, recomputed into the spill.

    An event counts if our own loader wrote it, or if the backfill says that it is past it. Others are not taken up
    yet: that is no difference, but it is said.

    Attributes:
        rows: events read.
        not_backfilled: events that the backfill has not taken up yet; None where it never began.
        without_row: events that make no row, by reason.
    """

    job: ClassVar[str]
    streams: ClassVar[tuple[str, ...]]

    def __init__(self, reading: TableScan, spill: Spill) -> None:
        self._reading = reading
        self._spill = spill
        self.rows = 0
        self.not_backfilled: int | None = 0
        self.without_row: Counter[str] = Counter()
        with reading.snapshot() as connection:
            self._bound = stored.largest_event_id(reading, connection)
            self._last_v3_id = stored.last_id_of_v3(reading, connection)
            self._past = self._read_past(connection)

    @abstractmethod
    def _take(self, fields: Mapping[str, Any]) -> None:
        """Take up one event."""

    @abstractmethod
    def _flush(self) -> None:
        """Put what was taken up into the spill."""

    @property
    def has_begun(self) -> bool:
        """Whether the backfill has begun, or has nothing to do because all events are of our own loaders."""
        with self._reading.snapshot() as connection:
            known = stored.job(self._reading, connection, self.job) is not None
            return known or stored.first_event_is_ours(self._reading, connection, self._last_v3_id)

    def read(self, on_rows: Callable[[int, float], None]) -> None:
        """Read all events up to the newest one of the beginning.

        Args:
            on_rows: told how many events were read, and the share of the whole that is done.
        """
        for number, stream in enumerate(self.streams):
            for page in self._reading.walk(self._walk(stream, 0, self._bound)):
                for row in page:
                    self._one(stream, row)
                self.rows += len(page)
                done = page[-1][0] / max(1, self._bound)
                on_rows(self.rows, (number + done) / len(self.streams))
        self._flush()

    def catch_up(self) -> None:
        """Take up what has come since, many rows at a time; the few that come meanwhile are left to `follow`."""
        with self._reading.snapshot() as connection:
            bound, past = stored.largest_event_id(self._reading, connection), self._read_past(connection)
        for stream in self.streams:
            before, now = self._past.get(stream, 0), past.get(stream, 0)
            for page in self._reading.walk(self._walk(stream, min(before, self._bound), min(now, self._bound))):
                for row in page:
                    self._moved_past(row)
        self._past = past
        for stream in self.streams:
            for page in self._reading.walk(self._walk(stream, self._bound, bound)):
                for row in page:
                    self._one(stream, row)
        self._bound = bound
        self._flush()

    def follow(self, connection: Connection) -> None:
        """Take up what the given transaction sees beyond `catch_up`, so that the spill says what it should see."""
        bound = stored.largest_event_id(self._reading, connection)
        past = self._read_past(connection)
        for stream in self.streams:
            before, now = self._past.get(stream, 0), min(past.get(stream, 0), self._bound)
            if now > before:
                for row in self._now(connection, stream, before, now):
                    self._moved_past(row)
        self._past = past
        if bound > self._bound:
            for stream in self.streams:
                for row in self._now(connection, stream, self._bound, bound):
                    self._one(stream, row)
        self._bound = bound
        self._flush()

    def _walk(self, stream: str, after: int, until: int) -> Any:
        return stored.events(self._reading, stream, after, until, self._last_v3_id)

    def _now(self, connection: Connection, stream: str, after: int, until: int) -> list[Row]:
        return stored.events_now(self._reading, connection, stream, after, until, self._last_v3_id)

    def _read_past(self, connection: Connection) -> dict[str, int]:
        found = stored.job(self._reading, connection, self.job)
        last = (found[1].get("last") if found else None) or {}
        return {str(stream): int(event_id) for stream, event_id in last.items()}

    def _one(self, stream: str, row: Row) -> None:
        event_id, payload, is_ours = row
        if not is_ours and event_id > self._past.get(stream, 0):
            self.not_backfilled = (self.not_backfilled or 0) + 1
            return
        self._decode(payload)

    def _moved_past(self, row: Row) -> None:
        _, payload, is_ours = row
        if not is_ours:
            self.not_backfilled = (self.not_backfilled or 0) - 1
            self._decode(payload)

    def _decode(self, payload: str | None) -> None:
        try:
            fields = None if payload is None else orjson.loads(payload)
        except orjson.JSONDecodeError:
            fields = None
        if isinstance(fields, dict) and rules.readable(fields):
            self._take(fields)
        else:
            self.without_row[rules.UNREADABLE] += 1


class FileEventsRead(EventsRead):
    """The events that name files."""

    job: ClassVar[str] = "backfill-files"
    streams: ClassVar[tuple[str, ...]] = tuple(rules.ORIGINS)

    def __init__(self, reading: TableScan, spill: Spill) -> None:
        super().__init__(reading, spill)
        self._parts: list[rules.Part] = []
        self.is_settled = False

    def settle(self) -> None:
        """Make rows of the parts; what is added later goes into them."""
        self._spill.merge(FILES)
        self._spill.merge_hashes()
        self.is_settled = True

    def _take(self, fields: Mapping[str, Any]) -> None:
        part = rules.file_part(fields) if fields.get("eventid") in rules.ORIGINS else rules.UNREADABLE
        if isinstance(part, str):
            self.without_row[part] += 1
            return
        self._parts.append(part)
        if len(self._parts) >= FLUSH_PARTS:
            self._flush()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        self._spill.add(FILES, parts)
        if self.is_settled and parts:
            self._spill.recompute_hashes(sorted({part[1] for part in parts}))


class SessionEventsRead(EventsRead):
    """All events, for what connections, key exchanges, logins and commands among them say."""

    job: ClassVar[str] = "backfill-sessions"
    streams: ClassVar[tuple[str, ...]] = (stored.ALL_TYPES,)

    def __init__(self, reading: TableScan, spill: Spill) -> None:
        super().__init__(reading, spill)
        self._parts = rules.SessionParts()

    def settle(self) -> None:
        """Make rows of the parts; what is added later goes into them."""
        self._spill.merge(ATTRIBUTES)
        self._spill.merge(COMMANDS)

    def _take(self, fields: Mapping[str, Any]) -> None:
        self._parts.add(fields)
        if len(self._parts) >= FLUSH_PARTS:
            self._flush()

    def _flush(self) -> None:
        attributes, commands = self._parts.take()
        self._spill.add(ATTRIBUTES, attributes)
        self._spill.add(COMMANDS, commands)
