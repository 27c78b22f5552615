"""A log and how far it is stored: the state that every loader carries from batch to batch.

This module imports no database code: the parser process starts often and has to start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from cowrieprocessor.events import Event


class LookedUp(NamedTuple):
    """The results of the lookups for one batch.

    Attributes:
        new: (session_id, timestamp, payload_hash, count) of each event that is not stored; count is the number of equal
            rows of other logs. Events with neither a session nor a time are left out: they cannot be looked up.
        elsewhere: the number of events found in other logs that begin differently, by the source of those logs.
        left_out: how often an event was not stored because other logs hold as many of it, by payload_hash.
    """

    new: list[list[Any]]
    elsewhere: dict[str, int]
    left_out: Mapping[str, int] = MappingProxyType({})


class EventLookup(Protocol):
    """Decides which events of a log are stored already; see `DuplicateLookup`."""

    @property
    def is_active(self) -> bool:
        """Whether the next events should still be looked up."""

    def is_stored(self, event: Event, offset: int) -> bool:
        """Return whether the log's next event is stored already."""

    def is_refused_stored(self, offset: int, payload: Mapping[str, Any]) -> bool:
        """Return whether the log's next value, which is not an event, is stored already."""

    def take_looked_up(self) -> LookedUp:
        """Return the results since the last call."""

    def release(self) -> None:
        """End the transaction, so that a write can follow."""


@dataclass(slots=True)
class Checkpoint:
    """A log and how far it is stored; the fields are the columns of `log_files`.

    Attributes:
        wrapper: the name of the wrapper that the log is in, None for a log as Cowrie writes it; the next two are what
            was passed over in it.
        lines_foreign: lines of other programs.
        bytes_foreign: their bytes.
        stored_wrapper: `wrapper` as the database has it.
        stored_values: `values_done` as the database has it, None before the first transaction.
        stored_bytes: `byte_pos` as the database has it, None before the first transaction.
        lookup: finds events that are stored although the checkpoint does not cover them; None where there
            can be none.
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
    last_event_at: str | None = None
    bytes_stored: int = 0
    bytes_dead: int = 0
    bytes_nul: int = 0
    bytes_gap: int = 0
    wrapper: str | None = None
    lines_foreign: int = 0
    bytes_foreign: int = 0
    stored_wrapper: str | None = None
    stored_values: int | None = None
    stored_bytes: int | None = None
    lookup: EventLookup | None = None

    def take_offset(self, line: int) -> int:
        """Return the source_offset of a value that starts on a line, and advance past it.

        It is the line number, except where several values share a line: each further value takes the next offset.
        """
        offset = line if line > self.next_offset else self.next_offset
        self.next_offset = offset + 1
        return offset

    def columns(self, now: str) -> dict[str, Any]:
        """Return the row of `log_files`; `now` becomes its `updated_at`."""
        return {name: getattr(self, name) for name in COLUMNS} | {"updated_at": now}


_IN_WRAPPED_LOGS = frozenset({"wrapper", "lines_foreign", "bytes_foreign", "stored_wrapper"})
_NOT_STORED = frozenset({"stored_values", "stored_bytes", "lookup"}) | _IN_WRAPPED_LOGS
COLUMNS = tuple(column.name for column in fields(Checkpoint) if column.name not in _NOT_STORED)
