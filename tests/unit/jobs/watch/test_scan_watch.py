"""Watching folders of captured files: new files are stored, problems reported once, database errors retried."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, text

from cowrieprocessor.analysis.downloads_scan import ScanLimits, ScanResult
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import STOPPED, jobs_of_kind
from cowrieprocessor.db.models import FileHash, Files
from cowrieprocessor.errors import AlreadyFollowed, ConfigurationError, JobTaken
from cowrieprocessor.jobs.runtime.path_lock import lock_paths
from cowrieprocessor.jobs.watch.scan_watch import KIND, Downloads, Sieve, Timing, WatchResult, watch_downloads

PATIENCE_S = 60.0
SOON = Timing(settled_s=0.05, whole_every_s=3600.0, missing_s=0.1)
OFTEN = Timing(settled_s=0.0, whole_every_s=0.05, missing_s=0.05)


class Watching:
    """A watch in a thread of its own, and its messages."""

    def __init__(
        self, engine: Engine, folders: tuple[Path, ...], timing: Timing, poll_s: float | None, rehash: bool
    ) -> None:
        self.messages: list[str] = []
        self.scans: list[ScanResult] = []
        self.stop = Event()
        self.result: WatchResult | None = None
        self.error: Exception | None = None

        def run() -> None:
            try:
                self.result = watch_downloads(
                    engine,
                    [Downloads(folder, folder.name) for folder in folders],
                    rehash=rehash,
                    poll_s=poll_s,
                    stop=self.stop,
                    notify=self.messages.append,
                    on_scan=self.scans.append,
                    timing=timing,
                )
            except Exception as error:  # noqa: BLE001 - raised again in the thread of the test
                self.error = error

        self.thread = Thread(target=run)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something to happen."""
        ends_at = time.monotonic() + PATIENCE_S
        while not happened():
            if not self.thread.is_alive():
                raise AssertionError("the watch has ended") from self.error
            assert time.monotonic() < ends_at, self.messages
            time.sleep(0.05)


@contextmanager
def watching(
    engine: Engine, *folders: Path, timing: Timing = SOON, poll_s: float | None = None, rehash: bool = False
) -> Iterator[Watching]:
    """Watch folders while the block runs; an error of the watch is raised at its end."""
    watch = Watching(engine, folders, timing, poll_s, rehash)
    watch.thread.start()
    try:
        yield watch
    finally:
        watch.stop.set()
        watch.thread.join()
    if watch.error is not None:
        raise watch.error


def put(folder: Path, content: bytes) -> str:
    """Put a captured file into the folder as Cowrie does, by renaming it, and return its hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "tmpfile").write_bytes(content)
    (folder / "tmpfile").rename(folder / sha256)
    return sha256


def stored(engine: Engine) -> dict[str, int | None]:
    """Return the size of each file that the database knows, by its hash."""
    with read_transaction(engine) as connection:
        return {row.sha256: row.size_bytes for row in connection.execute(select(FileHash.sha256, FileHash.size_bytes))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty downloads folder."""
    path = tmp_path / "pot-1"
    path.mkdir()
    return path


