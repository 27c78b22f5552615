"""Validation: every row of v4's tables is proven from the stored events.

It only reads, in short transactions, while loaders and the backfill may write. Expected rows are kept in a temporary
file, so that memory is bounded.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.scan import TableScan
from cowrieprocessor.db.engine import describe
from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.jobs import RECOUNT_JOB, recount_is_due, twins_are_marked
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade import v3_digest
from cowrieprocessor.db.validation.schema_drift import schema_drift
from cowrieprocessor.db.validation.spill import Spill
from cowrieprocessor.jobs.runtime.job import READS_ONLY, Job, run_job
from cowrieprocessor.jobs.runtime.job_file import JobFile
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.validation.counter_checks import check_all, check_sample
from cowrieprocessor.jobs.validation.expected_rows import (
    ExpectedFiles,
    ExpectedMentions,
    ExpectedRows,
    ExpectedSensors,
    ExpectedSessions,
)
from cowrieprocessor.jobs.validation.report import (
    SCHEMA,
    V3_TABLES,
    CounterCheck,
    Difference,
    Differences,
    ValidationReport,
)
from cowrieprocessor.jobs.validation.table_checks import (
    AttributesCheck,
    CommandsCheck,
    FilesCheck,
    HashesCheck,
    LoginsCheck,
    MentionsCheck,
    SensorsCheck,
    TableCheck,
)
from cowrieprocessor.jobs.validation.table_walk import TableWalk
from cowrieprocessor.jobs.validation.twin_checks import TABLE, check_marks, check_unmarked

JOB = "validate"
DIFFERENCES_SHOWN = 50


def validate(
    engine: Engine,
    *,
    limit_differences: int = DIFFERENCES_SHOWN,
    files_only: bool = False,
    all_counters: bool = False,
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
) -> ValidationReport:
    """Recompute v4's tables from raw_events, compare, and return what differs.

    Args:
        engine: a database at the current version; nothing is written.
        limit_differences: how many differences are reported in detail; all are counted.
        files_only: leave out the tables of sessions, for which all events are read.
        all_counters: compare the counters of every session instead of a sample.
        stop: once set, the validation ends.
        on_progress: called with the progress of each step.

    Raises:
        JobTaken: another process validates this database.
        JobStopped: it was asked to stop.
        MigrationNeeded, SchemaVersionError: the database must be migrated first.
        DatabaseError: it cannot be read, or the temporary folder is full.
    """
    require_current(engine)
    record = JobFile(engine, JOB)
    with (
        run_job(
            engine, JOB, kept_in=record, goes_on=False, stop=stop, on_progress=on_progress, limits=READS_ONLY
        ) as job,
        dialect_of(engine).scan(engine) as scan,
        Spill() as spill,
    ):
        run = _Validation(engine, scan, spill, Differences(limit_differences), job)
        return run.report(files_only=files_only, all_counters=all_counters)


class _Validation:
    """One validation, step by step."""

    def __init__(
        self,
        engine: Engine,
        scan: TableScan,
        spill: Spill,
        differences: Differences,
        job: Job,
    ) -> None:
        self._engine = engine
        self._scan = scan
        self._spill = spill
        self._differences = differences
        self._job = job
        self._compared: dict[str, int] = {}
        self._events_read: dict[str, int] = {}
        self._not_backfilled: dict[str, int | None] = {}
        self._without_row: Counter[str] = Counter()

    def report(self, *, files_only: bool, all_counters: bool) -> ValidationReport:
        """Run all steps and return the report."""
        started_at, began = dt.datetime.now(dt.UTC), time.monotonic()
        self._check_schema()
        self._check_files()
        self._check_mentions()
        self._check_twins(files_only=files_only)
        if not files_only:
            self._check_sessions()
            self._check_sensors()
        counters = self._check_counters(all_counters=all_counters)
        valid = not self._differences.counts and all(rows == 0 for rows in self._not_backfilled.values())
        return ValidationReport(
            database=describe(self._engine),
            valid=valid,
            started_at=started_at,
            seconds=round(time.monotonic() - began, 3),
            compared=self._compared,
            events_read=self._events_read,
            without_row=dict(self._without_row),
            not_backfilled=self._not_backfilled,
            differences=dict(sorted(self._differences.counts.items())),
            first_differences=self._differences.first,
            counters=counters,
        )

    def _check_schema(self) -> None:
        """Compare the schema with the models, and v3's tables with their digest at the migration."""
        with self._scan.snapshot() as connection:
            drift, changed = schema_drift(connection), v3_digest.compare(connection)
        for deviation in drift:
            self._differences.add(Difference(SCHEMA, deviation.table, found=deviation.what))
        for change in changed:
            row = "" if change.row_id is None else f"row {change.row_id} "
            self._differences.add(Difference(V3_TABLES, change.table, found=f"{row}{change.what}"))

    def _check_twins(self, *, files_only: bool) -> None:
        """Compare the marks of twins with the events; those without a mark only once a recount has looked for them."""
        marks = check_marks(self._scan, self._differences)
        if marks:
            self._compared[TABLE] = marks
        with self._scan.snapshot() as connection:
            is_recounted = twins_are_marked(connection) and has_rows_of_v3(connection)
        if is_recounted and not files_only:
            check_unmarked(self._scan, self._differences)

    def _check_files(self) -> None:
        expected = ExpectedFiles(self._scan, self._spill)
        expected.read(self._step("reading file events"))
        expected.merge()
        self._compare(expected, FilesCheck(), HashesCheck())
        self._without_row.update(expected.without_row)

    def _check_mentions(self) -> None:
        expected = ExpectedMentions(self._scan, self._spill)
        if not expected.has_begun:
            self._not_backfilled[expected.job] = None
            return
        expected.read(self._step("reading the URLs and names of file events"))
        expected.merge()
        self._compare(expected, MentionsCheck())

    def _check_sessions(self) -> None:
        expected = ExpectedSessions(self._scan, self._spill)
        with self._scan.snapshot() as connection:
            awaits_recount = recount_is_due(connection)
        if awaits_recount:
            self._not_backfilled[RECOUNT_JOB] = None
            return
        if not expected.has_begun:
            self._not_backfilled[expected.job] = None
            return
        expected.read(self._step("reading all events"))
        expected.merge()
        self._compare(expected, AttributesCheck(), CommandsCheck(), LoginsCheck())

    def _check_sensors(self) -> None:
        expected = ExpectedSensors(self._scan, self._spill)
        if not expected.has_begun:
            self._not_backfilled[expected.job] = None
            return
        expected.read(self._step("reading the sensors of all events"))
        expected.merge()
        self._compare(expected, SensorsCheck())

    def _compare(self, expected: ExpectedRows, *checks: TableCheck) -> None:
        walks = [TableWalk(self._scan, self._spill, check) for check in checks]
        for check, walk in zip(checks, walks, strict=True):
            self._compared[check.table] = walk.find_suspects(self._step(f"comparing {check.table}"))
        expected.catch_up()
        for walk in walks:
            walk.verify_suspects(expected, self._differences)
        self._events_read[expected.job] = expected.rows
        self._not_backfilled[expected.job] = expected.not_backfilled

    def _check_counters(self, *, all_counters: bool) -> CounterCheck:
        if all_counters:
            return check_all(self._scan, self._step("counting the events of sessions"))
        return check_sample(self._scan)

    def _step(self, name: str) -> Callable[[int, float], None]:
        def on_rows(rows: int, share: float) -> None:
            total = rows if share >= 1 else round(rows / share) if share > 0 else None
            self._job.progress(rows, total, "rows", step=name, total_is_estimate=share < 1)
            self._job.wait()

        return on_rows
