"""Validation: rows that agree with the events are valid; each difference is reported, and nothing else."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.cli.db_commands.validate import validate as command
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import get_engine, read_transaction, write_transaction
from cowrieprocessor.db.ingest.event_scan import events_of_session
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.validation import events as validation_events
from cowrieprocessor.db.validation.spill import Spill
from cowrieprocessor.errors import DatabaseError, MigrationNeeded
from cowrieprocessor.interpret.commands import REWRITTEN
from cowrieprocessor.jobs.dead_letters.replay import replay
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.jobs.validation.report import Difference, ValidationReport
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.backfill import ALL_JOBS
from cowrieprocessor.settings import Settings
from tests import v3_schema
from tests.unit.jobs.upgraded import change, opened, rows, upgrade

S1, S2, SHA_A, SHA_B = "s1", "s2", v3_schema.SHA_A, v3_schema.SHA_B


@pytest.fixture(scope="module")
def made_upgraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v3 database with every habit of v3, migrated and backfilled."""
    return upgrade(v3_schema.create(tmp_path_factory.mktemp("made") / "v3.sqlite"))


@pytest.fixture
def upgraded(made_upgraded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(made_upgraded, tmp_path / "upgraded.sqlite"))


def validated(path: Path, **options: bool | int) -> ValidationReport:
    """Return the report of a validation."""
    with opened(path, read_only=True) as engine:
        return validate(engine, **options)  # type: ignore[arg-type]


def described(path: Path) -> list[str]:
    """Return the descriptions of the differences."""
    report = validated(path)
    assert sum(report.differences.values()) == len(report.first_differences)
    assert not report.valid
    return [difference.describe() for difference in report.first_differences]


