"""Following: database errors, what is reported and how often, and what the job's row records meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select

from cowrieprocessor import errors
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import DONE, FAILED, STOPPED, WAITING, JobRecord, jobs_of_kind
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.jobs.runtime.backoff import BackoffTiming
from cowrieprocessor.jobs.watch import follow as module
from cowrieprocessor.jobs.watch.follow import FollowJobTiming, FollowResult, follow
from cowrieprocessor.jobs.watch.watcher import Watcher
from cowrieprocessor.loader.delta import Gap, PollResult
from cowrieprocessor.loader.log_loading import FileResult
from cowrieprocessor.settings import Settings
from tests.logs import events, write

PATIENCE_S = 120.0
SETTINGS = Settings(batch_size=20)
SHORT_WAITS = FollowJobTiming(backoff=BackoffTiming(first_wait_s=0.01, longest_wait_s=0.02))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with ten events in a folder of its own."""
    (tmp_path / "logs").mkdir()
    return write(tmp_path / "logs" / "cowrie.json", events(10))


def stored(engine: Engine) -> int:
    """Return how many events are in the database."""
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(RawEvent)).scalar_one()


def the_job(engine: Engine) -> JobRecord:
    """Return the only follower's row."""
    with read_transaction(engine) as connection:
        (job,) = jobs_of_kind(connection, "follow")
    return job


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    """A database for what does not depend on its kind."""
    engine = get_engine(tmp_path / "test.sqlite")
    yield engine
    dispose(engine)


