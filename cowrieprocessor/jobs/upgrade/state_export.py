"""Export of v4-only state across a rollback: written before it, imported after a later migration.

The file is gzip-compressed JSON lines: a header, one line per row with its table, and an end line with the number of
rows by table and the SHA-256 of all preceding lines. A file without its end line is incomplete.
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
from cowrieprocessor.db.upgrade.v4_state import SAVED, Row, as_json, from_json, state_rows
from cowrieprocessor.db.upgrade.v4_state_merge import ROWS_AT_ONCE, Merged, merge
from cowrieprocessor.errors import BadSavedFile, CopyRefused, InputNotFound
from cowrieprocessor.jobs.maintenance.atomic_file import part_path, publish
from cowrieprocessor.jobs.upgrade.export_file import cannot_write, name_taken, open_part
from cowrieprocessor.wording import plural

FORMAT = "cowrieprocessor saved knowledge"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, FORMAT_VERSION)
"""Version 1 has columns, too, that are computed again; they are passed over."""

MAX_LINE_BYTES = 64 << 20
PROPAGATED_AT_ONCE = 2_000
"""Rows of `files` that one transaction checks."""


@dataclass(frozen=True, slots=True)
class StateExport:
    """Summary of an export file.

    Attributes:
        path: the file.
        rows: number of rows by table; a table without any is left out.
        size_bytes: size of the file.
        rows_sha256: SHA-256 of all row lines, for comparison with another export.
        database: name of the exported database.
        saved_at: time of the export.
    """

    path: str
    rows: dict[str, int]
    size_bytes: int
    rows_sha256: str
    database: str
    saved_at: dt.datetime

    def summary(self) -> str:
        """Return the contents in one line."""
        return f"{_counted(self.rows)} in {self.path} ({plural(self.size_bytes, 'byte')})"


@dataclass(frozen=True, slots=True)
class ImportedState:
    """Result of an import.

    Attributes:
        path: the export file.
        tables: by table, the rows added, updated or known already.
        files_updated: rows of `files` that received the verdict or size of their hash.
    """

    path: str
    tables: dict[str, Merged]
    files_updated: int

    def summary(self) -> str:
        """Return the result in one line."""
        parts = [
            f"{name}: {merged.added:,} added, {merged.updated:,} updated, {merged.known:,} known"
            for name, merged in self.tables.items()
        ]
        return f"{'; '.join(parts) or 'nothing to import'}; rows of files updated: {self.files_updated:,}"


def export_state(engine: Engine, path: Path) -> StateExport:
    """Export the v4-only state into a new file that only its owner can read, and verify it.

    It is written to `NAME.part` and renamed when it is verified; the next run replaces the remains of a killed one.

    Args:
        engine: a database at version 4, or with a pre-release `files` table.
        path: the file, which must not exist, unless it is an export of the same rows.

    Raises:
        SaveFailed: another file has that name, or it cannot be written.
        DatabaseError: the database cannot be read.
    """
    with read_transaction(engine) as connection:
        facts = read_facts(connection, describe(engine))
        return export_from(connection, facts, describe(engine), path)


def export_from(connection: Connection, facts: SchemaFacts, database: str, path: Path) -> StateExport:
    """Export the state that one transaction sees; see `export_state`."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "schema_version": CURRENT_SCHEMA_VERSION,
        "database": database,
        "saved_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    if (saved := _same_export(path, connection, facts)) is not None:
        return saved
    part = part_path(path)
    raw = open_part(part)
    is_complete = False
    try:
        with raw:
            _write(raw, header, _lines(connection, facts))
            raw.flush()
            os.fsync(raw.fileno())
            read_export(part)
            publish(part, path)
        export = read_export(path)
        is_complete = True
    except CopyRefused:
        raise name_taken(path) from None
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if not is_complete:
            part.unlink(missing_ok=True)
    return export


def _same_export(path: Path, connection: Connection, facts: SchemaFacts) -> StateExport | None:
    """Return the export that a killed run left if it has the rows of now; None if there is no such file.

    Raises:
        SaveFailed: the file is something else, or has other rows.
    """
    if not (path.exists() or path.is_symlink()):
        return None
    try:
        saved = read_export(path)
    except (BadSavedFile, InputNotFound):
        raise name_taken(path) from None
    if saved.rows_sha256 != rows_digest(connection, facts):
        raise name_taken(path)
    return saved


def rows_digest(connection: Connection, facts: SchemaFacts) -> str:
    """Return the `rows_sha256` of an export made now."""
    digest = hashlib.sha256()
    for _, line in _lines(connection, facts):
        digest.update(line)
    return digest.hexdigest()


def read_export(path: Path) -> StateExport:
    """Read and verify an export file completely, and return its summary.

    Raises:
        InputNotFound: no such file.
        BadSavedFile: the file is truncated, altered, or not an export; the message says where.
    """
    reader = _ExportReader(path)
    for _ in reader.rows():
        pass
    return reader.summary()


