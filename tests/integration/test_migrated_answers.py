"""What the program says of a genuine v3 database after the migration, and whether it is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run
from tests.unit.jobs.upgraded import change, rows

VM_SESSIONS = 107
"""Sessions whose events name `vm`, and whose sensor version 3 left empty."""

MATCHERS = "SELECT session_id, matcher FROM session_summaries ORDER BY 1"


def done(*arguments: object) -> str:
    """Run a command that has to succeed, and return what it printed."""
    ended = run(*arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def document(*arguments: object) -> Any:
    """Return the JSON document that a command prints."""
    return json.loads(done(*arguments, "--json"))


@pytest.fixture
def migrated(corpus_v3_file: Path) -> Path:
    """The genuine file at version 4, without a backfill."""
    done("db", "migrate", "--yes", "--db", corpus_v3_file)
    return corpus_v3_file


@pytest.fixture
def upgraded(migrated: Path) -> Path:
    """The genuine file migrated, backfilled and recounted, as docs/files_table_migration.md says."""
    done("db", "backfill", "--db", migrated)
    done("db", "recount", "--yes", "--db", migrated)
    return migrated


def test_sessions_keep_their_sensor(upgraded: Path) -> None:
    """Sessions whose sensor v3 left empty are found by the name in their events, in lists, reports and files."""
    listed = document("sessions", "list", "--sensor", "vm", "--limit", "500", "--db", upgraded)["sessions"]
    report = document("report", "monthly", "--sensor", "vm", "--db", upgraded)
    files = document("files", "list", "--sensor", "vm", "--limit", "500", "--db", upgraded)["files"]
    sensors = {row["sensor"]: row["sessions"] for row in document("sensors", "list", "--db", upgraded)["sensors"]}

    assert (len(listed), {row["sensor"] for row in listed}) == (VM_SESSIONS, {"vm"})
    assert (report["totals"]["sessions"], report["totals"]["sessions_without_sensor"]) == (VM_SESSIONS, 0)
    assert report["sensors"]["top"][0]["value"] == "vm"
    assert len(files) == report["totals"]["files"] > 0
    assert sensors["vm"] == VM_SESSIONS
    assert sum(sensors.values()) == rows(upgraded, "SELECT count(*) FROM session_summaries")[0][0]
    assert "valid" in done("db", "validate", "--db", upgraded)


def test_the_sensor_of_such_a_session_is_validated(upgraded: Path) -> None:
    """A wrong sensor is a difference, also where v3's own column is empty."""
    session = rows(upgraded, "SELECT min(session_id) FROM session_summaries WHERE matcher IS NULL")[0][0]
    change(upgraded, f"UPDATE session_sensors SET logged_sensor = 'other' WHERE session_id = '{session}'")

    ended = run("db", "validate", "--db", upgraded)

    assert ended.returncode == 1
    assert f"different in session_sensors, session {session}: logged_sensor is 'other', expected 'vm'" in ended.stdout


def test_a_rollback_returns_to_the_sensors_of_v3(corpus_v3_file: Path, tmp_path: Path) -> None:
    """What v3 stored of sensors is what it finds after migrate, backfill, recount and rollback."""
    before = rows(corpus_v3_file, MATCHERS)
    assert sum(matcher is None for _, matcher in before) == VM_SESSIONS
    for command in (["migrate", "--yes"], ["backfill"], ["recount", "--yes"]):
        done("db", *command, "--db", corpus_v3_file)
    done("db", "rollback", "--to", "3", "--yes", "--save", tmp_path / "saved.jsonl.gz", "--db", corpus_v3_file)

    assert rows(corpus_v3_file, MATCHERS) == before


def test_reports_count_the_sessions_without_a_sensor(upgraded: Path) -> None:
    """Where neither the events nor anybody named a sensor, the report says of how many sessions."""
    change(upgraded, "UPDATE session_sensors SET logged_sensor = NULL WHERE logged_sensor = 'vm'")

    totals = document("report", "monthly", "--db", upgraded)["totals"]
    text = done("report", "monthly", "--db", upgraded)

    assert (totals["sessions"], totals["sessions_without_sensor"]) == (VM_SESSIONS, VM_SESSIONS)
    assert "107 sessions have no sensor" in " ".join(text.split())


def test_commands_are_shown_as_they_were_typed(upgraded: Path) -> None:
    """Every command of the genuine file is proven by v3's hash: none is shown as v3 rewrote it."""
    stored = [row[0] for row in rows(upgraded, "SELECT command_normalized FROM command_stats")]
    session = rows(upgraded, "SELECT session_id FROM raw_events WHERE payload LIKE '%[SC]%' LIMIT 1")[0][0]
    shown = done("sessions", "show", session, "--db", upgraded)

    assert any(";" in command for command in stored)
    assert not any("[SC]" in command or "rewritten" in command for command in stored)
    assert not any(mark in shown for mark in ("[SC]", "[AND]", "[PIPE]", "[URL]", "rewritten"))
