"""Databases from before the revision that knows sensors: the backfill fills them, and given names reach old events."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import SessionSensor, SessionSummary
from cowrieprocessor.db.revisions import REVISIONS
from cowrieprocessor.jobs.maintenance.rename_sensor import rename_sensor
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.rollback import roll_back
from cowrieprocessor.jobs.upgrade.state_export import import_state
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.backfill import SENSORS_JOB, awaits_backfill
from cowrieprocessor.settings.sensor_paths import SensorPaths
from tests.command_line import run
from tests.earlier_revisions import go_back
from tests.logs import events, write
from tests.v3_logs import write_logs

SENSORS_REVISION = next(number for number, tables in REVISIONS if "session_sensors" in tables)
BEFORE = max(number for number, _ in REVISIONS if number < SENSORS_REVISION)
"""The revision before the one that knows sensors."""


def sensors(engine: Engine) -> dict[str, tuple[object, ...]]:
    """Return what the database says of the sensors of each session."""
    query = select(SessionSensor.__table__, SessionSummary.matcher).join(
        SessionSummary, SessionSummary.session_id == SessionSensor.session_id
    )
    with read_transaction(engine) as connection:
        return {row[0]: tuple(row[1:]) for row in connection.execute(query)}


def test_an_older_revision_is_filled_by_the_backfill(engine: Engine, tmp_path: Path) -> None:
    """After `db migrate` the sensors of stored events are missing, which is said; `db backfill` fills them."""
    BulkLoader(engine).load([write(tmp_path / "a.json", events(200))])
    before = sensors(engine)
    go_back(engine, BEFORE)
    apply_migrations(engine)

    with read_transaction(engine) as connection:
        assert awaits_backfill(connection, [SENSORS_JOB])
    assert sensors(engine) == {}
    assert validate(engine).not_backfilled["backfill-sensors"] is None
    BulkLoader(engine, sensors=SensorPaths(name="pot-1")).load([write(tmp_path / "b.json", events(10, session="x"))])
    added = {session: row for session, row in sensors(engine).items() if session not in before}
    backfill(engine)

    assert sensors(engine) == before | added
    assert validate(engine).valid
    with read_transaction(engine) as connection:
        assert not awaits_backfill(connection, [SENSORS_JOB])


def test_a_new_database_awaits_nothing(engine: Engine, tmp_path: Path) -> None:
    """Without events at the migration there is nothing to backfill."""
    BulkLoader(engine).load([write(tmp_path / "a.json", events(20))])

    with read_transaction(engine) as connection:
        assert not awaits_backfill(connection, [SENSORS_JOB])
    assert validate(engine).valid


@pytest.fixture(scope="module")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v3 database with every habit that v3 data has, made once."""
    path = tmp_path_factory.mktemp("v3") / "made.sqlite"
    make_v3_db(path, events=2000, seed=5)
    return path


@contextmanager
def migrated(source: Path, folder: Path) -> Iterator[tuple[Engine, Path]]:
    """Yield a migrated copy of a v3 database and the folder of its logs."""
    folder.mkdir()
    shutil.copyfile(source, folder / "v3.sqlite")
    write_logs(folder / "v3.sqlite", folder / "logs")
    engine = get_engine(folder / "v3.sqlite")
    try:
        apply_migrations(engine)
        yield engine, folder / "logs"
    finally:
        dispose(engine)


def test_given_names_reach_the_events_of_version_3(made_database: Path, tmp_path: Path) -> None:
    """Logs of version 3 that are loaded with a name give it to their sessions, before or after the backfill."""
    found = []
    for order in ("load first", "backfill first"):
        with migrated(made_database, tmp_path / order) as (engine, logs):
            if order == "backfill first":
                backfill(engine)
            BulkLoader(engine, sensors=SensorPaths(name="pot-1")).load([logs])
            backfill(engine)
            found.append(sensors(engine))
            assert validate(engine).valid, order
            rename_sensor(engine, "pot-1", "pot-2")
            renamed = sensors(engine)
            assert validate(engine).valid, order
            assert {row[0] for row in renamed.values()} == {"pot-2" if row[0] else None for row in found[-1].values()}

    assert found[0] == found[1]
    given = [row for row in found[0].values() if row[0] == "pot-1"]
    assert len(given) > 0.9 * len(found[0])


def test_names_survive_a_rollback(made_database: Path, tmp_path: Path) -> None:
    """The names of logs and renamed sensors are saved by a rollback and imported into the database migrated again."""
    with migrated(made_database, tmp_path / "x") as (engine, _):
        backfill(engine)
        log = write(tmp_path / "new.json", events(30, session="n"))
        BulkLoader(engine, sensors=SensorPaths(name="pot-1")).load([log])
        rename_sensor(engine, "pot-1", "attic")
        before = sensors(engine)
        roll_back(engine, tmp_path / "saved.json.gz")
        apply_migrations(engine)
        backfill(engine)
        import_state(engine, tmp_path / "saved.json.gz")
        BulkLoader(engine, sensors=SensorPaths()).load([log])

        assert sensors(engine) == before
        assert validate(engine).valid


def test_sensors_list_says_what_is_missing(tmp_path: Path) -> None:
    """Until the backfill has run, `sensors list` says that names are missing and how to get them."""
    path = tmp_path / "x.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    BulkLoader(engine).load([write(tmp_path / "a.json", events(20))])
    go_back(engine, BEFORE)
    apply_migrations(engine)
    dispose(engine)

    before = run("sensors", "list", "--db", path)
    filled = run("db", "backfill", "--db", path, "--yes")
    after = run("sensors", "list", "--db", path)

    assert (before.returncode, filled.returncode, after.returncode) == (0, 0, 0)
    assert "hp1" in before.stdout
    assert "cowrieprocessor db backfill --db" in before.stderr
    assert after.stderr == ""
