"""Followers and loads that are killed while a honeypot writes and rotates, and what must be true afterwards."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.loader.bulk import BulkLoader
from tests.logical_digest import EVENT_TABLES, Contents, difference, logical_contents
from tests.reliability.busy_honeypot import BusyHoneypot, plain
from tests.reliability.command_forks import Commands

BATCH_SIZE = 5
FILES_FAILED = 3
"""The exit code of a load that met a log which was renamed, or packed, a moment ago."""

LOCK_TIMEOUT_S = 0.6
"""How long a follower is told to wait for others; see `settings` of `CommandForks`."""

PATIENCE_S = 60.0
NOTICE_S = 0.35
"""Within so long a follower is told of a change."""

START_S = 0.3
"""Some are killed at a random moment within so long after their start, unless it takes longer, ..."""

WORK_S = 0.05
"""... the others at a random moment within so long after they stored something, or ..."""

LONGEST_LIFE_S = 2.0
"""... when they did not for so long."""

MOST_LEFT = 250
"""So many events may wait before the honeypot is given a rest."""

NAMES_AT_THE_TIME = ("source", "source_inode", "source_generation", "source_files", "metadata_json")
"""What depends on the name that a log had when it was first seen; `letters` compares the rest of the metadata."""

COUNTED = ("events", "dead_letters", "file_sightings", "file_dead_letters", "events_without_session")


@dataclass(slots=True)
class Kills:
    """How the commands ended that were to be killed.

    Attributes:
        started: how many there were.
        killed: how many were still running.
        at_work: how many of those left events unstored that had been written to their end.
        stored_before: how many of those had stored something.
    """

    started: int = 0
    killed: int = 0
    at_work: int = 0
    stored_before: int = 0

    def __add__(self, other: Kills) -> Kills:
        """Return the sums."""
        return Kills(
            self.started + other.started,
            self.killed + other.killed,
            self.at_work + other.at_work,
            self.stored_before + other.stored_before,
        )

    def __str__(self) -> str:
        """Return the numbers for people."""
        return (
            f"{self.started} started, {self.killed} killed, {self.at_work} of them with events before them, "
            f"{self.stored_before} of those with some stored"
        )


class KillingRound:
    """One honeypot, one database, and commands that are killed.

    Args:
        commands: starts them.
        engine: the database, at the current version.
        folder: an empty one.
        seed: of the honeypot, and of what is killed when.
        packs: whether rotated logs are compressed; who looks once waits a while for new archives.
        start_s: some are killed at a random moment within so long after their start.
    """

    def __init__(
        self,
        commands: Commands,
        engine: Engine,
        folder: Path,
        seed: int,
        *,
        packs: bool = True,
        start_s: float = START_S,
    ) -> None:
        self.engine = engine
        self.honeypot = BusyHoneypot(folder, seed, packs=packs)
        self._commands = commands
        self._start_s = start_s
        self._said_before = 0
        self._dice = random.Random(~seed)
        self._target = engine.url.render_as_string(hide_password=False)

    def kill(self, times: int) -> Kills:
        """Start commands, one after the other, and kill each at some moment, until so many were killed."""
        kills = Kills()
        while kills.killed < times:
            assert kills.started < 20 + 3 * times, f"they end before they can be killed: {self._commands.said[-3000:]}"
            before = self._stored()
            if len(self.honeypot.events) - before < MOST_LEFT:
                self.honeypot.append(self._dice.randint(5, 120))
            pid = self._commands.start(*self._some_command())
            self._let_live(before)
            code = self._commands.end(pid, signal.SIGKILL)
            assert code in (-signal.SIGKILL, 0, FILES_FAILED), (code, self._commands.said[-3000:])
            was_killed = code == -signal.SIGKILL
            after = self._stored()
            is_at_work = was_killed and after < len(self.honeypot.events)
            kills += Kills(1, was_killed, is_at_work, is_at_work and after > before)
        return kills

    def lock_out(self, times: int, *, is_said: bool = True) -> None:
        """Let a follower work while another process, this one, keeps the database longer than a follower waits.

        Args:
            times: how often.
            is_said: go on until it says that it waits; else until one attempt to write has failed and a second waits.
        """
        self._said_before = len(self._commands.said)
        pid = self._commands.start("follow", self.honeypot.folder, "--db", self._target, "--batch-size", BATCH_SIZE)
        self.honeypot.append(10)
        self._wait_for_all()
        for _ in range(times):
            longest_s = PATIENCE_S if is_said else NOTICE_S + 1.5 * LOCK_TIMEOUT_S
            with write_transaction(self.engine):
                self.honeypot.append(60)
                wait_until(lambda: is_said and self._is_waiting(), longest_s)
            self._wait_for_all()
            wait_until(lambda: not self._is_waiting(), PATIENCE_S)
        self._commands.end(pid, signal.SIGKILL)

    def finish(self) -> int:
        """End the honeypot, and let one follower look once, undisturbed, without a mistake; return its exit code."""
        self.honeypot.close()
        self._commands.sabotage, self._commands.settings = None, {}
        return self._commands.run("follow", "--once", self.honeypot.folder, "--db", self._target)

    def wrong(self) -> list[str]:
        """Return how the database differs from what was written, and from one that was loaded in peace."""
        return [*self.wrong_events(), *self._compare_clean_load()]

    def wrong_events(self) -> list[str]:
        """Return which events are not stored once."""
        stored, written = stored_events(self.engine), self.honeypot.written()
        return [
            f"stored {stored[one]} times, written {written[one]}: {one}"
            for one in written.keys() | stored.keys()
            if stored[one] != written[one]
        ]

    def _let_live(self, stored: int) -> None:
        """Let the honeypot work until it is time to kill a command that was just started."""
        is_at_start = self._dice.random() < 0.4
        until = time.monotonic() + (self._dice.uniform(0, self._start_s) if is_at_start else LONGEST_LIFE_S)
        while (left_s := until - time.monotonic()) > 0:
            self.honeypot.do_something(6)
            time.sleep(min(left_s, self._dice.uniform(0, 0.03)))
            if not is_at_start and self._stored() > stored:
                time.sleep(self._dice.uniform(0, WORK_S))
                return

    def _wait_for_all(self) -> None:
        """Wait until all events are stored, but no longer than a follower with a mistake is given."""
        wait_until(lambda: self._stored() >= len(self.honeypot.events), LONGEST_LIFE_S)

    def _is_waiting(self) -> bool:
        """Return whether the follower has said that it waits, and not that it could go on."""
        said = self._commands.said[self._said_before :]
        return said.count("waiting since") > said.count("serves again")

    def _some_command(self) -> list[object]:
        options = ["--db", self._target, "--batch-size", BATCH_SIZE]
        path = self._dice.choice([self.honeypot.folder, self.honeypot.live])
        chance = self._dice.random()
        if chance < 0.55:
            return ["follow", path, *options, *self._dice.choice([[], [], ["--poll", "0.1"]])]
        if chance < 0.75:
            return ["follow", "--once", path, *options]
        return ["load", self.honeypot.folder, *options]

    def _stored(self) -> int:
        with read_transaction(self.engine) as connection:
            return connection.execute(select(func.count()).select_from(RawEvent)).scalar_one()

    def _compare_clean_load(self) -> list[str]:
        clean = get_engine(self.honeypot.folder.with_name(f"{self.honeypot.folder.name}-clean.sqlite"))
        try:
            result = BulkLoader(clean).load([self.honeypot.folder])
            assert result.failed == []
            both = [_contents(engine) for engine in (clean, self.engine)]
        finally:
            dispose(clean)
        return difference(both[0], both[1])


def wait_until(condition: Callable[[], bool], longest_s: float) -> None:
    """Return when something is the case, or after so long."""
    until = time.monotonic() + longest_s
    while time.monotonic() < until and not condition():
        time.sleep(0.01)


def stored_events(engine: Engine) -> Counter[str]:
    """Return how often each payload is stored."""
    with read_transaction(engine) as connection:
        rows = connection.execute(text("SELECT CAST(payload AS TEXT) FROM raw_events"))
        return Counter(plain(payload) for (payload,) in rows)


def _contents(engine: Engine) -> Contents:
    """Return what a database says, in the same words whoever loaded it under whatever names."""
    contents = logical_contents(engine, tables=EVENT_TABLES, without=NAMES_AT_THE_TIME)
    with read_transaction(engine) as connection:
        letters = connection.execute(text("SELECT CAST(metadata_json AS TEXT) FROM dead_letter_events")).scalars()
        contents["letters"] = sorted(json.dumps({**json.loads(one), "generation": 0}) for one in letters)
        counters = [
            json.loads(one) for one in connection.execute(text("SELECT CAST(counters AS TEXT) FROM jobs")).scalars()
        ]
        contents["counters"] = [f"{name}: {sum(one.get(name, 0) for one in counters)}" for name in COUNTED]
        logs = connection.execute(
            text(
                "SELECT identity, values_done, byte_pos, next_line, tail_hash, tail_bytes, last_value_hash,"
                " bytes_stored, bytes_dead, bytes_nul, bytes_gap FROM log_files ORDER BY identity, values_done"
            )
        ).mappings()
        # A copy that was looked at while it was made is a log of its own, as far as it went then: the longest counts.
        longest = {row["identity"]: json.dumps(dict(row), sort_keys=True) for row in logs}
        contents["logs"] = sorted(longest.values())
    return contents
