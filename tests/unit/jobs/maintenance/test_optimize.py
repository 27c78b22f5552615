"""Optimization: the redundant index is dropped, statistics are refreshed, nothing else changes; repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.dialects.sqlite.dialect import ANALYZED_ENTRIES
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.errors import MigrationNeeded
from cowrieprocessor.jobs.maintenance.optimize import optimize, plan_optimize
from tests import v3_schema
from tests.other_connections import sqlite3
from tests.step_writer import StepWriter

INDEX = "uq_raw_events_source_gen"


@pytest.fixture
def migrated(v3_file: Path) -> Iterator[Engine]:
    """A migrated v3 file with several thousand events."""
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        v3_schema.insert_events(connection, v3_schema.habits()[:1] * 5000, source="/var/log/cowrie/more.json")
    engine = get_engine(v3_file)
    apply_migrations(engine)
    yield engine
    dispose(engine)


def indexes(engine: Engine) -> set[str]:
    """Return the names of all indexes."""
    with read_transaction(engine) as connection:
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        return {str(name) for (name,) in rows}


def test_redundant_index_is_dropped(migrated: Engine) -> None:
    """The index is dropped, the space it frees is reported, and no other index is touched."""
    before = indexes(migrated)
    plan = plan_optimize(migrated)
    result = optimize(migrated)
    assert (plan.redundant_index, result.dropped_index) == (INDEX, INDEX)
    assert before - indexes(migrated) == {INDEX}
    assert result.freed_bytes % 4096 == 0
    assert 0.5 < plan.index_bytes / result.freed_bytes < 2


def test_events_stay_unique(migrated: Engine, v3_file: Path) -> None:
    """Without the index the constraint still prevents storing an event twice."""
    optimize(migrated)
    with closing(sqlite3.connect(v3_file)) as connection, pytest.raises(sqlite3.IntegrityError):
        v3_schema.insert_events(connection, v3_schema.habits()[:1])


def test_a_second_run_only_refreshes_statistics(migrated: Engine) -> None:
    """A second run finds no index and succeeds."""
    optimize(migrated)
    assert plan_optimize(migrated).redundant_index is None
    result = optimize(migrated)
    assert (result.dropped_index, result.freed_bytes, result.analyzed) == (None, 0, True)


def test_plan_changes_nothing(migrated: Engine, v3_file: Path, tmp_path: Path) -> None:
    """The plan changes no byte and creates no file."""
    dispose(migrated)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    plan_optimize(migrated)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_statistics_are_from_a_sample(migrated: Engine) -> None:
    """Only a limited number of entries is read from each index."""
    optimize(migrated)
    with read_transaction(migrated) as connection:
        limit = connection.exec_driver_sql("PRAGMA analysis_limit").scalar()
        analyzed = connection.exec_driver_sql("SELECT count(*) FROM sqlite_stat1").scalar()
    assert limit == ANALYZED_ENTRIES
    assert analyzed


def test_events_of_a_type_are_still_read_through_their_index(migrated: Engine) -> None:
    """With the statistics the backfill's query still uses the index on event types, in order of ids."""
    optimize(migrated)
    with read_transaction(migrated) as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT id, payload FROM raw_events"
            " WHERE event_type = 'cowrie.session.file_download' AND id > 10 ORDER BY id LIMIT 100"
        ).all()
    assert ["ix_raw_events_event_type" in str(row) for row in plan] == [True]


def test_index_without_the_constraint_is_not_redundant(tmp_path: Path) -> None:
    """An index with that name on other columns, or without the constraint, stays."""
    path = v3_schema.create(tmp_path / "x.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"DROP INDEX {INDEX}")
        connection.execute(f"CREATE UNIQUE INDEX {INDEX} ON raw_events (source, id)")
    engine = get_engine(path)
    apply_migrations(engine)
    assert (plan_optimize(engine).redundant_index, optimize(engine).dropped_index) == (None, None)
    assert INDEX in indexes(engine)
    dispose(engine)


def test_concurrent_writer(migrated: Engine, v3_file: Path) -> None:
    """Another process can write before and after."""
    with StepWriter(v3_file) as writer:
        result = optimize(migrated, on_progress=lambda now: writer.commit() if "sample" in (now.step or "") else None)
        assert result.dropped_index
        writer.commit()


def test_other_versions_are_refused(v3_file: Path) -> None:
    """A v3 file keeps its index: it must be migrated first."""
    engine = get_engine(v3_file)
    with pytest.raises(MigrationNeeded):
        optimize(engine)
    dispose(engine)
    engine = get_engine(v3_file, read_only=True)
    assert INDEX in indexes(engine)
    dispose(engine)


def test_new_database_has_no_redundant_index(engine: Engine) -> None:
    """A database created with our version has only statistics to refresh, on both databases."""
    result = optimize(engine)
    assert (result.dropped_index, result.analyzed) == (None, True)
