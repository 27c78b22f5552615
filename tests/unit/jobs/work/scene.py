"""Tasks for a worker, and distributions that bring them."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.jobs.work.catalogue import GROUP, Catalogue
from cowrieprocessor.jobs.work.states import TaskState, task_states
from cowrieprocessor.jobs.work.task import Task, TaskContext, TaskOutcome
from cowrieprocessor.jobs.work.work import WorkResult, WorkTiming, work
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.schedule import Schedule

START = dt.datetime(2026, 11, 22, 10, 0, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
QUICK = WorkTiming(tick_s=0.01, decide_s=0.0, report_s=0.0)
LIMIT_S = 30.0


class SetClock:
    """A clock that a test sets."""

    def __init__(self, at: dt.datetime = START) -> None:
        self.at = at

    def now(self) -> dt.datetime:
        """Return what it is set to."""
        return self.at

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Wait for real."""
        stop.wait(seconds)


def task(name: str, run: Callable[[TaskContext], Any] = lambda _context: TaskOutcome(), **more: Any) -> Task:
    """Return a task of its own kind that is due every ten minutes, unless told otherwise."""
    given = {"kind": name, "description": f"does {name}", "schedule": Schedule(every_s=600.0), **more}
    return Task(name=name, run=run, **given)


def until_stopped(context: TaskContext) -> TaskOutcome:
    """Run until it is asked to stop."""
    assert context.stop.wait(LIMIT_S)
    return TaskOutcome("has stopped")


@dataclass
class Office:
    """A database, its tasks and a clock."""

    engine: Engine
    tasks: list[Task]
    settings: Settings = field(default_factory=Settings)
    clock: SetClock = field(default_factory=SetClock)
    said: list[str] = field(default_factory=list)

    @property
    def catalogue(self) -> Catalogue:
        """The tasks."""
        return Catalogue(tuple(self.tasks))

    def once(self, **more: Any) -> WorkResult:
        """Run what is due."""
        given = {"stop": threading.Event(), "timing": QUICK, "clock": self.clock, "notify": self.said.append, **more}
        return work(self.engine, self.catalogue, self.settings, once=True, **given)

    def stay(self, stop: threading.Event, **more: Any) -> WorkResult:
        """Run what is due until `stop` is set."""
        given = {"timing": QUICK, "clock": self.clock, "notify": self.said.append, **more}
        return work(self.engine, self.catalogue, self.settings, stop=stop, **given)

    def states(self) -> dict[str, TaskState]:
        """Return the state of each task."""
        states = task_states(self.engine, self.catalogue, self.settings, self.clock.now())
        return {state.task: state for state in states}

    def state(self, name: str) -> tuple[str, str | None]:
        """Return state and reason of a task."""
        found = self.states()[name]
        return found.state, found.reason


def install(
    folder: Path, name: str, tasks: Mapping[str, str], modules: Mapping[str, str], version: str = "1.0"
) -> None:
    """Install a distribution in a folder of `sys.path`.

    Args:
        folder: the folder.
        name: its name.
        tasks: its entry points: the names of tasks with their objects.
        modules: its modules by name, with their text.
        version: its version.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = "".join(f"{task} = {value}\n" for task, value in tasks.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}", encoding="utf-8")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
