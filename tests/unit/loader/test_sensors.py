"""Which sensor sessions are on: the given names of logs count, whatever the order and the loader."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.ingest import sensor_names, session_sensors
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import LogSensor, RawEvent, SessionSensor, SessionSummary, SessionToRename
from cowrieprocessor.interpret.sensors import matcher, sensor_name
from cowrieprocessor.jobs.maintenance.rename_sensor import rename_sensor
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.log_sensor import bring_to_names, give_sensors
from cowrieprocessor.settings import Sensor, Settings
from cowrieprocessor.settings.sensor_paths import GivenSensor, SensorPaths
from tests.logs import count, events
from tests.torture import rounds

LONG = "ubuntu-s-1vcpu-512mb-10gb-fra1-0"
NAMES = ("pot-1", "pot-2", f"{LONG}1", f"{LONG}2", None)
LOGGED = ("hp1", "hp2", f"{LONG}3", f"{LONG}4", None)
LOADERS = ("load", "poll")

Facts = dict[str, tuple[object, ...]]
"""By session: given and logged name, whether they differ, first and last connect, matcher."""


@contextmanager
def database(path: Path | str) -> Iterator[Engine]:
    """Yield an empty database of the current version."""
    engine = get_engine(path)
    apply_migrations(engine)
    try:
        yield engine
    finally:
        dispose(engine)


def facts(engine: Engine) -> Facts:
    """Return what the database says of the sensors of each session."""
    columns = (
        SessionSensor.session_id,
        SessionSensor.given_sensor,
        SessionSensor.logged_sensor,
        SessionSensor.sensors_differ,
        SessionSensor.first_connect_at,
        SessionSensor.last_connect_at,
        SessionSummary.matcher,
    )
    query = select(*columns).join(SessionSummary, SessionSummary.session_id == SessionSensor.session_id)
    with read_transaction(engine) as connection:
        rows = connection.execute(query).all()
    return {
        row[0]: (*row[1:4], *(moment and f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}" for moment in row[4:6]), row[6])
        for row in rows
    }


def expected(logs: Mapping[str, Sequence[str]], names: Mapping[str, str | None], renamed: Mapping[str, str]) -> Facts:
    """Return what it should say: computed from the lines of the logs and the names that they were given."""
    given: dict[str, set[str]] = {}
    logged: dict[str, set[str]] = {}
    connects: dict[str, list[str]] = {}
    for log, lines in logs.items():
        for event in map(json.loads, lines):
            session = event["session"]
            given.setdefault(session, set()).update({renamed.get(name, name) for name in [names[log]] if name})
            said = event.get("sensor")
            logged.setdefault(session, set()).update({renamed.get(said, said)} if said else ())
            connects.setdefault(session, [])
            if event["eventid"] == "cowrie.session.connect":
                connects[session].append(event["timestamp"])
    found: Facts = {}
    for session in given:
        first, said = min(given[session], default=None), min(logged[session], default=None)
        differ = len(given[session]) > 1 or len(logged[session]) > 1
        times = min(connects[session], default=None), max(connects[session], default=None)
        sensor = first or said
        found[session] = (first, said, differ, *times, None if sensor is None else matcher(sensor))
    return found


def read_by(loader: str, engine: Engine, path: Path, name: str | None, *, batch_size: int = 100) -> None:
    """Read what is new in a log, by one of the loaders; the settings file names its sensor, or not."""
    settings = Settings(batch_size=batch_size)
    sensors = SensorPaths([Sensor(name, path)] if name else [])
    if loader == "load":
        BulkLoader(engine, settings=settings, sensors=sensors).load([path])
        return
    timing = FollowTiming(archive_settles_s=0.0)
    with DeltaLoader(engine, [path], settings=settings, sensors=sensors, timing=timing) as follower:
        follower.poll()
        follower.close()


def some_logs(random_: random.Random) -> dict[str, list[str]]:
    """Return logs that share events, each with a first event of its own; sessions say several sensors or none."""
    stream = [json.loads(line) for line in events(random_.randrange(20, 60))]
    for event in stream:
        del event["sensor"]
        if random_.random() < 0.1:
            event["session"] = stream[0]["session"]  # used again
    said = {event["session"]: random_.choice(LOGGED) for event in stream}
    for event in stream:
        name = random_.choice(LOGGED) if random_.random() < 0.05 else said[event["session"]]
        if name is not None:
            event["sensor"] = name
    logs = {}
    for number in range(random_.randrange(2, 5)):
        first = {"eventid": "x.first", "session": f"own{number}", "timestamp": "2026-02-01T00:00:00.000000Z"}
        start = random_.randrange(len(stream))
        block = stream[start : start + random_.randrange(5, 40)]
        logs[f"{number}.json"] = [json.dumps(event) for event in (first, *block)]
    return logs


def run_round(seed: int, folder: Path, engine: Engine) -> None:
    """Load some logs that grow, in any order by any loader, then rename logs and sensors, and check the sensors."""
    random_ = random.Random(seed)
    logs = some_logs(random_)
    names = {log: random_.choice(NAMES) for log in logs}
    written = dict.fromkeys(logs, 0)
    while written != {log: len(lines) for log, lines in logs.items()}:
        log = random_.choice([log for log, lines in logs.items() if written[log] < len(lines)])
        until = random_.randrange(written[log] + 1, len(logs[log]) + 1)
        with (folder / log).open("a") as file:
            file.write("".join(f"{line}\n" for line in logs[log][written[log] : until]))
        written[log] = until
        if random_.random() < 0.6:
            read_by(random_.choice(LOADERS), engine, folder / log, names[log], batch_size=random_.randrange(1, 12))
    for log in random_.sample([*logs], len(logs)):
        read_by(random_.choice(LOADERS), engine, folder / log, names[log], batch_size=random_.randrange(1, 12))
    assert facts(engine) == expected(logs, names, {}), seed

    for log in random_.sample([*logs], 2):
        names[log] = random_.choice(NAMES[:-1])
        read_by(random_.choice(LOADERS), engine, folder / log, names[log])
    assert facts(engine) == expected(logs, names, {}), seed

    known = sorted({fact[0] or fact[1] for fact in facts(engine).values()} - {None}, key=str)
    if known:
        old = str(random_.choice(known))
        rename_sensor(engine, old, "renamed", merge=True)
        assert facts(engine) == expected(logs, names, {old: "renamed"}), seed
        for log in logs:
            read_by(random_.choice(LOADERS), engine, folder / log, names[log])
        assert facts(engine) == expected(logs, names, {old: "renamed"}), seed
    recomputed_is_the_same(engine)
    assert validate(engine).valid, seed


def recomputed_is_the_same(engine: Engine) -> None:
    """Compute every row from the stored events, and find it as it was."""
    before = facts(engine)
    with write_transaction(engine) as connection:
        sensor_names.lock(connection)
        session_sensors.compute(connection, sorted(before))
    assert facts(engine) == before


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_sensors_do_not_depend_on_the_order(tmp_path: Path) -> None:
    """Logs with and without given names, overlapping and growing: the sensors are what logs and names say."""
    for seed in range(rounds(2_000, 20)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with database(folder / "x.sqlite") as engine:
            run_round(seed, folder, engine)


@pytest.mark.postgres
@pytest.mark.torture
@pytest.mark.parametrize("seed", range(rounds(100, 3)))
def test_postgresql_says_the_same(postgres_url: str, tmp_path: Path, seed: int) -> None:
    """PostgreSQL gives the same."""
    with database(postgres_url) as engine:
        run_round(seed, tmp_path, engine)


def sensors(engine: Engine) -> dict[str, str | None]:
    """Return the sensor of each session."""
    return {session: fact[0] or fact[1] for session, fact in facts(engine).items()}  # type: ignore[misc]


def log(path: Path, lines: Sequence[str]) -> Path:
    """Write a log of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_given_name_counts_and_the_payload_stays(engine: Engine, tmp_path: Path) -> None:
    """The name given with a log is the sensor of its sessions; what the log said stays in the payload."""
    path = log(tmp_path / "a.json", events(10))

    read_by("load", engine, path, "pot-1")

    assert set(sensors(engine).values()) == {"pot-1"}
    with read_transaction(engine) as connection:
        payloads = connection.execute(select(RawEvent.payload)).scalars().all()
    assert {payload["sensor"] for payload in payloads} == {"hp1"}


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_the_smallest_given_name_counts(engine: Engine, tmp_path: Path, order: tuple[str, ...]) -> None:
    """Of sessions in several logs the smallest given name counts, also if the logs without it came first."""
    lines = events(12)
    paths = {
        "a": log(tmp_path / "a.json", lines[:6]),
        "b": log(tmp_path / "b.json", lines[3:]),
        "c": log(tmp_path / "c.json", lines[1:]),
    }
    names = {"a": "pot-2", "b": "pot-1", "c": None}

    for name in order:
        read_by("load", engine, paths[name], names[name])

    assert set(sensors(engine).values()) == {"pot-1"}


