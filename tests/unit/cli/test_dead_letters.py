"""`cowrieprocessor dead-letters`, as it is called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings
from tests.documents import PROJECT, flattened
from tests.logs import events, write
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_dead_letter, at


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite database, for what is the same on both."""
    return f"sqlite:///{tmp_path / 'one.sqlite'}"


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Engine]:
    """An engine on it, at the current version."""
    engine = get_engine(sqlite_url)
    apply_migrations(engine)
    yield engine
    dispose(engine)


def _fill(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        for line in range(3):
            add_dead_letter(
                connection, "not JSON", {"malformed": f"torn \x1b[31m{line}"}, source_offset=line, created_at=at(1)
            )
        add_dead_letter(connection, "too deep", {"other": 1}, resolved=True)


def test_list_shows_reason_line_and_beginning(engine: Engine, db_url: str, program: Program) -> None:
    """Each dead letter has its reason, its log with the line as editors count it, and how the value begins."""
    _fill(engine)
    outcome = program("dead-letters", "list", "--db", db_url)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("3 dead letters: not JSON 3\n")
    first, second = outcome.out.splitlines()[4:6]
    assert first.split() == ["3", "2026-11-21", "01:00", "not", "JSON", "3", "/logs/cowrie.json"]
    assert "torn \\x1b[31m2" in second
    assert "too deep" not in outcome.out


def test_list_takes_reason_limit_and_all(engine: Engine, db_url: str, program: Program) -> None:
    """A reason picks, `--all` adds the resolved ones, and pages are chained."""
    _fill(engine)
    document = program("dead-letters", "list", "--db", db_url, "--all", "--reason", "too deep", "--json").document
    assert [
        (letter["reason"], letter["resolved"], letter["payload_chars"] // 10) for letter in document["dead_letters"]
    ] == [("too deep", True, 1)]
    assert document["counts"] == [{"reason": "not JSON", "count": 3}, {"reason": "too deep", "count": 1}]
    arguments = ("dead-letters", "list", "--db", db_url, "--limit", "2", "--json")
    first = program(*arguments).document
    second = program(*arguments, "--after", first["next"]).document
    assert [letter["source_offset"] for letter in first["dead_letters"] + second["dead_letters"]] == [2, 1, 0]


def test_an_empty_list_is_reported(engine: Engine, db_url: str, program: Program) -> None:
    """Without dead letters the list says so and ends with 0."""
    outcome = program("dead-letters", "list", "--db", db_url)
    assert (outcome.code, outcome.out) == (0, "No dead letters.\n")


def test_list_takes_a_log(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """`--source` selects the letters of a log, and the counts are those of that log."""
    _fill(sqlite)
    with write_transaction(sqlite) as connection:
        add_dead_letter(connection, "not JSON", {"text": "x"}, source="/logs/other.json")
    outcome = program("dead-letters", "list", "--db", sqlite_url, "--source", "/logs/other.json", "--json")
    assert ["/logs/other.json"] == [letter["source"] for letter in outcome.document["dead_letters"]]
    assert [{"reason": "not JSON", "count": 1}] == outcome.document["counts"]


def test_a_log_goes_by_the_name_it_has_now(
    sqlite: Engine, sqlite_url: str, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that was renamed and has grown keeps its source, and is also found by its new, even relative, path."""
    lines = [events(1)[0], "not JSON", *events(2, start=1)]
    log = write(tmp_path / "cowrie.json", lines)
    BulkLoader(sqlite).load([log])
    renamed = write(log.rename(tmp_path / "cowrie.json.1"), [*lines, *events(2, start=5)])
    BulkLoader(sqlite).load([renamed])
    monkeypatch.chdir(tmp_path)
    for name in (str(log), str(renamed), "cowrie.json.1"):
        assert program("dead-letters", "list", "--db", sqlite_url, "--source", name).out.startswith("1 dead letter: ")


HOSTILE = "torn \x1b[31m http://203.0.113.9/x \u202e\nsecond line"


def test_show_prints_the_whole_letter_inert(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """All bytes that are kept are shown, without control characters or links."""
    with write_transaction(sqlite) as connection:
        metadata = {"line": 8, "byte_start": 10, "byte_end": 90, "detail": "unexpected \x07", "generation": 0}
        add_dead_letter(
            connection, "not JSON", {"text": HOSTILE * 200}, source_offset=7, created_at=at(1), metadata_json=metadata
        )
        add_dead_letter(connection, "not JSON", {"base64": "/wBhYmM="})
        add_dead_letter(connection, "x", {"text": "begin", "length": 2_000_000, "sha256": "a" * 64})
        add_dead_letter(connection, "quarantined", {"eventid": "x"})
    outcome = program("dead-letters", "show", "1", "--db", sqlite_url)
    assert (0, "") == (outcome.code, outcome.err)
    assert 200 == outcome.out.count("torn \\x1b[31m hxxp://203[.]0[.]113[.]9/x \\u202e\n")
    assert "10 to 90 of the decompressed log" in outcome.out
    assert "unexpected \\x07" in outcome.out
    assert not {"\x1b", "\u202e", "\x07"} & set(outcome.out)
    assert "\\xff\\x00abc\n" in program("dead-letters", "show", "2", "--db", sqlite_url).out
    assert "the first 64 KiB of 2000000 bytes" in program("dead-letters", "show", "3", "--db", sqlite_url).out
    assert program("dead-letters", "show", "4", "--db", sqlite_url).out.endswith('{"eventid": "x"}\n')


def test_show_as_json_is_exact(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """For scripts the payload is as it is stored."""
    with write_transaction(sqlite) as connection:
        add_dead_letter(connection, "not JSON", {"text": HOSTILE}, created_at=at(1))
    document = program("dead-letters", "show", "1", "--db", sqlite_url, "--json").document
    assert ({"text": HOSTILE}, None, False) == (document["payload"], document["details"], document["resolved"])


def test_show_of_an_unknown_id_ends_with_1(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """An unknown id ends with 1 and names the command that lists all."""
    outcome = program("dead-letters", "show", "7", "--db", sqlite_url)
    assert (1, "") == (outcome.code, outcome.out)
    assert "dead-letters list --all" in outcome.err


def _load_with_large_lines(engine: Engine, folder: Path) -> Path:
    lines = [json.dumps(json.loads(line) | {"pad": "x" * 5_000 * (n in (3, 5))}) for n, line in enumerate(events(12))]
    log = write(folder / "cowrie.json", [*lines, "not \x1b JSON"])
    BulkLoader(engine, settings=Settings(max_value_bytes=2_000)).load([log])
    return log


def test_replay_says_what_it_did_and_why_letters_stay(
    sqlite: Engine, sqlite_url: str, program: Program, tmp_path: Path
) -> None:
    """A dry run shows the result in advance; the letter that stays is listed with its reason."""
    log = _load_with_large_lines(sqlite, tmp_path)
    dry = program("dead-letters", "replay", "--db", sqlite_url, "--dry-run")
    done = program("dead-letters", "replay", "--db", sqlite_url)
    assert dry.out.startswith("3 dead letters read again, 2 would be resolved\n2 events would be stored, ")
    assert (0, "") == (done.code, done.err)
    lines = done.out.splitlines()
    assert lines[0] == "3 dead letters read again, 2 resolved"
    assert lines[1].startswith("2 events stored, 0 were stored already")
    assert lines[2] == "1 stays: still not JSON"
    assert lines[3].startswith(f"  3: {log}:13: still not JSON (")
    assert "\x1b" not in done.out


def test_replay_as_json(sqlite: Engine, sqlite_url: str, program: Program, tmp_path: Path) -> None:
    """For scripts: counters, why letters stay, and the first outcomes."""
    log = _load_with_large_lines(sqlite, tmp_path)
    arguments = ("dead-letters", "replay", "--db", sqlite_url, "--json")
    document = program(*arguments, "--id", "1", "--id", "3", "--source", str(log)).document
    assert (2, 1, {"still not JSON": 1}, False) == (
        *(document[name] for name in ("letters", "resolved", "stays", "dry_run")),
    )
    assert {"replayed": 1, "stays": 1} == {outcome["state"]: outcome["events"] or 1 for outcome in document["outcomes"]}
    assert 1 == program(*arguments, "--reason", "not JSON").document["letters"]
    assert 1 == program(*arguments, "--limit", "1").document["resolved"]


def test_events_of_v3_are_left_to_the_backfill(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """Events from letters of version 3 are reported, with the command that adds their files."""
    with write_transaction(sqlite) as connection:
        add_dead_letter(connection, "validation", {"malformed": "\0" + events(1)[0]}, source_offset=4)
    outcome = program("dead-letters", "replay", "--db", sqlite_url)
    assert "1 event comes from letters of version 3; `db backfill`" in outcome.err


def test_purge_deletes_resolved_letters(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """Without options only resolved letters are deleted, and counted by reason."""
    _fill(sqlite)
    dry = program("dead-letters", "purge", "--db", sqlite_url, "--dry-run")
    done = program("dead-letters", "purge", "--db", sqlite_url)
    assert "1 dead letter would be deleted: too deep 1; nothing was changed\n" == dry.out
    assert (0, "1 dead letter deleted: too deep 1\n", "") == (done.code, done.out, done.err)
    document = program("dead-letters", "purge", "--db", sqlite_url, "--json").document
    assert ({"by_reason": {}, "unresolved": 0}, {"letters": 0, "of_v3": 0}) == (document["plan"], document["purged"])


def test_purge_of_waiting_letters_wants_yes(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """Without a terminal `--all` needs `--yes`; with it everything goes."""
    _fill(sqlite)
    refused = program("dead-letters", "purge", "--db", sqlite_url, "--all")
    assert 2 == refused.code
    assert "3 of them are unresolved; give --yes" in refused.err
    done = program("dead-letters", "purge", "--db", sqlite_url, "--all", "--yes")
    assert done.out == "4 dead letters deleted: not JSON 3, too deep 1\n"


@pytest.mark.parametrize(("answer", "code", "left"), [(False, 1, 3), (True, 0, 0)])
def test_purge_of_waiting_letters_asks(
    sqlite: Engine,
    sqlite_url: str,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool,
    code: int,
    left: int,
) -> None:
    """On a terminal it shows what is lost, and asks."""
    _fill(sqlite)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: answer)
    outcome = program("dead-letters", "purge", "--db", sqlite_url, "--all", "--reason", "not JSON")
    assert code == outcome.code
    assert "3 of them are unresolved: their contents can never be stored afterwards" in outcome.err
    rest = program("dead-letters", "list", "--db", sqlite_url, "--json").document["dead_letters"]
    assert left == len(rest)


@pytest.mark.parametrize("age", ["x", "-3d", "99999999999d", ""])
def test_an_age_that_is_none_is_refused(sqlite: Engine, sqlite_url: str, program: Program, age: str) -> None:
    """`--older-than` wants a length of time."""
    outcome = program("dead-letters", "purge", "--db", sqlite_url, "--older-than", age)
    assert (2, True) == (outcome.code, "--older-than" in outcome.err)


def test_purge_by_age(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """Only what was stored longer ago goes."""
    with write_transaction(sqlite) as connection:
        add_dead_letter(connection, "old", {}, resolved=True, created_at=at(1).replace(year=2001))
        add_dead_letter(connection, "new", {}, resolved=True)
    outcome = program("dead-letters", "purge", "--db", sqlite_url, "--older-than", "90d")
    assert outcome.out == "1 dead letter deleted: old 1\n"


@pytest.mark.parametrize("command", ["replay", "purge"])
def test_a_database_that_is_not_there_is_not_made(program: Program, tmp_path: Path, command: str) -> None:
    """A misspelt name ends with 4, and creates no file."""
    outcome = program("dead-letters", command, "--db", str(tmp_path / "none.sqlite"))
    assert 4 == outcome.code
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [("replay",), ("purge",), ("show", "1"), ("list",)])
def test_a_v3_database_has_to_be_migrated_first(program: Program, v3_file: Path, command: tuple[str, ...]) -> None:
    """The message has the command, and the exit code is 5."""
    outcome = program("dead-letters", *command, "--db", str(v3_file))
    assert (5, True) == (outcome.code, "db migrate" in outcome.err)


def test_json_is_documented(sqlite: Engine, sqlite_url: str, program: Program, tmp_path: Path) -> None:
    """docs/dead_letters.md has every field of `replay --json` and `purge --json`, and no other."""
    _load_with_large_lines(sqlite, tmp_path)
    page = (PROJECT / "docs" / "dead_letters.md").read_text(encoding="utf-8")
    replayed, purged = (
        set(re.findall(r"^\| `([\w.\[\]]+)`", part, re.MULTILINE))
        for part in page.split("`replay --json`:")[1].split("`purge --json`:")
    )
    program("dead-letters", "replay", "--db", sqlite_url, "--id", "1")
    replay = program("dead-letters", "replay", "--db", sqlite_url, "--json").document
    purge = program("dead-letters", "purge", "--db", sqlite_url, "--json").document

    def names(document: object) -> set[str]:
        paths = {path for path, _ in flattened(document)}
        return {
            re.sub(r"^(counters|stays|plan\.by_reason)\..*", lambda match: _GENERAL[match[1]], path) for path in paths
        }

    assert (replayed, purged) == (names(replay), names(purge))


_GENERAL = {"counters": "counters.NAME", "stays": "stays.REASON", "plan.by_reason": "plan.by_reason.REASON"}


_EVENT = '{"eventid":"cowrie.session.connect","session":"s%d","timestamp":"2026-01-01T00:00:00Z"}'


@pytest.mark.parametrize(
    "text",
    [
        f"{_EVENT % 1}\nBAD-A x\n\n{_EVENT % 2}\nBAD-B y\n",
        f"{_EVENT % 1}\r\n\r\nBAD-A x\r\nBAD-B y\r\n",
        f'{_EVENT % 1}{_EVENT % 2}"BAD-A"{_EVENT % 3}\nBAD-B z\n{_EVENT % 4}{_EVENT % 5}\n"BAD-C"\n',
        f'[\n{_EVENT % 1},\n"BAD-A",\n{_EVENT % 2}\n]\nBAD-B x\n',
        f'{_EVENT % 1}\n{{\n "eventid": "x",\n "session": "s1"\n}}\nBAD-A\n{{"eventid":"BAD-B","session":{{}}}}\n',
        f"{_EVENT % 1}\n" + "\0" * 500 + f"{_EVENT % 2}\nBAD-A\n",
    ],
)
def test_the_line_shown_is_the_line_in_the_log(program: Program, tmp_path: Path, text: str) -> None:
    """List, show and replay name the line on which a value begins, also where lines hold several values."""
    log, db = tmp_path / "cowrie.json", tmp_path / "x.sqlite"
    log.write_text(text, encoding="utf-8", newline="")
    program("load", log, "--db", db)
    letters = program("dead-letters", "list", "--db", db, "--json").document["dead_letters"]
    outcomes = program("dead-letters", "replay", "--dry-run", "--db", db, "--json").document["outcomes"]
    marks = {letter["id"]: re.findall("BAD-[ABC]", letter["excerpt"])[0] for letter in letters}
    lines = {mark: next(n for n, line in enumerate(text.split("\n"), 1) if mark in line) for mark in marks.values()}
    shown = {
        marks[number]: int(
            re.findall(r"^line +(\d+)$", program("dead-letters", "show", number, "--db", db).out, re.M)[0]
        )
        for number in marks
    }

    assert lines == {marks[letter["id"]]: letter["line"] for letter in letters}
    assert lines == {marks[outcome["id"]]: outcome["line"] for outcome in outcomes}
    assert lines == shown
    assert text.count("BAD-") == len(lines)


def test_filters_that_match_nothing_say_so(sqlite: Engine, sqlite_url: str, program: Program) -> None:
    """A reason or a log that no dead letter has is told from there being none."""
    _fill(sqlite)
    reason = program("dead-letters", "list", "--db", sqlite_url, "--reason", "not json")
    source = program("dead-letters", "list", "--db", sqlite_url, "--source", "/nowhere")

    assert ("No dead letters.\n", "No dead letters.\n") == (reason.out, source.out)
    assert reason.err.startswith("note: none has the reason 'not json'; there are: 'not JSON'")
    assert source.err.startswith("note: none is of the log '/nowhere'")
