"""`cowrieprocessor follow`: what it prints, what its exit code says, and what it does without paths."""

from __future__ import annotations

import gzip
import json
import logging
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from cowrieprocessor.cli import follow as command
from cowrieprocessor.cli.shared.follow_progress import LINE_EVERY_S, FollowProgressLine
from cowrieprocessor.errors import DatabaseLocked
from cowrieprocessor.jobs.watch import follow as follow_job
from cowrieprocessor.jobs.watch.follow import FollowJobTiming, FollowResult
from cowrieprocessor.loader.delta import Gap, PollResult
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.log_loading import FileResult, LoadProgress
from tests.logs import events, write
from tests.unit.reporting.program import Program


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program, called in a folder of its own, without its signal handlers; archives settle at once."""
    monkeypatch.chdir(tmp_path)
    timing = FollowJobTiming(loader=FollowTiming(archive_settles_s=0.1))
    monkeypatch.setattr(follow_job, "follow", partial(follow_job.follow, timing=timing))
    monkeypatch.setattr(command, "stop_on_signals", lambda *_: None)
    return Program(monkeypatch, capsys)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with ten events."""
    return write(tmp_path / "cowrie.json", events(10))


def write_sensors(folder: Path, *logs: str) -> None:
    """Configure a sensor for each log."""
    text = "".join(f'[[sensor]]\nname = "pot-{number}"\nlogpath = "{log}"\n' for number, log in enumerate(logs))
    (folder / "sensors.toml").write_text(text, encoding="utf-8")


def test_once(program: Program, log: Path) -> None:
    """`--once` says how many events are new, then none; the summary is on standard output."""
    first, second = program("follow", str(log), "--once"), program("follow", str(log), "--once")

    assert (0, "") == (first.code, first.err)
    assert first.out.startswith("10 new events, 2 of them with a file, in ")
    assert (0, "") == (second.code, second.err)
    assert second.out.startswith("0 new events")


def test_once_as_json(program: Program, log: Path) -> None:
    """`--once --json` prints one document with counters, files and gaps."""
    document = program("follow", str(log), "--once", "--json").document

    assert {"events": 10} == {name: document["counters"][name] for name in ("events",)}
    assert [str(log)] == [file["path"] for file in document["files"]]
    assert ([], False) == (document["gaps"], document["stopped"])


