"""What goes wrong at the command line: a message with place and remedy, a documented exit code, nothing lost."""

from __future__ import annotations

import gzip
import json
import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import PROGRAM, run, start
from tests.logs import FORMS, events, hostile_lines, write
from tests.other_connections import OtherProcess

INPUT, DATABASE, VERSION = 3, 4, 5


def _folder_without_logs(folder: Path) -> Path:
    path = folder / "empty"
    path.mkdir()
    (path / "notes.txt").write_text("nothing")
    return path


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "cowrie.json")
    return folder / "cowrie.json"


def _socket(folder: Path) -> Path:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def _truncated(folder: Path) -> Path:
    path = folder / "cowrie.json.gz"
    path.write_bytes(gzip.compress(FORMS["lines"](events(2000)))[:-700])
    return path


def _damaged(folder: Path) -> Path:
    data = bytearray(gzip.compress(FORMS["lines"](events(2000))))
    data[len(data) // 2] ^= 0xFF
    path = folder / "cowrie.json.gz"
    path.write_bytes(data)
    return path


def _bomb(folder: Path) -> Path:
    path = folder / "cowrie.json.gz"
    with gzip.open(path, "wb") as bomb:
        bomb.write(FORMS["lines"](events(3)))
        for _ in range(100):
            bomb.write(b"\0" * (1 << 20))
    return path


def _utf16(folder: Path) -> Path:
    path = folder / "cowrie.json"
    path.write_text("\n".join(events(2)), encoding="utf-16")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.json", "no such file or folder; check the spelling"),
        (_folder_without_logs, "no logs in this folder"),
        (_fifo, "is a FIFO: only regular files"),
        (_socket, "save the log to a file first"),
        (_truncated, "ends early"),
        (_damaged, "damaged gzip archive"),
        (_bomb, "refused as a decompression bomb"),
        (_utf16, "iconv"),
    ],
    ids=["missing", "folder without logs", "FIFO", "socket", "truncated", "damaged", "bomb", "UTF-16"],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    """The message names the file, says what it is and what to do; the exit code is that of unreadable input."""
    path = make(tmp_path)

    ended = run("load", path, "--db", tmp_path / "x.sqlite")

    assert INPUT == ended.returncode
    assert words in ended.stderr
    assert path.name in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("content", "events_stored", "pending"),
    [(b"", 0, 0), (b"\0" * 100, 0, 100), (b"\xef\xbb\xbf", 0, 3), (b"[]\n", 0, 3), (b"{", 0, 1), (b"{}\n", 1, 0)],
)
def test_logs_with_nothing_in_them_are_no_error(
    tmp_path: Path, content: bytes, events_stored: int, pending: int
) -> None:
    """Empty logs, and logs without a complete event, end with 0 and a note; nothing of them is stored."""
    path = tmp_path / "cowrie.json"
    path.write_bytes(content)

    ended = run("load", path, "--db", tmp_path / "x.sqlite", "--json")
    document = json.loads(ended.stdout)

    assert (0, events_stored) == (ended.returncode, document["counters"].get("events", 0))
    assert pending == document["files"][0]["bytes_pending"]


def test_a_loop_of_folders_ends(tmp_path: Path) -> None:
    """Links that lead back to a folder are followed once."""
    logs = tmp_path / "logs"
    (logs / "sensor").mkdir(parents=True)
    (logs / "sensor" / "back").symlink_to(logs)
    write(logs / "sensor" / "cowrie.json", events(5))

    ended = run("load", logs, "--db", tmp_path / "x.sqlite")

    assert 0 == ended.returncode
    assert "5 new events" in ended.stdout


def test_hostile_lines_stop_nothing(tmp_path: Path) -> None:
    """Every hostile line is an event or a dead letter with its reason and place; the lines around it are loaded."""
    hostile = hostile_lines()
    data = FORMS["lines"](events(3)) + FORMS["lines"](hostile) + b'{"bad": "\xff\xfe"}\n' + FORMS["lines"](events(5))
    path = tmp_path / "cowrie.json"
    path.write_bytes(data)

    ended = run("load", path, "--db", tmp_path / "x.sqlite", "--json")
    letters = json.loads(run("dead-letters", "list", "--db", tmp_path / "x.sqlite", "--json").stdout)

    counters = json.loads(ended.stdout)["counters"]
    assert 0 == ended.returncode
    assert len(hostile) + 1 + 8 == counters["events"] + counters["dead_letters"]
    reasons = {letter["reason"] for letter in letters["dead_letters"]}
    assert {
        "not JSON",
        "JSON, but not an object",
        "an object names a key twice",
        "nested too deep",
        "session is not text",
        "session is too long",
        "session holds a NUL",
    } <= reasons


