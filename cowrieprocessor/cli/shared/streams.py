"""The standard streams of a command, in whatever state it was started with: closed, unbuffered, or not UTF-8."""

from __future__ import annotations

import io
import os
import sys

from cowrieprocessor.wording import in_encoding

_MODES = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
"""How /dev/null takes the place of a closed stream: standard output only for reading, so that writing to it fails."""


def prepare_streams() -> None:
    """Make the standard streams fit for every command.

    - A closed stream gets a descriptor, so that no database is opened under its number and written to by a message.
    - Standard output gets a buffer where it has none (`python -u`, PYTHONUNBUFFERED): without one Python takes no
      notice when the system writes only a part, as on a disk that fills up. Every output is flushed at once all the
      same. Characters outside its encoding become escapes.
    - Standard error takes every message; one that cannot be written ends nothing.
    """
    _open_closed_streams()
    out = getattr(sys.stdout, "buffer", None)
    if isinstance(out, io.FileIO):
        sys.stdout.flush()
        sys.stdout = _text_stream(out, sys.stdout.encoding)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    err = getattr(sys.stderr, "buffer", None)
    raw = getattr(err, "raw", err)
    if isinstance(raw, io.FileIO) and not isinstance(raw, _Messages):
        encoding = sys.stderr.encoding
        sys.stderr = _text_stream(_Messages(raw.fileno(), "w", closefd=False), encoding)


def reach(stream: io.TextIOBase | object, text: str) -> str:
    """Return a text as the encoding of a stream can show it."""
    return in_encoding(text, getattr(stream, "encoding", None) or "utf-8")


def discard_output() -> None:
    """Let standard output lead nowhere from now on: its reader has gone, or it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Messages(io.FileIO):
    """Standard error: what cannot be written to it, because its reader has gone or its disk is full, is dropped."""

    def write(self, data: object, /) -> int:
        """Write, or do nothing; return the number of bytes as if all were written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return len(memoryview(data))  # type: ignore[arg-type]


def _open_closed_streams() -> None:
    for number, mode in _MODES.items():
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stdout is None:
        sys.stdout = _text_stream(io.FileIO(1, "w", closefd=False), "utf-8")
    if sys.stderr is None:
        sys.stderr = _text_stream(_Messages(2, "w", closefd=False), "utf-8")


def _text_stream(raw: io.FileIO, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", newline=None, line_buffering=True
    )
