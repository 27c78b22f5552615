"""A log taken out of a database again: as if only the others had been loaded."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, select, update

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import Base, FileHash, Files, LogFile, RawEvent, SessionSummary
from cowrieprocessor.errors import AlreadyFollowed, ConfigurationError, NotFound
from cowrieprocessor.jobs.maintenance import remove_log
from cowrieprocessor.jobs.maintenance.remove_log import RemovalResult, plan, remove
from cowrieprocessor.jobs.runtime.path_lock import lock_paths
from cowrieprocessor.loader import log_loading, writer
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.rows.batch import BatchRows
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
    """Write logs that are parts of the same log, overlap, repeat events, and hold lines that are no events; and copies.

    Each begins with another event, but for the copies of the beginning of one: docs/loading.md says what is not read
    again of two logs that begin and end alike. Each has damage of its own.
    """
    lines = events(rng.randint(10, 60))
    paths = []
    for number, start in enumerate(rng.sample(range(len(lines)), rng.randint(2, 5))):
        part = lines[start : start + rng.randint(1, len(lines))]
        for damage in range(rng.randint(0, 3)):
            at = rng.randint(1, len(part))
            text = f"{number}.{damage}"
            part[at:at] = rng.choice([part[max(0, at - rng.randint(1, 4)) : at], [text], [f'{{"torn {text}": ']])
        path = folder / f"{number}.json"
        path.write_text("".join(f"{line}\n" for line in part))
        paths.append(path)
        if rng.random() < 0.2:
            copied = part[: rng.randint(1, len(part))]
            paths.append(write(folder / f"{number}.copy.json", copied, rng.choice(["lines", "gzip"])))
    return paths


def grown(rng: random.Random, path: Path) -> bytes:
    """Return a log's content, and leave only a part of it in the file."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.choice([at.end() for at in re.finditer(rb"\n", content)])])
    return content


