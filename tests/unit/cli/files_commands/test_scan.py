"""`cowrieprocessor files scan`, as it is called."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

RUN = (
    "import sys; from cowrieprocessor.cli.shared.common import run; "
    "from cowrieprocessor.cli.files_commands.scan import scan; "
)
NOBODY = 65534
LOSE_ROOT = f"""
import os
if os.getuid() == 0:
    given, sys.argv = sys.argv, ["scan", "warm", "--db", "warm.sqlite", "--json"]
    run(scan)  # every module is imported now: the other user may not be allowed to read them
    sys.argv = given
    sys.stdout.flush()
    os.setgroups([]); os.setegid({NOBODY}); os.seteuid({NOBODY})
"""
HOSTILE = "\x1b]0;owned\x07\x1b[2J"


def call(*args: str | os.PathLike[str], cwd: Path, prepare: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with no settings from outside."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COWRIEPROC_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN + prepare + "sys.exit(run(scan))", *map(os.fspath, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def put(folder: Path, content: bytes) -> str:
    """Put a captured file into the folder and return its hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / sha256).write_bytes(content)
    return sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty downloads folder."""
    path = tmp_path / "downloads"
    path.mkdir()
    return path


def test_a_scan_makes_the_database_and_says_what_it_found(tmp_path: Path, folder: Path) -> None:
    """The first scan creates the database; the numbers are on standard output, and standard error is empty."""
    put(folder, b"one")
    put(folder, b"two")
    (folder / "redir_00ff").write_bytes(b"")
    (folder / "redir_00fe").write_bytes(b"two")
    os.utime(folder / "redir_00fe", (1_600_000_000, 1_600_000_000))

    done = call(folder, "--db", tmp_path / "new.sqlite", "--sensor", "pot", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "2 new" in done.stdout
    assert "1 of these redirects that Cowrie forgot to log" in done.stdout
    assert "2 files that no log names" in done.stdout
    assert "1 left alone: temporary file of Cowrie" in done.stdout
    with sqlite3.connect(tmp_path / "new.sqlite") as connection:
        sessions = connection.execute("SELECT DISTINCT session_id FROM files").fetchall()
    connection.close()
    assert sessions == [("artifact:pot",)]


def test_json_is_one_document_with_every_number(tmp_path: Path, folder: Path) -> None:
    """`--json` prints the counters, the reasons and the names in one document."""
    put(folder, b"x")
    (folder / ("a" * 64)).write_bytes(b"not a")
    (folder / "note").write_bytes(b"")

    done = call(folder, "--db", "t.sqlite", "--json", cwd=tmp_path)

    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "directory": str(folder),
        "sensor": "unknown",
        "entries": 3,
        "new": 1,
        "completed": 0,
        "unchanged": 0,
        "bytes_read": 1,
        "artifacts": 1,
        "leftovers": 0,
        "sizes_set": 0,
        "left_alone": {"mismatch": 1, "other_name": 1},
        "mismatched": ["a" * 64],
        "unreadable": [],
        "types_known": True,
        "complete": True,
        "backfilled_share": 1.0,
    }


def test_a_mismatch_warns_and_names_the_file(tmp_path: Path, folder: Path) -> None:
    """A file whose content does not match its name is reported on standard error; the exit code stays 0."""
    (folder / ("b" * 64)).write_bytes(b"tampered")

    done = call(folder, "--db", "t.sqlite", cwd=tmp_path)

    assert done.returncode == 0
    assert "warning: 1 file whose content is not what its name says:" in done.stderr
    assert "b" * 64 in done.stderr


def test_a_missing_or_wrong_folder_ends_with_3(tmp_path: Path) -> None:
    """A missing folder, and a path that is no folder, end in one message and exit code 3."""
    (tmp_path / "file").write_bytes(b"")

    missing = call("nowhere", "--db", "t.sqlite", cwd=tmp_path)
    wrong = call("file", "--db", "t.sqlite", cwd=tmp_path)

    assert (missing.returncode, wrong.returncode) == (3, 3)
    assert not (tmp_path / "t.sqlite").exists()
    assert missing.stderr == "error: nowhere: no such folder; give Cowrie's downloads folder\n"
    assert wrong.stderr == "error: file: is not a folder; give Cowrie's downloads folder\n"


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    """Escape sequences in the folder's name reach neither terminal nor log as such."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    (folder / HOSTILE).write_bytes(b"")
    (folder / ("c" * 64)).write_bytes(b"mismatch")

    done = call(folder, "--db", "t.sqlite", cwd=tmp_path)
    missing = call(tmp_path / (HOSTILE + "2"), "--db", "t.sqlite", cwd=tmp_path)

    assert (done.returncode, missing.returncode) == (0, 3)
    for stream in (done.stdout, done.stderr, missing.stderr):
        assert stream.replace("\n", "").isprintable()
    assert "\\x1b]0;owned\\x07" in done.stdout


def test_a_name_that_is_no_text_does_not_stop_the_scan(tmp_path: Path, folder: Path) -> None:
    """A file name of invalid UTF-8 is counted like any other."""
    try:
        (folder / os.fsdecode(b"\xff\xfe\x00bad".replace(b"\x00", b""))).write_bytes(b"")
    except OSError:
        pytest.skip("this file system refuses such names")
    put(folder, b"x")

    done = call(folder, "--db", "t.sqlite", "--json", cwd=tmp_path)

    assert json.loads(done.stdout)["left_alone"] == {"other_name": 1}


def test_a_v3_database_is_refused_with_the_remedy(tmp_path: Path, folder: Path) -> None:
    """A database of version 3 is not migrated implicitly: exit code 5, and the command that migrates it."""
    put(folder, b"x")
    connection = sqlite3.connect(tmp_path / "v3.sqlite")
    connection.execute("CREATE TABLE schema_state (key VARCHAR(128) PRIMARY KEY, value VARCHAR(256) NOT NULL)")
    connection.execute("CREATE TABLE raw_events (id INTEGER PRIMARY KEY)")
    connection.execute("INSERT INTO schema_state VALUES ('schema_version', '3')")
    connection.commit()
    connection.close()

    done = call(folder, "--db", "v3.sqlite", cwd=tmp_path)

    assert done.returncode == 5
    assert "db migrate" in done.stderr


def test_an_unreadable_file_is_named_and_ends_with_3() -> None:
    """A file without permission is counted and named, the others are stored, and the exit code is 3."""
    with tempfile.TemporaryDirectory() as name:
        folder, warm = Path(name) / "downloads", Path(name) / "warm"
        folder.mkdir()
        warm.mkdir()
        put(folder, b"fine")
        (folder / ("d" * 64)).write_bytes(b"secret")
        (folder / ("d" * 64)).chmod(0)
        if os.getuid() == 0:
            os.chown(name, NOBODY, NOBODY)

        done = call(folder, "--db", "t.sqlite", cwd=Path(name), prepare=LOSE_ROOT)

    assert done.returncode == 3
    assert "1 file that could not be read" in done.stderr
    assert "d" * 64 in done.stderr
    assert "1 new" in done.stdout


def test_progress_shows_on_a_terminal_and_not_in_the_data(tmp_path: Path, folder: Path) -> None:
    """On a terminal a progress line goes to standard error; standard output stays what it was."""
    for n in range(200):
        put(folder, b"%d" % n)
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN + "sys.exit(run(scan))", str(folder), "--db", "t.sqlite", "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        output, _ = process.communicate(timeout=60)
        shown = os.read(ours, 65536).decode(errors="replace")
    finally:
        os.close(ours)

    assert process.returncode == 0
    assert json.loads(output)["new"] == 200
    assert "200" in shown
