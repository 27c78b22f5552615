"""No file is called new while a backfill may bring earlier sightings of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.loader.bulk import BulkLoader
from tests.unit.reporting.program import Program
from tests.v3_schema import SHA_A

SHA_NEW = "ee" * 32


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def migrated(v3_file: Path, tmp_path: Path) -> Path:
    """A migrated database that is not backfilled, with a new log: version 3 knows one of its two files."""
    log = tmp_path / "new.json"
    lines = [
        {"eventid": "cowrie.session.connect", "session": "later", "timestamp": "2031-05-01T10:00:00Z"},
        *(
            {
                "eventid": "cowrie.session.file_download",
                "session": "later",
                "timestamp": f"2031-05-01T10:00:0{number}Z",
                "shasum": shasum,
                "url": "http://198.51.100.7/x",
            }
            for number, shasum in enumerate((SHA_A, SHA_NEW), 1)
        ),
    ]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    engine = get_engine(v3_file)
    apply_migrations(engine)
    BulkLoader(engine).load([log])
    dispose(engine)
    return v3_file


def test_a_file_is_new_only_once_all_sightings_are_there(migrated: Path, program: Program) -> None:
    """Before the backfill of files, reports do not say which are new; after it, they are right."""
    report = ("report", "daily", "--date", "2031-05-01", "--db", migrated)
    text = " ".join(program(*report).out.split())
    document = program(*report, "--json").document
    rows = list(csv.DictReader(io.StringIO(program(*report, "--format", "csv").out, newline="")))
    assert "1 session dropped 2 different files." in text
    assert [words for words in ("seen before", "new ") if words in text.partition("What was dropped")[2]] == []
    assert "first seen so far" in text
    assert (document["totals"]["files"], document["totals"]["files_new"]) == (2, None)
    assert document["changes_percent"]["files_new"] is None
    assert [file["new"] for file in document["files"]] == [None, None]
    assert [row["value"] for row in rows if row["key"] == "files_new"] == [""]
    assert [row["new"] for row in rows if row["section"] == "files"] == ["", ""]

    engine = get_engine(migrated)
    backfill(engine)
    dispose(engine)
    text = " ".join(program(*report).out.split())
    document = program(*report, "--json").document
    assert "1 session dropped 2 different files: 1 never seen before." in text
    assert document["totals"]["files_new"] == 1
    assert {file["sha256"]: file["new"] for file in document["files"]} == {SHA_A: False, SHA_NEW: True}


def test_dates_of_a_file_are_those_so_far(migrated: Path, program: Program) -> None:
    """`files show` marks dates and counts that the backfill may change, until it has ended."""
    before = program("files", "show", SHA_A, "--db", migrated)
    engine = get_engine(migrated)
    backfill(engine)
    dispose(engine)
    after = program("files", "show", SHA_A, "--db", migrated)
    assert [outcome.out.count("(so far)") for outcome in (before, after)] == [3, 0]
    assert "2031-05-01 10:00:01 (so far)" in before.out
