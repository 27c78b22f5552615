"""`cowrieprocessor sensors`, the sensors that `load` gives, and what lists say of them, as they are called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from cowrieprocessor.analysis.downloads_scan import artifact_session, scan_downloads
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import Files, SessionToRename
from cowrieprocessor.loader.bulk import BulkLoader
from tests.logs import count
from tests.unit.reporting.program import Program

LONG = "ubuntu-s-1vcpu-512mb-10gb-fra1-0"
CONNECT, CLOSED = "cowrie.session.connect", "cowrie.session.closed"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


def event(session: str, at: str, eventid: str = CONNECT, sensor: str | None = "localhost", **more: Any) -> str:
    """Return a line of a log."""
    fields = {"eventid": eventid, "session": session, "timestamp": f"{at}.000000Z", "src_ip": "198.51.100.7", **more}
    return json.dumps(fields if sensor is None else fields | {"sensor": sensor})


def log(path: Path, *lines: str) -> Path:
    """Write a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def pots(engine: Engine, db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two honeypots that both say `localhost`, or the id of a container, with their settings file; the database."""
    folder = tmp_path / "pots"
    log(
        folder / "p1" / "cowrie.json",
        event("c1", "2026-11-20T10:00:00", sensor="3f2a1b4c5d6e"),
        event("c2", "2026-11-21T10:00:00", sensor="9e8d7c6b5a40"),
        event("c3", "2026-11-22T10:00:00"),
    )
    log(
        folder / "p2" / "cowrie.json",
        event("d1", "2026-11-20T10:00:00"),
        event("d2", "2026-11-22T10:05:00", sensor=None),
    )
    (folder / "sensors.toml").write_text(
        "".join(f'[[sensor]]\nname = "pot-{n}"\nlogpath = "p{n}/cowrie.json"\n' for n in (1, 2))
    )
    monkeypatch.chdir(folder)
    return db_url


def sensors(program: Program, db: str) -> dict[str, str]:
    """Return the sensor of each session, as the list has it."""
    rows = program("sessions", "list", "--db", db, "--json").document["sessions"]
    return {row["session_id"]: row["sensor"] for row in rows}


BOTH = {"c1": "pot-1", "c2": "pot-1", "c3": "pot-1", "d1": "pot-2", "d2": "pot-2"}


@pytest.mark.parametrize(
    "calls",
    [[("load",)], [("load", ".")], [("load", "p2"), ("load", "p1/cowrie.json")], [("follow", "--once")]],
    ids=["load", "load of the folder", "one after the other", "follow"],
)
def test_the_settings_file_names_the_sensors(pots: str, program: Program, calls: list[tuple[str, ...]]) -> None:
    """With `sensors.toml` two pots that both say `localhost` are two, however their logs are loaded, and again."""
    for _ in range(2):
        for call in calls:
            assert program(*call, "--db", pots).code == 0
        assert sensors(program, pots) == BOTH

    listed = program("sensors", "list", "--db", pots, "--json").document

    assert [(row["sensor"], row["named_by"], row["logs"], row["sessions"]) for row in listed["sensors"]] == [
        ("pot-1", "given", 1, 3),
        ("pot-2", "given", 1, 2),
    ]
    assert listed["sensors"][0]["first_event_at"] == "2026-11-20T10:00:00Z"
    assert listed["sensors"][0]["last_event_at"] == "2026-11-22T10:00:00Z"
    assert program("report", "monthly", "--db", pots, "--date", "2026-11", "--json").document["totals"]["sensors"] == 2


def test_a_flag_names_the_logs_of_one_load(pots: str, program: Program) -> None:
    """`--sensor` counts instead of the settings file, also for a log that is known, and the load says so."""
    first = program("load", "p1", "--db", pots, "--sensor", "attic")
    again = program("load", "p1", "--db", pots, "--sensor", "cellar")
    refused = program("load", "p1", "--db", pots, "--sensor", " ")

    assert (first.code, again.code, refused.code) == (0, 0, 2)
    assert first.err == ""
    assert "p1/cowrie.json: its sensor is cellar from now on, no longer attic" in again.err
    assert "--sensor is ' '" in refused.err
    assert set(sensors(program, pots).values()) == {"cellar"}


def test_load_without_paths_and_sensors_says_what_to_write(program: Program, tmp_path: Path) -> None:
    """Without a path and without a settings file the load ends with 2 and shows what to write."""
    outcome = program("load", "--db", str(tmp_path / "x.sqlite"))

    assert outcome.code == 2
    assert "[[sensor]]" in outcome.err


def test_rename_changes_everything_derived(pots: str, program: Program, engine: Engine, tmp_path: Path) -> None:
    """A new name is there in every list and report, also for later loads, and `validate` agrees."""
    program("load", "--db", pots)
    renamed = program("sensors", "rename", "pot-2", "attic", "--db", pots, "--json")
    again = program("sensors", "rename", "pot-2", "attic", "--db", pots)

    assert (renamed.code, renamed.document["sessions"], again.code) == (0, 2, 0)
    assert sensors(program, pots) == BOTH | {"d1": "attic", "d2": "attic"}
    log(tmp_path / "pots" / "p2" / "cowrie.json.2026-11-19", event("d0", "2026-11-19T10:00:00"))
    assert program("load", "--db", pots).err == ""
    assert sensors(program, pots)["d0"] == "attic"
    assert count(engine, SessionToRename) == 0
    gone = program("sessions", "list", "--db", pots, "--sensor", "pot-2")
    assert (gone.code, "it was renamed to 'attic'" in gone.err) == (1, True)
    assert len(program("sessions", "list", "--db", pots, "--sensor", "attic", "--json").document["sessions"]) == 3
    assert program("sensors", "list", "--db", pots, "--json").document["sensors"][0]["renamed_from"] == ["pot-2"]
    report = program("report", "monthly", "--db", pots, "--date", "2026-11", "--json").document
    assert {row["value"] for row in report["sensors"]["top"]} == {"pot-1", "attic"}
    assert program("db", "validate", "--db", pots).code == 0


def test_a_logged_name_can_be_renamed(engine: Engine, db_url: str, program: Program, tmp_path: Path) -> None:
    """What logs say is renamed like what was given; names renamed to the old one follow, and going back is possible."""
    path = log(tmp_path / "a.json", event("a", "2026-11-20T10:00:00"))
    program("load", str(path), "--db", db_url)

    for old, new in (("localhost", "one"), ("one", "two"), ("two", "localhost")):
        assert program("sensors", "rename", old, new, "--db", db_url).code == 0
        assert set(sensors(program, db_url).values()) == {new}
        log(path, *path.read_text().splitlines(), event(new, "2026-11-20T11:00:00"))
        program("load", str(path), "--db", db_url)
        assert set(sensors(program, db_url).values()) == {new}
    assert program("db", "validate", "--db", db_url).code == 0


def test_two_sensors_become_one_only_when_asked(pots: str, program: Program) -> None:
    """A name that another sensor has is refused with 2 and the flag that allows it; an unknown old name with 1."""
    program("load", "--db", pots)

    refused = program("sensors", "rename", "pot-2", "pot-1", "--db", pots)
    unknown = program("sensors", "rename", "pot-3", "pot-4", "--db", pots)
    same = program("sensors", "rename", "pot-1", "pot-1", "--db", pots)
    merged = program("sensors", "rename", "pot-2", "pot-1", "--db", pots, "--merge", "--yes")

    assert (refused.code, unknown.code, same.code, merged.code) == (2, 1, 2, 0)
    assert "--merge" in refused.err
    assert "sensors list" in unknown.err
    assert "one with the sensor that had this name" in merged.out
    assert set(sensors(program, pots).values()) == {"pot-1"}


def captured(folder: Path, *contents: bytes) -> Path:
    """Write captured files, named by their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    for content in contents:
        (folder / hashlib.sha256(content).hexdigest()).write_bytes(content)
    return folder


def artifacts(engine: Engine) -> dict[str, int]:
    """Return how many captured files without a log there are, by session_id."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(Files.session_id).where(Files.origin == "artifact")).scalars().all()
    return {session_id: rows.count(session_id) for session_id in rows}


def test_captured_files_are_renamed_and_never_a_session(
    engine: Engine, db_url: str, program: Program, tmp_path: Path
) -> None:
    """Captured files that no log names follow their sensor, each once; no list calls one a session."""
    one, two = captured(tmp_path / "1", b"a", b"b"), captured(tmp_path / "2", b"b", b"c")
    scan_downloads(engine, one, sensor=f"{LONG}-of-some-provider-with-a-long-name-1")
    scan_downloads(engine, two, sensor="pot-2")

    old = f"{LONG}-of-some-provider-with-a-long-name-1"
    assert program("sensors", "rename", old, "pot-2", "--db", db_url).code == 2  # there is a sensor pot-2
    assert program("sensors", "rename", old, "pot-2", "--merge", "--yes", "--db", db_url).code == 0
    scan_downloads(engine, captured(one, b"d"), sensor=old)

    assert artifacts(engine) == {artifact_session("pot-2"): 4}
    digest = hashlib.sha256(b"a").hexdigest()
    listed = program("files", "sessions", digest, "--db", db_url, "--json").document
    assert (listed["sessions"], listed["captured_on"]) == ([], ["pot-2"])
    assert (
        "No log names a session with this file; it was captured on pot-2."
        in program("files", "sessions", digest, "--db", db_url).out
    )
    assert program("sessions", "list", "--db", db_url, "--json").document["sessions"] == []
    assert len(program("files", "list", "--db", db_url, "--sensor", "pot-2", "--json").document["files"]) == 4
    row = program("sensors", "list", "--db", db_url, "--json").document["sensors"]
    assert [(one["sensor"], one["named_by"], one["sessions"], one["captured_files"]) for one in row] == [
        ("pot-2", "captured files", 0, 4)
    ]


def test_long_names_are_two_sensors(engine: Engine, db_url: str, program: Program, tmp_path: Path) -> None:
    """Two sensors whose names agree in 31 characters are two in lists, filters, reports; a third is an error."""
    lines = [event("a", "2026-03-08T11:00:00", sensor=f"{LONG}1"), event("b", "2026-03-08T11:00:00", sensor=f"{LONG}2")]
    program("load", str(log(tmp_path / "a.json", *lines)), "--db", db_url)

    assert sensors(program, db_url) == {"a": f"{LONG}1", "b": f"{LONG}2"}
    for session, number in (("a", 1), ("b", 2)):
        found = program("sessions", "list", "--db", db_url, "--sensor", f"{LONG}{number}", "--json").document
        assert [row["session_id"] for row in found["sessions"]] == [session]
    for command in (("sessions", "list"), ("files", "list"), ("report", "daily")):
        missing = program(*command, "--db", db_url, "--sensor", f"{LONG}3")
        assert (missing.code, "sensors list" in missing.err) == (1, True)
    report = program("report", "daily", "--db", db_url, "--date", "2026-03-08", "--json").document
    assert (report["totals"]["sensors"], report["sensors"]["distinct"]) == (2, 2)


@pytest.fixture
def reused(engine: Engine, db_url: str, tmp_path: Path) -> str:
    """A database in which two attackers share a session id on two sensors, and one that is used once."""
    path = log(
        tmp_path / "cowrie.json",
        event("33f69b48", "2026-11-20T10:00:00", sensor="pot-a"),
        event("33f69b48", "2026-11-20T10:00:03", CLOSED, sensor="pot-a"),
        event("once", "2026-11-20T10:00:00", sensor="pot-a"),
        event("once", "2026-11-21T10:00:00", CLOSED, sensor="pot-a"),
        event("33f69b48", "2027-12-25T10:00:00", sensor="pot-b", src_ip="203.0.113.50"),
        event("33f69b48", "2027-12-25T10:00:03", CLOSED, sensor="pot-b", src_ip="203.0.113.50"),
    )
    BulkLoader(engine).load([path])
    return db_url


def test_a_reused_id_is_marked_and_shown_in_parts(reused: str, program: Program) -> None:
    """Lists mark the id, `sessions show` prints the parts with sensor and times, reports say how many there are."""
    rows = program("sessions", "list", "--db", reused, "--json").document["sessions"]
    assert {row["session_id"]: row["reused"] for row in rows} == {"33f69b48": True, "once": False}
    assert "33f69b48 (reused)" in program("sessions", "list", "--db", reused).out

    document = program("sessions", "show", "33f69b48", "--db", reused, "--json").document
    assert document["parts"] == [
        {
            "sensor": "pot-a",
            "src_ip": "198.51.100.7",
            "first_event_at": "2026-11-20T10:00:00Z",
            "last_event_at": "2026-11-20T10:00:03Z",
            "events": 2,
        },
        {
            "sensor": "pot-b",
            "src_ip": "203.0.113.50",
            "first_event_at": "2027-12-25T10:00:00Z",
            "last_event_at": "2027-12-25T10:00:03Z",
            "events": 2,
        },
    ]
    assert [event["part"] for event in document["events"]] == [1, 1, 2, 2]
    shown = program("sessions", "show", "33f69b48", "--db", reused).out
    assert "This id was used 2 times" in shown
    assert "What happened in part 2, on pot-b (UTC)" in shown
    assert "This id was used" not in program("sessions", "show", "once", "--db", reused).out
    daily = program("report", "daily", "--db", reused, "--date", "2026-11-20")
    assert "1 session id was used more than once" in daily.out
    other = program("report", "daily", "--db", reused, "--date", "2026-11-21", "--json").document
    assert other["totals"]["sessions_reused"] == 0


@pytest.mark.parametrize(("gap", "is_reused"), [("25h", False), ("1h", True)])
def test_the_pause_is_a_setting(
    reused: str, program: Program, monkeypatch: pytest.MonkeyPatch, gap: str, is_reused: bool
) -> None:
    """After which pause an id counts as used again can be set."""
    monkeypatch.setenv("COWRIEPROC_SESSION_GAP", gap)

    rows = program("sessions", "list", "--db", reused, "--json").document["sessions"]

    assert {row["session_id"]: row["reused"] for row in rows}["once"] is is_reused
