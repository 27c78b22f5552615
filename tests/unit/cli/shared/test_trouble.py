"""OS errors at the edge of the program: the message names the file, or the output."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cowrieprocessor.cli.shared.common import run
from tests.command_line import PROGRAM


@click.command()
def silent() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "Input/output error"), "a file whose name the system does not report: Input/output error"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/a\x1b[31m"),
            "/srv/a\\x1b[31m: Permission denied; give",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", b"/srv/b"),
            "/srv/b: the disk is full (No space left on device); make room, then",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/srv/b"),
            "/srv/b: the disk quota is full (Disk quota exceeded); make room within the quota",
        ),
        (OSError(errno.EMFILE, "Too many open files", Path("/srv/c")), "/srv/c: Too many open files; raise the limit"),
        (OSError(errno.EBADF, "Bad file descriptor", 7), "a file whose name the system does not report: Bad file"),
    ],
)
def test_a_file_is_named(
    error: OSError, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of a file error names the file, the cause and the remedy."""
    monkeypatch.setattr(sys, "argv", ["cowrieprocessor"])

    @click.command()
    def fail() -> None:
        raise error

    assert 1 == run(fail)
    assert capsys.readouterr().err.startswith(f"error: {expected}")
    assert 0 == run(silent)


@pytest.mark.parametrize("options", [[], ["-u"]])
def test_an_output_that_is_full(options: list[str]) -> None:
    """A failing output is reported in one message, with and without a buffer."""
    command = [sys.executable, *options, *PROGRAM[1:], "--help"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert done.stderr.startswith(
        "error: the output cannot be written: the disk is full (No space left on device); make room"
    )