@pytest.mark.torture
def test_removing_one_of_any_logs_is_never_having_loaded_it(engine: Engine, tmp_path: Path) -> None:
    """Logs that overlap, grow and repeat events: all loaded, one removed, the others loaded again = only the others."""
    removed = 0
    for number in range(rounds(10_000, 15)):
        rng = random.Random(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        emptied(engine)
        paths = logs_of_a_round(rng, folder)
        whole = {path: grown(rng, path) for path in paths if "copy" not in path.name and rng.random() < 0.4}
        load(engine, *rng.sample(paths, len(paths)), batch_size=rng.choice([1, 7, 1000]))
        for path, content in whole.items():
            path.write_bytes(content)
        load(engine, *rng.sample(paths, len(paths)), batch_size=rng.choice([1, 7, 1000]))
        wrong = rng.choice(paths)
        others = [path for path in paths if path != wrong]
        with suppress(NotFound):  # a copy of another log was not loaded as a log of its own
            remove(engine, plan(engine, str(wrong)), rows=rng.choice([1, 5, 1000]))
            removed += 1
        load(engine, *rng.sample(others, len(others)))
        after = contents(engine)
        emptied(engine)
        load(engine, *others)

        assert [] == difference(contents(engine), after), (number, wrong)
    assert removed


# --- one log of several, none, and one that is in use ---


def test_a_path_of_several_logs_has_to_be_made_clear(engine: Engine, tmp_path: Path) -> None:
    """Where several logs were loaded from one path, the message lists them, and one is named by its identity."""
    log = write(tmp_path / "cowrie.json", events(10, session="aaaa"))
    load(engine, log)
    log.rename(tmp_path / "cowrie.json.1")
    load(engine, write(log, events(20, session="bbbb")))

    with pytest.raises(ConfigurationError, match="--identity"):
        plan(engine, str(log))
    with read_transaction(engine) as connection:
        rows = connection.execute(select(LogFile.identity, LogFile.values_done)).all()
    (identity,) = [row.identity for row in rows if row.values_done == 20]
    remove(engine, plan(engine, str(log), identity=identity[:8]))

    assert 10 == count(engine, RawEvent)
    assert 1 == len(plan(engine, str(log)).logs)


def test_a_log_is_found_where_it_is_now(engine: Engine, tmp_path: Path) -> None:
    """A log is found by the path where it was seen last, and by the one where it was loaded first."""
    lines = events(20)
    first = write(tmp_path / "first.json", lines[:10])
    load(engine, first)
    first.unlink()
    load(engine, write(tmp_path / "last.json", lines))

    plans = [plan(engine, str(tmp_path / name)).logs for name in ("first.json", "last.json")]

    assert plans[0] == plans[1]
    assert 20 == plans[0][0].events


def test_an_unknown_path_names_similar_ones(engine: Engine, tmp_path: Path) -> None:
    """A path from which nothing was loaded is refused with those of logs of the same name."""
    load(engine, write(tmp_path / "cowrie.json", events(3)))

    with pytest.raises(NotFound, match=re.escape(f"similar paths: {tmp_path}/cowrie.json")):
        plan(engine, "/elsewhere/cowrie.json")
    with pytest.raises(NotFound, match=r"no log was loaded from there$"):
        plan(engine, "/elsewhere/100%_other.json")


def test_events_of_version_3_are_refused(engine: Engine) -> None:
    """A path under which only version 3 stored events is refused, and says why."""
    with write_transaction(engine) as connection:
        connection.execute(insert(RawEvent).values(source="/v3/cowrie.json", payload={"eventid": "x"}))

    with pytest.raises(NotFound, match="version 3 loaded it"):
        plan(engine, "/v3/cowrie.json")


def test_a_log_that_is_followed_is_refused(engine: Engine, tmp_path: Path) -> None:
    """While a process follows the folder of a log, it is not removed."""
    log = write(tmp_path / "cowrie.json", events(10))
    load(engine, log)

    with lock_paths(engine, "follow", [tmp_path]), pytest.raises(AlreadyFollowed, match="stop that process"):
        remove(engine, plan(engine, str(log)))

    assert 10 == count(engine, RawEvent)


# --- what other facts say ---


def test_verdicts_stay_and_flags_go(engine: Engine, tmp_path: Path) -> None:
    """A hash that was judged stays without sessions; a session without the file is flagged no longer."""
    keep, wrong = write(tmp_path / "keep.json", events(2)), write(tmp_path / "wrong.json", events(8, start=2))
    load(engine, keep, wrong)
    with write_transaction(engine) as connection:
        connection.execute(update(FileHash).values(vt_malicious=True, enrichment_status="found", verdict="malicious"))
        connection.execute(update(Files).values(vt_malicious=True, enrichment_status="found"))
        connection.execute(update(SessionSummary).values(vt_flagged=True))

    take_out(engine, wrong)

    with read_transaction(engine) as connection:
        hashes = connection.execute(select(FileHash.session_count, FileHash.verdict)).all()
        flags = connection.execute(select(SessionSummary.vt_flagged)).scalars().all()
    assert [(0, "malicious")] * 2 == [tuple(row) for row in hashes]
    assert ([False], 0) == (flags, count(engine, Files))


def test_times_of_a_hash_are_those_of_the_events_left(engine: Engine, tmp_path: Path) -> None:
    """First and last time of a hash are taken from the sessions that still have it."""
    early, middle, late = (
        write(tmp_path / f"{number}.json", events(10, start=start, session=f"{number:04x}"))
        for number, start in enumerate((0, 70, 140))
    )
    load(engine, early, middle, late)
    take_out(engine, early)
    take_out(engine, late)

    after = contents(engine)
    emptied(engine)
    load(engine, middle)
    assert [] == difference(contents(engine), after)


def test_a_loader_that_left_events_out_looks_them_up_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a log is removed between the lookup and the write of a batch of another one, nothing is left out for it."""
    lines = events(40)
    wrong, other = write(tmp_path / "wrong.json", lines[:30]), write(tmp_path / "other.json", lines[10:])
    load(engine, wrong)
    write_batch = writer.write_batch
    before: list[int] = []

    def write_late(own: Engine, rows: BatchRows, *arguments: Any, **more: Any) -> None:
        if rows.left_out and not before:
            before.append(len(rows.events))
            take_out(engine, wrong)
        write_batch(own, rows, *arguments, **more)

    monkeypatch.setattr(log_loading, "write_batch", write_late)
    load(engine, other)

    assert before
    assert 30 == count(engine, RawEvent)


# --- killed ---


class Killed(BaseException):
    """In place of a kill."""


@pytest.mark.torture
def test_killed_before_any_commit_nothing_is_lost_or_doubled(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each transaction: loading everything restores all, and the same command ends the removal."""
    lines = events(40)
    wrong = tmp_path / "wrong.json"
    wrong.write_text("".join(f"{line}\n" for line in [*lines[:25], "no event"]))
    part, copy = write(tmp_path / "part.json", lines[15:]), write(tmp_path / "copy.json", lines[3:9], "gzip")
    load(engine, wrong, part, copy)
    everything = contents(engine)
    emptied(engine)
    load(engine, part, copy)
    without = contents(engine)
    transaction = remove_log._Removal._transaction

    for kill_at in range(1, 12):
        emptied(engine)
        load(engine, wrong, part, copy)
        left = [kill_at]

        def dies(self: Any, *arguments: Any, left: list[int] = left) -> bool:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return transaction(self, *arguments)

        monkeypatch.setattr(remove_log._Removal, "_transaction", dies)
        with suppress(Killed):
            take_out(engine, wrong)
        was_killed = not left[0]
        monkeypatch.setattr(remove_log._Removal, "_transaction", transaction)

        if kill_at % 2:
            load(engine, copy, part, wrong)
            assert [] == difference(everything, contents(engine)), kill_at
        if was_killed or kill_at % 2:
            take_out(engine, wrong)
        load(engine, part, copy)
        assert [] == difference(without, contents(engine)), kill_at
        if not was_killed:
            break
    assert kill_at > 5
