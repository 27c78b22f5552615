"""Waiting for changes: what is reported, when a full scan is due, and the fallback where nothing is reported."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from cowrieprocessor.jobs.watch import poller
from cowrieprocessor.jobs.watch import watcher as watcher_module
from cowrieprocessor.jobs.watch.watcher import Watcher, pause

LONG_S = 60.0
MOMENT_S = 0.3


@pytest.fixture
def stop() -> Event:
    """An event that only the test sets."""
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
    """A watcher of the folder that has started."""
    with Watcher(lambda: [folder]) as made:
        assert made.wait(0, stop) is None
        assert made.is_notified
        yield made


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def append(path: Path, text: str = "more\n") -> None:
    """Write at the end of a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_a_file_that_was_written_is_named(watcher: Watcher, folder: Path, stop: Event) -> None:
    """A file that grew is reported by its path, under the folder as it was given."""
    append(folder / "cowrie.json")

    assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)


def test_a_write_between_two_waits_is_reported(watcher: Watcher, folder: Path, stop: Event) -> None:
    """The next wait reports what was written before it; several files come together or one after the other."""
    (folder / "other.json").write_text("", encoding="utf-8")
    assert watcher.wait(LONG_S, stop) is None
    append(folder / "cowrie.json")
    append(folder / "other.json")
    reported: set[Path] = set()
    while len(reported) < 2:
        reported |= watcher.wait(LONG_S, stop) or set()

    assert {folder / "cowrie.json", folder / "other.json"} == reported


def test_a_timeout_reports_nothing(watcher: Watcher, stop: Event) -> None:
    """Without changes nothing is reported after the timeout, even one of 0."""
    assert frozenset() == watcher.wait(MOMENT_S, stop)
    assert frozenset() == watcher.wait(0, stop)


def test_reading_is_no_change(watcher: Watcher, folder: Path, stop: Event) -> None:
    """Reading a file is not a change: scanning logs does not cause another scan."""
    (folder / "cowrie.json").read_text(encoding="utf-8")
    list(folder.iterdir())

    assert frozenset() == watcher.wait(MOMENT_S, stop)


@pytest.mark.parametrize("what", ["new", "renamed", "deleted", "sub-folder", "linked"])
def test_added_and_removed_files_require_a_full_scan(watcher: Watcher, folder: Path, stop: Event, what: str) -> None:
    """A file or folder that was added, removed or renamed requires a full scan."""
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
    """A log truncated by copytruncate has changed."""
    os.truncate(folder / "cowrie.json", 0)

    assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)


def test_folders_that_appear_later_are_watched(tmp_path: Path, stop: Event) -> None:
    """A missing folder is watched as soon as it exists."""
    later = tmp_path / "later"
    with Watcher(lambda: [later]) as watcher:
        assert frozenset() == watcher.wait(0, stop)
        assert not watcher.is_notified
        later.mkdir()
        assert watcher.wait(LONG_S, stop) is None
        assert watcher.is_notified
        (later / "cowrie.json").touch()
        assert watcher.wait(LONG_S, stop) is None
        append(later / "cowrie.json")
        assert frozenset({later / "cowrie.json"}) == watcher.wait(LONG_S, stop)


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_replaced_folder_is_watched(watcher: Watcher, folder: Path, stop: Event, how: str) -> None:
    """A new folder with the same name is watched like the first."""
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


