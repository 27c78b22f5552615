"""Logs of other programs are named and passed over, exports that cannot be unwrapped are refused with the way out."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.settings import Settings
from tests.command_line import run
from tests.documents import CASES
from tests.logs import count, events, hostile_lines
from tests.wrapped_logs import docker, json_lines

EVE = '{"event_type": "alert", "timestamp": "2026-11-20T10:00:00.0+0000", "src_ip": "203.0.113.5"}\n'


def texts(lines: list[str]) -> str:
    """Return lines as the text of a log."""
    return "".join(f"{line}\n" for line in lines)


def test_a_folder_of_several_honeypots_gives_cowries_log_only(engine: Engine) -> None:
    """The others are named with what they seem to be, and passed over without an error, by load and by follow."""
    folder = CASES / "foreign-folder"
    loaded = BulkLoader(engine).load([folder])
    with DeltaLoader(engine, [folder]) as follower:
        followed = follower.poll()
        again = follower.poll()

    assert count(engine, RawEvent) == 4
    states = {Path(file.path).name: file.state for file in loaded.files}
    assert states == {
        "adbhoney.json": "foreign",
        "cowrie.json": "loaded",
        "eve.json": "foreign",
        "webhoneypot-2026-11-20.json": "foreign",
    }
    notes = " ".join(warning for file in loaded.files for warning in file.warnings)
    assert all(word in notes for word in ("adbhoney.session.connect", "Suricata", "time, sip, url"))
    assert sorted(Path(file.path).name for file in followed.files) == sorted(set(states) - {"cowrie.json"})
    assert again.files == []


def test_a_followed_log_of_another_program_is_named_once(engine: Engine, tmp_path: Path) -> None:
    """It is looked at again when it grows, named no second time, and loaded once Cowrie writes to it."""
    path = tmp_path / "cowrie.json"
    path.write_text(EVE, encoding="utf-8")
    with DeltaLoader(engine, [tmp_path]) as follower:
        first = follower.poll()
        with path.open("a", encoding="utf-8") as file:
            file.write(EVE)
        second = follower.poll()
        with path.open("a", encoding="utf-8") as file:
            file.write(texts(events(3)))
        third = follower.poll()

    assert [file.state for file in first.files] == ["foreign"]
    assert second.files == []
    assert third.counters["events"] == 5
    assert count(engine, RawEvent) == 5


@pytest.mark.parametrize(
    "beginning",
    [
        '{}\n{"session": "a"}\n' + EVE * 3,
        "torn\0\0\0\0" + EVE,
        "\0" * 5000,
        'ssion": "x"}\n',
        EVE * 2000,
    ],
    ids=["odd objects", "damage", "NULs", "a torn line", "many of another program"],
)
def test_a_log_with_an_event_of_cowrie_is_never_passed_over(engine: Engine, tmp_path: Path, beginning: str) -> None:
    """What it begins with makes no difference, if one event is in the part that is looked at."""
    path = tmp_path / "cowrie.json"
    path.write_text(beginning + texts(events(2)), encoding="utf-8")

    result = BulkLoader(engine).load([tmp_path])

    assert result.files[0].state == "loaded"
    assert count(engine, RawEvent) == 2 + beginning.count('"event_type"') + beginning.count("{}") + beginning.count(
        '": "a"}'
    )


def test_what_is_looked_at_is_bounded(engine: Engine, tmp_path: Path) -> None:
    """A gigabyte of another program is not read to its end, load after load."""
    path = tmp_path / "eve.json"
    path.write_text(EVE * 20_000 + texts(events(2)), encoding="utf-8")

    result = BulkLoader(engine).load([tmp_path])

    assert result.files[0].state == "foreign"
    assert result.files[0].bytes_pending < 1 << 22


@pytest.mark.parametrize("line", [line for line in hostile_lines() if '"eventid"' in line and '"": ' not in line][:30])
def test_events_of_any_name_are_loaded(engine: Engine, tmp_path: Path, line: str) -> None:
    """A log of one odd event is a log of Cowrie, unless its name is that of another honeypot."""
    path = tmp_path / "cowrie.json"
    path.write_text(line + "\n", encoding="utf-8")

    result = BulkLoader(engine).load([tmp_path])

    assert result.files[0].state != "foreign" or "something.new" in line


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no JSON at all\n", 3),
        ("no JSON at all", 3),
        (EVE, 3),
        ("", 0),
        ('{"eventid": "cowrie.session.conn', 0),
        (texts(events(1)), 0),
        ("text\n" + texts(events(1)), 0),
    ],
    ids=["text", "text without a line end", "another program", "empty", "unfinished", "an event", "text and an event"],
)
@pytest.mark.parametrize("is_named", [True, False], ids=["file", "folder"])
def test_a_load_without_one_event_says_so(tmp_path: Path, text: str, code: int, *, is_named: bool) -> None:
    """Files with text but without an event of Cowrie end with 3, and a message; loading what is known ends with 0."""
    path = tmp_path / "logs" / "cowrie.json"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    what = path if is_named else path.parent

    first = run("load", what, "--db", tmp_path / "x.sqlite")
    second = run("load", what, "--db", tmp_path / "x.sqlite")

    assert (first.returncode, second.returncode) == (code, code)
    assert ("not one event of Cowrie" in first.stderr or "not a log of Cowrie" in first.stderr) is bool(code)


def test_a_wrapper_without_an_event_of_cowrie_is_of_another_program(engine: Engine, tmp_path: Path) -> None:
    """Docker's log of another container is named with its wrapper."""
    (tmp_path / "web.json").write_bytes(docker(["GET /", "GET /x"]))

    result = BulkLoader(engine).load([tmp_path])

    assert [(file.state, "docker json-file" in file.warnings[0]) for file in result.files] == [("foreign", True)]


