"""Random sequences: what happens to the files, when the follower polls, what stops it, and what must result."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.errors import DatabaseLocked
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader, PollResult
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.settings import Settings
from tests.rotation.comparison import differences
from tests.rotation.killing import Killed, Places
from tests.rotation.model import Model
from tests.rotation.world import World

SETTLES_S = 0.012
"""How long a changed archive or file takes to settle in these sequences; short, so that waiting costs no time."""

TIMING = FollowTiming(
    archive_settles_s=SETTLES_S,
    coarse_time_settles_s=SETTLES_S,
    fine_time_settles_s=SETTLES_S,
    listing_settles_s=SETTLES_S,
)

WEIGHTS = {
    # the honeypot
    "append": 22,
    "begin_line": 10,
    "finish_line": 6,
    "crash": 3,
    "wipe": 1,
    "reopen": 2,
    # rotation
    "rename": 6,
    "copy_and_truncate": 6,
    "truncate": 3,
    "pack": 5,
    "finish_packing": 2,
    "copy": 3,
    "back_up_part": 3,
    # loss
    "delete": 3,
    "recreate": 3,
    "move_away": 1,
    "bring_back": 1,
    "touch": 2,
    # the follower
    "poll": 22,
    "poll_changed": 3,
    "wait": 3,
    "restart": 4,
    "kill": 5,
    "lock": 5,
    "stop": 2,
    "load": 1,
    "meet": 2,
    "disturb": 6,
}
MEANWHILE = ("append", "begin_line", "rename", "copy_and_truncate", "truncate", "delete", "recreate", "pack", "wipe")
DESTRUCTIVE = {"wipe", "truncate", "delete", "recreate", "move_away", "bring_back", "back_up_part"}


class Step(NamedTuple):
    """A step: what happens, and numbers that choose how."""

    name: str
    a: int = 0
    b: int = 0
    c: int = 0


def random_steps(seed: int) -> list[Step]:
    """Return the steps of a sequence; in every fourth nothing is destroyed on purpose."""
    chance = random.Random(seed)
    weights = {name: weight for name, weight in WEIGHTS.items() if seed % 4 or name not in DESTRUCTIVE}
    # Some sequences have few kinds of steps, so that these meet more often.
    if seed % 3 == 0:
        weights = {name: weight * chance.choice([0, 0, 1, 3]) for name, weight in weights.items()}
        weights |= {"append": 20, "poll": 15, "begin_line": 8}
    names = chance.choices(list(weights), list(weights.values()), k=chance.randint(6, 40))
    return [Step(name, *(chance.randrange(1 << 16) for _ in range(3))) for name in names]


@dataclass(slots=True)
class Run:
    """A sequence on a database.

    Attributes:
        seed: chooses events and settings.
        world: the honeypot and its files.
        model: what can be known.
        engine: the database.
        places: interrupts polls.
        template: an empty SQLite database at the current version.
        gaps_reported: bytes that the polls reported as lost.
        was_ended: whether a poll was interrupted, so that what it reported is not known.
        has_met: whether two followers polled at the same time, each of which may have reported a loss.
    """

    seed: int
    world: World
    model: Model
    engine: Engine
    places: Places
    template: Path
    gaps_reported: int = 0
    was_ended: bool = False
    has_met: bool = False
    _settings: Settings = field(default_factory=Settings)
    _follower: DeltaLoader | None = None
    _stops_after: int | None = None
    _listed: list[tuple[Path, int]] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Do one step."""
        act: Callable[[int, int, int], None] = getattr(self, step.name, None) or getattr(self.world, step.name)
        act(step.a, step.b, step.c)

    def end(self) -> None:
        """Let the follower poll until nothing is new, as it is and after a restart."""
        self.world.finish_packing()
        self.wait()
        self.poll()
        self.restart()
        for _ in range(2):
            self.wait()
            self.poll()

    # --- the follower's steps ---

    def poll(self, *_: int) -> None:
        """Poll everything."""
        self._poll(None)

    def poll_changed(self, *_: int) -> None:
        """Poll the files as after a notification for each; everything if one has come or gone."""
        changed = self.world.disk.paths() if self._listed == self._listing() else None
        self._poll(changed)

    def wait(self, *_: int) -> None:
        """Wait until everything has settled."""
        time.sleep(SETTLES_S * 1.2)

    def restart(self, *_: int) -> None:
        """End the follower and start another one."""
        if self._follower is not None:
            self._follower.close()
        self._forget()

    def kill(self, place: int, count: int, *_: int) -> None:
        """Kill the follower in the middle of a poll, at one of its first places or at a later one."""
        self._give_work(count)
        place = 1 + place % (4 ** (1 + place % 5))
        follower = self._start()
        self.model.note_poll(self.world.disk.sightings(), was_cut_short=True)
        try:
            with self.places.killed_at(place):
                self._add(follower.poll())
        except (Killed, Exception):
            if not self.places.is_dead:
                raise
            self.was_ended = True
            self.places.bury(follower.close)
            self._forget()
        else:
            self.restart()

    def lock(self, place: int, count: int, *_: int) -> None:
        """Lock the database in the middle of a poll; the follower continues with the next one."""
        self._give_work(count)
        follower = self._start()
        self.model.note_poll(self.world.disk.sightings(), was_cut_short=True)
        self.was_ended = True
        try:
            with self.places.locked_at(1 + place % 40):
                follower.poll()
        except DatabaseLocked:
            return

    def stop(self, batches: int, *_: int) -> None:
        """Stop the follower after some batches, and start another one."""
        follower = self._start()
        self.model.note_poll(self.world.disk.sightings(), was_cut_short=True)
        self._stops_after = batches % 5
        with self.places.watching():
            self._add(follower.poll())
        self._stops_after = None
        self.restart()

    def load(self, *_: int) -> None:
        """Load everything with the other loader."""
        if paths := self.world.disk.paths():
            self.model.note_load(self.world.disk.sightings())
            with self.places.watching():
                BulkLoader(self.engine, settings=self._settings).load(paths)

    def meet(self, place: int, *_: int) -> None:
        """Let another follower poll while this one does."""
        follower, sightings = self._start(), list(self.world.disk.sightings())
        other_engine = get_engine(self.engine.url.render_as_string(hide_password=False))
        with (
            self._new_follower(other_engine) as other,
            self.places.meanwhile_at(1 + place % 40, lambda: self._add(other.poll())),
        ):
            self._add(follower.poll())
        dispose(other_engine)
        self.has_met = True
        self.model.note_poll(sightings)

    def disturb(self, place: int, which: int, how: int) -> None:
        """Let something happen to the files in the middle of a poll."""
        name = MEANWHILE[which % len(MEANWHILE)]
        if self.seed % 4 == 0 and name in DESTRUCTIVE:
            return
        follower, chance = self._start(), random.Random(how)
        act: Callable[[int, int, int], None] = getattr(self.world, name)
        self.model.note_poll(self.world.disk.sightings(), was_cut_short=True)
        with self.places.meanwhile_at(1 + place % 40, lambda: act(*(chance.randrange(1 << 16) for _ in range(3)))):
            self._add(follower.poll())
        self.model.note_poll(self.world.disk.sightings(), was_cut_short=True)

    # --- implementation ---

    def close(self) -> None:
        """Close the follower and all files."""
        follower, self._follower = self._follower, None
        try:
            if follower is not None:
                follower.close()
        finally:
            self.world.close()

    def _give_work(self, count: int) -> None:
        """Mostly append something for the next poll."""
        if count % 4:
            self.world.append(count, 1, 0)

    def _poll(self, changed: list[Path] | None) -> None:
        follower = self._start()
        sightings = list(self.world.disk.sightings())
        self._listed = self._listing()
        with self.places.watching():
            self._add(follower.poll(changed))
        self.model.note_poll(sightings, only_named=changed is not None)

    def _listing(self) -> list[tuple[Path, int]]:
        return [(path, path.stat().st_ino) for path in self.world.disk.paths()]

    def _add(self, result: PollResult) -> None:
        self.gaps_reported += sum(gap.bytes_lost for gap in result.gaps)

    def _start(self) -> DeltaLoader:
        if self._follower is None:
            self._follower = self._new_follower(self.engine)
        return self._follower

    def _new_follower(self, engine: Engine) -> DeltaLoader:
        chance = random.Random(self.seed)
        self._settings = Settings(batch_size=chance.choice([1, 3, 1000]))
        disk = self.world.disk
        paths = chance.choice([[disk.live], [disk.folder], [disk.live, disk.folder]])
        on_progress, stop = self.places.pass_place, self._should_stop
        return DeltaLoader(engine, paths, settings=self._settings, on_progress=on_progress, stop=stop, timing=TIMING)

    def _should_stop(self) -> bool:
        if self._stops_after is None:
            return False
        self._stops_after -= 1
        return self._stops_after < 0

    def _forget(self) -> None:
        self._follower = None
        self.model.note_restart()
        self.world.disk.forget_unnamed(self.world.honeypot.inode)


