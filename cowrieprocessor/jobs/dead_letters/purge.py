"""Deletes dead letters that are no longer needed, in short transactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from cowrieprocessor.db.chunks import MAX_PARAMETERS
from cowrieprocessor.db.dead_letters import statements as table
from cowrieprocessor.db.dead_letters.statements import LetterFilter
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle

LETTERS_AT_ONCE = 2_000
"""Letters selected at a time."""


@dataclass(frozen=True, slots=True)
class PurgePlan:
    """Letters that a purge would delete.

    Attributes:
        by_reason: number of letters by reason.
        unresolved: number of unresolved ones among them, whose events can never be stored afterwards.
    """

    by_reason: dict[str, int]
    unresolved: int

    @property
    def letters(self) -> int:
        """Number of all letters to delete."""
        return sum(self.by_reason.values())


@dataclass(frozen=True, slots=True)
class Purged:
    """Result of a purge.

    Attributes:
        letters: letters deleted by this purge.
        of_v3: v3's letters purged since the migration.
    """

    letters: int
    of_v3: int


def plan(engine: Engine, letter_filter: LetterFilter) -> PurgePlan:
    """Return what a purge would delete; writes nothing.

    Raises:
        DatabaseError: the database cannot be read.
    """
    require_current(engine)
    with read_transaction(engine) as connection:
        by_reason = table.count(connection, letter_filter)
        unresolved = 0
        if letter_filter.resolved is not True:
            unresolved = sum(table.count(connection, replace(letter_filter, resolved=False)).values())
        return PurgePlan(by_reason, unresolved)


def purge(
    engine: Engine,
    letter_filter: LetterFilter,
    *,
    on_progress: Callable[[int], None] = lambda _letters: None,
    notify: Callable[[str], None] = lambda _text: None,
    letters_at_once: int = LETTERS_AT_ONCE,
) -> Purged:
    """Delete the selected letters that exist when the purge begins.

    Args:
        engine: a database at the current schema version.
        letter_filter: which letters.
        on_progress: called after each transaction with the number of letters deleted so far.
        notify: called with the reason whenever the purge has to wait.
        letters_at_once: letters selected at a time.

    Raises:
        DatabaseError: the database failed; letters deleted before stay deleted.
    """
    require_current(engine)
    throttle = Throttle(engine)
    with read_transaction(engine) as connection:
        until = table.last_id(connection)
    after = purged = 0
    while True:
        with read_transaction(engine) as connection:
            ids = table.next_ids(connection, letter_filter, after, until, letters_at_once)
        if not ids:
            break
        after = ids[-1]
        while ids:
            throttle.wait(lambda obstacle: notify(_description(obstacle)))
            with throttle.transaction() as turn:
                deleted = 0
                while ids and (not deleted or turn.may_go_on()):
                    part, ids = ids[:MAX_PARAMETERS], ids[MAX_PARAMETERS:]
                    deleted += table.purge(turn.connection, letter_filter, part)
            purged += deleted
            on_progress(purged)
    with read_transaction(engine) as connection:
        return Purged(purged, table.count_purged_v3_letters(connection))


def _description(obstacle: Obstacle | None) -> str:
    return "continuing" if obstacle is None else obstacle.reason
