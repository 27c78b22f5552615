"""Every command with standard streams that are closed, whose reader has gone, or that are not UTF-8."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.reliability.fork_server import CLOSED, NOTHING, UNREAD
from tests.unit.cli.every_command import ALL, CALLED, NAME, Scene, call, call_by_shell, make_scene

IS_CLOSED = "error: the output cannot be written: standard output is closed"
NO_READER = '"$@" | head -c 0; exit "${PIPESTATUS[0]}"'
PRINTS_NOTHING = ("db recount", "sensors rename")
"""Commands whose whole answer is messages."""
SHOWS_IT = (
    *("dead-letters list", "dead-letters show", "sensors list", "sensors rename", "sessions show"),
    *("report daily", "report weekly", "report monthly"),
)
"""Commands that show a text with a euro sign."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The scene from which every call gets its copy."""
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.mark.parametrize("name", CALLED)
def test_a_reader_that_has_gone_is_no_error(scene: Scene, name: str, tmp_path: Path) -> None:
    """`| head` ends the command quietly; a reader of messages that has gone does not keep it from its work."""
    for number, streams in enumerate(({"stdout": UNREAD}, {"stdout": NOTHING, "stderr": UNREAD})):
        here = scene.copy(tmp_path / str(number))
        done = call(here.arguments(name, logs=scene.folder), cwd=here.folder, **streams)

        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


@pytest.mark.parametrize("name", ["db check", "demo", "load", "report daily"])
def test_from_a_shell(scene: Scene, name: str, tmp_path: Path) -> None:
    """Started as users start it, a command does the same: its streams are those that the shell gives it."""
    for number, (script, code, said) in enumerate(
        (
            (NO_READER, 0, ""),
            ('exec "$@" >&-', 1, IS_CLOSED),
            ('exec "$@" <&- 2>&-', 0, ""),
            ('PYTHONIOENCODING=ascii exec "$@"', 0, ""),
        )
    ):
        here = scene.copy(tmp_path / str(number))
        done = call_by_shell(here.arguments(name, logs=scene.folder), cwd=here.folder, script=script)
        text = done.stderr.decode()

        assert done.returncode == code, text
        assert said in text
        assert "Traceback" not in text
        assert "Exception ignored" not in text


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_gone_hides_no_failure(tmp_path: Path, options: list[str]) -> None:
    """A load of which a file failed ends with 3, whether or not somebody reads what it says."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "cowrie.json.gz").write_bytes(gzip.compress(b'{"eventid": "cowrie.session.connect"}\n' * 100)[:-20])
    done = call(["load", str(logs), "--db", NAME, *options], cwd=tmp_path, stdout=UNREAD)

    assert (done.returncode, b"Traceback" in done.stderr) == (3, False)


@pytest.mark.parametrize("name", CALLED)
def test_a_closed_output_is_said(scene: Scene, name: str, tmp_path: Path) -> None:
    """With `>&-` a command that has something to print ends with 1 and one sentence; closed messages change nothing."""
    here = scene.copy(tmp_path / "one")
    done = call(here.arguments(name, logs=scene.folder), cwd=here.folder, stdout=CLOSED)

    if done.returncode == 0:
        assert name in PRINTS_NOTHING
        assert b"error" not in done.stderr
    else:
        assert (done.returncode, done.stderr.decode().splitlines()[-1].partition(";")[0]) == (1, IS_CLOSED)
        assert b"Traceback" not in done.stderr

    here = scene.copy(tmp_path / "two")
    done = call(here.arguments(name, logs=scene.folder), cwd=here.folder, stdin=CLOSED, stderr=CLOSED)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["load", "db backfill", "files scan"])
def test_nothing_is_written_into_the_database_by_its_number(scene: Scene, name: str, tmp_path: Path) -> None:
    """With all three streams closed the database gets none of their numbers: it is sound afterwards."""
    here = scene.copy(tmp_path / "here")
    words = here.arguments(name, logs=scene.folder)
    call(words, cwd=here.folder, stdin=CLOSED, stdout=CLOSED, stderr=CLOSED)
    checked = call(["db", "check", "--full", "--db", NAME], cwd=here.folder)

    assert (checked.returncode, b"sound" in checked.stdout) == (0, True)


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_any_terminal_can_show_it(scene: Scene, name: str, encoding: str, tmp_path: Path) -> None:
    """A terminal that is not UTF-8 gets only what its encoding has; other characters are escapes, lines are drawn."""
    here = scene.copy(tmp_path / "here")
    done = call(here.arguments(name, logs=scene.folder), cwd=here.folder, PYTHONIOENCODING=encoding)
    text = done.stdout + done.stderr

    assert done.returncode == 0, text
    text.decode(encoding)
    assert "€".encode() not in text
    assert (rb"\u2500" in text, rb"\u2026" in text, rb"\u2192" in text) == (False, False, False)
    assert (rb"\u20ac" in text) == (name in SHOWS_IT)


@pytest.mark.parametrize("name", ALL)
def test_help_into_a_closed_output_is_said(name: str, tmp_path: Path) -> None:
    """Also the help of every command and group needs somewhere to go."""
    done = call([*name.split(), "--help"], cwd=tmp_path, stdout=CLOSED)

    assert (done.returncode, done.stderr.decode().partition(";")[0]) == (1, IS_CLOSED)
