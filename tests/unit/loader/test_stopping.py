"""A loader that is asked to stop does so at once, wherever it is; nothing is lost, doubled or reported as lost."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.log_loading import FileResult, LogLoading
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.loader.reading.value_reader import ValueReader
from cowrieprocessor.loader.rows.batching import BatchConfig, prepare_batches
from cowrieprocessor.settings import Settings
from tests.logical_digest import Contents, difference, logical_contents
from tests.logs import count, events, write

OLD, NEW = events(40), events(30, start=40)
SETTINGS = Settings(batch_size=7)
SETTLED = FollowTiming(archive_settles_s=0.0)
STOPS = {"here": 12, "elsewhere": 4}
MAX_CALLS_AFTER_STOP = 6
"""Each level on the way out may call `stop` once more."""

SMALL_PIECES = ReadSizes(piece_bytes=1 << 10, feed_bytes=1 << 10)
"""Read in small pieces, so that `stop` is called often."""


def rotated(folder: Path) -> int:
    """Compress a log that was read up to its middle, and begin the next one; return how many events there are."""
    packed = gzip.compress((folder / "cowrie.json").read_bytes() + "".join(f"{line}\n" for line in OLD[20:]).encode())
    (folder / "cowrie.json.2026-03-01.gz").write_bytes(packed)
    os.utime(folder / "cowrie.json.2026-03-01.gz", (1, 1))
    (folder / "cowrie.json").unlink()
    write(folder / "cowrie.json", NEW)
    return len(OLD) + len(NEW)


def grown(folder: Path) -> int:
    """Let a log grow."""
    with (folder / "cowrie.json").open("a") as file:
        file.writelines(f"{line}\n" for line in [*OLD[20:], *NEW])
    return len(OLD) + len(NEW)


def nothing_in_it(folder: Path) -> int:
    """Rename the log, and begin one in which no object is complete yet."""
    (folder / "cowrie.json").rename(folder / "cowrie.json.1")
    (folder / "cowrie.json").write_bytes(bytes(9000) + b'{"eventid": "cow')
    return 20


@pytest.mark.parametrize("parser", STOPS)
@pytest.mark.parametrize("happens", [rotated, grown, nothing_in_it])
def test_a_stop_anywhere_loses_nothing(tmp_path: Path, happens: Callable[[Path], int], parser: str) -> None:
    """Whenever `stop` returns True, the loader ends, no loss is reported, and the next loader continues."""
    sizes = replace(SMALL_PIECES, other_core_bytes=0) if parser == "elsewhere" else SMALL_PIECES
    options: dict[str, Any] = {"settings": SETTINGS, "timing": SETTLED, "sizes": sizes}
    logs = tmp_path / "logs"
    logs.mkdir()
    write(logs / "cowrie.json", OLD[:20])
    engine = get_engine(tmp_path / "before.sqlite")
    with DeltaLoader(engine, [logs], **options) as loader:
        loader.poll()
        loader.close()
    engine.dispose()
    stored = happens(logs)

    def follow(name: str, stop_at: int) -> tuple[int, Contents]:
        """Follow until a stop, then to the end; return how often `stop` was called first, and what is stored."""
        shutil.copy(tmp_path / "before.sqlite", tmp_path / name)
        engine = get_engine(tmp_path / name)
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return asked >= stop_at

        with DeltaLoader(engine, [logs], stop=stop, **options) as loader:
            assert [] == loader.poll().gaps
            loader.close()
        with DeltaLoader(engine, [logs], **options) as loader:
            assert [[], []] == [loader.poll().gaps, loader.poll().gaps]
        contents = logical_contents(engine)
        assert count(engine, RawEvent) == stored
        engine.dispose()
        return asked, contents

    asked, expected = follow("never.sqlite", 1 << 30)
    assert asked > STOPS[parser]
    for stop_at in range(1, asked, max(1, asked // STOPS[parser])):
        asked_until, contents = follow(f"{stop_at}.sqlite", stop_at)
        assert [] == difference(expected, contents)
        assert asked_until <= stop_at + MAX_CALLS_AFTER_STOP


def test_an_unnamed_log_is_left_when_the_loader_stops(tmp_path: Path) -> None:
    """A log without a path is not a loss when the poll that reads it is stopped; it is read to its end later."""
    logs = tmp_path / "logs"
    logs.mkdir()
    log = write(logs / "cowrie.json", OLD)
    with log.open("a") as file:
        file.write(NEW[0][:50])
    engine = get_engine(tmp_path / "x.sqlite")
    stops = False
    with DeltaLoader(
        engine, [logs], settings=SETTINGS, timing=SETTLED, stop=lambda: stops, sizes=SMALL_PIECES
    ) as loader:
        loader.poll()
        with log.open("a") as file:
            file.write("\n".join(NEW)[50:] + "\n")
        log.unlink()
        stops = True
        assert ([], []) == ((result := loader.poll()).gaps, result.files)
        assert count(engine, RawEvent) == 40

        stops = False
        assert ([], 30) == ((result := loader.poll()).gaps, result.counters["events"])
        assert count(engine, RawEvent) == 70
    engine.dispose()


class FakeLookup:
    """Replaces the lookup of events, and records whether its transaction is open."""

    is_active = True
    is_open = False

    def is_stored(self, *_: object) -> bool:
        """Open a transaction."""
        self.is_open = True
        return False

    is_refused_stored = is_stored

    def release(self) -> None:
        """End it."""
        self.is_open = False


def test_a_stop_while_events_are_looked_up_leaves_no_transaction_open(tmp_path: Path) -> None:
    """A loader that is stopped in the middle of a batch that is looked up closes its transaction."""
    lookup = FakeLookup()
    checkpoint = Checkpoint("identity", 0, "source", "1", 0, "path", lookup=lookup)  # type: ignore[arg-type]
    was_open: list[bool] = []
    with LogStream(write(tmp_path / "x", OLD), sizes=SMALL_PIECES) as stream:

        def stop() -> bool:
            was_open.append(lookup.is_open)
            return lookup.is_open

        stream.stop = stop
        with pytest.raises(ReadingStopped):
            list(prepare_batches(checkpoint, ValueReader(stream), stream, BatchConfig("load", False, 100, 9)))

    assert (was_open[-1], lookup.is_open) == (True, False)


def test_only_loading_a_file_can_be_stopped(tmp_path: Path) -> None:
    """Whatever else is done with an open file, after it was loaded or not, is not interrupted."""
    engine = get_engine(tmp_path / "x.sqlite")
    apply_migrations(engine)
    stops = False
    loading = LogLoading(engine, SETTINGS, "load", job="follow", stop=lambda: stops)
    with LogStream(write(tmp_path / "x", OLD)) as stream:
        loading.load(stream, FileResult("x"))
        stops = True
        assert stream.content_digest()
        with pytest.raises(ReadingStopped):
            loading.load(stream, FileResult("x"))
        assert stream.content_digest()
    engine.dispose()
