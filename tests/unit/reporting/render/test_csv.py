"""CSV: one tidy table without anything that a spreadsheet would run as a formula."""

from __future__ import annotations

import csv
import io

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.render.csv import COLUMNS, report_csv
from cowrieprocessor.reporting.reports import make_report
from tests.unit.reporting.scene import DAY, FORMULA, add_dead_letter, add_file, add_hash, add_session, at, sha

FORMULAS = (FORMULA, "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", " =1", "|calc", "＝1+1", "＠x", "\n=1", "x;=1+1")


def _rows(engine: Engine) -> list[dict[str, str]]:
    with read_transaction(engine) as connection:
        text = report_csv(make_report(connection, period_of(PeriodKind.DAILY, DAY), top_values=100))
    assert text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_section_is_in_one_table(engine: Engine) -> None:
    """Each row has its section, rank, key and value; totals have the comparison, files their properties."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1), commands={'say "hi", then': 2})
        add_session(connection, "b", at(1, days=-1))
        add_hash(connection, sha(1), at(1), size_bytes=5, mime_type="text/plain", verdict="malicious")
        add_file(connection, "a", sha(1), at(1), download_url="ftp://u:secret@198.51.100.7/x", filename="x")
        add_dead_letter(connection, "not JSON", {})
    rows = _rows(engine)
    assert tuple(rows[0]) == COLUMNS
    sections = [row["section"] for row in rows]
    assert sorted(set(sections), key=sections.index) == [
        "totals",
        "files",
        "urls",
        "addresses",
        "protocols",
        "usernames",
        "commands",
        "sensors",
        "dead_letters",
    ]
    by_key = {(row["section"], row["key"]): row for row in rows}
    total = by_key["totals", "sessions"]
    assert (
        total["period"],
        total["value"],
        total["previous"],
        total["change_percent"],
    ) == ("2026-11-21", "1", "1", "0.0")
    file = by_key["files", sha(1)]
    assert tuple(file[name] for name in ("sessions", "size_bytes", "mime_type", "verdict", "new", "first_seen")) == (
        "1",
        "5",
        "text/plain",
        "malicious",
        "yes",
        "2026-11-21T01:00:00Z",
    )
    assert by_key["commands", 'say "hi", then']["value"] == "2"
    assert ("urls", "fxp://***@198[.]51[.]100[.]7/x") in by_key
    assert by_key["dead_letters", "not JSON"]["value"] == "1"


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_is_a_formula(engine: Engine, formula: str) -> None:
    """Whatever field an attacker puts a formula into, no cell begins like a formula."""
    with write_transaction(engine) as connection:
        add_session(
            connection,
            "a",
            at(1),
            sensor=formula[:32],
            src_ip=formula[:45],
            username=formula,
            protocol=formula[:16],
            commands={formula: 1},
        )
        add_hash(connection, sha(1), at(1), mime_type=formula)
        add_file(connection, "a", sha(1), at(1), filename=formula, download_url=formula)
        add_dead_letter(connection, formula, {})
    numeric = {"rank", "sessions", "value", "previous", "change_percent", "size_bytes"}
    cells = [cell for row in _rows(engine) for name, cell in row.items() if name not in numeric]
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r", "|", "＝", "＠"))]
    assert not [cell for cell in cells if "\n" in cell or "\r" in cell or "\t" in cell]
    assert any(cell.startswith(("'", "\\x", "x;'")) for cell in cells)
    assert not [cell for cell in cells if ";=" in cell]
