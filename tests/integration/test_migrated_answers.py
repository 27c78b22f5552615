"""What the program says of a genuine v3 database after the migration, and whether it is so."""

from __future__ import annotations

import json
import re
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


ANSWERS = (
    ("files", "list"),
    ("sessions", "list"),
    ("sensors", "list"),
    ("report", "monthly"),
    ("enrich", "status"),
    ("db", "status"),
)
"""Commands whose answer depends on the backfill; those on one session or file are in a test of their own."""

DOUBLED_BY_TWINS = (("sessions", "list"), ("report", "monthly"), ("db", "status"))
"""Of ANSWERS, those that count events, which version 3 may have stored twice."""


@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_an_answer_before_the_backfill_says_so(migrated: Path, command: tuple[str, str]) -> None:
    """A line with the command to run, `complete: false` with the share; neither after the backfill."""
    before, text = document(*command, "--db", migrated), run(*command, "--db", migrated)
    done("db", "backfill", "--db", migrated)
    after, complete = document(*command, "--db", migrated), run(*command, "--db", migrated)

    assert (before["complete"], before["backfilled_share"]) == (False, 0.0)
    twice = "events that version 3 stored or counted twice may count twice until a recount, and "
    doubled = twice if command in DOUBLED_BY_TWINS else ""
    assert re.search(rf"note: the backfill of [a-zU, RL]+ is at 0%: {doubled}those that", text.stderr)
    assert f"cowrieprocessor db backfill --db {migrated}" in text.stderr
    assert (after["complete"], after["backfilled_share"]) == (True, 1.0)
    assert "backfill" not in complete.stderr + complete.stdout.replace("backfill-", "")


def half_done(path: Path) -> None:
    """Let the second backfill have come as far as half of the events, and the third not have begun."""
    half = json.dumps({"last": {"": 3236}, "target": 6473})
    change(path, f"UPDATE jobs SET state = 'stopped', cursor = '{half}' WHERE name = 'backfill-sessions'")
    change(path, "DELETE FROM jobs WHERE name = 'backfill-sensors'")


def test_answers_on_one_session_or_file_say_how_far_the_backfill_is(upgraded: Path) -> None:
    """What is shown of one session or file is as incomplete as lists are."""
    sha256, session = rows(upgraded, "SELECT shasum, session_id FROM files ORDER BY id LIMIT 1")[0]
    complete = [document(*command, "--db", upgraded) for command in shown(session, sha256)]
    half_done(upgraded)
    halves = [document(*command, "--db", upgraded) for command in shown(session, sha256)]
    lines = [run(*command, "--db", upgraded).stderr for command in shown(session, sha256)]
    change(upgraded, "DELETE FROM jobs WHERE name = 'backfill-files'", "DELETE FROM files", "DELETE FROM file_hashes")
    missing = run("files", "show", sha256, "--db", upgraded)

    assert [(found["complete"], found["backfilled_share"]) for found in complete] == [(True, 1.0)] * 3
    assert [(found["complete"], found["backfilled_share"]) for found in halves] == [(False, 0.0)] * 3
    assert all("are not all here yet: cowrieprocessor db backfill" in line for line in lines)
    assert missing.returncode == 1
    assert "the backfill of files is at 0%, what it has not read is not here yet: cowrie" in missing.stderr


def shown(session: str, sha256: str) -> list[tuple[str, ...]]:
    """Return the commands that show one session or file."""
    return [("sessions", "show", session), ("files", "show", sha256), ("files", "sessions", sha256)]


def test_the_share_is_that_of_the_slowest_backfill(upgraded: Path) -> None:
    """The share counts by events read, and is never all of them before the end; an answer asks what it depends on."""
    half_done(upgraded)
    change(
        upgraded,
        "INSERT INTO jobs (name, state, started_at, updated_at, cursor) VALUES ('backfill-sensors',"
        " 'done', '2026-01-01', '2026-01-01', '{}')",
    )
    half = document("sessions", "list", "--db", upgraded)
    files = document("files", "list", "--db", upgraded)
    change(upgraded, "UPDATE jobs SET cursor = '{\"last\": {\"\": 6473}}' WHERE name = 'backfill-sessions'")
    nearly = document("sessions", "list", "--db", upgraded)

    assert (half["complete"], half["backfilled_share"]) == (False, 0.4999)
    assert (files["complete"], files["backfilled_share"]) == (True, 1.0)
    assert (nearly["complete"], nearly["backfilled_share"]) == (False, 0.9999)


def test_reports_say_it_in_their_own_text(migrated: Path, tmp_path: Path) -> None:
    """A report that is mailed says that it is incomplete, as text and as CSV, also where nothing happened."""
    done("report", "monthly", "--db", migrated, "--output", tmp_path / "report.txt")
    done("report", "daily", "--date", "2020-01-01", "--db", migrated, "--output", tmp_path / "empty.txt")
    table = done("report", "monthly", "--db", migrated, "--format", "csv")

    for name in ("report.txt", "empty.txt"):
        text = " ".join((tmp_path / name).read_text(encoding="utf-8").split())
        assert (
            "This report is incomplete: the backfill of files, URLs, names of files, addresses, user names, commands "
            "and sensors of sessions is at 0%. Those that an earlier release stored are not all here;"
        ) in text
    assert "incomplete,,backfilled_share,,0.0," in table


def test_a_sensor_that_is_not_there_yet_is_not_denied(migrated: Path) -> None:
    """Before the backfill an unknown sensor may be one of version 3, and the error says so."""
    for command in (("sessions", "list", "--sensor", "vm"), ("sensors", "rename", "vm", "pot", "--yes")):
        ended = run(*command, "--db", migrated)
        assert ended.returncode == 1
        assert "the backfill of sensors of sessions is at 0%, what it has not read is not here yet" in ended.stderr


PACKED = "var/log/cowrie/cowrie.json.2026-01-05.gz"
"""A log that v3 stored as it was and again as gzip, with 100 sessions."""


def test_a_log_under_two_names_counts_once(migrated: Path) -> None:
    """The log has 295 logins; a report has them twice until the recount, `sessions show` each event once after it."""
    report = ("report", "monthly", "--date", "2026-02", "--db", migrated)
    session = rows(migrated, f"SELECT min(session_id) FROM raw_events WHERE source = '{PACKED}'")[0][0]
    lines = rows(migrated, f"SELECT count(*) FROM raw_events WHERE source = '{PACKED}' AND session_id = '{session}'")[
        0
    ][0]
    done("db", "backfill", "--db", migrated)
    before = document(*report)["totals"]
    doubled = document("sessions", "show", session, "--db", migrated)
    result = document("db", "recount", "--db", migrated)["result"]
    after = document(*report)["totals"]
    details = document("sessions", "show", session, "--db", migrated)
    names = {name["value"]: name["times"] for name in document(*report)["usernames"]["top"]}
    removed = document("db", "recount", "--remove-twins", "--yes", "--db", migrated)["removed"]

    assert (before["login_attempts"], after["login_attempts"], before["sessions"]) == (590, 295, after["sessions"])
    assert sum(names.values()) == 295
    assert (doubled["events_total"], details["events_total"], len(details["events"])) == (2 * lines, lines, lines)
    assert details["summary"]["event_count"] == sum(part["events"] for part in details["parts"]) == lines
    assert result["twins"] == removed["events"] == 945 + 60
    assert Path(removed["saved_to"]).is_file()
    assert document(*report)["totals"] == after
    assert document("sessions", "show", session, "--db", migrated)["events"] == details["events"]
    assert "valid" in done("db", "validate", "--db", migrated)
