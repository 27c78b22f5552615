"""The generated v3 databases for benchmarks and tests of the upgrade: schema, peculiarities, exact answer."""

from __future__ import annotations

import json
import re
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_v3_db import make_v3_db
from benchmarks.v3.answer import FIGURES_OF_V3, RowDigest, V3Answer, differences
from benchmarks.v3.oddities import HOSTILE_FILES, JUNK
from benchmarks.v3.scripts import HOSTILE_USERS
from cowrieprocessor.json_text import hash_payload
from tests import v3_schema
from tests.command_line import run
from tests.other_connections import sqlite3

SMALL = 2000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, V3Answer]:
    """A database of 20,000 events and its answer, shared by tests that only read it."""
    path = tmp_path_factory.mktemp("v3") / "v3.sqlite"
    return path, make_v3_db(path, events=20_000, seed=1)


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return list(connection.execute(sql))


def count(path: Path, sql: str) -> int:
    """Return the single number of a query."""
    ((number,),) = ask(path, sql)
    return int(number)


@pytest.mark.parametrize("from_v1", [False, True])
@pytest.mark.parametrize("planned_files", [False, True])
def test_the_schema_is_that_of_v3(tmp_path: Path, *, from_v1: bool, planned_files: bool) -> None:
    """Though its indexes are made last, a database has exactly the schema of a v3 file, in the same order."""
    make_v3_db(tmp_path / "made", events=SMALL, from_v1=from_v1, planned_files=planned_files)
    v3_schema.create(tmp_path / "written", from_v1=from_v1, planned_files=planned_files)

    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid"
    assert ask(tmp_path / "written", schema) == ask(tmp_path / "made", schema)
    assert ask(tmp_path / "made", "SELECT * FROM schema_state") == [("schema_version", "3")]


def test_the_same_seed_gives_the_same_contents(tmp_path: Path) -> None:
    """Two databases of one seed hold the same rows and have the same answer; another seed gives another one."""
    answers = [make_v3_db(tmp_path / str(n), events=SMALL, seed=seed) for n, seed in enumerate((5, 5, 6))]

    assert answers[0] == answers[1]
    assert answers[0] != answers[2]
    for table in v3_schema.TABLES:
        assert ask(tmp_path / "0", f"SELECT * FROM {table}") == ask(tmp_path / "1", f"SELECT * FROM {table}")


