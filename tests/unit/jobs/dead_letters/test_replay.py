"""Replay of dead letters: letters that are events now are stored once, as by loading; the others stay with a reason."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, update

from cowrieprocessor.db.dead_letters.statements import LetterFilter
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import load_job
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import Base, DeadLetterEvent, Files, LogFile, RawEvent, SessionSummary
from cowrieprocessor.errors import InvalidShasum
from cowrieprocessor.interpret import file_events
from cowrieprocessor.jobs.dead_letters import replay as job
from cowrieprocessor.jobs.dead_letters.replay import JOB, ReplayLimits, ReplayResult, replay
from cowrieprocessor.jobs.dead_letters.writing import ReplayWriter
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.rows import file_aggregates
from cowrieprocessor.settings import Settings
from tests.logical_digest import TABLES, Contents, difference, logical_contents
from tests.logs import FORMS, count, events, hostile_lines, write
from tests.unit.jobs.dead_letters.letters import letters, run, summary
from tests.wrapped_logs import WRAPPED, docker

SMALL, LARGE = Settings(max_value_bytes=2_000), Settings(max_value_bytes=3 << 20)
COMPARED = tuple(name for name in TABLES if name not in ("jobs", "dead_letter_events"))
SHA = "a" * 64
T = Base.metadata.tables


def padded(lines: list[str], numbers: tuple[int, ...], pad: int = 5_000) -> list[str]:
    """Return log lines, some of them larger than the small limit."""
    return [json.dumps(json.loads(line) | {"pad": "x" * pad}) if n in numbers else line for n, line in enumerate(lines)]


def contents(engine: Engine) -> Contents:
    """Return the contents of the database without jobs and dead letters."""
    return logical_contents(engine, tables=COMPARED)


@contextmanager
def loaded(path: Path, logs: list[Path], settings: Settings) -> Iterator[Engine]:
    """Yield a new SQLite database with logs loaded into it."""
    engine = get_engine(path)
    BulkLoader(engine, settings=settings).load(logs)
    try:
        yield engine
    finally:
        dispose(engine)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    """A new SQLite database, for tests that do not depend on the dialect."""
    with loaded(tmp_path / "letters.sqlite", [], SMALL) as engine:
        yield engine


# --- a limit that was raised ---


@pytest.mark.parametrize("form", FORMS)
def test_a_replay_equals_a_load_with_the_larger_limit(sqlite: Engine, tmp_path: Path, form: str) -> None:
    """Rows, counters, files and byte counts equal those of a load with the larger limit, for every form of log."""
    check_raised_limit(sqlite, tmp_path, form)


@pytest.mark.postgres
@pytest.mark.parametrize("form", ["lines", "gzipped array"])
def test_a_replay_equals_a_load_on_postgresql(postgres_url: str, tmp_path: Path, form: str) -> None:
    """PostgreSQL gives the same as SQLite."""
    engine = get_engine(postgres_url)
    apply_migrations(engine)
    check_raised_limit(engine, tmp_path, form)
    dispose(engine)


def check_raised_limit(engine: Engine, tmp_path: Path, form: str) -> None:
    """Load with the small limit, replay with the larger one, and compare with the larger one from the start."""
    log = write(tmp_path / "cowrie.json", padded(events(60), (3, 12, 17, 18, 59)), form)
    BulkLoader(engine, settings=SMALL).load([log])
    stored_before = count(engine, RawEvent)

    replay(engine, LARGE)

    assert stored_before < 60
    assert [] == letters(engine, DeadLetterEvent.resolved.is_(False))
    BulkLoader(engine, settings=LARGE).load([log])  # what had no end at the small limit was waiting
    with loaded(tmp_path / "expected.sqlite", [log], LARGE) as expected:
        assert [] == difference(contents(expected), contents(engine))


def test_hostile_lines_among_large_ones(sqlite: Engine, tmp_path: Path) -> None:
    """Lines still refused stay dead letters; everything around them is as with the larger limit from the start."""
    lines = padded([line for hostile in hostile_lines() for line in (hostile, *events(1))], ())
    log = tmp_path / "cowrie.json"
    log.write_bytes("".join(f"{line}\n" for line in padded_any([*events(3), *lines, *events(5, start=40)])).encode())
    BulkLoader(sqlite, settings=SMALL).load([log])

    replay(sqlite, LARGE)

    with loaded(tmp_path / "expected.sqlite", [log], LARGE) as expected:
        left = letters(sqlite, DeadLetterEvent.resolved.is_(False))
        assert Counter(row.source_offset for row in letters(expected)) == Counter(row.source_offset for row in left)
        assert [] == difference(contents(expected), contents(sqlite))


def padded_any(lines: list[str]) -> list[str]:
    """Return the lines with large ones of real events between them."""
    large = padded(events(30, start=1000, session="1a59"), tuple(range(30)))
    return [
        with_large for n, line in enumerate(lines) for with_large in (line, large[n % 30].replace("1a59", f"{n:04x}"))
    ]


def test_several_values_in_one_damaged_range_are_all_stored(engine: Engine, tmp_path: Path) -> None:
    """Of a long line with a torn value followed by events, the events are stored and the torn value stays dead."""
    good = events(12)
    torn = '{"eventid": "x", "torn": "' + "y" * 4_000
    lines = [good[0], torn + " " + good[1] + good[2], good[3], good[4] + torn, *good[5:]]
    log = write_raw(tmp_path / "cowrie.json", lines)
    BulkLoader(engine, settings=SMALL).load([log])
    before = count(engine, RawEvent)

    result = replay(engine, LARGE)

    with loaded(tmp_path / "expected.sqlite", [log], LARGE) as expected:
        assert count(expected, RawEvent) == count(engine, RawEvent) > before
        assert count(expected, DeadLetterEvent) == len(letters(engine, DeadLetterEvent.resolved.is_(False)))
        for tables in (("session_summaries", "session_attributes", "command_stats", "files", "file_hashes"),):
            assert [] == difference(logical_contents(expected, tables=tables), logical_contents(engine, tables=tables))
        assert byte_counts(expected) == byte_counts(engine)
    assert (2, 1, 2, {"still not JSON": 1}) == summary(result)
    assert (2, 0, 0, {"still not JSON": 2}) == summary(replay(engine, LARGE))


def write_raw(path: Path, lines: list[str]) -> Path:
    """Write lines as they are."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def byte_counts(engine: Engine) -> list[tuple[int, ...]]:
    """Return the byte counts of each log."""
    columns = (LogFile.byte_pos, LogFile.bytes_stored, LogFile.bytes_dead, LogFile.bytes_nul, LogFile.values_done)
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(LogFile.identity))]


