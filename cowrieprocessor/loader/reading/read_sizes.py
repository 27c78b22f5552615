"""How much of a log is read at once."""

from __future__ import annotations

from dataclasses import dataclass

READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class ReadSizes:
    """How much of a log is read at once, in bytes.

    Attributes:
        piece_bytes: the most that `LogStream.read` returns.
        feed_bytes: the file's head, from which the compression is detected, and the compressed bytes read at once.
        other_core_bytes: with fewer bytes left to read, a log is parsed in the writer's process, because starting a
            child takes longer; see `parser_process`.
    """

    piece_bytes: int = READ_SIZE
    feed_bytes: int = 1 << 16
    other_core_bytes: int = 16 << 20


DEFAULT_SIZES = ReadSizes()