def import_state(
    engine: Engine,
    path: Path,
    *,
    on_progress: Callable[[dict[str, Merged]], None] | None = None,
    propagated_at_once: int = PROPAGATED_AT_ONCE,
) -> ImportedState:
    """Merge an export file into a database at version 4; newer data in the database is kept.

    The import is idempotent, and may run before or after the backfill and alongside loaders. Nothing is written before
    the file has been read completely and verified.

    Args:
        engine: the database.
        path: the file.
        on_progress: called after each transaction with the rows merged so far, by table.
        propagated_at_once: rows of `files` that one transaction checks.

    Raises:
        InputNotFound, BadSavedFile: see `read_export`.
        MigrationNeeded, SchemaVersionError: the database is not at version 4.
        DatabaseError: see `write_transaction`; committed work is kept, and another import completes it.
    """
    require_current(engine)
    expected = read_export(path)
    merged: dict[str, Merged] = {}
    files_updated = 0
    reader = _ExportReader(path)
    for name, rows in _grouped(reader.rows()):
        with write_transaction(engine) as connection:
            merged[name] = merged.get(name, Merged()) + merge(connection, name, rows)
        if name == HASHES.name:
            files_updated += _propagate(engine, [row["sha256"] for row in rows], propagated_at_once)
        if on_progress is not None:
            on_progress(dict(merged))
    if reader.summary().rows_sha256 != expected.rows_sha256:
        raise BadSavedFile(f"{path}: was changed during the import; import the right file again")
    return ImportedState(str(path), merged, files_updated)


def _propagate(engine: Engine, hashes: list[str], rows_at_once: int) -> int:
    """Update the rows of `files` with these hashes in transactions of bounded size; return their number."""
    waiting = [(sha256, 0) for sha256 in reversed(hashes)]
    updated = 0
    while waiting:
        left = rows_at_once
        with write_transaction(engine) as connection:
            while waiting and left > 0:
                sha256, after_id = waiting.pop()
                checked, changed, next_id = propagate_hash(connection, sha256, after_id, left)
                left -= checked + 1
                updated += changed
                if next_id is not None:
                    waiting.append((sha256, next_id))
    return updated


def _grouped(rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, list[Row]]]:
    """Yield runs of consecutive rows of one table, at most ROWS_AT_ONCE each."""
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
    """Yield table name and line of each row to export."""
    for name, row in state_rows(connection, facts):
        yield name, _line([name, as_json(row)])


def _line(document: object) -> bytes:
    return f"{json.dumps(document, sort_keys=True, separators=(',', ':'))}\n".encode()


def _write(raw: IO[bytes], header: dict[str, Any], lines: Iterator[tuple[str, bytes]]) -> None:
    """Write header, row lines and end line, compressed."""
    digest = hashlib.sha256()
    counts: Counter[str] = Counter()
    with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as compressed:
        first = _line(header)
        digest.update(first)
        compressed.write(first)
        for name, line in lines:
            digest.update(line)
            compressed.write(line)
            counts[name] += 1
        compressed.write(_line({"end": True, "rows": counts, "sha256": digest.hexdigest()}))


class _ExportReader:
    """Reads and verifies an export file in one pass."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._rows_digest = hashlib.sha256()
        self._size_bytes = 0

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield each row with its table; once exhausted, the whole file is verified.

        Raises:
            InputNotFound, BadSavedFile: see `read_export`.
        """
        with self._open() as raw, gzip.GzipFile(fileobj=raw, mode="rb") as lines:
            try:
                yield from self._verified_rows(lines)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise self._error(f"is damaged or truncated ({error})") from error

    def summary(self) -> StateExport:
        """Return the summary of the file, after all rows were read."""
        return StateExport(
            path=str(self._path),
            rows={name: self._counts[name] for name in SAVED if self._counts[name]},
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
            raise self._error(f"cannot be read ({error.strerror})") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise self._error("is not a regular file")
        self._size_bytes = status.st_size
        return os.fdopen(descriptor, "rb")

    def _verified_rows(self, lines: gzip.GzipFile) -> Iterator[tuple[str, Row]]:
        digest = hashlib.sha256()
        number = 0
        while line := lines.readline(MAX_LINE_BYTES):
            number += 1
            document = self._document(line, number)
            if number == 1:
                self._check_header(document)
            elif isinstance(document, dict) and document.get("end") is True:
                self._check_end(document, digest.hexdigest(), lines)
                return
            else:
                yield self._row(document, number)
                self._rows_digest.update(line)
            digest.update(line)
        raise self._error("is truncated: its last line is missing")

    def _check_end(self, document: dict[str, Any], sha256: str, lines: gzip.GzipFile) -> None:
        if document != {"end": True, "rows": dict(self._counts), "sha256": sha256}:
            raise self._error("was altered: rows are missing or changed")
        if lines.read(1):
            raise self._error("continues after its end line")

    def _document(self, line: bytes, number: int) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise self._error(f"line {number} is not JSON") from None

    def _check_header(self, document: Any) -> None:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise self._error("is not an export of version 4 state")
        if document.get("format_version") not in READABLE_VERSIONS:
            raise self._error("was written by a newer release; use that one")
        try:
            dt.datetime.fromisoformat(str(document.get("saved_at")))
        except ValueError:
            raise self._error("has a damaged header") from None
        self._header = {"database": "", **document}

    def _row(self, document: Any, number: int) -> tuple[str, Row]:
        if not isinstance(document, list) or len(document) != 2 or not isinstance(document[0], str):
            raise self._error(f"line {number} is not a row")
        name = document[0]
        try:
            row = from_json(name, document[1])
        except ValueError as error:
            raise self._error(f"line {number}: {error}") from error
        self._counts[name] += 1
        return name, row

    def _error(self, problem: str) -> BadSavedFile:
        return BadSavedFile(f"{self._path}: {problem}; the file is not trusted, name the one that `db rollback` wrote")


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{count:,} of {name}" for name, count in rows.items()) or "nothing"
