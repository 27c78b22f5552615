"""Many small logs share a transaction, and the database is that of logs loaded one after the other."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, func, select

from cowrieprocessor.cli.load_text import load_messages
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import Base, FileHash, Files, LogFile, RawEvent
from cowrieprocessor.loader import small_logs, writer
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.load_result import MAX_NAMED_FILES, LoadResult
from cowrieprocessor.loader.log_loading import FAILED, KNOWN, LOADED, PENDING, FileResult
from cowrieprocessor.loader.reading.log_list import LogList
from cowrieprocessor.loader.reading.log_names import name_order
from cowrieprocessor.loader.small_logs import Outcome, SmallLogs
from cowrieprocessor.settings import Settings
from tests.logical_digest import EVENT_TABLES, Contents, difference, logical_contents
from tests.logs import count, events, write
from tests.torture import rounds

WHERE = ("source", "source_offset", "source_files", "source_generation", "metadata_json")


def load(engine: Engine, *paths: Path, batch_size: int = 10_000) -> LoadResult:
    """Load logs."""
    return BulkLoader(engine, settings=Settings(batch_size=batch_size)).load(paths)


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every log loaded by itself."""
    monkeypatch.setattr(SmallLogs, "load", lambda _self, paths: map(Outcome, paths))


def emptied(engine: Engine) -> None:
    """Delete every row but those of the schema."""
    with write_transaction(engine) as connection:
        for table in Base.metadata.sorted_tables:
            if table.name != "schema_state":
                connection.execute(delete(table))


def contents(engine: Engine) -> Contents:
    """Return what the database says of the events, whichever log they were read from."""
    return logical_contents(engine, tables=EVENT_TABLES, without=WHERE)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of logs in each transaction of several."""
    sizes: list[int] = []
    write_new_logs = writer.write_new_logs

    def noted(engine: Engine, batches: list[writer.BatchRows], progress: dict[str, object], **more: Any) -> None:
        write_new_logs(engine, batches, progress, **more)
        sizes.append(len(batches))

    monkeypatch.setattr(small_logs, "write_new_logs", noted)
    return sizes


def test_many_logs_share_a_transaction(engine: Engine, tmp_path: Path, groups: list[int]) -> None:
    """A folder of small logs takes a transaction for hundreds of them; loaded again, none."""
    for number in range(450):
        write(tmp_path / f"cowrie.json.{number}", events(1, start=10 * number))

    first, second = load(engine, tmp_path), load(engine, tmp_path)

    assert {LOADED: 450} == first.states
    assert ({KNOWN: 450}, 0) == (second.states, second.counters["events"])
    assert 450 == count(engine, RawEvent) == count(engine, LogFile)
    assert sum(groups) == 450
    assert len(groups) <= 10


def test_a_group_is_bounded(engine: Engine, tmp_path: Path, groups: list[int]) -> None:
    """A transaction takes no further log once it has as many values as a batch."""
    for number in range(20):
        write(tmp_path / f"{number}.json", events(10, start=10 * number))

    load(engine, tmp_path, batch_size=30)

    assert 200 == count(engine, RawEvent)
    assert max(groups) == 3


def odd_logs(rng: random.Random, folder: Path) -> None:
    """Write logs of every kind: parts of one log, copies, damaged, growing, empty, cut, and foreign files."""
    lines = events(rng.randint(20, 80))
    for number, start in enumerate(rng.sample(range(len(lines)), rng.randint(5, 15))):
        part = lines[start : start + rng.choice([1, 1, 2, 10, 30])]
        path = folder / f"{number % 3}" / f"cowrie.json.{number}"
        path.parent.mkdir(exist_ok=True)
        data = "".join(f"{line}\n" for line in part).encode()
        kind: Callable[[bytes], bytes] = rng.choice(
            [
                lambda data: data,
                lambda data: data,
                gzip.compress,
                lambda data, text=b"damage of %d\n" % number: data + text,
                lambda data: data + b"\0" * 7,
                lambda data: data[:-1],
                lambda data: data[: len(data) // 2],
                lambda data: gzip.compress(data)[:-9],
                lambda _data: b"",
                lambda data: b"\xff\xfe" + data,
            ]
        )
        path.write_bytes(kind(data))
        if rng.random() < 0.3:
            (path.parent / f"copy.json.{number}").write_bytes(path.read_bytes())


@pytest.mark.torture
def test_small_logs_give_what_each_by_itself_gives(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the logs in a folder are, loading them together gives the same rows, states and messages."""
    for number in range(rounds(1000, 12)):
        folder = tmp_path / str(number)
        folder.mkdir()
        rng = random.Random(number)
        odd_logs(rng, folder)
        found = []
        for is_together in (True, False):
            emptied(engine)
            results = []
            with monkeypatch.context() as patch:
                if not is_together:
                    one_by_one(patch)
                results.append(load(engine, folder, batch_size=rng.choice([1, 20, 1000])))
                results.append(load(engine, folder))
            said = [(result.states, result.counters, [*load_messages(result)]) for result in results]
            found.append((contents(engine), said))

        assert [] == difference(found[0][0], found[1][0]), number
        assert found[0][1] == found[1][1], number


