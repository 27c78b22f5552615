"""Lines of text that end with the line of Cowrie: syslog, container runtimes, and whatever puts a time before it."""

from __future__ import annotations

import re

from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.reading.wrappers.base import Piece, Wrapper

_ISO_TIME = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?"
_BSD_TIME = rb"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"


class PrefixedLines(Wrapper):
    """Text lines, each with a prefix before the line of Cowrie.

    Args:
        name: the name.
        prefix: matches the prefix; None for any.
    """

    reads_lines = True

    def __init__(self, name: str, prefix: bytes | None = None) -> None:
        self.name = name
        self.prefix = re.compile(prefix) if prefix else None

    def has_prefix(self, text: bytes) -> bool:
        """Return whether a text is the prefix of a line."""
        return self.prefix is not None and self.prefix.match(text) is not None

    def pieces(self, value: Value) -> list[Piece]:
        """Return the line; where the event begins in it, its name tells."""
        return [Piece(value.raw)]


class Cri(PrefixedLines):
    """Lines as container runtimes under Kubernetes keep them; P marks the part of a line that goes on.

    Source: Kubernetes, "CRI: Log format": time, stream, tag, line.
    """

    def __init__(self) -> None:
        super().__init__("CRI", rb"(?:%b) (stdout|stderr) ([PF])(?:$| )" % _ISO_TIME)

    def pieces(self, value: Value) -> list[Piece]:
        """Return the line, or the part of it."""
        match = self.prefix.match(value.raw) if self.prefix else None
        if match is None:
            return [Piece(value.raw)]
        stream, tag = match.groups()
        return [Piece(value.raw[match.end() :], continues=tag == b"P", stream=stream.decode())]


SYSLOG = PrefixedLines(
    "syslog",
    rb"(?:\d{1,6} )?(?:<\d{1,3}>)?(?:(?:%b|%b) \S+ [^{}]*?: |1 %b \S+ \S+ \S+ \S+ [-\[])"
    % (_BSD_TIME, _ISO_TIME, _ISO_TIME),
)
CRI = Cri()
COMPOSE = PrefixedLines("docker compose", rb"(?:\x1b\[[\d;]*m)*[\w.@-]+ *\| ")
TIMED = PrefixedLines("lines with a time", rb"(?:%b|@[0-9a-f]{24})(?: |\t)" % _ISO_TIME)
ANY_PREFIX = PrefixedLines("lines with a prefix")

TEXT_WRAPPERS: tuple[PrefixedLines, ...] = (SYSLOG, CRI, COMPOSE, TIMED)
"""Each is recognized by one line, the most specific first."""

_PLAIN_PREFIX = re.compile(rb"[^\"{}\\]+")


def text_wrapper(prefix: bytes) -> PrefixedLines | None:
    """Return the wrapper that puts such a text before an event; ANY_PREFIX if it may be one, None if it is none.

    Args:
        prefix: what stands before an intact event on the same line.
    """
    for wrapper in TEXT_WRAPPERS:
        if wrapper.has_prefix(prefix + b" "):
            return wrapper
    return ANY_PREFIX if _PLAIN_PREFIX.fullmatch(prefix) else None
