"""Waiting for files to change: told by the kernel where it can tell, else by looking every second.

Nothing here reads a file. Who waits is told which files changed, or that it has to look at everything: because a file
came or went, because watching has just begun, or because it was long ago. So a notice that is lost costs half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import NamedTuple

from cowrieprocessor.db.dialects.sqlite_files import MOUNTS, NETWORK_FILE_SYSTEMS, file_system_type
from cowrieprocessor.sanitize import inert

POLL_S = 1.0
"""How often everything is looked at where the kernel does not tell."""

SAFETY_S = 30.0
"""How often everything is looked at all the same."""

LONGEST_S = 600.0
"""However long a look takes, the next one comes after so long."""

REST_PER_LOOK = 99.0
"""Looking at everything takes one part of the time, resting so many."""

WATCH_AGAIN_S = 60.0
"""After so long it is tried again to be told, where that had failed."""

GATHER_MS = 200
QUIET_MS = 50
TURN_MS = 250
SLICE_S = 0.25
"""Waits are cut into such pieces, in each of which it is looked whether to stop."""

SILENT_FILE_SYSTEMS = NETWORK_FILE_SYSTEMS | {"virtiofs", "fuse.vmhgfs-fuse", "prl_fs"}
"""File systems on which others change files without our kernel's knowledge. Source: inotify(7), "Limitations"."""


class _Notices(NamedTuple):
    """Paths in the folders that are watched, or those themselves."""

    written: Iterable[str] = frozenset()
    came_or_went: frozenset[str] = frozenset()


_Places = Mapping[str, tuple[int, int]]


def pause(seconds: float, stop: Event, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Return after so many seconds, or soon after `stop` is set.

    It looks at `stop` again and again instead of waiting on it: a handler of a signal that sets an event on which the
    same thread is about to wait would wait for ever.
    """
    until = clock() + seconds
    while not stop.is_set() and (left_s := until - clock()) > 0:
        time.sleep(min(SLICE_S, left_s))


class Watcher:
    """Waits for changes in folders; what lies in their sub-folders is told only where those are named, too.

    Args:
        folders: returns the folders to watch, asked at each wait; those that do not exist are left out.
        poll_s: look every so many seconds instead of being told.
        say: told in one line why it cannot be told of changes.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        folders: Callable[[], Sequence[Path]],
        *,
        poll_s: float | None = None,
        say: Callable[[str], None] = lambda _text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = folders
        self._poll_s = poll_s
        self._say = say
        self._clock = clock
        self._notices: Generator[_Notices, None, None] | None = None
        self._places: _Places | None = None
        self._said: str | None = None
        self._try_again_at: float | None = None
        self._looked_at = clock()
        self._look_s = 0.0

    def __enter__(self) -> Watcher:
        """Return the watcher itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """Stop watching; again is harmless, and another `wait` begins anew."""
        if self._notices is not None:
            self._notices.close()
        self._notices = self._places = None

    @property
    def is_told(self) -> bool:
        """Whether the kernel tells of changes; else everything is looked at again and again."""
        return self._notices is not None

    def wait(self, timeout_s: float, stop: Event) -> frozenset[Path] | None:
        """Return what changed since the last call, as soon as something did.

        Args:
            timeout_s: how long to wait at most.
            stop: once set, it returns within a quarter of a second.

        Returns:
            The files that were written, beneath their folders as these were named; none when the time is over or
            `stop` is set. None: look at everything.
        """
        changed = self._changed(timeout_s, stop)
        if changed is None:
            self._looked_at = self._clock()
        return changed

    def found_nothing(self, look_s: float) -> None:
        """Take note that a look at everything took so many seconds and found nothing: the longer, the more seldom."""
        self._look_s = look_s

    def _changed(self, timeout_s: float, stop: Event) -> frozenset[Path] | None:
        until = self._clock() + timeout_s
        if self._renew():
            return None
        while not stop.is_set():
            due_s = self._looked_at + self._interval_s() - self._clock()
            left_s = until - self._clock()
            if due_s <= 0:
                return None
            if left_s <= 0:
                break
            if self._notices is None:
                pause(min(left_s, due_s, SLICE_S), stop)
                continue
            notices = self._next()
            if notices.came_or_went:
                if not notices.came_or_went.isdisjoint(self._places or ()):
                    self._places = None  # a folder itself: what has its name next is watched anew
                return None
            if notices.written:
                return frozenset(map(Path, notices.written))
        return frozenset()

    def _interval_s(self) -> float:
        """Return how long after a look at everything the next one is due."""
        if self._poll_s is not None:
            return self._poll_s
        least_s = SAFETY_S if self.is_told else POLL_S
        return max(least_s, min(LONGEST_S, self._look_s * REST_PER_LOOK))

    def _renew(self) -> bool:
        """Watch the folders of now; return whether that is new, so that what happened before is not known."""
        if self._poll_s is not None:
            return False
        places = _places(self._folders())
        is_due = self._try_again_at is not None and self._clock() >= self._try_again_at
        if places == self._places and not is_due:
            return False
        was_told = self.is_told
        self.close()
        self._places, self._try_again_at = places, None
        if not places:
            return was_told
        if silent := _silent(places):
            self._poll_instead(f"{inert(silent[0])}: a file system ({silent[1]}) that does not tell of every change")
            return was_told
        self._notices = _watch(places)
        self._next()
        return self.is_told or was_told

    def _next(self) -> _Notices:
        """Return the next notices, none after a moment; look by ourselves where being told fails."""
        if self._notices is None:
            return _Notices()
        try:
            return next(self._notices)
        except FileNotFoundError:
            self._notices = self._places = None  # a folder went away meanwhile: ask again which there are
        except PermissionError:
            self._fail("a folder may not be read by us")
        except (OSError, RuntimeError, UnicodeError) as error:
            self._fail(str(error))
        return _Notices()

    def _fail(self, why: str) -> None:
        self._notices = None
        self._try_again_at = self._clock() + WATCH_AGAIN_S
        self._poll_instead(f"cannot be told of changes ({inert(why)})")

    def _poll_instead(self, why: str) -> None:
        if why != self._said:
            self._said = why
            self._say(f"{why}; everything is looked at about every {POLL_S:g} s instead")


def _places(folders: Iterable[Path]) -> _Places:
    """Return the folders that are there, with what tells one from another of the same name."""
    places = {}
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            continue
        places[str(folder)] = (status.st_dev, status.st_ino)
    return places


def _silent(places: Iterable[str]) -> tuple[str, str] | None:
    """Return the first folder on a file system that others change without our being told, with its type."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None  # no Linux: nothing to ask
    kinds = ((place, file_system_type(Path(place).resolve(), mounts)) for place in places)
    return next(((place, kind) for place, kind in kinds if kind in SILENT_FILE_SYSTEMS), None)


def _watch(places: Iterable[str]) -> Generator[_Notices, None, None]:
    """Yield what happens right in these folders, endlessly, and nothing after each moment without anything.

    Raises:
        OSError, RuntimeError, UnicodeError: a folder cannot be watched, or a file there has a name that is no text.
    """
    from watchfiles import Change, watch

    told = watch(
        *places,
        watch_filter=None,
        debounce=GATHER_MS,
        step=QUIET_MS,
        rust_timeout=TURN_MS,
        yield_on_timeout=True,
        force_polling=False,
        recursive=False,
        ignore_permission_denied=False,
    )
    with closing(told):
        for changes in told:
            written = {path for kind, path in changes if kind is Change.modified}
            yield _Notices(written, frozenset(path for kind, path in changes if kind is not Change.modified))
