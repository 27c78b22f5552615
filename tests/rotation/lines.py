"""An independent reader of logs: line by line, with the parser of the standard library."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field

SEPARATORS = b" \t\r\n,[]\0"
"""The bytes between values."""

_SEPARATORS = re.compile(rb"(?:[ \t\r\n,\[\]\x00]|\xef\xbb\xbf)*")
_END_OF_LINE = re.compile(rb"[\n\x00]")
_QUOTE = re.compile(rb'\\.|(")', re.DOTALL)
_ENDS_DAMAGE = re.compile(rb"\x00|\n[ \t\r]*\{")
_DECODER = json.JSONDecoder()


@dataclass(slots=True)
class Reading:
    """The content of a log.

    Attributes:
        events: the complete lines, as text.
        torn: what is not an event and never will be, without the separators around it.
        possible_events: events after damage whose end cannot be determined before more follows.
        possible_torn: such damage.
        beginning: the damage with which the log begins: it may be the rest of an event of the log before.
        end: the unfinished value at its end, without the separators around it.
        extent: byte position at which something unfinished begins.
        possible_extent: the same, if that is read as damage with events after it.
    """

    events: Counter[str] = field(default_factory=Counter)
    torn: Counter[bytes] = field(default_factory=Counter)
    possible_events: Counter[str] = field(default_factory=Counter)
    possible_torn: Counter[bytes] = field(default_factory=Counter)
    beginning: bytes | None = None
    end: bytes | None = None
    extent: int = 0
    possible_extent: int = 0


def read_lines(content: bytes, *, is_finished: bool) -> Reading:
    """Return what can be read of a log.

    An event is read once it is whole, a damaged line once its newline (or a NUL) is there. What follows
    distinguishes damaged from unfinished: inside a string the end of the line ends it, outside only a further line that
    begins with an object. Nothing of a log is read before it has an event, which identifies it.

    Args:
        content: all bytes of the log, decompressed.
        is_finished: whether nothing can follow, as in an archive.
    """
    found, at = Reading(), 0
    while (at := _after_separators(content, at)) < len(content):
        found.extent = at
        text, end = _object(content, at)
        if text is not None:
            found.events[text] += 1
            at = end
            continue
        line_end = _end_of_line(content, at)
        if line_end is None and (not is_finished or content[at] == ord("{")):
            if is_finished:  # an event at the end of the archive shows that what is before it is damaged
                _add_possible(content[at:], found)
            found.end = content[at:].strip(SEPARATORS)
            break
        end = len(content) if line_end is None else line_end
        if line_end is not None and not _is_decided(content, at, line_end):
            _add_line(content[at:end], found.possible_events, found.possible_torn)
            break
        is_first = not found.events and not found.torn
        _add_line(content[at:end], found.events, found.torn)
        if is_first:
            found.beginning = next(iter(found.torn), None)
        at = end
    else:
        found.extent = len(content)
    if not found.events:
        found.possible_torn += found.torn
        found.torn = Counter()
        found.extent = 0
    found.possible_extent = max(found.possible_extent, found.extent)
    return found


def _add_possible(damaged: bytes, found: Reading) -> None:
    """Add what may be damage, if there are events after it."""
    events: Counter[str] = Counter()
    torn: Counter[bytes] = Counter()
    _add_line(damaged, events, torn)
    if events:
        found.possible_events += events
        found.possible_torn += torn
        found.possible_extent = found.extent + len(damaged)


def _add_line(line: bytes, events: Counter[str], torn: Counter[bytes]) -> None:
    """Add a damaged line: what is torn, and the events that follow it on the line."""
    at = 0
    while at < len(line):
        start = next(
            (match.start() for match in re.finditer(rb'\{"', line[at:]) if _object(line, at + match.start())[0]), None
        )
        end = len(line) if start is None else at + start
        if damage := line[at:end].strip(SEPARATORS):
            torn[damage] += 1
        at = end
        while at < len(line) and (whole := _object(line, at))[0] is not None:
            events[whole[0]] += 1
            at = whole[1]


def _object(content: bytes, at: int) -> tuple[str | None, int]:
    """Return the event that begins at a position, and its end; None if there is none."""
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
    """Return whether it is certain that a line is damaged."""
    if content[at] != ord("{") or content[line_end] == 0:
        return True
    quotes = sum(match[1] is not None for match in _QUOTE.finditer(content, at, line_end))
    if quotes % 2:
        return True
    following = _ENDS_DAMAGE.search(content, line_end)
    return following is not None and not content[line_end : following.start()].strip(b" \t\r\n")


def _after_separators(content: bytes, at: int) -> int:
    match = _SEPARATORS.match(content, at)
    return match.end() if match else at


def _end_of_line(content: bytes, at: int) -> int | None:
    match = _END_OF_LINE.search(content, at)
    return match.start() if match else None
