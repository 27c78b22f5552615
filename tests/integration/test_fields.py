"""What is read from the fields of events: whichever event names it, however it is spelled, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.json_text import restore_lone_surrogates
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.reporting.periods import PeriodKind, parse_moment, parse_period
from cowrieprocessor.reporting.queries.sessions import SessionFilter, list_sessions, session_details
from cowrieprocessor.reporting.reports import Report, make_report
from cowrieprocessor.settings import Settings
from tests.conftest import CORPUS
from tests.earlier_revisions import go_back
from tests.logical_digest import difference, logical_contents

ADDRESS = "198.51.100.7"
DAY = "2026-11-20"
TABLES = ("raw_events", "session_summaries", "session_attributes", "command_stats", "session_logins", "files")
DERIVED = ("session_summaries", "session_attributes", "command_stats", "session_logins")
CASES = ("no-connect", "usernames", "one-address-two-spellings", "multi-line-commands")


def line(name: str, second: int, session: str = "a90000000001", **fields: object) -> str:
    """Return a line as Cowrie writes it."""
    shared = {
        "eventid": f"cowrie.{name}",
        "session": session,
        "timestamp": f"{DAY}T10:{second // 60:02}:{second % 60:02}Z",
    }
    return json.dumps(shared | {"src_ip": ADDRESS, "protocol": "ssh", "sensor": "pot-a"} | fields)


def connect(session: str, second: int = 0, **fields: object) -> str:
    """Return the line of a connection."""
    return line("session.connect", second, session, **fields)


def load(engine: Engine, folder: Path, *logs: Sequence[str], batch_size: int = 1000) -> None:
    """Load logs with these lines, one after the other."""
    folder.mkdir(exist_ok=True)
    for number, lines in enumerate(logs):
        path = folder / f"cowrie.json.{number}"
        path.write_text("".join(f"{one}\n" for one in lines))
        assert BulkLoader(engine, settings=Settings(batch_size=batch_size)).load([path]).failed == []


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def report(engine: Engine) -> Report:
    """Return the report on the day of the lines."""
    with read_transaction(engine) as connection:
        now = parse_moment("2026-12-01")
        return make_report(connection, parse_period(PeriodKind.DAILY, DAY, now))


@pytest.fixture
def other_engine(tmp_path: Path) -> Iterator[Engine]:
    """A second database."""
    engine = get_engine(tmp_path / "other.sqlite")
    apply_migrations(engine)
    yield engine
    dispose(engine)


NO_CONNECT = (
    line("login.success", 1, username="root", password="12345"),
    line("direct-tcpip.request", 0, src_ip="203.0.113.66", protocol="http"),
    line("command.input", 2, input="id"),
    line("session.closed", 4, duration_ms=1500),
)


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_session_without_a_connect(engine: Engine, tmp_path: Path, batch_size: int, is_reversed: bool) -> None:
    """Address, protocol and times come from whichever event names them, never from a forwarded connection."""
    load(engine, tmp_path / "logs", NO_CONNECT[::-1] if is_reversed else NO_CONNECT, batch_size=batch_size)

    with read_transaction(engine) as connection:
        (session,) = list_sessions(connection, SessionFilter(src_ip=ADDRESS)).rows
    assert (session.src_ip, session.protocol) == (ADDRESS, "ssh")
    assert session.first_event_at == parse_moment(f"{DAY}T10:00:00Z")
    assert report(engine).addresses.top[0].value == ADDRESS
    assert validate(engine).valid


def test_a_connect_that_comes_later_decides(engine: Engine, tmp_path: Path) -> None:
    """Whether its connection is loaded first or last, a session has the address of the connection."""
    first, then = [connect("s", 9, src_ip="198.51.100.9")], [line("client.version", 3, "s", protocol="telnet")]
    load(engine, tmp_path / "logs", then, first)

    assert rows(engine, "SELECT src_ip, protocol, src_ip_rank FROM session_attributes") == [("198.51.100.9", "ssh", 0)]
    assert validate(engine).valid


def test_logins_count_under_the_name_that_was_tried(engine: Engine, tmp_path: Path) -> None:
    """A session that tries admin once and root nineteen times is two names, not twenty attempts of one."""
    names = ["admin"] + ["root"] * 19
    lines = [connect("c4"), *(line("login.failed", 1 + n, "c4", username=name) for n, name in enumerate(names))]
    load(engine, tmp_path / "logs", lines[:7], lines[7:], lines, batch_size=3)

    assert [(one.value, one.sessions, one.times) for one in report(engine).usernames.top] == [
        ("root", 1, 19),
        ("admin", 1, 1),
    ]
    assert report(engine).usernames.distinct == 2
    assert validate(engine).valid


SPELLINGS = (ADDRESS, f"::ffff:{ADDRESS}", "::FFFF:C633:6407")


def test_an_address_is_one_in_lists_filters_and_counts(engine: Engine, tmp_path: Path) -> None:
    """Spelled in any way, in the log or in a filter, an address is one; the payload stays as it came."""
    others = ("2001:db8::1", "2001:DB8:0:0::1")
    lines = [connect(f"s{number}", number, src_ip=one) for number, one in enumerate((*SPELLINGS, *others))]
    load(engine, tmp_path / "logs", lines)

    assert {one.value: one.sessions for one in report(engine).addresses.top} == {ADDRESS: 3, "2001:db8::1": 2}
    assert report(engine).totals.addresses == 2
    with read_transaction(engine) as connection:
        for spelling, sessions in (*((one, 3) for one in SPELLINGS), *((one, 2) for one in others)):
            assert len(list_sessions(connection, SessionFilter(src_ip=spelling)).rows) == sessions
        stored = [one.fields["src_ip"] for one in session_details(connection, "s1").events]
    assert stored == [f"::ffff:{ADDRESS}"]
    assert validate(engine).valid


COMMANDS = {
    "id\nuname -a": r"id\x0auname -a",
    "id; uname -a": "id; uname -a",
    "id  uname -a": "id uname -a",
    "id\r\nuname -a": r"id\x0d\x0auname -a",
    r"id\x0auname -a": r"id\x0auname -a",
    r"cd C:\Windows": r"cd C:\Windows",
    "\n\techo x\n": "echo x",
}
"""Commands as they are typed, and as they are shown."""


def test_line_ends_and_backslashes_in_commands(engine: Engine, tmp_path: Path) -> None:
    """A line end inside a command is visible, a backslash is one, and different commands are counted apart."""
    lines = [line("command.input", second, f"s{second}", input=typed) for second, typed in enumerate(COMMANDS)]
    load(engine, tmp_path / "logs", lines)

    assert sorted(one.value for one in report(engine).commands.top) == sorted(COMMANDS.values())
    assert report(engine).commands.distinct == len(COMMANDS)
    with read_transaction(engine) as connection:
        shown = [session_details(connection, f"s{second}").commands[0].command for second in range(len(COMMANDS))]
    assert shown == list(COMMANDS.values())
    assert validate(engine).valid


def test_names_with_backslashes_are_shown_once(engine: Engine, tmp_path: Path) -> None:
    """Names of users and files and URLs are shown as they were typed."""
    url = "http://203.0.113.9/a\\b"
    file = {"shasum": "ab" * 32, "destfile": "C:\\x", "url": url}
    load(
        engine,
        tmp_path / "logs",
        [line("login.failed", 1, username="CORP\\bob"), line("session.file_download", 2, **file)],
    )

    with read_transaction(engine) as connection:
        details = session_details(connection, "a90000000001")
    assert details.summary.username == "CORP\\bob"
    assert [(one.filename, one.download_url) for one in details.files] == [("C:\\x", url)]
    made = report(engine)
    assert (made.usernames.top[0].value, made.urls.top[0].value, made.files[0].name) == ("CORP\\bob", url, "C:\\x")


SURROGATES = (r"\ud800", r"\udfff", r"\ude00\ud83d", r"\uD83D\ud83d\ude00", r"a\ud800\\ud800", r"\\ud800")
FIELDS = ("session", "eventid", "sensor", "username", "input", "url", "filename", "src_ip", "key \\ud801")


def surrogate_lines() -> Iterator[str]:
    """Yield lines with each surrogate in each field."""
    file = f'"shasum":"{"cd" * 32}"'
    kinds = {"username": "login.failed", "input": "command.input", "url": "session.file_download"}
    kinds |= {"filename": "session.file_upload"}
    for number, (field, value) in enumerate((field, value) for field in FIELDS for value in SURROGATES):
        fields = {"session": f"s{number}", "eventid": f"cowrie.{kinds.get(field, 'session.connect')}"}
        pairs = [f'"{key}":"{one}"' for key, one in (fields | {field: value}).items()]
        yield "{" + ",".join([*pairs, f'"timestamp":"{DAY}T10:00:{number:02}Z"', file]) + "}"


def test_lone_surrogates_are_read_alike_everywhere(engine: Engine, other_engine: Engine, tmp_path: Path) -> None:
    """Every line with a lone surrogate is an event, equal in every order and on both databases, and can be undone."""
    lines = list(surrogate_lines())
    load(engine, tmp_path / "a", lines, batch_size=7)
    load(other_engine, tmp_path / "b", lines[::-1])

    left_out = ("source_offset", "source", "source_files")
    one, other = (logical_contents(each, tables=TABLES, without=left_out) for each in (engine, other_engine))
    assert difference(one, other) == []
    assert rows(engine, "SELECT count(*) FROM dead_letter_events") == [(0,)]
    assert validate(engine).valid

    read = "json_extract(payload, '$.input')" if engine.dialect.name == "sqlite" else "payload ->> 'input'"
    stored = rows(engine, f"SELECT CAST(payload AS TEXT), {read}, session_id, event_type FROM raw_events ORDER BY id")
    for (payload, typed, session_id, event_type), raw in zip(stored, lines, strict=True):
        fields, original = json.loads(payload), json.loads(raw)
        assert (typed, session_id, event_type) == (fields.get("input"), fields["session"], fields["eventid"])
        assert json.loads(restore_lone_surrogates(payload.encode())) == original
        with read_transaction(engine) as connection:
            assert fields in [event.fields for event in session_details(connection, session_id).events]


def test_a_log_with_lone_surrogates_is_the_same_followed(engine: Engine, other_engine: Engine, tmp_path: Path) -> None:
    """Followed bit by bit and loaded again in another form, it gives what it gives loaded at once."""
    lines = list(surrogate_lines())
    load(engine, tmp_path / "logs", lines)
    live = tmp_path / "live.json"
    with DeltaLoader(other_engine, [live]) as loader:
        for start in range(0, len(lines), 20):
            with live.open("a") as log:
                log.writelines(f"{one}\n" for one in lines[start : start + 20])
            loader.poll()
    live.write_text("[" + ",\n".join(lines) + "]\n")
    BulkLoader(other_engine).load([live])

    left_out = ("source_offset", "source", "source_files")
    one, other = (logical_contents(each, tables=TABLES, without=left_out) for each in (engine, other_engine))
    assert difference(one, other) == []


def mixed_lines() -> list[str]:
    """Return lines with everything that an earlier revision derived in another way."""
    return [
        *NO_CONNECT,
        *(connect(f"m{number}", number, src_ip=one) for number, one in enumerate(SPELLINGS)),
        *(line("command.input", n, "m0", input=typed) for n, typed in enumerate(COMMANDS)),
        *(line("login.failed", n, "m1", username=name) for n, name in enumerate(["admin", "root", "root"])),
    ]


def make_revision_6(engine: Engine) -> None:
    """Make a database what revision 0006 derived: addresses as logged, no line ends, no logins by name."""
    statements = [
        "DELETE FROM session_attributes WHERE connect_at IS NULL AND hassh_at IS NULL AND login_at IS NULL",
        "UPDATE session_attributes SET src_ip = NULL, protocol = NULL WHERE connect_at IS NULL",
        f"UPDATE session_attributes SET src_ip = '::ffff:{ADDRESS}' WHERE session_id = 'm1'",
        "UPDATE session_attributes SET src_ip = '::FFFF:C633:6407' WHERE session_id = 'm2'",
        r"DELETE FROM command_stats WHERE command_normalized LIKE 'id%x0%'",
        "UPDATE command_stats SET occurrences = 3 WHERE command_normalized = 'id uname -a'",
    ]
    with write_transaction(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))
    go_back(engine, "0006")


@pytest.mark.parametrize("renew", [recount, backfill], ids=["recount", "backfill"])
def test_what_an_earlier_revision_derived_is_renewed(
    engine: Engine, other_engine: Engine, tmp_path: Path, renew: Any
) -> None:
    """After the migration filters find every spelling, and it says what is due; a recount makes all of it new."""
    load(other_engine, tmp_path / "logs", mixed_lines())
    load(engine, tmp_path / "logs", mixed_lines())
    make_revision_6(engine)
    apply_migrations(engine)

    assert rows(engine, "SELECT state FROM jobs WHERE name = 'recount'") == [("stopped",)]
    with read_transaction(engine) as connection:
        assert {one.session_id for one in list_sessions(connection, SessionFilter(src_ip=ADDRESS)).rows} == {
            "m0",
            "m1",
            "m2",
        }
    before = validate(engine)
    assert (before.valid, before.not_backfilled["recount"]) == (False, None)

    renew(engine)

    without = ("updated_at", "created_at", "source_files")
    one, other = (logical_contents(each, tables=DERIVED, without=without) for each in (engine, other_engine))
    assert difference(one, other) == []
    assert rows(engine, "SELECT state FROM jobs WHERE name = 'recount'") == [("done",)]
    assert validate(engine).differences == {}
    backfill(engine)  # the sensors, which are newer, too
    assert validate(engine).valid
    assert recount(engine).changed == 0


def test_loading_goes_on_before_the_recount(engine: Engine, other_engine: Engine, tmp_path: Path) -> None:
    """What is loaded between migration and recount counts once, in a session that was derived before, too."""
    lines = mixed_lines()
    load(other_engine, tmp_path / "whole", lines[:12], lines[12:])
    load(engine, tmp_path / "logs", lines[:12])
    make_revision_6(engine)
    apply_migrations(engine)
    load(engine, tmp_path / "more", lines[12:])
    recount(engine)
    backfill(engine)

    without = ("updated_at", "created_at", "source_files")
    one, other = (logical_contents(each, tables=DERIVED, without=without) for each in (engine, other_engine))
    assert difference(one, other) == []
    assert validate(engine).valid


def test_a_recount_in_the_middle_of_a_backfill(v3_file: Path) -> None:
    """A recount takes no event that the backfill has yet to take: after both, every row is right."""
    engine = get_engine(v3_file)
    apply_migrations(engine)
    stop_after = iter([None, None])

    def interrupt(progress: Any) -> None:
        if progress.job == "backfill-sessions" and progress.done and next(stop_after, 0) == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backfill(engine, batch_size=3, slice_rows=3, on_progress=interrupt)
    recount(engine)
    backfill(engine)

    assert validate(engine).valid
    dispose(engine)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", ["load", "again", "reversed", "follow"])
def test_the_shared_cases(engine: Engine, tmp_path: Path, name: str, way: str) -> None:
    """The inputs that once failed give the same valid rows by load, again, reversed and followed."""
    case = CORPUS.parent / "cases" / f"{name}.json"
    if not case.is_file():
        pytest.skip("no shared cases beside the project")
    lines: Iterable[str] = case.read_text().splitlines()
    if way == "follow":
        with DeltaLoader(engine, [case]) as loader:
            loader.poll()
    else:
        lines = list(lines)
        load(engine, tmp_path / "logs", lines[::-1] if way == "reversed" else lines)
        if way == "again":
            load(engine, tmp_path / "logs", lines)

    made = report(engine)
    assert [(one.value, one.times) for one in made.usernames.top] == {
        "no-connect": [("root", 1)],
        "usernames": [("root", 19), ("admin", 1)],
    }.get(name, [])
    assert [one.value for one in made.addresses.top] == [ADDRESS]
    if name == "multi-line-commands":
        assert {"id; uname -a", r"id\x0auname -a", "id uname -a"} <= {one.value for one in made.commands.top}
    assert validate(engine).valid