def call(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_an_upgraded_database_is_valid(upgraded: Path) -> None:
    """Every habit of v3 survives migration and backfill without a difference, and every row is compared."""
    report = validated(upgraded)
    assert (report.valid, report.first_differences) == (True, [])
    assert report.compared == {
        "files": 2,
        "file_hashes": 2,
        "file_mentions": 7,
        "session_attributes": 1,
        "command_stats": 1,
        "session_logins": 1,
        "session_sensors": 2,
    }
    assert report.not_backfilled == dict.fromkeys(ALL_JOBS, 0)


@pytest.mark.parametrize("habit", ["from_v1", "planned_files"])
def test_inherited_schemas_are_valid(tmp_path: Path, habit: str) -> None:
    """v1's constraint and a pre-release files table are no difference."""
    version = "4" if habit == "planned_files" else "3"
    path = v3_schema.create(tmp_path / "v3.sqlite", version=version, **{habit: True})  # type: ignore[arg-type]
    report = validated(upgrade(path))
    assert (report.valid, report.first_differences) == (True, [])


def test_the_genuine_v3_file_is_valid(corpus_v3_file: Path) -> None:
    """A database written by v3 itself is valid after the upgrade; its two loads of one log show in the counters."""
    report = validated(upgrade(corpus_v3_file))
    assert (report.valid, report.first_differences, report.compared["files"]) == (True, [], 152)
    assert report.counters.wrong > 0


def test_the_generator_of_v3_files_agrees(tmp_path: Path) -> None:
    """A generated v3 database has as many files, hashes and sessions as its generator counted, and is valid."""
    path = tmp_path / "v3.sqlite"
    answer = make_v3_db(path, events=4000, seed=7)
    report = validated(upgrade(path))
    compared = (answer.files, answer.hashes, answer.sessions_with_attributes, answer.command_stats)
    compared += (answer.session_logins, answer.sessions)
    found = tuple(rows for table, rows in report.compared.items() if table != "file_mentions")
    assert (report.valid, report.first_differences, found) == (True, [], compared)
    assert report.compared["file_mentions"] >= answer.files


def test_logs_of_our_loader_are_valid(engine: Engine, corpus: Path) -> None:
    """Logs loaded by our loader are valid on both databases without a backfill."""
    BulkLoader(engine).load([corpus / "cowrie-3.1.4", corpus / "cowrie-2.9"])
    report = validate(engine)
    assert (report.valid, report.first_differences, report.counters.wrong) == (True, [], 0)
    assert report.compared["files"] > 10


def test_differences_are_reported_on_both_databases(engine: Engine, corpus: Path) -> None:
    """A missing row and a changed row are reported on SQLite and on PostgreSQL."""
    BulkLoader(engine).load([corpus / "cowrie-3.1.4"])
    with write_transaction(engine) as connection:
        gone, other = connection.execute(text("SELECT session_id, shasum FROM files ORDER BY id LIMIT 2")).all()
        where = {"session_id": gone.session_id, "shasum": gone.shasum}
        connection.execute(text("DELETE FROM files WHERE session_id = :session_id AND shasum = :shasum"), where)
        where = {"session_id": other.session_id, "shasum": other.shasum}
        connection.execute(
            text("UPDATE files SET filename = 'x' WHERE session_id = :session_id AND shasum = :shasum"), where
        )
    report = validate(engine)
    found = {
        (difference.kind, difference.session_id, difference.sha256, difference.field)
        for difference in report.first_differences
    }
    expected = {("missing", *gone, None), ("different", *other, "filename")}
    assert (found, report.differences) == (expected, {"different in files": 1, "missing in files": 1})


def test_the_schema_is_checked_on_both_databases(engine: Engine) -> None:
    """A new database has the declared schema on both databases; a missing index is reported."""
    assert validate(engine).valid
    with write_transaction(engine) as connection:
        connection.execute(text("DROP INDEX ix_file_hashes_verdict"))
    (found,) = validate(engine).first_differences
    assert found.describe() == "schema of file_hashes: the index ix_file_hashes_verdict is missing"


FIELDS = [
    ("filename", "'other'"),
    ("filename", "NULL"),
    ("download_url", "'http://203.0.113.9/z'"),
    ("origin", "'upload'"),
    ("first_seen", "'2025-01-02 03:04:03.000001'"),
]


@pytest.mark.parametrize(("column", "value"), FIELDS)
def test_a_changed_field_is_reported(upgraded: Path, column: str, value: str) -> None:
    """One changed field is the only difference, with its value and the expected value."""
    where = f"session_id = '{S1}' AND shasum = '{SHA_A}'"
    ((before,),) = rows(upgraded, f"SELECT {column} FROM files WHERE {where}")
    change(upgraded, f"UPDATE files SET {column} = {value} WHERE {where}")
    found = "empty" if value == "NULL" else value
    expected = f"different in files, session {S1}, hash {SHA_A}: {column} is {found}, expected {before!r}"
    assert described(upgraded) == [expected]


def test_a_missing_row_is_reported(upgraded: Path) -> None:
    """One deleted row is the only difference."""
    change(upgraded, f"DELETE FROM files WHERE session_id = '{S2}'")
    assert described(upgraded) == [f"missing in files, session {S2}, hash {SHA_B}"]


def test_an_extra_row_is_reported(upgraded: Path) -> None:
    """One row without an event is the only difference."""
    change(upgraded, f"INSERT INTO files (session_id, shasum) VALUES ('{S1}', '{SHA_B}')")
    expected = f"extra in files, session {S1}, hash {SHA_B}: no event names this file in this session"
    assert described(upgraded) == [expected]


def test_an_orphan_is_reported(upgraded: Path) -> None:
    """A row whose session exists nowhere else is an orphan."""
    change(upgraded, f"INSERT INTO files (session_id, shasum) VALUES ('gone', '{SHA_B}')")
    assert [line.split(":")[0] for line in described(upgraded)] == [f"orphan in files, session gone, hash {SHA_B}"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            f"UPDATE file_hashes SET session_count = 7 WHERE sha256 = '{SHA_A}'",
            f"different in file_hashes, hash {SHA_A}: session_count is 7, expected 1",
        ),
        (
            f"UPDATE file_hashes SET last_seen = '2025-01-02 03:04:09.000000' WHERE sha256 = '{SHA_A}'",
            f"different in file_hashes, hash {SHA_A}: last_seen is '2025-01-02 03:04:09.000000', "
            "expected '2025-01-02 03:04:04.000000'",
        ),
        (f"DELETE FROM file_hashes WHERE sha256 = '{SHA_B}'", f"missing in file_hashes, hash {SHA_B}"),
        (
            f"INSERT INTO file_hashes (sha256, first_seen, last_seen) VALUES ('{'c' * 64}', '2025', '2025')",
            f"extra in file_hashes, hash {'c' * 64}: no event and no captured file has it",
        ),
        (
            "UPDATE session_attributes SET username = 'admin'",
            "different in session_attributes, session s1: username is 'admin', expected 'root'",
        ),
        (
            "UPDATE session_attributes SET protocol = 'telnet'",
            "different in session_attributes, session s1: protocol is 'telnet', expected 'ssh'",
        ),
        ("DELETE FROM session_attributes WHERE session_id = 's1'", "missing in session_attributes, session s1"),
        (
            "UPDATE session_attributes SET src_ip_rank = 1",
            "different in session_attributes, session s1: src_ip_rank is '1', expected '0'",
        ),
        (
            "UPDATE session_logins SET attempts = attempts + 1",
            "different in session_logins, session s1, user name root: attempts is 3, expected 2",
        ),
        ("DELETE FROM session_logins", "missing in session_logins, session s1, user name root"),
        (
            "INSERT INTO session_logins (session_id, username, attempts, successes) VALUES ('s1', 'admin', 1, 0)",
            "extra in session_logins, session s1, user name admin",
        ),
        (
            "INSERT INTO session_attributes (session_id, src_ip) VALUES ('s9', '203.0.113.9')",
            "extra in session_attributes, session s9: no event of the session says any of it",
        ),
        (
            "UPDATE command_stats SET occurrences = occurrences + 1",
            f"different in command_stats, session s1, command {REWRITTEN}cd /tmp [SC] wget [URL]203.0.113.9/x: "
            "occurrences is 3, expected 2",
        ),
        (
            "DELETE FROM command_stats",
            f"missing in command_stats, session s1, command {REWRITTEN}cd /tmp [SC] wget [URL]203.0.113.9/x",
        ),
        (
            f"UPDATE files SET enrichment_status = 'done' WHERE session_id = '{S2}'",
            f"bad format in files, session {S2}, hash {SHA_B}: enrichment_status is 'done', "
            "expected 'one of enriched, failed, pending, skipped'",
        ),
        (
            f"UPDATE file_hashes SET vt_positives = 3 WHERE sha256 = '{SHA_B}'",
            f"different in files, session {S2}, hash {SHA_B}: verdict or status is 'something else', "
            "expected 'what file_hashes says'",
        ),
        ("DROP INDEX ix_files_shasum", "schema of files: the index ix_files_shasum is missing"),
        (
            "CREATE UNIQUE INDEX narrow ON files (shasum)",
            "schema of files: a unique constraint on (shasum) rejects valid rows",
        ),
        (
            "UPDATE raw_events SET source = 'elsewhere' WHERE id = 2",
            "v3 tables in raw_events: row 2 changed",
        ),
    ],
)
def test_each_damage_is_reported(upgraded: Path, statement: str, expected: str) -> None:
    """One change of a row, an index or a constraint is the only difference."""
    change(upgraded, statement)
    assert described(upgraded) == [expected]


