"""Revisions of version 4: what each creates is declared, older ones are completed, newer and half-made ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from cowrieprocessor.db import revisions
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import NOT_STARTED, all_jobs, load_job
from cowrieprocessor.db.migrations import apply_migrations, require_current
from cowrieprocessor.db.models import V3_TABLES, Base
from cowrieprocessor.db.revisions import HEAD, REVISIONS
from cowrieprocessor.errors import MigrationNeeded, SchemaVersionError
from cowrieprocessor.jobs.upgrade.rollback import roll_back
from tests import v3_schema
from tests.command_line import run
from tests.earlier_revisions import go_back


def state(engine: Engine) -> dict[str, str]:
    """Return the contents of `schema_state`."""
    with read_transaction(engine) as connection:
        return {str(key): str(value) for key, value in connection.execute(text("SELECT key, value FROM schema_state"))}


def change(engine: Engine, *statements: str) -> None:
    """Execute statements in one transaction."""
    with write_transaction(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_each_revision_declares_its_tables(tmp_path: Path) -> None:
    """The tables that a revision creates are those that it declares; together they are those of the models."""
    folder = str(Path(revisions.__file__).parent)
    directory = ScriptDirectory(folder, version_locations=[folder])
    engine = get_engine(tmp_path / "x.sqlite")
    created: dict[str, tuple[str, ...]] = {}
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        before: set[str] = set()
        for script in reversed(list(directory.iterate_revisions("head", "base"))):
            script.module.upgrade()
            after = set(inspect(connection).get_table_names())
            created[script.revision], before = tuple(sorted(after - before)), after
    dispose(engine)

    assert created == dict(REVISIONS)
    assert HEAD == directory.get_current_head()
    assert {name for _, tables in REVISIONS for name in tables} == set(Base.metadata.tables)
    assert set(REVISIONS[0].tables) == set(V3_TABLES)


def test_a_database_states_its_revision(engine: Engine) -> None:
    """The version stays 4; the newest revision stands next to it."""
    assert state(engine) == {"schema_version": "4", "schema_revision": HEAD}


def test_an_early_database_gets_the_statement(engine: Engine) -> None:
    """A complete database without the statement is sent to the migration, which writes it."""
    change(engine, "DELETE FROM schema_state WHERE key = 'schema_revision'")
    with pytest.raises(MigrationNeeded):
        require_current(engine)

    apply_migrations(engine)

    assert state(engine)["schema_revision"] == HEAD


@pytest.mark.parametrize("revision", [number for number, _ in REVISIONS if "0004" <= number < HEAD])
def test_an_older_revision_is_completed(engine: Engine, revision: str) -> None:
    """Commands refuse an older revision and name `db migrate`, which adds what is missing and keeps all rows."""
    change(engine, "INSERT INTO file_hashes (sha256, first_seen, last_seen) VALUES ('a', '2026-01-01', '2026-01-01')")
    go_back(engine, revision)
    with pytest.raises(MigrationNeeded, match=f"at revision {revision} .*revision {HEAD} is needed.*db migrate"):
        require_current(engine)

    apply_migrations(engine)

    require_current(engine)
    assert state(engine)["schema_revision"] == HEAD
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM file_hashes")).scalar_one() == 1


def test_commands_end_with_5_on_an_older_revision(tmp_path: Path) -> None:
    """The program says which revision it needs and how to get there, with exit code 5; `db migrate` is enough."""
    path = tmp_path / "x.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    go_back(engine, "0004")
    dispose(engine)

    refused = run("files", "list", "--db", path)
    status = run("db", "status", "--db", path)
    migrated = run("db", "migrate", "--db", path, "--yes")
    after = run("files", "list", "--db", path)

    assert (refused.returncode, migrated.returncode, after.returncode) == (5, 0, 0)
    assert "revision 0004" in refused.stderr
    assert f"cowrieprocessor db migrate --db {path}" in refused.stderr
    assert "db migrate" in status.stdout


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["UPDATE schema_state SET value = '0099' WHERE key = 'schema_revision'"], "revision 0099 .*newer release"),
        (["DROP TABLE file_mentions"], "the tables file_mentions are missing"),
        (["DROP TABLE twin_events"], "only some of the tables of a later revision"),
        (["DROP TABLE log_damage"], "only some of the tables of a later revision"),
        (["DROP TABLE session_logins"], "only some of the tables of a later revision"),
        (["DROP TABLE overlapping_events"], "only some of the tables of a later revision"),
        (["DROP TABLE session_attributes"], "only some of the tables"),
        (["DROP TABLE followed_files"], "only some of the tables of a later revision"),
    ],
    ids=[
        "newer than the program",
        "less than it states",
        "of the one before the newest",
        "of the one before that",
        "of one before that",
        "of the one before",
        "of the first revision",
        "of one between",
    ],
)
def test_newer_and_half_made_ones_are_refused(engine: Engine, statements: list[str], message: str) -> None:
    """A revision that this program does not know, or whose tables are not all there, is not migrated or used."""
    change(engine, *statements)
    with pytest.raises(SchemaVersionError, match=message):
        apply_migrations(engine)
    with pytest.raises((SchemaVersionError, MigrationNeeded)):
        require_current(engine)


@pytest.mark.parametrize("revision", ["0004", HEAD])
def test_rolling_back_from_any_revision_restores_v3(tmp_path: Path, revision: str) -> None:
    """From every revision a rollback drops all tables of version 4 and leaves version 3's own state."""
    engine = get_engine(v3_schema.create(tmp_path / "v3.sqlite"))
    before = state(engine)
    apply_migrations(engine)
    change(engine, "INSERT INTO command_stats (session_id, command_normalized, occurrences) VALUES ('s1', 'id', 1)")
    go_back(engine, revision)

    roll_back(engine, tmp_path / "saved.json.gz")

    assert state(engine) == before
    with read_transaction(engine) as connection:
        assert set(inspect(connection).get_table_names()) - {"alembic_version"} == set(V3_TABLES)
        assert connection.execute(text("SELECT count(*) FROM command_stats")).scalar_one() == 0
    dispose(engine)


