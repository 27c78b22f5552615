r"""What can be known of a honeypot's logs, and so what the database has to say after all that happened to them.

Each file is read from the disk at every look, by a parser of the tests' own (`lines`). From that follows:

**Events.** A line that was complete in some file that a look could reach (in the folder, or held open from before it
was deleted) is *required*. A line that the honeypot wrote to its end is *possible*: a look that was killed may have
read it. Each line is unique, but for those that the honeypot wrote twice, and the one that some logs begin alike with.
Of equal lines in one log each is an event; equal lines in two logs may be one event or several, for a copy cannot be
told from a repetition: the largest number in one log is required, and the number written is possible.

**Dead letters.** The same for what was torn: once per log, whatever the number of copies of it. What an archive ends
with is unfinished there, too.

**The gap.** A log is what was written to one inode between two truncations. Known of a log is how far a look saw it,
and, where NUL bytes show at what offset its writer went on after a truncation, how far it had come then. What is known
to have been there beyond the last complete line that could be read, and is in no file any more, is the gap: usually
the pending beginning of a line. Bytes that no look saw and no NULs prove are known to nobody and in no gap. Where

- looks were cut short (what they saw is not known),
- another loader stored a log of which looks had seen no event yet,
- a copy holds a part of what is missing, or a backup of a part holds its lines,
- another log begins with the same event, or with all there was of one without an event: it may be a copy,
- a file was gone for a while and came back,
- NULs are found where no look saw the log before them in that file,
- a file comes that begins with NULs, while another was truncated: it may be a copy of that one,

there is a least and a greatest gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.rotation.disk import Disk, Sighting
from tests.rotation.lines import SEPARATORS, Reading, read_lines

HELD_S = 3600.0
"""A log that was not written to for so long need not be held open."""


@dataclass(slots=True)
class Known:
    """What is known of one log.

    Attributes:
        torn: damage that looks could read.
        possible_torn: damage that they may have.
        extent: bytes up to which its lines were complete at a look.
        possible_extent: the same, with looks that were cut short.
        seen: bytes that looks saw, or NULs prove.
        possibly_seen: the same, with looks that were cut short.
        held: bytes of it that are in some file now.
        is_vague: what is missing of it may be elsewhere, or have been.
        inodes: of the files that looks saw with an event of it.
        is_alike: another log begins with the same event: what is torn before it may be taken for the other's.
        was_missing: how much was in some file when a look last found something missing.
    """

    torn: Counter[bytes] = field(default_factory=Counter)
    possible_torn: Counter[bytes] = field(default_factory=Counter)
    extent: int = 0
    possible_extent: int = 0
    seen: int = 0
    possibly_seen: int = 0
    held: int = 0
    is_vague: bool = False
    is_alike: bool = False
    was_missing: int | None = None
    inodes: set[int] = field(default_factory=set)

    def gap(self) -> tuple[int, int]:
        """Return how many bytes are lost, at least and at most."""
        most = max(0, max(self.seen, self.possibly_seen) - self.extent)
        if self.held >= max(self.seen, self.possibly_seen) and not self.is_vague:
            most = 0
        least = 0 if self.is_vague else max(0, self.seen - max(self.possible_extent, self.held))
        return least, most


class Model:
    """Follows the follower: what each look could read.

    Attributes:
        required: events that have to be stored, as often as given.

    Args:
        disk: the files.
        settles_s: an archive that changed so recently is left alone by a look.
    """

    def __init__(self, disk: Disk, settles_s: float) -> None:
        self.required: Counter[str] = Counter()
        self._disk = disk
        self._settles_s = settles_s
        self._logs: dict[int, Known] = {}
        self._alike: dict[str, set[int]] = {}
        self._beginnings: dict[int, bytes] = {}
        self._held: set[int] = set()
        self._perhaps_held: set[int] = set()
        disk.is_held = lambda inode: inode in self._perhaps_held

    def note_look(
        self, sightings: Iterable[Sighting], *, was_cut_short: bool = False, only_named: bool = False
    ) -> None:
        """Take in what a look could read.

        Args:
            sightings: the files as they were.
            was_cut_short: it may have read all, or nothing.
            only_named: it may not have looked at those that have no name any more.
        """
        sightings = list(sightings)
        for one in self._logs.values():
            one.held = 0
        seen_in = {number: frozenset(one.inodes) for number, one in self._logs.items()}
        came = [one for one in sightings if one.inode not in seen_in.get(one.origin.log, ())]
        for sighting in sightings:
            self._note(sighting, is_certain=not was_cut_short and self._is_certain(sighting, only_named))
        for sighting in sightings:
            self._note_nuls(sighting, seen_in, came, is_certain=not was_cut_short)
        self._note_missing()
        logs = [one for one in sightings if one.origin.packed is None]
        self._perhaps_held |= {one.inode for one in logs}
        if not was_cut_short:
            self._held &= {one.inode for one in logs}
            self._held |= {one.inode for one in logs if not one.is_gone}
            self._held &= {one.inode for one in logs if one.age_s < HELD_S}

    def note_load(self, sightings: Iterable[Sighting]) -> None:
        """Take in what another loader read: the values, not how far it saw the logs."""
        for sighting in sightings:
            if sighting.origin.is_cut or sighting.is_gone:
                continue
            reading, known = _read(sighting), self._logs.setdefault(sighting.origin.log, Known())
            self.required |= reading.events
            if not sighting.origin.is_part:
                known.torn |= reading.torn
                known.possible_extent = max(known.possible_extent, reading.possible_extent)
                if known.inodes or not known.possibly_seen:
                    known.extent = max(known.extent, reading.extent)
                else:  # of one that looks saw without an event, nobody can tell that it is what was stored
                    known.is_vague = True

    def note_restart(self) -> None:
        """Take in that the follower ended: it holds nothing any more."""
        self._held.clear()
        self._perhaps_held.clear()

    def torn(self) -> tuple[Counter[bytes], Counter[bytes]]:
        """Return the dead letters that have to be there, and those that may."""
        least: Counter[bytes] = Counter()
        most: Counter[bytes] = Counter()
        for one in self._logs.values():
            least += Counter() if one.is_alike else one.torn
            most += one.torn | one.possible_torn
        return least, most

    def gap(self) -> tuple[int, int]:
        """Return how many bytes are lost, at least and at most."""
        gaps = [one.gap() for one in self._logs.values()]
        return sum(least for least, _ in gaps), sum(most for _, most in gaps)

    def _is_certain(self, sighting: Sighting, only_named: bool) -> bool:
        """Return whether a look that comes to its end reads a file."""
        if sighting.is_gone and (only_named or sighting.inode not in self._held):
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
        if not reading.events:  # separators around what is torn are nothing that is missed
            torn = sighting.content.replace(b"\0", b"")
            least = len(torn.strip(SEPARATORS))
            size = len(torn) if least else 0
        known.possible_torn |= reading.torn + reading.possible_torn
        known.possible_extent = max(known.possible_extent, reading.possible_extent)
        known.possibly_seen = max(known.possibly_seen, size)
        if not origin.is_cut:
            known.held = max(known.held, size)
        if is_certain:
            known.torn |= reading.torn
            known.inodes |= {sighting.inode} if reading.events else set()
            known.extent = max(known.extent, reading.extent)
            known.seen = max(known.seen, least)

    def _note_likeness(self, sighting: Sighting, reading: Reading) -> None:
        """Note logs that begin with the same event, and files without one that begin like another log."""
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

    def _note_nuls(
        self,
        sighting: Sighting,
        seen_in: Mapping[int, frozenset[int]],
        came: Iterable[Sighting],
        *,
        is_certain: bool,
    ) -> None:
        """Take in what NULs at the beginning of a log say about the one before it.

        Args:
            sighting: the file.
            seen_in: in which files earlier looks saw each log.
            came: files that no earlier look saw; such a copy may be of this file, between two truncations.
            is_certain: whether the look came to its end.
        """
        truncation = self._disk.truncations.get(sighting.origin.log)
        nuls = len(sighting.content) - len(sighting.content.lstrip(b"\0"))
        if truncation is None or sighting.origin.is_part or not nuls:
            return
        before = self._logs.setdefault(truncation.before, Known())
        before.possibly_seen = max(before.possibly_seen, nuls)
        if any(_may_be_between(one, sighting, nuls) and not self._is_earlier(one, sighting) for one in came):
            before.is_vague = True
        if sighting.inode in seen_in.get(truncation.before, ()) and nuls == truncation.size:
            before.seen = max(before.seen, nuls if is_certain else 0)
            return
        before.is_vague = True
        earlier = self._disk.truncations.get(truncation.before)
        while before.held < nuls and earlier is not None:  # they may be taken for a log's that was seen there earlier
            known = self._logs.get(earlier.before, Known())
            known.is_vague, known.possibly_seen = True, max(known.possibly_seen, nuls)
            earlier = self._disk.truncations.get(earlier.before)

    def _is_earlier(self, one: Sighting, other: Sighting) -> bool:
        """Return whether a file holds what another one held before it was truncated, or what it holds now."""
        number = other.origin.log
        while number != one.origin.log and (truncation := self._disk.truncations.get(number)) is not None:
            number = truncation.before
        return number == one.origin.log

    def _note_missing(self) -> None:
        """Note the logs of which something comes back that was gone at an earlier look."""
        for one in self._logs.values():
            if one.was_missing is not None and one.held > one.was_missing:
                one.is_vague = True
            if one.held < one.possibly_seen:
                one.was_missing = one.held


def _may_be_between(one: Sighting, other: Sighting, nuls: int) -> bool:
    """Return whether a file may be a copy of another one from before that was truncated with so many bytes."""
    return one.inode != other.inode and one.content.startswith(b"\0") and len(one.content) <= nuls


def _read(sighting: Sighting) -> Reading:
    return read_lines(sighting.content, is_finished=sighting.origin.packed is not None)