def test_additions_to_the_schema_are_no_difference(upgraded: Path) -> None:
    """An additional column, index or table does no harm."""
    change(
        upgraded,
        "ALTER TABLE files ADD COLUMN more TEXT",
        "CREATE INDEX mine ON file_hashes (family)",
        "CREATE TABLE mine_too (id INTEGER)",
    )
    assert validated(upgraded).valid


def test_a_pending_propagation_is_no_difference(upgraded: Path) -> None:
    """While the propagation of a verdict is pending, rows may differ from their hash."""
    change(
        upgraded,
        f"UPDATE file_hashes SET vt_positives = 3 WHERE sha256 = '{SHA_B}'",
        f"INSERT INTO verdict_propagation (sha256, requested_at) VALUES ('{SHA_B}', '2025-01-02 00:00:00')",
    )
    assert validated(upgraded).valid


def test_a_malicious_file_flags_its_session(upgraded: Path) -> None:
    """An unflagged session with a malicious file is reported."""
    change(upgraded, *(f"UPDATE {table} SET vt_malicious = 1 WHERE 1" for table in ("files", "file_hashes")))
    change(upgraded, "UPDATE session_summaries SET vt_flagged = 1 WHERE session_id = 's1'")
    assert described(upgraded) == [
        f"different in session_summaries, session s2, hash {SHA_B}: vt_flagged is 0, expected 1"
    ]


def test_captured_files_need_no_event(upgraded: Path) -> None:
    """A captured file that no log names is valid, unless a log names its hash or the hash is missing."""
    add = "INSERT INTO files (session_id, shasum, origin) VALUES ('artifact:sensor', '{}', 'artifact')".format
    captured = "d" * 64
    add_hash = f"INSERT INTO file_hashes (sha256, first_seen, last_seen) VALUES ('{captured}', '2025', '2025')"
    change(upgraded, add(captured), add_hash)
    assert validated(upgraded).valid
    change(upgraded, add(SHA_B))
    expected = f"extra in files, session artifact:sensor, hash {SHA_B}: a captured file that no log names, but an event"
    assert [line[: len(expected)] for line in described(upgraded)] == [expected]
    change(upgraded, f"DELETE FROM files WHERE shasum = '{SHA_B}' AND origin = 'artifact'", "DELETE FROM file_hashes")
    assert f"missing in file_hashes, hash {captured}" in described(upgraded)