def test_owners_and_pauses_are_taken_over(engine: Engine) -> None:
    """Revision 0013 moves who ran a job, keeps its position, and makes requests of the row that paused the backfill."""
    owner = {"host": "h", "pid": 7, "started": "1", "run": "r"}
    cursor = {"last": {"": 5}, "target": 9, "holder": owner, "progress": {"rows_done": 5}}
    go_back(engine, "0012")
    _write_old_jobs(engine, [("backfill-sessions", "running", cursor), ("backfill-pause", "paused", None)])
    apply_migrations(engine)
    with read_transaction(engine) as connection:
        found, pause = load_job(connection, "backfill-sessions"), load_job(connection, "backfill-pause")

    assert found is not None
    assert (found.owner, found.cursor, found.progress) == (owner, {"last": {"": 5}, "target": 9}, None)
    assert (found.pause_requested, found.stop_requested_at, pause) == (True, None, None)


def test_a_pause_before_the_first_backfill_is_taken_over(engine: Engine) -> None:
    """Without a job of the backfill the first one is asked to pause."""
    go_back(engine, "0012")
    with write_transaction(engine) as connection:
        connection.execute(text("DELETE FROM jobs"))
    _write_old_jobs(engine, [("backfill-pause", "paused", None)])
    apply_migrations(engine)
    with read_transaction(engine) as connection:
        jobs = {job.name: (job.state, job.reason, job.pause_requested) for job in all_jobs(connection)}

    assert jobs == {"backfill-files": ("stopped", NOT_STARTED, True)}


def _write_old_jobs(engine: Engine, jobs: list[tuple[str, str, object]]) -> None:
    """Write rows of `jobs` as a release before revision 0013 did."""
    insert = text(
        "INSERT INTO jobs (name, state, cursor, started_at, updated_at) VALUES (:name, :state, :cursor, :at, :at)"
    )
    with write_transaction(engine) as connection:
        for name, state, cursor in jobs:
            values = {"name": name, "state": state, "cursor": cursor and json.dumps(cursor)}
            connection.execute(insert, values | {"at": "2026-01-02 03:04:05.000000"})
