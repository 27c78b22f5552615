"""What was seen of logs and has disappeared before it could be read.

A log that is renamed, copied or compressed has not disappeared: what is behind its cursor is in the other file. So a
loss is decided when all files have been looked at, and taken back as far as the bytes turn up later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db import followed_files as table
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.followed_files import SeenFile
from cowrieprocessor.errors import InputError
from cowrieprocessor.loader.compression import LogStream
from cowrieprocessor.loader.log_files import tail_before
from cowrieprocessor.loader.log_loading import LogPlace

WRITE_DOWN_EVERY_S = 60.0
"""How often sizes and times alone are written down; until then only this process is spared a look."""

Log = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """A loss that was not known before.

    Attributes:
        path: where the log was seen last.
        bytes_lost: how much of it was seen and destroyed unread.
    """

    path: str
    bytes_lost: int


@dataclass(frozen=True, slots=True)
class _Missing:
    """A log that is not any more where it was seen.

    Attributes:
        old: what was seen of it.
        bytes_seen: how far it went.
        reach: how far it goes in the files that are there.
    """

    old: SeenFile
    bytes_seen: int
    reach: int


class LossBook:
    """Keeps what was seen of each followed file, and finds what has disappeared unread.

    Args:
        engine: the database.
        open_log: opens a file.
        clock: seconds that only go up.
    """

    def __init__(
        self, engine: Engine, open_log: Callable[[Path], LogStream], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._open = open_log
        self._clock = clock
        self._known: dict[str, SeenFile] = {}
        self._remembered: dict[str, SeenFile] = {}
        self._heals: dict[Log, int] = {}
        self._written_at = clock()

    def begin(self, known: Mapping[str, SeenFile]) -> None:
        """Take what the database says was seen."""
        self._known = dict(known)

    def remember(self, seen: SeenFile) -> None:
        """Remember a log that has no path any more: it was overwritten, or is only held open."""
        displaced = seen.displaced()
        self._remembered[displaced.place] = displaced

    def remembered(self, place: str, file_id: tuple[int, int]) -> SeenFile | None:
        """Return what was seen of a log without a path.

        Args:
            place: where it was.
            file_id: its device and inode.
        """
        device, inode = map(str, file_id)
        found = [one for one in self._remembered.values() if one.is_from(place, device, inode)]
        return max(found, key=lambda one: (one.log is not None, one.bytes_seen), default=None)

    def heal(self, seen: SeenFile, at: LogPlace) -> None:
        """Take note that a log of which something was lost has been read from another file."""
        if at.log and at.bytes_gap:
            self._heals[at.log] = max(seen.bytes_seen, self._heals.get(at.log, 0))

    def misses(self, now: Mapping[str, SeenFile]) -> bool:
        """Return whether something that was seen is not where it was; `now` is what is there, by place."""
        return bool(self._remembered) or any(
            _is_displaced(old, now[place]) for place, old in self._known.items() if place in now
        )

    def note(self, now: Mapping[str, SeenFile]) -> None:
        """Write down how far logs go that have only grown."""
        changed = self._news(now)
        if changed or self._heals:
            self._write(changed, [], [])

    def settle(
        self,
        now: Mapping[str, SeenFile],
        paths: Mapping[str, Path],
        gone: Collection[SeenFile],
        *,
        is_decided: bool,
    ) -> list[Gap]:
        """Write down what there is, and what has disappeared; return the losses that are new.

        Args:
            now: what is there, by place.
            paths: where it is.
            gone: logs that are held open without a path.
            is_decided: whether all was looked at, so that what is not there will not turn up in a moment.

        Raises:
            DatabaseError: the database refused; nothing is forgotten.
        """
        missing: list[_Missing] = []
        kept: list[SeenFile] = []
        places = [place for place, old in self._known.items() if _is_displaced(old, now.get(place))]
        olds = [self._known[place] for place in places] + list(self._remembered.values())
        for old in olds:
            if is_decided:
                found = self._missing(old, now, paths, gone)
                still_open = any(one.is_from_same_file(old) and one.bytes_seen <= found.bytes_seen for one in gone)
                if not still_open:
                    missing.append(found)
                    continue
            kept.append(old if old.place not in now else old.displaced())
        changed = self._news(now)
        if not (missing or kept or changed or self._heals):
            if self._clock() - self._written_at > WRITE_DOWN_EVERY_S:
                self.write_down(now)
            return []
        gaps = self._write(changed, missing, [one for one in kept if self._known.get(one.place) != one])
        self._remembered.clear()
        for one in [*missing]:
            if one.old.place not in now:
                self._known.pop(one.old.place, None)
        self._known.update({one.place: one for one in kept})
        return gaps

    def write_down(self, now: Mapping[str, SeenFile]) -> None:
        """Write down sizes and times, so that the next process is spared a look."""
        changed = [one for place, one in now.items() if self._known.get(place) != one]
        self._written_at = self._clock()
        if changed:
            self._write(changed, [], [])

    def _news(self, now: Mapping[str, SeenFile]) -> list[SeenFile]:
        """Return what says more than sizes and times."""
        return [one for place, one in now.items() if (old := self._known.get(place)) is None or not one.tells_as(old)]

    def _write(self, changed: list[SeenFile], missing: list[_Missing], kept: list[SeenFile]) -> list[Gap]:
        gaps: list[Gap] = []
        with write_transaction(self._engine) as connection:
            for one in missing:
                if lost := _note_loss(connection, one):
                    gaps.append(Gap(one.old.path, lost))
            for log, reach in self._heals.items():
                _heal(connection, log, reach)
            table.forget(connection, [one.old.place for one in missing])
            table.save(connection, [*changed, *kept])
        self._heals.clear()
        self._known.update({one.place: one for one in changed})
        return gaps

    def _missing(
        self, old: SeenFile, now: Mapping[str, SeenFile], paths: Mapping[str, Path], gone: Collection[SeenFile]
    ) -> _Missing:
        """Find out how far a log goes in the files that are there."""
        if old.log is None:
            reach = max((one.bytes_seen for one in gone if one.is_from_same_file(old)), default=0)
            return _Missing(old, old.bytes_seen, old.bytes_seen if self._begins(old, now, paths) else reach)
        with read_transaction(self._engine) as connection:
            row = table.cursor_of(connection, old.log)
        stored = row["byte_pos"] if row else 0
        bytes_seen = old.bytes_seen
        successor = now.get(old.place)
        if row and successor is not None and (successor.device, successor.inode) == (old.device, old.inode):
            # Whoever writes on at its old place in an emptied file leaves NULs before it: so long was the log.
            bytes_seen = max(bytes_seen, self._leading_nul_bytes(paths[old.place]))
        if bytes_seen <= stored:
            return _Missing(old, bytes_seen, stored)
        alike = [one for one in [*now.values(), *gone] if one.log and one.log[0] == old.log[0]]
        reach = max((one.bytes_seen for one in alike if one.log == old.log), default=0)
        if row and reach < bytes_seen:
            others = [one for one in alike if one.log != old.log and one.place in paths]
            reach = max([reach, *(one.bytes_seen for one in others if self._holds(paths[one.place], row))])
        return _Missing(old, bytes_seen, reach)

    def _begins(self, old: SeenFile, now: Mapping[str, SeenFile], paths: Mapping[str, Path]) -> bool:
        """Return whether a file is there that begins with all that was seen of one without an object."""
        if old.head_digest is None:
            return False
        digest, _, length = old.head_digest.partition(":")
        fresh = [place for place, one in now.items() if one.log is None or self._known.get(place) != one]
        for stream in self._opened(paths[place] for place in fresh if place in paths):
            if sha256(stream.read_exactly(int(length))).hexdigest() == digest:
                return True
        return False

    def _holds(self, path: Path, row: Mapping[str, object]) -> bool:
        """Return whether a file is the log of a row, too."""
        for stream in self._opened([path]):
            tail = tail_before(stream, int(str(row["byte_pos"])), int(str(row["tail_bytes"])))
            return tail is not None and sha256(tail).hexdigest() == row["tail_hash"]
        return False

    def _leading_nul_bytes(self, path: Path) -> int:
        count = 0
        for stream in self._opened([path]):
            while not stream.is_complete and (data := stream.read()):
                rest = data.lstrip(b"\0")
                count += len(data) - len(rest)
                if rest:
                    break
        return count

    def _opened(self, paths: Collection[Path] | Iterator[Path]) -> Iterator[LogStream]:
        """Yield the files that can be opened."""
        for path in paths:
            try:
                with self._open(path) as stream:
                    yield stream
            except InputError:
                continue


def _is_displaced(old: SeenFile, new: SeenFile | None) -> bool:
    """Return whether less is to be found at a path than what was seen there."""
    if new is None or old.log != new.log or old.bytes_seen > new.bytes_seen:
        return True
    return old.log is None and (old.device, old.inode) != (new.device, new.inode)


def _note_loss(connection: Connection, missing: _Missing) -> int:
    """Note what has disappeared of a log, and return how much that was not known before."""
    row = table.cursor_of(connection, missing.old.log) if missing.old.log else None
    if row is None:
        if lost := max(0, missing.bytes_seen - missing.reach):
            table.add_lost_log(connection, replace(missing.old, bytes_seen=lost))
        return lost
    there, before = max(int(row["byte_pos"]), missing.reach), int(row["bytes_gap"])
    lost = max(0, max(missing.bytes_seen, int(row["byte_pos"]) + before) - there)
    if lost != before:
        table.set_gap(connection, (row["identity"], row["generation"]), lost)
    return max(0, lost - before)


def _heal(connection: Connection, log: Log, reach: int) -> None:
    """Take back the loss of what was found again."""
    row = table.cursor_of(connection, log)
    if row is not None and row["bytes_gap"]:
        left = max(0, row["byte_pos"] + row["bytes_gap"] - max(row["byte_pos"], reach))
        if left != row["bytes_gap"]:
            table.set_gap(connection, log, left)
