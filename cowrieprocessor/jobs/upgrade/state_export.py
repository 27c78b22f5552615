"""What v4 alone knows, in a file of its own: written before a roll back, taken in after a later migration.

The file is gzip; each line is JSON: a header, then one row a line with its table, then an end line with the number of
rows by table and the SHA-256 of everything before it. A file without its end line was not written to the end.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import describe, read_transaction, write_transaction
from cowrieprocessor.db.enrichment.propagation import propagate_hash
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.models import HASHES
from cowrieprocessor.db.schema_facts import CURRENT_SCHEMA_VERSION, SchemaFacts, read_facts
from cowrieprocessor.db.upgrade.v4_state import V4_STATE, Row, as_json, from_json, state_rows
from cowrieprocessor.db.upgrade.v4_state_merge import ROWS_AT_ONCE, Merged, merge
from cowrieprocessor.errors import BadSavedFile, InputNotFound, SaveFailed

FORMAT = "cowrieprocessor saved knowledge"
FORMAT_VERSION = 1
PRIVATE = 0o600
MAX_LINE_BYTES = 64 << 20
PROPAGATED_AT_ONCE = 2_000
"""Rows of `files` that one transaction looks at."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file of saved knowledge.

    Attributes:
        path: the file.
        rows: how many rows of each table it holds; a table without any is left out.
        size_bytes: its size.
        rows_sha256: of all rows as they are written, so that two can be compared.
        database: the database it was saved from.
        saved_at: when.
    """

    path: str
    rows: dict[str, int]
    size_bytes: int
    rows_sha256: str
    database: str
    saved_at: dt.datetime

    def summary(self) -> str:
        """Return what it holds, in one line."""
        return f"{_counted(self.rows)} in {self.path} ({self.size_bytes:,} bytes)"


@dataclass(frozen=True, slots=True)
class ImportedState:
    """What taking in a file did.

    Attributes:
        path: the file.
        tables: by table: rows added, merged into what was there, or known already.
        files_updated: rows of `files` that got the verdict or size of their hash.
    """

    path: str
    tables: dict[str, Merged]
    files_updated: int

    def summary(self) -> str:
        """Return what was taken in, in one line."""
        parts = [
            f"{name}: {one.added:,} added, {one.updated:,} updated, {one.known:,} known"
            for name, one in self.tables.items()
        ]
        return f"{'; '.join(parts) or 'nothing to take in'}; rows of files brought up to date: {self.files_updated:,}"


def save(engine: Engine, path: Path) -> Saved:
    """Write what v4 alone knows into a new file that only we may read, and verify it.

    Args:
        engine: a database at version 4, also one that has only the plan's `files` table.
        path: the file; nothing may be there.

    Raises:
        SaveFailed: the file is there already, or cannot be written.
        DatabaseError: the database cannot be read.
    """
    with read_transaction(engine) as connection:
        facts = read_facts(connection, describe(engine))
        return save_from(connection, facts, describe(engine), path)


def save_from(connection: Connection, facts: SchemaFacts, database: str, path: Path) -> Saved:
    """Write what one transaction sees; see `save`."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "schema_version": CURRENT_SCHEMA_VERSION,
        "database": database,
        "saved_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    except FileExistsError:
        raise SaveFailed(f"{path}: is there already; name a file that is not with --save") from None
    except OSError as error:
        raise _cannot_write(path, error) from error
    written = False
    try:
        with os.fdopen(descriptor, "wb") as raw:
            _write(raw, header, _lines(connection, facts))
            raw.flush()
            os.fsync(raw.fileno())
        _sync_folder(path)
        saved = read_saved(path)
        written = True
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if not written:
            path.unlink(missing_ok=True)
    return saved


def rows_digest(connection: Connection, facts: SchemaFacts) -> str:
    """Return what `Saved.rows_sha256` of a file would be that were written now."""
    digest = hashlib.sha256()
    for _, line in _lines(connection, facts):
        digest.update(line)
    return digest.hexdigest()


def read_saved(path: Path) -> Saved:
    """Read a file of saved knowledge to its end, and return what it holds.

    Raises:
        InputNotFound: no such file.
        BadSavedFile: it is cut off, was altered, or is something else; the message says where.
    """
    reader = _SavedFile(path)
    for _ in reader.rows():
        pass
    return reader.saved()


def take_in(
    engine: Engine, path: Path, *, on_progress: Callable[[dict[str, Merged]], None] | None = None
) -> ImportedState:
    """Merge a file of saved knowledge into a database at version 4; what is newer there stays.

    It may be repeated, and may come before or after the backfill, beside loaders. Nothing is written before the file
    has been read to its end and found to be whole.

    Args:
        engine: the database.
        path: the file.
        on_progress: called after each transaction with what has been merged by then, by table.

    Raises:
        InputNotFound, BadSavedFile: see `read_saved`.
        MigrationNeeded, SchemaVersionError: the database is not at version 4.
        DatabaseError: see `write_transaction`; what was committed is kept, and taking in again completes it.
    """
    require_current(engine)
    expected = read_saved(path)
    merged: dict[str, Merged] = {}
    files_updated = 0
    reader = _SavedFile(path)
    for name, rows in _grouped(reader.rows()):
        with write_transaction(engine) as connection:
            merged[name] = merged.get(name, Merged()) + merge(connection, name, rows)
        if name == HASHES.name:
            files_updated += _propagate(engine, [row["sha256"] for row in rows])
        if on_progress is not None:
            on_progress(dict(merged))
    if reader.saved().rows_sha256 != expected.rows_sha256:
        raise BadSavedFile(f"{path}: was changed while it was taken in; take in the right one")
    return ImportedState(str(path), merged, files_updated)


