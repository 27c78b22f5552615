"""What was seen of logs and has disappeared before it could be read.

A log that is renamed, copied or compressed has not disappeared: what is behind its cursor is in the other file. So a
loss is decided when all files have been looked at, and taken back as far as the bytes turn up later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import followed_files as table
from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.errors import InputError
from cowrieprocessor.loader.logs.identity import tail_before
from cowrieprocessor.loader.reading.log_stream import LogStream

WRITE_DOWN_EVERY_S = 60.0
"""How often sizes and times alone are written down; until then only this process is spared a look."""

T = TypeVar("T")
Log = tuple[str, int]
_LOST = (-1, 0, 0)
"""Stands in the place of size and times where a log is only remembered because something of it was lost."""


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
        olds: what was seen of it, at one place or several.
        bytes_seen: how far it went.
        reach: how far it goes in the files that are there.
        is_open: whether it is held open without a path, and may still be read.
        is_empty: whether the file was emptied and is empty still: NULs may tell more when it grows again.
    """

    olds: tuple[SeenFile, ...]
    bytes_seen: int
    reach: int = 0
    is_open: bool = False
    is_empty: bool = False

    @property
    def log(self) -> Log | None:
        """Which log it is; None for a file without a complete object."""
        return self.olds[0].log

    def lost(self) -> SeenFile:
        """Return what is to be remembered of it when something was lost."""
        return replace(self.olds[0].displaced(), signature=_LOST, bytes_seen=self.bytes_seen, bytes_pending=0)


