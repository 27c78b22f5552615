"""What a validation recomputed, kept in a private temporary SQLite file, so that memory stays bounded.

Parts come in any order; `settle` makes of them one row per key, of each column the smallest, the largest or the sum.

The library is Python's own: that of pysqlite3 is built to sort in memory, however much there is to sort. The file is
nobody else's, so that two libraries in one process do no harm.
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
from cowrieprocessor.errors import DatabaseError

Row = tuple[Any, ...]

_PRAGMAS = ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=FILE", "cache_size=-16384")
_FETCHED_ROWS = 1000
_MERGED = {
    "min": "min(coalesce({0}, excluded.{0}), coalesce(excluded.{0}, {0}))",
    "max": "max(coalesce({0}, excluded.{0}), coalesce(excluded.{0}, {0}))",
    "sum": "{0} + excluded.{0}",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One table of recomputed rows: its keys, and how the parts of each other column become one value."""

    name: str
    keys: tuple[str, ...]
    values: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, the keys first."""
        return *self.keys, *self.values


FILES = Shape(
    "files",
    ("session_id", "shasum"),
    {"filename": "min", "download_url": "min", "origin": "min", "first_seen": "min", "last_seen": "max"},
)
HASHES = Shape("hashes", ("sha256",), {"session_count": "sum", "first_seen": "min", "last_seen": "max"})
ATTRIBUTES = Shape("attributes", ("session_id",), {"connect": "min", "kex": "min", "login": "min"})
COMMANDS = Shape(
    "commands",
    ("session_id", "command"),
    {"occurrences": "sum", "first_seen": "min", "last_seen": "max", "high_risk": "max"},
)
_SHAPES = (FILES, HASHES, ATTRIBUTES, COMMANDS)


class Spill:
    """The temporary file; it is gone when the `with` ends.

    Raises:
        DatabaseError: the temporary folder cannot hold it; the message says how to choose another one.
    """

    def __init__(self) -> None:
        self._settled: set[str] = set()

    def __enter__(self) -> Spill:
        """Make the file: only we may read it and its folder."""
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="cowrieprocessor-validate-")
        except OSError as error:
            raise DatabaseError(
                f"no temporary file can be made ({error}); name a folder with room in TMPDIR"
            ) from error
        path = Path(self._folder.name) / "recomputed.sqlite"
        with self._explained():
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
            self._connection.execute("CREATE TABLE suspects (what, one, other)")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file."""
        self._connection.close()
        self._folder.cleanup()

    def add(self, shape: Shape, rows: Sequence[Row]) -> None:
        """Add parts: quickly before the table is settled, into its rows afterwards."""
        if not rows:
            return
        marks = ", ".join("?" * len(shape.columns))
        if shape.name not in self._settled:
            self._many(f"INSERT INTO {shape.name}_parts VALUES ({marks})", rows)
            return
        updates = ", ".join(f"{column} = {_MERGED[how].format(column)}" for column, how in shape.values.items())
        self._many(
            f"INSERT INTO {shape.name} VALUES ({marks}) ON CONFLICT ({', '.join(shape.keys)}) DO UPDATE SET {updates}",
            rows,
        )

    def settle(self, shape: Shape) -> int:
        """Make one row per key of all parts, and return how many there are."""
        keys = ", ".join(shape.keys)
        values = "".join(f", {how}({column})" for column, how in shape.values.items())
        self._run(
            f"INSERT INTO {shape.name} SELECT {keys}{values} FROM {shape.name}_parts GROUP BY {keys} ORDER BY {keys}"
        )
        self._run(f"DROP TABLE {shape.name}_parts")
        self._settled.add(shape.name)
        return self.count(shape)

    def settle_hashes(self) -> int:
        """Make the hashes of the settled files, and return how many there are."""
        self._run(
            "INSERT INTO hashes SELECT shasum, count(*), min(first_seen), max(last_seen) FROM files"
            " GROUP BY shasum ORDER BY shasum"
        )
        self._settled.add(HASHES.name)
        return self.count(HASHES)

    def tell_hashes_again(self, hashes: Sequence[str]) -> None:
        """Recompute some hashes after files were added behind `settle_hashes`."""
        self._run("CREATE INDEX IF NOT EXISTS files_shasum ON files (shasum)")
        self._many("DELETE FROM hashes WHERE sha256 = ?", [(one,) for one in hashes])
        self._many(
            "INSERT INTO hashes SELECT shasum, count(*), min(first_seen), max(last_seen) FROM files"
            " WHERE shasum = ? GROUP BY shasum",
            [(one,) for one in hashes],
        )

    def count(self, shape: Shape) -> int:
        """Return how many rows a settled table has."""
        with self._explained():
            return int(self._connection.execute(f"SELECT count(*) FROM {shape.name}").fetchone()[0])

    def get(self, shape: Shape, key: Row) -> Row | None:
        """Return the row of a key, if there is one."""
        where = " AND ".join(f"{column} = ?" for column in shape.keys)
        with self._explained():
            row: Row | None = self._connection.execute(f"SELECT * FROM {shape.name} WHERE {where}", key).fetchone()
        return row

    def walk(self, shape: Shape) -> Iterator[Row]:
        """Yield the rows of a settled table in the order of their keys."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(f"SELECT * FROM {shape.name} ORDER BY {', '.join(shape.keys)}")
            while True:
                with self._explained():
                    rows = cursor.fetchmany(_FETCHED_ROWS)
                if not rows:
                    return
                yield from rows

    def add_suspects(self, rows: Sequence[Row]) -> None:
        """Note what did not agree at first sight: (table, first key, second key or None)."""
        self._many("INSERT INTO suspects VALUES (?, ?, ?)", rows)

    def suspects(self, table: str) -> Iterator[Row]:
        """Yield the keys that were noted of one table, in the order in which they were noted."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("SELECT one, other FROM suspects WHERE what = ? ORDER BY rowid", (table,))
            while rows := cursor.fetchmany(_FETCHED_ROWS):
                yield from rows

    def _many(self, sql: str, rows: Sequence[Row]) -> None:
        with self._explained():
            self._connection.execute("BEGIN")
            self._connection.executemany(sql, rows)
            self._connection.execute("COMMIT")

    def _run(self, sql: str) -> None:
        with self._explained():
            self._connection.execute(sql)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DatabaseError(
                f"{self._folder.name}: what was recomputed cannot be kept here ({error}); make room, "
                "or name a folder with more of it in TMPDIR"
            ) from error
