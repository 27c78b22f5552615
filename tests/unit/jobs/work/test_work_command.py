"""`cowrieprocessor work` as its users run it: with tasks of its own and of other distributions, killed and stopped."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from cowrieprocessor.cli.work_text import status_text
from cowrieprocessor.db.engine import address, dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import load_job
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import FILES, SchemaState
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.work.catalogue import GROUP, find_tasks
from cowrieprocessor.jobs.work.status import work_status
from cowrieprocessor.reporting.render.terminal import Screen
from cowrieprocessor.settings import Settings, load_settings
from tests.command_line import PROGRAM, run
from tests.documents import PROJECT, blocks
from tests.enrichment_scene import answer, sha, vt_verdict
from tests.enrichment_scene import load as load_files
from tests.logical_digest import difference, logical_contents
from tests.stand_ins.scene import Services, download, load, services, sha256_of
from tests.unit.jobs.work.scene import install

PAGE = (PROJECT / "docs" / "work.md").read_text(encoding="utf-8")
QUIET = {"COWRIEPROC_ENRICHMENT_PROVIDERS": "none"}
LIMIT_S = 60.0

SLEEPER = """
import pathlib
from cowrieprocessor.jobs.work.task import Task, TaskOutcome
from cowrieprocessor.settings.schedule import Schedule

PLACE = pathlib.Path(__file__).parent

def run(context):
    with (PLACE / "begun").open("a") as file:
        file.write("x")
    if (PLACE / "sleepy").exists():
        context.stop.wait(60)
    return TaskOutcome("has slept")

TASK = Task(name="sleeper", kind="sleeper", description="sleeps", run=run, schedule=Schedule(every_s=3600.0))
"""


def surroundings(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which no source is asked, unless the changes say otherwise."""
    return {**os.environ, **QUIET, **(changes or {})}


