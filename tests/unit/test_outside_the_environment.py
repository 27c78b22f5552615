"""What is run by a Python that is too old, or has none of the packages: one message, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import PROJECT

SCRIPTS = sorted(path.name for path in (PROJECT / "scripts").glob("*.py") if path.name != "environment.py")
CALLS = [*(f"scripts/{name}" for name in SCRIPTS), "-m cowrieprocessor"]
BARE = (sys.executable, "-I", "-S", "-c")


def run(*command: str | Path, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    """Run a command without a variable of this environment."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what `make demo` begins with."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.copytree(PROJECT / "requirements", tmp_path / "requirements")
    return tmp_path


def old_python(folder: Path) -> Path:
    """Make a Python that says of itself what Python 3.10 says."""
    path = folder / "python3.10"
    path.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sys.version_info, sys.version = (3, 10, 13, 'final', 0), '3.10.13 (old)'\n"
        "if sys.argv[1] == '-c':\n    exec(sys.argv[2])\n"
        "else:\n    open('made', 'w')\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("python", ["{old}", "python-that-is-not-there"])
def test_make_demo_needs_a_recent_python(clone: Path, tmp_path_factory: pytest.TempPathFactory, python: str) -> None:
    """`make demo` with another Python says in one line which one is needed, and makes nothing."""
    before = sorted(clone.rglob("*"))
    name = python.format(old=old_python(tmp_path_factory.mktemp("old")))
    done = run("make", "demo", f"PYTHON={name}", cwd=clone)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"Python 3.11 or later is needed, and {name} is not" in done.stderr
    assert sorted(clone.rglob("*")) == before


def test_make_demo_does_not_use_an_old_environment(clone: Path) -> None:
    """An environment of an old Python is not filled: `make clean` is named."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    old_python(clone / ".venv" / "bin").rename(clone / ".venv" / "bin" / "python")
    done = run("make", "demo", cwd=clone)

    assert (done.returncode, done.stderr.count("\n"), "make clean" in done.stderr) == (2, 1, True)


def test_an_environment_that_cannot_be_made_is_not_left_half_made(clone: Path, tmp_path: Path) -> None:
    """Where `python -m venv` fails (Debian without python3-venv), the next `make demo` begins anew."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin; : > .venv/bin/python; exit 1\n')
    python.chmod(0o755)
    done = run("make", "demo", f"PYTHON={python}", cwd=clone)

    assert (done.returncode, (clone / ".venv").exists()) == (2, False)


@pytest.mark.parametrize("words", CALLS)
def test_a_python_without_the_packages_is_named(words: str) -> None:
    """A script, or the program as a module, says which Python lacks what and how to run it, and ends with 2."""
    path = words.removeprefix("-m ")
    start = (
        f"import runpy, sys; sys.path.insert(0, 'scripts'); sys.argv = [{path!r}, '--db', 'x']; "
        f"runpy.run_path({path!r}, run_name='__main__')"
        if path == words
        else f"import runpy, sys; sys.path.insert(0, '.'); runpy.run_module({path!r}, run_name='__main__')"
    )
    done = run(*BARE, start)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"error: {sys.executable} has no ")
    assert ".venv/bin/" in done.stderr


@pytest.mark.parametrize("words", CALLS)
def test_an_old_python_is_named(words: str) -> None:
    """With Python 3.10 the message says that 3.11 is needed."""
    path = words.removeprefix("-m ")
    runner = f"run_path({path!r}" if path == words else f"run_module({path!r}"
    start = (
        "import runpy, sys; sys.path[:0] = ['scripts', '.']; sys.version_info = (3, 10, 13, 'final', 0); "
        f"sys.argv = [{path!r}]; runpy.{runner}, run_name='__main__')"
    )
    done = run(*BARE, start)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: Python 3.11 or later is needed")


def test_no_address_of_the_project_is_claimed() -> None:
    """The package metadata has no project URL, because nobody owns one."""
    claimed = [
        str(path.relative_to(PROJECT))
        for folder in ("cowrieprocessor", "packaging", "docs", "requirements", "scripts")
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and b"github.com/cowrieprocessor" in path.read_bytes()
    ]

    assert claimed == []
    assert "[project.urls]" not in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