def test_a_log_keeps_growing_after_a_replay(sqlite: Engine, tmp_path: Path) -> None:
    """If the last value of a log was replayed, loading continues after it, also in another form of the log."""
    lines = padded(events(20), (19,))
    log = write(tmp_path / "cowrie.json", lines)
    BulkLoader(sqlite, settings=SMALL).load([log])
    replay(sqlite, LARGE)

    BulkLoader(sqlite, settings=LARGE).load([write(tmp_path / "copy.json", lines, "pretty")])
    write(log, [*lines, *events(5, start=20)])
    BulkLoader(sqlite, settings=LARGE).load([log])

    assert 25 == count(sqlite, RawEvent)


# --- from the log itself ---


def test_a_large_value_is_read_from_its_log(engine: Engine, tmp_path: Path) -> None:
    """The bytes of values over 1 MiB are read from the log, whatever its current name and compression."""
    lines = padded(events(12), (2, 9), 1 << 20)
    log = write(tmp_path / "cowrie.json", lines)
    BulkLoader(engine, settings=SMALL).load([log])
    log.rename(tmp_path / "cowrie.json.1")
    packed = tmp_path / "cowrie.json.1.gz"
    packed.write_bytes(gzip.compress((tmp_path / "cowrie.json.1").read_bytes()))
    (tmp_path / "cowrie.json.1").unlink()

    packed.rename(tmp_path / "elsewhere")
    gone = replay(engine, LARGE)
    (tmp_path / "elsewhere").rename(packed)
    found = replay(engine, LARGE)

    assert (2, 0, 0, {"its log cannot be read any more": 2}) == summary(gone)
    assert (2, 2, 2, {}) == summary(found)
    with loaded(tmp_path / "expected.sqlite", [packed], LARGE) as expected:
        same = [name for name in COMPARED if name not in ("raw_events", "session_summaries", "log_files")]
        assert [] == difference(logical_contents(expected, tables=same), logical_contents(engine, tables=same))
        assert byte_counts(expected) == byte_counts(engine)
    assert 12 == count(engine, RawEvent)


