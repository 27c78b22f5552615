"""The backfill: complete, resumable, harmless to other writers, and equal to what a loader would have stored."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import RUNNING, STOPPED, WAITING, JobRecord, load_job, save_job
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.errors import JobTaken, MigrationNeeded
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.runtime.throttle import ThrottleLimits
from cowrieprocessor.jobs.upgrade import backfill as job
from cowrieprocessor.jobs.upgrade import backfill_run
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.backfill import ALL_JOBS
from cowrieprocessor.settings import Settings
from tests import v3_schema
from tests.logical_digest import Contents, difference, logical_contents
from tests.logs import events, write
from tests.other_connections import OtherProcess

FILLED = ("files", "file_hashes", "session_attributes", "command_stats")
SEEN = ("files", "file_hashes", "session_attributes")
ONE_SLICE = ThrottleLimits(write_s=0.0, shared_write_s=0.0)
"""Each transaction writes one slice, however fast the machine is and whether others write."""


def migrated(path: Path, payloads: list[dict[str, Any]] | None = None) -> Engine:
    """Create a v3 file of payloads, and migrate it."""
    v3_schema.create(path, payloads=payloads)
    engine = get_engine(path)
    apply_migrations(engine)
    return engine


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    """Return a query's rows."""
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def filled(engine: Engine) -> Contents:
    """Return the contents of the tables that the backfill writes."""
    return logical_contents(engine, tables=[*FILLED, "dead_letter_events"])


def decoded(lines: list[str]) -> list[dict[str, Any]]:
    """Return log lines as payloads."""
    return [json.loads(line) for line in lines]


@pytest.fixture
def engine_v3(tmp_path: Path) -> Iterator[Engine]:
    """A migrated v3 database with all peculiarities of v3's data."""
    engine = migrated(tmp_path / "v3.sqlite")
    yield engine
    dispose(engine)


def test_every_file_of_v3_is_stored(engine_v3: Engine) -> None:
    """Each (session, hash) is one row, in lower case, with its smallest name and its earliest time in UTC."""
    job.backfill(engine_v3)

    assert rows(engine_v3, "SELECT session_id, shasum, download_url, origin FROM files ORDER BY 1, 2") == [
        ("s1", v3_schema.SHA_A, "http://203.0.113.9/x", "download"),
        ("s2", v3_schema.SHA_B, None, "upload"),
    ]
    assert rows(engine_v3, "SELECT first_seen FROM files WHERE session_id = 's2'") == [("2025-01-02 03:30:00.000000",)]
    assert rows(engine_v3, "SELECT sha256, session_count FROM file_hashes ORDER BY 1") == [
        (v3_schema.SHA_A, 1),
        (v3_schema.SHA_B, 1),
    ]


def test_commands_of_v3_that_are_not_proven_are_counted_as_rewritten(engine_v3: Engine) -> None:
    """Where nothing proves what was typed, `input_safe` is counted, marked, once for each stored event."""
    job.backfill(engine_v3)

    assert rows(engine_v3, "SELECT session_id, command_normalized, occurrences FROM command_stats") == [
        ("s1", "[rewritten by version 3] cd /tmp [SC] wget [URL]203.0.113.9/x", 2)
    ]


def test_refused_events_are_dead_letters_once(engine_v3: Engine) -> None:
    """Malformed file events do not stop the backfill; each becomes one dead letter with its reason."""
    before = rows(engine_v3, "SELECT count(*) FROM dead_letter_events")[0][0]
    job.backfill(engine_v3)
    with write_transaction(engine_v3) as connection:
        connection.execute(text("INSERT INTO raw_events (source, payload) VALUES ('late', '{}')"))
    job.backfill(engine_v3)

    listed = rows(engine_v3, f"SELECT reason FROM dead_letter_events ORDER BY id LIMIT 100 OFFSET {before}")
    assert sorted(listed) == [
        ("file: event without a readable timestamp",),
        ("file: shasum is not 64 hexadecimal characters",),
    ]


def test_again_changes_nothing(engine_v3: Engine) -> None:
    """A second run reads nothing and changes no row."""
    job.backfill(engine_v3)
    expected = filled(engine_v3)
    reports: list[JobProgress] = []
    job.backfill(engine_v3, on_progress=reports.append)

    assert difference(expected, filled(engine_v3)) == []
    assert {report.total for report in reports} == {0}


def test_what_v3_appends_later_is_caught_up(tmp_path: Path) -> None:
    """Rows that a v3 loader adds after the backfill are processed by the next run, each once."""
    payloads = decoded(events(60))
    late = migrated(tmp_path / "late.sqlite", payloads[:35])
    job.backfill(late)
    with write_transaction(late) as connection:
        v3_schema.insert_events(connection.connection.driver_connection, payloads[35:], source="later.json")
    job.backfill(late)
    at_once = migrated(tmp_path / "at-once.sqlite", payloads)
    job.backfill(at_once)

    assert difference(filled(at_once), filled(late)) == []
    dispose(late)
    dispose(at_once)


