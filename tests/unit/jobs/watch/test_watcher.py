"""Waiting for changes: what is told, when everything has to be looked at, and what happens where nothing is told."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from cowrieprocessor import filesystems
from cowrieprocessor.jobs.watch import poller as polling
from cowrieprocessor.jobs.watch import watcher as watching
from cowrieprocessor.jobs.watch.watcher import Watcher, pause

LONG_S = 60.0
MOMENT_S = 0.3


@pytest.fixture
def stop() -> Event:
    """Nobody says stop, unless the test does."""
    return Event()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file."""
    made = tmp_path / "logs"
    made.mkdir()
    (made / "cowrie.json").write_text("one\n", encoding="utf-8")
    return made


@pytest.fixture
def watcher(folder: Path, stop: Event) -> Iterator[Watcher]:
    """A watcher of the folder that has begun to watch."""
    with Watcher(lambda: [folder]) as made:
        assert made.wait(0, stop) is None
        assert made.is_told
        yield made


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def append(path: Path, text: str = "more\n") -> None:
    """Write at the end of a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_a_file_that_was_written_is_named(watcher: Watcher, folder: Path, stop: Event) -> None:
    """A file that grew is told by its path, beneath the folder as it was named."""
    append(folder / "cowrie.json")

    assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)


def test_a_write_while_nobody_waits_is_told(watcher: Watcher, folder: Path, stop: Event) -> None:
    """What is written between two waits is told by the next one; several files come together or one by one."""
    (folder / "other.json").write_text("", encoding="utf-8")
    assert watcher.wait(LONG_S, stop) is None
    append(folder / "cowrie.json")
    append(folder / "other.json")
    told: set[Path] = set()
    while len(told) < 2:
        told |= watcher.wait(LONG_S, stop) or set()

    assert {folder / "cowrie.json", folder / "other.json"} == told


def test_nothing_happens(watcher: Watcher, stop: Event) -> None:
    """When the time is over nothing is told, also at once."""
    assert frozenset() == watcher.wait(MOMENT_S, stop)
    assert frozenset() == watcher.wait(0, stop)


def test_reading_is_no_change(watcher: Watcher, folder: Path, stop: Event) -> None:
    """A file that is read tells nothing: looking at logs does not make us look again."""
    (folder / "cowrie.json").read_text(encoding="utf-8")
    list(folder.iterdir())

    assert frozenset() == watcher.wait(MOMENT_S, stop)


@pytest.mark.parametrize("what", ["new", "renamed", "deleted", "sub-folder", "linked"])
def test_what_comes_or_goes_is_looked_for(watcher: Watcher, folder: Path, stop: Event, what: str) -> None:
    """A file or folder that came, went or has another name now makes everything looked at."""
    log = folder / "cowrie.json"
    if what == "new":
        (folder / "new.json").touch()
    elif what == "renamed":
        log.rename(folder / "cowrie.json.1")
    elif what == "deleted":
        log.unlink()
    elif what == "linked":
        os.link(log, folder / "again.json")
    else:
        (folder / "more").mkdir()

    assert watcher.wait(LONG_S, stop) is None


def test_a_truncated_file_is_named(watcher: Watcher, folder: Path, stop: Event) -> None:
    """A log that copytruncate emptied has changed."""
    os.truncate(folder / "cowrie.json", 0)

    assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)


def test_folders_that_appear_later_are_watched(tmp_path: Path, stop: Event) -> None:
    """A folder that is not there yet is taken up when it is, and what happens in it is told from then on."""
    later = tmp_path / "later"
    with Watcher(lambda: [later]) as watcher:
        assert frozenset() == watcher.wait(0, stop)
        assert not watcher.is_told
        later.mkdir()
        assert watcher.wait(LONG_S, stop) is None
        assert watcher.is_told
        (later / "cowrie.json").touch()
        assert watcher.wait(LONG_S, stop) is None
        append(later / "cowrie.json")
        assert frozenset({later / "cowrie.json"}) == watcher.wait(LONG_S, stop)


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_folder_that_was_replaced_is_watched_anew(watcher: Watcher, folder: Path, stop: Event, how: str) -> None:
    """Another folder of the same name is watched as the first one was."""
    if how == "deleted":
        shutil.rmtree(folder)
    else:
        folder.rename(folder.with_name("old"))
    folder.mkdir()
    while watcher.wait(MOMENT_S, stop) is None:
        pass
    (folder / "cowrie.json").touch()
    assert watcher.wait(LONG_S, stop) is None
    append(folder / "cowrie.json")

    assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)


def test_everything_is_looked_at_now_and_then(folder: Path, stop: Event) -> None:
    """Although nothing was told, everything is looked at every half minute: a notice may be lost."""
    clock = Clock()
    with Watcher(lambda: [folder], clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        assert frozenset() == watcher.wait(0, stop)
        clock.now += watching.SAFETY_S
        assert watcher.wait(0, stop) is None
        assert frozenset() == watcher.wait(0, stop)


def test_long_looks_are_seldom(folder: Path, stop: Event) -> None:
    """Where looking at everything takes a second each time, it is done one part in a hundred of the time at most."""
    clock = Clock()
    with Watcher(lambda: [folder], clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        for look_s in (1.0, 1.0, 40.0):
            watcher.found_nothing(look_s)
        clock.now += 98
        assert frozenset() == watcher.wait(0, stop)
        clock.now += 1
        assert watcher.wait(0, stop) is None


def test_a_single_slow_look_changes_nothing(folder: Path, stop: Event) -> None:
    """One look that was slow, or one among others, does not put the next ones off."""
    clock = Clock()
    with Watcher(lambda: [folder], clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        for look_s in (60.0, 0.01, 0.01):
            watcher.found_nothing(look_s)
            clock.now += watching.SAFETY_S
            assert watcher.wait(0, stop) is None


def test_files_that_nobody_wants(folder: Path, stop: Event) -> None:
    """What happens to a file that is not wanted is told to nobody; wanted ones, and folders that come and go, are."""
    with Watcher(lambda: [folder], wanted=lambda path: path.endswith(".json")) as watcher:
        assert watcher.wait(0, stop) is None
        append(folder / "cowrie.log")
        append(folder / "cowrie.log")
        (folder / "cowrie.log").rename(folder / "cowrie.log.1")
        (folder / "cowrie.log.1").unlink()
        assert frozenset() == watcher.wait(MOMENT_S, stop)
        append(folder / "cowrie.log")
        append(folder / "cowrie.json")
        assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)
        (folder / "other.json").touch()
        assert watcher.wait(LONG_S, stop) is None
        (folder / "below").mkdir()
        assert watcher.wait(LONG_S, stop) is None


def test_stop_ends_a_wait(folder: Path) -> None:
    """A wait of any kind returns soon after stop is set."""
    for poll_s in (None, 3600.0):
        stop = Event()
        with Watcher(lambda: [folder], poll_s=poll_s) as watcher:
            watcher.wait(0, stop)
            timer = threading.Timer(0.05, stop.set)
            timer.start()
            assert frozenset() == watcher.wait(3600, stop)
            timer.join()
    pause(3600, stop)


def test_polling_when_told_to(folder: Path, stop: Event) -> None:
    """With a time to poll, everything is looked at when it is over, and nothing is watched."""
    clock = Clock()
    with Watcher(lambda: [folder], poll_s=5.0, clock=clock) as watcher:
        append(folder / "cowrie.json")
        assert frozenset() == watcher.wait(0, stop)
        assert not watcher.is_told
        clock.now += 5
        assert watcher.wait(0, stop) is None
        assert frozenset() == watcher.wait(0, stop)


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system that another machine writes to."""
    made = tmp_path / "far"
    made.mkdir()
    (made / "cowrie.json").write_text("one\n", encoding="utf-8")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {made} rw - nfs4 server:/logs rw\n", encoding="utf-8")
    monkeypatch.setattr(filesystems, "MOUNTINFO", mounts)
    return made


