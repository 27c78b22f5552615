"""README and quickstart, typed as they stand: every command works and prints what the page says."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import v3_schema
from tests.documents import PROJECT, Command, commands, pages

SAMPLES = PROJECT / "samples"
MAKE = re.compile(r"make [a-z]+")
"""What is not run here, because it runs these tests or installs packages; the targets have to be there."""
TOLD_TO_MAKE = re.compile(r"(?:^ *|`|\$ )make ([a-z]+)(?=`|$)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """How one command ended and what it printed, standard error included."""

    command: Command
    code: int
    printed: str

    @property
    def problem(self) -> str | None:
        """What is wrong with it; None if it did what the page says."""
        where = f"line {self.command.line}: $ {self.command.text}\n"
        if self.code:
            return f"{where}ended with {self.code}:\n{self.printed}"
        expected = self.command.expected
        if expected is not None and not _matches(expected, self.printed):
            return f"{where}should have printed\n{expected}\nbut printed\n{self.printed}"
        return None


def _matches(expected: str, printed: str) -> bool:
    printed = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    return doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)


def make_targets() -> set[str]:
    """Return the targets of the Makefile."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def run_page(text: str, folder: Path) -> list[Outcome]:
    """Type the commands of a page into one shell, in a folder that looks like a clone after `make demo`.

    The home folder holds a Cowrie as its documentation installs it, with the samples as its logs.
    """
    home, clone, out = folder / "home", folder / "clone", folder / "out"
    for path in (home, clone, out):
        path.mkdir()
    logs, downloads = home / "cowrie/var/log/cowrie", home / "cowrie/var/lib/cowrie/downloads"
    logs.mkdir(parents=True)
    for log in SAMPLES.glob("cowrie.json*"):
        shutil.copy(log, logs)
    shutil.copytree(SAMPLES / "downloads", downloads)
    v3_schema.create(clone / "cowrie-v3.sqlite")
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / "scripts").symlink_to(PROJECT / "scripts")
    typed = [command for command in commands(text) if not MAKE.fullmatch(command.text)]
    script = "".join(
        f"{{\n{command.text}\n}} >{out}/{number} 2>&1 </dev/null\necho $? >{out}/{number}.code\n"
        for number, command in enumerate(typed)
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COWRIEPROC_", "VIRTUAL_ENV"))}
    bash = shutil.which("bash") or "bash"
    subprocess.run([bash, "-c", script], cwd=clone, env={**kept, "HOME": str(home)}, check=True, timeout=120)
    return [
        Outcome(command, int((out / f"{number}.code").read_text()), (out / f"{number}").read_text(encoding="utf-8"))
        for number, command in enumerate(typed)
    ]


@pytest.mark.parametrize(
    ("page", "least"), [("README.md", 7), ("docs/quickstart.md", 15), ("docs/files_table_migration.md", 8)]
)
def test_commands_of_a_page_work_as_written(tmp_path: Path, page: str, least: int) -> None:
    """Every command of the page ends with 0 and prints what the page shows."""
    outcomes = run_page((PROJECT / page).read_text(encoding="utf-8"), tmp_path)

    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    assert not problems, "\n".join(problems)
    assert len(outcomes) >= least


def test_python_of_the_readme_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python snippet of README runs in a clone with nothing configured, and loads the samples."""
    (tmp_path / "samples").symlink_to(SAMPLES)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```$", (PROJECT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    printed = [
        subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=True).stdout
        for snippet in snippets
    ]

    assert len(printed) == 1
    assert re.fullmatch(r"\d{3,} new events in \d+ files\n", printed[0])


def test_make_commands_of_all_pages_are_targets() -> None:
    """What the pages tell people to make is in the Makefile."""
    told = {target for page in pages() for target in TOLD_TO_MAKE.findall(page.read_text(encoding="utf-8"))}

    assert {"demo", "test"} <= told
    assert told <= make_targets()


def test_readme_shows_the_two_commands() -> None:
    """README has `make demo` and `make test` as commands to type."""
    typed = {command.text for command in commands((PROJECT / "README.md").read_text(encoding="utf-8"))}

    assert {"make demo", "make test"} <= typed


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("```sh\n. .venv/bin/activate\ncowrieprocessor load ~/cowrie/var/log/nowhere\n```\n", "ended with 3"),
        ("```sh\ncowrieprocessor-that-is-not-there\n```\n", "ended with 127"),
        (
            "```console\n$ . .venv/bin/activate\n$ cowrieprocessor --version\ncowrieprocessor, version 9\n```\n",
            "should have printed",
        ),
    ],
)
def test_a_page_that_is_wrong_is_found(tmp_path: Path, page: str, problem: str) -> None:
    """A command that fails, is missing, or prints something else than the page says does not pass."""
    problems = [outcome.problem for outcome in run_page(page, tmp_path) if outcome.problem]

    assert len(problems) == 1
    assert problem in problems[0]
