"""The wheel, installed into an empty environment: nothing is missing from it, and every command starts.

The environment gets what the wheel declares to need and nothing else: each needed distribution is linked from the
environment of the tests, so that no network is wanted and no extra or package of ours can help out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cowrieprocessor import __version__
from tests.documents import PROJECT

WHAT_MAKES_THE_WHEEL = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "cowrieprocessor",
    "samples",
)
WALK = """
import click, json
from cowrieprocessor.cli.main import cli

def walk(command, path):
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), [*path, name])

print(json.dumps(list(walk(cli, []))))
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it.

    Attributes:
        wheel: the wheel.
        folder: the environment.
        elsewhere: an empty folder to work in, from which no checkout is seen.
    """

    wheel: Path
    folder: Path
    elsewhere: Path

    @property
    def packages(self) -> Path:
        """Where packages are installed."""
        return next(self.folder.glob("lib/python3*/site-packages"))

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment with nothing of ours around it."""
        names = ("PATH", "HOME", "LANG", "TMPDIR")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=self.elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, built from the source distribution and installed into an empty environment."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(folder)
    made = Installed(wheel, folder / "venv", folder / "elsewhere")
    made.elsewhere.mkdir()
    venv.create(made.folder, with_pip=False, symlinks=True)
    _pip("install", "--no-deps", "--no-index", str(wheel), python=made.folder / "bin" / "python")
    of_wheel = next(iter(metadata.distributions(name="cowrieprocessor", path=[str(made.packages)])))
    for distribution in needed_by(of_wheel):
        link_into(made.packages, distribution)
    return made


def build(folder: Path) -> Path:
    """Build a source distribution, and the wheel from that; what is not declared is in neither."""
    source = folder / "source"
    source.mkdir()
    for name in WHAT_MAKES_THE_WHEEL:
        path = PROJECT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def _pip(*arguments: str, python: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def needed_by(distribution: metadata.Distribution) -> Iterator[metadata.Distribution]:
    """Yield the installed distributions that one needs here, without extras, and those that they need."""
    seen: set[str] = set()
    waiting = [(distribution, frozenset[str]())]
    while waiting:
        current, extras = waiting.pop()
        for text in current.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                continue
            found = metadata.distribution(requirement.name)
            if found.name not in seen:
                seen.add(found.name)
                yield found
                waiting.append((found, frozenset(requirement.extras)))


def link_into(packages: Path, distribution: metadata.Distribution) -> None:
    """Link what a distribution installed at the top of its environment into another one."""
    for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        link = packages / name
        if not link.exists():
            link.symlink_to(Path(str(distribution.locate_file(name))))


@pytest.fixture(scope="module")
def files_of_wheel(installed: Installed) -> set[str]:
    """The names of all files in the wheel."""
    with zipfile.ZipFile(installed.wheel) as wheel:
        return set(wheel.namelist())


def test_wheel_has_every_module(files_of_wheel: set[str]) -> None:
    """Each module of the package is in the wheel, the revisions of the schema among them, and nothing else is."""
    modules = {str(path.relative_to(PROJECT)) for path in (PROJECT / "cowrieprocessor").rglob("*.py")}

    assert {name for name in files_of_wheel if name.endswith(".py")} == modules
    assert sum(name.startswith("cowrieprocessor/db/revisions/r0") for name in files_of_wheel) >= 4


def test_wheel_says_that_it_has_types(files_of_wheel: set[str]) -> None:
    """The mark for type checkers is in the wheel."""
    assert "cowrieprocessor/py.typed" in files_of_wheel


def test_wheel_has_the_samples(files_of_wheel: set[str]) -> None:
    """Every sample is in the wheel, for `demo`."""
    samples = {
        f"cowrieprocessor/{path.relative_to(PROJECT)}" for path in (PROJECT / "samples").rglob("*") if path.is_file()
    }

    assert {name for name in files_of_wheel if name.startswith("cowrieprocessor/samples/")} == samples


def test_wheel_has_nothing_else(files_of_wheel: set[str]) -> None:
    """Tests, benchmarks and whatever else lies around are not installed with the package."""
    tops = {name.split("/")[0] for name in files_of_wheel}

    assert tops == {"cowrieprocessor", f"cowrieprocessor-{__version__}.dist-info"}


def test_package_comes_from_the_wheel(installed: Installed) -> None:
    """What is imported is what was installed, not the checkout; and no extra is there."""
    shown = installed.run(
        "python",
        "-c",
        "import cowrieprocessor as c, importlib.util as u, json;"
        "print(json.dumps([c.__file__, *(bool(u.find_spec(name)) for name in ('psycopg', 'magic', 'pytest'))]))",
    )

    assert json.loads(shown.stdout) == [str(installed.packages / "cowrieprocessor/__init__.py"), False, False, False]


def test_every_command_shows_its_help(installed: Installed) -> None:
    """Each command of the installed program, and each group, ends with 0 and tells how it is used."""
    paths: list[list[str]] = json.loads(installed.run("python", "-c", WALK).stdout)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shown = list(pool.map(lambda path: installed.run("cowrieprocessor", *path, "--help"), paths))

    assert [
        (path, done.stderr or done.stdout)
        for path, done in zip(paths, shown, strict=True)
        if (done.returncode, done.stderr) != (0, "")
        or not done.stdout.startswith(" ".join(["Usage: cowrieprocessor", *path]))
    ] == []
    assert len(paths) >= 20


def test_module_can_be_run(installed: Installed) -> None:
    """`python -m cowrieprocessor` is the program, and says the version of the wheel."""
    done = installed.run("python", "-m", "cowrieprocessor", "--version")

    assert (done.returncode, done.stdout) == (0, f"cowrieprocessor, version {__version__}\n")


def test_installed_program_loads_a_log(installed: Installed) -> None:
    """The installed program makes a database, loads a log into it, and reports on it."""
    lines = (PROJECT / "samples" / "cowrie.json").read_bytes().count(b"\n")
    loaded = installed.run(
        "cowrieprocessor", "load", str(PROJECT / "samples" / "cowrie.json"), "--db", "x.sqlite", "--json"
    )
    report = installed.run("cowrieprocessor", "report", "daily", "--db", "x.sqlite", "--json")

    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert json.loads(loaded.stdout)["counters"]["events"] == lines
    assert json.loads(report.stdout)["totals"]["events"] == lines


def test_installed_program_has_a_demonstration(installed: Installed) -> None:
    """`demo` finds the samples in the installed package, wherever it is called."""
    done = installed.run("cowrieprocessor", "demo")

    assert done.returncode == 0, done.stderr
    assert "What was dropped" in done.stdout
    assert (installed.elsewhere / "demo" / "cowrieprocessor.sqlite").is_file()


def test_what_is_missing_is_named(installed: Installed) -> None:
    """PostgreSQL without its extra is one message that says what to install."""
    done = installed.run("cowrieprocessor", "db", "status", "--db", "postgresql://x@127.0.0.1:1/x")

    assert done.returncode == 2
    assert "cowrieprocessor[postgres]" in done.stderr
    assert "Traceback" not in done.stderr
