r"""What can be known of a honeypot's logs, and so what the database must contain after a sequence.

Each file is read from the disk at every poll, with the tests' own parser (`lines`). From that follows:

**Events.** A line that was complete in a file that a poll could reach (in the folder, or open since before it was
deleted) is *required*. A line that the honeypot wrote to its end is *possible*: a poll that was killed may have read
it. Each line is unique, except for those that the honeypot wrote twice, and the one that some logs begin with. Of equal
lines in one log each is an event; equal lines in two logs may be one event or several, for a copy cannot be
distinguished from a repetition: the largest number in one log is required, and the number written is possible.

**Dead letters.** The same for what was torn: once per log, regardless of the number of its copies. What a log ends with
can become one, what an archive ends with must, unless an event is stored that begins with it. What a log begins with is
none if an event is stored that ends with it: the halves were joined.

**The gap.** A log is what was written to one inode between two truncations. Known of a log is how far a poll saw it.
What is known to have been there after the last complete line that could be read, and is in no file any more, is the
gap: usually the pending beginning of a line. What became a dead letter, or half of an event that is stored, is in no
gap. Bytes that no poll saw are not known and in no gap, whatever NUL bytes say of them. Where

- polls were interrupted (what they saw is not known),
- another loader stored a log of which polls had seen no event yet,
- a copy has a part of what is missing, or a backup of a part has its lines,
- another log begins with the same event, or with everything of a log without an event: it may be a copy,
- a file was gone for a while and came back,

there is a smallest and a largest gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.rotation.disk import Disk, Sighting
from tests.rotation.lines import SEPARATORS, Reading, read_lines

OPEN_S = 3600.0
"""A log that was not written to for this long need not be kept open."""


@dataclass(slots=True)
class Known:
    """What is known of a log.

    Attributes:
        torn: damage that polls could read.
        possible_torn: damage that polls may have read.
        halves: of `torn`, what can be half of an event that is stored.
        ends: the unfinished values that it ended with at polls.
        extent: bytes up to which its lines were complete at a poll.
        possible_extent: the same, with interrupted polls.
        seen: bytes that polls saw.
        possibly_seen: the same, with interrupted polls.
        present: bytes of it that are in some file now.
        is_vague: what is missing of it may be elsewhere, or have been.
        inodes: inodes of the files in which polls saw an event of it.
        is_alike: another log begins with the same event: what is torn before it may count for that log.
        was_missing: how much was in some file when a poll last found something missing.
    """

    torn: Counter[bytes] = field(default_factory=Counter)
    possible_torn: Counter[bytes] = field(default_factory=Counter)
    halves: set[bytes] = field(default_factory=set)
    ends: set[bytes] = field(default_factory=set)
    extent: int = 0
    possible_extent: int = 0
    seen: int = 0
    possibly_seen: int = 0
    present: int = 0
    is_vague: bool = False
    is_alike: bool = False
    was_missing: int | None = None
    inodes: set[int] = field(default_factory=set)

    def gap(self) -> tuple[int, int]:
        """Return the smallest and the largest number of bytes that may be lost."""
        most = max(0, max(self.seen, self.possibly_seen) - self.extent)
        if self.present >= max(self.seen, self.possibly_seen) and not self.is_vague:
            most = 0
        least = 0 if self.is_vague else max(0, self.seen - max(self.possible_extent, self.present))
        return least, most

    def is_end_settled(self, events: Iterable[bytes]) -> bool:
        """Return whether what it ended with is a dead letter, or may be half of an event that is stored."""
        return any(end in self.torn or any(event.startswith(end) for event in events) for end in self.ends)


class Model:
    """Records what each poll of the follower could read.

    Attributes:
        required: events that must be stored, with how often.

    Args:
        disk: the files.
        settles_s: an archive that changed within this time is not read by a poll.
    """

    def __init__(self, disk: Disk, settles_s: float) -> None:
        self.required: Counter[str] = Counter()
        self._disk = disk
        self._settles_s = settles_s
        self._logs: dict[int, Known] = {}
        self._alike: dict[str, set[int]] = {}
        self._beginnings: dict[int, bytes] = {}
        self._open: set[int] = set()
        self._perhaps_open: set[int] = set()
        disk.is_held = lambda inode: inode in self._perhaps_open

    def note_poll(
        self, sightings: Iterable[Sighting], *, was_cut_short: bool = False, only_named: bool = False
    ) -> None:
        """Record what a poll could read.

        Args:
            sightings: the files as they were.
            was_cut_short: whether it was interrupted: it may have read everything, or nothing.
            only_named: whether it may not have polled files without a path.
        """
        sightings = list(sightings)
        for known in self._logs.values():
            known.present = 0
        for sighting in sightings:
            self._note(sighting, is_certain=not was_cut_short and self._is_certain(sighting, only_named))
        self._note_missing()
        self._note_open([sighting for sighting in sightings if sighting.origin.packed is None], was_cut_short)

    def _note_open(self, logs: Sequence[Sighting], was_cut_short: bool) -> None:
        """Record which logs the follower keeps open after a poll."""
        self._perhaps_open |= {log.inode for log in logs}
        if not was_cut_short:
            self._open &= {log.inode for log in logs}
            self._open |= {log.inode for log in logs if not log.is_gone}
            self._open &= {log.inode for log in logs if log.age_s < OPEN_S}

    def note_load(self, sightings: Iterable[Sighting]) -> None:
        """Record what the bulk loader read: the values, not how far it saw the logs."""
        for sighting in sightings:
            if sighting.origin.is_cut or sighting.is_gone:
                continue
            reading, known = _read(sighting), self._logs.setdefault(sighting.origin.log, Known())
            self.required |= reading.events
            if not sighting.origin.is_part:
                _add_torn(known, sighting, reading)
                known.possible_extent = max(known.possible_extent, reading.possible_extent)
                if known.inodes or not known.possibly_seen:
                    known.extent = max(known.extent, reading.extent)
                else:  # polls saw it without an event: it cannot be identified with what was stored
                    known.is_vague = True

    def note_restart(self) -> None:
        """Record that the follower ended: it has no logs open any more."""
        self._open.clear()
        self._perhaps_open.clear()

    def torn(self, stored: Iterable[str]) -> tuple[Counter[bytes], Counter[bytes]]:
        """Return the dead letters that must be stored, and those that may be, if these events are stored."""
        events = [line.encode("utf-8", "surrogateescape") for line in stored]
        least: Counter[bytes] = Counter()
        most: Counter[bytes] = Counter()
        for known in self._logs.values():
            if not known.is_alike:
                joined = {half for half in known.halves if any(_is_half(half, event) for event in events)}
                least += Counter({piece: count for piece, count in known.torn.items() if piece not in joined})
            most += known.torn | known.possible_torn
        return least, most

    def gap(self, stored: Iterable[str]) -> tuple[int, int]:
        """Return the smallest and the largest number of bytes that may be lost, if these events are stored."""
        events = [line.encode("utf-8", "surrogateescape") for line in stored]
        gaps = [(known.gap(), known.is_end_settled(events)) for known in self._logs.values()]
        return sum(least for (least, _), is_settled in gaps if not is_settled), sum(most for (_, most), _ in gaps)

    def _is_certain(self, sighting: Sighting, only_named: bool) -> bool:
        """Return whether a poll that is not interrupted reads a file."""
        if sighting.is_gone and (only_named or sighting.inode not in self._open):
            return False
        is_young = sighting.origin.packed is not None and sighting.age_s < self._settles_s
        return not (is_young or sighting.origin.is_cut)

    def _note(self, sighting: Sighting, *, is_certain: bool) -> None:
        origin, reading = sighting.origin, _read(sighting)
        known = self._logs.setdefault(origin.log, Known())
        if is_certain:
            self.required |= reading.events
        if origin.is_part:
            known.is_vague = True
            return
        self._note_likeness(sighting, reading)
        least = size = len(sighting.content)
        if not reading.events:  # separators around what is torn do not count as lost
            torn = sighting.content.replace(b"\0", b"")
            least = len(torn.strip(SEPARATORS))
            size = len(torn) if least else 0
        known.ends |= {reading.end} if reading.end else set()
        known.possible_torn |= reading.torn + reading.possible_torn + Counter([reading.end] if reading.end else ())
        known.possible_extent = max(known.possible_extent, reading.possible_extent)
        known.possibly_seen = max(known.possibly_seen, size)
        if not origin.is_cut:
            known.present = max(known.present, size)
        if is_certain:
            _add_torn(known, sighting, reading)
            known.inodes |= {sighting.inode} if reading.events else set()
            known.extent = max(known.extent, reading.extent)
            known.seen = max(known.seen, least)

    def _note_likeness(self, sighting: Sighting, reading: Reading) -> None:
        """Record logs that begin with the same event, and files without an event that begin like another log."""
        log = sighting.origin.log
        if reading.events:
            alike = self._alike.setdefault(next(iter(reading.events)), set())
            alike.add(log)
            for number in alike if len(alike) > 1 else ():
                self._logs[number].is_vague = self._logs[number].is_alike = True
        elif not sighting.origin.is_part and sighting.content:
            self._beginnings[log] = sighting.content
        for number, content in self._beginnings.items():
            if number != log and sighting.content.startswith(content):
                self._logs[number].is_vague = True

    def _note_missing(self) -> None:
        """Record the logs of which something comes back that was gone at an earlier poll."""
        for known in self._logs.values():
            if known.was_missing is not None and known.present > known.was_missing:
                known.is_vague = True
            if known.present < known.possibly_seen:
                known.was_missing = known.present


def _add_torn(known: Known, sighting: Sighting, reading: Reading) -> None:
    """Add the damage that a loader read; what an archive ends with is damage, what a log begins with may be half."""
    ends = [reading.end] if reading.end and reading.events and sighting.origin.packed is not None else []
    known.torn |= reading.torn + Counter(ends)
    known.halves |= {*ends, *([reading.beginning] if reading.beginning else ())}


def _is_half(piece: bytes, event: bytes) -> bool:
    return event.startswith(piece) or event.endswith(piece)


def _read(sighting: Sighting) -> Reading:
    return read_lines(sighting.content, is_finished=sighting.origin.packed is not None)