class Following:
    """A follower in a thread of its own."""

    def __init__(self, engine: Engine, paths: Sequence[Path], **options: Any) -> None:
        self.messages: list[str] = []
        self.polls: list[PollResult] = []
        self.result: FollowResult | None = None
        self.error: BaseException | None = None
        self._news = threading.Condition()
        self._stop = Event()
        self._run = lambda: follow(
            engine,
            paths,
            SETTINGS,
            stop=self._stop,
            notify=self._notify,
            on_poll=self._on_poll,
            timing=SHORT_WAITS,
            **options,
        )
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds after a poll or a message."""
        with self._news:
            assert self._news.wait_for(condition, PATIENCE_S), (self.messages, self.polls, self.error)

    def _follow(self) -> None:
        try:
            self.result = self._run()
        except errors.CowrieProcessorError as error:
            self.error = error
        with self._news:
            self._news.notify_all()

    def _notify(self, text: str) -> None:
        with self._news:
            self.messages.append(text)
            self._news.notify_all()

    def _on_poll(self, result: PollResult) -> None:
        with self._news:
            self.polls.append(result)
            self._news.notify_all()


@dataclass
class ScriptedLoader:
    """A loader that raises or returns the given results, one after the other, and then finds nothing."""

    script: list[PollResult | errors.DatabaseError]
    folders: tuple[Path, ...] = ()
    asked: list[Collection[Path] | None] = field(default_factory=list)
    closed: int = 0

    def __call__(self, *_: object, **__: object) -> ScriptedLoader:
        return self

    def __enter__(self) -> ScriptedLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def close(self) -> None:
        self.closed += 1

    def is_wanted(self, path: str) -> bool:
        return True

    def poll(self, changed: Collection[Path] | None = None) -> PollResult:
        self.asked.append(changed)
        step = self.script.pop(0) if self.script else PollResult()
        if isinstance(step, errors.DatabaseError):
            raise step
        return step


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ScriptedLoader]:
    """Return a function that replaces the loader by a scripted one."""

    def make(*script: PollResult | errors.DatabaseError) -> ScriptedLoader:
        loader = ScriptedLoader(list(script), (tmp_path,))
        monkeypatch.setattr(module, "DeltaLoader", loader)
        monkeypatch.setattr(module, "existing_logs", list)  # the given paths exist
        return loader

    return make


def poll_result(
    path: str = "cowrie.json", *, error: str | None = None, warning: str | None = None, **counters: int
) -> PollResult:
    """Return the result of a poll that found one file."""
    state = "failed" if error else "loaded"
    found = FileResult(path, state, Counter(counters), warnings=[warning] if warning else [], error=error)
    return PollResult([found])


def test_what_is_appended_is_stored(engine: Engine, log: Path) -> None:
    """Every event written meanwhile is in the database; the row counts them and ends as stopped."""
    with Following(engine, [log]) as following:
        following.wait_for(lambda: bool(following.polls))
        with log.open("a", encoding="utf-8") as file:
            for line in events(5, start=10):
                file.write(line + "\n")
                file.flush()
        following.wait_for(lambda: sum(poll.counters["events"] for poll in following.polls) == 15)
    job = the_job(engine)

    assert 15 == stored(engine)
    assert following.result is not None
    assert (15, True) == (following.result.counters["events"], following.result.stopped)
    assert (STOPPED, 15) == (job.state, job.counters["events"])
    assert [] == following.messages


def test_once_stores_what_is_new(engine: Engine, log: Path) -> None:
    """The first poll stores everything, the second finds nothing; the row is done."""
    first = follow(engine, [log], SETTINGS, once=True, stop=Event())
    second = follow(engine, [log], SETTINGS, once=True, stop=Event())

    assert [10, 0] == [one.counters["events"] for one in (first, second)]
    assert [1, False] == [first.polls, first.stopped]
    assert DONE == the_job(engine).state
    assert 10 == stored(engine)


def test_a_missing_path_is_reported(database: Engine, log: Path) -> None:
    """A misspelled path is reported; a path with rotated logs next to it is not."""
    rotated = log.with_name("other.json.1")
    rotated.write_bytes(log.read_bytes())
    messages: list[str] = []
    paths = [log, log.with_name("other.json"), log.with_name("nowhere") / "cowrie.json"]
    follow(database, paths, SETTINGS, once=True, stop=Event(), notify=messages.append)
    assert [f"note: {paths[2]}: nothing is there yet"] == [text.partition(";")[0] for text in messages]


def test_a_folder_without_logs_is_reported(engine: Engine, log: Path, tmp_path: Path) -> None:
    """A folder that is there and holds no log is reported, one with a log is not; following it goes on."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no log\n")
    messages: list[str] = []
    result = follow(engine, [log.parent, empty], SETTINGS, once=True, stop=Event(), notify=messages.append)
    assert [f"note: {empty}: no logs in this folder yet"] == [text.partition(";")[0] for text in messages]
    assert (result.counters["events"], result.failed) == (10, [])


def test_a_second_follower_is_refused(engine: Engine, log: Path) -> None:
    """While one follows, another of the folder is refused, also with --once; afterwards it is not."""
    with Following(engine, [log]) as following:
        following.wait_for(lambda: bool(following.polls))
        for once in (True, False):
            with pytest.raises(errors.AlreadyFollowed, match="process"):
                follow(engine, [log.parent], SETTINGS, once=once, stop=Event())
    follow(engine, [log.parent], SETTINGS, once=True, stop=Event())


@contextmanager
def impatient(db_url: str) -> Iterator[Engine]:
    """Yield an engine that gives up at once while another one writes."""
    engine = get_engine(db_url, lock_timeout_s=0.05)
    try:
        yield engine
    finally:
        dispose(engine)