def test_a_log_with_other_bytes_is_not_trusted(sqlite: Engine, tmp_path: Path) -> None:
    """If the log has other bytes at the position, or ends before it, the letter stays."""
    lines = padded(events(12), (2, 5), 1 << 20)
    log = write(tmp_path / "cowrie.json", lines)
    BulkLoader(sqlite, settings=SMALL).load([log])
    data = log.read_bytes()

    log.write_bytes(data.replace(b"x" * 100, b"y" * 100, 1))
    assert (2, 1, 1, {"its log holds other bytes there now": 1}) == summary(replay(sqlite, LARGE))
    log.write_bytes(data[:5_000])
    assert (1, 0, 0, {"its log holds other bytes there now": 1}) == summary(replay(sqlite, LARGE))
    assert 11 == count(sqlite, RawEvent)


@pytest.mark.parametrize("pad", [5_000, 1 << 20], ids=["bytes in the letter", "bytes in the log"])
def test_logs_with_the_same_name_are_distinguished(engine: Engine, tmp_path: Path, pad: int) -> None:
    """After rotations several logs have the same source; each event goes to the log that it came from."""
    log, logs = tmp_path / "cowrie.json", []
    for day in range(3):
        write(log, padded(events(12, start=100 * day, session=f"da{day}"), (2, 5), pad))
        BulkLoader(engine, settings=SMALL).load([log])
        logs.append(log.rename(tmp_path / f"cowrie.json.{day}"))
        BulkLoader(engine, settings=SMALL).load([logs[-1]])

    assert (6, 6, 6, {}) == summary(replay(engine, LARGE))

    with read_transaction(engine) as connection:
        sources = connection.execute(select(RawEvent.session_id, RawEvent.source_inode, RawEvent.source_generation))
        events_of = Counter((str(session)[:3], inode, generation) for session, inode, generation in sources)
    assert {(f"da{day}", str(logs[day].stat().st_ino), 0): 12 for day in range(3)} == events_of
    assert [0, 0, 0] == [dead for _, _, dead, _, _ in byte_counts(engine)]
    offsets = sorted(line for line in range(12) for _ in range(3))
    with read_transaction(engine) as connection:
        assert offsets == sorted(offset or 0 for offset in connection.execute(select(RawEvent.source_offset)).scalars())


def test_a_range_over_the_limit_stays(sqlite: Engine, tmp_path: Path) -> None:
    """A byte range over the limit is not read; the message names the setting."""
    log = write(tmp_path / "cowrie.json", padded(events(12), (2,), 1 << 20))
    BulkLoader(sqlite, settings=SMALL).load([log])

    result = replay(sqlite, Settings(max_value_bytes=10_000), limits=ReplayLimits(max_range_bytes=1_000))

    assert (1, 0, 0, {"it covers more than a replay takes in at once": 1}) == summary(result)
    assert "raise max_value_bytes" in (result.outcomes[0].detail or "")


