"""What `--json` prints is what docs/reference.md promises: the fields, their types, and no others.

Lists and reports have a page of their own, docs/reports.md; tests/unit/reporting compares it with the classes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import update

from cowrieprocessor.cli import follow
from cowrieprocessor.cli.main import cli
from cowrieprocessor.db.engine import get_engine, write_transaction
from cowrieprocessor.db.jobs import DONE, JobRecord, save_job
from cowrieprocessor.db.models import LogFile
from cowrieprocessor.interpret import file_events
from cowrieprocessor.jobs.watch import follow as follow_job
from cowrieprocessor.jobs.watch.follow import FollowJobTiming
from cowrieprocessor.loader import delta, false_joins, torn_letters
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.log_loading import FileResult
from cowrieprocessor.loader.rows import batch, file_aggregates
from tests import v3_schema
from tests.documents import PROJECT, flattened, quoted, sections, table_rows
from tests.unit.reporting.program import Program

PAGE = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
REPORTS = (PROJECT / "docs" / "reports.md").read_text(encoding="utf-8")
SAMPLES = PROJECT / "samples"
NAMED_BY_DATA = ("fields", "details", "payload", "verdicts", "counters")
"""Fields of lists and reports whose own fields have the names that an event, a reason or a source gives them."""


def differences(documents: list[Any], rows: list[list[str]]) -> list[str]:
    """Return what is in the documents and not in the table of fields, and the other way round."""
    fields = {quoted(row[0])[0]: set(re.split(r", | or ", row[1])) for row in rows}
    patterns = {
        name: re.compile(re.sub(r"[A-Z]{4,}", r"[^.\\[\\]]+", re.escape(name).replace("EVENTID", r"[a-z_.]+")))
        for name in fields
    }
    seen: set[str] = set()
    wrong = []
    for path, kind in [pair for document in documents for pair in flattened(document)]:
        matching = [name for name, pattern in patterns.items() if pattern.fullmatch(path)]
        seen.update(matching)
        if not matching and not (kind is None and any(name.startswith(path) for name in fields)):
            wrong.append(f"{path}: not documented")
        elif kind is not None and not any(kind in fields[name] for name in matching):
            wrong.append(f"{path}: is {kind}")
    return sorted({*wrong, *(f"{name}: not there" for name in fields.keys() - seen)})


def documented_fields(section: str, number: int = 0) -> list[list[str]]:
    """Return the fields in a table of a section of docs/reference.md."""
    text = sections(PAGE, 3)[section]
    pieces = [piece for piece in text.split("| field | type | meaning |") if piece.strip()][1:]
    return table_rows(f"| field | type | meaning |{pieces[number]}", "field", "type", "meaning")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program, called in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Program(monkeypatch, capsys)


def test_json_of_load_is_documented(program: Program, tmp_path: Path) -> None:
    """Every field of `load --json` is in the reference with its type, and no other."""
    (tmp_path / "odd.json").write_text('{"eventid":"x","session":"s"}\nnot JSON\n{"a":1', encoding="utf-8")
    (tmp_path / "bad.json").write_bytes(b"\x1f\x8bnot gzip")
    documents = [
        program("load", str(SAMPLES / "cowrie.json"), "--json").document,
        program("load", "odd.json", "bad.json", "--json").document,
    ]

    assert differences(documents, documented_fields("load")) == []


def test_json_of_follow_is_documented(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every field of `follow --json`, with --once and without, is in the reference with its type, and no other."""
    timing = FollowJobTiming(loader=FollowTiming(archive_settles_s=0.1))
    monkeypatch.setattr(follow_job, "follow", partial(follow_job.follow, timing=timing))
    monkeypatch.setattr(follow, "stop_on_signals", lambda *_: None)
    log = tmp_path / "cowrie.json"
    log.write_text('{"eventid":"x","session":"s"}\nnot JSON\n{"a":1', encoding="utf-8")
    (tmp_path / "cowrie.json.1.gz").write_bytes(b"\x1f\x8bnot gzip")
    documents = [program("follow", "cowrie.json", "--once", "--json").document]
    log.write_text('{"eventid":"y","session":"s"}\n', encoding="utf-8")
    documents.append(program("follow", "cowrie.json", "--once", "--json").document)
    look = delta.PollResult([FileResult("x", "failed", Counter(events=1), error="damaged")], [delta.Gap("x", 1)])
    follow.print_poll(look)
    line = json.loads(capsys.readouterr().out)

    assert {
        "once": differences(documents, documented_fields("follow")),
        "lines": differences([line], documented_fields("follow", 1)),
    } == {"once": [], "lines": []}


