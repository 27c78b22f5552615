"""The process that parses: what happens where it cannot be started, dies, or is not waited for."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.loader import log_loading
from cowrieprocessor.loader.bulk import LOADED, BulkLoader, FileResult
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.loader.rows import parser_process
from cowrieprocessor.settings import Settings
from tests.logical_digest import difference, logical_contents
from tests.logs import count, events, write

LINES = events(100)
OTHER_CORE = ReadSizes(other_core_bytes=0)
"""Every log is parsed by a child process, if there can be one."""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A database, on a machine with two cores."""
    monkeypatch.setattr(parser_process.os, "cpu_count", lambda: 2)
    engine = get_engine(tmp_path / "x.sqlite")
    yield engine
    engine.dispose()


def load(engine: Engine, *paths: Path) -> list[FileResult]:
    """Load logs in small batches, parsed by a child process if there can be one."""
    return BulkLoader(engine, settings=Settings(batch_size=10), sizes=OTHER_CORE).load(paths).files


def starts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that records each start of a parser process."""
    started: list[object] = []
    popen = parser_process.subprocess.Popen

    def start(*args: object, **options: object) -> object:
        started.append(args)
        return popen(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(parser_process.subprocess, "Popen", start)
    return started


def interpreter(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the interpreter of the parser process by a script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(parser_process.sys, "executable", str(path))


@pytest.mark.parametrize("form", ["lines", "gzip", "array"])
@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("kill -9 $$", "was killed, most likely because memory ran out"),
        ("read job; kill -9 $$", "was killed, most likely because memory ran out"),
        ("exit 12", "ran out of memory"),
        ("read job; printf '\\000\\000\\000'; exit 3", "ended early (exit code 3)"),
        (None, "could not be started (No such file or directory)"),
    ],
)
def test_a_load_continues_without_the_parser_process(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, script: str | None, what: str
) -> None:
    """Whatever ends the parser process, the load warns and stores each event once without it."""
    log = write(tmp_path / "cowrie.json", LINES, form)
    if script is None:
        monkeypatch.setattr(parser_process.sys, "executable", str(tmp_path / "missing"))
    else:
        interpreter(tmp_path / "python", script, monkeypatch)

    (found,) = load(engine, log)

    assert (found.state, found.counters["events"], found.error) == (LOADED, 100, None)
    assert found.warnings == [
        f"{log}: the process that parses logs {what}; the load goes on without it, which is slower. "
        "Nothing is lost; if this comes again, give it more memory"
    ]
    assert count(engine, RawEvent) == 100


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "Resource temporarily unavailable"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_system_without_a_free_process(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str
) -> None:
    """If no process can be started, this one parses."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(parser_process.subprocess, "Popen", refuse)

    (found,) = load(engine, write(tmp_path / "cowrie.json", LINES))

    assert (found.state, found.counters["events"]) == (LOADED, 100)
    (warning,) = found.warnings
    assert f"could not be started ({what})" in warning


