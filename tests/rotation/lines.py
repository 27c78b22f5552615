"""What a log's bytes say, read another way than the loader does: line by line, with the standard library's parser."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field

SEPARATORS = b" \t\r\n,[]\0"
"""What stands between values."""

_SEPARATORS = re.compile(rb"(?:[ \t\r\n,\[\]\x00]|\xef\xbb\xbf)*")
_END_OF_LINE = re.compile(rb"[\n\x00]")
_QUOTE = re.compile(rb'\\.|(")', re.DOTALL)
_ENDS_DAMAGE = re.compile(rb"\x00|\n[ \t\r]*\{")
_DECODER = json.JSONDecoder()


@dataclass(slots=True)
class Reading:
    """What the bytes of one log say.

    Attributes:
        events: the complete lines, as text.
        torn: what is no event and never will be, without the separators around it.
        possible_events: events behind damage whose end cannot be decided before more follows.
        possible_torn: such damage.
        extent: bytes up to where something unfinished begins.
        possible_extent: the same, if that is read as damage with events behind it.
    """

    events: Counter[str] = field(default_factory=Counter)
    torn: Counter[bytes] = field(default_factory=Counter)
    possible_events: Counter[str] = field(default_factory=Counter)
    possible_torn: Counter[bytes] = field(default_factory=Counter)
    extent: int = 0
    possible_extent: int = 0


def read_lines(content: bytes, *, is_finished: bool) -> Reading:
    """Return what can be read of a log.

    A line is read once its newline (or a NUL) is there; a whole object also when anything follows it. What is damaged
    is told from what is unfinished by what follows: inside a text its line ends it; outside only a further line that
    begins with an object. Nothing of a log is read before it has an event, for that is what it is known by.

    Args:
        content: all bytes of the log, decompressed.
        is_finished: nothing can follow, as in an archive.
    """
    found, at = Reading(), 0
    while (at := _behind_separators(content, at)) < len(content):
        found.extent = at
        text, end = _object(content, at)
        if text is not None and (end < len(content) or is_finished):
            found.events[text] += 1
            at = end
            continue
        line_end = _end_of_line(content, at)
        if line_end is None and (text is not None or not is_finished or content[at] == ord("{")):
            if is_finished:  # an event that ends with the archive tells the damage before it from what is unfinished
                _take_possible(content[at:], found)
            break
        end = len(content) if line_end is None else line_end
        if line_end is not None and not _is_decided(content, at, line_end):
            _take_line(content[at:end], found.possible_events, found.possible_torn)
            break
        _take_line(content[at:end], found.events, found.torn)
        at = end
    else:
        found.extent = len(content)
    if not found.events:
        found.possible_torn += found.torn
        found.torn = Counter()
        found.extent = 0
    found.possible_extent = max(found.possible_extent, found.extent)
    return found


def _take_possible(damaged: bytes, found: Reading) -> None:
    """Take what may be damage, if there are events behind it."""
    events: Counter[str] = Counter()
    torn: Counter[bytes] = Counter()
    _take_line(damaged, events, torn)
    if events:
        found.possible_events += events
        found.possible_torn += torn
        found.possible_extent = found.extent + len(damaged)


def _take_line(line: bytes, events: Counter[str], torn: Counter[bytes]) -> None:
    """Take a damaged line: what is torn, and the events that were glued to it."""
    at = 0
    while at < len(line):
        start = next(
            (one.start() for one in re.finditer(rb'\{"', line[at:]) if _object(line, at + one.start())[0]), None
        )
        end = len(line) if start is None else at + start
        if damage := line[at:end].strip(SEPARATORS):
            torn[damage] += 1
        at = end
        while at < len(line) and (whole := _object(line, at))[0] is not None:
            events[whole[0]] += 1
            at = whole[1]


def _object(content: bytes, at: int) -> tuple[str | None, int]:
    """Return the event that begins at a place, and its end; None where there is none."""
    if content[at : at + 1] != b"{":
        return None, at
    end = _end_of_line(content, at)
    text = content[at:end].decode("utf-8", "surrogateescape")
    try:
        fields, length = _DECODER.raw_decode(text)
    except ValueError:
        return None, at
    if "eventid" not in fields:
        return None, at
    return text[:length], at + len(text[:length].encode("utf-8", "surrogateescape"))


def _is_decided(content: bytes, at: int, line_end: int) -> bool:
    """Return whether a damaged line is known to be damaged."""
    if content[at] != ord("{") or content[line_end] == 0:
        return True
    quotes = sum(match[1] is not None for match in _QUOTE.finditer(content, at, line_end))
    if quotes % 2:
        return True
    following = _ENDS_DAMAGE.search(content, line_end)
    return following is not None and not content[line_end : following.start()].strip(b" \t\r\n")


def _behind_separators(content: bytes, at: int) -> int:
    match = _SEPARATORS.match(content, at)
    return match.end() if match else at


def _end_of_line(content: bytes, at: int) -> int | None:
    match = _END_OF_LINE.search(content, at)
    return match.start() if match else None
