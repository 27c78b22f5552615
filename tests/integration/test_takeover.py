"""Going on after version 3: its logs grow, rotate and are loaded; nothing is missed and nothing is stored twice.

What is to be there is counted from the files and the rows of version 3, with none of the loader's code.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.loader.bulk import BulkLoader, LoadProgress
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.settings import Settings
from tests.other_connections import sqlite3
from tests.v3_logs import V3SourceLog, write_logs

Load = Callable[[Engine, Path], None]


def bulk(engine: Engine, folder: Path) -> None:
    """Load a folder."""
    assert [] == BulkLoader(engine, settings=Settings(batch_size=97)).load([folder]).failed


def delta(engine: Engine, folder: Path) -> None:
    """Look at a folder until there is nothing new."""
    with DeltaLoader(engine, [folder], settings=Settings(batch_size=97)) as loader:
        for _ in range(3):
            assert [] == [one.error for one in loader.poll().files if one.error]


LOADERS = {"bulk": bulk, "delta": delta}


def new_event(number: int, **more: object) -> str:
    """Return an event that came after version 3 was stopped."""
    stamp = f"2025-06-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"
    fields = {"eventid": "cowrie.command.input", "session": f"new{number // 5:09x}", "timestamp": stamp, "input": "id"}
    return json.dumps(fields | {"number": number} | more)


class Scene:
    """A v3 database, migrated, its logs, and what was stored before."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.database = folder / "v3.sqlite"
        shutil.copyfile(database, self.database)
        self.folder = folder / "logs"
        self.logs = write_logs(self.database, self.folder)
        self.appended: list[str] = []
        self.expected: list[str] = []
        self._engine: Engine | None = None

    @property
    def live(self) -> V3SourceLog:
        """The log that version 3 followed last."""
        return next(log for log in self.logs if log.path.name == "cowrie.json")

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run a statement on the file, while nobody else has it open."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            return list(connection.execute(statement, values))

    def migrated(self) -> Engine:
        """Return an engine on the database at the current version; from now on new rows count."""
        (self.last_event,) = self.sql("SELECT max(id) FROM raw_events")[0]
        (self.last_letter,) = self.sql("SELECT coalesce(max(id), 0) FROM dead_letter_events")[0]
        self._engine = get_engine(self.database)
        apply_migrations(self._engine)
        return self._engine

    def append(self, path: Path, *lines: str) -> None:
        """Let a honeypot go on writing."""
        with path.open("a") as log:
            log.writelines(f"{line}\n" for line in lines)
        self.appended += lines

    def grow(self, count: int = 8) -> None:
        """Let every log grow that is neither an archive nor pretty-printed."""
        for number, log in enumerate(self.logs):
            if log.path.name.endswith(".gz"):
                log.path.write_bytes(gzip.compress(log.path.read_bytes()))
            elif not any(log.path.samefile(other.path) for other in self.logs[:number]):
                self.append(log.path, *(new_event(1000 * number + one, log=number) for one in range(count)))

    def close(self) -> None:
        """Close the database."""
        if self._engine is not None:
            dispose(self._engine)

    def new_events(self) -> Counter[str]:
        """Return what was stored since the migration, without what version 3 would have rewritten."""
        rows = self.sql("SELECT payload FROM raw_events WHERE id > ?", self.last_event)
        return Counter(plain(str(payload)) for (payload,) in rows)

    def new_letters(self) -> int:
        """Return how many dead letters were written since the migration."""
        (count,) = self.sql("SELECT count(*) FROM dead_letter_events WHERE id > ?", self.last_letter)[0]
        return int(str(count))


def plain(payload: str) -> str:
    """Return an event without what version 3 rewrites, and with a time that is text, as we store it."""
    fields = json.loads(payload)
    if isinstance(fields.get("timestamp"), float):
        fields["timestamp"] = str(fields["timestamp"])
    return json.dumps(
        {key: fields[key] for key in sorted(fields) if key not in {"input", "command", "input_safe", "input_hash"}}
    )


