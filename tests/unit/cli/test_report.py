"""`cowrieprocessor report daily`, `weekly` and `monthly`, as they are called."""

from __future__ import annotations

import csv
import io
import json
import shlex
import stat
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url

from cowrieprocessor.db.engine import write_transaction
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_file, add_hash, add_session, at, sha


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def db(engine: Engine, db_url: str) -> str:
    """A database with a session and a file on each of two days."""
    with write_transaction(engine) as connection:
        for number, days in ((1, 0), (2, -1)):
            add_session(connection, f"s{number}", at(1, days=days), sensor=f"sensor-{number}")
            add_hash(connection, sha(number), at(1, days=days))
            add_file(connection, f"s{number}", sha(number), at(1, days=days))
    return db_url


@pytest.mark.parametrize(
    ("kind", "name", "sessions"), [("daily", "2026-11-21", 1), ("weekly", "2026-W47", 2), ("monthly", "2026-11", 2)]
)
def test_default_is_the_newest_with_sessions(db: str, program: Program, kind: str, name: str, sessions: int) -> None:
    """Without a date the report is on the newest period that has sessions, and says so on standard error."""
    outcome = program("report", kind, "--db", db, "--json")
    assert f"{name} is the newest with sessions or files; --date takes another\n" == outcome.err
    assert (kind, name, sessions) == (
        outcome.document["period"]["kind"],
        outcome.document["period"]["name"],
        outcome.document["totals"]["sessions"],
    )


def test_formats_say_the_same(db: str, program: Program) -> None:
    """Text, CSV and JSON of one report agree; `--json` is `--format json`."""
    arguments = ("report", "daily", "--db", db, "--date", "2026-11-20")
    text = program(*arguments)
    document = program(*arguments, "--json").document
    rows = list(csv.DictReader(io.StringIO(program(*arguments, "--format", "csv").out, newline="")))
    assert text.err == ""
    assert "1 session from 1 address" in text.out
    assert document == program(*arguments, "--format", "json").document
    totals = {row["key"]: int(row["value"]) for row in rows if row["section"] == "totals"}
    assert document["totals"] == totals
    assert [sha(2)] == [row["key"] for row in rows if row["section"] == "files"]


def test_json_and_another_format_contradict_each_other(db: str, program: Program) -> None:
    """`--json --format csv` is a wrong call."""
    outcome = program("report", "daily", "--db", db, "--json", "--format", "csv")
    assert (outcome.code, outcome.out) == (2, "")


@pytest.mark.parametrize("format_", ["text", "json", "csv"])
def test_output_goes_to_a_private_file(db: str, program: Program, tmp_path: Path, format_: str) -> None:
    """`--output` writes the whole report to a file of mode 0600, over an older one, and nothing else."""
    path = tmp_path / "report.out"
    path.write_text("older and longer" * 10_000)
    path.chmod(0o644)
    printed = program("report", "daily", "--db", db, "--date", "2026-11-21", "--format", format_)
    outcome = program("report", "daily", "--db", db, "--date", "2026-11-21", "--format", format_, "--output", str(path))
    assert (outcome.code, outcome.out) == (0, "")
    assert f"written to {path}" in outcome.err
    assert printed.out == path.read_bytes().decode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {"report.out"} == {entry.name for entry in tmp_path.iterdir() if entry.suffix == ".out"}


def test_output_replaces_a_link_and_not_what_it_names(db: str, program: Program, tmp_path: Path) -> None:
    """A symbolic link in the place of the report is replaced; the file that it names stays as it was."""
    precious = tmp_path / "precious"
    precious.write_text("keep")
    link = tmp_path / "report.txt"
    link.symlink_to(precious)
    assert program("report", "daily", "--db", db, "--output", str(link)).code == 0
    assert (precious.read_text(), link.is_symlink()) == ("keep", False)


@pytest.mark.parametrize("name", ["no/such/folder/report.txt", "."])
def test_output_that_cannot_be_written_ends_with_2(db: str, program: Program, tmp_path: Path, name: str) -> None:
    """A file that cannot be written is a message that names it, not a traceback."""
    outcome = program("report", "daily", "--db", db, "--output", str(tmp_path / name))
    assert (outcome.code, outcome.out) == (2, "")
    assert str(tmp_path) in outcome.err