def test_a_database_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    """While another process writes, the loader says that it waits; then it goes on and loses nothing."""
    db = tmp_path / "x.sqlite"
    log = write(tmp_path / "cowrie.json", events(10))
    assert 0 == run("load", log, "--db", db).returncode
    write(log, events(30))

    with OtherProcess(db, "PRAGMA journal_mode", "BEGIN IMMEDIATE") as other:
        loader = start("load", log, "--db", db)
        assert loader.stderr is not None
        line = loader.stderr.readline()
        other.end()
        output, _ = loader.communicate(timeout=60)

    assert "waiting for the database" in line
    assert (0, True) == (loader.returncode, "20 new events" in output)


def test_a_database_that_stays_locked_ends_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that is configured, the loader gives up with what to do, and nothing is half-written."""
    db = tmp_path / "x.sqlite"
    log = write(tmp_path / "cowrie.json", events(10))
    assert 0 == run("load", log, "--db", db).returncode
    write(log, events(30))
    monkeypatch.setenv("COWRIEPROC_LOCK_TIMEOUT_S", "0.3")

    with OtherProcess(db, "BEGIN IMMEDIATE"):
        ended = run("load", log, "--db", db)

    assert DATABASE == ended.returncode
    assert "another process has been writing" in ended.stderr
    assert "20 new events" in run("load", log, "--db", db).stdout


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """A file that is something else is refused and not changed."""
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"these are my notes, not a database\n" * 100)
    before = path.read_bytes()

    ended = run("load", write(tmp_path / "cowrie.json", events(3)), "--db", path)

    assert DATABASE == ended.returncode
    assert str(path) in ended.stderr
    assert before == path.read_bytes()


@pytest.mark.parametrize(("version", "words"), [("3", "db migrate"), ("5", "newer"), ("1", "1"), ("2", "2")])
def test_another_version_is_refused_with_the_remedy(tmp_path: Path, v3_file: Path, version: str, words: str) -> None:
    """A database of v3 is sent to `db migrate`; older and newer ones are refused; none is written to."""
    with sqlite3.connect(v3_file) as connection:
        connection.execute("UPDATE schema_state SET value = ? WHERE key = 'schema_version'", (version,))
    connection.close()
    before = v3_file.read_bytes()

    ended = run("load", write(tmp_path / "cowrie.json", events(3)), "--db", v3_file)

    assert VERSION == ended.returncode
    assert words in ended.stderr
    assert before == v3_file.read_bytes()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    """A database in a folder that does not exist is a message, not a traceback."""
    ended = run("load", write(tmp_path / "cowrie.json", events(3)), "--db", tmp_path / "no" / "x.sqlite")

    assert DATABASE == ended.returncode
    assert "does not exist" in ended.stderr


def test_a_wrong_call_is_told_how_to_be_right(tmp_path: Path) -> None:
    """A missing argument, an unknown option and an unusable setting end with 2."""
    assert [2, 2, 2] == [
        run("load").returncode,
        run("load", "x", "--nonsense").returncode,
        run("load", "x", "--batch-size", "0").returncode,
    ]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """When the disk is full the load ends with a message; after making room it goes on where it was."""
    db = tmp_path / "x.sqlite"
    log = write(tmp_path / "cowrie.json", events(20))
    assert 0 == run("load", log, "--db", db).returncode
    write(log, events(4000))
    limited = f"ulimit -f {(db.stat().st_size + 300_000) // 512}; trap '' XFSZ; "
    load = [*PROGRAM, "load", str(log), "--db", str(db), "--batch-size", "100"]
    ended = subprocess.run(
        ["sh", "-c", f'{limited} exec "$@"', "sh", *load], capture_output=True, text=True, check=False
    )
    after = run("load", log, "--db", db)

    assert DATABASE == ended.returncode, ended.stderr
    assert "room" in ended.stderr or "disk" in ended.stderr
    assert 0 == after.returncode
    with sqlite3.connect(db) as connection:
        assert (4000,) == connection.execute("SELECT count(*) FROM raw_events").fetchone()
    connection.close()