def test_a_system_without_a_free_thread(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can read from the parser process, that is killed, and this one parses."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        (found,) = load(engine, write(tmp_path / "cowrie.json", LINES))

    assert (found.state, found.counters["events"]) == (LOADED, 100)
    (warning,) = found.warnings
    assert "could not be listened to (can't start new thread)" in warning


def test_after_a_death_the_next_log_is_parsed_here(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A death is reported once; the next logs are parsed here, until an hour later a process is started again."""
    interpreter(tmp_path / "python", "kill -9 $$", monkeypatch)
    started = starts(monkeypatch)
    now = [1000.0]
    monkeypatch.setattr(log_loading, "time", SimpleNamespace(monotonic=lambda: now[0]))
    (tmp_path / "logs").mkdir()
    said = []

    with DeltaLoader(engine, [tmp_path / "logs"], settings=Settings(batch_size=10), sizes=OTHER_CORE) as loader:
        for hour, name in ((0.0, "1"), (0.0, "2"), (0.9, "3"), (1.1, "4"), (1.2, "5")):
            now[0] = 1000.0 + 3600 * hour
            write(tmp_path / "logs" / f"cowrie.json.{name}", events(20, session=f"000{name}"))
            said.append(sum(len(one.warnings) for one in loader.poll().files))

    assert said == [1, 0, 0, 1, 0]
    assert (len(started), count(engine, RawEvent)) == (2, 100)


@pytest.mark.parametrize("form", ["lines", "gzip", "pretty array"])
@pytest.mark.parametrize("dies_after", [0, 1, 5, 9])
def test_batches_before_the_death_stay(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, dies_after: int
) -> None:
    """Batches committed before the process died are not repeated, and the rest is the same as without its death."""
    log = write(tmp_path / "cowrie.json", LINES, form)
    read, documents = parser_process._read, []

    def die(pipe: object) -> bytes | None:
        documents.append(read(pipe))  # type: ignore[arg-type]
        return documents[-1] if len(documents) <= dies_after else None

    monkeypatch.setattr(parser_process, "_read", die)
    (found,) = load(engine, log)
    clean = get_engine(tmp_path / "clean.sqlite")
    monkeypatch.setattr(parser_process, "_read", read)
    load(clean, log)

    assert (found.counters["events"], len(found.warnings)) == (100, 1)
    assert [] == difference(logical_contents(clean), logical_contents(engine))
    clean.dispose()


def test_an_unreadable_log_is_no_death_of_the_process(tmp_path: Path) -> None:
    """An error of the log before its first value comes back as its end, not as a death."""
    (tmp_path / "folder").mkdir()
    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    try:
        done = run_child(
            {"path": "x", "descriptor": descriptor, "max_ratio": 9, "grace_bytes": 9, "line": 4, "sizes": {}}
        )
    finally:
        os.close(descriptor)

    end = parser_process.LogEnd(**parser_process.marshal.loads(done[8:]))
    assert end.line == 4
    assert end.error == "x: Is a directory at byte 0; check the disk or the network share it is on"


def run_child(job: dict[str, object]) -> bytes:
    """Return what the parser process writes for a job."""
    descriptor = job["descriptor"]
    assert isinstance(descriptor, int)
    return parser_process.subprocess.run(
        [sys.executable, "-m", "cowrieprocessor.loader.rows.parser_process"],
        input=parser_process.orjson.dumps(job) + b"\n",
        stdout=parser_process.subprocess.PIPE,
        pass_fds=[descriptor],
        check=True,
    ).stdout


def test_a_stop_does_not_wait_for_the_process(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to stop while the parser process reads gigabytes, the load ends at once, without an error."""
    log = write(tmp_path / "cowrie.json", LINES)
    interpreter(tmp_path / "python", "exec sleep 600", monkeypatch)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(bool(starting))
        return bool(starting)

    starting = starts(monkeypatch)
    with DeltaLoader(engine, [log], settings=Settings(batch_size=10), stop=stop, sizes=OTHER_CORE) as loader:
        look = loader.poll()

    assert (len(starting), asked[-1]) == (1, True)
    assert (look.files, look.gaps, count(engine, RawEvent)) == ([], [], 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_parser_process_ignores_signals(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A signal to all processes of a service or a terminal does not end the parser process."""
    log = write(tmp_path / "cowrie.json", LINES)
    started: list[parser_process.subprocess.Popen[bytes]] = []
    popen = parser_process.subprocess.Popen

    def start(*args: object, **options: object) -> object:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(parser_process.subprocess, "Popen", start)
    loader = BulkLoader(
        engine,
        settings=Settings(batch_size=10),
        on_progress=lambda _: started[0].send_signal(number),
        sizes=OTHER_CORE,
    )
    (found,) = loader.load([log]).files

    assert (found.counters["events"], found.warnings) == (100, [])


def test_a_parser_process_ended_with_the_service_is_not_reported(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If both are asked to end before the parser process ignores signals, its end is not reported."""
    log = write(tmp_path / "cowrie.json", LINES)
    interpreter(tmp_path / "python", "kill -15 $$", monkeypatch)
    starting = starts(monkeypatch)
    settings, is_started = Settings(batch_size=10), lambda: bool(starting)
    with DeltaLoader(engine, [log], settings=settings, stop=is_started, sizes=OTHER_CORE) as loader:
        look = loader.poll()

    assert (look.files, len(starting)) == ([], 1)


def test_a_small_pipe_works_too(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system allows no large pipe, a small one is used."""
    asked: list[int] = []

    def refuse(_: object, command: int, __: int) -> None:
        asked.append(command)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(parser_process.fcntl, "fcntl", refuse)
    (found,) = load(engine, write(tmp_path / "cowrie.json", LINES))

    assert (asked, found.counters["events"], found.warnings) == ([parser_process.fcntl.F_SETPIPE_SZ], 100, [])