def _propagate(engine: Engine, hashes: list[str]) -> int:
    """Bring the rows of `files` with these hashes up to date, in transactions of a bounded size."""
    waiting = [(sha256, 0) for sha256 in reversed(hashes)]
    updated = 0
    while waiting:
        room = PROPAGATED_AT_ONCE
        with write_transaction(engine) as connection:
            while waiting and room > 0:
                sha256, after_id = waiting.pop()
                looked_at, changed, next_id = propagate_hash(connection, sha256, after_id, room)
                room -= looked_at + 1
                updated += changed
                if next_id is not None:
                    waiting.append((sha256, next_id))
    return updated


def _grouped(rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, list[Row]]]:
    """Yield runs of rows of one table, at most ROWS_AT_ONCE each."""
    group: list[Row] = []
    current = ""
    for name, row in rows:
        if group and (name != current or len(group) == ROWS_AT_ONCE):
            yield current, group
            group = []
        current = name
        group.append(row)
    if group:
        yield current, group


def _lines(connection: Connection, facts: SchemaFacts) -> Iterator[tuple[str, bytes]]:
    for name, row in state_rows(connection, facts):
        yield name, _line([name, as_json(row)])


def _line(document: object) -> bytes:
    return f"{json.dumps(document, sort_keys=True, separators=(',', ':'))}\n".encode()


def _write(raw: IO[bytes], header: dict[str, Any], lines: Iterator[tuple[str, bytes]]) -> None:
    digest = hashlib.sha256()
    counts: Counter[str] = Counter()
    with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed:
        first = _line(header)
        digest.update(first)
        packed.write(first)
        for name, line in lines:
            digest.update(line)
            packed.write(line)
            counts[name] += 1
        packed.write(_line({"end": True, "rows": counts, "sha256": digest.hexdigest()}))


class _SavedFile:
    """One pass over a file of saved knowledge."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._rows_digest = hashlib.sha256()
        self._size_bytes = 0

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield each row with its table; at the end the whole file has been found to be as it was written.

        Raises:
            InputNotFound, BadSavedFile: see `read_saved`.
        """
        with self._open() as raw, gzip.GzipFile(fileobj=raw, mode="rb") as packed:
            try:
                yield from self._checked(packed)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise self._bad(f"is damaged or cut off ({error})") from error

    def saved(self) -> Saved:
        """Return what the pass found."""
        return Saved(
            path=str(self._path),
            rows={name: self._counts[name] for name in V4_STATE if self._counts[name]},
            size_bytes=self._size_bytes,
            rows_sha256=self._rows_digest.hexdigest(),
            database=str(self._header["database"]),
            saved_at=dt.datetime.fromisoformat(self._header["saved_at"]),
        )

    def _open(self) -> IO[bytes]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise InputNotFound(f"{self._path}: no such file; name the one that `db rollback` wrote") from None
        except OSError as error:
            raise self._bad(f"cannot be read ({error.strerror})") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise self._bad("is no regular file")
        self._size_bytes = status.st_size
        return os.fdopen(descriptor, "rb")

    def _checked(self, packed: gzip.GzipFile) -> Iterator[tuple[str, Row]]:
        digest = hashlib.sha256()
        number = 0
        while line := packed.readline(MAX_LINE_BYTES):
            number += 1
            document = self._document(line, number)
            if number == 1:
                self._check_header(document)
            elif isinstance(document, dict) and document.get("end") is True:
                if document != {"end": True, "rows": dict(self._counts), "sha256": digest.hexdigest()}:
                    raise self._bad("is not as it was written: rows are missing or were altered")
                if packed.read(1):
                    raise self._bad("goes on behind its end")
                return
            else:
                yield self._row(document, number)
                self._rows_digest.update(line)
            digest.update(line)
        raise self._bad("is cut off: its last line is missing")

    def _document(self, line: bytes, number: int) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise self._bad(f"line {number} is not JSON") from None

    def _check_header(self, document: Any) -> None:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise self._bad("is no file of saved knowledge")
        if document.get("format_version") != FORMAT_VERSION:
            raise self._bad("was written by a newer release; use that one")
        try:
            dt.datetime.fromisoformat(str(document.get("saved_at")))
        except ValueError:
            raise self._bad("has a damaged header") from None
        self._header = {"database": "", **document}

    def _row(self, document: Any, number: int) -> tuple[str, Row]:
        if not isinstance(document, list) or len(document) != 2 or not isinstance(document[0], str):
            raise self._bad(f"line {number} is no row")
        name = document[0]
        try:
            row = from_json(name, document[1])
        except ValueError as error:
            raise self._bad(f"line {number}: {error}") from error
        self._counts[name] += 1
        return name, row

    def _bad(self, what: str) -> BadSavedFile:
        return BadSavedFile(f"{self._path}: {what}; nothing of it is trusted, name the file that `db rollback` wrote")


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{count:,} of {name}" for name, count in rows.items()) or "nothing"


def _cannot_write(path: Path, error: OSError) -> SaveFailed:
    return SaveFailed(
        f"{path}: cannot be written: {error.strerror}; make room, or name another file with --save; nothing was changed"
    )


def _sync_folder(path: Path) -> None:
    """Make the new name survive a power cut."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
