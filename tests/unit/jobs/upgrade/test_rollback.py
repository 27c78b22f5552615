"""Rollback to version 3: from every point of an upgrade, completely or not at all, and without loss."""

from __future__ import annotations

import datetime as dt
import fcntl
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text, update

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations, schema_version
from cowrieprocessor.db.models import V3_TABLES
from cowrieprocessor.db.revisions import HEAD, REVISIONS
from cowrieprocessor.errors import ConfigurationError, JobTaken, SaveFailed, SchemaVersionError
from cowrieprocessor.jobs.maintenance.optimize import optimize
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.upgrade import rollback, state_export
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.jobs.upgrade.rollback import plan, roll_back
from cowrieprocessor.jobs.upgrade.state_export import read_export
from tests import v3_schema
from tests import v4_state_scene as scene
from tests.earlier_revisions import go_back
from tests.other_connections import sqlite3
from tests.schema_shape import sqlite_shape
from tests.v4_state_scene import T, working

OPENER = Callable[[Path | str], Engine]


@pytest.fixture
def opened() -> Iterator[OPENER]:
    """A function that opens an engine, which is closed after the test."""
    engines: list[Engine] = []

    def open_(db: Path | str) -> Engine:
        engines.append(get_engine(db))
        return engines[-1]

    yield open_
    for engine in engines:
        dispose(engine)


def schema(path: Path) -> set[tuple[str, str, str]]:
    """Return SQLite's schema with normalized white space."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(kind, name, " ".join(sql.split())) for kind, name, sql in rows}


def saved_files(path: Path) -> list[Path]:
    """Return the export files next to a database."""
    return sorted(path.parent.glob(f"{path.name}.v4-saved-*"))


def stop_half_way(engine: Engine) -> None:
    """Interrupt a backfill in the middle of its second job."""
    apply_migrations(engine)

    def interrupt(progress: object) -> None:
        if getattr(progress, "job", "") == "backfill-sessions" and getattr(progress, "done", 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backfill(engine, batch_size=5, on_progress=interrupt)


POINTS: dict[str, Callable[[Engine], object]] = {
    "migrated": apply_migrations,
    "half backfilled": stop_half_way,
    "backfilled": lambda engine: (apply_migrations(engine), backfill(engine)),
    "enriched": lambda engine: (apply_migrations(engine), backfill(engine), scene.learn_all_but_flags(engine)),
}


@pytest.mark.parametrize("from_v1", [False, True])
@pytest.mark.parametrize("point", POINTS)
def test_schema_and_rows_of_v3_are_restored(tmp_path: Path, opened: OPENER, point: str, from_v1: bool) -> None:
    """From every point of an upgrade, the schema and every row of v3's tables are restored."""
    path = v3_schema.create(tmp_path / "v3.sqlite", from_v1=from_v1)
    engine = opened(path)
    before = (schema(path), sqlite_shape(path), scene.rows_of_v3(engine))
    POINTS[point](engine)
    assert before[0] != schema(path)

    roll_back(engine)

    assert schema_version(engine) == 3
    assert before == (schema(path), sqlite_shape(path), scene.rows_of_v3(engine))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_genuine_v3_file_is_restored(corpus_v3_file: Path, opened: OPENER) -> None:
    """The genuine v3 file, migrated, backfilled and rolled back, has its schema and rows again."""
    engine = opened(corpus_v3_file)
    before = (schema(corpus_v3_file), scene.rows_of_v3(engine))
    apply_migrations(engine)
    backfill(engine)
    roll_back(engine)
    assert before == (schema(corpus_v3_file), scene.rows_of_v3(engine))


def test_what_v4_loaded_stays(v3_file: Path, opened: OPENER, tmp_path: Path) -> None:
    """Events, sessions and unreadable lines that v4 loaded stay; only rows on v4's own tables are deleted."""
    engine = opened(v3_file)
    scene.build(engine, tmp_path)
    before = scene.rows_of_v3(engine, without=("command_stats", "dead_letter_events"))

    done = roll_back(engine)

    assert before == scene.rows_of_v3(engine, without=("command_stats", "dead_letter_events"))
    assert (done.forgotten.command_stats, done.forgotten.file_dead_letters) == (2, 3)
    assert scene.reasons(engine) == ["validation"]


