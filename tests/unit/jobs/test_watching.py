"""Waiting for changes: what is told, when everything has to be looked at, and what happens where nothing is told."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from cowrieprocessor.jobs import watching
from cowrieprocessor.jobs.watching import Watcher, pause

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
    """Where looking at everything takes a second, it is done at most one part in a hundred of the time."""
    clock = Clock()
    with Watcher(lambda: [folder], clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        watcher.found_nothing(1.0)
        clock.now += 98
        assert frozenset() == watcher.wait(0, stop)
        clock.now += 1
        assert watcher.wait(0, stop) is None


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


def test_a_network_file_system_is_polled(folder: Path, stop: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another machine writes, nothing is told: it is said once, and looked at each second."""
    mounts = folder.parent / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {folder} rw - nfs4 server:/logs rw\n", encoding="utf-8")
    monkeypatch.setattr(watching, "MOUNTS", mounts)
    said: list[str] = []
    clock = Clock()
    with Watcher(lambda: [folder], say=said.append, clock=clock) as watcher:
        for _ in range(3):
            watcher.wait(0, stop)
            clock.now += watching.POLL_S
        assert watcher.wait(0, stop) is None
        assert not watcher.is_told

    (line,) = said
    assert "nfs4" in line
    assert str(folder) in line


def test_out_of_watches(folder: Path, stop: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's limit of watches is reached it is said once, looked at each second, and tried again."""

    def full(*_: object, **__: object) -> object:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr("watchfiles.watch", full)
    said: list[str] = []
    clock = Clock()
    with Watcher(lambda: [folder], say=said.append, clock=clock) as watcher:
        watcher.wait(0, stop)
        for _ in range(2):
            assert not watcher.is_told
            clock.now += watching.POLL_S
            assert watcher.wait(0, stop) is None
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
    said: list[str] = []
    with Watcher(lambda: [folder], say=said.append) as watcher:
        watcher.wait(0, stop)
        assert not watcher.is_told
        assert watcher.wait(LONG_S, stop) is None
    assert 1 == len(said)


def test_closing_twice(watcher: Watcher, stop: Event) -> None:
    """A closed watcher may be closed again, and begins anew when it is asked to wait."""
    watcher.close()
    watcher.close()
    assert not watcher.is_told
    assert watcher.wait(0, stop) is None
    assert watcher.is_told
