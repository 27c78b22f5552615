"""Dead letters read again with today's program and settings: what is an event by now is stored, once.

Letters are read outside of any transaction and written in short ones, each of which holds its letters, stores their
events, and resolves them: it can be killed anywhere, and run twice at once or beside loaders.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate

from sqlalchemy import Engine

from cowrieprocessor.db.dead_letters import statements as table
from cowrieprocessor.db.dead_letters.statements import LetterFilter, StoredLetter
from cowrieprocessor.db.engine import get_engine, read_transaction, write_transaction
from cowrieprocessor.db.ingest.event_locks import lock_all_events
from cowrieprocessor.db.jobs import DONE, FAILED, RUNNING, STOPPED, add_counters, save_job, shared_job
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.errors import DatabaseError
from cowrieprocessor.jobs.dead_letters.reading import LetterReader, Readable
from cowrieprocessor.jobs.dead_letters.source_bytes import Stays
from cowrieprocessor.jobs.dead_letters.writing import RESOLVED, Done, ReplayWriter
from cowrieprocessor.jobs.runtime import process_identity as holder
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle
from cowrieprocessor.settings import Settings

JOB = "dead-letters-replay"
LETTERS_AT_ONCE = 500
"""Letters in one transaction at most."""

CHARS_AT_ONCE = 4 << 20
"""Characters of payloads in memory at most, unless one alone is larger."""

KEPT_OUTCOMES = 200
FINAL_STATE_TIMEOUT_S = 0.2

REPLAYED, STORED_ALREADY, STAYS = "replayed", "stored already", "stays"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter.

    Attributes:
        id: of the letter.
        reason: why it was refused once.
        source: its log; `line` counts from 1.
        state: replayed, stored already, or stays.
        events: how many events were stored.
        why: why it stays, in few words.
        detail: the same in detail.
    """

    id: int
    reason: str
    source: str | None
    line: int | None
    state: str
    events: int = 0
    why: str | None = None
    detail: str | None = None