def test_top_takes_more_rows_and_what_is_left_out_is_said(db: str, engine: Engine, program: Program) -> None:
    """`--top` bounds every list; text, JSON and CSV say how many rows are left out, or that nothing is."""
    with write_transaction(engine) as connection:
        for number in range(11):
            add_session(connection, f"t{number}", at(2), src_ip=f"198.51.100.{number}")
    arguments = ("report", "daily", "--db", db, "--date", "2026-11-21")
    assert program(*arguments, "--json").document["left_out"] == {"addresses": 2}
    assert program(*arguments, "--top", "12", "--json").document["left_out"] == {}
    assert "and 2 more\n" in program(*arguments).out
    rows = list(csv.DictReader(io.StringIO(program(*arguments, "--top", "5", "--format", "csv").out, newline="")))
    assert {row["key"]: row["value"] for row in rows if row["section"] == "left_out"} == {"addresses": "7"}
    assert sum(row["section"] == "addresses" for row in rows) == 5
    assert program(*arguments, "--top", "0").code == 2


def test_a_sensor_can_be_picked_and_misspelt(db: str, program: Program) -> None:
    """`--sensor` reports on one sensor, on its newest day; an unknown one ends with 1 and the names of all."""
    document = program("report", "daily", "--db", db, "--sensor", "sensor-2", "--json").document
    assert (
        document["period"]["name"],
        document["sensor"],
        document["totals"]["sessions"],
    ) == ("2026-11-20", "sensor-2", 1)
    for date in ((), ("--date", "2026-11-21")):
        outcome = program("report", "daily", "--db", db, "--sensor", "x", *date)
        assert (outcome.code, outcome.out) == (1, "")
        assert "sensor-1, sensor-2" in outcome.err


def test_an_empty_database_has_an_empty_report(engine: Engine, db_url: str, program: Program) -> None:
    """Without any data the report says that nothing happened and how to load logs, and ends with 0."""
    outcome = program("report", "monthly", "--db", db_url)
    assert outcome.code == 0
    assert "Nothing happened" in outcome.out
    assert "cowrieprocessor load" in outcome.err


def test_suggested_commands_name_the_database_but_no_password(db: str, program: Program, tmp_path: Path) -> None:
    """What `--db` names is repeated in the suggested commands, without a password; pasted, they work."""
    named = make_url(db).set(password="secret").render_as_string(hide_password=False) if "://tester" in db else db
    shown = program("report", "daily", "--db", named).out
    commands = [shlex.split(line) for line in shown.partition("\nNext\n")[2].splitlines()]

    assert ("secret" in shown, "***" in shown) == (False, False)
    assert len(commands) >= 3
    for command in commands:
        assert command[0] == "cowrieprocessor"
        assert "--db" in command
        pasted = program(*command[1:])
        assert (pasted.code, "Nothing happened" in pasted.out, pasted.out != "") == (0, False, True)


def test_suggested_commands_name_no_database_of_the_settings(
    db: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the settings name the database, the suggested commands find it as this one did."""
    monkeypatch.setenv("COWRIEPROC_DB_URL", db)
    shown = program("report", "daily").out
    commands = [shlex.split(line) for line in shown.partition("\nNext\n")[2].splitlines()]

    assert "--db" not in shown
    assert [program(*command[1:]).code for command in commands] == [0] * len(commands)


@pytest.mark.parametrize(("kind", "date"), [("daily", "2026-W47"), ("weekly", "x"), ("monthly", "2026-13")])
def test_a_date_that_is_none_ends_with_2(db: str, program: Program, kind: str, date: str) -> None:
    """An invalid date ends with 2 and a message with the valid forms."""
    outcome = program("report", kind, "--db", db, "--date", date)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")


def test_json_document_is_one_value(db: str, program: Program) -> None:
    """Standard output holds one JSON document and nothing else."""
    assert isinstance(json.loads(program("report", "weekly", "--db", db, "--format", "json").out), dict)


def test_a_file_has_the_same_name_in_every_view(engine: Engine, db_url: str, program: Program) -> None:
    """A report of a later day calls a file as `files list` does, not by the name it had on that day."""
    with write_transaction(engine) as connection:
        for number, (name, days) in enumerate((("z-first", -1), ("a-later", 0))):
            add_session(connection, f"s{number}", at(1, days=days))
            add_file(connection, f"s{number}", sha(1), at(1, days=days), filename=name)
        add_hash(connection, sha(1), at(1, days=-1), at(1), verdict="unknown")
    listed = program("files", "list", "--db", db_url, "--json").document["files"]
    reported = program("report", "daily", "--db", db_url, "--date", "2026-11-21", "--json").document["files"]

    assert [["z-first"], ["z-first"]] == [[file["name"] for file in files] for files in (listed, reported)]
