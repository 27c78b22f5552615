"""Following: trouble with the database, what is said and how often, and what the job's row says meanwhile."""

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
from cowrieprocessor.jobs.runtime import backoff as patience
from cowrieprocessor.jobs.watch import follow as module
from cowrieprocessor.jobs.watch.follow import FollowResult, follow
from cowrieprocessor.jobs.watch.watcher import Watcher
from cowrieprocessor.loader.delta import Gap, PollResult
from cowrieprocessor.loader.log_loading import FileResult
from cowrieprocessor.settings import Settings
from tests.logs import events, write

PATIENCE_S = 120.0
SETTINGS = Settings(batch_size=20)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with ten events in a folder of its own."""
    (tmp_path / "logs").mkdir()
    return write(tmp_path / "logs" / "cowrie.json", events(10))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.02)


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
    """A database for what does not depend on which one it is."""
    engine = get_engine(tmp_path / "test.sqlite")
    yield engine
    dispose(engine)


class Following:
    """A follower in a thread of its own."""

    def __init__(self, engine: Engine, paths: Sequence[Path], **options: Any) -> None:
        self.said: list[str] = []
        self.looks: list[PollResult] = []
        self.result: FollowResult | None = None
        self.error: BaseException | None = None
        self._news = threading.Condition()
        self._stop = Event()
        self._run = lambda: follow(
            engine, paths, SETTINGS, stop=self._stop, say=self._say, on_look=self._looked, **options
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
        """Tell it to stop, and wait until it has."""
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is the case after a look or a word."""
        with self._news:
            assert self._news.wait_for(condition, PATIENCE_S), (self.said, self.looks, self.error)

    def _follow(self) -> None:
        try:
            self.result = self._run()
        except errors.CowrieProcessorError as error:
            self.error = error
        with self._news:
            self._news.notify_all()

    def _say(self, text: str) -> None:
        with self._news:
            self.said.append(text)
            self._news.notify_all()

    def _looked(self, look: PollResult) -> None:
        with self._news:
            self.looks.append(look)
            self._news.notify_all()


@dataclass
class ScriptedLoader:
    """A loader that does what the test says: it raises, or returns, one after the other, and then finds nothing."""

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
    """Return what puts a scripted loader in the place of the real one."""

    def make(*script: PollResult | errors.DatabaseError) -> ScriptedLoader:
        loader = ScriptedLoader(list(script), (tmp_path,))
        monkeypatch.setattr(module, "DeltaLoader", loader)
        monkeypatch.setattr(module, "logs_there", list)  # what it is given is there
        return loader

    return make


def a_look(
    path: str = "cowrie.json", *, error: str | None = None, warning: str | None = None, **counters: int
) -> PollResult:
    """Return what a look found in one file."""
    state = "failed" if error else "loaded"
    found = FileResult(path, state, Counter(counters), warnings=[warning] if warning else [], error=error)
    return PollResult([found])


def test_what_is_appended_is_stored(engine: Engine, log: Path) -> None:
    """Each event that is written while it follows is in the database; the row counts them and ends as stopped."""
    with Following(engine, [log]) as following:
        following.wait_for(lambda: bool(following.looks))
        with log.open("a", encoding="utf-8") as file:
            for line in events(5, start=10):
                file.write(line + "\n")
                file.flush()
        following.wait_for(lambda: sum(look.counters["events"] for look in following.looks) == 15)
    job = the_job(engine)

    assert 15 == stored(engine)
    assert following.result is not None
    assert (15, True) == (following.result.counters["events"], following.result.stopped)
    assert (STOPPED, 15) == (job.state, job.counters["events"])
    assert [] == following.said


def test_once_stores_what_is_new(engine: Engine, log: Path) -> None:
    """One look, and nothing new in a second one; the row is done."""
    first = follow(engine, [log], SETTINGS, once=True, stop=Event())
    second = follow(engine, [log], SETTINGS, once=True, stop=Event())

    assert [10, 0] == [one.counters["events"] for one in (first, second)]
    assert [1, False] == [first.looks, first.stopped]
    assert DONE == the_job(engine).state
    assert 10 == stored(engine)


def test_what_is_not_there_yet_is_said(database: Engine, log: Path) -> None:
    """A path that is spelled wrong is not waited for in silence; one with rotated logs beside it is there."""
    rotated = log.with_name("other.json.1")
    rotated.write_bytes(log.read_bytes())
    said: list[str] = []
    paths = [log, log.with_name("other.json"), log.with_name("nowhere") / "cowrie.json"]
    follow(database, paths, SETTINGS, once=True, stop=Event(), say=said.append)
    assert [f"note: {paths[2]}: nothing is there yet"] == [text.partition(";")[0] for text in said]


def test_a_second_follower_is_refused(engine: Engine, log: Path) -> None:
    """While one follows, another one of the folder is refused, also with --once; afterwards it is not."""
    with Following(engine, [log]) as following:
        following.wait_for(lambda: bool(following.looks))
        for once in (True, False):
            with pytest.raises(errors.AlreadyFollowed, match="process"):
                follow(engine, [log.parent], SETTINGS, once=once, stop=Event())
    follow(engine, [log.parent], SETTINGS, once=True, stop=Event())


@contextmanager
def impatient(db_url: str) -> Iterator[Engine]:
    """Yield an engine that gives up at once where another one writes."""
    engine = get_engine(db_url, lock_timeout_s=0.05)
    try:
        yield engine
    finally:
        dispose(engine)


def test_a_lock_is_waited_out(engine: Engine, db_url: str, log: Path) -> None:
    """While another process writes for long, it says so once and waits; then everything is stored."""
    with impatient(db_url) as ours, Following(ours, [log]) as following:
        following.wait_for(lambda: bool(following.looks))
        with write_transaction(engine) as connection:
            (name,) = [job.name for job in jobs_of_kind(connection, "follow")]
            connection.exec_driver_sql(f"UPDATE jobs SET reason = NULL WHERE name = '{name}'")
            with log.open("a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in events(5, start=10))
            following.wait_for(lambda: bool(following.said))
        following.wait_for(lambda: sum(look.counters["events"] for look in following.looks) == 15)
        following.wait_for(lambda: len(following.said) > 1)

    assert 15 == stored(engine)
    assert [True, True] == [
        text.startswith(start)
        for text, start in zip(following.said, ("waiting since", "the database serves again"), strict=True)
    ]


@pytest.mark.parametrize(
    "trouble",
    [errors.DatabaseFull("the disk is full"), errors.DatabaseError("the connection broke"), errors.DatabaseLocked("x")],
)
def test_trouble_that_passes(
    database: Engine, scripted: Callable[..., ScriptedLoader], trouble: errors.DatabaseError
) -> None:
    """A full disk, a lost connection and a lock are said once and tried again, all files then."""
    loader = scripted(trouble, trouble, trouble, a_look(events=1))
    with Following(database, [Path("cowrie.json")]) as following:
        following.wait_for(lambda: bool(following.said))
        following.wait_for(lambda: bool(following.looks))
        following.wait_for(lambda: len(following.said) == 2)

    assert [None] * 4 == loader.asked[:4]
    assert str(trouble) in following.said[0]
    assert STOPPED == the_job(database).state


def test_the_row_says_why_it_waits(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """While the database has trouble but can be written, the row is waiting and has the reason; then it runs."""
    scripted(*[errors.DatabaseFull("the disk is full")] * 10_000)
    with Following(database, [Path("cowrie.json")]) as following:
        following.wait_for(lambda: bool(following.said))
        for _ in range(1000):
            job = the_job(database)
            if job.state == WAITING:
                break
        following.stop()

    assert (WAITING, "the disk is full") == (job.state, job.reason)
    assert following.result is not None
    assert following.result.stopped


@pytest.mark.parametrize(
    "trouble",
    [
        errors.DatabaseDamaged("damaged"),
        errors.NotADatabase("something else"),
        errors.MigrationNeeded("migrate it"),
        errors.JobTaken("taken over"),
    ],
)
def test_trouble_that_lasts(
    database: Engine, scripted: Callable[..., ScriptedLoader], trouble: errors.DatabaseError
) -> None:
    """Damage, another schema and a job that was taken over end it with that error, which the row keeps."""
    loader = scripted(trouble)
    with pytest.raises(type(trouble)):
        follow(database, [Path("cowrie.json")], SETTINGS, stop=Event())
    job = the_job(database)

    assert (FAILED, str(trouble)) == (job.state, job.reason)
    assert loader.closed


@pytest.mark.parametrize("trouble", [errors.DatabaseFull("full"), errors.DatabaseError("gone")])
def test_once_does_not_wait(
    database: Engine, scripted: Callable[..., ScriptedLoader], trouble: errors.DatabaseError
) -> None:
    """With --once trouble with the database ends it: cron comes again."""
    scripted(trouble)
    with pytest.raises(type(trouble)):
        follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=Event())


def test_a_stop_while_once_waits_is_no_error(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """Asked to stop while another process writes, --once ends as stopped; without that it is an error."""
    stop = Event()
    scripted(PollResult(deferred=1, again_in_s=0.0), errors.DatabaseLocked("asked to stop"))
    with pytest.raises(errors.DatabaseLocked):
        follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=stop)
    loader = scripted(errors.DatabaseLocked("asked to stop"))
    held_look = loader.poll

    def look(changed: Collection[Path] | None = None) -> PollResult:
        stop.set()
        return held_look(changed)

    loader.poll = look  # type: ignore[method-assign]
    assert follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=stop).stopped


def test_a_full_disk(database: Engine, log: Path) -> None:
    """When the database can grow no more it is said, nothing is lost, and with room again everything is stored."""
    pages = ["1000000"]

    def limit(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")

    event.listen(database, "checkout", limit)
    with Following(database, [log]) as following:
        following.wait_for(lambda: bool(following.looks))
        pages[0] = "1"  # SQLite takes the size that the file has
        with log.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in events(2000, start=10))
        following.wait_for(lambda: bool(following.said))
        pages[0] = "1000000"
        following.wait_for(lambda: sum(look.counters["events"] for look in following.looks) > 1000)
        following.wait_for(lambda: len(following.said) == 2)

    assert 2010 == stored(database)
    assert "the disk is full" in following.said[0]


def test_the_beginning_waits_for_others(engine: Engine, db_url: str, log: Path) -> None:
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
                following.wait_for(lambda: bool(following.said))
        assert following.result is not None
        assert following.result.stopped
        assert 0 == following.result.looks
        with Following(ours, [log]) as following:
            following.wait_for(lambda: bool(following.looks))


def replace(path: Path) -> None:
    """Put another database of the same name in the place of one, as a restored backup is."""
    other = get_engine(path.with_name("other.sqlite"))
    apply_migrations(other)
    dispose(other)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    path.with_name("other.sqlite").rename(path)


def delete(path: Path) -> None:
    """Delete a database with what belongs to it."""
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()


@pytest.mark.parametrize("how", [replace, delete])
def test_another_database_in_its_place(database: Engine, log: Path, how: Callable[[Path], None]) -> None:
    """A follower whose database was deleted or replaced ends, names it, makes no new one, and lost nothing."""
    path = Path(str(database.url.database))
    with Following(database, [log]) as following:
        following.wait_for(lambda: bool(following.looks))
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


def test_a_long_look_ends_when_its_database_is_gone(database: Engine, log: Path) -> None:
    """The database that is deleted between two batches of one look is missed before the next batch."""
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
    """Asked to stop while nothing happens, it ends as it should, says what it found, and makes no new database."""
    path = Path(str(database.url.database))
    stop = Event()
    said: list[str] = []

    def wait(*_: object) -> frozenset[Path]:
        delete(path)
        stop.set()
        return frozenset()

    monkeypatch.setattr(Watcher, "wait", wait)
    assert follow(database, [log], SETTINGS, stop=stop, say=said.append).stopped
    assert ["the file is gone" in line for line in said] == [True]
    assert not path.exists()


def test_files_beside_the_logs_cost_nothing(database: Engine, log: Path) -> None:
    """What is written to a file that is no log, and what comes and goes under other names, makes nothing looked at."""
    with Following(database, [log.parent]) as following:
        following.wait_for(lambda: len(following.looks) > 1 and following.looks[-1].again_in_s is None)
        looks = len(following.looks)
        for number in range(5):
            for name in ("cowrie.log", f"tmp{number}"):
                with (log.parent / name).open("a", encoding="utf-8") as file:
                    file.write("text\n")
            threading.Event().wait(0.1)
            (log.parent / f"tmp{number}").unlink()
        assert looks == len(following.looks)
        with log.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in events(5, start=10))
        following.wait_for(lambda: sum(look.counters["events"] for look in following.looks) == 15)


def test_files_are_complained_of_once(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """What is wrong with a file is said once, again when it is something else, and again after it was well."""
    bad = a_look("bad.gz", error="damaged")
    scripted(bad, bad, a_look("bad.gz", error="worse"), a_look("bad.gz", events=1), bad, a_look("x", warning="odd"))
    with Following(database, [Path("bad.gz")], poll_s=0.001) as following:
        following.wait_for(lambda: len(following.looks) > 6)

    assert ["error: damaged", "error: worse", "error: damaged", "note: odd"] == following.said


def test_losses_are_said(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """Bytes that were destroyed unread are said with their number, each time, and summed up."""
    scripted(PollResult(gaps=[Gap("cowrie.json", 1234)]), PollResult(gaps=[Gap("cowrie.json", 1)]))
    with Following(database, [Path("cowrie.json")], poll_s=0.001) as following:
        following.wait_for(lambda: len(following.looks) > 2)

    assert following.result is not None
    assert (2, 1235) == (following.result.losses, following.result.bytes_lost)
    assert ["1,234 bytes" in following.said[0], "1 bytes" in following.said[1]] == [True, True]


def test_it_looks_again_when_the_loader_wants_to(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """A look that asks for another one soon gets it, of everything, although nothing was told."""
    loader = scripted(PollResult(again_in_s=0.01), PollResult(again_in_s=0.01), PollResult())
    with Following(database, [Path("cowrie.json")], poll_s=3600) as following:
        following.wait_for(lambda: len(following.looks) > 2)

    assert [None, None, None] == loader.asked[:3]


def test_where_it_stands_is_written_down_at_the_end(
    database: Engine, scripted: Callable[..., ScriptedLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its end the loader is closed; if the database refuses, that is a note and no error."""
    loader = scripted()

    def refuse() -> None:
        raise errors.DatabaseLocked("it is locked")

    monkeypatch.setattr(loader, "close", refuse)
    said: list[str] = []
    result = follow(database, [Path("cowrie.json")], SETTINGS, once=True, stop=Event(), say=said.append)

    assert 1 == result.looks
    assert 1 == len(said)
    assert "the next start takes longer" in said[0]


def test_a_log_named_by_a_link(engine: Engine, log: Path, tmp_path: Path) -> None:
    """Of a log that is named by a link the folder that it lies in is watched, so that a write to it is told."""
    link = tmp_path / "link.json"
    link.symlink_to(log)
    with Following(engine, [link]) as following:
        following.wait_for(lambda: bool(following.looks))
        with log.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in events(5, start=10))
        following.wait_for(lambda: sum(look.counters["events"] for look in following.looks) == 15)

    links = module.Links([link, log, log.parent])
    assert [log.parent] == links.folders()
    assert frozenset({log, link}) == links.as_named(frozenset({log}))


def test_once_waits_for_archives(database: Engine, scripted: Callable[..., ScriptedLoader]) -> None:
    """An archive that is still being written is looked at again, and what all looks found is in the result."""
    loader = scripted(PollResult(deferred=1, again_in_s=0.01), a_look(events=3))
    result = follow(database, [Path("logs")], SETTINGS, once=True, stop=Event())

    assert [None, None] == loader.asked
    assert (2, 1, 3) == (result.looks, len(result.files), result.counters["events"])


def test_once_does_not_wait_for_ever(
    database: Engine, scripted: Callable[..., ScriptedLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that does not end is left for the next time, and that is said."""
    monkeypatch.setattr(module, "ARCHIVES_S", 0.0)
    scripted(PollResult(deferred=1, again_in_s=0.01))
    said: list[str] = []
    follow(database, [Path("logs")], SETTINGS, once=True, stop=Event(), say=said.append)

    assert ["note: archives that are still being written are left for the next time: 1"] == said