def test_a_lock_is_waited_out(engine: Engine, db_url: str, log: Path) -> None:
    """While another process writes for long, that is reported once; then everything is stored."""
    with impatient(db_url) as ours, Following(ours, [log]) as following:
        following.wait_for(lambda: bool(following.polls))
        with write_transaction(engine) as connection:
            (name,) = [job.name for job in jobs_of_kind(connection, "follow")]
            connection.exec_driver_sql(f"UPDATE jobs SET reason = NULL WHERE name = '{name}'")
            with log.open("a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in events(5, start=10))
            following.wait_for(lambda: bool(following.messages))
        following.wait_for(lambda: sum(poll.counters["events"] for poll in following.polls) == 15)
        following.wait_for(lambda: len(following.messages) > 1)

    assert 15 == stored(engine)
    assert [True, True] == [
        text.startswith(start)
        for text, start in zip(following.messages, ("waiting since", "the database serves again"), strict=True)
    ]


@pytest.mark.parametrize(
    "error",
    [errors.DatabaseFull("the disk is full"), errors.DatabaseError("the connection broke"), errors.DatabaseLocked("x")],
)
def test_a_transient_error(
    database: Engine, scripted: Callable[..., ScriptedLoader], error: errors.DatabaseError
) -> None:
    """A full disk, a lost connection and a lock are reported once; then all files are polled again."""
    loader = scripted(error, error, error, poll_result(events=1))
    with Following(database, [Path("cowrie.json")]) as following:
        following.wait_for(lambda: bool(following.messages))
        following.wait_for(lambda: bool(following.polls))
        following.wait_for(lambda: len(following.messages) == 2)

    assert [None] * 4 == loader.asked[:4]
    assert str(error) in following.messages[0]
    assert STOPPED == the_job(database).state


def test_the_row_records_why_it_waits(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """While the database fails but can be written, the row is waiting and has the reason; then it runs."""
    scripted(*[errors.DatabaseFull("the disk is full")] * 10_000)
    with Following(database, [Path("cowrie.json")]) as following:
        following.wait_for(lambda: bool(following.messages))
        for _ in range(1000):
            job = the_job(database)
            if job.state == WAITING:
                break
        following.stop()

    assert (WAITING, "the disk is full") == (job.state, job.reason)
    assert following.result is not None
    assert following.result.stopped


@pytest.mark.parametrize(
    "error",
    [
        errors.DatabaseDamaged("damaged"),
        errors.NotADatabase("something else"),
        errors.MigrationNeeded("migrate it"),
        errors.JobTaken("taken over"),
    ],
)
def test_a_permanent_error(
    database: Engine, scripted: Callable[..., ScriptedLoader], error: errors.DatabaseError
) -> None:
    """Damage, another schema and a job that was taken over end it with that error, which the row records."""
    loader = scripted(error)
    with pytest.raises(type(error)):
        follow(database, [Path("cowrie.json")], SETTINGS, stop=Event())
    job = the_job(database)

    assert (FAILED, str(error)) == (job.state, job.reason)
    assert loader.closed


@pytest.mark.parametrize("error", [errors.DatabaseFull("full"), errors.DatabaseError("gone")])
def test_once_does_not_wait(
    database: Engine, scripted: Callable[..., ScriptedLoader], error: errors.DatabaseError
) -> None:
    """With --once a database error ends it: cron tries again."""
    scripted(error)
    with pytest.raises(type(error)):
        follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=Event())


def test_a_stop_while_once_waits_is_no_error(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """Asked to stop while another process writes, --once ends as stopped; without that it is an error."""
    stop = Event()
    scripted(PollResult(deferred=1, again_in_s=0.0), errors.DatabaseLocked("asked to stop"))
    with pytest.raises(errors.DatabaseLocked):
        follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=stop)
    loader = scripted(errors.DatabaseLocked("asked to stop"))
    original_poll = loader.poll

    def poll(changed: Collection[Path] | None = None) -> PollResult:
        stop.set()
        return original_poll(changed)

    loader.poll = poll  # type: ignore[method-assign]
    assert follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=stop).stopped


def test_a_full_disk(database: Engine, log: Path) -> None:
    """A full disk is reported, nothing is lost, and with room again everything is stored."""
    pages = ["1000000"]

    def limit(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")

    event.listen(database, "checkout", limit)
    with Following(database, [log]) as following:
        following.wait_for(lambda: bool(following.polls))
        pages[0] = "1"  # SQLite uses the current size of the file
        with log.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in events(2000, start=10))
        following.wait_for(lambda: bool(following.messages))
        pages[0] = "1000000"
        following.wait_for(lambda: sum(poll.counters["events"] for poll in following.polls) > 1000)
        following.wait_for(lambda: len(following.messages) == 2)

    assert 2010 == stored(database)
    assert "the disk is full" in following.messages[0]