def test_what_was_stored_under_a_larger_limit_is_valid(engine: Engine, tmp_path: Path) -> None:
    """Validation, sensors and recount take events as the store has them, not by anybody's limit for loading."""
    log = tmp_path / "large.json"
    pad = "x" * (3 << 20)
    first = {"session": "s1", "timestamp": "2026-11-20T10:00:00.000000Z", "sensor": "pot-a", "src_ip": "198.51.100.7"}
    download = {"shasum": SHA_A, "url": "http://198.51.100.7/x"}
    log.write_text(
        json.dumps(first | {"eventid": "cowrie.client.version"})
        + "\n"
        + "".join(
            json.dumps(first | event | {"pad": pad}) + "\n"
            for event in (
                {"eventid": "cowrie.session.connect", "protocol": "ssh"},
                {"eventid": "cowrie.command.input", "input": "id"},
                {"eventid": "cowrie.login.success", "username": "root", "password": "x"},
                {"eventid": "cowrie.session.file_download"} | download,
            )
        )
    )
    BulkLoader(engine).load([log])
    assert replay(engine, Settings(max_value_bytes=8 << 20)).resolved == 4

    before = validate(engine, all_counters=True)
    result = recount(engine)
    backfill(engine)
    after = validate(engine, all_counters=True)

    assert (result.sessions, result.changed) == (1, 0)
    for report in (before, after):
        assert (report.valid, report.first_differences, report.counters.wrong) == (True, [], 0)
        assert report.without_row == {}
        assert report.compared == {
            "files": 1,
            "file_hashes": 1,
            "file_mentions": 2,
            "session_attributes": 1,
            "command_stats": 1,
            "session_logins": 1,
            "session_sensors": 1,
        }
    with read_transaction(engine) as connection:
        padded = [row for row in events_of_session(connection, "s1", 0, 10) if pad in (row.payload or "")]
    assert len(padded) == 4


def test_all_differences_are_counted_and_the_first_described(upgraded: Path) -> None:
    """The limit applies to the descriptions, not to the counts."""
    change(upgraded, "DELETE FROM files", "DELETE FROM file_hashes")
    report = validated(upgraded, limit_differences=1)
    assert report.differences == {"missing in file_hashes": 2, "missing in files": 2}
    assert [difference.describe() for difference in report.first_differences] == [
        f"missing in files, session {S1}, hash {SHA_A}"
    ]


def append_as_v3(path: Path, *payloads: dict[str, object]) -> None:
    """Add events as a v3 loader that still runs."""
    change(
        path,
        *(
            "INSERT INTO raw_events (source, source_offset, source_inode, payload)"
            f" VALUES ('/late.json', {line}, '9', '{json.dumps(payload)}')"
            for line, payload in enumerate(payloads)
        ),
    )


def test_events_appended_by_v3_are_reported_separately(upgraded: Path) -> None:
    """Events that an old loader added after the backfill are no difference; they must be backfilled."""
    late = v3_schema.event(
        "cowrie.session.file_download", S2, "2025-01-03T00:00:00.000000Z", shasum=SHA_A, url="http://203.0.113.9/x"
    )
    append_as_v3(upgraded, late, v3_schema.event("cowrie.login.failed", "s3", "2025-01-03T00:00:00Z", username="a"))
    report = validated(upgraded)
    assert (report.valid, report.differences) == (False, {})
    assert report.not_backfilled == dict(zip(ALL_JOBS, (1, 1, 2, 2), strict=True))
    shown = call("--db", upgraded)
    assert "backfill-files has not processed 1 event yet: run `cowrieprocessor db backfill" in shown.output
    with opened(upgraded) as engine:
        backfill(engine)
    assert (validated(upgraded).valid, shown.exit_code) == (True, 1)


def test_before_the_backfill(v3_file: Path) -> None:
    """A migrated database is not valid before the backfill."""
    with opened(v3_file) as engine:
        apply_migrations(engine)
    report = validated(v3_file)
    assert (report.valid, report.differences) == (False, {})
    assert report.not_backfilled == dict(zip(ALL_JOBS, (7, None, None, None), strict=True))


