"""`cowrieprocessor enrich status`, as it is called."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.models import EnrichmentCacheEntry
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_hash, add_queued, at, sha

KEY = "c" * 64


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program, called in a folder of its own, with a key of VirusTotal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWRIEPROC_VIRUSTOTAL_KEY", KEY)
    return Program(monkeypatch, capsys)


@pytest.fixture
def db(engine: Engine, db_url: str) -> str:
    """A database with three files, one with a failed request, and one answer in the cache."""
    with write_transaction(engine) as connection:
        for number in range(3):
            add_hash(connection, sha(number), at(0))
        add_queued(
            connection,
            *(sha(1), "virustotal", "failed"),
            attempts=2,
            next_attempt_at=at(0),
            last_error="timeout: no answer within 30 s",
        )
        known = {"provider": "virustotal", "key": sha(2), "status": "unknown", "response": {}}
        connection.execute(insert(EnrichmentCacheEntry).values(**known, fetched_at=at(0), expires_at=at(9)))
    return db_url


def test_status_shows_the_backlog_and_the_quota(db: str, program: Program) -> None:
    """Each source has its numbers, each key its quota and when all will be done; nothing is on standard error."""
    outcome = program("enrich", "status", "--db", db)
    assert (0, "") == (outcome.code, outcome.err)
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "virustotal 2 1 0 0 1 0 2" in lines
    assert any(line.startswith("virustotal 0 of 500 0 of 15,500 4 3 2") for line in lines)
    assert "1 virustotal timeout 000001000000: timeout: no answer within 30 s" in lines
    document = program("enrich", "status", "--db", db, "--json").document
    assert (2, 1) == tuple(document["sources"][-1]["queue"][name] for name in ("waiting", "retries_due"))
    assert dt.datetime.fromisoformat(document["ledgers"][-1]["done_at"]) > dt.datetime.fromisoformat(document["at"])
    assert KEY not in outcome.out + str(document)


def test_staging_is_reported(db: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """With USE_NEW_ENRICHMENT=0 the status notes it, also with --json, with the number of answers to be replayed."""
    monkeypatch.setenv("USE_NEW_ENRICHMENT", "0")
    for arguments in ((), ("--json",)):
        outcome = program("enrich", "status", "--db", db, *arguments)
        assert "answers in the cache that wait to be replayed when it is 1 again: 1\n" in outcome.err
    assert (True, 1) == (outcome.document["staged"], outcome.document["replayable"])


def test_a_key_that_is_missing_does_not_hide_the_rest(
    db: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is named without its key is a note; the numbers are shown all the same."""
    monkeypatch.setenv("COWRIEPROC_ENRICHMENT_PROVIDERS", "hashlookup,urlhaus")
    outcome = program("enrich", "status", "--db", db)
    assert 0 == outcome.code
    assert "note: COWRIEPROC_ENRICHMENT_PROVIDERS names urlhaus, but the key is not given\n" == outcome.err
    assert "virustotal (not in use)" in outcome.out


def test_a_database_that_is_not_there_is_not_made(program: Program, tmp_path: Path) -> None:
    """Reading a database that does not exist is an error, and creates none."""
    path = tmp_path / "none.sqlite"
    assert 4 == program("enrich", "status", "--db", str(path)).code
    assert not path.exists()
