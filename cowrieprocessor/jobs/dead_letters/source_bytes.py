"""The bytes of dead letters: from the letter itself, or from its log if the letter is too large to keep them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from sqlalchemy import Connection

from cowrieprocessor.db.dead_letters import positions
from cowrieprocessor.db.dead_letters.positions import SourceLog
from cowrieprocessor.db.dead_letters.statements import StoredLetter
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.errors import InputError, InputNotFound
from cowrieprocessor.loader.logs.identity import identity_of
from cowrieprocessor.loader.reading.discovery import existing_logs
from cowrieprocessor.loader.reading.log_reader import LogReader, reader_of
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import READ_SIZE
from cowrieprocessor.sanitize import inert_cut, restore
from cowrieprocessor.settings import Settings
from cowrieprocessor.wording import plural

MAX_RANGE_BYTES = 8 << 20
"""Maximum byte range of a dead letter, unless a single event may be larger; bounds memory."""

_SHOWN_CHARS = 300
_FIRST_OBJECTS = 20

NOT_THERE = "its log cannot be read any more"
CHANGED = "its log holds other bytes there now"
NO_LOG = "it cannot be told which log it came from"
TOO_LARGE = "it covers more than a replay takes in at once"
NO_BYTES = "it holds no bytes"

Connect = Callable[[], AbstractContextManager[Connection]]


TERMINATOR = b"\n{"
"""Start of the next line and object, which ends any damaged value at the latest."""


class _ByteRange:
    """Stream over a byte range as in its log: followed by a terminator."""

    is_complete = is_finished = True

    def __init__(self, raw: bytes) -> None:
        pieces = [raw[at : at + READ_SIZE] for at in range(0, len(raw), READ_SIZE)]
        self._pieces: Iterator[bytes] = iter([*pieces, TERMINATOR])

    def read(self) -> bytes:
        """Return the next piece, empty at the end."""
        return next(self._pieces, b"")


def range_reader(raw: bytes, start: int, line: int, max_value_bytes: int, wrapper: str | None = None) -> LogReader:
    """Return a reader of a byte range of a log.

    Args:
        raw: its bytes.
        start: where it starts in the log.
        line: number of the line on which it starts, from 0.
        max_value_bytes: the largest value that is returned as an object.
        wrapper: the wrapper that the log is in.
    """
    stream = cast(LogStream, _ByteRange(raw))  # implements all that the readers use
    return reader_of(stream, wrapper, position=start, line=line, max_value_bytes=max_value_bytes)


class Stays(Exception):
    """A letter cannot be replayed and stays unresolved.

    Attributes:
        why: short reason, by which letters are counted.
        detail: details of this letter; may be empty.
    """

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(why)
        self.why = why
        self.detail = inert_cut(detail, _SHOWN_CHARS)


class LetterBytes:
    """Returns the bytes of letters; keeps a log open, because the next letter usually lies further on in it.

    Args:
        connect: opens a read transaction.
        settings: the current limits.
        max_range_bytes: maximum byte range of a letter, unless a single event may be larger.
    """

    def __init__(self, connect: Connect, settings: Settings, *, max_range_bytes: int = MAX_RANGE_BYTES) -> None:
        self._connect = connect
        self._settings = settings
        self._max_range_bytes = max(max_range_bytes, settings.max_value_bytes)
        self._open: LogStream | None = None
        self._files: dict[SourceKey, list[Path]] = {}
        self._identities: dict[tuple[Path, str | None], set[str]] = {}

    def __enter__(self) -> LetterBytes:
        """Return the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the open log."""
        self._close()

    def of(self, letter: StoredLetter) -> tuple[bytes, SourceLog | None]:
        """Return the bytes of a letter of v4, and its log if the bytes were read from it.

        Raises:
            Stays: the bytes are not available, or are not the refused ones.
        """
        payload = payload_of(letter)
        if not is_cut(payload):
            return _kept(payload), None
        start, end = range_of(letter)
        if end - start > self._max_range_bytes:
            raise Stays(
                TOO_LARGE, f"{plural(end - start, 'byte')}, limit {self._max_range_bytes}; raise max_value_bytes"
            )
        stays = _no_log(letter)
        matching: list[SourceLog] = []
        for log in self._candidates(letter, holds_event=False):
            try:
                raw = self._verified(letter, log, payload)
            except Stays as error:
                stays = error
            else:
                matching.append(log)
        if not matching:
            raise stays
        return raw, self._only_log(letter, matching, None)

    def log_of(self, letter: StoredLetter, raw: bytes | None, *, holds_event: bool = False) -> SourceLog:
        """Return the log that a letter of v4 came from.

        Args:
            letter: the dead letter.
            raw: its bytes, to distinguish logs that had the same name.
            holds_event: whether its offset has an event, of which only the file was refused; else the offset is free.

        Raises:
            Stays: the log cannot be determined.
        """
        return self._only_log(letter, self._candidates(letter, holds_event=holds_event), raw)

    def _candidates(self, letter: StoredLetter, *, holds_event: bool) -> list[SourceLog]:
        """Return the logs with the letter's source and offset; only one if events were stored with the letter."""
        generation, offset = letter.metadata.get("generation"), letter.source_offset
        if letter.source is None or offset is None or not isinstance(generation, int):
            return []
        _, end = range_of(letter)
        with self._connect() as connection:
            logs = [
                log
                for log in positions.candidate_logs(connection, letter.source, generation, offset, end)
                if bool(positions.taken_offsets(connection, log.source_key, offset, offset)) is holds_event
            ]
            inodes = positions.inodes_of_batch(connection, letter.id) if len(logs) > 1 else set()
        return [log for log in logs if log.source_key.source_inode in inodes] or logs

    def _only_log(self, letter: StoredLetter, logs: list[SourceLog], raw: bytes | None) -> SourceLog:
        """Return the only log that has the letter's bytes at their position."""
        if len(logs) > 1 and raw is not None:
            logs = [log for log in logs if self._has_bytes(letter, log, raw)]
        if len(logs) != 1:
            raise _no_log(letter)
        return logs[0]

    def _has_bytes(self, letter: StoredLetter, log: SourceLog, raw: bytes) -> bool:
        """Return whether a log has the bytes of a letter at their position, apart from white space."""
        kept = raw.strip()

        def matches(found: bytes) -> bool:
            return any(text.strip() and kept.endswith(text.strip()) for text in _texts(letter, found))

        return self._find(letter, log, matches)[0] is not None

    def _verified(self, letter: StoredLetter, log: SourceLog, payload: Mapping[str, Any]) -> bytes:
        """Return a letter's bytes from a log, verified by length and SHA-256, those of the event if it is in a wrapper.

        Raises:
            Stays: the log cannot be read, or has other bytes there.
        """
        start, end = range_of(letter)

        def is_refused(text: bytes) -> bool:
            return payload.get("length") == len(text) and payload.get("sha256") == sha256(text).hexdigest()

        def matches(found: bytes) -> bool:
            return any(is_refused(text) for text in _texts(letter, found))

        raw, error = self._find(letter, log, matches)
        if raw is None and error is not None:
            raise Stays(NOT_THERE, str(error)) from error
        if raw is None:
            raise Stays(CHANGED, f"bytes {start} to {end} of {log.current_path}")
        return raw

    def _find(
        self, letter: StoredLetter, log: SourceLog, matches: Callable[[bytes], bool]
    ) -> tuple[bytes | None, InputError | None]:
        """Return a letter's bytes in a log if they match; else None, and the error if no file of the log could be read.

        A log that was rotated since is in the folder of its old path.
        """
        name = inert_cut(log.current_path, _SHOWN_CHARS)
        error: InputError | None = InputNotFound(f"{name}: the log is not there, nor a rotated file of it")
        for path in self._files_of(log):
            try:
                if not self._is_log(path, log, wrapper_of(letter)):
                    continue
                raw = self._read(path, *range_of(letter))
            except InputError as unreadable:
                error = unreadable
                continue
            if matches(raw):
                self._files[log.source_key] = [path]
                return raw, None
            error = None
        return None, error

    def _files_of(self, log: SourceLog) -> list[Path]:
        """Return the paths at which a log may be: its own, and those of rotated files."""
        if log.source_key not in self._files:
            names = [Path(restore(name)) for name in (log.current_path, log.source_key.source)]
            rotated = existing_logs(names)
            self._files[log.source_key] = list(dict.fromkeys([*names, *rotated]))
        return self._files[log.source_key]

    def _is_log(self, path: Path, log: SourceLog, wrapper: str | None) -> bool:
        """Return whether a file contains a log, by the first objects of the file: some may have been refused."""
        key = path, wrapper
        if key not in self._identities:
            self._identities[key] = set()
            values = reader_of(self._stream(path, 0), wrapper, max_value_bytes=self._settings.max_value_bytes)
            objects = (value.fields for value in values if value.fields is not None)
            self._identities[key] = {identity_of(fields) for fields in islice(objects, _FIRST_OBJECTS)}
        return log.identity in self._identities[key]

    def _read(self, path: Path, start: int, end: int) -> bytes:
        """Return decompressed bytes of a file; fewer, or none, if the file is too short."""
        stream = self._stream(path, start)
        has_read = False
        try:
            position = stream.position + stream.skip(start - stream.position)
            raw = stream.read_exactly(end - start) if position == start else b""
            has_read = True
        finally:
            if not has_read or stream.is_stale:
                self._close()
        return raw

    def _stream(self, path: Path, start: int) -> LogStream:
        """Return a stream of a file at `start` or before it."""
        if self._open is None or self._open.path != path or self._open.position > start:
            self._close()
            grace_bytes = self._settings.max_ratio_grace_bytes
            self._open = LogStream(path, max_ratio=self._settings.max_ratio, grace_bytes=grace_bytes)
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def payload_of(letter: StoredLetter) -> dict[str, Any]:
    """Return the decoded payload of a letter.

    Raises:
        Stays: the payload is not a JSON object.
    """
    try:
        payload = json.loads(letter.payload)
    except json.JSONDecodeError as error:
        raise Stays(NO_BYTES, str(error)) from error
    if not isinstance(payload, dict):
        raise Stays(NO_BYTES, "")
    return payload


