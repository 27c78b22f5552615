"""Import of a pre-release `files` table: its rows count, and end up as the backfill would have made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import load_job
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.upgrade.pre_release_files import JOB_NAME, ImportLimits, import_pre_release_files
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v3_schema
from tests import v4_state_scene as scene
from tests.logical_digest import difference, logical_contents
from tests.other_connections import sqlite3
from tests.v4_state_scene import SHA_A, SHA_B, SHA_C, T

ROWS = "INSERT INTO files (session_id, shasum, filename, download_url, first_seen, vt_malicious, vt_scan_date,"
ROWS += " vt_positives, vt_total, enrichment_status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
NOW = "2026-05-05 05:05:05"
SCANNED = "2026-02-02 02:02:02.000000"


def with_pre_release_files(path: Path, rows: list[tuple[object, ...]], *more: str) -> Engine:
    """Return an engine on a migrated database whose pre-release `files` table had these rows."""
    v3_schema.create(path, version="4", planned_files=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in more:
            connection.execute(statement)
        connection.executemany(ROWS, rows)
    engine = get_engine(path)
    apply_migrations(engine)
    return engine


@pytest.fixture
def pre_release(tmp_path: Path) -> Iterator[Engine]:
    """A pre-release table as a program may have filled it: times of its own run, hashes in any case, some verdicts."""
    engine = with_pre_release_files(
        tmp_path / "planned.sqlite",
        [
            ("s1", SHA_A.upper(), "y", "http://203.0.113.9/y", NOW, 1, SCANNED, 9, 70, "enriched"),
            ("s1", SHA_A, "x", "http://203.0.113.9/x", NOW, 0, None, None, None, "pending"),
            ("s2", SHA_B, "a.bin", None, NOW, 0, None, None, None, "failed"),
            ("gone", SHA_B, "b.bin", None, NOW, 0, None, None, None, "pending"),
            ("gone", SHA_C, None, None, NOW, 0, SCANNED, 0, 70, "enriched"),
            ("gone", "no hash", None, None, NOW, 0, None, None, None, "odd"),
        ],
    )
    yield engine
    dispose(engine)


def hashes(engine: Engine) -> dict[str, tuple[object, ...]]:
    """Return the columns of file_hashes that depend on pre-release rows."""
    columns = ("session_count", "vt_malicious", "vt_positives", "enrichment_status", "verdict")
    with read_transaction(engine) as connection:
        rows = connection.execute(select(T["file_hashes"].c.sha256, *(T["file_hashes"].c[name] for name in columns)))
        return {row[0]: tuple(row[1:]) for row in rows}


EXPECTED = {
    SHA_A: (1, True, 9, "enriched", "malicious"),
    SHA_B: (2, False, None, "failed", "unknown"),
    SHA_C: (1, False, 0, "enriched", "clean"),
}


def test_pre_release_rows_count(pre_release: Engine) -> None:
    """Each hash gets its session count and its latest verdict; a value that is not a hash is left to `db validate`."""
    assert import_pre_release_files(pre_release) == 5
    assert EXPECTED == hashes(pre_release)


def test_verdicts_reach_all_rows_and_sessions(pre_release: Engine) -> None:
    """All rows of a hash get its verdict, and the sessions of a malicious hash are flagged."""
    import_pre_release_files(pre_release)
    with read_transaction(pre_release) as connection:
        rows = connection.execute(
            text("SELECT session_id, shasum, vt_positives, origin FROM files ORDER BY 2, 1")
        ).all()
        flagged = connection.execute(text("SELECT session_id FROM session_summaries WHERE vt_flagged")).scalars().all()
    assert rows == [
        ("s1", SHA_A, 9, "upload"),
        ("gone", SHA_B, None, "upload"),
        ("s2", SHA_B, None, "upload"),
        ("gone", SHA_C, 0, "upload"),
        ("gone", "no hash", None, "download"),
    ]
    assert flagged == ["s1"]


def test_repeated_import_changes_nothing(pre_release: Engine) -> None:
    """A repeated import changes nothing, also after the backfill."""
    import_pre_release_files(pre_release)
    backfill(pre_release)
    before = logical_contents(pre_release)
    assert import_pre_release_files(pre_release) == 0
    assert before == logical_contents(pre_release)


def test_import_and_backfill_equal_a_backfill_alone(pre_release: Engine, tmp_path: Path) -> None:
    """Import and backfill give the same rows as a backfill of an empty table, as far as raw_events knows them."""
    with write_transaction(pre_release) as connection:
        connection.execute(text("DELETE FROM files WHERE session_id = 'gone'"))  # raw_events cannot tell of them
    import_pre_release_files(pre_release)
    backfill(pre_release)
    other = get_engine(v3_schema.create(tmp_path / "v3.sqlite"))
    apply_migrations(other)
    backfill(other)
    verdicts = ("vt_malicious", "vt_positives", "vt_total", "vt_scan_date", "enrichment_status", "verdict")

    made, expected = (
        logical_contents(
            engine, tables=("files", "file_hashes", "session_attributes", "command_stats"), without=verdicts
        )
        for engine in (pre_release, other)
    )

    assert [] == difference(expected, made)
    dispose(other)


def test_interrupted_import_resumes(pre_release: Engine) -> None:
    """An import interrupted after any hash and repeated ends with the same rows."""
    limits = ImportLimits(hashes_at_once=1, transaction_s=0.0)

    seen: list[int] = []

    def stop(imported: int) -> None:
        seen.append(imported)
        raise KeyboardInterrupt

    def interrupted() -> bool:
        try:
            import_pre_release_files(pre_release, stop, limits=limits)
        except KeyboardInterrupt:
            return True
        return False

    assert [True] * 5 == [interrupted() for _ in range(5)]
    assert not interrupted()
    assert seen == [1, 2, 3, 4, 5]
    with read_transaction(pre_release) as connection:
        job = load_job(connection, JOB_NAME)
    assert job is not None
    assert (job.state, job.counters) == ("done", {"hashes": 5})
    assert EXPECTED == hashes(pre_release)


def test_rows_of_a_popular_hash_are_changed_in_steps(tmp_path: Path) -> None:
    """An upper-case hash of many sessions is imported in small steps, each row once."""
    rows = [(f"p{number}", SHA_C.upper(), None, None, NOW, 0, None, None, None, "pending") for number in range(40)]
    engine = with_pre_release_files(
        tmp_path / "planned.sqlite", [*rows[:-1], (*rows[-1][:5], 1, SCANNED, 5, 60, "enriched")]
    )
    import_pre_release_files(engine, limits=ImportLimits(rows_at_once=7, transaction_s=0.0))
    assert {SHA_C: (40, True, 5, "enriched", "malicious")} == hashes(engine)
    with read_transaction(engine) as connection:
        query = "SELECT count(*), min(shasum), min(origin), min(vt_positives) FROM files"
        assert (40, SHA_C, "upload", 5) == tuple(connection.execute(text(query)).one())
    dispose(engine)


def test_loaders_that_were_first_are_counted_with_it(pre_release: Engine, tmp_path: Path) -> None:
    """Rows that a loader stored between migration and import are counted once."""
    BulkLoader(pre_release).load([scene.write_log(tmp_path / "cowrie.json")])
    import_pre_release_files(pre_release)
    assert hashes(pre_release)[SHA_A] == (2, True, 9, "enriched", "malicious")


def test_existing_origins_are_kept(tmp_path: Path) -> None:
    """A pre-release table that had the column `origin` keeps its values."""
    engine = with_pre_release_files(
        tmp_path / "planned.sqlite",
        [("s2", SHA_B, None, None, NOW, 0, None, None, None, "pending")],
        "ALTER TABLE files ADD COLUMN origin VARCHAR(16) NOT NULL DEFAULT 'download'",
    )
    import_pre_release_files(engine)
    with read_transaction(engine) as connection:
        assert ["download"] == list(connection.scalars(text("SELECT origin FROM files")))
    dispose(engine)


def test_without_a_pre_release_table_nothing_is_done(engine: Engine) -> None:
    """A database without a pre-release table is not changed."""
    assert import_pre_release_files(engine) == 0
    with read_transaction(engine) as connection:
        assert [] == connection.execute(text("SELECT name FROM jobs")).all()
