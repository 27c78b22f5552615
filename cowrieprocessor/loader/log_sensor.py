"""The sensor of a known log: given anew, and everything derived of its sessions brought to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import sensor_names, session_sensors
from cowrieprocessor.db.ingest.sensor_names import Log, SensorNames
from cowrieprocessor.settings.sensor_paths import GivenSensor

SESSIONS_AT_ONCE = 200
"""Sessions in one transaction, so that other writers soon have their turn."""

REST_S = 0.005
"""Pause between transactions, in which other writers have it."""


def give_sensors(engine: Engine, given: Mapping[Log, GivenSensor]) -> dict[Log, str]:
    """Give known logs their sensors, where they have others; their sessions are marked in the same transaction.

    Args:
        engine: the database.
        given: the sensors by log, which is in `log_files`.

    Returns:
        A note for each log that has another sensor now, or keeps another one. If there are any, call `bring_to_names`.
    """
    with read_transaction(engine) as connection:
        names = SensorNames(connection)
        wrong = {log: sensor for log, sensor in given.items() if names.given_to(log) != names.resolve(sensor.name)}
    return {log: _give_sensor(engine, log, sensor) for log, sensor in wrong.items()}


def _give_sensor(engine: Engine, log: Log, sensor: GivenSensor) -> str:
    with write_transaction(engine) as connection:
        sensor_names.lock(connection, to_change=True)
        names = SensorNames(connection)
        before, now = names.given_to(log), names.resolve(sensor.name)
        if before is not None and before < now and before in map(names.resolve, sensor.others):
            return f"it is a log of the sensors {before} and {now}; the smaller name counts (--sensor NAME chooses)"
        if before != now:
            sensor_names.give(connection, log, sensor.name)
            sensor_names.mark_sessions_of_log(connection, log)
    instead = "instead of what its events say" if before is None else f"no longer {before}"
    return f"its sensor is {now} from now on, {instead}; its sessions follow"


def bring_to_names(
    engine: Engine,
    *,
    on_sessions: Callable[[int], None] = lambda _count: None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Compute the sensors of all marked sessions again, in short transactions; return how many there were.

    After a kill the next call resumes, whoever makes it. Nothing marked costs one query.

    Args:
        engine: a database at the current version.
        on_sessions: called after each transaction with the number of sessions so far.
        stop: called after each transaction; ends the work once it returns True.
    """
    done = 0
    while not stop():
        with read_transaction(engine) as connection:
            if not sensor_names.marked_sessions(connection, 1):
                break
        with write_transaction(engine) as connection:
            sensor_names.lock(connection)
            marked = sensor_names.marked_sessions(connection, SESSIONS_AT_ONCE)
            session_sensors.compute(connection, marked)
            sensor_names.unmark(connection, marked)
        done += len(marked)
        on_sessions(done)
        time.sleep(REST_S)
    return done