@pytest.fixture(scope="module")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v3 database with every habit that v3 data has, made once."""
    path = tmp_path_factory.mktemp("v3") / "made.sqlite"
    make_v3_db(path, events=2000, seed=5)
    return path


@pytest.fixture
def scene(tmp_path: Path, made_database: Path) -> Iterator[Scene]:
    """A v3 database and the logs that it was filled from."""
    scene = Scene(tmp_path, made_database)
    yield scene
    scene.close()


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_what_version_3_stored_is_not_stored_again(scene: Scene, load: Load) -> None:
    """Of logs that did not change since, malformed lines and events without session or time are known, too."""
    engine = scene.migrated()

    load(engine, scene.folder)

    assert (Counter(), 0) == (scene.new_events(), scene.new_letters())


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("has_cursors", [True, False])
def test_logs_that_go_on_growing_give_what_is_new(scene: Scene, load: Load, *, has_cursors: bool) -> None:
    """With version 3's cursors or without, each event that came after it is stored once; so it is after rotation."""
    if not has_cursors:
        scene.sql("DELETE FROM ingest_cursors")
    engine = scene.migrated()
    scene.grow()
    load(engine, scene.folder)
    first = scene.new_events()

    live = scene.live.path
    scene.append(live, new_event(900_000), new_event(900_001))
    live.rename(live.with_name("cowrie.json.2024-02-01"))
    scene.append(live, *(new_event(910_000 + one) for one in range(30)))
    load(engine, scene.folder)

    assert first + Counter(map(plain, scene.appended[len(first) :])) == scene.new_events()
    assert Counter(map(plain, scene.appended)) == scene.new_events()
    assert 0 == scene.new_letters()


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("seed", range(2))
def test_what_version_3_lost_is_loaded(scene: Scene, load: Load, seed: int) -> None:
    """Failed batches, single lines, beginnings: what it read and did not store is stored, whatever its cursor says."""
    chance = random.Random(seed)
    # A lone surrogate is an event for version 3 and a dead letter for us.
    readable = "session_id IS NOT NULL AND payload NOT LIKE '%\\ud8%'"
    rows = scene.sql(f"SELECT payload_hash, payload FROM raw_events WHERE {readable}")
    lost = {str(digest): plain(str(payload)) for digest, payload in rows if chance.random() < 0.05}
    for log in scene.logs:
        start = chance.choice([0, chance.randrange(log.line_count)])
        gone = scene.sql(
            "SELECT payload_hash, payload FROM raw_events WHERE source = ? AND source_inode IS ? AND"
            f" source_generation = ? AND source_offset BETWEEN ? AND ? AND {readable}",
            *(log.source, log.inode, log.generation, start, start + 40),
        )
        lost |= {str(digest): plain(str(payload)) for digest, payload in gone}
    scene.sql("DELETE FROM raw_events WHERE payload_hash IN (SELECT value FROM json_each(?))", json.dumps(sorted(lost)))
    engine = scene.migrated()
    scene.grow(3)

    load(engine, scene.folder)

    assert Counter(lost.values()) + Counter(map(plain, scene.appended)) == scene.new_events()
    assert lost


def test_a_line_that_version_3_read_too_early_is_loaded(scene: Scene) -> None:
    """Of a partial last line it kept the beginning and passed over the rest; the whole line is an event."""
    live = scene.live
    whole = new_event(77)
    scene.sql(
        "INSERT INTO raw_events (source, source_offset, source_inode, source_generation, payload, payload_hash,"
        " quarantined) VALUES (?, ?, ?, ?, ?, 'x', 1)",
        *(live.source, live.line_count, live.inode, live.generation, json.dumps({"malformed": whole[:40]})),
    )
    scene.sql("UPDATE ingest_cursors SET last_offset = ?", live.line_count + 5)
    engine = scene.migrated()
    scene.append(live.path, whole, *(new_event(80 + one) for one in range(20)))

    bulk(engine, scene.folder)

    assert Counter(map(plain, scene.appended)) == scene.new_events()


def test_a_torn_line_at_the_beginning_is_known(scene: Scene) -> None:
    """A log whose first line is no event is found by the hash of that line, and by the events behind it."""
    live = scene.live
    live.path.write_bytes(b"torn {\n" + live.path.read_bytes())
    place = (live.source, live.inode, live.generation)
    scene.sql(
        "UPDATE raw_events SET source_offset = source_offset + 100001 WHERE source = ? AND source_inode IS ?"
        " AND source_generation = ?",
        *place,
    )
    scene.sql("UPDATE raw_events SET source_offset = source_offset - 100000 WHERE source_offset > 100000")
    scene.sql(
        "INSERT INTO raw_events (source, source_inode, source_generation, source_offset, payload, payload_hash)"
        " VALUES (?, ?, ?, 0, ?, 'x')",
        *place,
        json.dumps({"malformed": "torn {"}),
    )
    engine = scene.migrated()
    scene.append(live.path, new_event(1), "torn again {", new_event(2))

    bulk(engine, scene.folder)

    assert Counter(map(plain, (scene.appended[0], scene.appended[2]))) == scene.new_events()
    assert 1 == scene.new_letters()