def test_a_load_without_a_name_takes_none_away(engine: Engine, tmp_path: Path) -> None:
    """The name stays with the log: loaded from elsewhere, or without the settings file, it keeps it."""
    lines = events(10)
    read_by("load", engine, log(tmp_path / "a.json", lines), "pot-1")
    read_by("load", engine, log(tmp_path / "copy" / "b.json", events(20)), None)

    assert set(sensors(engine).values()) == {"pot-1"}


def test_a_new_name_replaces_and_says_so(engine: Engine, tmp_path: Path) -> None:
    """A known log that is loaded with another name gets it, with all its sessions; the load says so, once."""
    path = log(tmp_path / "a.json", events(500))
    read_by("load", engine, path, None)

    loader = BulkLoader(engine, sensors=SensorPaths(name="pot-1"))
    first, again = loader.load([path]), loader.load([path])
    other = BulkLoader(engine, sensors=SensorPaths(name="pot-0")).load([path])

    assert set(sensors(engine).values()) == {"pot-0"}
    assert "its sensor is pot-1 from now on, instead of what its events say" in first.files[0].warnings[0]
    assert again.files[0].warnings == []
    assert "its sensor is pot-0 from now on, no longer pot-1" in other.files[0].warnings[0]
    assert (first.files[0].state, other.counters["events"]) == ("known", 0)
    assert count(engine, SessionToRename) == 0