@pytest.mark.parametrize("order", ["imported first", "backfilled first"])
def test_upgrading_again_restores_everything(v3_file: Path, opened: OPENER, tmp_path: Path, order: str) -> None:
    """After rollback and migration, backfill and import in either order restore all rows."""
    engine = opened(v3_file)
    upgrade_again(engine, tmp_path, order)


@pytest.mark.postgres
@pytest.mark.parametrize("order", ["imported first", "backfilled first"])
def test_upgrading_again_on_postgresql(postgres_url: str, opened: OPENER, tmp_path: Path, order: str) -> None:
    """The same on PostgreSQL, where the path of the export has to be given."""
    engine = opened(postgres_url)
    scene.make_v3(engine)
    upgrade_again(engine, tmp_path, order)


def upgrade_again(engine: Engine, folder: Path, order: str) -> None:
    """Upgrade, roll back, and upgrade again; compare, and import once more, which changes nothing."""
    scene.build(engine, folder)
    before = scene.contents(engine)
    path = folder / "saved"
    roll_back(engine, path)
    with read_transaction(engine) as connection:
        assert set(inspect(connection).get_table_names()) == set(V3_TABLES)
    apply_migrations(engine)
    if order == "backfilled first":
        backfill(engine)
    state_export.import_state(engine, path)
    backfill(engine)

    assert [] == scene.difference(before, scene.contents(engine))
    again = state_export.import_state(engine, path)
    assert {(0, 0)} == {(merged.added, merged.updated) for merged in again.tables.values()}
    assert 0 == again.files_updated
    assert [] == scene.difference(before, scene.contents(engine))


@pytest.mark.parametrize("revision", [number for number, _ in REVISIONS if "0004" <= number < HEAD])
def test_the_export_of_an_earlier_revision_is_imported(
    v3_file: Path, opened: OPENER, tmp_path: Path, revision: str
) -> None:
    """An export without the columns of later revisions is complete: the import restores what that revision knew."""
    engine = opened(v3_file)
    scene.build(engine, tmp_path)
    go_back(engine, revision)
    apply_migrations(engine)
    backfill(engine)
    recount(engine)
    before = scene.contents(engine)
    go_back(engine, revision)

    roll_back(engine, tmp_path / "saved")
    apply_migrations(engine)
    imported = state_export.import_state(engine, tmp_path / "saved")
    backfill(engine)
    recount(engine)

    assert imported.tables["log_files"].added == 1
    assert [] == scene.difference(before, scene.contents(engine))


def test_a_database_that_v4_made_becomes_v3(tmp_path: Path, opened: OPENER, v3_file: Path) -> None:
    """A database created by v4 gets v3's complete schema, with its second unique index."""
    path = tmp_path / "fresh.sqlite"
    engine = opened(path)
    apply_migrations(engine)
    roll_back(engine)
    assert sqlite_shape(v3_file) == sqlite_shape(path)


def test_a_dropped_index_is_rebuilt(v3_file: Path, opened: OPENER) -> None:
    """After `db optimize` v3's second index is rebuilt, and the plan says so."""
    engine = opened(v3_file)
    before = schema(v3_file)
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        connection.execute(text("DROP INDEX uq_raw_events_source_gen"))
    assert plan(engine).adds_index
    roll_back(engine)
    assert before == schema(v3_file)


def test_statistics_are_as_v3_had_them(v3_file: Path, opened: OPENER) -> None:
    """Statistics tables created by `db optimize` are dropped, too."""
    engine = opened(v3_file)
    before = schema(v3_file)
    apply_migrations(engine)
    optimize(engine)
    assert before != schema(v3_file)
    roll_back(engine)
    assert before == schema(v3_file)


