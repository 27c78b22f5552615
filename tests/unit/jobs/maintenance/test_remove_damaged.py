"""A log that shares damage, torn values, dead letters or sensors with others: removed, it was never loaded."""

from __future__ import annotations

import gzip
import itertools
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import Base, LogDamage, LogFile, LogSensor, OverlappingSession, WrappedLog
from cowrieprocessor.errors import NotFound
from cowrieprocessor.jobs.maintenance.remove_log import plan, remove
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.sensor_paths import SensorPaths
from tests.logical_digest import EVENT_TABLES, Contents, difference, logical_contents
from tests.logs import events

LINES = events(10)
CUT = LINES[4].index(' "sensor"')
WHERE = ("source", "source_offset", "source_files", "source_generation", "metadata_json")

Files = dict[str, bytes]


def text(lines: list[str]) -> bytes:
    """Return lines with their ends."""
    return "".join(f"{line}\n" for line in lines).encode()


HALVES: Files = {
    "cowrie.json.2026-03-01": text(LINES[:4]) + LINES[4][:CUT].encode(),
    "cowrie.json": LINES[4][CUT:].encode() + b"\n" + text(LINES[5:]),
}
DAMAGED = text([*LINES[:3], "{" * 30, *LINES[4:]])
SHARED = text([*LINES[1:3], "{" * 30, *LINES[4:7]])
SCENES: dict[str, Files] = {
    "halves": HALVES,
    "halves and copies": HALVES | {f"{name}.gz": gzip.compress(content) for name, content in HALVES.items()},
    "halves and the whole": HALVES | {"backup.json": text(LINES[3:6])},
    "a cut archive and the whole": {
        "cowrie.json.2026-03-01.gz": gzip.compress(text(LINES[:6]) + LINES[6][:80].encode()),
        "cowrie.json": text(LINES),
    },
    "a cut archive and an overlap": {
        "cowrie.json.2026-03-01.gz": gzip.compress(text(LINES[:6]) + LINES[6][:80].encode()),
        "other.json": text(LINES[5:]),
    },
    "a better copy": {"bad.json": DAMAGED, "good.json": text(LINES)},
    "two bad copies and a good one": {
        "bad.json": DAMAGED,
        "worse.json": text([*LINES[:3], "{" * 30, LINES[4], "[" * 40, *LINES[6:]]),
        "good.json": text(LINES),
    },
    "a shared dead letter": {"one.json": DAMAGED, "two.json": SHARED},
    "three that share one": {"one.json": DAMAGED, "two.json": SHARED, "three.json": text([LINES[2], "{" * 30])},
    "the same twice in one": {
        "one.json": text([*LINES[:3], "{" * 30, LINES[2], "{" * 30, LINES[5]]),
        "two.json": SHARED,
        "three.json": text([*LINES[2:3], "{" * 30, LINES[2], "{" * 30]),
    },
}


def load(engine: Engine, *paths: Path, sensor: str | None = None) -> None:
    """Load logs."""
    loader = BulkLoader(engine, settings=Settings(batch_size=3), sensors=SensorPaths((), name=sensor))
    assert [] == loader.load(paths).failed


def emptied(engine: Engine) -> None:
    """Delete every row but those of the schema."""
    with write_transaction(engine) as connection:
        for table in Base.metadata.sorted_tables:
            if table.name != "schema_state":
                connection.execute(delete(table))


def contents(engine: Engine) -> Contents:
    """Return what the database says of the events, whichever log they were read from."""
    return logical_contents(engine, tables=EVENT_TABLES, without=WHERE)


def write(folder: Path, files: Files) -> list[Path]:
    """Write files; return their paths."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


@pytest.mark.parametrize("files", SCENES.values(), ids=SCENES)
def test_damage_is_what_the_other_logs_have(engine: Engine, tmp_path: Path, files: Files) -> None:
    """Loaded in any order, one removed, the others loaded again: events and dead letters of the others alone."""
    paths = write(tmp_path, files)
    orders = list(itertools.permutations(paths))
    for number, (order, wrong) in enumerate(itertools.product(orders[:: max(1, len(orders) // 6)], paths)):
        others = [path for path in paths if path != wrong]
        emptied(engine)
        load(engine, *order)
        with suppress(NotFound):  # a copy of another log was not loaded as a log of its own
            remove(engine, plan(engine, str(wrong)), rows=1 + number % 4)
        load(engine, *others)
        load(engine, *others)
        after = contents(engine)
        emptied(engine)
        load(engine, *others)
        load(engine, *others)

        assert [] == difference(contents(engine), after), ([path.name for path in order], wrong.name)


def test_sensors_are_those_of_the_other_logs(engine: Engine, tmp_path: Path) -> None:
    """The name given to a removed log counts no longer; a log that is read again keeps its own without being told."""
    one, two = write(tmp_path, {"one.json": text(LINES[:7]), "two.json": text(LINES[3:])})
    load(engine, two, sensor="pot-z")
    expected = contents(engine)
    emptied(engine)
    load(engine, one, sensor="pot-a")
    load(engine, two, sensor="pot-z")

    remove(engine, plan(engine, str(one)))
    load(engine, two)

    assert [] == difference(expected, contents(engine))


def test_nothing_is_known_of_a_removed_log(engine: Engine, tmp_path: Path) -> None:
    """Damage, sensor, wrapper and shared sessions of a removed log go with it."""
    one, two = write(tmp_path, {"one.json": DAMAGED + b'{"torn', "two.json": SHARED})
    load(engine, two, one, sensor="pot-a")

    for path in (one, two):
        remove(engine, plan(engine, str(path)))

    with read_transaction(engine) as connection:
        for model in (LogFile, LogDamage, LogSensor, OverlappingSession, WrappedLog):
            assert 0 == connection.execute(select(func.count()).select_from(model)).scalar(), model
    assert all(rows == [] for rows in contents(engine).values())