class Killed(BaseException):
    """What ends a load in the middle."""


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_a_takeover_that_is_killed_goes_on(scene: Scene, batch_size: int) -> None:
    """Ended after any transaction and begun again, it stores the same."""
    engine = scene.migrated()
    scene.append(scene.live.path, *(new_event(one) for one in range(10)))
    chance = random.Random(batch_size)

    def kill(_: LoadProgress) -> None:
        if chance.random() < 0.1 * batch_size**0.5:
            raise Killed

    kills = 0
    while True:
        try:
            settings = Settings(batch_size=batch_size)
            BulkLoader(engine, settings=settings, on_progress=kill).load([scene.live.path.parent])
            break
        except Killed:
            kills += 1
    bulk(engine, scene.folder)

    assert Counter(map(plain, scene.appended)) == scene.new_events()
    assert (0, True) == (scene.new_letters(), kills > 2)


@pytest.mark.parametrize("spelling", ["relative", "link", "gz", "renamed", "other form"])
def test_a_log_is_known_whatever_it_is_called_by_now(scene: Scene, tmp_path: Path, spelling: str) -> None:
    """Named relatively by version 3, reached through a link, compressed, renamed, or written in another form."""
    live = scene.live.path
    if spelling == "relative":
        scene.sql("UPDATE OR IGNORE ingest_cursors SET source = 'cowrie.json'")
        scene.sql("UPDATE raw_events SET source = 'cowrie.json' WHERE source = ?", scene.live.source)
    elif spelling == "link":
        (tmp_path / "link").symlink_to(scene.folder)
        live = tmp_path / "link" / live.relative_to(scene.folder)
    elif spelling == "renamed":
        live = live.rename(live.with_name("old.json"))
    engine = scene.migrated()
    scene.append(live, *(new_event(one) for one in range(10)))
    if spelling == "gz":
        live.write_bytes(gzip.compress(live.read_bytes()))
    elif spelling == "other form":
        events = []
        for line in live.read_bytes().splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            events += [value] if isinstance(value, dict) else []
        live.write_text(json.dumps(events))

    assert [] == BulkLoader(engine, settings=Settings(batch_size=50)).load([live]).failed

    assert Counter(map(plain, scene.appended)) == scene.new_events()


def test_a_part_of_a_log_of_version_3_is_known(scene: Scene) -> None:
    """A backup of a part that version 3 never saw, which begins elsewhere, adds only what came after it."""
    engine = scene.migrated()
    live = scene.live.path
    scene.append(live, *(new_event(one) for one in range(10)))
    part = live.with_name("part.json")
    part.write_bytes(b"\n".join(live.read_bytes().split(b"\n")[60:]))
    live.unlink()

    bulk(engine, part)

    assert Counter(map(plain, scene.appended)) == scene.new_events()


def test_a_genuine_v3_file_goes_on(corpus: Path, corpus_v3_file: Path, tmp_path: Path) -> None:
    """Real logs that version 3 itself loaded grow, rotate and are compressed; only what it had not read is added."""
    engine = get_engine(corpus_v3_file)
    apply_migrations(engine)
    folder = tmp_path / "log"
    folder.mkdir()
    live = folder / "cowrie.json"
    lines = (corpus / "cowrie-3.1.4" / "cowrie.json").read_bytes().splitlines(keepends=True)
    live.write_bytes(b"".join(lines[:1300]))
    (folder / "cowrie.json.2021-03-09.gz").write_bytes(
        gzip.compress((corpus / "cowrie-2.2" / "cowrie.json.2021-03-09").read_bytes())
    )
    shutil.copy(corpus / "cowrie-2.9" / "cowrie.json", folder / "cowrie.json.2026-01-05")
    added = []
    with DeltaLoader(engine, [folder], settings=Settings(batch_size=200)) as loader:
        for start, end in ((1300, 1300), (1300, 1400), (1400, 1450), (1450, len(lines))):
            with live.open("ab") as log:
                log.write(b"".join(lines[start:end]))
            found = loader.poll().counters
            added.append(found["events"] + found["dead_letters"])
    dispose(engine)

    assert [0, 100, 50, len(lines) - 1450] == added