def test_alembics_table_is_as_v3_had_it(v3_file: Path, opened: OPENER) -> None:
    """If v3 had Alembic's table, it is restored with its contents."""
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('c0ffee')")
    engine = opened(v3_file)
    before = schema(v3_file)
    apply_migrations(engine)
    roll_back(engine)
    with read_transaction(engine) as connection:
        assert ["c0ffee"] == list(connection.scalars(text("SELECT version_num FROM alembic_version")))
    assert before == schema(v3_file)


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_pre_release_files_table(tmp_path: Path, opened: OPENER, version: str) -> None:
    """A pre-release `files` table is dropped, too, and its verdicts are exported."""
    path = v3_schema.create(tmp_path / "planned.sqlite", version=version, planned_files=True)
    plain = v3_schema.create(tmp_path / "v3.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO files (session_id, shasum, vt_malicious, enrichment_status, vt_scan_date, vt_positives)"
            " VALUES ('s1', ?, 1, 'enriched', '2026-01-02 03:04:05.000000', 9), ('s2', ?, 0, 'pending', NULL, NULL)",
            ("A" * 64, "b" * 64),
        )
    engine = opened(path)
    done = roll_back(engine)
    assert schema(plain) == schema(path)
    assert done.saved is not None
    assert done.saved.rows == {"file_hashes": 1}
    apply_migrations(engine)
    backfill(engine)
    state_export.import_state(engine, Path(done.saved.path))
    with read_transaction(engine) as connection:
        rows = connection.execute(
            text("SELECT session_id, vt_positives FROM files WHERE vt_malicious ORDER BY 1")
        ).all()
    assert [("s1", 9)] == rows


def test_version_3_has_nothing_to_do(v3_file: Path, opened: OPENER) -> None:
    """A rollback of a v3 file changes nothing, and exports nothing."""
    engine = opened(v3_file)
    assert roll_back(engine).saved is None
    assert [] == saved_files(v3_file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE schema_state SET value = '5'", "newer"),
        ("UPDATE schema_state SET value = '2'", "cannot be migrated"),
        ("DROP TABLE ingest_cursors", "ingest_cursors are missing"),
        ("ALTER TABLE api_quota DROP COLUMN used", "lacks the columns used"),
    ],
)
def test_what_cannot_be_rolled_back_is_refused(v3_file: Path, opened: OPENER, damage: str, message: str) -> None:
    """Other versions, missing tables and foreign tables are refused; nothing is dropped or exported."""
    engine = opened(v3_file)
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        connection.execute(text(damage))
    before = schema(v3_file)
    with pytest.raises(SchemaVersionError, match=message):
        roll_back(engine)
    assert (before, []) == (schema(v3_file), saved_files(v3_file))


def test_an_incomplete_set_of_tables_is_rolled_back(v3_file: Path, opened: OPENER) -> None:
    """A file that lost some of v4's tables can be rolled back, and the state in the others is exported."""
    engine = opened(v3_file)
    before = schema(v3_file)
    apply_migrations(engine)
    scene.learn_all_but_flags(engine)
    with write_transaction(engine) as connection:
        connection.execute(text("DROP TABLE log_files"))
        connection.execute(text("DROP TABLE jobs"))
    done = roll_back(engine)
    assert before == schema(v3_file)
    assert done.saved is not None
    assert done.saved.rows["file_verdicts"] == 2


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_running_job_is_refused(engine: Engine, tmp_path: Path, state: str) -> None:
    """A backfill that reports progress blocks the rollback, which leaves no file; silent for a minute, it is dead."""
    working(engine, {"last": {}}, state)
    with pytest.raises(JobTaken, match="the job backfill-files works on it; stop it"):
        roll_back(engine, tmp_path / "saved")
    assert (4, False) == (schema_version(engine), (tmp_path / "saved").exists())
    with write_transaction(engine) as connection:
        long_ago = scene.dt.datetime.now(scene.dt.UTC) - scene.dt.timedelta(seconds=61)
        connection.execute(update(T["jobs"]).values(updated_at=long_ago))
    roll_back(engine, tmp_path / "saved")
    assert schema_version(engine) == 3


