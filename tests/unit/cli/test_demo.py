"""`cowrieprocessor demo`: it finds the samples from any folder."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cowrieprocessor.cli import demo
from cowrieprocessor.errors import InputNotFound
from tests.documents import PROJECT
from tests.unit.reporting.program import Program


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program, called in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Program(monkeypatch, capsys)


def test_demo_shows_the_report_and_what_to_do_next(program: Program, tmp_path: Path) -> None:
    """The demonstration loads the samples, prints the report and the next commands, and writes one folder."""
    shown = program("demo")

    assert shown.code == 0
    assert "What was dropped" in shown.out
    assert "cowrieprocessor files list --db demo/cowrieprocessor.sqlite" in shown.out
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_demo_again_shows_the_same(program: Program) -> None:
    """A second demonstration loads nothing new and prints the same report."""
    first, again = program("demo"), program("demo")

    assert again.code == 0
    assert "2 with nothing new" in again.out
    assert again.out[again.out.index("Cowrie report") :] == first.out[first.out.index("Cowrie report") :]


def test_commands_of_the_demo_can_be_pasted(program: Program) -> None:
    """A folder with a blank in its name is quoted in the commands that are shown."""
    shown = program("demo", "--dir", "a b")

    assert shown.code == 0
    assert "--db 'a b/cowrieprocessor.sqlite'" in shown.out
    assert "--db 'a b/cowrieprocessor.sqlite'" in shown.err


def test_samples_are_named_from_here_in_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a clone the path of the samples is relative."""
    monkeypatch.chdir(PROJECT)

    assert demo.find_samples() == Path("samples")


def test_a_folder_of_that_name_is_not_taken_for_the_samples(program: Program, tmp_path: Path) -> None:
    """The user's own logs in a folder `samples` are not loaded."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "cowrie.json").write_text('{"eventid":"x","session":"mine"}\n', encoding="utf-8")

    assert "4,436 new events" in program("demo").out


def test_a_folder_that_cannot_be_made_ends_with_2(program: Program, tmp_path: Path) -> None:
    """If the folder cannot be made, the message names it."""
    (tmp_path / "file").touch()
    shown = program("demo", "--dir", "file/demo")

    assert shown.code == 2
    assert "file/demo: cannot be made" in shown.err


def test_without_samples_it_says_what_to_do(tmp_path: Path) -> None:
    """Without samples the demo ends with 3 and the command that loads one's own logs."""
    with pytest.raises(InputNotFound, match="cowrieprocessor load") as raised:
        demo.run_demo(tmp_path / "demo", samples_name="no-such-folder")

    assert raised.value.exit_code == 3


def test_a_step_that_fails_ends_the_demo_as_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sample log that is damaged ends the demonstration with the exit code of `load`."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cowrie.json").write_text('{"eventid":"x","session":"s"}\n', encoding="utf-8")
    (broken / "cowrie.json.1.gz").write_bytes(b"\x1f\x8b\x08damaged")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.exceptions.Exit) as raised:
        demo.run_demo(Path("demo"), samples_name=str(broken))

    assert raised.value.exit_code == 3
    assert "Cowrie report" not in capsys.readouterr().out
