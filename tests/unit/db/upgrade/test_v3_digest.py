"""The digest of v3's tables: small, taken with the migration, and it finds every change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, insert, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.upgrade import v3_digest
from cowrieprocessor.db.upgrade.v3_digest import Difference, MigrationRecord, compare, read_record
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v3_schema
from tests import v4_state_scene as scene
from tests.other_connections import sqlite3
from tests.v4_state_scene import T


@pytest.fixture
def v3(db_url: str) -> Iterator[Engine]:
    """An engine on a v3 database with all peculiarities of its data, on SQLite and on PostgreSQL."""
    engine = get_engine(db_url)
    scene.make_v3(engine)
    yield engine
    dispose(engine)


def run(engine: Engine, *statements: str) -> None:
    """Execute statements in one transaction."""
    with write_transaction(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


def differences(engine: Engine) -> list[Difference]:
    """Return the differences since the migration."""
    with read_transaction(engine) as connection:
        return compare(connection)


def record_of(engine: Engine) -> MigrationRecord:
    """Return the migration's record."""
    with read_transaction(engine) as connection:
        record = read_record(connection)
    assert record is not None
    return record


def test_after_the_whole_path_nothing_differs(v3: Engine, tmp_path: Path) -> None:
    """Loading, backfilling, enriching and resolving dead letters change nothing that the digest covers."""
    scene.build(v3, tmp_path)
    BulkLoader(v3).load([scene.write_log(tmp_path / "copy.json")])
    run(
        v3,
        "UPDATE dead_letter_events SET resolved = TRUE, resolved_at = CURRENT_TIMESTAMP",
        "UPDATE session_summaries SET event_count = 1, vt_flagged = TRUE",
        "UPDATE ingest_cursors SET last_offset = 99",
    )
    assert [] == differences(v3)


def test_boundaries_are_kept(v3: Engine) -> None:
    """The record has the largest ids of v3's rows."""
    apply_migrations(v3)
    record = record_of(v3)
    assert (12, 0, 1, 0) == (
        record.raw_events_max_id,
        record.command_stats_max_id,
        record.dead_letters_max_id,
        record.planned_files_max_id,
    )
    assert record.alembic is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DELETE FROM raw_events WHERE id = 3", Difference("raw_events", 3, "missing")),
        ("UPDATE raw_events SET payload = '{}' WHERE id = 4", Difference("raw_events", 4, "changed")),
        ("UPDATE raw_events SET source_offset = 99 WHERE id = 5", Difference("raw_events", 5, "changed")),
        ("DELETE FROM session_summaries WHERE session_id = 's1'", Difference("session_summaries", "s1", "missing")),
        ("UPDATE dead_letter_events SET reason = 'x'", Difference("dead_letter_events", 1, "changed")),
        (
            "DELETE FROM ingest_cursors",
            Difference("ingest_cursors", v3_schema.LOG, "missing"),
        ),
        ("DROP INDEX ix_raw_events_event_type", Difference("raw_events", None, "its definition changed")),
        ("ALTER TABLE raw_events ADD COLUMN more TEXT", Difference("raw_events", None, "its definition changed")),
    ],
)
def test_each_change_is_named(v3: Engine, change: str, expected: Difference) -> None:
    """A missing or changed row of v3, and a changed table definition, are reported by table and key."""
    apply_migrations(v3)
    run(v3, change)
    assert [expected] == differences(v3)


def test_dropping_the_redundant_index_is_no_difference(v3_file: Path) -> None:
    """The index that `db optimize` drops is not a difference."""
    engine = get_engine(v3_file)
    apply_migrations(engine)
    run(engine, "DROP INDEX uq_raw_events_source_gen")
    assert [] == differences(engine)
    dispose(engine)


def test_a_database_that_v4_made_has_no_digest(engine: Engine) -> None:
    """A database created by v4 has nothing to compare with."""
    assert [] == differences(engine)
    with read_transaction(engine) as connection:
        assert read_record(connection) is None


def test_digest_of_the_genuine_file(corpus_v3_file: Path) -> None:
    """The genuine v3 file has no difference after the backfill."""
    engine = get_engine(corpus_v3_file)
    apply_migrations(engine)
    backfill(engine)
    assert [] == differences(engine)
    dispose(engine)


@pytest.fixture
def large(v3: Engine) -> Engine:
    """A v3 database too large to be covered completely, with gaps in its ids and evenly distributed session ids."""
    with write_transaction(v3) as connection:
        rows = [
            {"id": 20 + 3 * number, "source": "large", "source_offset": number, "payload": {"n": number}}
            for number in range(2_500)
        ]
        connection.execute(insert(T["raw_events"]), rows)
        sessions = [{"session_id": f"{number * 7919 % 0x10000:04x}{number}"} for number in range(2_500)]
        connection.execute(insert(T["session_summaries"]), sessions)
    return v3


def test_large_tables_are_sampled_evenly(large: Engine) -> None:
    """About a thousand rows represent a large table from its first to its last, in little space."""
    apply_migrations(large)
    record = record_of(large)
    ids = sorted(int(row_id) for row_id in record.digests["raw_events"]["rows"])
    sessions = sorted(record.digests["session_summaries"]["rows"])
    assert (1, 20 + 3 * 2_499) == (ids[0], ids[-1])
    assert max(later - earlier for earlier, later in pairwise(ids)) < 25
    assert {f"{digit:x}" for digit in range(16)} <= {session_id[0] for session_id in sessions}
    assert all(900 < len(digest) < 1_300 for digest in (ids, sessions))
    assert len(json.dumps(record.as_cursor())) < 100_000
    assert [] == differences(large)


def test_sampled_rows_are_the_same_each_time(large: Engine) -> None:
    """The digest of unchanged tables is the same each time."""
    with read_transaction(large) as connection:
        facts = v3_digest.SchemaFacts(3, frozenset({"raw_events"}), None)
        first, second = (v3_digest.take_record(connection, facts) for _ in range(2))
    assert first.digests == second.digests


def test_digest_scans_no_table(tmp_path: Path) -> None:
    """Every statement of a large table's digest finds its rows by an index, so no size makes it slow."""
    path = v3_schema.create(tmp_path / "v3.sqlite", payloads=[{"n": number} for number in range(2_100)])
    engine = get_engine(path)
    statements: dict[str, tuple[object, ...]] = {}

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "raw_events" in statement and "sqlite_master" not in statement and statement.startswith("SELECT"):
            statements[statement] = tuple(parameters)  # type: ignore[arg-type]

    event.listen(engine, "before_cursor_execute", note)
    with read_transaction(engine) as connection:
        v3_digest.take_record(connection, v3_digest.SchemaFacts(3, frozenset(), None))
    dispose(engine)
    with closing(sqlite3.connect(path)) as connection:
        plans = [
            row[3]
            for statement, parameters in statements.items()
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert plans
    assert [plan for plan in plans if not plan.startswith("SEARCH raw_events")] == []
