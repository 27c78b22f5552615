"""Folders and files without the right to them, as a user who is not root meets them: a message, and its exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import PROGRAM
from tests.unit.cli.every_command import SAMPLES

LOCKED = "locked"
WITHOUT_ROOTS_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all")
"""Root is refused, too, when it lacks these capabilities."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a log, a database, and copies of both that may not be read, or lie where nothing may be seen."""
    path = tmp_path_factory.mktemp("rights")
    shutil.copy(SAMPLES / "cowrie.json", path / "log.json")
    assert subprocess.run([*PROGRAM, "load", "log.json", "--db", "x.sqlite"], cwd=path, check=False).returncode == 0
    for name in (LOCKED, "half", "half/inner", "readonly"):
        (path / name).mkdir()
    for name in ("log.json", "x.sqlite"):
        shutil.copy(path / name, path / LOCKED)
        shutil.copy(path / name, path / "half")
        (path / "half" / name).chmod(0)
    (path / LOCKED).chmod(0)
    (path / "half" / "inner").chmod(0)
    (path / "readonly").chmod(0o555)
    (path / "unreadable.toml").touch(0)
    yield path
    for name in (LOCKED, "half/inner", "readonly"):
        (path / name).chmod(0o755)


def call(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user whom permissions bind."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv (util-linux), and root may read everything")
        prefix = WITHOUT_ROOTS_RIGHTS
    return subprocess.run(
        [*prefix, *PROGRAM, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ("load locked --db n.sqlite", 3, "locked"),
        ("load locked/log.json --db n.sqlite", 3, "locked/log.json"),
        ("load half/log.json --db n.sqlite", 3, "half/log.json"),
        ("load half --db n.sqlite", 3, "half/inner"),
        ("load log.json --db locked/x.sqlite", 4, "locked/x.sqlite"),
        ("load log.json --db half/x.sqlite", 4, "half/x.sqlite"),
        ("load log.json --db readonly/n.sqlite", 4, "readonly/n.sqlite"),
        ("follow --once locked --db n.sqlite", 3, "locked"),
        ("follow --once half/log.json --db n.sqlite", 3, "half/log.json"),
        ("files scan locked --db x.sqlite", 3, "locked"),
        ("files scan half/inner --db x.sqlite", 3, "half/inner"),
        ("enrich import-cache locked --db x.sqlite", 3, "locked"),
        ("files list --db locked/x.sqlite", 4, "locked/x.sqlite"),
        ("sessions list --db half/x.sqlite", 4, "half/x.sqlite"),
        ("report daily --db x.sqlite --output locked/r.txt", 2, "locked/r.txt"),
        ("report daily --db x.sqlite --output readonly/r.txt", 2, "readonly/r.txt"),
        ("dead-letters replay --db half/x.sqlite", 4, "half/x.sqlite"),
        ("demo --dir locked", 4, "locked/cowrieprocessor.sqlite"),
        ("demo --dir readonly/demo", 2, "readonly/demo"),
        ("db status --db half/x.sqlite", 4, "half/x.sqlite"),
        ("db validate --db locked/x.sqlite", 4, "locked/x.sqlite"),
        ("db backup locked/b.sqlite --db x.sqlite", 4, "locked/b.sqlite"),
        ("db backup readonly/b.sqlite --db x.sqlite", 4, "readonly/b.sqlite"),
        ("db restore half/x.sqlite --db n2.sqlite", 4, "half/x.sqlite"),
        ("db restore locked/x.sqlite --db n2.sqlite", 4, "locked/x.sqlite"),
        ("db migrate --take-in half/x.sqlite --db x.sqlite --yes", 3, "half/x.sqlite"),
        ("db rollback --to 3 --save readonly/s.gz --db x.sqlite --yes", 1, "readonly/s.gz"),
    ],
)
def test_a_missing_right_is_said(folder: Path, words: str, code: int, named: str) -> None:
    """Whatever may not be read or written is named, without a traceback, with the exit code of the reference."""
    done = call(*words.split(), cwd=folder)

    assert done.returncode == code, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert named in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("config", ["unreadable.toml", "locked/sensors.toml"])
def test_a_settings_file_that_may_not_be_read_is_refused(folder: Path, config: str) -> None:
    """A settings file that is named and may not be read, or looked for, is a wrong setting."""
    done = call("sessions", "list", "--db", "x.sqlite", cwd=folder, COWRIEPROC_CONFIG=config)

    assert (done.returncode, config in done.stderr, "Permission denied" in done.stderr) == (2, True, True)


def test_a_current_folder_that_may_not_be_seen_is_said(folder: Path) -> None:
    """Whether the current folder has a settings file cannot be known there, so nothing is done."""
    script = f'cd "$0"; exec {" ".join(WITHOUT_ROOTS_RIGHTS)} "$@"' if os.geteuid() == 0 else 'cd "$0"; exec "$@"'
    command = ["sh", "-c", script, str(folder / LOCKED), *PROGRAM, "sessions", "list", "--db", str(folder / "x.sqlite")]
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can enter the folder first")
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "sensors.toml: cannot be looked for: Permission denied" in done.stderr


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    """In a folder that was deleted meanwhile the message says so."""
    (tmp_path / "gone").mkdir()
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    command = ["sh", "-c", script, str(tmp_path / "gone"), *PROGRAM]
    for words in (["sessions", "list"], ["load", "."], ["demo"]):
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        (tmp_path / "gone").mkdir()

        assert done.returncode == 1
        assert done.stderr == (
            "error: the current folder has been deleted; change to another one, then repeat the command\n"
        )
