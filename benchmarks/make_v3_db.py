"""Make a v3 database of any size whose exact answer is known: `python -m benchmarks.make_v3_db --size 10GB --out FILE`.

It has the peculiarities of real v3 data (see benchmarks/README.md) and v3's schema. The answer, the content of the
database after migration and backfill, is counted while the events are generated, without the loader's code. The same
seed and amount give the same contents.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.generate_logs import parse_size
from benchmarks.v3.answer import V3Answer
from benchmarks.v3.rows import RowMaker, RowSink
from benchmarks.v3.schema import index_statements, table_statements
from benchmarks.v3.scripts import POOL_SCRIPTS
from benchmarks.v3.sources import DAYS_PER_CYCLE, SENSORS, Source

JUNK_SHARE = 0.02
MIN_EVENTS = 2000
MAX_EVENTS_PER_LOG = 20_000
ROWS_PER_EVENT = 1.25
INDEX_BYTES_PER_EVENT = 190
"""The size of v3's indexes, which are created after the rows, per event."""

BYTES_PER_EVENT = 900
CACHE_KIB = 49_152
REPORT_EVERY_S = 2.0

_EVENT_COLUMNS = (
    "ingest_id, ingest_at, source, source_offset, source_inode, source_generation, payload, payload_hash, risk_score,"
    " quarantined"
)
_SESSION_COLUMNS = (
    "session_id, first_event_at, last_event_at, event_count, command_count, file_downloads, login_attempts,"
    " vt_flagged, dshield_flagged, risk_score, matcher, source_files, enrichment, created_at, updated_at"
)

Report = Callable[[str], None]