def keyed(lines: list[str]) -> dict[str, list[Any]]:
    """Return events by session."""
    sessions: dict[str, list[Any]] = {}
    for line in lines:
        sessions.setdefault(json.loads(line)["session"], []).append(json.loads(line))
    return sessions


LINES = events(12)
OBJECTS = [json.loads(line) for line in LINES]
REFUSED: dict[str, tuple[str, bytes]] = {
    "mongoexport": ("MongoDB", json_lines({"_id": {"$oid": "65"}} | event for event in OBJECTS)),
    "mongoexport --jsonArray": ("MongoDB", json.dumps([{"_id": {"$oid": "65"}} | event for event in OBJECTS]).encode()),
    "mongoexport, dates": (
        "MongoDB",
        json_lines({"_id": {"$oid": "6"}} | event | {"timestamp": {"$date": event["timestamp"]}} for event in OBJECTS),
    ),
    "by session": ("sessions", json.dumps(keyed(LINES), indent=2).encode()),
    "by session, objects": (
        "sessions",
        json.dumps({name: {"events": found} for name, found in keyed(LINES).items()}).encode(),
    ),
    "splunk, lines": (
        "Splunk",
        json_lines({"preview": False, "result": {"_raw": line, "eventid": "x"}} for line in LINES),
    ),
    "splunk, results": ("Splunk", json.dumps({"results": [{"_raw": line} for line in LINES]}).encode()),
    "kibana": (
        "Kibana",
        json_lines(
            {"_index": "x", "_id": "1", "fields": {name: [value] for name, value in event.items()}} for event in OBJECTS
        ),
    ),
    "kibana, search": (
        "Kibana",
        json.dumps(
            {"hits": {"hits": [{"_id": "1", "fields": {name: [value] for name, value in e.items()}} for e in OBJECTS]}}
        ).encode(),
    ),
    "large search": (
        "Elasticsearch",
        json.dumps(
            {"took": 1, "hits": {"hits": [{"_index": "x", "_source": event} for event in OBJECTS], "x": "y" * 10_000}}
        ).encode(),
    ),
    "large loki": (
        "Loki",
        json.dumps(
            {"streams": [{"stream": {}, "values": [["1", line] for line in LINES]}], "x": "y" * 10_000}
        ).encode(),
    ),
    "large cloudwatch": (
        "CloudWatch",
        json.dumps({"events": [{"message": line, "timestamp": 1} for line in LINES], "x": "y" * 10_000}).encode(),
    ),
    "large, by session": ("sessions", json.dumps(keyed(LINES) | {"0" * 12: ["y" * 10_000]}).encode()),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_export_that_cannot_be_unwrapped_is_refused_with_the_way_out(
    engine: Engine, tmp_path: Path, kind: str
) -> None:
    """The message names what it is and shows a command; its result is loaded, and gives every event."""
    what, data = REFUSED[kind]
    path = tmp_path / "it's an export.json"
    path.write_bytes(data + b"\n")
    settings = Settings(max_value_bytes=9000)

    result = BulkLoader(engine, settings=settings).load([tmp_path])

    assert count(engine, RawEvent) == 0
    (failed,) = result.failed
    assert failed.error is not None
    assert what in failed.error
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    command = failed.error[failed.error.index("jq ") :].replace("unwrapped.json", "out/unwrapped.json")
    (tmp_path / "out").mkdir()
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True)
    loaded = BulkLoader(engine, settings=settings).load([tmp_path / "out"])
    assert loaded.counters["events"] == len(LINES)
