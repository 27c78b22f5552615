"""The recomputed rows of a validation, in a private temporary SQLite file, so that memory use is bounded.

Partial rows are added in any order; `merge` combines them to one row per key, with the smallest value, the largest
value or the sum in each column.

The library is Python's own, because pysqlite3 is built to sort in memory at any size. No other process opens the file,
so that two libraries in one process do no harm.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cowrieprocessor.db.dialects.sqlite.files import create_private
from cowrieprocessor.errors import DatabaseError, DatabaseFull
from cowrieprocessor.filesystems import lack_of_room, os_error_text

Row = tuple[Any, ...]

_PRAGMAS = ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=FILE", "cache_size=-16384")
_FETCHED_ROWS = 1000
_UPSERT = {
    "min": "min(coalesce({0}, excluded.{0}), coalesce(excluded.{0}, {0}))",
    "max": "max(coalesce({0}, excluded.{0}), coalesce(excluded.{0}, {0}))",
    "sum": "{0} + excluded.{0}",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One table of recomputed rows.

    Attributes:
        name: its name.
        keys: its key columns.
        values: the other columns, with the function that merges their values: min, max or sum.
    """

    name: str
    keys: tuple[str, ...]
    values: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, starting with the keys."""
        return *self.keys, *self.values


FILES = Shape(
    "files",
    ("session_id", "shasum"),
    {"filename": "min", "download_url": "min", "origin": "min", "first_seen": "min", "last_seen": "max"},
)
HASHES = Shape("hashes", ("sha256",), {"session_count": "sum", "first_seen": "min", "last_seen": "max"})
MENTIONS = Shape(
    "mentions",
    ("session_id", "digest"),
    {"shasum": "min", "kind": "min", "value": "min", "first_seen": "min", "last_seen": "max"},
)
ATTRIBUTES = Shape(
    "attributes",
    ("session_id",),
    {"connected": "min", "address": "min", "protocol": "min", "kex": "min", "login": "min"},
)
LOGINS = Shape(
    "logins",
    ("session_id", "username"),
    {"attempts": "sum", "successes": "sum", "first_seen": "min", "last_seen": "max"},
)
COMMANDS = Shape(
    "commands",
    ("session_id", "command"),
    {"occurrences": "sum", "first_seen": "min", "last_seen": "max", "high_risk": "max"},
)
SENSORS = Shape(
    "sensors",
    ("session_id",),
    {
        "given_first": "min",
        "given_last": "max",
        "logged_first": "min",
        "logged_last": "max",
        "first_connect_at": "min",
        "last_connect_at": "max",
    },
)
_SHAPES = (FILES, HASHES, MENTIONS, ATTRIBUTES, COMMANDS, LOGINS, SENSORS)


class Spill:
    """The temporary file, as a context manager that deletes it at the end.

    Raises:
        DatabaseError: the temporary folder is not writable or full; the message says how to choose another folder.
    """

    def __init__(self) -> None:
        self._merged: set[str] = set()

    def __enter__(self) -> Spill:
        """Create the file and its folder, readable by the owner only."""
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="cowrieprocessor-validate-")
        except OSError as error:
            raise DatabaseError(
                f"cannot create a temporary folder ({os_error_text(error)}); set TMPDIR to a folder with free space"
            ) from error
        path = Path(self._folder.name) / "recomputed.sqlite"
        with self._translate_errors():
            create_private(path)
            self._connection = sqlite3.connect(path, isolation_level=None)
            for pragma in _PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
            for shape in _SHAPES:
                if shape is not HASHES:
                    self._connection.execute(f"CREATE TABLE {shape.name}_parts ({', '.join(shape.columns)})")
                self._connection.execute(
                    f"CREATE TABLE {shape.name} ({', '.join(shape.columns)},"
                    f" PRIMARY KEY ({', '.join(shape.keys)})) WITHOUT ROWID"
                )
            self._connection.execute("CREATE TABLE suspects (table_name, first_key, second_key)")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete the file."""
        self._connection.close()
        self._folder.cleanup()

    def add(self, shape: Shape, rows: Sequence[Row]) -> None:
        """Add partial rows: appended before the table is merged, merged into its rows afterwards."""
        if not rows:
            return
        marks = ", ".join("?" * len(shape.columns))
        if shape.name not in self._merged:
            self._execute_many(f"INSERT INTO {shape.name}_parts VALUES ({marks})", rows)
            return
        updates = ", ".join(
            f"{column} = {_UPSERT[function].format(column)}" for column, function in shape.values.items()
        )
        self._execute_many(
            f"INSERT INTO {shape.name} VALUES ({marks}) ON CONFLICT ({', '.join(shape.keys)}) DO UPDATE SET {updates}",
            rows,
        )

    def merge(self, shape: Shape) -> int:
        """Merge all partial rows to one row per key, and return the number of rows."""
        keys = ", ".join(shape.keys)
        values = "".join(f", {function}({column})" for column, function in shape.values.items())
        self._execute(
            f"INSERT INTO {shape.name} SELECT {keys}{values} FROM {shape.name}_parts GROUP BY {keys} ORDER BY {keys}"
        )
        self._execute(f"DROP TABLE {shape.name}_parts")
        self._merged.add(shape.name)
        return self.count(shape)

    def merge_hashes(self) -> int:
        """Compute the hashes from the merged files, and return the number of rows."""
        self._execute(
            "INSERT INTO hashes SELECT shasum, count(*), min(first_seen), max(last_seen) FROM files"
            " GROUP BY shasum ORDER BY shasum"
        )
        self._merged.add(HASHES.name)
        return self.count(HASHES)

    def recompute_hashes(self, hashes: Sequence[str]) -> None:
        """Recompute the given hashes, whose files were added after `merge_hashes`."""
        self._execute("CREATE INDEX IF NOT EXISTS files_shasum ON files (shasum)")
        self._execute_many("DELETE FROM hashes WHERE sha256 = ?", [(sha256,) for sha256 in hashes])
        self._execute_many(
            "INSERT INTO hashes SELECT shasum, count(*), min(first_seen), max(last_seen) FROM files"
            " WHERE shasum = ? GROUP BY shasum",
            [(sha256,) for sha256 in hashes],
        )

    def count(self, shape: Shape) -> int:
        """Return the number of rows of a merged table."""
        with self._translate_errors():
            return int(self._connection.execute(f"SELECT count(*) FROM {shape.name}").fetchone()[0])

    def get(self, shape: Shape, key: Row) -> Row | None:
        """Return the row with a key, or None."""
        where = " AND ".join(f"{column} = ?" for column in shape.keys)
        with self._translate_errors():
            row: Row | None = self._connection.execute(f"SELECT * FROM {shape.name} WHERE {where}", key).fetchone()
        return row

    def walk(self, shape: Shape) -> Iterator[Row]:
        """Yield the rows of a merged table in the order of their keys."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(f"SELECT * FROM {shape.name} ORDER BY {', '.join(shape.keys)}")
            while True:
                with self._translate_errors():
                    rows = cursor.fetchmany(_FETCHED_ROWS)
                if not rows:
                    return
                yield from rows

    def add_suspects(self, rows: Sequence[Row]) -> None:
        """Record rows that did not agree at first: (table, first key, second key or None)."""
        self._execute_many("INSERT INTO suspects VALUES (?, ?, ?)", rows)

    def suspects(self, table: str) -> Iterator[Row]:
        """Yield the recorded keys of one table, in the order in which they were recorded."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("SELECT first_key, second_key FROM suspects WHERE table_name = ? ORDER BY rowid", (table,))
            while rows := cursor.fetchmany(_FETCHED_ROWS):
                yield from rows

    def _execute_many(self, sql: str, rows: Sequence[Row]) -> None:
        with self._translate_errors():
            self._connection.execute("BEGIN")
            self._connection.executemany(sql, rows)
            self._connection.execute("COMMIT")

    def _execute(self, sql: str) -> None:
        with self._translate_errors():
            self._connection.execute(sql)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            full = lack_of_room(Path(self._folder.name))
            kind, cause = (DatabaseFull, os_error_text(full)) if full is not None else (DatabaseError, str(error))
            raise kind(
                f"{self._folder.name}: the recomputed rows cannot be stored here: {cause}; free some space, "
                "or set TMPDIR to a folder with more"
            ) from error