def test_a_group_of_which_one_was_begun_is_loaded_one_by_one(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another loader stores a log of a group meanwhile, every event is still stored once."""
    paths = [write(tmp_path / f"{number}.json", events(2, start=10 * number)) for number in range(20)]
    write_new_logs = writer.write_new_logs

    def late(own: Engine, batches: list[writer.BatchRows], progress: dict[str, object], **more: Any) -> None:
        with monkeypatch.context() as patch:
            one_by_one(patch)
            load(engine, paths[7])
        write_new_logs(own, batches, progress, **more)

    monkeypatch.setattr(small_logs, "write_new_logs", late)
    result = load(engine, tmp_path)

    assert {LOADED: 19, KNOWN: 1} == result.states
    assert (40, 20) == (count(engine, RawEvent), count(engine, LogFile))


def test_a_file_in_several_logs_of_a_group(engine: Engine, tmp_path: Path, groups: list[int]) -> None:
    """A file that several logs of a group name has their first and last time, and all sessions."""
    for number in range(5):
        write(tmp_path / f"{number}.json", [events(3, start=70 * number, session=f"{number:04x}")[2]])

    load(engine, tmp_path)

    assert [5] == groups
    with read_transaction(engine) as connection:
        (row,) = connection.execute(
            select(FileHash.session_count, FileHash.first_seen, FileHash.last_seen, func.count(Files.id))
            .join(Files, Files.shasum == FileHash.sha256)
            .group_by(FileHash.sha256)
        ).all()
    assert (5, "00:02", "04:42", 5) == (row[0], f"{row[1]:%H:%M}", f"{row[2]:%H:%M}", row[3])


# --- bounds ---


def test_a_result_names_a_bounded_number_of_files() -> None:
    """Of very many files the sums are kept, and so many of each kind: a late failure is named all the same."""
    result = LoadResult("x")
    for number in range(5 * MAX_NAMED_FILES):
        result.add(FileResult(f"{number}", LOADED, warnings=["odd"] * (number % 2)))
    result.add(FileResult("late", FAILED, error="late: unreadable"))
    result.add(FileResult("waits", PENDING))

    assert (5 * MAX_NAMED_FILES + 2, 1) == (result.files_total, result.failed_total)
    assert ["late"] == [file.path for file in result.failed]
    assert 2 * MAX_NAMED_FILES + 1 == len(result.files)
    messages = list(load_messages(result))
    assert "error: late: unreadable" in messages
    assert "note: 1,500 more files have notes or dead letters that are not named here" == messages[-1]
    assert MAX_NAMED_FILES + 2 == len(messages)


def test_names_take_little_memory() -> None:
    """A folder of very many logs is kept as its names: 20 bytes each, and a hundred for a moment."""
    tracemalloc.start()
    try:
        logs = LogList()
        logs.add_folders({"/logs": [name_order(f"cowrie.json.{number}") for number in range(100_000)]})
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 100_000 == len(logs)
    assert kept < 3_000_000
    assert peak < 15_000_000
    assert [Path("/logs/cowrie.json.99999"), Path("/logs/cowrie.json.99998")] == [*logs][:2]


def test_names_that_came_since() -> None:
    """Of two lists of a folder, what the later one has in addition is found in their order."""
    rng = random.Random(3)
    names = [f"cowrie.json.{number}" for number in range(50)] + ["cowrie.json", "a.json", "z.json.2026-01-02.gz"]
    for _ in range(200):
        earlier, later = (rng.sample(names, rng.randrange(len(names))) for _ in range(2))
        lists = []
        for some in (earlier, later):
            lists.append(LogList())
            lists[-1].add_folders({"/logs": [name_order(name) for name in some]})

        expected = sorted(set(later) - set(earlier), key=name_order)
        assert [Path("/logs") / name for name in expected] == list(lists[1].added_since(lists[0]))
