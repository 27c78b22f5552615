"""What was seen of logs and has disappeared before it could be read.

A log that is renamed, copied or compressed has not disappeared: what follows its checkpoint is in the other file. So a
loss is decided once all files have been polled, and taken back as far as the bytes turn up later. A file that is still
being written again from its beginning, as by scp, may have the bytes in a moment: its loss waits until it has settled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.ingest import followed_files as table
from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.db.ingest.log_damage import torn_ends
from cowrieprocessor.loader.follow.file_probe import FileProbe
from cowrieprocessor.loader.follow.log_search import LogSearch, Sightings
from cowrieprocessor.loader.follow.missing_log import LOST_SIGNATURE, Log, MissingLog, is_displaced
from cowrieprocessor.loader.reading.log_stream import LogStream

SAVE_EVERY_S = 60.0
"""How often mere changes of sizes and times are stored; until then only this process knows of them."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A loss that was not known before.

    Attributes:
        path: where the log was seen last.
        bytes_lost: how many of its bytes were seen and destroyed unread.
    """

    path: str
    bytes_lost: int


@dataclass(frozen=True, slots=True)
class _Decision:
    """What is decided about the logs that are no longer where they were seen.

    Attributes:
        decided: logs whose loss, if any, is decided; they are forgotten.
        waiting: sightings of the logs to be decided later.
    """

    decided: list[MissingLog] = field(default_factory=list)
    waiting: list[Sightings] = field(default_factory=list)


class GapDetector:
    """Keeps what was seen of each followed file, and detects what has disappeared unread.

    Args:
        engine: the database.
        open_log: opens a file that is present.
        settles_s: seconds without a change of the file now at the path before a loss is decided.
        clock: monotonic seconds.

    Attributes:
        undecided_s: after how many seconds a loss that waits can be decided; None if none waits.
    """

    def __init__(
        self,
        engine: Engine,
        open_log: Callable[[SeenFile], LogStream],
        *,
        settles_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.undecided_s: float | None = None
        self._settles_s = settles_s
        self._engine = engine
        self._probe = FileProbe(open_log)
        self._clock = clock
        self._known: dict[str, SeenFile] = {}
        self._overwritten: dict[str, SeenFile] = {}
        self._lost: dict[Log, SeenFile] = {}
        self._reread: set[Log] = set()
        self._searched: set[str] = set()
        self._foreign: set[str] = set()
        self._saved_at = clock()

    def restore(self, known: Mapping[str, SeenFile]) -> None:
        """Take what the database has of each file, by file key."""
        self._known = {file_key: seen for file_key, seen in known.items() if seen.signature != LOST_SIGNATURE}
        self._lost = {seen.log: seen for seen in known.values() if seen.signature == LOST_SIGNATURE and seen.log}

    def remember(self, seen: SeenFile) -> None:
        """Remember a log that has no path any more: it was overwritten, or is only open."""
        displaced = seen.displaced()
        before = self._overwritten.get(displaced.file_key) or self._known.get(displaced.file_key)
        if before is None or before.bytes_seen <= displaced.bytes_seen:
            self._overwritten[displaced.file_key] = displaced

    def note_read(self, log: Log | None) -> None:
        """Note that a log was read: if something of it was lost, it may be there again."""
        if log in self._lost:
            self._reread.add(log)

    def forget_foreign(self, foreign: SeenFile) -> None:
        """Forget, with the next write, what another host stored about a file that this host reads now."""
        self._foreign.add(foreign.file_key)

    def is_missing(self, present: Mapping[str, SeenFile]) -> bool:
        """Return whether a log is not where it was seen; `present` is everything that is there, by file key."""
        return bool(self._overwritten or self._displaced_keys(present))

    def needs_full_poll(self, polled: Mapping[str, SeenFile]) -> bool:
        """Return whether a log may not be where it was seen, going by some files; `polled` are these, by file key."""
        return bool(self._overwritten or self._reread) or any(
            file_key in self._known and is_displaced(self._known[file_key], new) for file_key, new in polled.items()
        )

    def save_growth(self, polled: Mapping[str, SeenFile]) -> None:
        """Store how far logs go that have only grown."""
        if changed := self._news(polled):
            self._write(changed)

    def settle(
        self,
        present: Mapping[str, SeenFile],
        unnamed: Collection[SeenFile],
        *,
        changed_at: Mapping[str, float | None],
        is_decided: bool,
    ) -> list[Gap]:
        """Store what is present and what has disappeared; return the losses that were not known before.

        Args:
            present: what is present, by file key.
            unnamed: logs that are open without a path.
            changed_at: when each present file changed last, by path, in Unix seconds; None for one that changes now.
            is_decided: whether everything was polled, so that what is not found will not turn up in a moment.

        Raises:
            DatabaseError: the database refused; nothing is forgotten.
        """
        self.undecided_s = None
        displaced_keys = self._displaced_keys(present)
        groups = self._group(displaced_keys)
        search = self._search(present, unnamed)
        decision = (
            self._decide(groups, search, changed_at) if is_decided else self._decide_found_fragments(groups, search)
        )
        kept = _kept(decision.waiting, present)
        changed = [*self._news(present), *self._replacements(present, displaced_keys)]
        if not (groups or changed):
            self._save_if_due(present)
            return []
        gaps = self._write(changed, decision, [seen for key, seen in kept.items() if self._known.get(key) != seen])
        self._forget(decision.decided, present)
        self._known.update(kept)
        self._overwritten.clear()
        self._reread.clear()
        return gaps

    def save(self, present: Mapping[str, SeenFile]) -> None:
        """Store sizes and times, so that the next process need not read the files again."""
        changed = [seen for file_key, seen in present.items() if self._known.get(file_key) != seen]
        self._saved_at = self._clock()
        if changed:
            self._write(changed)

    def _displaced_keys(self, present: Mapping[str, SeenFile]) -> list[str]:
        """Return the file keys under which there is less now than what was seen."""
        return [file_key for file_key, old in self._known.items() if is_displaced(old, present.get(file_key))]

    def _save_if_due(self, present: Mapping[str, SeenFile]) -> None:
        if self._clock() - self._saved_at > SAVE_EVERY_S:
            self.save(present)

    def _news(self, present: Mapping[str, SeenFile]) -> list[SeenFile]:
        """Return the states that differ in more than sizes and times from what is stored."""
        return [
            seen
            for file_key, seen in present.items()
            if (old := self._known.get(file_key)) is None or not seen.detects_same_loss_as(old)
        ]

    def _replacements(self, present: Mapping[str, SeenFile], displaced_keys: Iterable[str]) -> list[SeenFile]:
        """Return the states under displaced keys that `_news` leaves out."""
        current = [present[file_key] for file_key in displaced_keys if file_key in present]
        return [seen for seen in current if seen.detects_same_loss_as(self._known[seen.file_key])]

    def _search(self, present: Mapping[str, SeenFile], unnamed: Collection[SeenFile]) -> LogSearch:
        return LogSearch(
            engine=self._engine,
            probe=self._probe,
            known=self._known,
            overwritten=self._overwritten.values(),
            present=present,
            unnamed=unnamed,
            searched=self._searched,
        )

    def _decide(self, groups: list[Sightings], search: LogSearch, changed_at: Mapping[str, float | None]) -> _Decision:
        """Decide about all logs, but for those that are open, or whose file is being written again."""
        decision = _Decision()
        for missing in [search.find(group) for group in groups]:
            if missing.is_open or (not missing.is_found and self._is_settling(missing, changed_at)):
                decision.waiting.append(missing.sightings)
            else:
                decision.decided.append(missing)
        return decision

    def _is_settling(self, missing: MissingLog, changed_at: Mapping[str, float | None]) -> bool:
        """Return whether a file at a path of a missing log changed a moment ago; note when it can be decided."""
        paths = {seen.path for seen in missing.sightings if seen.signature != LOST_SIGNATURE}
        now = time.time()
        changed = [now if (at := changed_at[path]) is None else at for path in paths & changed_at.keys()]
        left_s = self._settles_s - (now - max(changed, default=0.0))
        if not 0 < left_s <= self._settles_s:
            return False
        self.undecided_s = left_s if self.undecided_s is None else min(left_s, self.undecided_s)
        return True

    def _decide_found_fragments(self, groups: list[Sightings], search: LogSearch) -> _Decision:
        """Decide only about files without an object that are found in others; everything else waits.

        What such a file has become is found now or never: the other file may be truncated before all is decided.
        """
        fragments = [search.find(group) for group in groups if group[0].log is None]
        found = [fragment for fragment in fragments if fragment.is_found and not fragment.is_open]
        settled = [fragment.sightings for fragment in found]
        return _Decision(decided=found, waiting=[group for group in groups if group not in settled])

    def _group(self, displaced_keys: Iterable[str]) -> list[Sightings]:
        """Return what has gone from its path, by log; files without a log by their beginning, or device and inode."""
        groups: dict[object, list[SeenFile]] = {}
        keys_by_head: dict[str | None, object] = {}
        reread = [self._lost[log] for log in sorted(self._reread)]
        for old in [*(self._known[file_key] for file_key in displaced_keys), *self._overwritten.values(), *reread]:
            key: object = old.log or (old.device, old.inode)
            if old.log is None and old.bytes_seen:
                key = keys_by_head.setdefault(old.head_digest, key)
            groups.setdefault(key, []).append(old)
            if old.log in self._lost and self._lost[old.log] not in groups[key]:
                groups[key].append(self._lost[old.log])
        return [tuple(group) for group in groups.values()]

    def _write(
        self, changed: list[SeenFile], decision: _Decision | None = None, kept: Collection[SeenFile] = ()
    ) -> list[Gap]:
        """Store states and losses in one transaction; return the losses that were not known before."""
        decision = decision or _Decision()
        gaps: list[Gap] = []
        lost: dict[Log, SeenFile] = {}
        with write_transaction(self._engine) as connection:
            for missing in decision.decided:
                bytes_lost, new_bytes_lost = _record_loss(connection, missing)
                if new_bytes_lost:
                    gaps.append(Gap(missing.sightings[0].path, new_bytes_lost))
                if bytes_lost and missing.log:
                    lost[missing.log] = missing.lost()
            table.forget(connection, _file_keys(decision.decided) | self._foreign)
            table.save(connection, [*changed, *kept, *lost.values()])
        self._foreign.clear()
        self._known.update({seen.file_key: seen for seen in changed})
        self._update_lost(decision.decided, lost)
        return gaps

    def _update_lost(self, decided: Iterable[MissingLog], lost: Mapping[Log, SeenFile]) -> None:
        for missing in decided:
            if missing.log:
                self._lost.pop(missing.log, None)
        self._lost.update(lost)

    def _forget(self, decided: Iterable[MissingLog], present: Mapping[str, SeenFile]) -> None:
        """Forget the states of decided logs, except where another file has taken the path."""
        for file_key in _file_keys(decided):
            if file_key not in present:
                self._known.pop(file_key, None)


def _file_keys(logs: Iterable[MissingLog]) -> set[str]:
    return {seen.file_key for log in logs for seen in log.sightings}


def _kept(waiting: Iterable[Sightings], present: Mapping[str, SeenFile]) -> dict[str, SeenFile]:
    """Return the sightings that wait by file key, under another key where another file has taken the path.

    Of several under one key the one that goes furthest is kept.
    """
    sightings = [seen.displaced() if seen.file_key in present else seen for group in waiting for seen in group]
    return {seen.file_key: seen for seen in sorted(sightings, key=lambda seen: seen.bytes_seen)}


def _record_loss(connection: Connection, missing: MissingLog) -> tuple[int, int]:
    """Store how many bytes of a log have disappeared; return the number, and how many of them were not known before."""
    row = table.cursor_of(connection, missing.log) if missing.log else None
    if row is None:
        bytes_lost = max(0, missing.bytes_seen - missing.bytes_found)
        if bytes_lost:
            table.add_lost_log(connection, replace(missing.sightings[0], bytes_seen=bytes_lost))
        return 0, bytes_lost
    bytes_lost = max(
        0, missing.bytes_seen - max(row["byte_pos"], _settled_bytes(connection, missing), missing.bytes_found)
    )
    before = row["bytes_gap"]
    if bytes_lost != before:
        table.set_gap(connection, (row["identity"], row["generation"]), bytes_lost)
    return bytes_lost, max(0, bytes_lost - before)


def _settled_bytes(connection: Connection, missing: MissingLog) -> int:
    """Return up to where the log is stored or has a dead letter for the torn value at its end; 0 without one."""
    ends = torn_ends(connection, missing.log) if missing.log else []
    return max((end.byte_end for end in ends if end.has_letter or end.is_explained), default=0)