def test_a_paused_backfill_is_refused_and_a_pause_request_is_not(engine: Engine, tmp_path: Path) -> None:
    """A paused backfill blocks the rollback, a mere request to pause does not."""
    alive = process_identity.this_process() | {"pid": 1, "started": process_identity._started(1)}
    working(engine, {}, "paused", owner=alive)
    with pytest.raises(JobTaken, match="works on it"):
        roll_back(engine, tmp_path / "saved")
    with write_transaction(engine) as connection:
        connection.execute(update(T["jobs"]).values(owner=None))
    roll_back(engine, tmp_path / "saved")
    assert schema_version(engine) == 3


def test_a_job_is_running_while_its_process_lives(engine: Engine, tmp_path: Path) -> None:
    """A job blocks the rollback as long as its process lives, however silent, and not once it is dead."""
    of_another = {"host": "elsewhere", "pid": 1, "started": "1", "run": "x"}
    working(engine, {"holder": of_another})  # as before revision 0013
    with pytest.raises(JobTaken, match="process 1 on elsewhere"):
        roll_back(engine, tmp_path / "saved")
    dead = process_identity.this_process() | {"pid": 2**22 + 1}
    with write_transaction(engine) as connection:
        connection.execute(update(T["jobs"]).values(owner=dead))
    roll_back(engine, tmp_path / "saved")
    assert schema_version(engine) == 3


def test_rows_written_during_the_export_are_exported(
    v3_file: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict stored between export and drop is in the file."""
    engine, other = opened(v3_file), opened(v3_file)
    apply_migrations(engine)
    export_from = rollback.export_from

    def export_and_write(*args: object) -> object:
        saved = export_from(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(rollback, "export_from", export_from)
        scene.learn_all_but_flags(other)
        return saved

    monkeypatch.setattr(rollback, "export_from", export_and_write)
    done = roll_back(engine)

    assert done.saved is not None
    assert [Path(done.saved.path)] == saved_files(v3_file)
    assert read_export(Path(done.saved.path)) == done.saved
    assert done.saved.rows["file_verdicts"] == 2


def test_saved_file_is_private_and_never_overwrites(v3_file: Path, opened: OPENER, tmp_path: Path) -> None:
    """Only the owner can read the file; an existing file is not overwritten, and nothing is changed."""
    engine = opened(v3_file)
    apply_migrations(engine)
    there = tmp_path / "there"
    there.write_text("precious")
    with pytest.raises(SaveFailed, match="exists already"):
        roll_back(engine, there)
    assert ("precious", 4) == (there.read_text(), schema_version(engine))
    done = roll_back(engine)
    assert done.saved is not None
    assert stat.S_IMODE(Path(done.saved.path).stat().st_mode) == 0o600


_KILLED = """
import os, signal, sys
from pathlib import Path
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.jobs.upgrade import {module}
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
{module}.{step} = kill
from cowrieprocessor.jobs.upgrade.rollback import roll_back
roll_back(get_engine(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("module", "step"),
    [("state_export", "publish"), ("state_export", "read_export"), ("rollback", "restore_v3")],
    ids=["written", "half verified", "saved"],
)
def test_after_a_kill_the_same_command_ends_well(
    v3_file: Path, opened: OPENER, tmp_path: Path, module: str, step: str
) -> None:
    """The file that a killed run left under the same name, finished or not, is taken over; there is one in the end."""
    engine = opened(v3_file)
    apply_migrations(engine)
    scene.learn_all_but_flags(engine)
    saved = tmp_path / "saved" / "state"
    saved.parent.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED.format(module=module, step=step), str(v3_file), str(saved)], check=False
    )
    assert (killed.returncode, schema_version(engine)) == (-signal.SIGKILL, 4)
    assert len(list(saved.parent.iterdir())) == 1

    done = roll_back(engine, saved)

    assert schema_version(engine) == 3
    assert done.saved is not None
    assert read_export(saved) == done.saved
    assert list(saved.parent.iterdir()) == [saved]