def run_steps(seed: int, steps: list[Step], engine: Engine, folder: Path, template: Path) -> list[str]:
    """Run a sequence; return how the database differs from what it must contain.

    Args:
        seed: chooses events and settings.
        steps: what happens.
        engine: an empty database at the current version.
        folder: an empty folder.
        template: an empty SQLite database at the current version, to be copied.
    """
    with pytest.MonkeyPatch.context() as monkeypatch, ExitStack() as stack:
        world = World(folder, seed)
        run = Run(seed, world, Model(world.disk, SETTLES_S), engine, Places(engine, monkeypatch), template)
        stack.callback(run.close)
        for step in steps:
            run.take(step)
        run.end()
        return differences(run)


@contextmanager
def sequence_room(template: Path, folder: Path) -> Iterator[tuple[Engine, Path]]:
    """Yield a copy of a template database and an empty folder; both are deleted afterwards."""
    room = folder / "room"
    room.mkdir()
    database = folder / "room.sqlite"
    shutil.copyfile(template, database)
    engine = get_engine(database)
    try:
        yield engine, room
    finally:
        dispose(engine)
        shutil.rmtree(room)
        for path in folder.glob("room.sqlite*"):
            path.unlink()


def run_on_sqlite(seed: int, steps: list[Step], template: Path, folder: Path) -> list[str]:
    """Run a sequence on a copy of a template; return the differences, including an error if one was raised."""
    with sequence_room(template, folder) as (engine, room):
        try:
            return run_steps(seed, steps, engine, room, template)
        except Exception as error:  # noqa: BLE001 - for any error the steps that lead to it are searched
            return [f"{type(error).__name__}: {error}"]


def shrink(fails: Callable[[list[Step]], bool], steps: list[Step]) -> list[Step]:
    """Return a shorter sequence that fails as well: steps are left out as long as it still does."""
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            if fails(fewer):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps
