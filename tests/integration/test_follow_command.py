"""`cowrieprocessor follow` as a service runs it: real logs that are written and rotated, signals, other processes."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, func, select

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import RUNNING, STOPPED, JobRecord, jobs_of_kind
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.loader.bulk import BulkLoader
from tests.command_line import PROGRAM, run, start
from tests.logical_digest import TABLES, Contents, difference, logical_contents
from tests.logs import events, write

PATIENCE_S = 120.0
LOOK_AGAIN_S = 0.05


class Follower:
    """`cowrieprocessor follow` in a process of its own."""

    def __init__(self, *arguments: object, cwd: Path | None = None) -> None:
        command = [*PROGRAM, "follow", *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, bufsize=1
        )
        self.said: list[str] = []
        self._unread = b""

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait_for_word(self, text: str) -> str:
        """Return the first line on standard error, from now on, that has this text."""
        for line in self._lines(time.monotonic() + PATIENCE_S):
            self.said.append(line)
            if text in line:
                return line
        raise AssertionError(f"never said {text!r}: {self.said}")

    def _lines(self, until: float) -> Iterator[str]:
        """Yield the lines on standard error until a time, or the end.

        Reads without the buffer of the text stream: a line in it would not make the descriptor readable.
        """
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                while b"\n" in self._unread:
                    line, _, self._unread = self._unread.partition(b"\n")
                    yield f"{line.decode()}\n"
                if not selector.select(max(0.0, until - time.monotonic())):
                    return
                data = os.read(descriptor, 1 << 16)
                if not data:
                    return
                self._unread += data

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Stop it; return its exit code and what it printed since."""
        self.send(number)
        out, err = self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode, out, "".join(self.said) + self._unread.decode() + err

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def following(*arguments: object, cwd: Path | None = None) -> Iterator[Follower]:
    """Yield a follower, which is gone afterwards."""
    follower = Follower(*arguments, cwd=cwd)
    try:
        yield follower
    finally:
        follower.kill()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder for logs."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    """An SQLite database, for what is the same on all."""
    made = get_engine(tmp_path / "pots.sqlite")
    apply_migrations(made)
    yield made
    dispose(made)


def path_of(database: Engine) -> str:
    """Return the file of an SQLite database."""
    return str(database.url.database)


def append(path: Path, lines: list[str]) -> None:
    """Write events as Cowrie does: a line each, at once."""
    with path.open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")
            file.flush()


def stored(engine: Engine) -> Counter[str]:
    """Return the payloads in the database with how often they are there."""
    with read_transaction(engine) as connection:
        payloads = connection.execute(select(RawEvent.payload)).scalars().all()
    return Counter(json.dumps(one, sort_keys=True) for one in payloads)


def expected(lines: list[str]) -> Counter[str]:
    """Return lines of a log in the same form."""
    return Counter(json.dumps(json.loads(line), sort_keys=True) for line in lines)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when something is the case.

    Raises:
        AssertionError: it is not, for longer than anything may take.
    """
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(LOOK_AGAIN_S)


def the_job(engine: Engine) -> JobRecord | None:
    """Return the only follower's row, if there is one."""
    with read_transaction(engine) as connection:
        jobs = jobs_of_kind(connection, "follow")
    assert len(jobs) < 2
    return jobs[0] if jobs else None


def is_running(engine: Engine, pid: int) -> bool:
    """Return whether a follower has said that it runs."""
    job = the_job(engine)
    return job is not None and job.state == RUNNING and job.owner["pid"] == pid


def test_every_event_arrives_once_while_logs_rotate(engine: Engine, db_url: str, logs: Path, tmp_path: Path) -> None:
    """Renamed, compressed, deleted and begun anew while it is followed, a log gives what a bulk load gives."""
    lines = events(120)
    live = logs / "cowrie.json"
    append(live, lines[:20])
    with following(live, "--db", db_url) as follower:
        wait_until(lambda: stored(engine) == expected(lines[:20]))
        append(live, lines[20:50])
        live.rename(logs / "cowrie.json.2026-11-21")
        append(logs / "cowrie.json.2026-11-21", lines[50:60])
        append(live, lines[60:70])
        wait_until(lambda: stored(engine) == expected(lines[:70]))
        subprocess.run(["gzip", str(logs / "cowrie.json.2026-11-21")], check=True)
        with live.open("a", encoding="utf-8") as file:
            file.write(lines[70][:30])
            file.flush()
            time.sleep(LOOK_AGAIN_S)
            file.write(lines[70][30:] + "\n")
        wait_until(lambda: stored(engine) == expected(lines[:71]))
        live.unlink()
        append(live, lines[71:])
        wait_until(lambda: stored(engine) == expected(lines))
        code, out, err = follower.end()
    write(tmp_path / "kept.json", lines[60:71])

    assert (0, "stopping: the batch in hand is committed\n") == (code, err)
    assert out.startswith("120 new events")
    job = the_job(engine)
    assert job is not None
    assert (STOPPED, 120) == (job.state, job.counters["events"])
    clean = get_engine(tmp_path / "clean.sqlite")
    BulkLoader(clean).load([logs, tmp_path / "kept.json"])
    assert [] == difference(contents(clean), contents(engine))
    dispose(clean)


def contents(engine: Engine) -> Contents:
    """Return what the database says, but for the names under which logs were seen, and who counted."""
    tables = [name for name in TABLES if name != "jobs"]
    return logical_contents(engine, tables=tables, without=("source", "source_files"))


def test_many_folders_that_come_later(tmp_path: Path) -> None:
    """Logs and folders that are not there when it starts are followed as they appear; several sensors at once."""
    (tmp_path / "sensors.toml").write_text(
        "".join(f'[[sensor]]\nname = "pot-{n}"\nlogpath = "pot-{n}/log/cowrie.json"\n' for n in range(3)), "utf-8"
    )
    lines = [events(10, session=f"{n}{n}{n}{n}") for n in range(3)]
    (tmp_path / "pot-0" / "log").mkdir(parents=True)
    append(tmp_path / "pot-0" / "log" / "cowrie.json", lines[0])
    database = get_engine(tmp_path / "cowrieprocessor.sqlite")
    apply_migrations(database)
    with following(cwd=tmp_path) as follower:
        wait_until(lambda: stored(database) == expected(lines[0]))
        for number in (1, 2):
            (tmp_path / f"pot-{number}" / "log").mkdir(parents=True)
            append(tmp_path / f"pot-{number}" / "log" / "cowrie.json", lines[number])
        wait_until(lambda: stored(database) == expected([line for some in lines for line in some]))
        code, _, err = follower.end(signal.SIGINT)
    dispose(database)

    assert code == 0
    *notes, last = err.splitlines()
    assert ["pot-1/log/cowrie.json: nothing is there yet", "pot-2/log/cowrie.json: nothing is there yet"] == [
        note.partition(";")[0].partition(f"{tmp_path}/")[2] for note in notes
    ]
    assert last == "stopping: the batch in hand is committed"


def test_cron(database: Engine, logs: Path) -> None:
    """`--once` again and again stores each event once, over a rotation and half a line; what it says is JSON."""
    lines = events(30)
    live = logs / "cowrie.json"
    counts = []
    for number, step in enumerate((lines[:10], lines[10:20], [], lines[20:])):
        append(live, step)
        if number == 1:
            live.rename(logs / "cowrie.json.1")
        done = run("follow", logs, "--db", path_of(database), "--once", "--json")
        assert (0, "") == (done.returncode, done.stderr)
        counts.append(json.loads(done.stdout)["counters"].get("events", 0))

    assert [10, 10, 0, 10] == counts
    assert expected(lines) == stored(database)


def test_bytes_that_were_destroyed_are_said(database: Engine, logs: Path) -> None:
    """Half a line that was seen and then destroyed is said with its size, by the command and by `db status`."""
    live = logs / "cowrie.json"
    append(live, events(3))
    with live.open("a", encoding="utf-8") as file:
        file.write("half a line")
    first = run("follow", live, "--db", path_of(database), "--once")
    os.truncate(live, 0)
    append(live, events(2, session="later"))
    second = run("follow", live, "--db", path_of(database), "--once", "--json")

    assert (0, 0) == (first.returncode, second.returncode)
    assert "lost" not in first.stderr
    assert f"lost: {live}: 11 bytes were destroyed" in second.stderr
    assert [{"path": str(live), "bytes_lost": 11}] == json.loads(second.stdout)["gaps"]


def test_a_second_follower_is_told_about_the_first(database: Engine, logs: Path) -> None:
    """The second one of the same folder ends with 6 and names the first; a killed one keeps nobody out."""
    append(logs / "cowrie.json", events(5))
    with following(logs, "--db", path_of(database)) as first:
        wait_until(lambda: is_running(database, first.pid))
        refused = run("follow", logs / "cowrie.json", "--db", path_of(database), "--once")
        first.send(signal.SIGKILL)
    after = run("follow", logs, "--db", path_of(database), "--once")

    assert 6 == refused.returncode
    assert f"process {first.pid} on " in refused.stderr
    assert str(logs) in refused.stderr
    assert 0 == after.returncode, after.stderr
    assert expected(events(5)) == stored(database)


def test_beside_a_load_and_other_writers(engine: Engine, db_url: str, logs: Path, tmp_path: Path) -> None:
    """While others load and write, no lock error is said, and what the follower sees arrives before they are done."""
    other = write(tmp_path / "other.json", events(6000, session="0000"))
    live = logs / "cowrie.json"
    append(live, events(5))
    with following(live, "--db", db_url) as follower:
        wait_until(lambda: stored(engine) == expected(events(5)))
        load = start("load", other, "--db", db_url, "--batch-size", 50)
        append(live, events(5, start=5))
        wait_until(lambda: counted(engine) >= 10 and not expected(events(10)) - stored(engine))
        out, err = load.communicate(timeout=PATIENCE_S)
        code, _, said = follower.end()

    assert (0, 0) == (load.returncode, code), (out, err, said)
    assert "error" not in said + err
    assert 6010 == counted(engine)


def counted(engine: Engine) -> int:
    """Return how many events are in the database."""
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(RawEvent)).scalar_one()


@pytest.fixture
def locked(tmp_path: Path, logs: Path) -> Iterator[Path]:
    """An SQLite database that another process, this one, is writing to for as long as the test."""
    path = tmp_path / "locked.sqlite"
    append(logs / "cowrie.json", events(5))
    made = get_engine(path)
    apply_migrations(made)
    with write_transaction(made):
        yield path
    dispose(made)


def test_ctrl_c_twice(locked: Path, logs: Path) -> None:
    """The first Ctrl-C asks it to stop; the second one, while it still waits for another process, ends it at once."""
    with following(logs, "--db", locked, "--once") as follower:
        follower.wait_for_word("waiting for the database")
        follower.send(signal.SIGINT)
        follower.wait_for_word("stopping")
        code, _, said = follower.end(signal.SIGINT)

    assert 130 == code
    assert "the same command goes on from there" in said


def test_sigterm_while_it_waits(locked: Path, logs: Path) -> None:
    """SIGTERM ends it with 0 although another process has the database, and nothing is half done."""
    with following(logs, "--db", locked, "--once") as follower:
        follower.wait_for_word("waiting for the database")
        code, out, said = follower.end()

    assert 0 == code, said
    assert "stopped; the same command goes on from here" in out


@pytest.mark.postgres
def test_a_server_that_goes_away(postgres_url: str, logs: Path) -> None:
    """While the server refuses everybody the follower waits and says so once; then it stores what it missed."""
    live = logs / "cowrie.json"
    append(live, events(5))
    engine = get_engine(postgres_url)
    apply_migrations(engine)
    with following(live, "--db", postgres_url) as follower, shut_out(postgres_url) as (shut, reopen):
        wait_until(lambda: stored(engine) == expected(events(5)))
        dispose(engine)
        shut()
        append(live, events(5, start=5))
        word = follower.wait_for_word("waiting since")
        reopen()
        follower.wait_for_word("the database serves again")
        wait_until(lambda: stored(engine) == expected(events(10)))
        code, _, said = follower.end()
    dispose(engine)

    assert 0 == code
    assert "retried until it works" in word
    assert "error" not in said.replace(word, "")


@contextmanager
def shut_out(url: str) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Yield what closes a database to everybody, connections that are open included, and what opens it again."""
    made = get_engine(url).url
    name = made.database
    with psycopg.connect(
        dbname="postgres", user=made.username, host=str(made.query["host"]), autocommit=True
    ) as connection:

        def allow(allowed: bool) -> None:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {str(allowed).lower()}')
            if not allowed:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

        try:
            yield lambda: allow(False), lambda: allow(True)
        finally:
            allow(True)


def test_lines_of_json(tmp_path: Path, logs: Path) -> None:
    """With --json each look that stored something is a line on standard output, at once; messages are elsewhere."""
    live = logs / "cowrie.json"
    append(live, events(5))
    damaged = logs / "cowrie.json.1.gz"
    damaged.write_bytes(b"\x1f\x8b\x08\x00\x1b[31m is no gzip")
    hostile = logs / "cowrie.json.\x1b[31m.gz"
    hostile.write_bytes(b"\x1f\x8b\x08\x00 is no gzip either")
    with following(logs, "--json", "--db", tmp_path / "x.sqlite") as follower:
        assert follower._process.stdout is not None
        first = json.loads(follower._process.stdout.readline())
        follower.wait_for_word("error: ")
        follower.wait_for_word("error: ")
        append(live, events(2, start=5))
        lines = []
        while not any(line["counters"].get("events") == 2 for line in lines):
            lines.append(json.loads(follower._process.stdout.readline()))
        code, out, said = follower.end()

    assert (0, "") == (code, out)
    assert {"events": 5} == {name: first["counters"][name] for name in ("events",)}
    assert 2 == said.count("error: ")
    assert "\x1b" not in said
