"""A log and how far it is stored: what every loader carries from batch to batch.

Nothing here knows a database: the process that parses is started often, and has to start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

from cowrieprocessor.events import Event


class LookedUp(NamedTuple):
    """What was looked up for one batch.

    Attributes:
        new: (session_id, timestamp, payload_hash, count) of each event that is not stored, with how many rows of other
            logs hold an equal one; without those that cannot be looked up.
        elsewhere: how many events were found in other logs that begin differently, by their source.
    """

    new: list[list[Any]]
    elsewhere: dict[str, int]


class EventLookup(Protocol):
    """Tells which events of a log are stored already; see `StoredEvents`."""

    @property
    def is_looking(self) -> bool:
        """Whether the next events should still be looked up."""

    def holds(self, event: Event, offset: int) -> bool:
        """Return whether an event, which is the log's next, is stored already."""

    def holds_refused(self, offset: int, payload: Mapping[str, Any]) -> bool:
        """Return whether the log's next value is stored already, though it is no event."""

    def take_looked_up(self) -> LookedUp:
        """Return what was looked up since the last time."""

    def release(self) -> None:
        """End the transaction, so that a write can follow."""


@dataclass(slots=True)
class Checkpoint:
    """A log and how far it is stored; the fields are the columns of `log_files`.

    Attributes:
        stored_values: `values_done` as the database has it, None before the first transaction.
        stored_bytes: `byte_pos` as the database has it, likewise.
        stored_events: what tells events that are stored though the cursor does not say so; None where none can be.
        other_form: the file holds the log in another form of writing than the one the cursor was stored for.
    """

    identity: str
    generation: int
    source: str
    source_inode: str
    source_generation: int
    current_path: str
    values_done: int = 0
    next_line: int = 0
    next_offset: int = 0
    byte_pos: int = 0
    tail_hash: str | None = None
    tail_bytes: int = 0
    last_value_hash: str | None = None
    bytes_stored: int = 0
    bytes_dead: int = 0
    bytes_nul: int = 0
    bytes_gap: int = 0
    stored_values: int | None = None
    stored_bytes: int | None = None
    stored_events: EventLookup | None = None
    other_form: bool = False

    def take_offset(self, line: int) -> int:
        """Return the source_offset of a value that starts on a line, and move behind it.

        It is the line's number, except where several values share a line: each takes at least the next one.
        """
        offset = line if line > self.next_offset else self.next_offset
        self.next_offset = offset + 1
        return offset

    def columns(self, now: str) -> dict[str, Any]:
        """Return the row of `log_files`."""
        return {name: getattr(self, name) for name in COLUMNS} | {"updated_at": now}


_NOT_STORED = frozenset({"stored_values", "stored_bytes", "stored_events", "other_form"})
COLUMNS = tuple(one.name for one in fields(Checkpoint) if one.name not in _NOT_STORED)
