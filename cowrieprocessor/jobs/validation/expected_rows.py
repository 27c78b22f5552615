"""Expected rows of a validation: computed from all events once, and updated while other processes write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import orjson
from sqlalchemy import Connection

from cowrieprocessor.db.dialects.scan import Row, TableScan
from cowrieprocessor.db.jobs import DONE
from cowrieprocessor.db.validation import events as stored
from cowrieprocessor.db.validation.spill import ATTRIBUTES, COMMANDS, FILES, LOGINS, MENTIONS, SENSORS, Spill
from cowrieprocessor.jobs.validation import independent_rules as rules
from cowrieprocessor.json_text import read_json

FLUSH_ROWS = 20_000
"""Expected rows kept in memory before they are written to the spill."""


class ExpectedRows(ABC):
    """The rows that one job of the backfill is responsible for, recomputed from their events into the spill.

    An event counts if our own loader stored it, or if the cursor of the backfill is past it. Other events are not
    backfilled yet, which is reported but is no difference.

    Attributes:
        rows: number of events read.
        not_backfilled: number of events that are not backfilled yet; None if the backfill never began.
        without_row: number of events that make no row, by reason.
    """

    job: ClassVar[str]
    streams: ClassVar[tuple[str, ...]]

    def __init__(self, scan: TableScan, spill: Spill) -> None:
        self._scan = scan
        self._spill = spill
        self.rows = 0
        self.not_backfilled: int | None = 0
        self.without_row: Counter[str] = Counter()
        with scan.snapshot() as connection:
            self._max_id = stored.largest_event_id(scan, connection)
            self._last_v3_id = stored.last_id_of_v3(scan, connection)
            self._backfilled = self._read_cursors(connection)

    @abstractmethod
    def _add(self, fields: Mapping[str, Any]) -> None:
        """Add one event."""

    @abstractmethod
    def _flush(self) -> None:
        """Write what was added to the spill."""

    @property
    def has_begun(self) -> bool:
        """Whether the backfill has begun, or has nothing to do because our own loaders stored all events."""
        with self._scan.snapshot() as connection:
            is_recorded = stored.job(self._scan, connection, self.job) is not None
            return is_recorded or stored.first_event_is_ours(self._scan, connection, self._last_v3_id)

    def read(self, on_rows: Callable[[int, float], None]) -> None:
        """Read all events up to the newest at the beginning.

        Args:
            on_rows: called with the number of events read, and the share of all, 0 to 1.
        """
        for number, stream in enumerate(self.streams):
            for page in self._scan.walk(self._query(stream, 0, self._max_id)):
                for row in page:
                    self._add_row(stream, row)
                self.rows += len(page)
                share = page[-1][0] / max(1, self._max_id)
                on_rows(self.rows, (number + share) / len(self.streams))
        self._flush()

    def catch_up(self) -> None:
        """Add what was stored or backfilled since, page by page; what still arrives meanwhile is left to `follow`."""
        with self._scan.snapshot() as connection:
            max_id, backfilled = stored.largest_event_id(self._scan, connection), self._read_cursors(connection)
        for stream in self.streams:
            before, now = self._backfilled.get(stream, 0), backfilled.get(stream, 0)
            for page in self._scan.walk(self._query(stream, min(before, self._max_id), min(now, self._max_id))):
                for row in page:
                    self._add_backfilled(row)
        self._backfilled = backfilled
        for stream in self.streams:
            for page in self._scan.walk(self._query(stream, self._max_id, max_id)):
                for row in page:
                    self._add_row(stream, row)
        self._max_id = max_id
        self._flush()

    def follow(self, connection: Connection) -> None:
        """Add what the given transaction sees beyond `catch_up`, so that the spill has the rows it should see."""
        max_id = stored.largest_event_id(self._scan, connection)
        backfilled = self._read_cursors(connection)
        for stream in self.streams:
            before, now = self._backfilled.get(stream, 0), min(backfilled.get(stream, 0), self._max_id)
            if now > before:
                for row in self._events_now(connection, stream, before, now):
                    self._add_backfilled(row)
        self._backfilled = backfilled
        if max_id > self._max_id:
            for stream in self.streams:
                for row in self._events_now(connection, stream, self._max_id, max_id):
                    self._add_row(stream, row)
        self._max_id = max_id
        self._flush()

    def _query(self, stream: str, after: int, until: int) -> Any:
        return stored.events(self._scan, stream, after, until, self._last_v3_id)

    def _events_now(self, connection: Connection, stream: str, after: int, until: int) -> list[Row]:
        return stored.events_now(self._scan, connection, stream, after, until, self._last_v3_id)

    def _read_cursors(self, connection: Connection) -> dict[str, int]:
        """Return the id of the last backfilled event of each stream."""
        job = stored.job(self._scan, connection, self.job)
        last = (job[1].get("last") if job else None) or {}
        return {str(stream): int(event_id) for stream, event_id in last.items()}

    def _add_row(self, stream: str, row: Row) -> None:
        """Add an event if it counts."""
        event_id, payload, is_ours = row
        if not is_ours and event_id > self._backfilled.get(stream, 0):
            self.not_backfilled = (self.not_backfilled or 0) + 1
            return
        self._decode(payload)

    def _add_backfilled(self, row: Row) -> None:
        """Add an event that the backfill has passed since it was read, unless it counted already."""
        _, payload, is_ours = row
        if not is_ours:
            self.not_backfilled = (self.not_backfilled or 0) - 1
            self._decode(payload)

    def _decode(self, payload: str | None) -> None:
        try:
            fields = None if payload is None else read_json(payload.encode("utf-8", "surrogatepass"))
        except orjson.JSONDecodeError:
            fields = None
        if isinstance(fields, dict) and rules.is_readable(fields):
            self._add(fields)
        else:
            self.without_row[rules.UNREADABLE] += 1


class ExpectedFiles(ExpectedRows):
    """The rows of `files` and `file_hashes`, from the events that name files."""

    job: ClassVar[str] = "backfill-files"
    streams: ClassVar[tuple[str, ...]] = tuple(rules.ORIGINS)

    def __init__(self, scan: TableScan, spill: Spill) -> None:
        super().__init__(scan, spill)
        self._pending: list[rules.ExpectedRow] = []
        self.is_merged = False

    def merge(self) -> None:
        """Merge what was added into rows; what is added later is merged at once."""
        self._spill.merge(FILES)
        self._spill.merge_hashes()
        self.is_merged = True

    def _add(self, fields: Mapping[str, Any]) -> None:
        row = rules.expected_file(fields) if fields.get("eventid") in rules.ORIGINS else rules.UNREADABLE
        if isinstance(row, str):
            self.without_row[row] += 1
            return
        self._pending.append(row)
        if len(self._pending) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows, self._pending = self._pending, []
        self._spill.add(FILES, rows)
        if self.is_merged and rows:
            self._spill.recompute_hashes(sorted({row[1] for row in rows}))


class ExpectedSessions(ExpectedRows):
    """The rows of `session_attributes`, `command_stats` and `session_logins`."""

    job: ClassVar[str] = "backfill-sessions"
    streams: ClassVar[tuple[str, ...]] = (stored.ALL_TYPES,)

    def __init__(self, scan: TableScan, spill: Spill) -> None:
        super().__init__(scan, spill)
        self._pending = rules.ExpectedSessionRows()

    def merge(self) -> None:
        """Merge what was added into rows; what is added later is merged at once."""
        self._spill.merge(ATTRIBUTES)
        self._spill.merge(COMMANDS)
        self._spill.merge(LOGINS)

    def _add(self, fields: Mapping[str, Any]) -> None:
        self._pending.add(fields)
        if len(self._pending) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        attributes, commands, logins = self._pending.drain()
        self._spill.add(ATTRIBUTES, attributes)
        self._spill.add(COMMANDS, commands)
        self._spill.add(LOGINS, logins)


class _ExpectedOfAllReleases(ExpectedRows):
    """Rows that the backfill also computes from events that version 4 stored before it had the table."""

    @property
    def has_begun(self) -> bool:
        """Whether the backfill is done, or has nothing to do: before that, no row can be relied on."""
        with self._scan.snapshot() as connection:
            recorded = stored.job(self._scan, connection, self.job)
            if recorded is not None:
                return recorded[0] == DONE
            return stored.first_event_is_ours(self._scan, connection, self._last_v3_id)


class ExpectedMentions(_ExpectedOfAllReleases):
    """The rows of `file_mentions`, from all file events."""

    job: ClassVar[str] = "backfill-mentions"
    streams: ClassVar[tuple[str, ...]] = rules.FILE_EVENTS

    def __init__(self, scan: TableScan, spill: Spill) -> None:
        super().__init__(scan, spill)
        self._pending: list[rules.ExpectedRow] = []

    def merge(self) -> None:
        """Merge what was added into rows; what is added later is merged at once."""
        self._spill.merge(MENTIONS)

    def _add(self, fields: Mapping[str, Any]) -> None:
        self._pending += rules.expected_mentions(fields)
        if len(self._pending) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows, self._pending = self._pending, []
        self._spill.add(MENTIONS, rows)


class ExpectedSensors(_ExpectedOfAllReleases):
    """The rows of `session_sensors`, from all events."""

    job: ClassVar[str] = "backfill-sensors"
    streams: ClassVar[tuple[str, ...]] = (stored.ALL_TYPES,)

    def __init__(self, scan: TableScan, spill: Spill) -> None:
        super().__init__(scan, spill)
        with scan.snapshot() as connection:
            self._renamed = stored.renamed_sensors(scan, connection)
        self._pending: list[rules.ExpectedRow] = []

    def merge(self) -> None:
        """Merge what was added into rows; what is added later is merged at once."""
        self._spill.merge(SENSORS)

    def _query(self, stream: str, after: int, until: int) -> Any:
        return stored.events(self._scan, stream, after, until, self._last_v3_id, with_sensor=True)

    def _events_now(self, connection: Connection, stream: str, after: int, until: int) -> list[Row]:
        return stored.events_now(self._scan, connection, stream, after, until, self._last_v3_id, with_sensor=True)

    def _add_row(self, stream: str, row: Row) -> None:
        self._given = row[3]
        super()._add_row(stream, row[:3])

    def _add_backfilled(self, row: Row) -> None:
        self._given = row[3]
        super()._add_backfilled(row[:3])

    def _add(self, fields: Mapping[str, Any]) -> None:
        row = rules.expected_sensors(fields, self._given, self._renamed)
        if row is None:
            return
        self._pending.append(row)
        if len(self._pending) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows, self._pending = self._pending, []
        self._spill.add(SENSORS, rows)
