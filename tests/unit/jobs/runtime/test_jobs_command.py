"""`jobs pause`, `jobs resume` and `jobs stop` from another process, on each job; afterwards it ends as undisturbed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import FileHash, RawEvent
from cowrieprocessor.errors import JobStopped
from cowrieprocessor.jobs.dead_letters.replay import ReplayLimits, replay
from cowrieprocessor.jobs.runtime.job_list import ListedJob, list_jobs
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.runtime.throttle import ThrottleLimits
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.jobs.watch.follow import FollowResult, follow
from cowrieprocessor.jobs.watch.scan_watch import Downloads, Timing, WatchResult, watch_downloads
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


class Watching:
    """A follower or a scan in a thread of its own, and the commands that another process gives it.

    Attributes:
        notes: what it said.
        ended: its result, or its error.
    """

    def __init__(self, db_url: str, engine: Engine, kind: str, folder: Path) -> None:
        self.notes: list[str] = []
        self.ended: list[object] = []
        self._db = db_url
        self._engine = engine
        self._kind = kind
        self._work: Callable[..., Any] = partial(follow, engine, [folder], Settings(batch_size=5))
        if kind == "scan":
            self._work = partial(watch_downloads, engine, [Downloads(folder)], timing=Timing(settled_s=0.0))
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.ended.append(self._work(stop=Event(), notify=self.notes.append))
        except Exception as error:  # noqa: BLE001 - the test shows it
            self.ended.append(error)

    def job(self) -> ListedJob:
        """Return its job as it is listed."""
        with read_transaction(self._engine) as connection:
            (listed,) = [job for job in list_jobs(connection) if job.name.startswith(f"{self._kind}:")]
        return listed

    def ask(self, word: str) -> None:
        """Pause, resume or stop it from another process."""
        asked = run("jobs", word, self.job().name, "--db", self._db)
        assert asked.returncode == 0, asked.stderr

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something."""
        ends_at = time.monotonic() + 60.0
        while not happened():
            assert time.monotonic() < ends_at, (self.notes, self.ended)
            time.sleep(0.05)

    def until_stored(self, count: int) -> None:
        """Wait until so many events or files are stored."""
        table = RawEvent if self._kind == "follow" else FileHash

        def is_stored() -> bool:
            with read_transaction(self._engine) as connection:
                stored = connection.scalar(select(func.count()).select_from(table)) or 0
            assert stored <= count
            return stored == count

        self.until(is_stored)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let watches look for requests often."""
    monkeypatch.setattr("cowrieprocessor.jobs.runtime.job.LOOK_EVERY_S", 0.05)
    for module in ("follow", "scan_watch"):
        monkeypatch.setattr(f"cowrieprocessor.jobs.watch.{module}.REQUESTS_S", 0.1)


def put(folder: Path, content: bytes) -> None:
    """Put a captured file into a folder as Cowrie does."""
    (folder / "new").write_bytes(content)
    (folder / "new").rename(folder / hashlib.sha256(content).hexdigest())


@pytest.mark.usefixtures("soon")
def test_following_is_paused_resumed_and_stopped(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Nothing is stored during a pause; afterwards all of it is, also of logs that were deleted meanwhile."""
    logs = tmp_path / "logs"
    logs.mkdir()
    log = write(logs / "cowrie.json", events(10))
    watching = Watching(db_url, engine, "follow", logs)
    watching.until_stored(10)
    watching.ask("pause")
    watching.until(lambda: watching.job().state == "paused")
    paused = watching.job()
    for start in (10, 20, 30):
        with log.open("a") as file:
            file.writelines(f"{line}\n" for line in events(10, start=start))
        time.sleep(1.0)
        log.rename(logs / "cowrie.json.1")
        write(log, [])
        time.sleep(1.0)
        (logs / "cowrie.json.1").unlink()
    still = watching.job()
    watching.until_stored(10)
    watching.ask("resume")
    watching.until_stored(40)
    watching.until(lambda: watching.job().state == "running")
    watching.ask("stop")
    watching.until(lambda: bool(watching.ended))
    stopped = watching.job()

    assert paused.reason == f"by command; `cowrieprocessor jobs resume {paused.name}` lets it go on"
    assert (still.state, still.request) == ("paused", None)
    assert isinstance(watching.ended[0], FollowResult)
    assert (watching.ended[0].stopped, watching.ended[0].losses) == (True, 0)
    assert (stopped.state, stopped.reason) == ("stopped", "stopped by command; the same command goes on from here")
    assert stopped.progress is not None
    assert (stopped.progress["done"], stopped.progress["unit"]) == (40, "events")
    assert watching.notes == [f"paused {paused.reason}", "goes on after the pause"]


@pytest.mark.usefixtures("soon")
def test_a_backlog_is_paused_between_batches(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """A follower that reads much pauses after its batch, and goes on from there; a stop ends the pause."""
    logs = tmp_path / "logs"
    logs.mkdir()
    write(logs / "cowrie.json", events(20_000))
    watching = Watching(db_url, engine, "follow", logs)
    watching.until(lambda: stored_some(engine))
    watching.ask("pause")
    watching.until(lambda: watching.job().state == "paused")
    with read_transaction(engine) as connection:
        at = connection.scalar(select(func.count()).select_from(RawEvent)) or 0
    watching.ask("resume")
    watching.until_stored(20_000)
    watching.ask("pause")
    watching.until(lambda: watching.job().state == "paused")
    watching.ask("stop")
    watching.until(lambda: bool(watching.ended))

    assert 0 < at < 20_000
    assert watching.job().state == "stopped"


def stored_some(engine: Engine) -> bool:
    """Return whether there is an event."""
    with read_transaction(engine) as connection:
        return bool(connection.scalar(select(func.count()).select_from(RawEvent)))


@pytest.mark.usefixtures("soon")
def test_a_scan_is_paused_resumed_and_stopped(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Files that come during a pause are stored after it; a pause holds for the next watch as well."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    put(folder, b"first")
    watching = Watching(db_url, engine, "scan", folder)
    watching.until_stored(1)
    watching.ask("pause")
    watching.until(lambda: watching.job().state == "paused")
    for number in range(3):
        put(folder, b"%d" % number)
    time.sleep(1.0)
    watching.until_stored(1)
    watching.ask("resume")
    watching.until_stored(4)
    watching.ask("pause")
    watching.until(lambda: watching.job().state == "paused")
    watching.ask("stop")
    watching.until(lambda: bool(watching.ended))
    stopped = watching.job()
    put(folder, b"last")
    again = Watching(db_url, engine, "scan", folder)
    again.until(lambda: again.job().state == "paused")
    again.until_stored(4)
    again.ask("resume")
    again.until_stored(5)
    again.ask("stop")
    again.until(lambda: bool(again.ended))

    assert isinstance(watching.ended[0], WatchResult)
    assert (stopped.state, stopped.request) == ("stopped", "pause")
    assert stopped.progress is not None
    assert (stopped.progress["done"], stopped.progress["unit"]) == (4, "files")
    assert again.job().state == "stopped"
