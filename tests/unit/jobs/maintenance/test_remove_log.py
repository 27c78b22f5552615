"""A log taken out of a database again: as if only the others had been loaded."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.models import Base, DeadLetterEvent, Files, LogFile, RawEvent, SessionSummary
from cowrieprocessor.errors import AlreadyFollowed, ConfigurationError, NotFound
from cowrieprocessor.jobs.maintenance.remove_log import RemovalResult, plan, remove
from cowrieprocessor.jobs.runtime.path_lock import lock_paths
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings
from tests.logical_digest import EVENT_TABLES, Contents, difference, logical_contents
from tests.logs import count, events, write
from tests.torture import rounds

WHERE = ("source", "source_offset", "source_files", "source_generation", "metadata_json")
"""What says from which of several logs an event was read."""


def load(engine: Engine, *paths: Path, batch_size: int = 7) -> None:
    """Load logs."""
    assert [] == BulkLoader(engine, settings=Settings(batch_size=batch_size)).load(paths).failed


def take_out(engine: Engine, path: Path, *, rows: int = 5) -> RemovalResult:
    """Remove a log, a few events in each transaction."""
    return remove(engine, plan(engine, str(path)), rows=rows)


def emptied(engine: Engine) -> None:
    """Delete every row but those of the schema."""
    with write_transaction(engine) as connection:
        for table in Base.metadata.sorted_tables:
            if table.name != "schema_state":
                connection.execute(delete(table))


def contents(engine: Engine) -> Contents:
    """Return what the database says of the events, whichever log they were read from."""
    return logical_contents(engine, tables=EVENT_TABLES, without=WHERE)


def test_a_log_on_its_own_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    """After a log is removed, the database is the same as if it had never been loaded."""
    keep = write(tmp_path / "keep.json", events(40, session="aaaa"))
    load(engine, keep)
    before = contents(engine)
    wrong = tmp_path / "wrong.json"
    wrong.write_text("".join(f"{line}\n" for line in [*events(40, start=3), "no event", *events(9, start=70)]))
    load(engine, wrong)
    assert before != contents(engine)

    planned = plan(engine, str(wrong))
    result = take_out(engine, wrong)

    assert (1, 49, 1) == (len(planned.logs), planned.logs[0].events, planned.logs[0].dead_letters)
    assert (1, 49, 1, []) == (result.logs, result.events, result.dead_letters, result.load_again)
    assert [] == difference(before, contents(engine))
    assert 1 == count(engine, LogFile)


def test_what_another_log_holds_is_added_by_its_next_load(engine: Engine, tmp_path: Path) -> None:
    """The logs that left out events of the removed log are named; loaded again, they add them."""
    lines = events(60)
    wrong, part, other = (
        write(tmp_path / name, some)
        for name, some in (
            ("wrong.json", lines[:40]),
            ("part.json", lines[15:50]),
            ("other.json", events(10, session="bbbb")),
        )
    )
    load(engine, wrong, part, other)

    result = take_out(engine, wrong)

    assert [str(part)] == result.load_again
    assert 10 + 10 == count(engine, RawEvent)
    load(engine, part, other)
    after = contents(engine)
    emptied(engine)
    load(engine, part, other)
    assert [] == difference(contents(engine), after)


def logs_of_a_round(rng: random.Random, folder: Path) -> list[Path]:
    """Write logs that are parts of the same log, overlap, repeat events, and hold lines that are no events."""
    lines = events(rng.randint(10, 60))
    paths = []
    for number in range(rng.randint(2, 5)):
        start = rng.randrange(len(lines))
        part = lines[start : start + rng.randint(1, len(lines))]
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(part))
            part[at:at] = rng.choice([part[at : at + rng.randint(1, 4)], ["no event"], ['{"torn": ']])
        path = folder / f"{number}.json"
        path.write_text("".join(f"{line}\n" for line in part))
        paths.append(path)
    return paths


def grown(rng: random.Random, path: Path) -> str:
    """Return a log's content, and leave only a part of it in the file."""
    content = path.read_text()
    cut = [at + 1 for at, char in enumerate(content) if char == "\n"]
    path.write_text(content[: rng.choice(cut)])
    return content


@pytest.mark.torture
def test_removing_one_of_any_logs_is_never_having_loaded_it(engine: Engine, tmp_path: Path) -> None:
    """Logs that overlap, grow and repeat events: all loaded, one removed, the others loaded again = only the others."""
    rng = random.Random(14)
    for number in range(rounds(2500, 15)):
        folder = tmp_path / str(number)
        folder.mkdir()
        emptied(engine)
        paths = logs_of_a_round(rng, folder)
        whole = {path: grown(rng, path) for path in paths if rng.random() < 0.4}
        load(engine, *rng.sample(paths, len(paths)), batch_size=rng.choice([1, 7, 1000]))
        for path, content in whole.items():
            path.write_text(content)
        load(engine, *rng.sample(paths, len(paths)), batch_size=rng.choice([1, 7, 1000]))
        wrong = rng.choice(paths)
        others = [path for path in paths if path != wrong]
        if not count(engine, LogFile, LogFile.source == str(wrong)):
            continue  # it has the same first event as another log, and is the same log

        remove(engine, plan(engine, str(wrong)), rows=rng.choice([1, 5, 1000]))
        load(engine, *rng.sample(others, len(others)))
        after = contents(engine)
        emptied(engine)
        load(engine, *others)

        assert [] == difference(contents(engine), after), (number, wrong)