def test_the_start_waits_for_others(engine: Engine, db_url: str, log: Path) -> None:
    """Started while another process writes, a follower waits and then follows; --once ends instead."""
    with impatient(db_url) as ours:
        follow(engine, [log], SETTINGS, once=True, stop=Event())
        with write_transaction(engine) as connection:
            (job,) = jobs_of_kind(connection, "follow")
            connection.exec_driver_sql(f"UPDATE jobs SET reason = NULL WHERE name = '{job.name}'")
            with pytest.raises(errors.DatabaseLocked):
                follow(ours, [log], SETTINGS, once=True, stop=Event())
            following = Following(ours, [log])
            with following:
                following.wait_for(lambda: bool(following.messages))
        assert following.result is not None
        assert following.result.stopped
        assert 0 == following.result.polls
        with Following(ours, [log]) as following:
            following.wait_for(lambda: bool(following.polls))


def replace(path: Path) -> None:
    """Replace a database by another one, as restoring a backup does."""
    other = get_engine(path.with_name("other.sqlite"))
    apply_migrations(other)
    dispose(other)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    path.with_name("other.sqlite").rename(path)


def delete(path: Path) -> None:
    """Delete a database with its other files."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@pytest.mark.parametrize("how", [replace, delete])
def test_a_replaced_database(database: Engine, log: Path, how: Callable[[Path], None]) -> None:
    """A follower whose database was deleted or replaced ends with its name, creates no new one, and loses nothing."""
    path = Path(str(database.url.database))
    with Following(database, [log]) as following:
        following.wait_for(lambda: bool(following.polls))
        how(path)
        with log.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in events(5, start=10))
        following.wait_for(lambda: following.error is not None)

    assert isinstance(following.error, errors.JobTaken)
    assert str(following.error).startswith(f"{path}: the database is another one now")
    assert path.exists() == (how is replace)
    again = get_engine(path)
    assert 15 == follow(again, [log], SETTINGS, once=True, stop=Event()).counters["events"]
    assert 15 == stored(again)
    dispose(again)


def test_a_long_poll_ends_when_its_database_is_gone(database: Engine, log: Path) -> None:
    """A database deleted between two batches of a poll is noticed before the next batch."""
    path = Path(str(database.url.database))
    log.write_text("".join(line + "\n" for line in events(200)), encoding="utf-8")
    batches: list[int] = []

    def on_progress(_now: object) -> None:
        batches.append(1)
        if len(batches) == 2:
            delete(path)

    with pytest.raises(errors.JobTaken, match="the file is gone"):
        follow(database, [log], SETTINGS, once=True, stop=Event(), on_progress=on_progress)
    assert 2 == len(batches)
    assert not path.exists()


def test_a_stop_after_the_database_was_deleted(database: Engine, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while idle, it ends normally, reports the deletion, and creates no new database."""
    path = Path(str(database.url.database))
    stop = Event()
    messages: list[str] = []

    def wait(*_: object) -> frozenset[Path]:
        delete(path)
        stop.set()
        return frozenset()

    monkeypatch.setattr(Watcher, "wait", wait)
    assert follow(database, [log], SETTINGS, stop=stop, notify=messages.append).stopped
    assert ["the file is gone" in line for line in messages] == [True]
    assert not path.exists()


def test_other_files_in_the_folder_cause_no_poll(database: Engine, log: Path) -> None:
    """Files that are not logs can be written, added and removed without a poll."""
    with Following(database, [log.parent]) as following:
        following.wait_for(lambda: len(following.polls) > 1 and following.polls[-1].again_in_s is None)
        polls = len(following.polls)
        for number in range(5):
            for name in ("cowrie.log", f"tmp{number}"):
                with (log.parent / name).open("a", encoding="utf-8") as file:
                    file.write("text\n")
            threading.Event().wait(0.1)
            (log.parent / f"tmp{number}").unlink()
        assert polls == len(following.polls)
        with log.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in events(5, start=10))
        following.wait_for(lambda: sum(poll.counters["events"] for poll in following.polls) == 15)


