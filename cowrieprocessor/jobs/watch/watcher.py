"""Waits for files to change: by inotify where that works, else by polling.

Nothing here reads a file. The caller learns which files changed, or that it has to scan everything: because a file was
added or removed, because watching has just begun, or because the last full scan was long ago. A lost notification thus
delays the caller by half a minute at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

from cowrieprocessor.clock import STOP_CHECK_S, pause
from cowrieprocessor.jobs.watch.poller import (
    NOT_READABLE,
    POLL_S,
    Changes,
    PolledFolders,
    ScanInterval,
    folders_to_poll,
)
from cowrieprocessor.sanitize import inert
from cowrieprocessor.wording import plural

FULL_SCAN_S = 30.0
"""How often everything is scanned although changes are reported."""

LONGEST_FULL_SCAN_S = 600.0
"""The longest interval between full scans, however long one takes."""

LONGEST_UNWATCHED_S = 30.0
"""The same while no folder exists that could be watched."""

WATCH_AGAIN_S = 60.0
"""After this time inotify is tried again if it failed."""

GATHER_MS = 200
QUIET_MS = 50
TURN_MS = 250

_FolderIds = Mapping[str, tuple[int, int]]


class Watcher:
    """Waits for changes in folders; subfolders are only watched if they are listed, too.

    Args:
        folders: returns the folders to watch, called at each wait; missing ones are ignored.
        poll_s: scan everything at this interval in seconds instead of using inotify.
        notify: called with one line of text if changes are not reported by the kernel.
        is_wanted: returns whether a file may matter, by its path; changes of others are ignored.
        clock: monotonic time in seconds.
        mountinfo: lists the mounted file systems; see `mounts`.
    """

    def __init__(
        self,
        folders: Callable[[], Sequence[Path]],
        *,
        poll_s: float | None = None,
        notify: Callable[[str], None] = lambda _text: None,
        is_wanted: Callable[[str], bool] = lambda _path: True,
        clock: Callable[[], float] = time.monotonic,
        mountinfo: Path | None = None,
    ) -> None:
        self._folders = folders
        self._poll_s = poll_s
        self._notify = notify
        self._is_wanted = is_wanted
        self._clock = clock
        self._mountinfo = mountinfo
        self._notifications: Generator[Changes, None, None] | None = None
        self._polled: PolledFolders | None = None
        self._folder_ids: _FolderIds | None = None
        self._reported: set[str] = set()
        self._reported_interval_s = 0.0
        self._watch_again_at: float | None = None
        self._scanned_at = clock()
        self._interval = ScanInterval(FULL_SCAN_S, LONGEST_FULL_SCAN_S)
        self._interval_unwatched = ScanInterval(POLL_S, LONGEST_UNWATCHED_S)

    def __enter__(self) -> Watcher:
        """Return the watcher itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """Stop watching; closing twice is harmless, and another `wait` starts again."""
        if self._notifications is not None:
            self._notifications.close()
        self._notifications = self._polled = self._folder_ids = None

    @property
    def is_notified(self) -> bool:
        """Whether the kernel reports all changes; else some or all folders are polled."""
        return self._notifications is not None and self._polled is None

    def wait(self, timeout_s: float, stop: Event) -> frozenset[Path] | None:
        """Return what changed since the last call, as soon as something did.

        Args:
            timeout_s: how long to wait at most.
            stop: ends the wait within a quarter of a second.

        Returns:
            The files that were written, under the folders as these were given; none after the timeout or when `stop`
            is set. None: scan everything.
        """
        changed = self._changed(timeout_s, stop)
        if changed is None:
            self._scanned_at = self._clock()
        return changed

    def record_idle_scan(self, scan_s: float) -> None:
        """Record that a full scan took this long and found nothing; the interval grows with the duration."""
        self._interval.record(scan_s)
        self._interval_unwatched.record(scan_s)

    def _changed(self, timeout_s: float, stop: Event) -> frozenset[Path] | None:
        until = self._clock() + timeout_s
        if self._renew():
            if self._folder_ids is None:
                pause(min(timeout_s, POLL_S), stop)  # a folder vanished meanwhile: list the folders again, a bit later
            return None
        while not stop.is_set():
            full_scan_in_s = self._scanned_at + self._interval_s() - self._clock()
            if full_scan_in_s <= 0:
                return None
            changes = self._poll_if_due()
            if changes is None:
                left_s = until - self._clock()
                if left_s <= 0:
                    break
                changes = self._await_changes(min(left_s, full_scan_in_s), stop)
            if changes is None or self._requires_full_scan(changes):
                return None
            if written := self._wanted_files(changes):
                return written
        return frozenset()

    def _await_changes(self, timeout_s: float, stop: Event) -> Changes | None:
        """Return the next changes, or none after a moment; None if inotify failed, so that changes may be lost."""
        if self._notifications is not None:
            changes = self._next_notification()
            return None if self._notifications is None else changes
        poll_in_s = timeout_s if self._polled is None else self._polled.due_in_s()
        pause(min(timeout_s, poll_in_s, STOP_CHECK_S), stop)
        return Changes()

    def _wanted_files(self, changes: Changes) -> frozenset[Path]:
        return frozenset(Path(path) for path in changes.written if self._is_wanted(path))

    def _requires_full_scan(self, changes: Changes) -> bool:
        """Return whether something that may matter was added or removed, or a folder itself changed."""
        folder_ids = self._folder_ids or {}
        if not changes.added_or_removed.isdisjoint(folder_ids):
            self._folder_ids = None  # a folder itself: the next wait watches whatever has its name then
            return True
        if any(self._is_wanted(path) or Path(path).is_dir() for path in changes.added_or_removed):
            return True
        return any(
            path in folder_ids or (Path(path).is_dir() and not self._is_wanted(path)) for path in changes.written
        )

    def _interval_s(self) -> float:
        """Return the time between full scans."""
        if self._poll_s is not None:
            return self._poll_s
        is_unwatched = self._notifications is None and self._polled is None
        return self._interval_unwatched.seconds if is_unwatched else self._interval.seconds

    def _renew(self) -> bool:
        """Watch the folders that exist now; return whether these changed, so that earlier changes are unknown."""
        if self._poll_s is not None:
            return False
        folder_ids = _folder_ids(self._folders())
        is_due = self._watch_again_at is not None and self._clock() >= self._watch_again_at
        if folder_ids == self._folder_ids and not is_due:
            return False
        was_watching = bool(self._folder_ids)
        self.close()
        self._folder_ids, self._watch_again_at = folder_ids, None
        self._start(folder_ids)
        return bool(folder_ids) or was_watching

    def _start(self, folders: _FolderIds) -> None:
        """Watch folders by inotify, and poll those for which it does not work."""
        reasons = folders_to_poll(folders, self._mountinfo)
        if watched := [folder for folder in folders if folder not in reasons]:
            self._notifications = _watch(watched)
            self._next_notification()
        if reasons and self._folder_ids is not None and self._polled is None:
            self._poll_instead(reasons)
        if NOT_READABLE in reasons.values():
            self._watch_again_at = self._clock() + WATCH_AGAIN_S

    def _next_notification(self) -> Changes:
        """Return the next changes, none after a moment; fall back to polling if inotify fails."""
        if self._notifications is None:
            return Changes()
        try:
            return next(self._notifications)
        except FileNotFoundError:
            self.close()  # a folder vanished meanwhile: the next wait lists the folders again
        except PermissionError:
            self._fail("no permission to read a folder")
        except (OSError, RuntimeError, UnicodeError) as error:
            self._fail(str(error))
        return Changes()

    def _fail(self, why: str) -> None:
        self._notifications = None
        self._watch_again_at = self._clock() + WATCH_AGAIN_S
        self._poll_instead(dict.fromkeys(self._folder_ids or (), f"changes are not reported ({inert(why)})"))

    def _poll_instead(self, reasons: Mapping[str, str]) -> None:
        """Poll folders from now on, and report why and how often."""
        self._polled = PolledFolders(reasons, self._is_wanted, self._clock)
        interval_s = self._polled.interval.seconds
        self._reported_interval_s = max(self._reported_interval_s, interval_s)
        for why in dict.fromkeys(reasons.values()):
            if why not in self._reported:
                self._reported.add(why)
                first, *others = (folder for folder in reasons if reasons[folder] == why)
                more = f" and {plural(len(others), 'other folder')}" if others else ""
                self._notify(f"{inert(first)}{more}: {why}; polled about every {interval_s:.2g} s instead")

    def _poll_if_due(self) -> Changes | None:
        """Poll the folders without inotify if it is time, and report a much longer interval; None if not due."""
        polled = self._polled
        if polled is None or polled.due_in_s() > 0:
            return None
        changes = polled.changes()
        interval_s = polled.interval.seconds
        if interval_s >= 2 * self._reported_interval_s:
            self._reported_interval_s = interval_s
            self._notify(
                f"polling the folders whose changes are not reported takes {polled.interval.scan_s:.2g} s, so it is "
                f"done about every {interval_s:.2g} s"
            )
        return changes


def _folder_ids(folders: Iterable[Path]) -> _FolderIds:
    """Return device and inode of the folders that exist, which distinguish folders with the same name."""
    folder_ids = {}
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            continue
        folder_ids[str(folder)] = (status.st_dev, status.st_ino)
    return folder_ids


def _watch(folders: Iterable[str]) -> Generator[Changes, None, None]:
    """Yield the changes directly in these folders, endlessly; empty ones after each moment without any.

    Raises:
        OSError, RuntimeError, UnicodeError: a folder cannot be watched, or the name of a file in it is not text.
    """
    from watchfiles import Change, watch

    notifications = watch(
        *folders,
        watch_filter=None,
        debounce=GATHER_MS,
        step=QUIET_MS,
        rust_timeout=TURN_MS,
        yield_on_timeout=True,
        force_polling=False,
        recursive=False,
        ignore_permission_denied=False,
    )
    with closing(notifications):
        for changes in notifications:
            written = {path for kind, path in changes if kind is Change.modified}
            yield Changes(written, frozenset(path for kind, path in changes if kind is not Change.modified))