def test_a_network_file_system_is_polled(silent: Path, stop: Event) -> None:
    """Where another machine writes, nothing is told: it is said once, and what changed is found each second."""
    said: list[str] = []
    clock = Clock()
    with Watcher(lambda: [silent], say=said.append, clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        assert not watcher.is_told
        append(silent / "cowrie.json")
        assert frozenset() == watcher.wait(0, stop)
        clock.now += polling.POLL_S
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(0, stop)
        clock.now += polling.POLL_S
        assert frozenset() == watcher.wait(0, stop)
        (silent / "cowrie.json").rename(silent / "cowrie.json.1")
        clock.now += polling.POLL_S
        assert watcher.wait(0, stop) is None
        clock.now += watching.SAFETY_S
        assert watcher.wait(0, stop) is None

    (line,) = said
    assert "nfs4" in line
    assert str(silent) in line
    assert "about every 1 s" in line


def test_one_silent_folder_among_others(
    silent: Path, folder: Path, stop: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of the other folders as before; only the silent one is looked at again and again."""
    looked_at: list[str] = []
    entries = polling._entries

    def noted(place: str, wanted: Callable[[str], bool]) -> dict[str, tuple[int, ...]]:
        looked_at.append(place)
        return entries(place, wanted)

    monkeypatch.setattr(polling, "_entries", noted)
    with Watcher(lambda: [folder, silent]) as watcher:
        assert watcher.wait(0, stop) is None
        append(folder / "cowrie.json")
        assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)
        append(silent / "cowrie.json")
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(LONG_S, stop)
        (silent / "other.json").touch()
        assert watcher.wait(LONG_S, stop) is None
    assert {str(silent)} == set(looked_at)


def test_a_folder_that_is_slow_to_look_at(silent: Path, stop: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each look takes long they are more seldom, never more than half a minute apart, and that is said."""
    clock = Clock()
    entries = polling._entries
    look_s = 0.0

    def slow(*arguments: Any) -> dict[str, tuple[int, ...]]:
        clock.now += look_s
        return entries(*arguments)

    monkeypatch.setattr(polling, "_entries", slow)
    said: list[str] = []
    with Watcher(lambda: [silent], say=said.append, clock=clock) as watcher:
        watcher.wait(0, stop)
        for took_s in (5.0, 0.0, 0.0):  # one slow one: the rest stays what it was
            look_s = took_s
            clock.now += polling.POLL_S
            watcher.wait(0, stop)
        assert 1 == len(said)
        append(silent / "cowrie.json")
        clock.now += polling.POLL_S
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(0, stop)
        look_s = 5.0
        for _ in range(6):
            clock.now += polling.LONGEST_POLL_S
            watcher._looked_at = clock.now  # what is looked at is not everything
            watcher.wait(0, stop)
        assert "about every 30 s" in said[-1]
        append(silent / "cowrie.json")
        watcher._looked_at = clock.now
        clock.now += polling.LONGEST_POLL_S - 1
        assert frozenset() == watcher.wait(0, stop)
        watcher._looked_at = clock.now
        clock.now += 1
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(0, stop)


def test_out_of_watches(folder: Path, stop: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's limit of watches is reached it is said once, looked at each second, and tried again."""

    def full(*_: object, **__: object) -> object:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr("watchfiles.watch", full)
    said: list[str] = []
    clock = Clock()
    with Watcher(lambda: [folder], say=said.append, clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        for _ in range(2):
            assert not watcher.is_told
            append(folder / "cowrie.json")
            clock.now += polling.POLL_S
            assert frozenset({folder / "cowrie.json"}) == watcher.wait(0, stop)
        clock.now += watching.WATCH_AGAIN_S
        assert watcher.wait(0, stop) is None
        assert 1 == len(said)
        assert "watch limit" in said[0]
        monkeypatch.undo()
        clock.now += watching.WATCH_AGAIN_S
        assert watcher.wait(0, stop) is None
        assert watcher.is_told


def test_a_name_that_is_no_text(watcher: Watcher, folder: Path, stop: Event) -> None:
    """A file whose name is not UTF-8 makes everything looked at instead, and ends nothing."""
    Path(os.fsdecode(os.fsencode(folder) + b"/cowrie\xff.json")).touch()

    assert watcher.wait(LONG_S, stop) is None


def test_a_folder_whose_name_is_no_text(tmp_path: Path, stop: Event) -> None:
    """A folder whose name is not UTF-8 cannot be watched: it is looked at each second."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/logs\xff"))
    folder.mkdir()
    beside = tmp_path / "beside"
    beside.mkdir()
    said: list[str] = []
    with Watcher(lambda: [folder, beside], say=said.append) as watcher:
        assert watcher.wait(0, stop) is None
        assert not watcher.is_told
        (folder / "cowrie.json").touch()
        assert watcher.wait(LONG_S, stop) is None
        append(folder / "cowrie.json")
        assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)
        append(beside / "other.json")
        assert watcher.wait(LONG_S, stop) is None
    assert 1 == len(said)


def test_closing_twice(watcher: Watcher, stop: Event) -> None:
    """A closed watcher may be closed again, and begins anew when it is asked to wait."""
    watcher.close()
    watcher.close()
    assert not watcher.is_told
    assert watcher.wait(0, stop) is None
    assert watcher.is_told