def test_within_one_second_every_rollback_has_its_own_file(
    v3_file: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name has the time and a random part: a repeated rollback never meets the file of a killed one."""
    engine = opened(v3_file)
    apply_migrations(engine)

    class Standing(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime(2026, 11, 30, tzinfo=tz)

    monkeypatch.setattr(rollback.dt, "datetime", Standing)
    first = rollback.default_save_path(engine)
    assert first is not None
    first.write_bytes(b"what a killed run left")
    monkeypatch.setattr(rollback, "_refuse_while_in_use", lambda *_: None)

    done = roll_back(engine)

    assert done.saved is not None
    assert Path(done.saved.path) != first
    assert saved_files(v3_file) == sorted([first, Path(done.saved.path)])
    for path in saved_files(v3_file):
        assert re.fullmatch(rf"{v3_file.name}\.v4-saved-20261130T000000Z-[0-9a-f]{{8}}\.jsonl\.gz", path.name)
    assert first.read_bytes() == b"what a killed run left"


def test_an_export_of_other_rows_is_not_overwritten(v3_file: Path, opened: OPENER, tmp_path: Path) -> None:
    """A saved file stays if rows were written since: it is the state of another time."""
    engine = opened(v3_file)
    apply_migrations(engine)
    state_export.export_state(engine, tmp_path / "saved")
    before = (tmp_path / "saved").read_bytes()
    scene.learn_all_but_flags(engine)
    with pytest.raises(SaveFailed, match="exists already"):
        roll_back(engine, tmp_path / "saved")
    assert ((tmp_path / "saved").read_bytes(), schema_version(engine)) == (before, 4)


def test_an_unfinished_file_of_somebody_else_stays(v3_file: Path, opened: OPENER, tmp_path: Path) -> None:
    """What has the name of the unfinished file and is none is not touched; nor one that is being written."""
    engine = opened(v3_file)
    apply_migrations(engine)
    part = tmp_path / "saved.part"
    part.write_text("precious")
    with pytest.raises(SaveFailed, match="is not an unfinished export"):
        roll_back(engine, tmp_path / "saved")
    assert part.read_text() == "precious"
    part.write_bytes(b"")
    with part.open("r+b") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        with pytest.raises(SaveFailed, match="another rollback is writing it"):
            roll_back(engine, tmp_path / "saved")
    assert schema_version(engine) == 4


def test_without_an_export_nothing_is_dropped(v3_file: Path, opened: OPENER, tmp_path: Path) -> None:
    """With a missing folder or a full disk the message says so, and the database stays at version 4."""
    engine = opened(v3_file)
    apply_migrations(engine)
    for path in (tmp_path / "missing" / "saved", Path("/dev/full/saved")):
        with pytest.raises(SaveFailed, match="nothing was changed"):
            roll_back(engine, path)
    assert schema_version(engine) == 4


def test_failure_half_way_leaves_v4_whole(v3_file: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch) -> None:
    """If dropping fails half way, every table has its rows, and no export file is left."""
    engine = opened(v3_file)
    apply_migrations(engine)
    scene.learn_all_but_flags(engine)
    before = (schema(v3_file), scene.contents(engine))

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("cowrieprocessor.db.upgrade.rollback._restore_alembic", fail)
    with pytest.raises(RuntimeError):
        roll_back(engine)
    assert before == (schema(v3_file), scene.contents(engine))
    assert [] == saved_files(v3_file)


@pytest.mark.postgres
def test_postgresql_needs_a_path(postgres_url: str, opened: OPENER) -> None:
    """For a database on a server nothing is done without --save."""
    engine = opened(postgres_url)
    apply_migrations(engine)
    with pytest.raises(ConfigurationError, match="--save"):
        roll_back(engine)
    assert schema_version(engine) == 4


def test_plan_says_what_it_does_and_changes_nothing(v3_file: Path, opened: OPENER, tmp_path: Path) -> None:
    """The plan counts the rows to drop and to export, as the rollback then does."""
    engine = opened(v3_file)
    scene.build(engine, tmp_path)
    planned = plan(engine)
    done = roll_back(engine)
    assert planned.drops["files"].rows == 5
    assert tuple(planned.drops) == done.dropped
    assert done.saved is not None
    assert planned.saves == done.saved.rows
