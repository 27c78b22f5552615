"""A small log, read at once and closed: many of them can be worked on together."""

from __future__ import annotations

import os
from pathlib import Path

from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes

SMALL_LOG_BYTES = 64 << 10
"""The largest file, compressed or not, that is a small log."""


class SmallLog(LogStream):
    """A log whose file is in memory, as it was at one moment, and needs no descriptor.

    Attributes:
        is_small: whether it is all there; else the file is larger, and only its head can be read.

    Args and errors: those of `LogStream`.
    """

    def __init__(
        self, path: Path, *, max_ratio: float = 250, grace_bytes: int = 64 << 20, sizes: ReadSizes = DEFAULT_SIZES
    ) -> None:
        self._content: bytes | None = None
        super().__init__(path, max_ratio=max_ratio, grace_bytes=grace_bytes, sizes=sizes)
        self.close()
        self.is_small = self._content is not None and len(self._content) <= SMALL_LOG_BYTES

    def _file_status(self) -> os.stat_result:
        return self.status if self._content is not None else super()._file_status()

    def _read_at(self, start: int, size: int) -> bytes:
        if self._content is None:
            self._content = super()._read_at(0, SMALL_LOG_BYTES + 1)
        return self._content[start : start + size]
