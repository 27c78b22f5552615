"""One run of a task, in a thread of its own."""

from __future__ import annotations

import datetime as dt
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from cowrieprocessor.db.jobs import DONE, FAILED, STOPPED, WAITING, end_reason
from cowrieprocessor.errors import CowrieProcessorError, DatabaseLocked, JobStopped, JobTaken
from cowrieprocessor.jobs.runtime.job import STOPPED_BY_COMMAND
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.work.task import Task, TaskContext, TaskOutcome
from cowrieprocessor.settings import Settings

INTERRUPTED = "interrupted with its process; it goes on with the next one"
NO_OUTCOME = "it returned no TaskOutcome: a mistake of the task"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """How a run of a task ended.

    Attributes:
        task: the name of the task.
        state: done, failed, stopped; waiting if another process had the work.
        reason: why, unless it is done.
        text: what it did, for people.
        again_at: when it asks to be run again, if earlier than by its schedule.
        duration_s: how long it took, in seconds.
        is_interrupted: whether it stopped with its process, and has to go on.
        details: a traceback of an unexpected error, for the operator; empty otherwise.
    """

    task: str
    state: str
    reason: str | None = None
    text: str = ""
    again_at: dt.datetime | None = None
    duration_s: float = 0.0
    is_interrupted: bool = False
    details: str = ""


class TaskRun:
    """A run of a task in a thread of its own, from its start to its end.

    Args:
        task: the task.
        engine: the database.
        settings: all settings.
        notify: called with lines for the operator, also by the thread.
    """

    def __init__(self, task: Task, engine: Engine, settings: Settings, notify: Callable[[str], None]) -> None:
        self.task = task
        self.progress: JobProgress | None = None
        self._stop = threading.Event()
        self._stopped_by_command = False
        self._ended = EndedRun(task.name, FAILED, end_reason(None))
        self._context = TaskContext(
            engine,
            settings,
            self._stop,
            lambda text: notify(f"{task.name}: {text}"),
            self._note_progress,
        )
        self._thread = threading.Thread(target=self._run, name=f"task {task.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread is at work."""
        return self._thread.is_alive()

    def stop(self, *, by_command: bool = False) -> None:
        """Ask it to end soon; by command alone, or with its process."""
        if not self._stop.is_set():
            self._stopped_by_command = by_command
            self._stop.set()

    @property
    def ended(self) -> EndedRun:
        """How it ended, after its end."""
        return self._ended

    def _note_progress(self, now: JobProgress) -> None:
        self.progress = now

    def _run(self) -> None:
        began = time.monotonic()
        ended = self._outcome()
        self._ended = replace(ended, duration_s=round(time.monotonic() - began, 3))

    def _outcome(self) -> EndedRun:
        name = self.task.name
        try:
            return self._returned(self.task.run(self._context))
        except JobTaken as error:
            return EndedRun(name, WAITING, str(error))
        except JobStopped as error:
            return self._stopped(str(error))
        except (CowrieProcessorError, OSError) as error:
            if isinstance(error, DatabaseLocked) and self._stop.is_set():
                return self._stopped(str(error))
            return EndedRun(name, FAILED, end_reason(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the outermost edge of a task; others go on
            reason = f"an unexpected error, a mistake of the task: {error}"
            return EndedRun(name, FAILED, reason, details=traceback.format_exc())

    def _returned(self, outcome: object) -> EndedRun:
        """Return the end of a run that raised nothing."""
        if not isinstance(outcome, TaskOutcome):
            return EndedRun(self.task.name, FAILED, NO_OUTCOME)
        if outcome.failure is not None:
            return EndedRun(self.task.name, FAILED, outcome.failure, outcome.text)
        if self._stop.is_set():
            return self._stopped(STOPPED_BY_COMMAND)
        return EndedRun(self.task.name, DONE, None, outcome.text, outcome.again_at)

    def _stopped(self, reason: str) -> EndedRun:
        """Return the end of a run that was asked to stop: here, or by a request to its own job."""
        is_interrupted = self._stop.is_set() and not self._stopped_by_command
        return EndedRun(
            self.task.name, STOPPED, INTERRUPTED if is_interrupted else reason, is_interrupted=is_interrupted
        )
