"""No text of an attacker takes effect on a terminal: every command, every field, every width."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.render.terminal import Screen
from tests.unit.reporting.program import Outcome, Program
from tests.unit.reporting.scene import (
    FORMULA,
    HOSTILE,
    add_dead_letter,
    add_events,
    add_file,
    add_hash,
    add_queued,
    add_session,
    add_verdict,
    at,
    sha,
)

LINK = "http://user:secret@198.51.100.7/x"
BAD = HOSTILE.replace("\x00", "") + LINK
"""Hostile text that version 3 or another loader may have stored unchanged; without NUL, which PostgreSQL refuses."""

COMMANDS = (
    ("files", "list"),
    ("files", "show", sha(1)),
    ("files", "sessions", sha(1)),
    ("files", "history", sha(1)),
    ("enrich", "status"),
    ("sessions", "list"),
    ("sessions", "show", "s1"),
    ("dead-letters", "list"),
    ("report", "daily", "--date", "2026-11-21"),
    ("report", "weekly", "--date", "2026-11-21"),
    ("report", "monthly", "--date", "2026-11-21"),
)


def _unsafe_characters(text: str) -> list[str]:
    """Return the control, bidirectional and invisible characters in a text, newlines excepted."""
    return [
        repr(character)
        for character in text
        if character != "\n"
        and (
            unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
            or character in "\u061c\u200e\u200f\u200b\ufeff\U000e0041"
        )
    ]


def _fill(connection: Connection) -> None:
    """Store the hostile text unchanged in every column that an attacker can reach."""
    add_session(
        connection,
        "s1",
        at(1),
        sensor=BAD[:32],
        src_ip=BAD[:45],
        username=BAD[:255],
        protocol=BAD[:16],
        commands={BAD: 1, FORMULA: 2},
        source_files=[BAD],
    )
    add_session(connection, BAD[:64], at(2), vt_flagged=True)
    add_hash(
        connection,
        sha(1),
        at(1),
        mime_type=BAD[:128],
        file_type=BAD[:256],
        family=BAD[:128],
        vt_classification=BAD[:128],
        vt_description=BAD,
        verdict=BAD[:16],
        reputation_reasons=[BAD],
    )
    for hours, verdict in ((-1, "malicious"), (1, BAD[:16]), (2, "malicious")):
        add_verdict(connection, sha(1), BAD[:32], at(hours), verdict, 3, 70, classification=f"{hours}{BAD}"[:128])
    add_verdict(connection, sha(1), "virustotal", at(2), "malicious", classification=BAD[:128])
    for status in ("failed", "refused", "skipped", BAD[:32]):
        provider = f"{status[:4]}{BAD}"[:32]
        add_queued(connection, sha(1), provider, status, next_attempt_at=at(9), last_error=f"timeout: {BAD}")
    add_file(connection, "s1", sha(1), at(1), filename=BAD, download_url=BAD, origin=BAD[:16])
    add_file(connection, BAD[:64], sha(1), at(2), filename=FORMULA, download_url=f"{LINK}?{BAD}")
    add_file(connection, f"artifact:{BAD}"[:64], sha(1), at(3), origin="artifact")
    keys = "src_ip src_port username password input url destfile filename message version hassh data name value ttylog"
    add_events(
        connection,
        [
            {"session": "s1", "eventid": f"cowrie.{name}", "timestamp": "2026-11-21T01:00:00Z", "shasum": sha(1)}
            | dict.fromkeys(keys.split(), BAD)
            for name in (
                "session.connect", "session.file_download", "session.file_upload", "login.success", "login.failed",
                "command.input", "client.version", "client.var", "direct-tcpip.data", "log.closed", BAD[:60],
            )
        ],
        source=BAD,
    )  # fmt: skip
    for payload in ({"malformed": BAD}, {"base64": BAD}, {BAD: BAD}, [BAD], BAD):
        add_dead_letter(connection, BAD[:128], payload, source=BAD, metadata_json={"detail": BAD})


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The command line program."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def hostile_rows(engine: Engine, db_url: str) -> str:
    """A database URL with the hostile text in every column."""
    with write_transaction(engine) as connection:
        _fill(connection)
    return db_url


def _check(command: tuple[str, ...], outcome: Outcome) -> None:
    assert (command, 0) == (command, outcome.code), outcome.err
    assert outcome.out
    assert (command, []) == (command, _unsafe_characters(outcome.out + outcome.err))
    assert not re.search("http://|ftp://|secret", outcome.out + outcome.err), command


def test_hostile_rows_are_shown_inert(hostile_rows: str, program: Program) -> None:
    """Whatever the database contains, no command prints an escape, control character, override or link."""
    for command in COMMANDS:
        _check(command, program(*command, "--db", hostile_rows))


@pytest.mark.parametrize("width", [40, 100, 400])
def test_the_only_escape_sequences_are_colours(
    hostile_rows: str, program: Program, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """On a terminal of any width, the only escape sequences are colours; markup and emoji codes stay as they are."""
    for command in COMMANDS:
        modules = {"files": "files_commands.files", "history": "files_commands.history", "status": "enrich_status"}
        name = modules.get(command[1]) or modules.get(command[0]) or command[0].replace("-", "_")
        module = f"cowrieprocessor.cli.{name}"
        monkeypatch.setattr(f"{module}.screen", lambda: Screen(width, color=True))
        monkeypatch.setattr(f"{module}.print_text", lambda text: sys.stdout.write(text))  # click would strip colours
        outcome = program(*command, "--db", hostile_rows)
        assert "\x1b[" in outcome.out, command
        plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)
        _check(command, Outcome(outcome.code, plain, outcome.err))
        assert "\N{SKULL}" not in plain
        if width == 400 and command[:2] == ("files", "show"):
            assert "[red]markup[/red]" in plain
            assert ":skull:" in plain


@pytest.mark.parametrize("format_", ["json", "csv"])
def test_report_formats_are_inert_on_a_terminal_too(hostile_rows: str, program: Program, format_: str) -> None:
    """JSON and CSV, often shown on terminals, have no unsafe character; JSON still has the exact text."""
    for command in COMMANDS[-3:]:
        outcome = program(*command, "--db", hostile_rows, "--format", format_)
        if format_ == "csv":
            _check(command, Outcome(outcome.code, outcome.out.replace("\r\n", "\n"), outcome.err))
        else:
            assert _unsafe_characters(outcome.out) == []
            assert BAD in [ranked["value"] for ranked in outcome.document["commands"]["top"]]


def test_json_is_exact_and_ascii(hostile_rows: str, program: Program) -> None:
    """The JSON of every command is ASCII, has no control character, and decodes to the text as stored."""
    for command in COMMANDS:
        outcome = program(*command, "--db", hostile_rows, "--json")
        assert (command, 0, True, []) == (command, outcome.code, outcome.out.isascii(), _unsafe_characters(outcome.out))
        assert any(HOSTILE[:20] in text for text in _texts(outcome.document)), command


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON document, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


HOSTILE_EVENTS = [
    {"eventid": "cowrie.session.connect", "src_ip": "203.0.113.5", "protocol": "ssh"},
    {"eventid": "cowrie.login.success", "username": HOSTILE, "password": HOSTILE},
    {"eventid": "cowrie.command.input", "input": f"{HOSTILE} wget {LINK}"},
    {"eventid": "cowrie.session.file_download", "shasum": sha(1), "destfile": HOSTILE, "url": LINK + HOSTILE},
    {"eventid": "cowrie.session.file_upload", "shasum": sha(2), "filename": FORMULA},
    {"eventid": "cowrie.session.file_upload", "shasum": "not a hash " + HOSTILE},
    {"eventid": "cowrie.lone.surrogate", "message": "\ud800" + HOSTILE},
]


@pytest.fixture
def loaded(db_url: str, tmp_path: Path) -> Iterator[str]:
    """A database with a hostile log, loaded by the loader itself."""
    log = tmp_path / "cowrie.json"
    lines = [
        json.dumps({"session": "s1", "sensor": HOSTILE, "timestamp": f"2026-11-21T01:00:0{n}.000000Z", **event})
        for n, event in enumerate(HOSTILE_EVENTS)
    ]
    log.write_text("\n".join([*lines, f"torn {HOSTILE} {LINK}"]) + "\n", encoding="utf-8")
    engine = get_engine(db_url)
    apply_migrations(engine)
    BulkLoader(engine).load([log])
    yield db_url
    dispose(engine)


def test_a_hostile_log_is_loaded_and_shown_inert(loaded: str, program: Program) -> None:
    """A hostile log that the loader stored is shown without an unsafe character."""
    for command in COMMANDS:
        _check(command, program(*command, "--db", loaded))
        outcome = program(*command, "--db", loaded, "--json")
        assert (command, 0, True) == (command, outcome.code, outcome.out.isascii())


def test_the_check_finds_unsafe_text() -> None:
    """Negative control: the hostile text itself is reported, and rich alone makes a link of its markup."""
    assert len(set(_unsafe_characters(HOSTILE))) >= 10
    console = Console(width=400, force_terminal=True, file=io.StringIO())
    console.print("[link=http://198.51.100.7]x[/link]")
    assert "\x1b]8;" in console.file.getvalue()  # type: ignore[attr-defined]