@dataclass(slots=True)
class ReplayResult:
    """What a replay did, or with a dry run would do.

    Attributes:
        letters: how many were read again.
        counters: what came out of them, by name.
        stays: letters that stay, by why.
        outcomes: what became of the first letters.
        is_dry: whether nothing was written.
    """

    letters: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    stays: Counter[str] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    is_dry: bool = False

    @property
    def resolved(self) -> int:
        """How many letters are resolved now."""
        return self.counters[RESOLVED]

    def note(self, outcome: Outcome) -> None:
        """Count a letter; of the first ones, keep what became of them."""
        self.letters += 1
        if outcome.why is not None:
            self.stays[outcome.why] += 1
        if len(self.outcomes) < KEPT_OUTCOMES:
            self.outcomes.append(outcome)


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far a replay is: letters read again of how many, and how many of them are resolved."""

    letters: int
    total: int
    resolved: int


class _Enough(Exception):
    """As many letters are resolved as were asked for."""


class _Replay:
    """One run."""

    def __init__(
        self, engine: Engine, settings: Settings, letter_filter: LetterFilter, limit: int | None, *, dry: bool
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._choice = letter_filter
        self._limit = limit
        self._dry = dry
        self._throttle = Throttle(engine)
        self._ingest_id = uuid.uuid4().hex
        self._holder = holder.this_process()
        self._total = 0
        self._has_job = False
        self.result = ReplayResult(is_dry=dry)
        self.on_progress: Callable[[ReplayProgress], None] = lambda _now: None
        self.say: Callable[[str], None] = lambda _text: None

    def run(self) -> None:
        """Go over the letters that wait now; what a replay refuses anew is not its business."""
        with read_transaction(self._engine) as connection:
            until = table.last_id(connection)
            self._total = sum(table.count(connection, self._choice).values())
        try:
            with LetterReader(partial(read_transaction, self._engine), self._settings) as reader:
                for letters in self._pages(until):
                    for readable in self._read(reader, letters):
                        while readable:
                            self._write(readable)
                        self.on_progress(ReplayProgress(self.result.letters, self._total, self.result.resolved))
        except _Enough:
            pass
        except KeyboardInterrupt:
            self._try_to_record_end(STOPPED, "interrupted; the same command goes on from here")
            raise
        except DatabaseError as error:
            self._try_to_record_end(FAILED, str(error))
            raise
        if self._has_job:
            self._end(self._engine, DONE, None)

    def _pages(self, until: int) -> Iterator[list[StoredLetter]]:
        """Yield the letters that wait, some at a time, in the order of their ids."""
        after = 0
        while True:
            with read_transaction(self._engine) as connection:
                chosen = table.next_ids(connection, self._choice, after, until, LETTERS_AT_ONCE)
                if not chosen:
                    return
                sizes = table.payload_chars(connection, chosen)
                fitting = (total <= CHARS_AT_ONCE for total in accumulate(sizes.get(one, 0) for one in chosen))
                ids = chosen[: max(1, sum(fitting))]
                letters = table.read_letters(connection, ids)
            after = ids[-1]
            yield letters

    def _read(self, reader: LetterReader, letters: list[StoredLetter]) -> Iterator[deque[Readable]]:
        """Yield what the letters hold, as much at a time as memory bears; those with nothing to store stay."""
        found: deque[Readable] = deque()
        size_bytes = 0
        for letter in letters:
            try:
                one = reader.read(letter)
            except Stays as stays:
                self.result.note(_outcome(letter, STAYS, why=stays.why, detail=stays.detail))
                continue
            found.append(one)
            size_bytes += one.size_bytes
            if size_bytes > CHARS_AT_ONCE:
                yield found
                size_bytes = 0
        yield found

    def _write(self, readable: deque[Readable]) -> None:
        """Store letters until the transaction has lasted long enough; they are taken out of `readable`."""
        left = len(readable) if self._limit is None else self._limit - self.result.resolved
        if left <= 0:
            raise _Enough
        if self._dry:
            with read_transaction(self._engine) as connection:
                writer = ReplayWriter(connection, self._settings, self._ingest_id, dry=True)
                while readable and len(writer.done) < left:
                    writer.add(readable.popleft())
        else:
            writer = self._write_for_a_moment(readable, left)
        self.result.counters.update(writer.counters)
        for done in writer.done:
            self.result.note(_outcome_of(done))

    def _write_for_a_moment(self, readable: deque[Readable], left: int) -> ReplayWriter:
        self._throttle.wait(self._say)
        with self._throttle.transaction() as turn:
            lock_all_events(turn.connection)  # a loader may store the same event from another log
            job = shared_job(turn.connection, JOB, RUNNING)  # of two replays the second waits here
            held = table.lock_unresolved(turn.connection, [one.letter for one in readable])
            writer = ReplayWriter(turn.connection, self._settings, self._ingest_id)
            while readable and (not writer.done or turn.may_go_on()) and len(writer.done) < left:
                one = readable.popleft()
                if one.letter.id in held:  # else another replay was quicker
                    writer.add(one)
            writer.finish()
            add_counters(job.counters, writer.counters)
            job.state, job.reason, job.finished_at, job.cursor = RUNNING, None, None, {"holder": self._holder}
            save_job(turn.connection, job)
        self._has_job = True
        return writer

    def _say(self, obstacle: Obstacle | None) -> None:
        self.say("going on" if obstacle is None else obstacle.reason)

    def _end(self, engine: Engine, state: str, reason: str | None) -> None:
        with write_transaction(engine) as connection:
            job = shared_job(connection, JOB, state)
            if job.cursor.get("holder") != self._holder:
                return  # another replay goes on
            job.state, job.reason = state, reason
            job.finished_at = dt.datetime.now(dt.UTC) if state == DONE else None
            save_job(connection, job)

    def _try_to_record_end(self, state: str, reason: str) -> None:
        """Say in `jobs` why it stopped, if the database listens at once."""
        if not self._has_job:
            return
        engine = get_engine(
            self._engine.url.render_as_string(hide_password=False), lock_timeout_s=FINAL_STATE_TIMEOUT_S
        )
        try:
            self._end(engine, state, reason)
        except DatabaseError:
            return  # what stopped us says more
        finally:
            engine.dispose()


def replay(
    engine: Engine,
    settings: Settings,
    letter_filter: LetterFilter | None = None,
    *,
    limit: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[ReplayProgress], None] = lambda _now: None,
    say: Callable[[str], None] = lambda _text: None,
) -> ReplayResult:
    """Read unresolved dead letters again, store what is an event by now, and resolve them.

    Args:
        engine: a database at our version; for a dry run one for reading is enough.
        settings: the limits of today.
        letter_filter: which letters; all that wait by default.
        limit: resolve so many at most; letters that stay do not count.
        dry_run: write nothing, and say what would be.
        on_progress: told after each few hundred letters.
        say: told why it waits.

    Raises:
        DatabaseError: the database cannot serve; what was committed is kept, the next replay goes on from there.
    """
    require_current(engine)
    run = _Replay(engine, settings, replace(letter_filter or LetterFilter(), resolved=False), limit, dry=dry_run)
    run.on_progress, run.say = on_progress, say
    run.run()
    return run.result


def _outcome_of(done: Done) -> Outcome:
    state = STORED_ALREADY if done.known and not done.events else REPLAYED
    return _outcome(done.letter, state, events=done.events)


def _outcome(
    letter: StoredLetter, state: str, *, events: int = 0, why: str | None = None, detail: str | None = None
) -> Outcome:
    line = None if letter.source_offset is None else letter.source_offset + 1
    return Outcome(letter.id, letter.reason, letter.source, line, state, events, why, detail)
