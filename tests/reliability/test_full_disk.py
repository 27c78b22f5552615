"""A disk or quota that is full: every command ends with an error that says so, never with 0 and half a file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v3_schema
from tests.command_line import PROGRAM, run
from tests.documents import PROJECT
from tests.other_connections import sqlite3

LOG = PROJECT / "samples" / "cowrie.json"

_ON_FULL_DISK = """
set -e
mount -t tmpfs -o size=64m tmpfs "$1"
cp "$2"/* "$1"/
head -c "$3" /dev/zero > "$1/room"
dd if=/dev/zero of="$1/padding" bs=4096 2>"$1/padding.log" || true
rm "$1/room"
folder="$1"
shift 3
code=0
"$@" || code=$?
rm "$folder/padding"
cp -R "$folder"/. "$FOUND"
exit "$code"
"""
"""Arguments: the mount point, the files to copy there, the bytes that stay free, the command."""


class FullDisk:
    """Runs the program in a folder on a disk with hardly any room.

    Attributes:
        folder: the folder, which is there only while the program runs.
        files: what it holds at first.
        found: what it held at the end.
    """

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.files, self.found = tmp_path / "disk", tmp_path / "files", tmp_path / "found"
        for folder in (self.folder, self.files, self.found):
            folder.mkdir()
        (self.files / "a.txt").write_text("")

    def __call__(
        self, free_bytes: int, *arguments: object, out: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program; `out` is a file of the folder for its standard output."""
        command: list[Any] = [*PROGRAM, *arguments]
        if out is not None:
            command = ["sh", "-c", 'out="$1"; shift; exec "$@" > "$out"', "sh", self.folder / out, *command]
        script = ["unshare", "-rm", "sh", "-c", _ON_FULL_DISK, "sh", self.folder, self.files, free_bytes, *command]
        return subprocess.run(
            [str(word) for word in script],
            env={**os.environ, "FOUND": str(self.found), **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def disk(tmp_path: Path) -> FullDisk:
    """A disk of a private mount namespace."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no private mounts for this user")
    return FullDisk(tmp_path)


@pytest.fixture
def v4(tmp_path: Path) -> Iterator[Path]:
    """A database with the sample log."""
    path = tmp_path / "v4.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    BulkLoader(engine).load([LOG])
    dispose(engine)
    return path


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["sessions list --limit 500", "sessions list --json", "report daily", "--help"])
def test_output_onto_a_full_disk_fails(disk: FullDisk, v4: Path, command: str, unbuffered: str) -> None:
    """An output of which only the beginning found room ends with 1, also where Python writes without a buffer."""
    arguments = [*command.split(), *(() if command == "--help" else ("--db", v4))]
    whole = run(*arguments)
    assert whole.returncode == 0
    free_bytes = len(whole.stdout.encode()) // 2 // 4096 * 4096

    done = disk(free_bytes, *arguments, out="out", PYTHONUNBUFFERED=unbuffered)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: the output cannot be written: the disk is full (No space left on device); make room"
    )


@pytest.mark.parametrize("free_bytes", [0, 4096, 16_384, 40_960, 81_920, 163_840, 409_600])
@pytest.mark.parametrize("makes_it", [True, False])
def test_a_load_onto_a_full_disk_fails(disk: FullDisk, free_bytes: int, makes_it: bool) -> None:
    """Wherever the room ends, the load ends with 4, says that the disk is full, and leaves a sound database."""
    if not makes_it:
        engine = get_engine(disk.files / "x.sqlite")
        apply_migrations(engine)
        dispose(engine)

    done = disk(free_bytes, "load", LOG, "--db", disk.folder / "x.sqlite")

    assert (done.returncode, "the disk is full" in done.stderr) == (4, True), done.stderr
    if (disk.found / "x.sqlite").exists():
        with closing(sqlite3.connect(disk.found / "x.sqlite")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("free_bytes", [0, 4096, 40_960])
@pytest.mark.parametrize(
    "command",
    [
        ("report", "daily", "--output", "{disk}/report.txt", "--db", "{disk}/x.sqlite"),
        ("db", "backup", "{disk}/b.sqlite", "--db", "{disk}/x.sqlite"),
        ("db", "restore", "{other}", "--db", "{disk}/x.sqlite", "--yes"),
        ("db", "migrate", "--db", "{disk}/v3.sqlite", "--yes"),
        ("db", "rollback", "--to", "3", "--db", "{disk}/x.sqlite", "--yes"),
        ("db", "optimize", "--db", "{disk}/x.sqlite", "--yes"),
        ("db", "remove", "--log", str(LOG), "--db", "{disk}/x.sqlite", "--yes"),
        ("sensors", "rename", "{sensor}", "pot", "--db", "{disk}/x.sqlite", "--yes"),
        ("files", "scan", str(LOG.parent / "downloads"), "--db", "{disk}/x.sqlite"),
        ("demo", "--dir", "{disk}/demo"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_command_on_a_full_disk_fails(disk: FullDisk, v4: Path, command: tuple[str, ...], free_bytes: int) -> None:
    """A command that finds no room ends with an error that says so; with enough for what it does, with 0."""
    shutil.copy(v4, disk.files / "x.sqlite")
    v3_schema.create(disk.files / "v3.sqlite")
    with closing(sqlite3.connect(v4)) as connection:
        (sensor,) = connection.execute("SELECT min(matcher) FROM session_summaries").fetchone()
    names = {"disk": disk.folder, "other": v4, "sensor": sensor}

    done = disk(free_bytes, *(word.format(**names) for word in command))

    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert command[:2] in (("report", "daily"), ("db", "optimize"), ("sensors", "rename"))
        assert free_bytes > 0
    else:
        last = done.stderr.splitlines()[-1]
        assert "the disk is full" in last or "are free; make room" in last or "are free on its disk; make room" in last
    with closing(sqlite3.connect(disk.found / "x.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_validation_without_room_for_its_file_fails(disk: FullDisk, v4: Path) -> None:
    """The recomputed rows do not fit into the temporary folder: the error names it, and says that the disk is full."""
    done = disk(4096, "db", "validate", "--db", v4, TMPDIR=str(disk.folder))

    assert done.returncode == 4
    assert f"error: {disk.folder}/cowrieprocessor-validate-" in done.stderr
    assert "the disk is full (No space left on device)" in done.stderr


@pytest.mark.parametrize("calls", ["pwrite64,fsync", "fsync,fdatasync"])
def test_a_full_quota_is_called_full(v4: Path, tmp_path: Path, calls: str) -> None:
    """SQLite reports a quota as an I/O error without a cause; what is said is that the quota is full."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace: install Debian's package strace")
    log = tmp_path / "more.json"
    log.write_bytes(LOG.read_bytes().replace(b'"timestamp":"20', b'"timestamp":"21'))
    inject = ["-e", f"inject={calls}:error=EDQUOT"]

    done = subprocess.run(
        [strace, "-f", "-qq", "-o", "/dev/null", *inject, *PROGRAM, "load", str(log), "--db", str(v4)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 4
    assert "the disk quota is full (Disk quota exceeded); make room" in done.stderr