def test_a_letter_of_an_unknown_log_stays(sqlite: Engine, tmp_path: Path) -> None:
    """Without a row in log_files the position of the event cannot be determined."""
    BulkLoader(sqlite, settings=SMALL).load([write(tmp_path / "cowrie.json", padded(events(12), (2,)))])
    run(sqlite, "DELETE FROM log_files")

    assert (1, 0, 0, {"it cannot be told which log it came from": 1}) == summary(replay(sqlite, LARGE))


# --- once ---


def test_a_second_replay_finds_nothing(sqlite: Engine, tmp_path: Path) -> None:
    """Resolved letters are not read again."""
    BulkLoader(sqlite, settings=SMALL).load([write(tmp_path / "cowrie.json", padded(events(30), (2, 5, 7)))])
    replay(sqlite, LARGE)
    before = contents(sqlite)

    assert (0, 0, 0, {}) == summary(replay(sqlite, LARGE))
    assert [] == difference(before, contents(sqlite))
    assert [{"events": 1, "events_stored_already": 0}] * 3 == [row.metadata_json["replayed"] for row in letters(sqlite)]


def test_replays_at_the_same_time_store_each_event_once(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Of three replays that read the same letters at once, each letter is stored by one."""
    log = write(tmp_path / "cowrie.json", padded(events(60), tuple(range(1, 60, 2))))
    BulkLoader(engine, settings=SMALL).load([log])
    together = threading.Barrier(3)
    results: list[ReplayResult] = []

    def work() -> None:
        mine = get_engine(db_url)
        together.wait()
        results.append(replay(mine, LARGE, limits=ReplayLimits(letters_at_once=5)))
        dispose(mine)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 30 == sum(result.resolved for result in results)
    with loaded(tmp_path / "expected.sqlite", [log], LARGE) as expected:
        assert [] == difference(contents(expected), contents(engine))


def test_an_event_stored_from_a_better_copy_is_not_stored_again(sqlite: Engine, tmp_path: Path) -> None:
    """A value stored from another log meanwhile resolves its letter without counting twice."""
    lines = events(40)
    large = padded(lines, (8,))
    first = write_raw(tmp_path / "cowrie.json", [*large[:7], *large[8:]])
    better = write_raw(tmp_path / "better.json", large[1:])
    BulkLoader(sqlite, settings=SMALL).load([first])
    BulkLoader(sqlite, settings=LARGE).load([better])
    before = contents(sqlite)

    result = replay(sqlite, LARGE)

    assert (1, 1, 0, {}) == summary(result)
    assert 1 == result.counters["events_stored_already"]
    tables = [name for name in COMPARED if name != "log_files"]
    assert [] == difference(*({name: found[name] for name in tables} for found in (before, contents(sqlite))))
    assert 40 == count(sqlite, RawEvent)


def test_a_better_copy_withdraws_the_letter(sqlite: Engine, tmp_path: Path) -> None:
    """A copy of the log in which the value is readable takes its letter back; nothing is left to replay."""
    large = padded(events(40), (8,))
    log = write_raw(tmp_path / "cowrie.json", large)
    BulkLoader(sqlite, settings=SMALL).load([log])
    better = write_raw(tmp_path / "better.json", [*large[:20], *events(1, start=100), *large[20:]])
    BulkLoader(sqlite, settings=LARGE).load([better])

    assert (0, 0, 0, {}) == summary(replay(sqlite, LARGE))
    assert 41 == count(sqlite, RawEvent)


def test_two_equal_values_of_one_log_are_two_events(sqlite: Engine, tmp_path: Path) -> None:
    """Two identical lines that were refused are both stored."""
    lines = padded(events(12), (4,))
    log = write(tmp_path / "cowrie.json", [*lines, lines[4], *events(1, start=20)])
    BulkLoader(sqlite, settings=SMALL).load([log])

    assert (2, 2, 2, {}) == summary(replay(sqlite, LARGE))
    with loaded(tmp_path / "expected.sqlite", [log], LARGE) as expected:
        assert [] == difference(contents(expected), contents(sqlite))


def test_a_transaction_that_fails_leaves_everything_as_it_was(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay interrupted before its commit stores and resolves nothing; the next one does both."""
    log = write(tmp_path / "cowrie.json", padded(events(30), (2, 5, 7)))
    BulkLoader(engine, settings=SMALL).load([log])
    before = contents(engine)
    finish = ReplayWriter.finish

    def stop(self: Any) -> None:
        finish(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ReplayWriter, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            replay(engine, LARGE)
    assert [] == difference(before, contents(engine))
    assert [False] * 3 == [row.resolved for row in letters(engine)]

    assert (3, 3, 3, {}) == summary(replay(engine, LARGE))


# --- which letters ---


def test_letters_can_be_selected(sqlite: Engine, tmp_path: Path) -> None:
    """Letters are selected by reason, id, log and limit; a limit counts only resolved letters."""
    lines = padded(events(30), (2, 5, 7))
    first = write(tmp_path / "cowrie.json", ["not JSON", lines[0], "nor this", *lines[1:]])
    second = write(tmp_path / "other.json", padded(events(12, session="07e5", start=100), (3,)))
    BulkLoader(sqlite, settings=SMALL).load([first, second])
    ids = [row.id for row in letters(sqlite)]
    too_large = "larger than the limit for one event"

    assert (2, 0) == summary(replay(sqlite, LARGE, LetterFilter(reason="not JSON")))[:2]
    assert (1, 1) == summary(replay(sqlite, LARGE, LetterFilter(sources=(str(second),))))[:2]
    assert (1, 1) == summary(replay(sqlite, LARGE, LetterFilter(ids=(ids[3], ids[-1], 10**6))))[:2]
    assert 1 == replay(sqlite, LARGE, limit=1).resolved
    assert (1, 1) == summary(replay(sqlite, LARGE, LetterFilter(reason=too_large)))[:2]


def test_a_dry_run_changes_no_byte(tmp_path: Path) -> None:
    """A dry run works on a read-only connection, and reports what a replay would do."""
    path = tmp_path / "x.sqlite"
    log = write(tmp_path / "cowrie.json", ["not JSON", *padded(events(30), (2, 5, 7))])
    with loaded(path, [log], SMALL):
        pass
    before = path.read_bytes()
    engine = get_engine(path, read_only=True)

    result = replay(engine, LARGE, dry_run=True)
    dispose(engine)

    assert (4, 3, 3, {"still not JSON": 1}) == summary(result)
    assert before == path.read_bytes()


def test_a_dry_run_counts_as_a_replay_does(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """A dry run on a read-only connection gives the counts of the replay, on either database."""
    BulkLoader(engine, settings=SMALL).load([write(tmp_path / "cowrie.json", padded(events(30), (2, 5, 29)))])
    reading = get_engine(db_url, read_only=True)
    dry = replay(reading, LARGE, dry_run=True)
    dispose(reading)

    assert (3, 3, 3, {}) == summary(dry) == summary(replay(engine, LARGE))


def test_it_reports_to_jobs(sqlite: Engine, tmp_path: Path) -> None:
    """The row in `jobs` counts over all runs and ends as done; progress reaches all letters."""
    limits = ReplayLimits(letters_at_once=2)
    BulkLoader(sqlite, settings=SMALL).load([write(tmp_path / "cowrie.json", padded(events(30), (2, 5, 7)))])
    seen: list[tuple[int, int | None, str]] = []

    replay(sqlite, LARGE, limit=1, limits=limits)
    replay(sqlite, LARGE, on_progress=lambda now: seen.append((now.done, now.total, now.unit)), limits=limits)

    with read_transaction(sqlite) as connection:
        row = load_job(connection, JOB)
    assert row is not None
    assert ("done", 3, 3) == (row.state, row.counters["letters_resolved"], row.counters["events"])
    assert (2, 2, "dead letters") == seen[-1]


def test_without_letters_nothing_is_written(sqlite: Engine) -> None:
    """Without letters no row in `jobs` is written."""
    assert (0, 0, 0, {}) == summary(replay(sqlite, LARGE))
    with read_transaction(sqlite) as connection:
        assert load_job(connection, JOB) is None


# --- files of stored events ---


def refuse_hashes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the program refuse every hash until the returned function is called."""
    real = file_events.file_sighting

    def refuse(event: Any, session_id: str) -> Any:
        if event.get("shasum"):
            raise InvalidShasum("an older program does not understand this hash")
        return real(event, session_id)

    monkeypatch.setattr(file_aggregates, "file_sighting", refuse)
    return lambda: monkeypatch.setattr(file_aggregates, "file_sighting", real)


def test_only_the_file_of_a_stored_event_is_added(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that an older program refused are added; events and counters are not added again."""
    lines = padded(events(60), (2,), 1 << 20)
    log = write(tmp_path / "cowrie.json", lines)
    upgrade = refuse_hashes(monkeypatch)
    BulkLoader(engine, settings=LARGE).load([log])
    assert (12, 0, 0) == summary(replay(engine, LARGE))[:3]
    assert 0 == count(engine, Files)
    upgrade()

    result = replay(engine, LARGE)

    assert (12, 12, 0, {}) == summary(result)
    with loaded(tmp_path / "expected.sqlite", [log], LARGE) as expected:
        assert [] == difference(contents(expected), contents(engine))


def test_a_file_with_an_invalid_hash_stays(sqlite: Engine, tmp_path: Path) -> None:
    """A letter that the current program refuses, too, stays with the reason."""
    event = {"eventid": "cowrie.session.file_download", "session": "s", "timestamp": "2026-01-01T00:00:00Z"}
    log = write_raw(tmp_path / "cowrie.json", [json.dumps(event | {"shasum": "no hash"})])
    BulkLoader(sqlite).load([log])

    assert {"still file: shasum is not 64 hexadecimal characters": 1} == dict(replay(sqlite, LARGE).stays)


def test_an_event_whose_file_is_refused_gets_a_letter_of_its_own(sqlite: Engine, tmp_path: Path) -> None:
    """A replayed event is stored although its file is refused, as by loading; a new letter says so."""
    event = {"eventid": "cowrie.session.file_download", "session": "s", "timestamp": "2026-01-01T00:00:00Z"}
    log = write_raw(tmp_path / "cowrie.json", [*events(3), json.dumps(event | {"shasum": "no", "pad": "x" * 3_000})])
    BulkLoader(sqlite, settings=SMALL).load([log])

    replay(sqlite, LARGE)

    (left,) = letters(sqlite, DeadLetterEvent.resolved.is_(False))
    assert ("file: shasum is not 64 hexadecimal characters", True) == (left.reason, left.metadata_json["event_stored"])
    assert 4 == count(sqlite, RawEvent)


def test_sessions_and_hashes_of_several_letters_are_merged(engine: Engine, tmp_path: Path) -> None:
    """Letters of one transaction on the same hash and session are merged: earliest times, session counted once."""
    lines = []
    for minute in (5, 3, 9):
        event = {"eventid": "cowrie.session.file_download", "session": "s", "shasum": SHA, "pad": "x" * 3_000}
        lines.append(json.dumps(event | {"timestamp": f"2026-01-01T00:0{minute}:00Z", "destfile": f"/{minute}"}))
    log = write_raw(tmp_path / "cowrie.json", [*events(3), *lines])
    BulkLoader(engine, settings=SMALL).load([log])

    replay(engine, LARGE)

    with loaded(tmp_path / "expected.sqlite", [log], LARGE) as expected:
        assert [] == difference(contents(expected), contents(engine))
    assert 1 == count(engine, SessionSummary, SessionSummary.session_id == "s")


def test_malformed_letters_stay(sqlite: Engine, tmp_path: Path) -> None:
    """A letter without usable payload or metadata stays, and does not stop the replay."""
    BulkLoader(sqlite).load([write(tmp_path / "cowrie.json", events(3))])
    facts = {"byte_start": 0, "byte_end": 9, "line": 1, "generation": 0}
    with write_transaction(sqlite) as connection:
        for payload, metadata in (
            ({"base64": "?"}, facts),
            ([], facts),
            ({"text": events(1)[0]}, facts),
            ({"text": "x", "sha256": "0" * 64, "length": 9}, facts | {"generation": None}),
            ({}, None),
            ({"malformed": 5}, None),
            ({"text": "{}"}, {"raw_event_id": 10**9, "event_stored": True}),
        ):
            connection.execute(
                insert(DeadLetterEvent).values(
                    source=str(tmp_path / "cowrie.json"), reason="x", payload=payload, metadata_json=metadata
                )
            )
    result = replay(sqlite, LARGE)

    assert (7, 0, 0) == summary(result)[:3]
    assert {
        "it holds no bytes": 2,
        "it cannot be told which log it came from": 2,
        "version 3 kept nothing of it": 2,
        "its event is not stored any more": 1,
    } == dict(result.stays)


def test_a_letter_with_a_reused_id_is_not_resolved(sqlite: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    """SQLite reuses the id of a deleted last letter: what was read of the old letter is not stored for the new one."""
    BulkLoader(sqlite, settings=SMALL).load([write(tmp_path / "cowrie.json", padded(events(12), (5,)))])
    write_transaction_ = job._Replay._write_transaction

    def meanwhile(self: Any, *arguments: Any) -> Any:
        with write_transaction(sqlite) as connection:
            connection.execute(update(DeadLetterEvent).values(reason="another one"))
        return write_transaction_(self, *arguments)

    monkeypatch.setattr(job._Replay, "_write_transaction", meanwhile)

    assert (0, 0) == summary(replay(sqlite, LARGE))[:2]
    assert 11 == count(sqlite, RawEvent)


@pytest.mark.parametrize("form", ["docker", "syslog", "source", "loki, push", "cloudwatch", "splunk hec"])
@pytest.mark.parametrize("pad", [5_000, 1_200_000], ids=["kept whole", "cut"])
def test_letters_of_a_wrapped_log_are_unwrapped(tmp_path: Path, form: str, pad: int) -> None:
    """What was too large is stored as if the limit had been higher from the start: the event, not its wrapper."""
    lines = padded(events(20), (3, 9), pad)
    log = tmp_path / "x.json"
    wrap = partial(docker, split=1 << 30) if form == "docker" else WRAPPED[form][1]
    log.write_bytes(b"".join(wrap([line]) for line in lines))
    with (
        loaded(tmp_path / "replayed.sqlite", [log], Settings(max_value_bytes=2_000)) as engine,
        loaded(tmp_path / "once.sqlite", [log], LARGE) as once,
    ):
        stored = count(engine, RawEvent)

        result = replay(engine, LARGE)

        assert (stored, result.counters["letters_resolved"]) == (18, 2)
        assert difference(contents(once), contents(engine)) == []


def test_a_part_of_a_wrapped_line_stays(tmp_path: Path) -> None:
    """What docker split and the limit tore apart is no event, and no letter of it counts as read."""
    log = tmp_path / "x.json"
    log.write_bytes(docker(padded(events(5), (3,), 40_000)))
    with loaded(tmp_path / "x.sqlite", [log], SMALL) as engine:
        letters_before = count(engine, DeadLetterEvent)
        result = replay(engine, LARGE)

        assert (count(engine, RawEvent), letters_before, result.counters["letters_resolved"]) == (4, 3, 0)