class GapDetector:
    """Keeps what was seen of each followed file, and finds what has disappeared unread.

    Args:
        engine: the database.
        open_log: opens a file that is there.
        clock: seconds that only go up.
    """

    def __init__(
        self, engine: Engine, open_log: Callable[[SeenFile], LogStream], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._open = open_log
        self._clock = clock
        self._known: dict[str, SeenFile] = {}
        self._remembered: dict[str, SeenFile] = {}
        self._lost: dict[Log, SeenFile] = {}
        self._found_again: set[Log] = set()
        self._asked: set[str] = set()
        self._foreign: set[str] = set()
        self._later: list[_Missing] = []
        self._written_at = clock()

    def begin(self, known: Mapping[str, SeenFile]) -> None:
        """Take what the database says was seen."""
        self._known = {place: seen for place, seen in known.items() if seen.signature != _LOST}
        self._lost = {seen.log: seen for seen in known.values() if seen.signature == _LOST and seen.log}

    def remember(self, seen: SeenFile) -> None:
        """Remember a log that has no path any more: it was overwritten, or is only held open."""
        displaced = seen.displaced()
        before = self._remembered.get(displaced.file_key) or self._known.get(displaced.file_key)
        if before is None or before.bytes_seen <= displaced.bytes_seen:
            self._remembered[displaced.file_key] = displaced

    def was_read(self, log: Log | None) -> None:
        """Take note that a log was read: if something of it was lost, it may be there again."""
        if log in self._lost:
            self._found_again.add(log)

    def drop(self, foreign: SeenFile) -> None:
        """Forget, with the next write, what another host name knew of a file that is ours now."""
        self._foreign.add(foreign.file_key)

    def is_missing(self, now: Mapping[str, SeenFile]) -> bool:
        """Return whether something that was seen is nowhere where it was; `now` is all that is there, by place."""
        return bool(self._remembered) or any(_is_displaced(old, now.get(place)) for place, old in self._known.items())

    def misses(self, now: Mapping[str, SeenFile]) -> bool:
        """Return whether something that was seen is not where it was; `now` is what is there, by place."""
        return bool(self._remembered or self._found_again) or any(
            place in self._known and _is_displaced(self._known[place], new) for place, new in now.items()
        )

    def note(self, now: Mapping[str, SeenFile]) -> None:
        """Write down how far logs go that have only grown."""
        if changed := self._news(now):
            self._write(changed, [], [])

    def settle(
        self,
        now: Mapping[str, SeenFile],
        gone: Collection[SeenFile],
        *,
        is_decided: bool,
    ) -> list[Gap]:
        """Write down what there is, and what has disappeared; return the losses that are new.

        Args:
            now: what is there, by place.
            gone: logs that are held open without a path.
            is_decided: whether all was looked at, so that what is not there will not turn up in a moment.

        Raises:
            DatabaseError: the database refused; nothing is forgotten.
        """
        places = [place for place, old in self._known.items() if _is_displaced(old, now.get(place))]
        groups = self._groups(places)
        # What a file without an object has become is found now or never: the file may be emptied before all is decided.
        asked = groups if is_decided else [group for group in groups if group[0].log is None]
        missing = [self._find(group, now, gone) for group in asked]
        if not is_decided:
            missing = [one for one in missing if one.reach >= one.bytes_seen and not one.is_open]
        later, self._later = self._later, []
        decided = [*(one for one in missing if not one.is_open and not one.is_empty), *later]
        told = [one for one in missing if one.is_empty and not one.is_open]
        waiting = (
            [one.olds for one in missing if one.is_open or one.is_empty]
            if is_decided
            else self._measured([group for group in groups if all(one.olds != group for one in missing)], now, gone)
        )
        olds = [old if old.file_key not in now else old.displaced() for group in waiting for old in group]
        kept = {old.file_key: old for old in sorted(olds, key=lambda one: one.bytes_seen)}.values()
        displacing = [now[place] for place in places if place in now]
        changed = [
            *self._news(now),
            *(one for one in displacing if one.detects_same_loss_as(self._known[one.file_key])),
        ]
        if not (groups or changed):
            if self._clock() - self._written_at > WRITE_DOWN_EVERY_S:
                self.write_down(now)
            return []
        gaps = self._write(changed, decided, [one for one in kept if self._known.get(one.file_key) != one], told)
        for one in decided:
            for old in one.olds:
                if old.file_key not in now:
                    self._known.pop(old.file_key, None)
        self._known.update({one.file_key: one for one in kept})
        self._remembered.clear()
        self._found_again.clear()
        return gaps

    def write_down(self, now: Mapping[str, SeenFile]) -> None:
        """Write down sizes and times, so that the next process is spared a look."""
        changed = [one for place, one in now.items() if self._known.get(place) != one]
        self._written_at = self._clock()
        if changed:
            self._write(changed, [], [])

    def _news(self, now: Mapping[str, SeenFile]) -> list[SeenFile]:
        """Return what says more than sizes and times."""
        return [
            one
            for place, one in now.items()
            if (old := self._known.get(place)) is None or not one.detects_same_loss_as(old)
        ]

    def _measured(
        self, groups: list[tuple[SeenFile, ...]], now: Mapping[str, SeenFile], gone: Collection[SeenFile]
    ) -> list[tuple[SeenFile, ...]]:
        """Return groups with what NULs tell of their logs now: later, the same file may tell of another."""

        def measured(old: SeenFile) -> SeenFile:
            if old.log is None or self._was_followed_by_another(old):
                return old
            return replace(old, bytes_seen=max(old.bytes_seen, self._emptied(old, now, gone)[0]))

        return [tuple(measured(old) for old in group) for group in groups]

    def _groups(self, places: Collection[str]) -> list[tuple[SeenFile, ...]]:
        """Return what has gone from its place, by log; files without one by inode or beginning."""
        groups: dict[object, list[SeenFile]] = {}
        begun: dict[str | None, object] = {}
        again = [self._lost[log] for log in sorted(self._found_again)]
        for old in [*(self._known[place] for place in places), *self._remembered.values(), *again]:
            key: object = old.log or (old.device, old.inode)
            if old.log is None and old.bytes_seen:
                key = begun.setdefault(old.head_digest, key)
            groups.setdefault(key, []).append(old)
            if old.log in self._lost and self._lost[old.log] not in groups[key]:
                groups[key].append(self._lost[old.log])
        return [tuple(group) for group in groups.values()]

    def _write(
        self, changed: list[SeenFile], decided: list[_Missing], kept: list[SeenFile], told: Collection[_Missing] = ()
    ) -> list[Gap]:
        gaps: list[Gap] = []
        lost: dict[Log, SeenFile] = {}
        with write_transaction(self._engine) as connection:
            for one in [*decided, *told]:
                there, new = _note_loss(connection, one)
                if new:
                    gaps.append(Gap(one.olds[0].path, new))
                if there and one.log and not one.is_empty:
                    lost[one.log] = one.lost()
            table.forget(connection, {old.file_key for one in decided for old in one.olds} | self._foreign)
            table.save(connection, [*changed, *kept, *lost.values()])
        self._foreign.clear()
        self._known.update({one.file_key: one for one in changed})
        for one in decided:
            if one.log:
                self._lost.pop(one.log, None)
        self._lost.update(lost)
        return gaps

    def _find(
        self,
        olds: tuple[SeenFile, ...],
        now: Mapping[str, SeenFile],
        gone: Collection[SeenFile],
    ) -> _Missing:
        """Find out how far a log goes in the files that are there."""
        log = olds[0].log
        found = _Missing(olds, max(old.bytes_seen for old in olds))
        is_open = any(one.log == log and one.is_from_same_file(old) for one in gone for old in olds)
        if log is None:
            others = [one for one in [*gone, *self._remembered.values()] if one.log is not None]
            largest = max(olds, key=lambda old: old.bytes_seen)
            if self._begins(largest, now) or any(
                one.is_from_same_file(largest) and one.bytes_seen >= largest.bytes_seen for one in others
            ):
                return replace(found, reach=found.bytes_seen)
            still = max(
                (one.bytes_seen for one in gone if one.log is None and one.is_from_same_file(olds[0])), default=0
            )
            return replace(found, reach=still, is_open=is_open and still >= found.bytes_seen)
        with read_transaction(self._engine) as connection:
            row = table.cursor_of(connection, log)
        if row:
            emptied = [self._emptied(old, now, gone) for old in olds if not self._was_followed_by_another(old)]
            self._later += [one for _, later in emptied for one in later]
            found = replace(found, bytes_seen=max([found.bytes_seen, *(length for length, _ in emptied)]))
        empty = [one for one in now.values() if one.log is None and not one.bytes_seen]
        if any(one.is_from_same_file(old) and old.signature != _LOST for one in empty for old in olds):
            found = replace(found, is_empty=True)
        if row and found.bytes_seen <= row["byte_pos"]:
            return replace(found, reach=found.bytes_seen)
        alike = [one for one in now.values() if one.log and one.log[0] == log[0]]
        reach = max((one.bytes_seen for one in alike if one.log == log), default=0)
        if row and reach < found.bytes_seen:
            others = [one for one in alike if one.log != log and (self._is_old(one, olds) or self._holds(one, row))]
            reach = max([reach, *(one.bytes_seen for one in others)])
        if reach >= found.bytes_seen:
            return replace(found, reach=reach)
        still = max((one.bytes_seen for one in gone if one.log == log), default=0)
        return replace(found, reach=max(reach, still), is_open=is_open and still >= found.bytes_seen)

    @staticmethod
    def _is_old(file: SeenFile, olds: Collection[SeenFile]) -> bool:
        """Return whether a file is the one in which a log was seen, though it counts as another that begins alike."""
        return any(file.is_from_same_file(old) and file.bytes_seen >= old.bytes_seen for old in olds)

    def _emptied(
        self, old: SeenFile, now: Mapping[str, SeenFile], gone: Collection[SeenFile]
    ) -> tuple[int, list[_Missing]]:
        """Return how long a log was when it was emptied, and what was lost of logs that were emptied after it.

        A writer that goes on at its old place in an emptied file leaves NULs before it, so many as the log had bytes.
        If the file was emptied more than once, copies of what was in between begin with NULs, too.
        """
        there = [*now.values(), *gone]
        same = [one for one in there if one.is_from_same_file(old) and one.log != old.log]
        length = self._leading_nul_bytes(same[0]) if same else 0
        others = [*self._known.values(), *there]
        if not length or any(one.log != old.log and _extent(one) == length for one in others):
            return 0, []  # nothing tells, or it tells of another log that was emptied
        steps: dict[int, SeenFile] = {}
        for one in self._came(now):
            if one.log == old.log or one.is_from_same_file(old) or not old.bytes_seen <= _extent(one) <= length:
                continue
            run = self._leading_nul_bytes(one)
            if run >= old.bytes_seen and (run not in steps or _extent(one) > _extent(steps[run])):
                steps[run] = one
        runs = [*sorted(steps), length]
        ends = pairwise(runs)
        later = [_Missing((steps[run],), end, _extent(steps[run])) for run, end in ends if end > _extent(steps[run])]
        return runs[0], later

    def _was_followed_by_another(self, old: SeenFile) -> bool:
        """Return whether a log is not the one that was seen last in its file, or is only remembered as lost."""
        if old.signature == _LOST:
            return True
        same = [one for one in self._known.values() if one.is_from_same_file(old) and one.log and one.log != old.log]
        return _has_no_path(old) and any(not _has_no_path(one) for one in same)

    def _fresh(self, now: Mapping[str, SeenFile]) -> list[str]:
        """Return the places where something is that was not there before, or has changed."""
        return [place for place, one in now.items() if one.log is None or self._known.get(place) != one]

    def _came(self, now: Mapping[str, SeenFile]) -> list[SeenFile]:
        """Return the files that were not there before under any name, such as copies."""
        before = {(old.device, old.inode, old.log) for old in self._known.values()}
        return [one for one in now.values() if (one.device, one.inode, one.log) not in before]

    def _begins(self, old: SeenFile, now: Mapping[str, SeenFile]) -> bool:
        """Return whether a file is there that begins with all that was seen of one without an object."""
        if old.head_digest is None:
            return False
        digest, _, length = old.head_digest.partition(":")
        is_first = old.file_key not in self._asked
        self._asked.add(old.file_key)
        fresh = list(now) if is_first else self._fresh(now)

        def begins(stream: LogStream) -> bool:
            return sha256(stream.read_exactly(int(length))).hexdigest() == digest

        return any(self._ask(now[place], begins, otherwise=False) for place in fresh)

    def _holds(self, file: SeenFile, row: Mapping[str, object]) -> bool:
        """Return whether a file is the log of a row, too."""

        def holds(stream: LogStream) -> bool:
            tail = tail_before(stream, int(str(row["byte_pos"])), int(str(row["tail_bytes"])))
            return tail is not None and sha256(tail).hexdigest() == row["tail_hash"]

        return self._ask(file, holds, otherwise=False)

    def _leading_nul_bytes(self, file: SeenFile) -> int:
        def count(stream: LogStream) -> int:
            counted = 0
            while data := stream.read():
                rest = data.lstrip(b"\0")
                counted += len(data) - len(rest)
                if rest:
                    break
            return counted

        return self._ask(file, count, otherwise=0)

    def _ask(self, file: SeenFile, question: Callable[[LogStream], T], *, otherwise: T) -> T:
        """Return the answer of a file, or another one where it cannot be read."""
        try:
            with self._open(file) as stream:
                return question(stream)
        except InputError:
            return otherwise


def _is_displaced(old: SeenFile, new: SeenFile | None) -> bool:
    """Return whether less is to be found at a path than what was seen there."""
    if new is None or old.log != new.log or old.bytes_seen > new.bytes_seen:
        return True
    return old.log is None and (old.device, old.inode) != (new.device, new.inode)


def _has_no_path(seen: SeenFile) -> bool:
    """Return whether it stands for a log that has gone from its path."""
    return seen.file_key != table.file_key_of(seen.host, Path(seen.path))


def _extent(seen: SeenFile) -> int:
    """Return how many bytes there were in a file, NULs included."""
    return seen.bytes_seen if seen.log else seen.signature[0]


def _note_loss(connection: Connection, missing: _Missing) -> tuple[int, int]:
    """Note what has disappeared of a log; return how much that is, and how much of it was not known before."""
    row = table.cursor_of(connection, missing.log) if missing.log else None
    if row is None:
        lost = max(0, missing.bytes_seen - missing.reach)
        if lost:
            table.add_lost_log(connection, replace(missing.olds[0], bytes_seen=lost))
        return 0, lost
    lost, before = max(0, missing.bytes_seen - max(row["byte_pos"], missing.reach)), row["bytes_gap"]
    if lost != before:
        table.set_gap(connection, (row["identity"], row["generation"]), lost)
    return lost, max(0, lost - before)
