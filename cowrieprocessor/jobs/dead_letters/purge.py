"""Dead letters that nobody needs any more are deleted, in short transactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from cowrieprocessor.db.dead_letters import statements as table
from cowrieprocessor.db.dead_letters.statements import LetterFilter
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle

LETTERS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class PurgePlan:
    """What a purge deletes.

    Attributes:
        by_reason: letters by reason.
        unresolved: how many of them still wait: what they hold can never be stored afterwards.
    """

    by_reason: dict[str, int]
    unresolved: int

    @property
    def letters(self) -> int:
        """How many letters it deletes."""
        return sum(self.by_reason.values())


@dataclass(frozen=True, slots=True)
class Purged:
    """How many letters were deleted, and how many of v3's are gone since the migration."""

    letters: int
    of_v3: int


def plan(engine: Engine, letter_filter: LetterFilter) -> PurgePlan:
    """Return what a purge would delete.

    Raises:
        DatabaseError: the database cannot be read.
    """
    require_current(engine)
    with read_transaction(engine) as connection:
        by_reason = table.count(connection, letter_filter)
        unresolved = 0
        if letter_filter.resolved is not True:
            waiting = LetterFilter(
                False, letter_filter.reason, letter_filter.ids, letter_filter.sources, letter_filter.before
            )
            unresolved = sum(table.count(connection, waiting).values())
        return PurgePlan(by_reason, unresolved)


def purge(
    engine: Engine,
    letter_filter: LetterFilter,
    *,
    on_progress: Callable[[int], None] = lambda _letters: None,
    say: Callable[[str], None] = lambda _text: None,
) -> Purged:
    """Delete the letters that are chosen, and that are there when it begins.

    Args:
        engine: a database at our version.
        letter_filter: which letters.
        on_progress: told after each transaction how many are deleted.
        say: told why it waits.

    Raises:
        DatabaseError: the database cannot serve; what was deleted stays deleted.
    """
    require_current(engine)
    pace = Throttle(engine)
    with read_transaction(engine) as connection:
        until = table.last_id(connection)
    after = gone = 0
    while True:
        with read_transaction(engine) as connection:
            ids = table.next_ids(connection, letter_filter, after, until, LETTERS_AT_ONCE)
        if not ids:
            break
        after = ids[-1]
        while ids:
            pace.wait(lambda obstacle: say(_words(obstacle)))
            with pace.transaction() as turn:
                done = 0
                while ids and (not done or turn.may_go_on()):
                    part, ids = ids[: table.NAMED_AT_ONCE], ids[table.NAMED_AT_ONCE :]
                    done += table.purge(turn.connection, letter_filter, part)
            gone += done
            on_progress(gone)
    with read_transaction(engine) as connection:
        return Purged(gone, table.count_purged_v3_letters(connection))


def _words(obstacle: Obstacle | None) -> str:
    return "going on" if obstacle is None else obstacle.reason