def test_a_follower_names_logs_that_do_not_change(engine: Engine, tmp_path: Path) -> None:
    """A follower that starts with a new name in the settings file brings known logs to it without reading them."""
    path = log(tmp_path / "a.json", events(30))
    read_by("poll", engine, path, None)

    with DeltaLoader(engine, [path], sensors=SensorPaths([Sensor("pot-1", path)])) as follower:
        result = follower.poll()

    assert set(sensors(engine).values()) == {"pot-1"}
    assert ["its sensor is pot-1" in warning for file in result.files for warning in file.warnings] == [True]


def test_a_copy_under_another_sensor_keeps_the_smaller_name(engine: Engine, tmp_path: Path) -> None:
    """A log that lies under the paths of two sensors has the smaller name, whichever comes first; a flag decides."""
    lines = events(10)
    one, two = log(tmp_path / "1" / "cowrie.json", lines), log(tmp_path / "2" / "cowrie.json", lines)
    paths = SensorPaths([Sensor("pot-1", one), Sensor("pot-2", two)])

    for order in ([one, two], [two, one], [two, two]):
        BulkLoader(engine, sensors=paths).load(order)
        assert set(sensors(engine).values()) == {"pot-1"}
    BulkLoader(engine, sensors=SensorPaths(name="pot-2")).load([one])
    assert set(sensors(engine).values()) == {"pot-2"}


def test_a_killed_renaming_is_finished_by_the_next_load(engine: Engine, tmp_path: Path) -> None:
    """Marks of sessions outlive a kill: the next loader of anything computes them again."""
    path = log(tmp_path / "a.json", events(50))
    read_by("load", engine, path, None)
    with read_transaction(engine) as connection:
        (identity,) = connection.execute(select(RawEvent.source).distinct()).scalars()
    with read_transaction(engine) as connection:
        from cowrieprocessor.db.models import LogFile

        identity, generation = connection.execute(select(LogFile.identity, LogFile.generation)).one()
    give_sensors(engine, {(identity, generation): GivenSensor("pot-1")})
    assert set(sensors(engine).values()) == {"hp1"}
    assert count(engine, SessionToRename) == 5

    read_by("load", engine, log(tmp_path / "b.json", events(1, session="0ther")), None)

    assert set(sensors(engine).values()) == {"pot-1", "hp1"}
    assert bring_to_names(engine) == 0


def test_long_names_stay_apart(engine: Engine, tmp_path: Path) -> None:
    """Names that agree in their first 31 characters are two sensors, also those longer than a column can be."""
    longer = "x" * 300
    said = {"s1": f"{LONG}1", "s2": f"{LONG}2", "s3": f"{longer}1", "s4": f"{longer}2"}
    lines = [
        json.dumps({"session": session, "eventid": "x", "timestamp": "2026-01-01T00:00:00Z", "sensor": name})
        for session, name in said.items()
    ]

    read_by("load", engine, log(tmp_path / "a.json", lines), None)

    assert sensors(engine) == {session: sensor_name(name) for session, name in said.items()}
    assert len(set(sensors(engine).values())) == 4
    assert {fact[-1] for fact in facts(engine).values()} == {f"{LONG[:31]}…", f"{longer[:31]}…"}


def test_the_name_is_stored_once_for_a_log(engine: Engine, tmp_path: Path) -> None:
    """The table of names has a row for each named log, and none for others."""
    read_by("load", engine, log(tmp_path / "a.json", events(10)), "pot-1")
    read_by("load", engine, log(tmp_path / "b.json", events(10, session="0ther")), None)

    assert count(engine, LogSensor) == 1


def test_renaming_beside_a_load(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """A sensor and a log that are renamed while logs are loaded have the new names everywhere in the end."""
    lines = {"0.json": events(400), "1.json": events(400, session="0ther")}
    paths = {name: log(tmp_path / name, content) for name, content in lines.items()}
    first = log(tmp_path / "first.json", events(10, session="f1rst"))
    read_by("load", engine, first, None)
    failed: list[BaseException] = []

    def load() -> None:
        own = get_engine(db_url)
        try:
            for path in paths.values():
                read_by("load", own, path, "pot-1" if path.name == "1.json" else None, batch_size=20)
        except BaseException as error:  # noqa: BLE001 - the test has to see it
            failed.append(error)
        finally:
            dispose(own)

    loading = threading.Thread(target=load)
    loading.start()
    names = ["hp1"]
    while loading.is_alive():
        names.append(f"name-{len(names)}")
        rename_sensor(engine, names[-2], names[-1])
        BulkLoader(engine, sensors=SensorPaths(name=names[-1])).load([first])
    loading.join()

    assert failed == []
    logs = lines | {"first.json": events(10, session="f1rst")}
    given = {"0.json": None, "1.json": "pot-1", "first.json": names[-1]}
    assert facts(engine) == expected(logs, given, {"hp1": names[-1]})
    assert count(engine, SessionToRename) == 0
