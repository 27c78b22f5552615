"""A task: work that `cowrieprocessor work` runs when it is due. docs/work.md has an example."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.schedule import Schedule


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a run of a task is given. It runs in a thread of its own.

    Attributes:
        engine: the database, at the current schema version.
        settings: all settings.
        stop: once set, the run ends soon and keeps what it has done; the next one goes on from there.
        notify: called with one line of text for the operator.
        on_progress: called with how far it is, as often as it likes.
    """

    engine: Engine
    settings: Settings
    stop: threading.Event
    notify: Callable[[str], None]
    on_progress: Callable[[JobProgress], None]


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How a run ended that raised no error.

    Attributes:
        text: what it did, in a few words for people; empty if there is nothing to say.
        failure: why it failed all the same, with the remedy; None if it did not.
        again_at: when it shall run again, if that is earlier than by its schedule; aware. None for its schedule.
    """

    text: str = ""
    failure: str | None = None
    again_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task, to which an entry point of the group `cowrieprocessor.tasks` leads that has its name.

    Attributes:
        name: its name in settings and in `work status`: small letters, digits and hyphens, 32 at most.
        kind: tasks of one kind never run at once; those of different kinds do.
        description: what it does, in a few words.
        run: does the work. An error that it raises is a failure; the task is tried again after growing waits.
        schedule: when it is due, unless the settings say otherwise.
        jobs: the names of the rows of `jobs` that the work itself has. While another process runs one of these jobs,
            or one is paused, the task waits.
        has_work: tells cheaply whether there is anything to do, in a read transaction; without work it is not run.
        off_reason: returns why it is off by other settings, or None.
    """

    name: str
    kind: str
    description: str
    run: Callable[[TaskContext], TaskOutcome]
    schedule: Schedule
    jobs: tuple[str, ...] = ()
    has_work: Callable[[Connection, Settings], bool] | None = None
    off_reason: Callable[[Settings], str | None] | None = None