def test_events_loaded_meanwhile_are_counted_once(tmp_path: Path) -> None:
    """Events that v4's loader stored before or during the backfill are not processed again."""
    old, new = events(40), events(60, start=40)
    mixed = migrated(tmp_path / "mixed.sqlite", decoded(old))
    first, second = (write(tmp_path / f"{name}.json", part) for name, part in (("1", new[:30]), ("2", new[30:])))
    BulkLoader(mixed, settings=Settings()).load([first])
    loaded = []

    def load_once(_: JobProgress) -> None:
        if not loaded:
            loaded.append(BulkLoader(mixed, settings=Settings()).load([second]))

    job.backfill(mixed, on_progress=load_once)
    job.backfill(mixed)
    whole = migrated(tmp_path / "whole.sqlite", decoded([*old, *new]))
    job.backfill(whole)

    assert difference(filled(whole), filled(mixed)) == []
    dispose(mixed)
    dispose(whole)


_SHAS = [f"{number:x}" * 64 for number in range(4)]
_TIMES = ["2025-01-02T03:04:05Z", "2025-01-02T03:04:05.5+0530", "2025-01-01T00:00:00", 1735786800, None, "soon"]
_NAMES = ["a", "b\x1b[2J", "é", "\ud800x", "", None, "n" * 600, "\u202egpj.exe"]
_EVENTS = st.fixed_dictionaries(
    {
        "eventid": st.sampled_from(
            [
                "cowrie.session.file_download",
                "cowrie.session.file_upload",
                "cowrie.session.connect",
                "cowrie.client.kex",
                "cowrie.login.success",
                "cowrie.login.failed",
                "cowrie.session.closed",
            ]
        ),
        "session": st.sampled_from(["s1", "s2", "s3"]),
        "timestamp": st.sampled_from(_TIMES),
    },
    optional={
        "shasum": st.sampled_from([*_SHAS, _SHAS[1].upper(), "", "no hash", 7]),
        "destfile": st.sampled_from(_NAMES),
        "filename": st.sampled_from(_NAMES),
        "url": st.sampled_from(["http://u:p@h/x", "stdin", "/tmp/y", "ftp://h/é", None]),
        "username": st.sampled_from(["root", "", "\x00", "admin"]),
        "src_ip": st.sampled_from(["203.0.113.1", "2001:db8::1"]),
        "protocol": st.sampled_from(["ssh", "telnet"]),
        "hassh": st.sampled_from(["a" * 32, "b" * 32]),
    },
)