def test_every_configured_sensor(program: Program, tmp_path: Path) -> None:
    """Without a path the logs of all sensors are followed; one that is not there yet is no error."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write(tmp_path / "one" / "cowrie.json", events(3, session="aaaa"))
    write(tmp_path / "two" / "cowrie.json.1", events(4, session="bbbb"))
    write_sensors(tmp_path, "one/cowrie.json", "two", "three/cowrie.json")
    done = program("follow", "--once")

    assert 0 == done.code, done.err
    assert "7 new events" in done.out


def test_no_sensor_is_configured(program: Program) -> None:
    """Without a path and without a sensor the message shows what to write; nothing is made."""
    done = program("follow")

    assert 2 == done.code
    assert "sensors.toml" in done.err
    assert "logpath = " in done.err
    assert not Path("cowrieprocessor.sqlite").exists()


def test_a_file_that_cannot_be_read(program: Program, tmp_path: Path) -> None:
    """With --once a damaged archive is exit code 3; the others are stored."""
    write(tmp_path / "cowrie.json", events(10))
    damaged = bytearray(gzip.compress("".join(f"{line}\n" for line in events(50, session="cccc")).encode()))
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "cowrie.json.1.gz").write_bytes(damaged)
    done = program("follow", ".", "--once", "--db", "x.sqlite")

    assert 3 == done.code
    assert "10 new events" in done.out
    assert 1 == done.err.count("error: ")
    assert "cowrie.json.1.gz" in done.err


@pytest.mark.parametrize(
    "arguments", [["--poll", "0"], ["--poll", "fast"], ["--batch-size", "0"], ["--fast"], ["--db", "mysql://x/y", "."]]
)
def test_wrong_calls(program: Program, arguments: list[str]) -> None:
    """A wrong option, value or database is exit code 2."""
    assert 2 == program("follow", *arguments).code


def test_the_database_refuses(program: Program, log: Path, tmp_path: Path) -> None:
    """A file that is no database is exit code 4, with --once and without."""
    (tmp_path / "x.sqlite").write_text("something else entirely, and long enough to be read as a header", "utf-8")
    for once in (["--once"], []):
        assert 4 == program("follow", str(log), "--db", "x.sqlite", *once).code


def test_what_a_poll_found_as_json() -> None:
    """A poll that found something is one object; a poll that found nothing is none."""
    found = FileResult("cowrie.json", "loaded", Counter(events=2))
    document = command.poll_document(PollResult([found], [Gap("cowrie.json", 5)]))

    assert document is not None
    assert {"events": 2} == document["counters"]
    assert [{"path": "cowrie.json", "bytes_lost": 5}] == document["gaps"]
    assert {"at", "counters", "files", "gaps"} == document.keys()
    assert command.poll_document(PollResult([FileResult("cowrie.json")])) is None


def test_lines_of_json_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What a poll found is one line of ASCII; a poll that found nothing prints nothing."""
    command.print_poll(PollResult(gaps=[Gap("a\n\x1b[31m\u2028b", 1)]))
    command.print_poll(PollResult())
    (line,) = capsys.readouterr().out.splitlines()

    assert line.isascii()
    assert [{"path": "a\n\x1b[31m\u2028b", "bytes_lost": 1}] == json.loads(line)["gaps"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            FollowResult(Counter(events=1234, file_sightings=5), duration_s=7385),
            ["1,234 new events, 5 of them", "2 h 3 min"],
        ),
        (
            FollowResult(Counter(dead_letters=3, file_dead_letters=1), duration_s=61),
            ["3 not stored", "1 event whose", "1 min 1 s"],
        ),
        (FollowResult(losses=1, bytes_lost=99), ["99 bytes were destroyed", "once"]),
        (FollowResult(losses=2, bytes_lost=1000, stopped=True), ["1,000 bytes", "2 times", "stopped"]),
    ],
)
def test_the_summary(result: FollowResult, expected: list[str]) -> None:
    """The summary has what was stored, what was not, what was lost and how long it took."""
    text = "\n".join(command.follow_summary(result, None))

    assert [] == [part for part in expected if part not in text]


def test_waiting_is_ended_by_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    """While another process writes, --once says so; once stopped, it waits no longer."""
    stop = threading.Event()
    command._on_wait(stop, is_reported=True)(5)
    command._on_wait(stop, is_reported=False)(5)
    assert 1 == len(capsys.readouterr().err.splitlines())
    stop.set()
    with pytest.raises(DatabaseLocked, match="nothing is lost"):
        command._on_wait(stop, is_reported=True)(6)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is at most a line a minute, and none while nothing comes."""
    clock = Clock()
    with FollowProgressLine(2, clock=clock) as line:
        for number in range(1, 5):
            line.batch_stored(LoadProgress("x", 0, 1, 100 * number, 1000, number))
        clock.now += LINE_EVERY_S
        line.batch_stored(LoadProgress("x", 0, 1, 500, 1000, 5))
        line.poll_finished(PollResult([FileResult("x", "loaded", Counter(events=7, dead_letters=1))]))
        clock.now += LINE_EVERY_S
        line.poll_finished(PollResult())
        clock.now += LINE_EVERY_S
        line.poll_finished(PollResult())
    printed = capsys.readouterr().err.splitlines()

    assert 2 == len(printed)
    assert "following 2 paths: 5 new events" in printed[0]
    assert printed[0].endswith("500 bytes behind")
    assert "8 new events" in printed[1]
    assert printed[1].endswith("; 0 bytes behind")


def test_a_terminal_has_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal the line is redrawn, and removed at the end."""
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda _console: True))
    with FollowProgressLine(1, clock=Clock()) as line:
        line.poll_finished(PollResult([FileResult("x", "loaded", Counter(events=7))]))
        assert "following 1 path: 7 new events" in line.text()
    printed = capsys.readouterr().err
    assert "following 1 path" in printed
    assert printed.endswith("\x1b[1A\x1b[2K")


def test_nothing_of_watchfiles_is_logged(program: Program, log: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At any logging level, the packages in use log nothing of their own."""
    with caplog.at_level(logging.DEBUG):
        program("follow", str(log), "--once")
    assert [] == [record for record in caplog.records if record.name.startswith("watchfiles")]
