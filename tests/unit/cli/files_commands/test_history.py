"""`cowrieprocessor files history`, and the sources in `files show`, as they are called."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_hash, add_queued, add_verdict, at, sha


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def db(engine: Engine, db_url: str) -> str:
    """A database with a file that two sources know and one refused to look up."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(0), md5="5" * 32, verdict="malicious", enrichment_status="enriched")
        add_verdict(connection, sha(1), "virustotal", at(1), "unknown")
        add_verdict(connection, sha(1), "virustotal", at(2), "malicious", 12, 70, classification="trojan.mirai")
        add_verdict(connection, sha(1), "malwarebazaar", at(3), "malicious", classification="Mirai")
        add_queued(connection, sha(1), "urlhaus", "refused", attempts=1, last_error="illegal_hash")
    return db_url


def test_history_shows_every_change(db: str, program: Program) -> None:
    """A file's history is shown by the beginning of its hash or its MD5, every change in order of time."""
    for name in (sha(1)[:6], sha(1).upper(), "5" * 32):
        outcome = program("files", "history", name, "--db", db)
        assert (outcome.code, outcome.err) == (0, "")
        places = [outcome.out.index(text) for text in ("unknown → malicious 12/70", "Mirai\n")]
        assert sorted(places) == places
        assert "urlhaus        refused, not asked again: illegal_hash" in outcome.out


def test_history_as_json_is_exact(db: str, program: Program) -> None:
    """The document has the changes and the sources; --limit takes the latest changes."""
    document = program("files", "history", sha(1)[:6], "--db", db, "--json").document
    assert (sha(1), "malicious", 3, 3) == (
        *(document["sha256"], document["verdict"]),
        *(document["changes_total"], len(document["changes"])),
    )
    assert ("2026-11-21T02:00:00Z", 12, "unknown") == tuple(
        document["changes"][1][name] for name in ("fetched_at", "positives", "previous_verdict")
    )
    assert ["malwarebazaar", "urlhaus", "virustotal"] == [source["provider"] for source in document["sources"]]
    latest = program("files", "history", sha(1)[:6], "--db", db, "--json", "--limit", "1").document
    assert (["malwarebazaar"], 3) == ([change["provider"] for change in latest["changes"]], latest["changes_total"])


def test_show_has_a_line_for_each_source(db: str, program: Program) -> None:
    """`files show` has the current verdict of each source and its date, or why the source has not answered."""
    outcome = program("files", "show", sha(1)[:6], "--db", db)
    assert "virustotal: malicious 12/70, trojan.mirai; since 2026-11-21, last said 2026-11-21\n" in outcome.out
    assert "urlhaus: refused, not asked again: illegal_hash\n" in outcome.out
    sources = program("files", "show", sha(1)[:6], "--db", db, "--json").document["sources"]
    assert [("malicious", None), ("refused", "refused"), ("malicious", None)] == [
        (source["verdict"], source["status"]) for source in sources
    ]


@pytest.mark.parametrize(("name", "code"), [("ffffff", 1), ("0000", 2), ("not a hash", 2)])
def test_a_hash_that_is_not_there_ends_with_its_code(db: str, program: Program, name: str, code: int) -> None:
    """An unknown hash ends with 1, what is no hash with 2, both without output."""
    outcome = program("files", "history", name, "--db", db)
    assert (code, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith("error: ")
