"""Tasks are found by entry points, of whichever distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.jobs.work.catalogue import find_tasks
from cowrieprocessor.settings import load_settings
from tests.unit.jobs.work.scene import install

OURS = ["derived-facts", "enrichment", "propagation"]
TASK = """
from cowrieprocessor.jobs.work.task import Task, TaskOutcome
from cowrieprocessor.settings.schedule import Schedule
TASK = Task(name="extra", kind="extra", description="x", run=lambda _: TaskOutcome(), schedule=Schedule(every_s=60.0))
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose distributions are installed."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def names() -> list[str]:
    """Return the names of the tasks that can be run."""
    return [task.name for task in find_tasks().tasks]


def test_our_own_tasks_are_found() -> None:
    """Without any other distribution these are all, and none is broken."""
    assert (names(), find_tasks().broken) == (OURS, ())


def test_a_task_of_another_distribution_is_found(packages: Path) -> None:
    """An entry point is all that it takes."""
    install(packages, "pot-extra", {"extra": "pot_extra_task:TASK"}, {"pot_extra_task": TASK})
    assert names() == sorted([*OURS, "extra"])


@pytest.mark.parametrize(
    ("value", "text", "reason"),
    [
        (
            "broken_a:TASK",
            "import nothing_that_is_there",
            "cannot be imported: No module named 'nothing_that_is_there'",
        ),
        ("broken_b:TASK", "raise SystemExit('bye')", "cannot be imported: bye"),
        ("broken_c:NO_TASK", TASK, "cannot be imported: "),
        ("broken_d:TASK", "TASK = 5", "is not a Task"),
        ("broken_e:TASK", TASK, "is the task 'extra', and both names have to be the same"),
        ("nowhere:TASK", "", "cannot be imported: No module named 'nowhere'"),
    ],
)
def test_a_broken_entry_point_is_reported_and_stops_no_other(
    packages: Path, value: str, text: str, reason: str
) -> None:
    """With the name and the version of its distribution, what is wrong, and the remedy."""
    install(packages, "pot-broken", {"other": value}, {value.split(":")[0]: text} if text else {}, version="2.7")
    (broken,) = find_tasks().broken
    assert (broken.name, broken.distribution) == ("other", "pot-broken 2.7")
    assert reason in broken.reason
    assert broken.reason.startswith(value)
    assert broken.reason.endswith("; repair or uninstall pot-broken 2.7")
    assert names() == OURS


def test_two_tasks_of_one_name_are_an_error(packages: Path) -> None:
    """Nobody could say which is meant; both distributions are named."""
    install(packages, "pot-extra", {"enrichment": "pot_extra_task:TASK"}, {"pot_extra_task": TASK})
    with pytest.raises(ConfigurationError, match=r"two tasks are called 'enrichment', of .*pot-extra 1\.0.*uninstall"):
        find_tasks()


def test_schedules_of_unknown_tasks_are_refused(packages: Path) -> None:
    """With the name that was probably meant, and those that there are; a broken task is known."""
    install(packages, "pot-broken", {"other": "nowhere:TASK"}, {})
    catalogue = find_tasks()
    settings = load_settings(environ={"COWRIEPROC_WORK": "other=1h,enrichment=6h"})
    schedules = {name: str(schedule) for name, schedule in catalogue.schedules(settings).items()}
    assert schedules == {"derived-facts": "1h", "enrichment": "6h", "propagation": "5min"}
    with pytest.raises(
        ConfigurationError, match=r"'enrichmnt' in the setting `work`.*did you mean 'enrichment'.*other"
    ):
        catalogue.schedules(load_settings(environ={"COWRIEPROC_WORK": "enrichmnt=1h"}))