def test_a_v3_file_must_be_migrated(v3_file: Path) -> None:
    """A v3 file is refused with the command that migrates it."""
    with pytest.raises(MigrationNeeded, match="db migrate"):
        validated(v3_file)


STEPS = [
    "reading file events",
    "comparing files",
    "comparing file_hashes",
    "reading the URLs",
    "comparing file_mentions",
    "reading all events",
    "comparing command",
    "reading the sensors",
    "comparing session_sensors",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_concurrent_loader_is_no_difference(upgraded: Path, corpus: Path, step: str) -> None:
    """Whatever a loader adds at any moment of a validation, the database is valid."""
    loaded: list[str] = []

    def load(now: JobProgress) -> None:
        if (now.step or "").startswith(step) and not loaded:
            loaded.append(step)
            with opened(upgraded) as engine:
                BulkLoader(engine).load([corpus / "cowrie-3.1.4" / "cowrie.json"])

    with opened(upgraded, read_only=True) as engine:
        report = validate(engine, on_progress=load)
    assert (loaded, report.valid, report.first_differences) == ([step], True, [])


@pytest.mark.parametrize("step", STEPS)
def test_a_concurrent_backfill_is_no_difference(upgraded: Path, step: str) -> None:
    """Events backfilled during a validation count from that moment on."""
    events = v3_schema.habits()
    append_as_v3(upgraded, *({**item, "session": f"late{number}"} for number, item in enumerate(events) if item))
    done: list[str] = []

    def run_backfill(now: JobProgress) -> None:
        if (now.step or "").startswith(step) and not done:
            done.append(step)
            with opened(upgraded) as engine:
                backfill(engine)

    with opened(upgraded, read_only=True) as engine:
        report = validate(engine, on_progress=run_backfill)
    assert (done, report.first_differences) == ([step], [])
    is_counted = {
        "backfill-files": STEPS.index(step) > STEPS.index("comparing file_hashes"),
        "backfill-mentions": STEPS.index(step) > STEPS.index("comparing file_mentions"),
        "backfill-sessions": "sensors" in step,
        "backfill-sensors": False,
    }
    assert {job: bool(rows) for job, rows in report.not_backfilled.items()} == is_counted


def test_a_real_difference_is_found_despite_a_loader(upgraded: Path, corpus: Path) -> None:
    """A missing row is reported while a loader writes, and only that row."""
    change(upgraded, f"DELETE FROM files WHERE session_id = '{S2}'")
    loaded: list[bool] = []

    def load(now: JobProgress) -> None:
        if not loaded:
            loaded.append(True)
            with opened(upgraded) as engine:
                BulkLoader(engine).load([corpus / "cowrie-2.9" / "cowrie.json"])

    with opened(upgraded, read_only=True) as engine:
        report = validate(engine, on_progress=load)
    assert report.first_differences == [Difference("missing", "files", S2, SHA_B)]


def test_nothing_is_changed_and_nothing_left_behind(
    upgraded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validation changes no byte of the database and leaves no temporary file."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = upgraded.read_bytes()
    validated(upgraded)
    assert (upgraded.read_bytes() == before, list(temporary.iterdir())) == (True, [])


@pytest.mark.parametrize("event_type", ["cowrie.session.file_download", validation_events.ALL_TYPES])
def test_events_are_read_by_the_index_and_never_sorted(upgraded: Path, event_type: str) -> None:
    """Each page begins after the last id, in the index on the type or in the table itself."""
    with opened(upgraded, read_only=True) as engine, dialect_of(engine).scan(engine) as reading:
        walk = validation_events.events(reading, event_type, 5, 100, 0)
        sql = f"EXPLAIN QUERY PLAN {walk.select} WHERE {walk.where} AND (e.id) > (?) ORDER BY e.id LIMIT 10"
        with read_transaction(engine) as connection:
            plan = [row[3] for row in reading.rows(connection, sql, (*walk.values, 5))]
    index = "INDEX ix_raw_events_event_type (event_type=? AND rowid>?" if event_type else "INTEGER PRIMARY KEY (rowid>?"
    assert index in plan[0]
    assert not [line for line in plan if "TEMP B-TREE" in line]


def test_tables_are_read_in_the_order_of_an_index(upgraded: Path) -> None:
    """No page of a table is sorted, and each begins after the last key."""
    from cowrieprocessor.db.validation.rows import AttributeRow, CommandRow, FileRow, HashRow, Rows

    with opened(upgraded, read_only=True) as engine, dialect_of(engine).scan(engine) as reading:
        for kind in (FileRow, HashRow, AttributeRow, CommandRow):
            walk = Rows(reading).walk(kind)
            keys, marks = ", ".join(walk.keys), ", ".join("?" * len(walk.keys))
            sql = f"EXPLAIN QUERY PLAN {walk.select} WHERE ({keys}) > ({marks}) ORDER BY {keys} LIMIT 10"
            with read_transaction(engine) as connection:
                plan = [row[3] for row in reading.rows(connection, sql, ("x",) * len(walk.keys))]
            assert "USING INDEX sqlite_autoindex" in plan[0]
            assert ">" in plan[0]
            assert not [line for line in plan if "TEMP B-TREE" in line]


def test_the_command_reports_valid_and_exits_with_0(upgraded: Path) -> None:
    """For a valid database it exits with 0, and the last line says so."""
    done = call("--db", upgraded)
    assert (done.exit_code, "valid: every row agrees with the events" in done.stdout) == (0, True)


def test_the_command_reports_counters(upgraded: Path) -> None:
    """Doubled counters are reported with the remedy, and are no failure."""
    done = call("--counters", "--db", upgraded)
    assert (done.exit_code, "2 of 2 sessions (100.0%) have counters" in done.stdout) == (0, True)
    assert f"db recount --db {upgraded}" in done.stdout


def test_the_json_is_complete(upgraded: Path) -> None:
    """The document has all counts and the first differences, and the command exits with 1."""
    change(upgraded, "DELETE FROM files")
    done = call("--db", upgraded, "--json", "--limit-differences", 1)
    document = json.loads(done.stdout)
    assert (done.exit_code, document["valid"], document["differences"]) == (1, False, {"missing in files": 2})
    assert [difference["session_id"] for difference in document["first_differences"]] == [S1]


def test_attackers_text_is_inert(upgraded: Path) -> None:
    """A row's values reach the terminal without control characters."""
    change(upgraded, f"UPDATE files SET filename = 'a' || char(27) || '[2J' WHERE session_id = '{S2}'")
    done = call("--db", upgraded)
    assert (done.exit_code, "\x1b" in done.output) == (1, False)


def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    """A mistyped name is reported, and creates no file."""
    done = call("--db", tmp_path / "missing.sqlite")
    assert "no such database" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_leaves_nothing_behind(
    upgraded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Ctrl-C in any step ends the validation and removes its temporary file."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def interrupt(now: JobProgress) -> None:
        if (now.step or "").startswith(step):
            raise KeyboardInterrupt

    with opened(upgraded, read_only=True) as engine, pytest.raises(KeyboardInterrupt):
        validate(engine, on_progress=interrupt)
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_no_temporary_folder(upgraded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a temporary folder the error tells how to choose one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DatabaseError, match="TMPDIR"):
        validated(upgraded)


def test_the_temporary_file_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the owner may read the expected rows, and they are removed afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Spill():
        (folder,) = tmp_path.iterdir()
        modes = [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())]
    assert (modes, list(tmp_path.iterdir())) == ([0o700, 0o600], [])


def test_progress_reaches_the_end_of_each_step(upgraded: Path) -> None:
    """Every step reports its rows, and how many there are as far as is known."""
    latest: dict[str | None, JobProgress] = {}
    with opened(upgraded, read_only=True) as engine:
        validate(engine, all_counters=True, on_progress=lambda now: latest.update({now.step: now}))
    assert {step: (now.done, now.done / (now.total or 1)) for step, now in latest.items()} == {
        "reading file events": (7, 7 / 10),
        "comparing files": (2, 1.0),
        "comparing file_hashes": (2, 1.0),
        "reading the URLs and names of file events": (8, 8 / 10),
        "comparing file_mentions": (7, 1.0),
        "reading all events": (18, 1.0),
        "comparing session_attributes": (1, 1.0),
        "comparing command_stats": (1, 1.0),
        "comparing session_logins": (1, 1.0),
        "reading the sensors of all events": (18, 1.0),
        "comparing session_sensors": (2, 1.0),
        "counting the events of sessions": (2, 1.0),
    }


def test_the_engine_may_be_writable(upgraded: Path) -> None:
    """A validation also accepts an engine that can write."""
    engine = get_engine(upgraded)
    try:
        assert validate(engine, files_only=True).compared == {"files": 2, "file_hashes": 2, "file_mentions": 7}
    finally:
        engine.dispose()
