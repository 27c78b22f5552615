"""Logs that another machine has, pulled by rsync or scp while they are followed: nothing is said to be destroyed.

rsync writes `.NAME.XXXXXX` and renames it; scp (over SFTP) truncates the file and writes it again from its
beginning. What is
missing in between is there again in a moment.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.loader.delta import DeltaLoader, Gap
from cowrieprocessor.loader.follow.timing import FollowTiming
from tests.rotation.honeypot import event_line
from tests.torture import rounds

pytestmark = pytest.mark.torture

SOON = 0.002
TIMING = FollowTiming(
    archive_settles_s=60.0, coarse_time_settles_s=SOON, fine_time_settles_s=SOON, listing_settles_s=SOON
)
SESSIONS = rounds(3000, 40)

Pull = Callable[[Path, Path, random.Random], Iterator[None]]


def rsync(source: Path, target: Path, chance: random.Random) -> Iterator[None]:
    """Copy under a temporary name, then rename; yields wherever a follower may look."""
    data = source.read_bytes()
    temporary = target.with_name(f".{target.name}.{''.join(chance.choices('abcXYZ123', k=6))}")
    with temporary.open("wb") as file:
        for piece in range(3):
            file.write(data[piece * len(data) // 3 : (piece + 1) * len(data) // 3])
            file.flush()
            yield
    if chance.random() < 0.7:
        os.utime(temporary, ns=(source.stat().st_mtime_ns,) * 2)
    temporary.rename(target)
    yield


def scp(source: Path, target: Path, _chance: random.Random) -> Iterator[None]:
    """Truncate the file and write it from its beginning; yields wherever a follower may look."""
    data = source.read_bytes()
    with target.open("wb", buffering=0) as file:
        yield
        for piece in range(4):
            file.write(data[piece * len(data) // 4 : (piece + 1) * len(data) // 4])
            yield


class Honeypot:
    """A log on another machine, rotated by renaming, whose last line is often torn when it is pulled."""

    def __init__(self, folder: Path, seed: int, chance: random.Random) -> None:
        self._folder, self._seed, self._chance = folder, seed, chance
        self._lines = self._days = 0
        self._rest = b""

    def write(self) -> None:
        """Finish the torn line, write some more, and perhaps tear the last one."""
        lines = [self._line() for _ in range(self._chance.randint(1, 6))]
        torn = self._line() if self._chance.random() < 0.6 else b""
        cut = self._chance.randint(1, len(torn) - 1) if torn else 0
        with (self._folder / "cowrie.json").open("ab") as file:
            file.write(self._rest + b"".join(lines) + torn[:cut])
        self._rest = torn[cut:]

    def rotate(self) -> None:
        """Finish the log, rename it, and begin a new one."""
        with (self._folder / "cowrie.json").open("ab") as file:
            file.write(self._rest)
        self._rest = b""
        self._days += 1
        (self._folder / "cowrie.json").rename(self._folder / f"cowrie.json.2026-01-{self._days:02}")
        self.write()

    def _line(self) -> bytes:
        self._lines += 1
        return event_line(self._seed, self._lines).rstrip(b"\n") + b"\n"


def follow_pulled(seed: int, pull: Pull, engine: Engine, folder: Path) -> list[Gap]:
    """Pull a log that grows and is rotated, and poll at any moment; return what was said to be lost."""
    chance = random.Random(seed)
    there, here = folder / "there", folder / "here"
    there.mkdir(parents=True)
    here.mkdir()
    honeypot = Honeypot(there, seed, chance)
    honeypot.write()
    gaps: list[Gap] = []
    with DeltaLoader(engine, [here], timing=TIMING) as loader:

        def pull_all() -> None:
            for source in sorted(there.iterdir()):
                target = here / source.name
                if target.exists() and target.read_bytes() == source.read_bytes():
                    continue
                for _ in pull(source, target, chance):
                    if chance.random() < 0.5:
                        gaps.extend(loader.poll().gaps)

        for _ in range(chance.randint(3, 12)):
            (honeypot.rotate if chance.random() < 0.15 else honeypot.write)()
            if chance.random() < 0.7:
                pull_all()
        pull_all()
        time.sleep(2 * SOON)  # so that a file that changed at once again is not taken for the same
        gaps.extend(loader.poll().gaps + loader.poll().gaps)
    return gaps


def _event(line: str) -> tuple[str, int]:
    event = json.loads(line)
    return str(event.get("sensor")), event["number"]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pull", [rsync, scp])
def test_a_pulled_log_is_never_said_to_be_destroyed(pull: Pull, engine: Engine, tmp_path: Path) -> None:
    """Whenever the follower looks, it reports no loss and records none, and has every whole line in the end."""
    said = {
        seed: found for seed in range(SESSIONS) if (found := follow_pulled(seed, pull, engine, tmp_path / str(seed)))
    }
    with read_transaction(engine) as connection:
        recorded = connection.execute(text("SELECT COALESCE(SUM(bytes_gap), 0) FROM log_files")).scalar()
        stored = {_event(row[0]) for row in connection.execute(text("SELECT CAST(payload AS TEXT) FROM raw_events"))}
    pulled = {_event(line) for log in tmp_path.glob("*/here/cowrie.json*") for line in log.read_text().split("\n")[:-1]}

    assert ({}, 0) == (said, recorded)
    assert pulled <= stored


def test_what_is_really_gone_is_said_once_the_file_has_settled(engine: Engine, tmp_path: Path) -> None:
    """A truncated file that is not written again has lost its torn line: that is said after a moment, once."""
    timing = FollowTiming(
        archive_settles_s=0.05, coarse_time_settles_s=SOON, fine_time_settles_s=SOON, listing_settles_s=SOON
    )
    log = tmp_path / "cowrie.json"
    log.write_bytes(event_line(1, 1).rstrip(b"\n") + b'\n{"eventid":"torn')
    gaps: list[Gap] = []
    with DeltaLoader(engine, [tmp_path], timing=timing) as loader:
        loader.poll()
        log.write_bytes(event_line(1, 2).rstrip(b"\n") + b"\n")
        while (polled := loader.poll()).is_undecided:
            assert polled.gaps == []
            time.sleep(polled.again_in_s or 0.0)
        gaps += polled.gaps + loader.poll().gaps

    assert [(str(log), 16)] == [(gap.path, gap.bytes_lost) for gap in gaps]
