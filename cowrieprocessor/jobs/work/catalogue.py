"""The tasks that are installed: found by entry points, from whichever distribution."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.jobs.work.task import Task
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.config_file import unknown_key
from cowrieprocessor.settings.schedule import Schedule

GROUP = "cowrieprocessor.tasks"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class BrokenTask:
    """An entry point that leads to no task.

    Attributes:
        name: its name.
        distribution: the distribution that has it, with its version.
        reason: what is wrong, with the remedy.
    """

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The tasks that are installed, by name.

    Attributes:
        tasks: those that can be run.
        broken: the entry points that lead to no task.
    """

    tasks: tuple[Task, ...]
    broken: tuple[BrokenTask, ...] = ()

    def schedules(self, settings: Settings) -> Mapping[str, Schedule]:
        """Return the schedule of each task: from the settings, else its own.

        Raises:
            ConfigurationError: the settings name a task that is not installed.
        """
        known = {task.name for task in self.tasks} | {task.name for task in self.broken}
        given = dict(settings.work or ())
        for name in given:
            if name not in known:
                raise unknown_key(f"{name!r} in the setting `work`: no such task is installed", name, known)
        return {task.name: given.get(task.name, task.schedule) for task in self.tasks}


def find_tasks() -> Catalogue:
    """Return the installed tasks.

    Raises:
        ConfigurationError: two distributions have a task of the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in found:
            raise ConfigurationError(
                f"two tasks are called {entry.name!r}, of {_distribution(found[entry.name])} and of "
                f"{_distribution(entry)}; uninstall one of them"
            )
        found[entry.name] = entry
    loaded = [_load(entry) for entry in found.values()]
    return Catalogue(
        tuple(task for task in loaded if isinstance(task, Task)),
        tuple(task for task in loaded if isinstance(task, BrokenTask)),
    )


def _load(entry: EntryPoint) -> Task | BrokenTask:
    """Return the task of an entry point; whatever its import raises concerns no other task."""
    distribution = _distribution(entry)
    remedy = f"repair or uninstall {distribution}"
    try:
        task = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the code of another distribution
        return BrokenTask(entry.name, distribution, f"{entry.value} cannot be imported: {error}; {remedy}")
    if not isinstance(task, Task):
        return BrokenTask(entry.name, distribution, f"{entry.value} is not a Task; {remedy}")
    if task.name != entry.name or not _NAME.fullmatch(task.name):
        why = f"{entry.value} is the task {task.name!r}, and both names have to be the same"
        return BrokenTask(entry.name, distribution, f"{why}; {remedy}")
    return task


def _distribution(entry: EntryPoint) -> str:
    return "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
