"""`cowrieprocessor files scan` without a folder, and with `--watch`, as they are called."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from cowrieprocessor.cli.files_commands.scan import scan
from cowrieprocessor.cli.shared.common import run
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.models import Files
from cowrieprocessor.errors import DatabaseError
from cowrieprocessor.jobs.runtime.path_lock import lock_paths
from cowrieprocessor.jobs.watch.scan_watch import KIND
from tests.command_line import PROGRAM

TIMEOUT_S = 60.0
SETTINGS = """
[global]
db = "cowrie.sqlite"
[[sensor]]
name = "pot-1"
logpath = "log-1"
downloads = "dl-1"
[[sensor]]
name = "pot-2"
logpath = "log-2"
downloads = "dl-2"
[[sensor]]
name = "pot-3"
logpath = "log-3"
"""


def put(folder: Path, content: bytes) -> str:
    """Put a captured file into the folder and return its hash."""
    folder.mkdir(exist_ok=True)
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "tmpfile").write_bytes(content)
    (folder / "tmpfile").rename(folder / sha256)
    return sha256


def sessions(database: Path) -> dict[str, str]:
    """Return the session of each row of `files`, by its hash."""
    engine = get_engine(database, read_only=True)
    try:
        with read_transaction(engine) as connection:
            return {row.shasum: row.session_id for row in connection.execute(select(Files.shasum, Files.session_id))}
    finally:
        dispose(engine)


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run the command in a folder with a settings file; return its exit code and output."""
    (tmp_path / "sensors.toml").write_text(SETTINGS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def called(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scan", *args])
        code = run(scan)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield called
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_without_a_folder_every_sensors_is_scanned(tmp_path: Path, call: Call) -> None:
    """Each configured downloads folder is scanned under its sensor's name, into the configured database."""
    one, two = put(tmp_path / "dl-1", b"one"), put(tmp_path / "dl-2", b"two")

    code, out, err = call()

    assert (code, err) == (0, "")
    assert out.count("1 new") == 2
    assert sessions(tmp_path / "cowrie.sqlite") == {one: "artifact:pot-1", two: "artifact:pot-2"}


def test_a_missing_folder_does_not_keep_the_others_out(tmp_path: Path, call: Call) -> None:
    """A missing folder is reported with its sensor; the others are scanned, and the exit code is 3."""
    two = put(tmp_path / "dl-2", b"two")

    code, out, err = call("--json")

    document = json.loads(out)
    assert code == 3
    assert [(folder["sensor"], folder["new"]) for folder in document["folders"]] == [("pot-2", 1)]
    assert [(folder["sensor"], folder["directory"]) for folder in document["failed"]] == [
        ("pot-1", str(tmp_path / "dl-1"))
    ]
    assert err.startswith(f"error: sensor pot-1: {tmp_path / 'dl-1'}: no such folder")
    assert sessions(tmp_path / "cowrie.sqlite") == {two: "artifact:pot-2"}


def test_a_sensor_is_chosen_by_its_name(tmp_path: Path, call: Call) -> None:
    """--sensor without a folder scans that sensor's folder; for an unknown sensor the message lists the known ones."""
    put(tmp_path / "dl-1", b"one")
    two = put(tmp_path / "dl-2", b"two")

    assert call("--sensor", "pot-2")[0] == 0
    assert sessions(tmp_path / "cowrie.sqlite") == {two: "artifact:pot-2"}
    code, out, err = call("--sensor", "pot-3")
    assert (code, out) == (2, "")
    assert "no [[sensor]] 'pot-3' with downloads in the settings file; there are 'pot-1', 'pot-2'" in err


def test_a_folder_that_is_a_sensors_is_scanned_under_its_name(tmp_path: Path, call: Call) -> None:
    """The sensor of a configured folder comes from the settings file; --sensor takes precedence."""
    one = put(tmp_path / "dl-1", b"one")
    (tmp_path / "link").symlink_to("dl-1")

    assert call("link", "--db", "a.sqlite")[0] == 0
    assert call("link", "--db", "b.sqlite", "--sensor", "other")[0] == 0

    assert sessions(tmp_path / "a.sqlite") == {one: "artifact:pot-1"}
    assert sessions(tmp_path / "b.sqlite") == {one: "artifact:other"}


def test_without_folder_and_sensors_it_says_what_to_write(tmp_path: Path, call: Call) -> None:
    """Without a folder or a configured sensor the command ends with 2 and shows how to configure one."""
    (tmp_path / "sensors.toml").unlink()

    code, out, err = call()

    assert (code, out) == (2, "")
    assert "no [[sensor]] with a downloads in sensors.toml" in err
    assert '[[sensor]]\nname = "pot-1"\nlogpath = "' in err
    assert call("--poll", "5")[0] == 2


@contextmanager
def started(folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start `files scan --watch` in a folder; it is killed at the end of the block if it still runs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COWRIEPROC_")}
    process = subprocess.Popen(
        [*PROGRAM, "files", "scan", "--watch", *args],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(database: Path, expected: dict[str, str]) -> None:
    """Wait until `files` has exactly these rows."""
    ends_at = time.monotonic() + TIMEOUT_S
    found: dict[str, str] | None = None
    while found != expected:
        assert time.monotonic() < ends_at, found
        time.sleep(0.1)
        with suppress(DatabaseError, OperationalError):  # it is not there, or not whole, yet
            found = sessions(database)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_watch_runs_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """New files are stored and reported, and a signal ends the watch with everything committed."""
    (tmp_path / "sensors.toml").write_text(SETTINGS, encoding="utf-8")
    one = put(tmp_path / "dl-1", b"one")
    (tmp_path / "dl-2").mkdir()
    as_json = number == signal.SIGTERM

    with started(tmp_path, *(["--json"] if as_json else [])) as watch:
        wait_for(tmp_path / "cowrie.sqlite", {one: "artifact:pot-1"})
        two = put(tmp_path / "dl-2", b"two")
        wait_for(tmp_path / "cowrie.sqlite", {one: "artifact:pot-1", two: "artifact:pot-2"})
        watch.send_signal(number)
        out, err = watch.communicate()

    assert watch.returncode == 0
    reported = [line for line in err.splitlines() if not line.startswith("stopping: ")]
    if as_json:
        assert [json.loads(line)["sensor"] for line in out.splitlines()] == ["pot-1", "pot-2"]
        assert reported == []
    else:
        assert out.splitlines()[1:] == [
            f"  {tmp_path / 'dl-1'}: 1 new, 1 that no log names",
            f"  {tmp_path / 'dl-2'}: 1 new, 1 that no log names",
        ]
        assert [line.split(":")[0] for line in reported] == ["pot-1", "pot-2"]


def test_a_second_watch_of_a_folder_is_refused(tmp_path: Path, call: Call) -> None:
    """The message names the process that watches the folder, and the exit code is specific to this error."""
    put(tmp_path / "dl-2", b"two")
    call("--sensor", "pot-2")
    engine = get_engine(tmp_path / "cowrie.sqlite")
    try:
        with lock_paths(engine, KIND, [tmp_path / "dl-2"]):
            code, out, err = call("--watch")
    finally:
        dispose(engine)

    assert (code, out) == (6, "")
    assert f"{tmp_path / 'dl-2'} is held by process {os.getpid()} on " in err