def program(
    *words: object, engine: Engine, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `work` on a database, forked."""
    return run("work", *words, "--db", address(engine), env=surroundings(environment))


def told(engine: Engine, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the tasks of `work status`, by name."""
    ended = program("status", "--json", engine=engine, environment=environment)
    assert ended.returncode == 0, ended.stderr
    return {task["task"]: task for task in json.loads(ended.stdout)["tasks"]}


def process(*words: object, packages: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the program in a process of its own, with other distributions installed."""
    env = surroundings({**(environment or {}), "PYTHONPATH": str(packages)})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*PROGRAM, *map(str, words)], env=env, cwd=PROJECT, **pipes)  # type: ignore[call-overload,no-any-return]


def in_process(*words: object, packages: Path) -> tuple[int, str, str]:
    """Run the program to its end, with other distributions installed; return its exit code and what it said."""
    with process(*words, packages=packages) as started:
        out, err = started.communicate(timeout=LIMIT_S)
    return started.returncode, out, err


@contextmanager
def started(*words: object, packages: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the program, and kill it at the end if it is still there."""
    with process(*words, packages=packages) as one:
        try:
            yield one
        finally:
            one.kill()


def until(condition: Callable[[], object]) -> None:
    """Wait until something is the case."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder of distributions, with a task that sleeps as long as there is a file `sleepy`."""
    folder = tmp_path / "packages"
    install(folder, "pot-sleeper", {"sleeper": "pot_sleeper:TASK"}, {"pot_sleeper": SLEEPER})
    (folder / "sleepy").touch()
    return folder


# --- our own tasks ---


def test_pending_verdicts_are_propagated_once(engine: Engine) -> None:
    """What waits is done; right after that nothing is due, which it says."""
    load_files(engine, [("s1", sha(1)), ("s2", sha(1))])
    answer(engine, sha(1), vt_verdict())
    before = told(engine)
    first, second = program("--once", engine=engine), program("--once", engine=engine)
    after = told(engine)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert re.search(r"^propagation: done in .*: 2 rows of files updated$", first.stdout, re.MULTILINE)
    assert second.stdout.startswith("nothing is due")
    assert [before["propagation"]["state"], after["propagation"]["state"]] == ["due", "done"]
    assert after["propagation"]["last_run_at"] is not None
    with read_transaction(engine) as connection:
        assert connection.execute(FILES.select()).mappings().first()["vt_malicious"]  # type: ignore[index]


def test_staged_enrichment_propagates_nothing(engine: Engine) -> None:
    """With USE_NEW_ENRICHMENT=0 the task is off, and says why."""
    propagation = told(engine, {"USE_NEW_ENRICHMENT": "0"})["propagation"]
    assert (propagation["state"], propagation["reason"]) == ("off", "USE_NEW_ENRICHMENT=0: verdicts are only staged")


def test_enrichment_is_off_without_a_source(engine: Engine) -> None:
    """And due with one, also if its key is not there: that is a failure with its reason."""
    assert told(engine)["enrichment"]["state"] == "off"
    wrong = {"COWRIEPROC_ENRICHMENT_PROVIDERS": "virustotal"}
    assert told(engine, wrong)["enrichment"]["state"] == "due"
    ended = program("--once", engine=engine, environment=wrong)
    assert ended.returncode == 1
    assert "1 task failed: enrichment" in ended.stdout
    enrichment = told(engine, wrong)["enrichment"]
    assert enrichment["state"] == "failed"
    assert "COWRIEPROC_VIRUSTOTAL_KEY" in enrichment["reason"]


@pytest.fixture
def here() -> Iterator[Services]:
    """Every source of verdicts."""
    with services() as all_of_them:
        yield all_of_them


def test_enrichment_asks_and_comes_again_when_its_pause_ends(engine: Engine, here: Services, tmp_path: Path) -> None:
    """A quota that is used up is no failure; what is left to ask waits for the interval."""
    load(engine, tmp_path, [download(number, sha256_of(number)) for number in range(3)])
    asking = {
        **here.environment(),
        "COWRIEPROC_ENRICHMENT_PROVIDERS": "virustotal",
        "COWRIEPROC_VIRUSTOTAL_PER_DAY": "3",
    }
    ended = program("--once", engine=engine, environment=asking)
    enrichment = told(engine, asking)["enrichment"]

    assert ended.returncode == 0, ended.stderr
    assert "enrichment: done in " in ended.stdout
    assert enrichment["state"] == "done"
    assert "asked about" in enrichment["reason"]
    assert enrichment["next_run_at"] > enrichment["last_run_at"]


def test_enrichment_waits_for_one_that_was_started_by_hand(engine: Engine, here: Services, tmp_path: Path) -> None:
    """As long as `enrich` runs, the task waits and names its process; killed, it keeps nobody out."""
    load(engine, tmp_path, [download(number, sha256_of(number)) for number in range(20)])
    asking = {**here.environment(), "COWRIEPROC_ENRICHMENT_PROVIDERS": "virustotal"}
    by_hand = subprocess.Popen(
        [*PROGRAM, "enrich", "--watch", "--db", address(engine)],
        env={**os.environ, **asking},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: told(engine, asking)["enrichment"]["state"] == "waiting")
        waiting = told(engine, asking)["enrichment"]
        ended = program("--once", engine=engine, environment=asking)
    finally:
        by_hand.kill()
        by_hand.wait()

    assert re.fullmatch(rf"process {by_hand.pid} on .* is running enrich", waiting["reason"])
    assert ended.returncode == 0, ended.stderr
    assert f"enrichment: waits: process {by_hand.pid} on " in ended.stdout
    assert told(engine, asking)["enrichment"]["state"] == "due"


@pytest.fixture
def v3(v3_file: Path) -> Iterator[Engine]:
    """A database of version 3 that has just been migrated."""
    engine = get_engine(v3_file)
    apply_migrations(engine)
    yield engine
    dispose(engine)


def test_an_upgraded_database_is_completed(v3: Engine, v3_file: Path, tmp_path: Path) -> None:
    """As by `db backfill`; before that it is due, after it there is nothing to do."""
    copy = tmp_path / "copy.sqlite"
    dispose(v3)
    shutil.copyfile(v3_file, copy)
    by_hand = get_engine(copy)
    backfill(by_hand)

    assert told(v3)["derived-facts"]["state"] == "due"
    ended = program("--once", engine=v3)
    assert ended.returncode == 0, ended.stderr
    assert "derived-facts: done in " in ended.stdout
    assert (told(v3)["derived-facts"]["state"], told(v3)["derived-facts"]["reason"]) == (
        "done",
        "the backfill is complete",
    )
    for engine in (v3, by_hand):
        with write_transaction(engine) as connection:
            connection.exec_driver_sql("DELETE FROM jobs WHERE name LIKE 'work%'")
    contents = [logical_contents(engine) for engine in (v3, by_hand)]
    dispose(by_hand)
    assert difference(*contents) == []


def test_a_backfill_that_is_paused_keeps_nobody_waiting(v3: Engine) -> None:
    """`work --once` from a timer does not hang on it."""
    assert run("db", "backfill", "--pause", "--db", address(v3)).returncode == 0
    ended = program("--once", engine=v3)
    assert ended.returncode == 0, ended.stderr
    assert "derived-facts: waits: backfill-files is paused by command" in ended.stdout
    assert run("db", "backfill", "--resume", "--db", address(v3)).returncode == 0
    assert told(v3)["derived-facts"]["state"] == "due"


# --- killed and stopped ---


def test_a_killed_worker_is_replaced_and_its_task_repeated(engine: Engine, packages: Path) -> None:
    """`kill -9` in a task: the status says that nobody runs it; the next worker runs it again at once."""
    begun = packages / "begun"
    with started("work", "--db", address(engine), packages=packages) as worker:
        until(begun.exists)
        worker.kill()
    code, out, _ = in_process("work", "status", "--json", "--db", address(engine), packages=packages)
    status = json.loads(out)
    (packages / "sleepy").unlink()
    again = in_process("work", "--once", "--db", address(engine), packages=packages)

    assert (code, status["worker"]["is_running"], status["worker"]["state"]) == (0, False, "died")
    assert [(task["state"], task["reason"]) for task in status["tasks"] if task["task"] == "sleeper"] == [
        ("due", "the process that ran it is gone without a last word")
    ]
    assert (again[0], begun.read_text()) == (0, "xx"), again
    assert "sleeper: done in " in again[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_running_task(engine: Engine, packages: Path, number: signal.Signals) -> None:
    """It ends with 0 and says so; a second worker is refused meanwhile, and afterwards goes on with the task."""
    with started("work", "--db", address(engine), packages=packages) as worker:
        until((packages / "begun").exists)
        second = program("--once", engine=engine)
        worker.send_signal(number)
        out, err = worker.communicate(timeout=LIMIT_S)
    (packages / "sleepy").unlink()
    again = in_process("work", "--once", "--db", address(engine), packages=packages)

    assert (worker.returncode, out) == (0, "stopped; the same command goes on from here\n"), err
    assert "stopping: what the running tasks have in hand is finished" in err
    assert "sleeper: stopped: interrupted with its process" in err
    assert (second.returncode, second.stderr.startswith(f"error: work: process {worker.pid} on ")) == (4, True)
    assert again[0] == 0
    assert "sleeper: done" in again[1]


def test_a_second_interrupt_ends_it_at_once(engine: Engine, packages: Path) -> None:
    """Whatever the task does; it is due again."""
    (packages / "pot_sleeper.py").write_text(SLEEPER.replace("context.stop.wait(60)", "__import__('time').sleep(60)"))
    with started("work", "--db", address(engine), packages=packages) as worker:
        until((packages / "begun").exists)
        worker.send_signal(signal.SIGINT)
        time.sleep(1)
        worker.send_signal(signal.SIGINT)
        worker.communicate(timeout=20)
    assert worker.returncode == 130
    with read_transaction(engine) as connection:
        row = load_job(connection, "work")
    assert row is not None
    assert row.state == "stopped"


# --- settings and other distributions ---


def test_an_older_revision_has_to_be_migrated_first(engine: Engine) -> None:
    """The exit code is 5 and the message names `db migrate`, of both commands."""
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN progress")
        connection.execute(update(SchemaState).where(SchemaState.key == "schema_revision").values(value="0012"))
        if "alembic_version" in engine.dialect.get_table_names(connection):
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0012'")
    for words in (("--once",), (), ("status",)):
        ended = program(*words, engine=engine)
        assert ended.returncode == 5, ended
        assert "cowrieprocessor db migrate" in ended.stderr


def test_a_missing_database_is_refused(tmp_path: Path) -> None:
    """Nothing is created by a slip of the pen."""
    path = tmp_path / "none.sqlite"
    assert run("work", "--once", "--db", path, env=surroundings()).returncode == 4
    assert not path.exists()


def test_a_mistyped_task_is_refused(engine: Engine) -> None:
    """With the names that there are, by both commands."""
    wrong = {"COWRIEPROC_WORK": "enrichmnt=1h"}
    for words in (("--once",), ("status",)):
        ended = program(*words, engine=engine, environment=wrong)
        assert ended.returncode == 2
        assert "did you mean 'enrichment'? known are derived-facts, enrichment, propagation" in ended.stderr


def test_options_go_behind_the_subcommand(engine: Engine) -> None:
    """An option of the group would be without effect on `status`."""
    ended = run("work", "--once", "status")
    assert (ended.returncode, "options go after the subcommand: work status --db" in ended.stderr) == (2, True)


def test_a_broken_distribution_fails_once_and_stops_nothing(engine: Engine, packages: Path) -> None:
    """The status names it, too."""
    (packages / "sleepy").unlink()
    install(packages, "pot-broken", {"other": "nowhere:TASK"}, {}, version="2.7")
    code, out, err = in_process("work", "--once", "--db", address(engine), packages=packages)
    status = in_process("work", "status", "--db", address(engine), packages=packages)

    assert (code, "1 task failed: other" in out, "sleeper: done in " in out) == (1, True, True), err
    assert "other: nowhere:TASK cannot be imported: No module named 'nowhere'" in err
    assert "pot-broken" in " ".join(status[1].split())
    assert status[0] == 0


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_status_is_readable_on_any_screen(engine: Engine, columns: int) -> None:
    """Each task has its line and its reason, whatever the width; what is not needed goes first."""
    catalogue = find_tasks()
    status = work_status(engine, catalogue, Settings(enrichment_providers=()), dt.datetime.now(dt.UTC))
    text = status_text(status, Screen(columns))
    lines = " ".join(text.split())

    assert max(map(len, text.splitlines())) <= columns
    assert "no worker has run on this database: start `cowrieprocessor work`" in lines
    assert "enrichment: no source is in use: see the setting `enrichment_providers`" in lines
    assert "propagation: nothing to do" in lines
    assert all(task.name[:10] in text for task in catalogue.tasks)
    assert ("asks the sources" in text) == (columns == 120)


def test_the_example_of_the_page_works(tmp_path: Path, sqlite_template: Path) -> None:
    """Installed as the page says, its task is found, runs, and is in the status with its schedule."""
    (module,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    (project,) = [block.text for block in blocks(PAGE) if block.language == "toml" and "[project." in block.text]
    tasks = tomllib.loads(project)["project"]["entry-points"][GROUP]
    packages, path = tmp_path / "packages", tmp_path / "x.sqlite"
    shutil.copyfile(sqlite_template, path)
    install(packages, "pot-tools", tasks, {"pot_tools": module})

    code, out, err = in_process("work", "--once", "--db", path, packages=packages)
    status = json.loads(in_process("work", "status", "--json", "--db", path, packages=packages)[1])

    assert (code, "session-count: done in " in out, ": sessions: 0" in out) == (0, True, True), err
    (found,) = [task for task in status["tasks"] if task["task"] == "session-count"]
    assert (found["state"], found["schedule"], found["reason"]) == ("done", "03:15", "sessions: 0")
    assert found["next_run_at"].endswith("T03:15:00Z")


def test_the_page_names_our_tasks_and_their_schedules() -> None:
    """The table and the settings of the page are those of the code."""
    rows = re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \| every (\w+) \|", PAGE, re.MULTILINE)
    assert sorted(rows) == [(task.name, task.kind, str(task.schedule)) for task in find_tasks().tasks]
    (table,) = [block.text for block in blocks(PAGE) if block.language == "toml" and "[work]" in block.text]
    (words,) = re.findall(r'COWRIEPROC_WORK="(.*?)"', PAGE)
    settings = load_settings(environ={"COWRIEPROC_WORK": words})
    assert settings.work is not None
    assert dict(settings.work).keys() == {task.name for task in find_tasks().tasks}
    assert {name: str(schedule) for name, schedule in settings.work} == tomllib.loads(table)["work"]