def test_json_of_files_scan_is_documented(program: Program, tmp_path: Path) -> None:
    """Every field of `files scan --json` is in the reference with its type, and no other."""
    shutil.copytree(SAMPLES / "downloads", tmp_path / "downloads")
    (tmp_path / "downloads" / ("0" * 64)).write_bytes(b"not what its name says")

    document = program("files", "scan", "downloads", "--json").document

    assert differences([document], documented_fields("files scan")) == []


def test_json_of_db_commands_is_documented(program: Program, tmp_path: Path) -> None:
    """Every field of `db status`, `db check` and `db migrate` is in the reference with its type, and no other."""
    (tmp_path / "empty.sqlite").touch()
    program("load", str(SAMPLES / "cowrie.json"), "--db", "x.sqlite")
    program("db", "recount", "--yes", "--db", "x.sqlite")
    engine = get_engine("x.sqlite")
    with write_transaction(engine) as connection:
        connection.execute(update(LogFile).values(bytes_gap=1))
        save_job(connection, JobRecord("of an earlier version", DONE))  # without a progress
    engine.dispose()
    found = {
        command: [program("db", command, "--json", "--db", name).document for name in ("empty.sqlite", "x.sqlite")]
        for command in ("status", "check", "migrate")
    }

    assert {
        command: differences(documents, documented_fields("db", number))
        for number, (command, documents) in enumerate(found.items())
    } == {"status": [], "check": [], "migrate": []}


def fields_of(command: str) -> list[list[str]]:
    """Return the fields in the table of docs/reference.md below a command."""
    _, _, after = PAGE.partition(f"\n`cowrieprocessor {command} --json`")
    heading = "| field | type | meaning |"
    return table_rows(heading + after.split(heading)[1], "field", "type", "meaning") if after else []


def lists_of(command: str) -> set[str]:
    """Return the names of fields in the row of docs/reports.md about a command; a report's numbers have a table."""
    name = "report …" if command.startswith("report") else command
    (row,) = [document for what, document in table_rows(REPORTS, "command", "document") if quoted(what) == [name]]
    numbers = REPORTS.split("## What the numbers mean")[1].split("`previous`")[0] if name == "report …" else ""
    fields = {field for names in quoted(row) + quoted(numbers) for field in re.split(r",\s*", names)}
    return fields | lists_of("sessions list") if "(as in the list)" in row else fields


def keys(document: Any) -> set[str]:
    """Return the names of all fields of a document, without those that the data names."""
    if isinstance(document, list):
        return set().union(*map(keys, document))
    if not isinstance(document, dict):
        return set()
    inside = (keys(value) for key, value in document.items() if key not in NAMED_BY_DATA)
    return set(document).union(*inside)


def commands_with_json() -> set[str]:
    """Return every command of the program that takes --json."""

    def walk(command: click.Command, name: str) -> Iterator[str]:
        if any("--json" in parameter.opts for parameter in command.params):
            yield name
        if isinstance(command, click.Group):
            context = click.Context(command)
            for part in command.list_commands(context):
                inner = command.get_command(context, part)
                assert inner is not None
                yield from walk(inner, f"{name} {part}".strip())

    return set(walk(cli, ""))