@settings(max_examples=40, deadline=None)
@given(payloads=st.lists(_EVENTS, min_size=1, max_size=25), seed=st.integers(0, 1000))
def test_migrated_and_backfilled_equals_loaded(payloads: list[dict[str, Any]], seed: int) -> None:
    """Events loaded by v4 give the same rows as events stored by v3, migrated and backfilled, in any order."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = get_engine(Path(folder) / "loaded.sqlite")
        log = write(Path(folder) / "cowrie.json", [json.dumps(payload) for payload in payloads])
        BulkLoader(loaded, settings=Settings()).load([log])
        shuffled = payloads.copy()
        random.Random(seed).shuffle(shuffled)
        filled_later = migrated(Path(folder) / "v3.sqlite", shuffled)
        job.backfill(filled_later, batch_size=7)

        assert difference(*(logical_contents(engine, tables=SEEN) for engine in (loaded, filled_later))) == []
        dispose(loaded)
        dispose(filled_later)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """After Ctrl-C at any point the next run resumes there, with the same result."""
    payloads = decoded(events(400))
    whole = migrated(tmp_path / "whole.sqlite", payloads)
    job.backfill(whole)
    broken = migrated(tmp_path / "broken.sqlite", payloads)
    random_ = random.Random(3)
    interruptions = 0
    for _ in range(12):
        left = random_.randrange(1, 20)

        def interrupt(_: JobProgress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        try:
            job.backfill(broken, batch_size=20, slice_rows=3, limits=ONE_SLICE, on_progress=interrupt)
        except KeyboardInterrupt:
            interruptions += 1
            with read_transaction(broken) as connection:
                jobs = [load_job(connection, kind.job) for kind in job.KINDS]
            states = {record.state for record in jobs if record}
            assert STOPPED in states
    job.backfill(broken, slice_rows=3, limits=ONE_SLICE)

    assert interruptions == 12
    assert difference(filled(whole), filled(broken)) == []
    dispose(whole)
    dispose(broken)


def test_a_batch_larger_than_any_parameter_limit(tmp_path: Path) -> None:
    """A batch of all rows gives the same result as small batches."""
    payloads = decoded(events(3000))
    large, small = migrated(tmp_path / "large.sqlite", payloads), migrated(tmp_path / "small.sqlite", payloads)
    job.backfill(large, batch_size=1_000_000)
    job.backfill(small, batch_size=11)

    assert difference(filled(large), filled(small)) == []
    dispose(large)
    dispose(small)


def test_the_counters_say_what_is_there(tmp_path: Path) -> None:
    """The number of added files equals the number of rows, and a second run adds none."""
    engine = migrated(tmp_path / "v3.sqlite", decoded(events(500)))
    first = job.backfill(engine).files.counters["files_added"]
    second = job.backfill(engine).files.counters["files_added"]

    assert (first, second) == (rows(engine, "SELECT count(*) FROM files")[0][0],) * 2
    dispose(engine)


def test_it_reads_by_index_and_id(engine_v3: Engine) -> None:
    """Neither job sorts or scans the table for each batch: one reads an index, the other goes by id."""
    plans = []
    for where in (
        "event_type = 'x' AND id > 5 AND id <= 9 ORDER BY id LIMIT 3",
        "id > 5 AND id <= 9 ORDER BY id LIMIT 3",
    ):
        plan = rows(engine_v3, f"EXPLAIN QUERY PLAN SELECT id, payload FROM raw_events WHERE {where}")
        plans.append(" ".join(str(row[-1]) for row in plan))

    assert "ix_raw_events_event_type (event_type=? AND rowid>? AND rowid<?)" in plans[0]
    assert "INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in plans[1]
    assert not [plan for plan in plans if "TEMP B-TREE" in plan]


def test_a_second_backfill_is_refused(engine_v3: Engine) -> None:
    """A second backfill is refused while the first one's process runs, and takes over once that has died."""
    living = {
        "host": process_identity.this_process()["host"],
        "pid": 1,
        "started": process_identity._started(1),
        "run": "x",
    }
    with write_transaction(engine_v3) as connection:
        save_job(connection, JobRecord("backfill-files", RUNNING, cursor={"last": {}, "target": 0}, owner=living))
    with pytest.raises(JobTaken, match="process 1 on"):
        job.backfill(engine_v3)
    with write_transaction(engine_v3) as connection:
        dead = living | {"started": "0"}
        save_job(connection, JobRecord("backfill-files", RUNNING, cursor={"last": {}, "target": 0}, owner=dead))
    job.backfill(engine_v3)

    assert len(rows(engine_v3, "SELECT * FROM files")) == 2


def test_a_backfill_that_was_taken_over_stops_writing(tmp_path: Path) -> None:
    """A backfill that another process took over stops before its next write, so that nothing counts twice."""
    engine = migrated(tmp_path / "v3.sqlite", decoded(events(200)))
    taken = []

    def take_over(now: JobProgress) -> None:
        if now.done > 10 and not taken:
            with write_transaction(engine) as connection:
                row = load_job(connection, "backfill-files")
                assert row is not None
                row.owner = process_identity.this_process()
                save_job(connection, row)
            taken.append(len(rows(engine, "SELECT * FROM files")))

    with pytest.raises(JobTaken, match="taken it over"):
        job.backfill(engine, batch_size=10, slice_rows=2, limits=ONE_SLICE, on_progress=take_over)
    assert [len(rows(engine, "SELECT * FROM files"))] == taken
    dispose(engine)


def test_a_file_and_a_command_pause_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the pause file or the command's row exists nothing is written; `jobs` has the reason; then it resumes."""
    engine = migrated(tmp_path / "v3.sqlite", decoded(events(100)))
    monkeypatch.setattr("cowrieprocessor.jobs.runtime.job.LOOK_EVERY_S", 0.0)
    pause_file = tmp_path / "pause"
    pause_file.touch()
    seen: list[tuple[str, str | None, int]] = []

    def watch(now: JobProgress) -> None:
        if now.state != RUNNING:
            seen.append((now.state, now.reason, len(rows(engine, "SELECT * FROM files"))))
            if "file" in str(now.reason):
                job.pause(engine)
                pause_file.unlink()
            else:
                job.resume(engine)

    job.backfill(engine, pause_file=pause_file, on_progress=watch)

    assert [(state, count) for state, _, count in seen] == [("paused", 0)] * 2
    assert "remove it to go on" in str(seen[0][1])
    assert "`cowrieprocessor db backfill --resume`" in str(seen[1][1])
    assert len(rows(engine, "SELECT * FROM files")) > 0
    dispose(engine)


