"""The progress of a long job, in the one shape that the database, the command line and every display share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cowrieprocessor.db.jobs import RUNNING


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Progress of a job.

    Attributes:
        job: its name, as in `jobs`.
        state: running, waiting or paused.
        done: how many units this run has done.
        total: how many units this run does; None if unknown.
        unit: what is counted, in the plural: events, sessions, files, bytes.
        per_s: units a second since the run began, without the time that it waited.
        eta_s: seconds left at that rate; None if unknown.
        step: what it does now, if it has steps; None otherwise.
        reason: why it waits or is paused; None while it works.
        total_is_estimate: whether the total is estimated.
    """

    job: str
    state: str = RUNNING
    done: int = 0
    total: int | None = None
    unit: str = ""
    per_s: float = 0.0
    eta_s: float | None = None
    step: str | None = None
    reason: str | None = None
    total_is_estimate: bool = False

    def document(self) -> dict[str, Any]:
        """Return the fields for `jobs.progress`: plain JSON, without what the row has columns for."""
        fields = asdict(self)
        for name in ("job", "state", "reason"):
            del fields[name]
        return fields | {
            "per_s": round(self.per_s, 1),
            "eta_s": None if self.eta_s is None else round(self.eta_s),
        }


class Meter:
    """Measures the rate of a job; the time that it waits does not count.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = clock()
        self._idle_s = 0.0
        self._idle_since: float | None = None

    def idle(self, *, is_idle: bool) -> None:
        """Note that the job begins or ends to wait."""
        now = self._clock()
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
        self._idle_since = now if is_idle else None

    def rate(self, done: int, total: int | None) -> tuple[float, float | None]:
        """Return units a second, and the seconds left if they are known."""
        now = self._clock()
        idle_s = self._idle_s + (now - self._idle_since if self._idle_since is not None else 0.0)
        worked_s = now - self._began_at - idle_s
        per_s = done / worked_s if worked_s > 0 else 0.0
        eta_s = max(0, total - done) / per_s if total is not None and per_s > 0 else None
        return per_s, eta_s


class Reporter:
    """Reports the progress of work that has no record, such as a dry run.

    Args:
        job: the name of the job.
        on_progress: called with each progress.
    """

    def __init__(self, job: str, on_progress: Callable[[JobProgress], None] | None) -> None:
        self._job = job
        self._on_progress = on_progress
        self._meter = Meter()

    def progress(self, done: int, total: int | None, unit: str) -> None:
        """Report how far the work is; see `Job.progress`."""
        if self._on_progress is not None:
            per_s, eta_s = self._meter.rate(done, total)
            self._on_progress(JobProgress(self._job, RUNNING, done, total, unit, per_s, eta_s))