def test_the_problem_of_a_file_is_reported_once(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """A file's problem is reported once, again when it is another one, and again after the file was fine."""
    bad = poll_result("bad.gz", error="damaged")
    scripted(
        bad,
        bad,
        poll_result("bad.gz", error="worse"),
        poll_result("bad.gz", events=1),
        bad,
        poll_result("x", warning="odd"),
    )
    with Following(database, [Path("bad.gz")], poll_s=0.001) as following:
        following.wait_for(lambda: len(following.polls) > 6)

    assert ["error: damaged", "error: worse", "error: damaged", "note: odd"] == following.messages


def test_losses_are_reported(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """Bytes that were destroyed unread are reported each time with their number, and summed up."""
    scripted(PollResult(gaps=[Gap("cowrie.json", 1234)]), PollResult(gaps=[Gap("cowrie.json", 1)]))
    with Following(database, [Path("cowrie.json")], poll_s=0.001) as following:
        following.wait_for(lambda: len(following.polls) > 2)

    assert following.result is not None
    assert (2, 1235) == (following.result.losses, following.result.bytes_lost)
    assert ["1,234 bytes" in following.messages[0], "1 byte was" in following.messages[1]] == [True, True]


def test_it_polls_again_when_the_loader_asks_for_it(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """A poll that asks for another one gets it, of everything, without any notification."""
    loader = scripted(PollResult(again_in_s=0.01), PollResult(again_in_s=0.01), PollResult())
    with Following(database, [Path("cowrie.json")], poll_s=3600) as following:
        following.wait_for(lambda: len(following.polls) > 2)

    assert [None, None, None] == loader.asked[:3]


def test_positions_are_stored_at_the_end(
    database: Engine, scripted: Callable[..., ScriptedLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end the loader is closed; a database error then is a note."""
    loader = scripted()

    def refuse() -> None:
        raise errors.DatabaseLocked("it is locked")

    monkeypatch.setattr(loader, "close", refuse)
    messages: list[str] = []
    result = follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=Event(), notify=messages.append)

    assert 1 == result.polls
    assert 1 == len(messages)
    assert "the next start takes longer" in messages[0]


def test_a_log_named_by_a_link(engine: Engine, log: Path, tmp_path: Path) -> None:
    """Of a log given as a link the folder of the target is watched, so that a write is noticed."""
    link = tmp_path / "link.json"
    link.symlink_to(log)
    with Following(engine, [link]) as following:
        following.wait_for(lambda: bool(following.polls))
        with log.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in events(5, start=10))
        following.wait_for(lambda: sum(poll.counters["events"] for poll in following.polls) == 15)

    links = module.Links([link, log, log.parent])
    assert [log.parent] == links.folders()
    assert frozenset({log, link}) == links.as_named(frozenset({log}))


def test_once_waits_for_archives(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """An archive that is still being written is polled again; the result has what all polls found."""
    loader = scripted(PollResult(deferred=1, again_in_s=0.01), poll_result(events=3))
    result = follow(database, [Path("logs")], SETTINGS, once=True, stop=Event())

    assert [None, None] == loader.asked
    assert (2, 1, 3) == (result.polls, len(result.files), result.counters["events"])


def test_once_does_not_wait_for_ever(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """An archive that is not finished in time is left for the next run, which is reported."""
    scripted(PollResult(deferred=1, again_in_s=0.01))
    messages: list[str] = []
    follow(
        database,
        [Path("logs")],
        SETTINGS,
        once=True,
        stop=Event(),
        notify=messages.append,
        timing=FollowJobTiming(archives_s=0.0),
    )

    assert ["note: archives that are still being written are left for the next time: 1"] == messages
