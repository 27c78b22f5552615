"""The bytes of dead letters: in the letter itself, or of a large one in the log that it came from."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.dead_letters import positions as places
from cowrieprocessor.db.dead_letters.positions import LogOfLetter
from cowrieprocessor.db.dead_letters.statements import StoredLetter
from cowrieprocessor.db.ingest.stored_events import Place
from cowrieprocessor.errors import InputError, InputNotFound
from cowrieprocessor.loader.logs.identity import identity_of
from cowrieprocessor.loader.reading.discovery import existing_logs
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import ValueReader
from cowrieprocessor.sanitize import inert_cut, restore
from cowrieprocessor.settings import Settings

MAX_STRETCH_BYTES = 8 << 20
"""What one dead letter may cover at most, unless a single event may be larger: memory is bounded."""

_SHOWN_CHARS = 300
_FIRST_OBJECTS = 20

NOT_THERE = "its log cannot be read any more"
CHANGED = "its log holds other bytes there now"
NO_LOG = "it cannot be told which log it came from"
TOO_MUCH = "it covers more than a replay takes in at once"
NO_BYTES = "it holds no bytes"

Connect = Callable[[], AbstractContextManager[Connection]]


class Stays(Exception):
    """A letter stays.

    Attributes:
        why: in few words, to count by.
        detail: what it is in this case; may be empty.
    """

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(why)
        self.why = why
        self.detail = inert_cut(detail, _SHOWN_CHARS)


class LetterBytes:
    """Gives the bytes of letters; a log is kept open, because the next letter most often lies behind in it.

    Args:
        connect: opens a transaction for reading.
        settings: the limits.
    """

    def __init__(self, connect: Connect, settings: Settings) -> None:
        self._connect = connect
        self._settings = settings
        self._open: LogStream | None = None
        self._files: dict[Place, list[Path]] = {}
        self._identities: dict[Path, set[str]] = {}

    def __enter__(self) -> LetterBytes:
        """Return the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the log that is open."""
        self._close()

    def of(self, letter: StoredLetter) -> tuple[bytes, LogOfLetter | None]:
        """Return the bytes of a letter of ours, and the log if it was needed to get them.

        Raises:
            Stays: they cannot be had, or are not the ones that were refused.
        """
        payload = payload_of(letter)
        if not is_cut(payload):
            return _kept(payload), None
        start, end = range_of(letter)
        most = max(MAX_STRETCH_BYTES, self._settings.max_value_bytes)
        if end - start > most:
            raise Stays(TOO_MUCH, f"{end - start} bytes, at most are {most}; raise max_value_bytes")
        stays = _no_log(letter)
        found: list[LogOfLetter] = []
        for log in self._candidates(letter, holds_event=False):
            try:
                raw = self._proven(letter, log, payload)
            except Stays as why:
                stays = why
            else:
                found.append(log)
        if not found:
            raise stays
        return raw, self._one_of(letter, found, None)

    def log_of(self, letter: StoredLetter, raw: bytes | None, *, holds_event: bool = False) -> LogOfLetter:
        """Return the log that a letter of ours came from.

        Args:
            letter: the dead letter.
            raw: its bytes, to tell logs apart that went by the same name.
            holds_event: whether its place holds an event, of which only the file was refused; else it is free.

        Raises:
            Stays: it cannot be told.
        """
        return self._one_of(letter, self._candidates(letter, holds_event=holds_event), raw)

    def _candidates(self, letter: StoredLetter, *, holds_event: bool) -> list[LogOfLetter]:
        """Return the logs that went by the letter's name and have its place; one, if events were stored with it."""
        generation, offset = letter.metadata.get("generation"), letter.source_offset
        if letter.source is None or offset is None or not isinstance(generation, int):
            return []
        _, end = range_of(letter)
        with self._connect() as connection:
            logs = [
                log
                for log in places.logs_of_letter(connection, letter.source, generation, offset, end)
                if bool(places.taken_offsets(connection, log.place, offset, offset)) is holds_event
            ]
            inodes = places.inodes_of_batch(connection, letter.id) if len(logs) > 1 else set()
        return [log for log in logs if log.place.source_inode in inodes] or logs

    def _one_of(self, letter: StoredLetter, logs: list[LogOfLetter], raw: bytes | None) -> LogOfLetter:
        """Return the one log of several that has the letter's bytes in their place."""
        if len(logs) > 1 and raw is not None:
            logs = [log for log in logs if self._is_in(letter, log, raw)]
        if len(logs) != 1:
            raise _no_log(letter)
        return logs[0]

    def _is_in(self, letter: StoredLetter, log: LogOfLetter, raw: bytes) -> bool:
        start, end = range_of(letter)
        kept = raw.strip()

        def fits(there: bytes) -> bool:
            return bool(there.strip()) and kept.endswith(there.strip())

        return self._find(log, start, end, fits)[0] is not None

    def _proven(self, letter: StoredLetter, log: LogOfLetter, payload: Mapping[str, Any]) -> bytes:
        """Return a letter's bytes as a log has them, proven to be the ones that were refused."""
        start, end = range_of(letter)

        def fits(there: bytes) -> bool:
            return payload.get("length") == len(there) and payload.get("sha256") == sha256(there).hexdigest()

        raw, error = self._find(log, start, end, fits)
        if raw is None and error is not None:
            raise Stays(NOT_THERE, str(error)) from error
        if raw is None:
            raise Stays(CHANGED, f"bytes {start} to {end} of {log.current_path}")
        return raw

    def _find(
        self, log: LogOfLetter, start: int, end: int, fits: Callable[[bytes], bool]
    ) -> tuple[bytes | None, InputError | None]:
        """Return decompressed bytes of a log that fit, and why no file could be read that holds it.

        A log that was rotated since lies beside its old name.
        """
        name = inert_cut(log.current_path, _SHOWN_CHARS)
        error: InputError | None = InputNotFound(f"{name}: the log is not there, nor beside it under its name")
        for path in self._files_of(log):
            try:
                if not self._is_log(path, log):
                    continue
                raw = self._read(path, start, end)
            except InputError as unreadable:
                error = unreadable
                continue
            if fits(raw):
                self._files[log.place] = [path]
                return raw, None
            error = None
        return None, error

    def _files_of(self, log: LogOfLetter) -> list[Path]:
        if log.place not in self._files:
            names = [Path(restore(name)) for name in (log.current_path, log.place.source)]
            beside = existing_logs(names)
            self._files[log.place] = list(dict.fromkeys([*names, *beside]))
        return self._files[log.place]

    def _is_log(self, path: Path, log: LogOfLetter) -> bool:
        """Return whether a file holds a log, by its first object; before it may stand what was refused once."""
        if path not in self._identities:
            self._identities[path] = set()
            values = ValueReader(self._stream(path, 0), max_value_bytes=self._settings.max_value_bytes)
            objects = (value.fields for value in values if value.fields is not None)
            self._identities[path] = {identity_of(fields) for fields in islice(objects, _FIRST_OBJECTS)}
        return log.identity in self._identities[path]

    def _read(self, path: Path, start: int, end: int) -> bytes:
        """Return decompressed bytes of a file, fewer where it is shorter."""
        stream = self._stream(path, start)
        has_read = False
        try:
            there = stream.position + stream.skip(start - stream.position)
            raw = stream.read_exactly(end - start) if there == start else b""
            has_read = True
        finally:
            if not has_read or stream.is_stale:
                self._close()
        return raw

    def _stream(self, path: Path, start: int) -> LogStream:
        """Return a file, open at `start` or before it."""
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
    """Return the payload of a letter.

    Raises:
        Stays: it is no JSON object.
    """
    try:
        payload = json.loads(letter.payload)
    except json.JSONDecodeError as error:
        raise Stays(NO_BYTES, str(error)) from error
    if not isinstance(payload, dict):
        raise Stays(NO_BYTES, "")
    return payload


def is_cut(payload: Mapping[str, Any]) -> bool:
    """Return whether a letter of ours keeps only the beginning of its bytes."""
    return "sha256" in payload


def range_of(letter: StoredLetter) -> tuple[int, int]:
    """Return where the bytes of a letter of ours begin and end, in decompressed bytes of its log."""
    return int(letter.metadata["byte_start"]), int(letter.metadata["byte_end"])


def _kept(payload: Mapping[str, Any]) -> bytes:
    """Return the bytes that a letter of ours keeps whole."""
    if isinstance(kept := payload.get("text"), str):
        return kept.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(str(payload["base64"]), validate=True)
    except (KeyError, binascii.Error) as error:
        raise Stays(NO_BYTES, str(error)) from error


def _no_log(letter: StoredLetter) -> Stays:
    return Stays(NO_LOG, f"{letter.source}; load that log again")
