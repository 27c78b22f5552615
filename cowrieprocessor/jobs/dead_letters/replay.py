"""Replay of dead letters with the current program and settings: letters that are events now are stored once.

Letters are read outside any transaction and written in short ones, each of which locks its letters, stores their
events and resolves them. A replay can be killed at any point, and can run alongside loaders and other replays.
"""

from __future__ import annotations

import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.db.dead_letters import statements as table
from cowrieprocessor.db.dead_letters.statements import LetterFilter, StoredLetter, line_of
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.ingest.event_locks import lock_all_events
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.jobs.dead_letters.reading import LetterReader, Readable
from cowrieprocessor.jobs.dead_letters.source_bytes import MAX_RANGE_BYTES, Stays
from cowrieprocessor.jobs.dead_letters.writing import RESOLVED, ReplayWriter, ResolvedLetter
from cowrieprocessor.jobs.runtime.job import Job, run_job
from cowrieprocessor.jobs.runtime.progress import JobProgress, Reporter
from cowrieprocessor.settings import Settings

JOB = "dead-letters-replay"
KEPT_OUTCOMES = 200

REPLAYED, STORED_ALREADY, STAYS = "replayed", "stored already", "stays"


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """Bounds of memory and transactions.

    Attributes:
        letters_at_once: maximum number of letters in one transaction.
        chars_at_once: maximum characters of payloads in memory, unless a single one is larger.
        max_range_bytes: maximum byte range of a letter, unless a single event may be larger.
    """

    letters_at_once: int = 500
    chars_at_once: int = 4 << 20
    max_range_bytes: int = MAX_RANGE_BYTES


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one letter.

    Attributes:
        id: id of the letter.
        reason: why it was refused originally.
        source: its log.
        line: its line, from 1.
        state: replayed, stored already, or stays.
        events: number of events stored.
        why: short reason why it stays.
        detail: details of that reason.
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
    """Result of a replay, or of a dry run.

    Attributes:
        letters: number of letters read.
        counters: rows stored, by counter name.
        stays: number of letters that stay, by short reason.
        outcomes: outcomes of the first letters.
        is_dry: whether it was a dry run.
    """

    letters: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    stays: Counter[str] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    is_dry: bool = False

    @property
    def resolved(self) -> int:
        """Number of resolved letters."""
        return self.counters[RESOLVED]

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of a letter, and keep it if it is among the first ones."""
        self.letters += 1
        if outcome.why is not None:
            self.stays[outcome.why] += 1
        if len(self.outcomes) < KEPT_OUTCOMES:
            self.outcomes.append(outcome)


class _LimitReached(Exception):
    """The requested number of letters is resolved."""


class _Replay:
    """One run of a replay.

    Attributes:
        total: how many letters it reads.
        result: what it has done so far.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        letter_filter: LetterFilter,
        limit: int | None,
        *,
        is_dry: bool,
        limits: ReplayLimits,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._filter = letter_filter
        self._limit = limit
        self._limits = limits
        self._ingest_id = uuid.uuid4().hex
        with read_transaction(engine) as connection:
            self._until = table.last_id(connection)
            self.total = sum(table.count(connection, letter_filter).values())
        self._job: Job | None = None
        self.result = ReplayResult(is_dry=is_dry)

    def run(self, job: Job | None, on_progress: Callable[[JobProgress], None] | None) -> None:
        """Replay the letters that are unresolved at the start; letters that the replay itself adds are not read.

        Args:
            job: the running job; None for a dry run.
            on_progress: called with the progress of a dry run.
        """
        self._job = job
        reporter = job or Reporter(JOB, on_progress)
        try:
            with self._reader() as reader:
                for letters in self._pages(self._until):
                    if job is not None:
                        job.wait()
                    for readable in self._read(reader, letters):
                        while readable:
                            self._write(readable)
                        reporter.progress(self.result.letters, self.total, "dead letters")
        except _LimitReached:
            pass

    def _reader(self) -> LetterReader:
        connect = partial(read_transaction, self._engine)
        return LetterReader(connect, self._settings, max_range_bytes=self._limits.max_range_bytes)

    def _pages(self, until: int) -> Iterator[list[StoredLetter]]:
        """Yield the selected letters up to an id in pages, ordered by id."""
        after = 0
        while True:
            with read_transaction(self._engine) as connection:
                selected = table.next_ids(connection, self._filter, after, until, self._limits.letters_at_once)
                if not selected:
                    return
                sizes = table.payload_chars(connection, selected)
                totals = accumulate(sizes.get(letter_id, 0) for letter_id in selected)
                fitting = sum(total <= self._limits.chars_at_once for total in totals)
                ids = selected[: max(1, fitting)]
                letters = table.read_letters(connection, ids)
            after = ids[-1]
            yield letters

    def _read(self, reader: LetterReader, letters: list[StoredLetter]) -> Iterator[deque[Readable]]:
        """Yield the readable letters in batches bounded in size; count the others as staying."""
        batch: deque[Readable] = deque()
        size_bytes = 0
        for letter in letters:
            try:
                readable = reader.read(letter)
            except Stays as stays:
                self.result.add(_outcome(letter, STAYS, why=stays.why, detail=stays.detail))
                continue
            batch.append(readable)
            size_bytes += readable.size_bytes
            if size_bytes > self._limits.chars_at_once:
                yield batch
                size_bytes = 0
        yield batch

    def _write(self, readable: deque[Readable]) -> None:
        """Store letters in one transaction until its time is up, and remove them from `readable`."""
        left = len(readable) if self._limit is None else self._limit - self.result.resolved
        if left <= 0:
            raise _LimitReached
        if self._job is None:
            with read_transaction(self._engine) as connection:
                writer = ReplayWriter(connection, self._settings, self._ingest_id, is_dry=True)
                while readable and len(writer.resolved) < left:
                    writer.add(readable.popleft())
        else:
            writer = self._write_transaction(self._job, readable, left)
        self.result.counters.update(writer.counters)
        for done in writer.resolved:
            self.result.add(_outcome_of(done))

    def _write_transaction(self, job: Job, readable: deque[Readable], left: int) -> ReplayWriter:
        job.wait()
        with job.throttle.transaction() as turn:
            lock_all_events(turn.connection)  # a loader may store the same event from another log
            job.lock(turn.connection)  # serializes concurrent replays
            locked = table.lock_unresolved(turn.connection, [letter.letter for letter in readable])
            writer = ReplayWriter(turn.connection, self._settings, self._ingest_id)
            while readable and (not writer.resolved or turn.may_go_on()) and len(writer.resolved) < left:
                next_readable = readable.popleft()
                if next_readable.letter.id in locked:  # else another replay resolved it first
                    writer.add(next_readable)
            writer.finish()
            job.checkpoint(turn.connection, add=writer.counters)
        return writer