def test_the_file_is_whole_private_and_in_wal_mode(made: tuple[Path, V3Answer]) -> None:
    """The file passes SQLite's checks, is in WAL mode and private, and no unfinished file is left."""
    path, _ = made

    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "PRAGMA foreign_key_check") == []
    assert ask(path, "PRAGMA journal_mode") == [("wal",)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.with_name(f"{path.name}.making").exists()


def test_the_program_sees_a_v3_database(made: tuple[Path, V3Answer]) -> None:
    """`db status` says that it is at version 3."""
    ended = run("db", "status", "--db", made[0])

    assert re.search(r"version +3\b", ended.stdout)


PECULIARITIES = {
    "a rewritten command": "event_type = 'cowrie.command.input' AND payload ->> 'input' IS NULL"
    " AND payload ->> 'command' IS NULL AND payload ->> 'input_safe' LIKE '%[URL]%[SC] %'"
    " AND length(payload ->> 'input_hash') = 64",
    "a quarantined command": "event_type LIKE 'cowrie.command.%' AND quarantined",
    "a line that was not JSON": 'payload LIKE \'{"malformed": "%\' AND quarantined AND event_type IS NULL',
    "a value that was no object": "payload = '{}' AND quarantined AND session_id IS NULL",
    "no inode": "source_inode IS NULL",
    "a second generation": "source_generation = 1 AND source LIKE '%/alpha/cowrie.json'",
    "the same log compressed": "source LIKE '%.gz'",
    "the same log renamed": "source LIKE '%.json.1'",
    "a time with an offset": "event_timestamp LIKE '%+0200'",
    "an upper-case hash": "payload ->> 'shasum' GLOB '*[A-F]*' AND payload ->> 'shasum' NOT GLOB '*[a-z]*'",
    "an empty hash": "payload ->> 'shasum' = ''",
    "a file event without hash": "event_type = 'cowrie.session.file_download' AND payload ->> 'realm' = 'scp'",
    "a failed download": "event_type = 'cowrie.session.file_download.failed'",
    "an upload": "event_type = 'cowrie.session.file_upload'",
    "a hash of keystrokes": "event_type = 'cowrie.log.closed' AND length(payload ->> 'shasum') = 64",
    "the empty file": "payload ->> 'shasum' = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
    "an IPv6 address": "payload ->> 'src_ip' LIKE '2001:db8::%'",
    "telnet": "payload ->> 'protocol' = 'telnet'",
    "Cowrie 3.1's order of keys": "payload LIKE '{\"session\": %'",
    "a session that is a number": "json_type(payload, '$.session') = 'integer'",
    "an event without time": "session_id IS NOT NULL AND event_timestamp IS NULL",
}


@pytest.mark.parametrize("peculiarity", PECULIARITIES)
def test_each_peculiarity_is_there(made: tuple[Path, V3Answer], peculiarity: str) -> None:
    """Every peculiarity of v3 data that shows in a single row occurs."""
    assert count(made[0], f"SELECT count(*) FROM raw_events WHERE {PECULIARITIES[peculiarity]}") > 0


PECULIARITIES_OF_TABLES = {
    "stored twice without inode": "SELECT count(*) FROM (SELECT 1 FROM raw_events WHERE source_inode IS NULL"
    " GROUP BY source, source_offset, payload_hash HAVING count(*) = 2)",
    "line numbers with gaps": "SELECT count(*) FROM (SELECT source_offset - lag(source_offset) OVER"
    " (PARTITION BY source, source_inode, source_generation ORDER BY source_offset) AS step FROM raw_events)"
    " WHERE step > 1",
    "a log under two names": "SELECT count(*) FROM raw_events a JOIN raw_events b ON b.source = a.source || '.gz'"
    " AND b.source_offset = a.source_offset AND b.payload = a.payload AND b.source_inode <> a.source_inode",
    "a session over two logs": "SELECT count(*) FROM (SELECT 1 FROM raw_events WHERE source NOT LIKE '%.gz'"
    " AND source NOT LIKE '%.1' GROUP BY session_id HAVING count(DISTINCT source || source_generation) > 1)",
    "doubled counters": "SELECT count(*) FROM session_summaries s WHERE event_count >"
    " (SELECT count(*) FROM raw_events r WHERE r.session_id = s.session_id)",
    "enrichment of JSON null": "SELECT count(*) FROM session_summaries WHERE enrichment = 'null'",
    "enrichment of SQL NULL": "SELECT count(*) FROM session_summaries WHERE enrichment IS NULL",
    "an enriched session": "SELECT count(*) FROM session_summaries WHERE json_type(enrichment) = 'object'",
    "uploads and failures counted as downloads": "SELECT count(*) FROM session_summaries s WHERE file_downloads >"
    " (SELECT count(*) FROM raw_events r WHERE r.session_id = s.session_id"
    "  AND event_type = 'cowrie.session.file_download') AND file_downloads > 0",
    "local time kept": "SELECT count(*) FROM session_summaries s JOIN raw_events r ON r.session_id = s.session_id"
    " WHERE event_type = 'cowrie.session.connect' AND event_timestamp LIKE '%+0200'"
    " AND substr(first_event_at, 1, 10) || 'T' || substr(first_event_at, 12) = substr(event_timestamp, 1, 26)",
    "a cursor": "SELECT count(*) FROM ingest_cursors c JOIN raw_events r ON r.source = c.source"
    " AND r.source_inode = c.inode AND r.source_offset = 0 AND r.payload_hash = metadata_json ->> 'first_hash'"
    " AND r.source_generation = metadata_json ->> 'generation'",
    "logs without cursor": "SELECT count(DISTINCT source) FROM raw_events"
    " WHERE source NOT IN (SELECT source FROM ingest_cursors)",
    "a dead letter of a quarantined event": "SELECT count(*) FROM dead_letter_events d JOIN raw_events r"
    " ON r.source = d.source AND r.source_offset = d.source_offset AND r.payload = d.payload"
    " WHERE reason = 'quarantined'",
    "a dead letter of a bad line": "SELECT count(*) FROM dead_letter_events WHERE reason = 'validation'",
    "one hash in several spellings in one session": "SELECT count(*) FROM (SELECT 1 FROM raw_events"
    " WHERE event_type LIKE 'cowrie.session.file_%load' GROUP BY session_id, lower(payload ->> 'shasum')"
    " HAVING count(DISTINCT payload ->> 'shasum') > 1)",
    "one hash in many sessions": "SELECT max(n) > 50 FROM (SELECT count(DISTINCT session_id) AS n FROM raw_events"
    " WHERE event_type = 'cowrie.session.file_download' GROUP BY lower(payload ->> 'shasum'))",
}


@pytest.mark.parametrize("peculiarity", PECULIARITIES_OF_TABLES)
def test_each_peculiarity_of_several_rows_is_there(made: tuple[Path, V3Answer], peculiarity: str) -> None:
    """Every peculiarity of v3 data that shows across rows or tables occurs."""
    assert count(made[0], PECULIARITIES_OF_TABLES[peculiarity]) > 0


def test_command_stats_is_empty(made: tuple[Path, V3Answer]) -> None:
    """V3 created the table of commands and never filled it."""
    assert count(made[0], "SELECT count(*) FROM command_stats") == 0


def test_every_kind_of_junk_and_hostile_name_is_there(made: tuple[Path, V3Answer]) -> None:
    """Junk is about two events in a hundred, of all kinds, and each hostile file and user is named."""
    stored = "\n".join(payload for (payload,) in ask(made[0], "SELECT payload FROM raw_events"))
    for file in HOSTILE_FILES:
        assert all(f"{json.dumps(key)}: {json.dumps(value)}" in stored for key, value in file.fields.items())
    for kind in JUNK:
        changes = {key: value for key, value in (kind.changes or {}).items() if isinstance(value, str | int)}
        assert all(f"{json.dumps(key)}: {json.dumps(value)}" in stored for key, value in changes.items())
        assert kind.text is None or json.dumps({"malformed": kind.text} if kind.text else {}) in stored
    for raw, _ in HOSTILE_USERS:
        assert f'"username": {json.dumps(raw)}' in stored
    junk_without_session = count(made[0], "SELECT count(*) FROM raw_events WHERE session_id IS NULL")
    share = junk_without_session / made[1].raw_events * len(JUNK) / 8  # eight kinds of them name no session
    assert 0.015 < share < 0.025


def test_no_junk_if_none_is_wanted(tmp_path: Path) -> None:
    """With `junk` 0 the only malformed line is the torn one at the end of a log."""
    answer = make_v3_db(tmp_path / "v3.sqlite", events=SMALL, junk=0)

    assert answer.file_events_refused == {}
    assert ask(tmp_path / "v3.sqlite", "SELECT count(*) FROM raw_events WHERE event_type IS NULL") == [
        (answer.malformed_rows,)
    ]


def test_events_are_of_real_proportions(made: tuple[Path, V3Answer]) -> None:
    """Two to five events in a hundred are about files."""
    files = count(made[0], "SELECT count(*) FROM raw_events WHERE event_type LIKE 'cowrie.session.file_%load'")

    assert 0.02 < files / made[1].raw_events < 0.05


def test_payloads_and_hashes_are_as_v3_wrote_them(made: tuple[Path, V3Answer]) -> None:
    """A payload has json.dumps's separators; its hash is that of the compact JSON with sorted keys."""
    for payload, stored_hash in ask(made[0], "SELECT payload, payload_hash FROM raw_events"):
        fields = json.loads(payload)
        assert json.dumps(fields) == payload
        if "\\ud800" not in payload:
            assert hash_payload(fields) == stored_hash


def test_the_figures_of_v3_are_those_of_the_file(made: tuple[Path, V3Answer]) -> None:
    """The figures of the answer about the v3 database itself can be counted in it."""
    path, answer = made
    counted = (
        count(path, "SELECT count(*) FROM raw_events"),
        count(path, "SELECT count(*) FROM raw_events WHERE event_type IS NULL AND quarantined"),
        count(path, "SELECT count(*) FROM session_summaries"),
        count(path, PECULIARITIES_OF_TABLES["doubled counters"]),
    )

    assert counted == tuple(answer.as_dict()[name] for name in FIGURES_OF_V3)


def test_a_file_upgraded_from_v1_has_a_cursor_a_log(tmp_path: Path) -> None:
    """What v1's constraint forbids is omitted: no source has a second generation, no row is stored twice."""
    make_v3_db(tmp_path / "v3.sqlite", events=SMALL, from_v1=True)

    assert count(tmp_path / "v3.sqlite", "SELECT max(source_generation) FROM raw_events") == 0
    assert count(tmp_path / "v3.sqlite", "SELECT count(*) FROM ingest_cursors") > 1


def test_the_size_is_about_what_was_asked_for(tmp_path: Path) -> None:
    """A size is met to a tenth, indexes included."""
    make_v3_db(tmp_path / "v3.sqlite", size_bytes=20_000_000)

    assert 18_000_000 < (tmp_path / "v3.sqlite").stat().st_size < 22_000_000


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """An existing path, no amount or two, and too small an amount are refused, and nothing is left."""
    (tmp_path / "taken").write_text("precious")

    with pytest.raises(FileExistsError, match="exists already"):
        make_v3_db(tmp_path / "taken", events=SMALL)
    with pytest.raises(ValueError, match="either size_bytes or events"):
        make_v3_db(tmp_path / "new")
    with pytest.raises(ValueError, match="either size_bytes or events"):
        make_v3_db(tmp_path / "new", events=SMALL, size_bytes=1)
    with pytest.raises(ValueError, match="at least 2000 events"):
        make_v3_db(tmp_path / "new", events=SMALL - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "precious"


def test_what_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """An error leaves no unfinished database behind."""

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_v3_db(tmp_path / "v3.sqlite", events=SMALL, report=interrupt)

    assert list(tmp_path.iterdir()) == []


def test_a_digest_is_of_the_rows_whatever_their_order() -> None:
    """The order of rows does not matter; each row, each field and each repetition does."""
    rows = [("a", None), ("b", 1), ("b", 1)]

    def digest(these: list[tuple[str, int | None]]) -> str:
        made = RowDigest()
        for row in these:
            made.add(row)
        return made.text()

    assert digest(rows[::-1]) == digest(rows)
    assert len({digest(rows), digest(rows[:2]), digest(rows[:1]), digest([("a", None), ("b", 2), ("b", 1)])}) == 4


def test_differences_are_named() -> None:
    """Each figure that is not the answer's is named with both values; equal ones are not."""
    answer = V3Answer(raw_events=2, files=1)

    assert differences(answer, answer.as_dict()) == []
    assert differences(answer, answer.as_dict() | {"files": 3}) == ["files: the answer is 1, found was 3"]
    assert differences(answer.as_dict(), {}) != []