def test_existing_and_new_files_are_stored(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Files in any of the folders are stored, and later ones, too, each under its sensor."""
    other = tmp_path / "pot-2"
    other.mkdir()
    expected = {put(folder, b"first"): 5, put(other, b"second one"): 10}
    with watching(engine, folder, other) as watch:
        watch.until(lambda: stored(engine) == expected)
        for number in range(3):
            content = b"later %d" % number
            expected[put(other if number % 2 else folder, content)] = len(content)
            watch.until(lambda: stored(engine) == expected)

    with read_transaction(engine) as connection:
        sessions = dict(connection.execute(select(Files.session_id, func.count()).group_by(Files.session_id)).all())
        (job,) = jobs_of_kind(connection, KIND)
    assert sessions == {"artifact:pot-1": 3, "artifact:pot-2": 2}
    assert job.state == STOPPED
    assert watch.result is not None
    assert {name: counters["new"] for name, counters in watch.result.counters.items()} == {
        str(folder): 3,
        str(other): 2,
    }
    assert watch.messages == []


def test_later_scans_are_limited_to_changed_files(engine: Engine, folder: Path) -> None:
    """After the first scan of the whole folder only changed files are scanned."""
    for number in range(20):
        put(folder, b"%d" % number)
    with watching(engine, folder, timing=Timing(settled_s=0.0, whole_every_s=3600.0)) as watch:
        watch.until(lambda: len(stored(engine)) == 20)
        put(folder, b"new")
        watch.until(lambda: len(stored(engine)) == 21)

    assert [(scan.entries, scan.new) for scan in watch.scans] == [(20, 20), (1, 1)]


def test_a_file_is_scanned_when_it_has_settled(engine: Engine, folder: Path) -> None:
    """A file that just changed is not read, so that a copy in progress is not reported as a mismatch."""
    (folder / ("a" * 64)).write_bytes(b"the beginning of")
    with watching(engine, folder, timing=Timing(settled_s=3600.0, whole_every_s=0.05), poll_s=0.05) as watch:
        watch.until(lambda: len(watch.scans) >= 3)

    assert {scan.entries for scan in watch.scans} == {0}
    assert watch.messages == []


def test_lost_notifications_do_not_matter(engine: Engine, folder: Path) -> None:
    """The whole folder is scanned now and then, even if no change was reported."""
    with watching(engine, folder, timing=OFTEN, poll_s=3600.0) as watch:
        watch.until(lambda: len(watch.scans) >= 1)
        sha256 = put(folder, b"quietly")
        watch.until(lambda: sha256 in stored(engine))


def test_a_missing_folder_is_waited_for(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """A missing folder is reported once and does not affect others; when it appears it is scanned."""
    late = tmp_path / "late"
    with watching(engine, late, folder) as watch:
        here = put(folder, b"here")
        watch.until(lambda: here in stored(engine))
        late.mkdir()
        there = put(late, b"there")
        watch.until(lambda: there in stored(engine))
        late.joinpath(there).unlink()
        late.rmdir()
        watch.until(lambda: len(watch.messages) == 2)

    assert [text.split(";")[0] for text in watch.messages] == [f"waiting: {late}: no such folder"] * 2


def test_a_mismatch_is_reported_once(engine: Engine, folder: Path) -> None:
    """A file whose content does not have the hash in its name is reported by the first scan only."""
    wrong = folder / hashlib.sha256(b"right").hexdigest()
    wrong.write_bytes(b"wrong")
    with watching(engine, folder, timing=OFTEN) as watch:
        watch.until(lambda: sum(bool(scan.mismatched) for scan in watch.scans) >= 3)
        wrong.write_bytes(b"right")
        watch.until(lambda: wrong.name in stored(engine))

    assert watch.messages == [f"warning: {wrong}: its content is not what its name says; it is not stored"]


def test_a_locked_database_is_waited_for(db_url: str, engine: Engine, folder: Path) -> None:
    """A long lock is reported once; nothing is lost, and the watch continues after it."""
    impatient = get_engine(db_url, lock_timeout_s=0.05)
    try:
        with watching(impatient, folder) as watch:
            watch.until(lambda: len(watch.scans) >= 1)
            with write_transaction(engine) as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("LOCK TABLE jobs, file_hashes IN ACCESS EXCLUSIVE MODE"))
                sha256 = put(folder, b"kept")
                watch.until(lambda: bool(watch.messages))
            watch.until(lambda: sha256 in stored(engine))
            watch.until(lambda: len(watch.messages) == 2)
    finally:
        dispose(impatient)

    assert watch.messages[0].startswith("waiting since ")
    assert watch.messages[1].startswith("the database serves again after ")


def test_a_lock_at_its_start_is_waited_out(db_url: str, engine: Engine, folder: Path) -> None:
    """Started while another process writes, a watch reports that and waits; then it scans."""
    sha256 = put(folder, b"there")
    impatient = get_engine(db_url, lock_timeout_s=0.05)
    try:
        with write_transaction(engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
            with watching(impatient, folder) as watch:
                watch.until(lambda: bool(watch.messages))
            assert watch.result is not None
            assert watch.result.scans == 0
        with watching(impatient, folder) as watch:
            watch.until(lambda: sha256 in stored(engine))
    finally:
        dispose(impatient)


def test_a_deleted_database_ends_the_watch(tmp_path: Path, folder: Path) -> None:
    """A watch whose database was deleted ends with that error, instead of storing to a file without a name."""
    path = tmp_path / "test.sqlite"
    engine = get_engine(path)

    def watch_while_it_is_deleted() -> None:
        with watching(engine, folder) as watch:
            watch.until(lambda: len(watch.scans) >= 1)
            for file in tmp_path.glob("test.sqlite*"):
                file.unlink()
            put(folder, b"new")
            watch.thread.join(PATIENCE_S)

    with pytest.raises(JobTaken, match="the file is gone"):
        watch_while_it_is_deleted()
    dispose(engine)
    assert not path.exists()


class Countdown(Event):
    """An event that is set after it was checked a number of times."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self._checks = checks

    def is_set(self) -> bool:
        """Return whether it was checked often enough."""
        self._checks -= 1
        return self._checks < 0


@pytest.mark.parametrize(("checks", "committed"), [(0, 0), (3, 0), (15, 10)])
def test_a_stopped_scan_is_resumed(engine: Engine, folder: Path, checks: int, committed: int) -> None:
    """Stopped between any two files, the watch ends at once, and the next one stores what is missing."""
    expected = {put(folder, b"%d" % number) for number in range(25)}
    pot = Downloads(folder, folder.name)

    watch_downloads(
        engine, [pot], stop=Countdown(checks), timing=Timing(settled_s=0.0), limits=ScanLimits(batch_files=10)
    )
    assert len(stored(engine)) == committed

    with watching(engine, folder, timing=Timing(settled_s=0.0)) as watch:
        watch.until(lambda: set(stored(engine)) == expected)
    with read_transaction(engine) as connection:
        assert connection.execute(select(func.count()).select_from(Files)).scalar_one() == 25


def test_a_second_watch_of_a_folder_is_refused(engine: Engine, folder: Path) -> None:
    """A process that watches the folder or one above it is named; one that has ended does not matter."""
    with (
        lock_paths(engine, KIND, [folder.parent]),
        pytest.raises(AlreadyFollowed, match=rf"overlaps with {folder.parent}.*process {os.getpid()} on "),
    ):
        watch_downloads(engine, [Downloads(folder)], stop=Event())
    watch_downloads(engine, [Downloads(folder)], stop=Countdown(0))


def test_every_file_is_read_again_by_the_first_scan_only(engine: Engine, folder: Path) -> None:
    """`rehash` reads every file when the watch starts, and none afterwards."""
    put(folder, b"12345")
    with watching(engine, folder, timing=OFTEN) as first:
        first.until(lambda: len(first.scans) >= 2)
    with watching(engine, folder, timing=OFTEN, rehash=True) as again:
        again.until(lambda: len(again.scans) >= 3)
    for watch in (first, again):
        assert [scan.bytes_read for scan in watch.scans] == [5] + [0] * (len(watch.scans) - 1)


class Entry:
    """An entry of a folder with a given ctime."""

    def __init__(self, name: str, changed_at: float) -> None:
        self.name = name
        self.st_ctime = changed_at

    def stat(self, *, follow_symlinks: bool) -> Entry:
        """Return itself as the result of `stat`."""
        assert not follow_symlinks
        return self


def sifted(entry: Entry, since: float | None, now: float, settled_s: float) -> tuple[bool, Sieve]:
    """Return whether an entry is scanned at that time, and the sieve."""
    sieve = Sieve(since, settled_s, lambda: now)
    return sieve(cast("os.DirEntry[str]", entry)), sieve


@settings(max_examples=100)
@given(
    changed_at=st.integers(0, 100),
    scans=st.lists(st.integers(0, 120), min_size=1, max_size=12).map(sorted),
    settled_s=st.integers(0, 10),
)
def test_each_settled_change_is_scanned_exactly_once(changed_at: int, scans: list[int], settled_s: int) -> None:
    """Whenever scans happen, one scans the change, not before it has settled, and until then another one is due."""
    entry = Entry("f" * 64, changed_at)
    since, scanned = 0.0, []
    for now in (scan for scan in scans if scan >= changed_at):
        wanted, sieve = sifted(entry, since, now, settled_s)
        since = sieve.until
        if wanted:
            scanned.append(now)
        else:
            assert sieve.has_fresh or scanned
    settled = [scan for scan in scans if scan > changed_at + settled_s]
    assert scanned == settled[:1]


@pytest.mark.parametrize("name", ["redir_00ff", "note", "tmpfile"])
def test_other_names_are_only_part_of_full_scans(name: str) -> None:
    """A scan of changed files ignores names that are not a hash; a full scan does not."""
    assert not sifted(Entry(name, 50), 0.0, 100, 2)[0]
    assert sifted(Entry(name, 50), None, 100, 2)[0]


def test_a_change_in_the_future_is_only_part_of_full_scans() -> None:
    """A file system whose clock is ahead does not delay a file for ever."""
    wanted, sieve = sifted(Entry("f" * 64, 200), None, 100, 2)
    assert (wanted, sieve.has_fresh) == (True, False)
    assert not sifted(Entry("f" * 64, 200), 0.0, 100, 2)[0]


def test_a_watch_of_no_folder_is_refused(engine: Engine) -> None:
    """A watch that would watch nothing says so instead of running."""
    with pytest.raises(ConfigurationError, match="no folder to watch"):
        watch_downloads(engine, [], stop=Event())
