"""`cowrieprocessor dead-letters list`, as it is called."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_dead_letter, at


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


def _fill(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        for line in range(3):
            add_dead_letter(
                connection, "not JSON", {"malformed": f"torn \x1b[31m{line}"}, source_offset=line, created_at=at(1)
            )
        add_dead_letter(connection, "too deep", {"other": 1}, resolved=True)


def test_list_shows_reason_line_and_beginning(engine: Engine, db_url: str, program: Program) -> None:
    """Each dead letter has its reason, its log with the line as editors count it, and how the value begins."""
    _fill(engine)
    outcome = program("dead-letters", "list", "--db", db_url)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("3 dead letters: not JSON 3\n")
    first, second = outcome.out.splitlines()[4:6]
    assert first.split() == ["3", "2026-11-21", "01:00", "not", "JSON", "3", "/logs/cowrie.json"]
    assert "torn \\x1b[31m2" in second
    assert "too deep" not in outcome.out


def test_list_takes_reason_limit_and_all(engine: Engine, db_url: str, program: Program) -> None:
    """A reason picks, `--all` adds the resolved ones, and pages are chained."""
    _fill(engine)
    document = program("dead-letters", "list", "--db", db_url, "--all", "--reason", "too deep", "--json").document
    assert [
        (letter["reason"], letter["resolved"], letter["payload_chars"] // 10) for letter in document["dead_letters"]
    ] == [("too deep", True, 1)]
    assert document["counts"] == [{"reason": "not JSON", "count": 3}, {"reason": "too deep", "count": 1}]
    arguments = ("dead-letters", "list", "--db", db_url, "--limit", "2", "--json")
    first = program(*arguments).document
    second = program(*arguments, "--after", first["next"]).document
    assert [letter["source_offset"] for letter in first["dead_letters"] + second["dead_letters"]] == [2, 1, 0]


def test_none_is_said(engine: Engine, db_url: str, program: Program) -> None:
    """Without dead letters the list says so and ends with 0."""
    outcome = program("dead-letters", "list", "--db", db_url)
    assert (outcome.code, outcome.out) == (0, "No dead letters.\n")
