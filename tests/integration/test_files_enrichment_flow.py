"""From a v3 database to a report with verdicts, on SQLite and PostgreSQL, counted again by other means."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.dialects.sqlite.dialect import load_driver
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.enrichment.skipped_hashes import SKIPPED_SHA256
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import RawEvent, SessionSummary
from cowrieprocessor.events import moment_or_none
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.reports import make_report
from tests.stand_ins.clock import ManualClock
from tests.stand_ins.scene import Services, download, load, services, sha256_of

NEW_FILES = tuple(sha256_of(f"new {number}") for number in range(5))
SETTLED_ELSEWHERE = (1, 2)
FILE_EVENTS = ("cowrie.session.file_download", "cowrie.session.file_upload")


@dataclass
class World:
    """A database that was v3 and is backfilled, with new logs loaded."""

    engine: Engine
    folder: Path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """v3's events, migrated and backfilled, then new logs; on PostgreSQL the same events, taken over row by row."""
    path = tmp_path / "v3.sqlite"
    make_v3_db(path, events=3000, seed=11)
    events = stored_events(path)
    engine = get_engine(path if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    apply_migrations(engine)
    if request.param != "sqlite":
        take_over(engine, events)
    backfill(engine)
    load(engine, tmp_path, [download(f"new{number}", NEW_FILES[number % 5]) for number in range(20)])
    yield World(engine, tmp_path)
    dispose(engine)


def stored_events(path: Path) -> list[dict[str, Any]]:
    """Return the rows of raw_events in a v3 file."""
    connection = load_driver("auto").connect(str(path))
    try:
        columns = ("source", "source_offset", "source_inode", "source_generation", "payload", "payload_hash")
        found = connection.execute(f"SELECT {', '.join(columns)} FROM raw_events ORDER BY id").fetchall()
        return [dict(zip(columns, row, strict=True)) for row in found]
    finally:
        connection.close()


def take_over(engine: Engine, events: list[dict[str, Any]]) -> None:
    """Write v3's events into a database of another kind."""
    made = []
    for row in events:
        payload = json.loads(row["payload"])
        fields = payload if isinstance(payload, dict) else {}
        names = {"session_id": "session", "event_type": "eventid", "event_timestamp": "timestamp"}
        made.append(row | {"payload": payload} | {column: _text(fields.get(name)) for column, name in names.items()})
    with write_transaction(engine) as connection:
        connection.execute(insert(RawEvent.__table__), made)
        sessions = sorted({row["session_id"] for row in made if row["session_id"]})
        connection.execute(insert(SessionSummary.__table__), [{"session_id": session} for session in sessions])


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def recounted(engine: Engine) -> dict[str, set[str]]:
    """Return the sessions of each hash, from the stored events alone."""
    sessions: dict[str, set[str]] = {}
    with read_transaction(engine) as connection:
        for (stored,) in connection.execute(text("SELECT CAST(payload AS TEXT) FROM raw_events")):
            try:
                payload = json.loads(stored)  # reads lone surrogates, as Python and Cowrie write them
            except json.JSONDecodeError:
                continue  # a dead letter
            if not isinstance(payload, dict) or payload.get("eventid") not in FILE_EVENTS:
                continue
            sha256, session = str(payload.get("shasum") or "").lower(), payload.get("session")
            if len(sha256) == 64 and session and moment_or_none(payload.get("timestamp")):
                sessions.setdefault(sha256, set()).add(session)
    return sessions


def teach(here: Services, hashes: list[str]) -> dict[str, str]:
    """Let the services know files, each by its place, and return the verdict that follows for each."""
    expected = {}
    for number, sha256 in enumerate(hashes):
        match number % 5:
            case 0:
                here.virustotal.add(sha256, malicious=7 + number % 40, total=70)
                expected[sha256] = "malicious"
            case 1:
                here.malwarebazaar.add(sha256)
                expected[sha256] = "malicious"
            case 2:
                here.hashlookup.add(sha256, trust=95)
                expected[sha256] = "known-good"
            case 3:
                here.virustotal.add(sha256, malicious=0, total=66, label=None)
                expected[sha256] = "clean"
            case _:
                expected[sha256] = "unknown"
    return expected


def test_from_v3_to_a_report(world: World) -> None:
    """Migrate, backfill, load, enrich, report: every number is what a recount of the events and the services says."""
    sessions = recounted(world.engine)
    hashes = sorted(set(sessions) - SKIPPED_SHA256)
    clock = ManualClock(dt.datetime(2026, 3, 1, 0, 5, tzinfo=dt.UTC))
    with services(clock=clock) as here:
        expected = teach(here, hashes)
        while here.enrich(world.engine).paused_until is not None:
            clock.advance(days=1)
        assert [] == here.virustotal.violations
        asked = {subject: count for subject, count in here.virustotal.asked().items() if subject in expected}
    assert {sha256 for number, sha256 in enumerate(hashes) if number % 5 not in SETTLED_ELSEWHERE} == set(asked)
    assert {1} == set(asked.values())
    with read_transaction(world.engine) as connection:
        verdicts = {row[0]: row[1] for row in connection.execute(text("SELECT sha256, verdict FROM file_hashes"))}
        flagged = set(connection.scalars(text("SELECT session_id FROM session_summaries WHERE vt_flagged")))
        malicious_rows = connection.scalar(text("SELECT count(*) FROM files WHERE vt_malicious"))
        rows = connection.scalar(text("SELECT count(*) FROM files"))
    assert expected == {sha256: verdict for sha256, verdict in verdicts.items() if sha256 in expected}
    by_virustotal = [sha256 for number, sha256 in enumerate(hashes) if number % 5 == 0]
    assert sum(len(sessions[sha256]) for sha256 in by_virustotal) == malicious_rows
    assert sum(map(len, sessions.values())) == rows
    assert set().union(*(sessions[sha256] for sha256 in by_virustotal)) <= flagged
    assert Counter(expected.values()) == Counter(verdicts[sha256] for sha256 in hashes)
    report_agrees(world.engine, clock, expected)
    assert validate(world.engine, files_only=True).valid


def report_agrees(engine: Engine, clock: ManualClock, expected: dict[str, str]) -> None:
    """Check the month's report: as many new malicious files as the services made."""
    with read_transaction(engine) as connection:
        report = make_report(connection, period_of(PeriodKind.MONTHLY, dt.datetime(2026, 3, 1, tzinfo=dt.UTC)))
    assert clock.now() < report.period.end
    malicious = [sha256 for sha256, verdict in expected.items() if verdict == "malicious"]
    assert len(malicious) == report.totals.files_found_malicious