JOURNEY = (
    ("db migrate --dry-run", "--db", "v3.sqlite"),
    ("db migrate", "--db", "v3.sqlite", "--yes"),
    ("db status", "--db", "v3.sqlite"),
    ("db check", "--db", "v3.sqlite"),
    ("db validate", "--db", "v3.sqlite"),
    ("db backfill --dry-run", "--db", "v3.sqlite"),
    ("db backfill", "--db", "v3.sqlite", "--yes"),
    ("db validate", "--db", "v3.sqlite"),
    ("db recount", "--db", "v3.sqlite", "--yes"),
    ("jobs pause", "recount", "--db", "v3.sqlite"),
    ("jobs list", "--db", "v3.sqlite"),
    ("work status", "--db", "v3.sqlite"),
    ("jobs resume", "recount", "--db", "v3.sqlite"),
    ("jobs stop", "recount", "--db", "v3.sqlite"),
    ("db optimize --dry-run", "--db", "v3.sqlite"),
    ("db optimize", "--db", "v3.sqlite", "--yes"),
    ("db backup", "copy.sqlite", "--db", "v3.sqlite"),
    ("db restore", "copy.sqlite", "--db", "v3.sqlite", "--yes"),
    ("db rollback --dry-run", "--to", "3", "--db", "v3.sqlite"),
    ("db rollback", "--to", "3", "--db", "v3.sqlite", "--yes"),
    ("load", "odd.json"),
    ("enrich", "--provider", "hashlookup"),
    ("load", SAMPLES / "cowrie.json"),
    ("follow --once", "odd.json"),
    ("files scan", SAMPLES / "downloads", "--sensor", "pot"),
    ("files list",),
    ("files show", "SHA256"),
    ("files history", "SHA256"),
    ("files sessions", "SHA256"),
    ("sessions list",),
    ("sessions show", "SESSION"),
    ("sensors list",),
    ("sensors rename", "honeypot-1", "pot-2", "--yes"),
    ("report daily",),
    ("report weekly",),
    ("report monthly",),
    ("dead-letters list",),
    ("dead-letters show", "1"),
    ("dead-letters replay",),
    ("dead-letters purge", "--all", "--yes"),
    ("enrich import-cache", "cache"),
    ("enrich status",),
    ("db remove", "--log", SAMPLES / "cowrie.json", "--db", "cowrieprocessor.sqlite", "--yes"),
)
"""The life of two databases, so that every command has something to say; SHA256 and SESSION are those of the lists."""


def test_json_of_every_command_is_documented(program: Program, tmp_path: Path) -> None:
    """Each command with --json prints the fields that docs/reference.md or docs/reports.md names, and no others."""
    v3_schema.create(tmp_path / "v3.sqlite")
    (tmp_path / "odd.json").write_text('{"eventid":"x","session":"s"}\nnot JSON\n{"a":1', encoding="utf-8")
    (tmp_path / "cache").mkdir()
    chosen = {"SHA256": "", "SESSION": ""}
    wrong: dict[str, object] = {}
    called = set()
    for command, *arguments in JOURNEY:
        words = [chosen.get(str(argument), argument) for argument in arguments]
        outcome = program(*command.split(), *words, "--json")
        assert outcome.out, (command, outcome)
        called.add(command.split(" --")[0])
        if command == "files list":
            chosen["SHA256"] = outcome.document["files"][0]["sha256"]
        if command == "sessions list":
            chosen["SESSION"] = outcome.document["sessions"][0]["session_id"]
        if fields := fields_of(command):
            found = [line for line in differences([outcome.document], fields) if not line.endswith("not there")]
        else:
            found = sorted(keys(outcome.document) - lists_of(command))
        if found:
            wrong[command] = found

    assert wrong == {}
    assert called == commands_with_json()


def test_index_of_documents_is_complete() -> None:
    """The index in docs/reference.md names each command with --json once."""
    named = [name for names, _ in table_rows(PAGE, "command", "document") for name in quoted(names)]

    assert sorted(named) == sorted(commands_with_json())


def test_differences_of_documents_are_found() -> None:
    """A field that is missing, unknown or of another type does not pass."""
    rows = [["`a`", "text", ""], ["`b[].c`", "number or null", ""], ["`d.NAME`", "number", ""]]

    assert differences([{"a": "x", "b": [{"c": None}, {"c": 1}], "d": {"anything": 1}}], rows) == []
    assert differences([{"a": 1, "b": [], "e": True}], rows) == [
        "a: is number",
        "b[].c: not there",
        "d.NAME: not there",
        "e: not documented",
    ]


def test_counters_of_load_are_documented() -> None:
    """The table of counters has every counter of the loader, and no other."""
    counters = {
        *(batch.EVENTS, batch.DEAD_LETTERS, file_aggregates.FILE_DEAD_LETTERS, file_aggregates.FILE_SIGHTINGS),
        *(batch.NO_SESSION, batch.NO_TYPE, batch.NO_MOMENT),
        *(torn_letters.WITHDRAWN, false_joins.EVENTS_TAKEN_BACK),
        *(file_events.SKIPPED_EMPTY_SHASUM, file_events.SKIPPED_NO_SHASUM),
    }
    rows = table_rows(PAGE, "counter", "counts")

    assert {quoted(name)[0] for name, _ in rows} == counters
