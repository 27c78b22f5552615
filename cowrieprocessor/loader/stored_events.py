"""Events of a new log that are stored already: by v3, or from a damaged, cut or older copy of the same log.

Such a log is read whole, and each of its events is looked up, until so many in a row are new that the rest must be,
too. Everywhere else nothing is looked up: the cursor says what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from sqlalchemy import Connection

from cowrieprocessor.db import log_files as table
from cowrieprocessor.events import Event

FIRST_LOOK = 50
"""How many events at the beginning of a log are looked up before it counts as new."""

PATIENCE = 10_000
"""How many new events in a row end the looking up, once there is reason to look."""


class StoredEvents:
    """Tells which events of one log are stored already.

    Args:
        identity: the log's.
        generation: the log's; what it stored itself does not count.
        connect: opens a transaction for reading.
        patience: how many new events in a row end the looking up, at first.
    """

    def __init__(
        self,
        identity: str,
        generation: int,
        connect: Callable[[], AbstractContextManager[Connection]],
        patience: int,
    ) -> None:
        self._identity = identity
        self._generation = generation
        self._connect = connect
        self._patience = patience
        self._misses = 0
        self._timestamp: str | None = None
        self._seen: Counter[str] = Counter()
        self._open = ExitStack()
        self._connection: Connection | None = None

    @property
    def is_looking(self) -> bool:
        """Whether events are still looked up."""
        return self._misses < self._patience

    def holds(self, event: Event) -> bool:
        """Return whether an event is stored already; of two equal ones in a log the second may be new."""
        if not self.is_looking or not event.session_id or event.timestamp is None:
            return False
        if event.timestamp != self._timestamp:
            self._timestamp, self._seen = event.timestamp, Counter()
        likeness = f"{event.session_id} {event.event_type}"
        self._seen.update((event.payload_hash, likeness))
        if self._connection is None:
            self._connection = self._open.enter_context(self._connect())
        ours, of_v3 = table.stored_copies(self._connection, self._identity, self._generation, event)
        if self._seen[event.payload_hash] <= ours or self._seen[likeness] <= of_v3:
            self._misses, self._patience = 0, PATIENCE
            return True
        self._misses += 1
        return False

    def release(self) -> None:
        """End the transaction, so that a write can follow."""
        self._connection = None
        self._open.close()
