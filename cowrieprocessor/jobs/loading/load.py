"""Loading logs as a job: who loads, how far it is, and requests of other processes to pause and to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.db.jobs import FAILED
from cowrieprocessor.jobs.runtime.job import READS_ONLY, Job, run_job
from cowrieprocessor.loader.bulk import NO_EVENT, BulkLoader
from cowrieprocessor.loader.load_result import LoadResult
from cowrieprocessor.loader.log_loading import LoadProgress
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes
from cowrieprocessor.loader.writer import JOB
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.sensor_paths import SensorPaths
from cowrieprocessor.wording import plural


def load(
    engine: Engine,
    paths: Iterable[str | Path],
    *,
    settings: Settings | None = None,
    sensors: SensorPaths | None = None,
    stop: Event | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    sizes: ReadSizes = DEFAULT_SIZES,
) -> LoadResult:
    """Load files, and the logs in folders; what is stored already is skipped. See `BulkLoader.load`.

    Several processes may load at once; they share the record of the job, whose counters are those of all loads.

    Args:
        engine: the database; a new one is prepared.
        paths: files and folders.
        settings: limits and batch size; the configured ones by default.
        sensors: which sensor a log is given, by its path; the configured ones by default.
        stop: once set, the load ends after its transaction.
        on_progress: called after each transaction.
        sizes: how much of a log is read at once.

    Raises:
        JobStopped: it was asked to stop; what was committed stays and is skipped next time.
        InputNotFound, MigrationNeeded, DatabaseError: see `BulkLoader.load`.
    """
    running: list[Job] = []

    @contextmanager
    def recorded(result: LoadResult) -> Iterator[None]:
        # A load does not wait for the write-ahead log to shrink: other loaders wait for nothing either.
        with run_job(engine, JOB, exclusive=False, keeps_position=True, stop=stop, limits=READS_ONLY) as job:
            running.append(job)
            yield
            if reason := _failure(result):
                job.ends_as = FAILED, reason

    def report(now: LoadProgress) -> None:
        job = running[0]
        job.progress(now.bytes_done, now.bytes_total, "bytes")
        if on_progress is not None:
            on_progress(now)
        job.wait()

    loader = BulkLoader(engine, settings=settings, sensors=sensors, on_progress=report, sizes=sizes, recorded=recorded)
    return loader.load(paths)


def _failure(result: LoadResult) -> str | None:
    """Return why a load that came to its end has failed, if it has."""
    if failed := result.failed_total:
        return f"{failed:,} of {plural(result.files_total, 'file')} failed: {result.failed[0].error}"
    return NO_EVENT if result.holds_no_event else None
