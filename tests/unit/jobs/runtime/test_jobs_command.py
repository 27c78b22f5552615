"""`jobs pause`, `jobs resume` and `jobs stop` from another process, on each job; afterwards it ends as undisturbed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.errors import JobStopped
from cowrieprocessor.jobs.dead_letters.replay import ReplayLimits, replay
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.runtime.throttle import ThrottleLimits
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings
from tests.command_line import run
from tests.logical_digest import difference, logical_contents
from tests.logs import events, write

Watch = Callable[[JobProgress], None]


@dataclass
class Someone:
    """Pauses, resumes and stops a job from other processes, as its progress calls.

    Attributes:
        db: the database.
        job: the job.
    """

    db: Path
    job: str

    def __post_init__(self) -> None:
        """Nothing has been asked yet."""
        self.asked: list[str] = []
        self.listed = ""

    def watch(self, now: JobProgress) -> None:
        """Ask for the next thing once the job is at work."""
        if now.job != self.job:
            return
        if now.state == "paused" and "resume" not in self.asked:
            self.listed = run("jobs", "list", "--db", self.db).stdout
            self._ask("resume")
        elif now.state == "running" and now.done:
            if "pause" not in self.asked:
                self._ask("pause")
            elif "resume" in self.asked and "stop" not in self.asked:
                self._ask("stop")

    def _ask(self, word: str) -> None:
        self.asked.append(word)
        assert run("jobs", word, self.job, "--db", self.db).returncode == 0


def backfill_slowly(engine: Engine, watch: Watch) -> None:
    """Backfill in the smallest steps."""
    limits = ThrottleLimits(write_s=0.0, shared_write_s=0.0)
    backfill(engine, batch_size=200, slice_rows=50, limits=limits, on_progress=watch)


def recount_slowly(engine: Engine, watch: Watch) -> None:
    """Recount in small pages."""
    recount(engine, on_progress=watch, page_sessions=20, save_every_s=0.0)


def replay_slowly(engine: Engine, watch: Watch) -> None:
    """Replay a letter at a time."""
    replay(engine, Settings(), on_progress=watch, limits=ReplayLimits(letters_at_once=1))


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated v3 database."""
    path = tmp_path_factory.mktemp("v3") / "x.sqlite"
    make_v3_db(path, events=2000, seed=3)
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with letters that a larger limit makes events of."""
    folder = tmp_path_factory.mktemp("refused")
    plain, padded = events(30)[:10], events(30)[10:]
    lines = [*plain, *(json.dumps(json.loads(line) | {"pad": "x" * 5000}) for line in padded)]
    engine = get_engine(folder / "x.sqlite")
    BulkLoader(engine, settings=Settings(max_value_bytes=2000)).load([write(folder / "cowrie.json", lines)])
    dispose(engine)
    return folder / "x.sqlite"


@pytest.mark.parametrize(
    ("made", "job", "work"),
    [
        ("v3", "backfill-files", backfill_slowly),
        ("v3", "backfill-sessions", backfill_slowly),
        ("v3", "recount", recount_slowly),
        ("refused", "dead-letters-replay", replay_slowly),
    ],
)
def test_pause_resume_and_stop(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: str,
    job: str,
    work: Callable[[Engine, Watch], None],
) -> None:
    """Paused it waits, resumed it goes on, stopped it ends; run again it ends as if nobody had asked anything."""
    monkeypatch.setattr("cowrieprocessor.jobs.runtime.job.LOOK_EVERY_S", 0.0)
    paths = [tmp_path / name for name in ("asked.sqlite", "undisturbed.sqlite")]
    for path in paths:
        shutil.copyfile(request.getfixturevalue(made), path)
    engines = [get_engine(path) for path in paths]
    someone = Someone(paths[0], job)

    with pytest.raises(JobStopped, match="stopped by command"):
        work(engines[0], someone.watch)
    stopped = run("jobs", "list", "--db", paths[0]).stdout
    for engine in engines:
        work(engine, lambda _now: None)
    contents = [logical_contents(engine, without=("resolved_at",)) for engine in engines]
    for engine in engines:
        dispose(engine)

    assert someone.asked == ["pause", "resume", "stop"]
    assert f"{job}  paused" in " ".join(someone.listed.split("\n")).replace("   ", "  ")
    assert "stopped by command; the same command goes on from here" in stopped
    assert difference(*contents) == []


def test_a_backfill_is_paused_before_it_is_started(v3: Path, tmp_path: Path) -> None:
    """The jobs that would run are listed as asked to; after the pause there is no trace of it."""
    path = tmp_path / "x.sqlite"
    shutil.copyfile(v3, path)
    assert run("db", "backfill", "--pause", "--db", path).returncode == 0
    assert run("jobs", "list", "--db", path).stdout.count("asked to pause: not started yet") == 4
    assert run("db", "backfill", "--resume", "--db", path).returncode == 0
    assert run("jobs", "list", "--db", path).stdout == "no job has been started on this database\n"
    assert run("db", "backfill", "--yes", "--db", path).returncode == 0
    assert "asked" not in run("jobs", "list", "--db", path).stdout
