"""The tasks of enrichment that `cowrieprocessor work` runs."""

from __future__ import annotations

from sqlalchemy import Connection

from cowrieprocessor.clock import SystemClock
from cowrieprocessor.db.enrichment.propagation import pending_slices
from cowrieprocessor.db.jobs import RUNNING, WAITING
from cowrieprocessor.enrichment.providers.registry import names_in_use
from cowrieprocessor.jobs.enrichment.propagate import Propagation
from cowrieprocessor.jobs.enrichment.run import JOB, EnrichProgress, EnrichResult, enrich
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.work.task import Task, TaskContext, TaskOutcome
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.schedule import Schedule
from cowrieprocessor.settings.values import MINUTE_S
from cowrieprocessor.wording import plural

KIND = "enrichment"


def _enrich(context: TaskContext) -> TaskOutcome:
    """Ask the sources until nothing is left to ask, or the quota allows no more."""
    result = enrich(
        context.engine,
        context.settings,
        stop=context.stop,
        notify=context.notify,
        on_progress=lambda now: context.on_progress(_progress(now)),
    )
    return TaskOutcome(_text(result), _failure(result), again_at=result.paused_until)


def _progress(now: EnrichProgress) -> JobProgress:
    state = WAITING if now.reason is not None else RUNNING
    return JobProgress(JOB, state, now.files, now.limit, "files", reason=now.reason)


def _text(result: EnrichResult) -> str:
    text = f"{plural(result.files, 'file')} asked about, {plural(result.rows_updated, 'row')} of files updated"
    if result.paused_until is not None:
        text += f"; paused until {result.paused_until:%Y-%m-%d %H:%M:%S} UTC"
    return text


def _failure(result: EnrichResult) -> str | None:
    """Return why a run failed that went to its end."""
    if result.refused:
        return "; ".join(f"{name} is out of use: {reason}" for name, reason in result.refused.items())
    if result.has_failed:
        failures = (f"{name}: {reason}" for name, reason in result.unanswered.items())
        return f"every request failed; the last failure of {'; '.join(failures)}"
    return None


def _without_source(settings: Settings) -> str | None:
    """Return why there is nobody to ask, or None; no key is read. A name that is no source is an error of the run."""
    if settings.enrichment_providers or names_in_use(settings):
        return None
    return "no source is in use: see the setting `enrichment_providers`"


def _propagate(context: TaskContext) -> TaskOutcome:
    """Copy new verdicts to the rows of `files` and the flags of sessions."""
    propagation = Propagation(context.engine, SystemClock())
    propagation.propagate_all(context.stop)
    return TaskOutcome(f"{plural(propagation.rows_changed, 'row')} of files updated")


def _has_pending_verdicts(connection: Connection, _settings: Settings) -> bool:
    return bool(pending_slices(connection, 1, slice_rows=1))


def _staged(settings: Settings) -> str | None:
    return None if settings.use_new_enrichment else "USE_NEW_ENRICHMENT=0: verdicts are only staged"


ENRICHMENT = Task(
    name="enrichment",
    kind=KIND,
    description="asks the sources about files, within quota",
    run=_enrich,
    schedule=Schedule(every_s=15 * MINUTE_S),
    jobs=(JOB,),
    off_reason=_without_source,
)

PROPAGATION = Task(
    name="propagation",
    kind=KIND,
    description="copies new verdicts to files and sessions",
    run=_propagate,
    schedule=Schedule(every_s=5 * MINUTE_S),
    has_work=_has_pending_verdicts,
    off_reason=_staged,
)
