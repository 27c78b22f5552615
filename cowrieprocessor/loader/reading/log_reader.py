"""The reader of a log: of its values as they stand in the file, or of the events that a wrapper holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import Value, ValueReader


class LogReader(Protocol):
    """Iterates over the values of a log; see `ValueReader` and `WrappedReader`."""

    @property
    def position(self) -> int:
        """The end of what was read, in decompressed bytes."""

    @property
    def line(self) -> int:
        """0-based number of the line at `position`."""

    @property
    def is_between_values(self) -> bool:
        """Whether reading can resume at `position`."""

    @property
    def pending_bytes(self) -> int:
        """Bytes read after `position`: an unfinished value."""

    @property
    def is_in_object(self) -> bool:
        """Whether the unfinished value starts like an object."""

    def __iter__(self) -> Iterator[Value]:
        """Yield the values up to the current end of the log."""

    def take_nul_bytes(self) -> int:
        """Return the number of NUL bytes skipped since the last call."""

    @property
    def pending(self) -> bytes | None:
        """The unfinished value; None if it is over 1 MiB or in a wrapper."""

    @property
    def leading(self) -> bytes | None:
        """The separators before the first value; None if reading did not begin there, or the log has a wrapper."""

    def take_nul_runs(self) -> list[tuple[int, int]]:
        """Return the places with NUL bytes that were skipped since the last call; none in a wrapper."""

    def take_foreign(self) -> tuple[int, int]:
        """Return lines and bytes of other programs since the last call."""

    def tail(self) -> bytes:
        """Return the bytes before `position` that identify the log when reading resumes."""


def reader_of(
    stream: LogStream,
    wrapper: str | None,
    *,
    position: int = 0,
    line: int = 0,
    before: bytes = b"",
    max_value_bytes: int = 2 << 20,
) -> LogReader:
    """Return a reader of a log from a position on.

    Args:
        stream: the log, at `position`.
        wrapper: the name of its wrapper; None for a log as Cowrie writes it.
        position: where to start, in decompressed bytes.
        line: 0-based number of the line at `position`.
        before: known bytes before `position`.
        max_value_bytes: the largest value that is returned as an object.
    """
    if wrapper:
        from cowrieprocessor.loader.reading.wrapped_reader import wrapped_reader_of  # few logs have one

        return wrapped_reader_of(stream, wrapper, position, line, before, max_value_bytes)
    return ValueReader(stream, position=position, line=line, before=before, max_value_bytes=max_value_bytes)
