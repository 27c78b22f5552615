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

from cowrieprocessor.clock import STOP_CHECK_S, pause
from cowrieprocessor.jobs.watch.poller import NOT_READABLE, POLL_S, Notices, Polled, Rest, untold
from cowrieprocessor.sanitize import inert

SAFETY_S = 30.0
"""How often everything is looked at although the kernel tells of changes."""

LONGEST_S = 600.0
"""However long a look at everything takes, the next one comes after so long."""

LONGEST_UNTOLD_S = 30.0
"""The same where there is nothing yet that could be watched."""

WATCH_AGAIN_S = 60.0
"""After so long it is tried again to be told, where that had failed."""

GATHER_MS = 200
QUIET_MS = 50
TURN_MS = 250

_Places = Mapping[str, tuple[int, int]]


class Watcher:
    """Waits for changes in folders; what lies in their sub-folders is told only where those are named, too.

    Args:
        folders: returns the folders to watch, asked at each wait; those that do not exist are left out.
        poll_s: look every so many seconds instead of being told.
        say: told in one line why it cannot be told of changes.
        wanted: whether a file may matter, by its path; what happens to others is told to nobody.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        folders: Callable[[], Sequence[Path]],
        *,
        poll_s: float | None = None,
        say: Callable[[str], None] = lambda _text: None,
        wanted: Callable[[str], bool] = lambda _path: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = folders
        self._poll_s = poll_s
        self._say = say
        self._wanted = wanted
        self._clock = clock
        self._notices: Generator[Notices, None, None] | None = None
        self._polled: Polled | None = None
        self._places: _Places | None = None
        self._said: set[str] = set()
        self._said_rest_s = 0.0
        self._try_again_at: float | None = None
        self._looked_at = clock()
        self._rest = Rest(SAFETY_S, LONGEST_S)
        self._rest_untold = Rest(POLL_S, LONGEST_UNTOLD_S)

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
        self._notices = self._polled = self._places = None

    @property
    def is_told(self) -> bool:
        """Whether the kernel tells of all changes; else some or all folders are looked at again and again."""
        return self._notices is not None and self._polled is None

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
        self._rest.took(look_s)
        self._rest_untold.took(look_s)

    def _changed(self, timeout_s: float, stop: Event) -> frozenset[Path] | None:
        until = self._clock() + timeout_s
        if self._renew():
            if self._places is None:
                pause(min(timeout_s, POLL_S), stop)  # a folder went away meanwhile: see which there are, not at once
            return None
        while not stop.is_set():
            due_s = self._looked_at + self._interval_s() - self._clock()
            left_s = until - self._clock()
            poll_due_s = due_s if self._polled is None else self._polled.due_in_s()
            if due_s <= 0:
                return None
            if self._polled is not None and poll_due_s <= 0:
                notices = self._poll(self._polled)
            elif left_s <= 0:
                break
            elif self._notices is not None:
                notices = self._next()
                if self._notices is None:
                    return None  # it failed; what happened meanwhile is not known
            else:
                pause(min(left_s, due_s, poll_due_s, STOP_CHECK_S), stop)
                continue
            if self._concerns_all(notices):
                return None
            if written := {path for path in notices.written if self._wanted(path)}:
                return frozenset(map(Path, written))
        return frozenset()

    def _concerns_all(self, notices: Notices) -> bool:
        """Return whether something came or went that may matter, or something happened to a folder."""
        places = self._places or {}
        if not notices.came_or_went.isdisjoint(places):
            self._places = None  # a folder itself: what has its name next is watched anew
            return True
        if any(self._wanted(path) or Path(path).is_dir() for path in notices.came_or_went):
            return True
        return any(path in places or (Path(path).is_dir() and not self._wanted(path)) for path in notices.written)

    def _interval_s(self) -> float:
        """Return how long after a look at everything the next one is due."""
        if self._poll_s is not None:
            return self._poll_s
        return self._rest_untold.seconds if self._notices is None and self._polled is None else self._rest.seconds

    def _renew(self) -> bool:
        """Watch the folders of now; return whether that is new, so that what happened before is not known."""
        if self._poll_s is not None:
            return False
        places = _places(self._folders())
        is_due = self._try_again_at is not None and self._clock() >= self._try_again_at
        if places == self._places and not is_due:
            return False
        was_watching = self._places is not None and bool(self._places)
        self.close()
        self._places, self._try_again_at = places, None
        reasons = untold(places)
        if told := [place for place in places if place not in reasons]:
            self._notices = _watch(told)
            self._next()
        if reasons and self._places is not None and self._polled is None:
            self._poll_instead(reasons)
        if NOT_READABLE in reasons.values():
            self._try_again_at = self._clock() + WATCH_AGAIN_S
        return bool(places) or was_watching

    def _next(self) -> Notices:
        """Return the next notices, none after a moment; look by ourselves where being told fails."""
        if self._notices is None:
            return Notices()
        try:
            return next(self._notices)
        except FileNotFoundError:
            self.close()  # a folder went away meanwhile: ask again which there are
        except PermissionError:
            self._fail("a folder may not be read by us")
        except (OSError, RuntimeError, UnicodeError) as error:
            self._fail(str(error))
        return Notices()

    def _fail(self, why: str) -> None:
        self._notices = None
        self._try_again_at = self._clock() + WATCH_AGAIN_S
        self._poll_instead(dict.fromkeys(self._places or (), f"cannot be told of changes ({inert(why)})"))

    def _poll_instead(self, reasons: Mapping[str, str]) -> None:
        """Look at folders by ourselves from now on, and say why and how often."""
        self._polled = Polled(reasons, self._wanted, self._clock)
        every_s = self._polled.rest.seconds
        self._said_rest_s = max(self._said_rest_s, every_s)
        for why in dict.fromkeys(reasons.values()):
            if why not in self._said:
                self._said.add(why)
                first, *others = (folder for folder in reasons if reasons[folder] == why)
                more = f" and {len(others):,} other folders" if others else ""
                self._say(f"{inert(first)}{more}: {why}; looked at about every {every_s:.2g} s instead")

    def _poll(self, polled: Polled) -> Notices:
        """Look at the folders of which nobody tells; say it when that has become much more seldom."""
        notices = polled.changes()
        if polled.rest.seconds >= 2 * self._said_rest_s:
            self._said_rest_s = polled.rest.seconds
            self._say(
                f"looking at the folders of which the kernel does not tell takes {polled.rest.look_s:.2g} s, so it is "
                f"done about every {polled.rest.seconds:.2g} s"
            )
        return notices


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


def _watch(places: Iterable[str]) -> Generator[Notices, None, None]:
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
            yield Notices(written, frozenset(path for kind, path in changes if kind is not Change.modified))
