"""Questions about the content of followed files, answered from the files themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TypeVar

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.errors import InputError
from cowrieprocessor.loader.logs.identity import read_tail
from cowrieprocessor.loader.reading.log_stream import LogStream

T = TypeVar("T")


class FileProbe:
    """Answers questions about the content of files; a file that cannot be read answers no, or 0.

    Args:
        open_log: opens a file as it is now.
    """

    def __init__(self, open_log: Callable[[SeenFile], LogStream]) -> None:
        self._open = open_log

    def begins_with(self, file: SeenFile, digest: str, length: int) -> bool:
        """Return whether the first `length` bytes of a file have this SHA-256."""

        def begins(stream: LogStream) -> bool:
            return sha256(stream.read_exactly(length)).hexdigest() == digest

        return self._ask(file, begins, default=False)

    def has_log(self, file: SeenFile, row: Mapping[str, object]) -> bool:
        """Return whether a file has the bytes before the checkpoint of a row of `log_files`."""

        def has_tail(stream: LogStream) -> bool:
            tail = read_tail(stream, int(str(row["byte_pos"])), int(str(row["tail_bytes"])))
            return tail is not None and sha256(tail).hexdigest() == row["tail_hash"]

        return self._ask(file, has_tail, default=False)

    def _ask(self, file: SeenFile, question: Callable[[LogStream], T], *, default: T) -> T:
        try:
            with self._open(file) as stream:
                return question(stream)
        except InputError:
            return default