def test_nothing_is_added_while_a_reader_pins_a_large_log(tmp_path: Path) -> None:
    """While the write-ahead log is over its limit the backfill waits and reports why, until the reader is gone."""
    path = tmp_path / "v3.sqlite"
    engine = migrated(path, decoded(events(3000)))
    limits = replace(ONE_SLICE, max_log_bytes=100_000, check_again_s=0.01)
    waits: list[tuple[str | None, int]] = []
    with OtherProcess(path, "BEGIN", "SELECT count(*) FROM raw_events") as reader:

        def watch(now: JobProgress) -> None:
            if now.state == WAITING:
                waits.append((now.reason, Path(f"{path}-wal").stat().st_size))
                reader.end()

        job.backfill(engine, limits=limits, on_progress=watch)

    assert len(waits) == 1
    assert "a reader keeps it from being emptied" in str(waits[0][0])
    assert 100_000 < waits[0][1] < 1_000_000
    assert rows(engine, "SELECT state FROM jobs WHERE name = 'backfill-sessions'") == [("done",)]
    dispose(engine)


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    """A batch that meets another writer's lock is written once the lock is released."""
    path = tmp_path / "v3.sqlite"
    dispose(migrated(path, decoded(events(200))))
    waited: list[float] = []
    other = OtherProcess(path, "BEGIN IMMEDIATE", "UPDATE session_summaries SET risk_score = 1")
    engine = get_engine(path, on_wait=lambda seconds: (waited.append(seconds), other.end())[0])
    with other:
        job.backfill(engine)
    undisturbed = migrated(tmp_path / "undisturbed.sqlite", decoded(events(200)))
    job.backfill(undisturbed)

    assert len(waited) == 1
    assert difference(filled(undisturbed), filled(engine)) == []
    dispose(engine)
    dispose(undisturbed)


def test_a_plan_changes_no_byte(tmp_path: Path) -> None:
    """A plan counts the events to read without changing a byte of the file."""
    path = tmp_path / "v3.sqlite"
    dispose(migrated(path, decoded(events(200))))
    before = sha256(path.read_bytes()).hexdigest()
    engine = get_engine(path, read_only=True)
    plan = job.plan(engine)
    dispose(engine)

    assert plan.rows == dict(zip(ALL_JOBS, (40, 40, 200, 200), strict=True))
    assert sha256(path.read_bytes()).hexdigest() == before


def test_a_v3_database_has_to_be_migrated_first(v3_file: Path) -> None:
    """Without v4's tables the backfill refuses and names the command."""
    engine = get_engine(v3_file)
    with pytest.raises(MigrationNeeded, match="db migrate"):
        job.backfill(engine)
    dispose(engine)


def test_the_genuine_file_of_v3(corpus_v3_file: Path) -> None:
    """Every hash of the file events of a genuine v3 file is stored, according to an independent query."""
    engine = get_engine(corpus_v3_file)
    apply_migrations(engine)
    job.backfill(engine)

    expected = rows(
        engine,
        "SELECT DISTINCT session_id, lower(json_extract(payload, '$.shasum')) FROM raw_events"
        " WHERE event_type IN ('cowrie.session.file_download', 'cowrie.session.file_upload')"
        " AND json_extract(payload, '$.shasum') <> '' ORDER BY 1, 2",
    )
    assert expected == rows(engine, "SELECT session_id, shasum FROM files ORDER BY 1, 2")
    assert len(expected) == 152
    dispose(engine)


def test_a_pre_release_files_table_is_completed(tmp_path: Path) -> None:
    """A file with a partly filled pre-release `files` table ends like any other v3 file."""
    path = v3_schema.create(tmp_path / "planned.sqlite", version="4", planned_files=True)
    planned = get_engine(path)
    with planned.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO files (session_id, shasum, first_seen) VALUES ('s1', ?, '2025-01-02 03:04:03.000000')",
            (v3_schema.SHA_A,),
        )
    apply_migrations(planned)
    job.backfill(planned)
    plain = migrated(tmp_path / "plain.sqlite")
    job.backfill(plain)

    assert difference(filled(plain), filled(planned)) == []
    dispose(planned)
    dispose(plain)


def test_an_interrupt_just_after_a_commit_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just after a commit, before the process knows of it, does not move the cursor back."""
    payloads = decoded(events(300))
    whole = migrated(tmp_path / "whole.sqlite", payloads)
    job.backfill(whole)
    broken = migrated(tmp_path / "broken.sqlite", payloads)
    left = 25

    @contextmanager
    def interrupted(engine: Engine) -> Iterator[Connection]:
        nonlocal left
        with write_transaction(engine) as connection:
            yield connection
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(backfill_run, "write_transaction", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.backfill(broken, slice_rows=7, limits=ONE_SLICE)
    job.backfill(broken, slice_rows=7)

    assert difference(filled(whole), filled(broken)) == []
    dispose(whole)
    dispose(broken)