class _Database(RowSink):
    """The unfinished database file."""

    def __init__(self, path: Path, *, from_v1: bool) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        # Not pysqlite3: its SQLite is built to sort in memory regardless of temp_store, and an index may not fit.
        # Using another library is safe, as no other process has the unfinished file open.
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in (
            "journal_mode=OFF",
            "synchronous=OFF",
            "locking_mode=EXCLUSIVE",
            "temp_store=FILE",
            f"cache_size=-{CACHE_KIB}",
        ):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._execute("BEGIN")
        for statement in table_statements(from_v1=from_v1):
            self._execute(statement)
        self._execute("INSERT INTO schema_state VALUES ('schema_version', '3')")

    def events(self, rows: list[tuple[Any, ...]]) -> None:
        self._many(f"INSERT INTO raw_events ({_EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def copy_events(self, source: Source, first_row: int, path: str, inode: str | None) -> int:
        copied = self._connection.execute(
            f"INSERT INTO raw_events ({_EVENT_COLUMNS}) SELECT ?, ?, ?, source_offset, ?, source_generation, payload,"
            " payload_hash, risk_score, quarantined FROM raw_events WHERE id >= ? ORDER BY id",
            (source.ingest_id[::-1], source.ingest_at(3600), path, inode, first_row),
        )
        return int(copied.rowcount)

    def sessions(self, rows: list[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * (_SESSION_COLUMNS.count(",") + 1))
        self._many(f"INSERT INTO session_summaries ({_SESSION_COLUMNS}) VALUES ({marks})", rows)

    def dead_letters(self, rows: list[tuple[Any, ...]]) -> None:
        self._many(
            "INSERT INTO dead_letter_events (ingest_id, source, source_offset, reason, payload, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )

    def cursor(self, row: tuple[Any, ...]) -> None:
        self._many(
            "INSERT OR REPLACE INTO ingest_cursors (source, inode, last_offset, last_ingest_at, last_ingest_id,"
            " metadata_json) VALUES (?, ?, ?, ?, ?, ?)",
            [row],
        )

    @property
    def size_bytes(self) -> int:
        """The size of the file once everything is written."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(page_bytes)

    def finish(self, statements: list[str], report: Report) -> None:
        """Create the indexes, and leave the file in the state in which v3 leaves it."""
        self._execute("COMMIT")
        for number, statement in enumerate(statements, start=1):
            report(f"index {number} of {len(statements)}: {statement.split(' ON ')[0].rsplit(maxsplit=1)[-1]}")
            self._execute(statement)
        self._connection.execute("PRAGMA locking_mode=NORMAL").fetchall()
        (mode,) = self._connection.execute("PRAGMA journal_mode=WAL").fetchone()
        assert mode == "wal", mode
        self._connection.close()

    def abandon(self) -> None:
        """Close the unfinished file."""
        self._connection.close()

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement)

    def _many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self._connection.executemany(statement, rows)


def make_v3_db(
    path: Path,
    *,
    size_bytes: int | None = None,
    events: int | None = None,
    seed: int = 0,
    from_v1: bool = False,
    planned_files: bool = False,
    junk: float = JUNK_SHARE,
    report: Report = lambda _: None,
) -> V3Answer:
    """Write a v3 database and return the content that it has to have after migration and backfill.

    Args:
        path: the database, which does not exist yet; its folder is made if it is missing.
        size_bytes: the approximate size of the file; give this or `events`.
        events: the approximate number of rows of raw_events, at least 2000.
        seed: the same seed and amount give the same contents.
        from_v1: add the constraint of a file upgraded from v1, and omit the peculiarities that it forbids.
        planned_files: add the empty `files` table of a pre-release.
        junk: the share of events that are junk, 0 to 1.
        report: called every two seconds with the progress.

    Raises:
        FileExistsError: the path exists.
        ValueError: neither or both of `size_bytes` and `events` are given, or too little for all peculiarities.
    """
    if (size_bytes is None) == (events is None):
        raise ValueError("give either size_bytes or events")
    wanted = events if events is not None else (size_bytes or 0) // BYTES_PER_EVENT
    if wanted < MIN_EVENTS:
        raise ValueError(
            f"at least {MIN_EVENTS} events ({MIN_EVENTS * BYTES_PER_EVENT} bytes) are needed for all peculiarities"
        )
    if path.exists():
        raise FileExistsError(f"{path}: exists already; choose another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.making")
    database = _Database(unfinished, from_v1=from_v1)
    maker = RowMaker(
        database,
        seed=seed,
        events_per_log=_events_per_log(wanted),
        pool=max(150, min(POOL_SCRIPTS, wanted // 60)),
        junk=junk,
        from_v1=from_v1,
    )
    progress = _Progress(database, maker.answer, report)

    def is_enough() -> bool:
        progress.report_if_due()
        if events is not None:
            return maker.answer.raw_events >= events
        return progress.final_bytes() >= (size_bytes or 0)

    finished = False
    try:
        answer = maker.make(is_enough)
        database.finish(index_statements(planned_files=planned_files), report)
        finished = True
    finally:
        if not finished:
            database.abandon()
            unfinished.unlink()
    unfinished.rename(path)
    return answer


def _events_per_log(wanted: int) -> int:
    """Return the number of events per log with which every peculiarity occurs."""
    logs = DAYS_PER_CYCLE * len(SENSORS) * ROWS_PER_EVENT
    return min(MAX_EVENTS_PER_LOG, int(wanted / logs * 0.9))


class _Progress:
    """Reports the progress every two seconds."""

    def __init__(self, database: _Database, answer: V3Answer, report: Report) -> None:
        self._database, self._answer, self._report = database, answer, report
        self._started_at = self._reported_at = time.monotonic()

    def final_bytes(self) -> int:
        """Return the size of the file if no more rows follow."""
        return self._database.size_bytes + self._answer.raw_events * INDEX_BYTES_PER_EVENT

    def report_if_due(self) -> None:
        """Report the progress, if it is time."""
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            per_s = self._answer.raw_events / (now - self._started_at)
            self._report(
                f"{self._answer.raw_events:,} events, {self.final_bytes() / 1e9:.2f} GB, {per_s:,.0f} a second"
            )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_v3_db", description=__doc__)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--size", type=parse_size, metavar="BYTES", help="size of the file: 200MB, 10GB")
    amount.add_argument("--events", type=int, metavar="N", help="rows of raw_events, at least 2000")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the database; it must not exist")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same contents (default: 0)")
    parser.add_argument("--from-v1", action="store_true", help="add the constraint of a file upgraded from v1")
    parser.add_argument("--planned-files", action="store_true", help="add the empty files table of a pre-release")
    parser.add_argument("--junk", type=float, default=JUNK_SHARE, help="share of junk (default: 0.02)")
    parser.add_argument("--answer", type=Path, metavar="FILE", help="write the answer as JSON to this file")
    options = parser.parse_args()
    started = time.perf_counter()
    try:
        answer = make_v3_db(
            options.out,
            size_bytes=options.size,
            events=options.events,
            seed=options.seed,
            from_v1=options.from_v1,
            planned_files=options.planned_files,
            junk=options.junk,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    seconds = time.perf_counter() - started
    if options.answer:
        options.answer.write_text(json.dumps(answer.as_dict(), indent=2) + "\n")
    size = options.out.stat().st_size
    per_event = size / answer.raw_events
    rate = f"{size / seconds / 1e6:.0f} MB/s, {per_event:.0f} bytes for each of {answer.raw_events:,} events"
    print(f"{options.out}: {size:,} bytes in {seconds:.0f} s, {rate}", file=sys.stderr)


if __name__ == "__main__":
    main()