def replay(
    engine: Engine,
    settings: Settings,
    letter_filter: LetterFilter | None = None,
    *,
    limit: int | None = None,
    dry_run: bool = False,
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
    limits: ReplayLimits | None = None,
) -> ReplayResult:
    """Read unresolved dead letters again, store those that are events now, and resolve them.

    Args:
        engine: a database at the current schema version; for a dry run it may be read-only.
        settings: the current limits.
        letter_filter: which letters; by default all unresolved ones.
        limit: maximum number of letters to resolve; letters that stay do not count.
        dry_run: write nothing, and return what a replay would do.
        stop: once set, the replay ends after its transaction.
        on_progress: called every few hundred letters, and whenever the replay has to wait.
        limits: bounds of memory and transactions.

    Raises:
        JobStopped: it was asked to stop.
        DatabaseError: the database failed; committed work is kept, and the next replay continues from there.
    """
    require_current(engine)
    run = _Replay(
        engine,
        settings,
        replace(letter_filter or LetterFilter(), resolved=False),
        limit,
        is_dry=dry_run,
        limits=limits or ReplayLimits(),
    )
    if dry_run:
        run.run(None, on_progress)
    elif run.total:
        with run_job(engine, JOB, exclusive=False, keeps_position=True, stop=stop, on_progress=on_progress) as job:
            run.run(job, on_progress)
    return run.result


def _outcome_of(resolved: ResolvedLetter) -> Outcome:
    state = STORED_ALREADY if resolved.known and not resolved.events else REPLAYED
    return _outcome(resolved.letter, state, events=resolved.events)


def _outcome(
    letter: StoredLetter, state: str, *, events: int = 0, why: str | None = None, detail: str | None = None
) -> Outcome:
    line = line_of(letter.source_offset, letter.metadata)
    return Outcome(letter.id, letter.reason, letter.source, line, state, events, why, detail)