def wrapper_of(letter: StoredLetter) -> str | None:
    """Return the name of the wrapper that a letter's log is in, None if it is in none."""
    wrapper = letter.metadata.get("wrapper")
    return wrapper if isinstance(wrapper, str) else None


def _texts(letter: StoredLetter, found: bytes) -> Iterator[bytes]:
    """Yield the bytes of a letter's range, and each text that its wrapper holds in them."""
    yield found
    if (wrapper := wrapper_of(letter)) is not None:
        yield from (value.raw for value in range_reader(found, 0, 0, len(found), wrapper))


def is_cut(payload: Mapping[str, Any]) -> bool:
    """Return whether a letter of v4 keeps only the beginning of its bytes."""
    return "sha256" in payload


def range_of(letter: StoredLetter) -> tuple[int, int]:
    """Return the byte range of a letter of v4 in the decompressed log: start, and end (exclusive)."""
    return int(letter.metadata["byte_start"]), int(letter.metadata["byte_end"])


def _kept(payload: Mapping[str, Any]) -> bytes:
    """Return the complete bytes kept in a letter of v4.

    Raises:
        Stays: the letter has no readable bytes.
    """
    if isinstance(kept := payload.get("text"), str):
        return kept.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(str(payload["base64"]), validate=True)
    except (KeyError, binascii.Error) as error:
        raise Stays(NO_BYTES, str(error)) from error


def _no_log(letter: StoredLetter) -> Stays:
    return Stays(NO_LOG, f"{letter.source}; load that log again")