def test_a_full_scan_is_due_now_and_then(folder: Path, stop: Event) -> None:
    """Without any change, a full scan is due every half minute: a notification may have been lost."""
    clock = Clock()
    with Watcher(lambda: [folder], clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        assert frozenset() == watcher.wait(0, stop)
        clock.now += watcher_module.FULL_SCAN_S
        assert watcher.wait(0, stop) is None
        assert frozenset() == watcher.wait(0, stop)


def test_long_scans_are_rare(folder: Path, stop: Event) -> None:
    """Full scans take at most a hundredth of the time."""
    clock = Clock()
    with Watcher(lambda: [folder], clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        for scan_s in (1.0, 1.0, 40.0):
            watcher.record_idle_scan(scan_s)
        clock.now += 98
        assert frozenset() == watcher.wait(0, stop)
        clock.now += 1
        assert watcher.wait(0, stop) is None


def test_a_single_slow_scan_changes_nothing(folder: Path, stop: Event) -> None:
    """A single slow scan, also among others, does not delay the next ones."""
    clock = Clock()
    with Watcher(lambda: [folder], clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        for scan_s in (60.0, 0.01, 0.01):
            watcher.record_idle_scan(scan_s)
            clock.now += watcher_module.FULL_SCAN_S
            assert watcher.wait(0, stop) is None


def test_unwanted_files_are_ignored(folder: Path, stop: Event) -> None:
    """Changes of unwanted files are not reported; those of wanted files, and added or removed folders, are."""
    with Watcher(lambda: [folder], is_wanted=lambda path: path.endswith(".json")) as watcher:
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
    """Every kind of wait returns soon after stop is set."""
    for poll_s in (None, 3600.0):
        stop = Event()
        with Watcher(lambda: [folder], poll_s=poll_s) as watcher:
            watcher.wait(0, stop)
            timer = threading.Timer(0.05, stop.set)
            timer.start()
            assert frozenset() == watcher.wait(3600, stop)
            timer.join()
    pause(3600, stop)


def test_polling_on_request(folder: Path, stop: Event) -> None:
    """With an interval, a full scan is due after it, and nothing is watched."""
    clock = Clock()
    with Watcher(lambda: [folder], poll_s=5.0, clock=clock) as watcher:
        append(folder / "cowrie.json")
        assert frozenset() == watcher.wait(0, stop)
        assert not watcher.is_notified
        clock.now += 5
        assert watcher.wait(0, stop) is None
        assert frozenset() == watcher.wait(0, stop)


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A folder on a network file system."""
    made = tmp_path / "far"
    made.mkdir()
    (made / "cowrie.json").write_text("one\n", encoding="utf-8")
    return made


@pytest.fixture
def mountinfo(tmp_path: Path, silent: Path) -> Path:
    """A list of mounted file systems with that folder."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 0 0:1 / {silent} rw - nfs4 server:/logs rw\n", encoding="utf-8")
    return mountinfo


def test_a_network_file_system_is_polled(silent: Path, mountinfo: Path, stop: Event) -> None:
    """A folder on a network file system is polled each second, which is reported once."""
    messages: list[str] = []
    clock = Clock()
    with Watcher(lambda: [silent], notify=messages.append, clock=clock, mountinfo=mountinfo) as watcher:
        assert watcher.wait(0, stop) is None
        assert not watcher.is_notified
        append(silent / "cowrie.json")
        assert frozenset() == watcher.wait(0, stop)
        clock.now += poller.POLL_S
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(0, stop)
        clock.now += poller.POLL_S
        assert frozenset() == watcher.wait(0, stop)
        (silent / "cowrie.json").rename(silent / "cowrie.json.1")
        clock.now += poller.POLL_S
        assert watcher.wait(0, stop) is None
        clock.now += watcher_module.FULL_SCAN_S
        assert watcher.wait(0, stop) is None

    (line,) = messages
    assert "nfs4" in line
    assert str(silent) in line
    assert "about every 1 s" in line


def test_only_the_folder_without_inotify_is_polled(
    silent: Path, mountinfo: Path, folder: Path, stop: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other folders are watched by inotify as before."""
    polled: list[str] = []
    entries = poller._entries

    def recorded(folder: str, is_wanted: Callable[[str], bool]) -> dict[str, tuple[int, ...]]:
        polled.append(folder)
        return entries(folder, is_wanted)

    monkeypatch.setattr(poller, "_entries", recorded)
    with Watcher(lambda: [folder, silent], mountinfo=mountinfo) as watcher:
        assert watcher.wait(0, stop) is None
        append(folder / "cowrie.json")
        assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)
        append(silent / "cowrie.json")
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(LONG_S, stop)
        (silent / "other.json").touch()
        assert watcher.wait(LONG_S, stop) is None
    assert {str(silent)} == set(polled)


def test_a_slow_folder_is_polled_less_often(
    silent: Path, mountinfo: Path, stop: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow polls are less frequent, at most half a minute apart, and that is reported."""
    clock = Clock()
    entries = poller._entries
    scan_s = 0.0

    def slow(*arguments: Any) -> dict[str, tuple[int, ...]]:
        clock.now += scan_s
        return entries(*arguments)

    monkeypatch.setattr(poller, "_entries", slow)
    messages: list[str] = []
    with Watcher(lambda: [silent], notify=messages.append, clock=clock, mountinfo=mountinfo) as watcher:
        watcher.wait(0, stop)
        for took_s in (5.0, 0.0, 0.0):  # a single slow poll: the interval stays as it was
            scan_s = took_s
            clock.now += poller.POLL_S
            watcher.wait(0, stop)
        assert 1 == len(messages)
        append(silent / "cowrie.json")
        clock.now += poller.POLL_S
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(0, stop)
        scan_s = 5.0
        for _ in range(6):
            clock.now += poller.LONGEST_POLL_S
            watcher._scanned_at = clock.now  # no full scan is due
            watcher.wait(0, stop)
        assert "about every 30 s" in messages[-1]
        append(silent / "cowrie.json")
        watcher._scanned_at = clock.now
        clock.now += poller.LONGEST_POLL_S - 1
        assert frozenset() == watcher.wait(0, stop)
        watcher._scanned_at = clock.now
        clock.now += 1
        assert frozenset({silent / "cowrie.json"}) == watcher.wait(0, stop)


def test_out_of_watches(folder: Path, stop: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the kernel's limit of watches the folder is polled each second, that is reported once, and inotify retried."""

    def full(*_: object, **__: object) -> object:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr("watchfiles.watch", full)
    messages: list[str] = []
    clock = Clock()
    with Watcher(lambda: [folder], notify=messages.append, clock=clock) as watcher:
        assert watcher.wait(0, stop) is None
        for _ in range(2):
            assert not watcher.is_notified
            append(folder / "cowrie.json")
            clock.now += poller.POLL_S
            assert frozenset({folder / "cowrie.json"}) == watcher.wait(0, stop)
        clock.now += watcher_module.WATCH_AGAIN_S
        assert watcher.wait(0, stop) is None
        assert 1 == len(messages)
        assert "watch limit" in messages[0]
        monkeypatch.undo()
        clock.now += watcher_module.WATCH_AGAIN_S
        assert watcher.wait(0, stop) is None
        assert watcher.is_notified


def test_a_file_name_that_is_not_text(watcher: Watcher, folder: Path, stop: Event) -> None:
    """A file whose name is not UTF-8 requires a full scan, and is no error."""
    Path(os.fsdecode(os.fsencode(folder) + b"/cowrie\xff.json")).touch()

    assert watcher.wait(LONG_S, stop) is None


def test_a_folder_name_that_is_not_text(tmp_path: Path, stop: Event) -> None:
    """A folder whose name is not UTF-8 cannot be watched and is polled each second."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/logs\xff"))
    folder.mkdir()
    second = tmp_path / "second"
    second.mkdir()
    messages: list[str] = []
    with Watcher(lambda: [folder, second], notify=messages.append) as watcher:
        assert watcher.wait(0, stop) is None
        assert not watcher.is_notified
        (folder / "cowrie.json").touch()
        assert watcher.wait(LONG_S, stop) is None
        append(folder / "cowrie.json")
        assert frozenset({folder / "cowrie.json"}) == watcher.wait(LONG_S, stop)
        append(second / "other.json")
        assert watcher.wait(LONG_S, stop) is None
    assert 1 == len(messages)


def test_closing_twice(watcher: Watcher, stop: Event) -> None:
    """A closed watcher may be closed again, and starts again at the next wait."""
    watcher.close()
    watcher.close()
    assert not watcher.is_notified
    assert watcher.wait(0, stop) is None
    assert watcher.is_notified
