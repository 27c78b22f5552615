"""Inputs that once failed give their right answers by load, again, reversed and followed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.documents import CASES
from tests.loading import letters, stored
from tests.unit.reporting.program import Program

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no shared cases beside the project")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


EVENTS = {
    "better-copy": 100,
    "foreign-folder": 4,
    "long-sensor-names.json": 2,
    "multi-line-commands.json": 18,
    "no-connect.json": 3,
    "one-address-two-spellings.json": 4,
    "reused-session-id": 14,
    "split-midnight": 7,
    "torn-archive": 4,
    "twin-after-part": 3,
    "two-localhosts": 20,
    "usernames.json": 22,
    "wrapped/docker.json": 4,
    "wrapped/es.ndjson": 4,
    "wrapped/es_bulk.json": 25,
    "wrapped/loki.json": 25,
    "wrapped/splunk_hec.json": 25,
    "wrapped/syslog.log": 25,
    "wrapped/z.zip": 25,
}
"""How many events each input holds, by its path below the cases."""

NOT_HERE = {"README.md", "hot_journal.py"}
"""What holds no events; tests/reliability/test_hot_journals.py has the second."""


def test_no_case_is_left_out() -> None:
    """Each input that lies there is one of those below."""
    found = {path.relative_to(CASES).as_posix() for path in CASES.iterdir() if path.name != "wrapped"}
    found |= {path.relative_to(CASES).as_posix() for path in (CASES / "wrapped").iterdir()}
    assert found - NOT_HERE == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("way", ["load", "again", "reversed", "follow"])
def test_the_case_has_its_right_answer(
    engine: Engine, db_url: str, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    """The events, the dead letters and what lists say are the same in every way."""
    folder = tmp_path / "case"
    if (CASES / name).is_dir():
        shutil.copytree(CASES / name, folder)
    else:
        folder.mkdir()
        shutil.copy2(CASES / name, folder)
    monkeypatch.chdir(folder)
    if (settings := folder / "sensors.toml").exists():
        monkeypatch.setenv("COWRIEPROC_CONFIG", str(settings))
    logs = sorted(path for path in folder.rglob("*") if path.is_file() and path != settings)
    if way == "follow":
        assert program("follow", *logs, "--once", "--db", db_url).code == 0
    else:
        for path in logs[::-1] if way == "reversed" else logs:
            program("load", path, "--db", db_url)
    if way in ("again", "reversed"):
        again = program("load", *logs, "--db", db_url, "--json").document
        assert (again["counters"].get("events", 0), again["counters"].get("dead_letters", 0)) == (0, 0)

    assert stored(engine).total() == EVENTS[name]
    assert len(letters(engine)) == (name == "torn-archive")
    ANSWERS.get(name, lambda _show: None)(lambda *arguments: program(*arguments, "--db", db_url, "--json").document)


Show = Callable[..., Any]


def the_halves_are_one_login(show: Show) -> None:
    """The event whose halves lie in two files is stored once."""
    shown = show("sessions", "show", "aaaa00000002")
    assert [event["event_type"] for event in shown["events"]].count("cowrie.login.success") == 1


def an_id_is_marked(show: Show) -> None:
    """Both ids were used more than once; the parts have their own sensor and times."""
    listed = show("sessions", "list")["sessions"]
    assert {row["session_id"]: row["reused"] for row in listed} == {"33f69b48": True, "4e64311b2546": True}
    parts = show("sessions", "show", "33f69b48")["parts"]
    assert [(part["sensor"], part["first_event_at"][:10]) for part in parts] == [
        ("pot-a", "2026-11-20"),
        ("pot-b", "2027-12-25"),
    ]
    assert show("report", "daily", "--date", "2026-11-20")["totals"]["sessions_reused"] == 1


def two_pots_are_two(show: Show) -> None:
    """The names of the settings count, though both logs say localhost."""
    assert {row["sensor"] for row in show("sensors", "list")["sensors"]} == {"pot-1", "pot-2"}


def long_names_are_two(show: Show) -> None:
    """Names that agree in their first 31 characters are two sensors."""
    names = {row["sensor"] for row in show("sensors", "list")["sensors"]}
    assert names == {f"ubuntu-s-1vcpu-512mb-10gb-fra1-0{number}" for number in (1, 2)}


def the_address_is_known(show: Show) -> None:
    """The session has its address and protocol, though no connect event is there."""
    listed = show("sessions", "list")["sessions"]
    assert [(row["src_ip"], row["protocol"]) for row in listed] == [("198.51.100.7", "ssh")]


def the_address_is_one(show: Show) -> None:
    """Both spellings are one address in lists and filters."""
    assert {row["src_ip"] for row in show("sessions", "list")["sessions"]} == {"198.51.100.7"}
    assert len(show("sessions", "list", "--src-ip", "::ffff:198.51.100.7")["sessions"]) == 2


ANSWERS: dict[str, Callable[[Show], None]] = {
    "split-midnight": the_halves_are_one_login,
    "reused-session-id": an_id_is_marked,
    "two-localhosts": two_pots_are_two,
    "long-sensor-names.json": long_names_are_two,
    "no-connect.json": the_address_is_known,
    "one-address-two-spellings.json": the_address_is_one,
}


@pytest.mark.parametrize("is_reversed", [False, True])
def test_export_and_original_are_one(engine: Engine, db_url: str, program: Program, is_reversed: bool) -> None:
    """What docker kept and what Elasticsearch holds of the same log are the same four events."""
    names = ["docker.json", "es.ndjson"]
    for name in reversed(names) if is_reversed else names:
        program("load", CASES / "wrapped" / name, "--db", db_url)
    assert stored(engine).total() == 4
