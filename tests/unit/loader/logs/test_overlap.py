"""Logs that overlap and begin differently: each event is stored once, in any order and form."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.ingest.overlaps import overlaps
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.db.models import RawEvent, SessionSummary
from cowrieprocessor.events import Event
from cowrieprocessor.loader import log_loading, writer
from cowrieprocessor.loader.bulk import BulkLoader, LoadResult
from cowrieprocessor.loader.log_loading import FileResult, LogLoading
from cowrieprocessor.loader.logs.duplicate_lookup import DuplicateLookup
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.settings import Settings
from tests.logical_digest import difference, logical_contents
from tests.torture import rounds

FORMS: dict[str, Callable[[list[str]], bytes]] = {
    "lines": lambda lines: "".join(f"{line}\n" for line in lines).encode(),
    "pretty": lambda lines: "".join(json.dumps(json.loads(line), indent=2) + "\n" for line in lines).encode(),
    "array": lambda lines: json.dumps([json.loads(line) for line in lines]).encode() + b"\n",
    "gzip": lambda lines: gzip.compress("".join(f"{line}\n" for line in lines).encode()),
}
WHERE = {"source", "source_offset", "source_files", "source_generation"}
"""Columns that say which of two logs an event was read from."""


def stream(count: int, *, per_session: int = 6, sensor: str = "hp1") -> list[str]:
    """Return the events of a honeypot with three concurrent sessions at a time."""
    lines = []
    for number in range(count):
        session = f"{sensor}{number // (3 * per_session):06x}{number % 3}"
        kind = ("cowrie.session.connect", "cowrie.login.failed", "cowrie.command.input")[number // 3 % 3]
        stamp = f"2026-05-{1 + number // 86400:02d}T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}"
        fields = {"eventid": kind, "session": session, "timestamp": f"{stamp}.000001Z", "sensor": sensor}
        lines.append(json.dumps(fields | {"input": f"echo {number}", "src_ip": "198.51.100.7"}))
    return lines


def write(path: Path, lines: list[str], form: str = "lines") -> Path:
    """Write a log in one of the forms."""
    path.write_bytes(FORMS[form](lines))
    return path


def load(engine: Engine, *paths: Path, batch_size: int = 7, sizes: ReadSizes = DEFAULT_SIZES) -> LoadResult:
    """Load logs one after the other."""
    result = BulkLoader(engine, settings=Settings(batch_size=batch_size), sizes=sizes).load(paths)
    assert [] == result.failed
    return result


def again(engine: Engine) -> Engine:
    """Return another loader's engine on the same database."""
    return get_engine(engine.url.render_as_string(hide_password=False))


def before_looked_up(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[int]:
    """Run an action each time before a batch that was looked up is written; return the sizes of these batches."""
    write_batch = writer.write_batch
    sizes: list[int] = []

    def write(engine: Engine, rows: BatchRows, *arguments: Any, **more: Any) -> None:
        if rows.looked_up is not None and threading.current_thread() is threading.main_thread():
            sizes.append(len(rows.events))
            with ThreadPoolExecutor(1) as other:
                other.submit(act).result()
        write_batch(engine, rows, *arguments, **more)

    monkeypatch.setattr(log_loading, "write_batch", write)
    return sizes


def stored(engine: Engine) -> Counter[str]:
    """Return how often each event is stored, by its text."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(RawEvent.payload)).scalars()
        return Counter(json.dumps(payload, sort_keys=True) for payload in rows)


def expected(lines: list[str]) -> Counter[str]:
    """Return how often each event must be stored."""
    return Counter(json.dumps(json.loads(line), sort_keys=True) for line in lines)


def counters_are_right(engine: Engine) -> bool:
    """Return whether the sessions' counters equal a count of their events."""
    with read_transaction(engine) as connection:
        sessions = select(RawEvent.session_id).where(RawEvent.session_id.is_not(None))
        counted = Counter(connection.execute(sessions).scalars())
        rows = connection.execute(select(SessionSummary.session_id, SessionSummary.event_count)).all()
    return dict(counted) == {row.session_id: row.event_count for row in rows}


CASES = {
    "goes on behind it": ((0, 120), (80, 200)),
    "begins before it": ((80, 200), (0, 120)),
    "lies inside it": ((0, 200), (80, 120)),
    "encloses it": ((80, 120), (0, 200)),
    "has one event of it": ((80, 81), (0, 200)),
    "begins with its last": ((0, 81), (80, 200)),
    "ends with its first": ((80, 200), (0, 81)),
    "three backups": ((0, 90), (60, 150), (120, 200)),
    "the middle comes last": ((0, 90), (120, 200), (60, 150)),
    "parts of parts": ((100, 104), (50, 130), (20, 60), (0, 200)),
}


@pytest.mark.parametrize(
    ("case", "form"),
    [
        *((case, "lines") for case in CASES),
        *((case, form) for form in FORMS for case in ("goes on behind it", "encloses it") if form != "lines"),
    ],
)
def test_each_event_is_stored_once(small: Callable[[], Engine], tmp_path: Path, case: str, form: str) -> None:
    """Logs that are parts of one log, however they overlap, give each event once, and correct counters."""
    lines = stream(200)
    engine = small()
    for number, (start, end) in enumerate(CASES[case]):
        load(engine, write(tmp_path / f"{number}.json", lines[start:end], form if number else "lines"))

    assert expected(lines) == stored(engine)
    assert counters_are_right(engine)


def test_the_database_is_that_of_the_whole_log(engine: Engine, small: Callable[[], Engine], tmp_path: Path) -> None:
    """Parts that overlap give what the whole log gives, except for where each event was read."""
    lines = stream(150)
    for number, (start, end) in enumerate(((40, 90), (0, 60), (30, 150))):
        load(engine, write(tmp_path / f"{number}.json", lines[start:end]))
    whole = small()
    load(whole, write(tmp_path / "whole.json", lines))

    tables = ("raw_events", "session_summaries", "session_attributes", "command_stats", "files", "file_hashes")
    contents = [logical_contents(database, tables=tables, without=WHERE) for database in (whole, engine)]
    assert [] == difference(*contents)


def test_the_warning_says_how_many_and_where(engine: Engine, tmp_path: Path) -> None:
    """The first load of a log that overlaps warns with the number of events and the other log; the next does not."""
    lines = stream(100)
    load(engine, write(tmp_path / "one.json", lines[:60]))
    two = write(tmp_path / "two.json", lines[45:])

    warnings = load(engine, two).files[0].warnings

    assert [f"{two}: 15 of its events are stored already from {tmp_path / 'one.json'}"] == [
        warning.split(":", 2)[0] + ":" + warning.split(":", 2)[1] for warning in warnings
    ]
    assert [] == load(engine, two).files[0].warnings


def test_two_equal_events_of_a_log_stay_two(small: Callable[[], Engine], tmp_path: Path) -> None:
    """Of equal lines in an overlap as many are stored as the log with most of them has."""
    lines = stream(40)
    twins = [*lines[:20], lines[19], lines[19], *lines[20:]]
    engine = small()
    load(engine, write(tmp_path / "one.json", twins[:21]))
    load(engine, write(tmp_path / "two.json", twins[10:]))
    load(engine, write(tmp_path / "three.json", twins[15:30]))

    assert expected(twins) == stored(engine)
    assert 3 == stored(engine)[json.dumps(json.loads(lines[19]), sort_keys=True)]


def test_a_live_log_whose_beginning_overlaps_grows(small: Callable[[], Engine], tmp_path: Path) -> None:
    """Each load of a growing log whose beginning is in another log gives what is new."""
    lines = stream(300)
    engine = small()
    load(engine, write(tmp_path / "backup.json", lines[:150]))
    live = tmp_path / "cowrie.json"
    added = [load(engine, write(live, lines[100:end])).counters["events"] for end in (120, 160, 161, 200, 300)]

    assert [0, 10, 1, 39, 100] == added
    assert expected(lines) == stored(engine)


@pytest.mark.parametrize("miss_limit", [3, 40])
def test_the_end_of_the_lookup_does_not_matter(small: Callable[[], Engine], tmp_path: Path, miss_limit: int) -> None:
    """An overlap is recognised even after more new events than the lookup covers."""
    lines = stream(900)
    engine = small()
    prepare(engine)
    loading = LogLoading(engine, Settings(batch_size=7), "load", job=writer.JOB, miss_limit=miss_limit)

    def load_log(path: Path) -> FileResult:
        result = FileResult(str(path))
        with LogStream(path) as opened:
            loading.load(opened, result)
        return result

    for number, start in enumerate((100, 400, 700)):
        load_log(write(tmp_path / f"{number}.json", lines[start : start + 60]))
    result = load_log(write(tmp_path / "whole.json", lines))

    assert 900 - 3 * 60 == result.counters["events"]
    assert 3 == sum("60 of its events are stored already" in warning for warning in result.warnings)
    assert expected(lines) == stored(engine)


def test_what_another_process_parses_is_looked_up_too(
    small: Callable[[], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batches of a log that is large enough for a parser process are built again where it overlaps."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    lines = stream(400)
    engine = small()
    sizes = ReadSizes(other_core_bytes=1)
    load(engine, write(tmp_path / "one.json", lines[200:260]), batch_size=50, sizes=sizes)

    load(engine, write(tmp_path / "whole.json.gz", lines, "gzip"), batch_size=50, sizes=sizes)

    assert expected(lines) == stored(engine)


def test_events_without_session_or_time_are_recognised(small: Callable[[], Engine], tmp_path: Path) -> None:
    """In an overlap an event is recognised by its time, by its session, or by the event before it."""
    lines = stream(40)
    for number in (3, 12, 25):
        lines[number] = json.dumps({k: v for k, v in json.loads(lines[number]).items() if k != "session"})
    for number in (5, 14, 26):
        lines[number] = json.dumps({k: v for k, v in json.loads(lines[number]).items() if k != "timestamp"})
    for number in (6, 15, 27, 28):
        lines[number] = json.dumps({"eventid": "cowrie.x", "number": number})
    engine = small()
    load(engine, write(tmp_path / "one.json", lines[:30]))
    load(engine, write(tmp_path / "two.json", lines[10:]))

    assert expected(lines) == stored(engine)


def test_logs_without_sessions_are_recognised(small: Callable[[], Engine], tmp_path: Path) -> None:
    """Logs of events without any session that overlap are recognised by the first event of a batch, or the last."""
    lines = [json.dumps({k: v for k, v in json.loads(line).items() if k != "session"}) for line in stream(60)]
    engine = small()
    load(engine, write(tmp_path / "one.json", lines[:40]))
    load(engine, write(tmp_path / "two.json", lines[20:]))

    assert expected(lines) == stored(engine)


def test_logs_that_do_not_overlap_are_not_looked_up(
    small: Callable[[], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that continue in the next log, and sensors that run at the same time, do not cause lookups."""
    looked_up: list[int] = []
    holds = DuplicateLookup.is_stored

    def counting(self: DuplicateLookup, event: Event, offset: int) -> bool:
        looked_up.append(offset)
        return holds(self, event, offset)

    monkeypatch.setattr(DuplicateLookup, "is_stored", counting)
    lines, others = stream(100), stream(100, sensor="hp2")
    engine = small()
    for number, start in enumerate(range(0, 100, 25)):
        load(engine, write(tmp_path / f"a{number}.json", lines[start : start + 25]))
        load(engine, write(tmp_path / f"b{number}.json", others[start : start + 25]))

    assert expected(lines + others) == stored(engine)
    assert [] == looked_up


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(rounds(300, 8)))
def test_any_parts_in_any_order_and_form_give_the_whole(small: Callable[[], Engine], tmp_path: Path, seed: int) -> None:
    """Random parts of one log, with twins, growing or not, in random forms, give each event as often as the whole."""
    chance = random.Random(seed)
    lines = stream(chance.randint(20, 90), per_session=chance.choice([1, 3, 40]))
    for _ in range(chance.randint(0, 3)):
        at = chance.randrange(len(lines))
        lines.insert(at, lines[at])
    engine = small()
    covered = [False] * len(lines)
    for number in range(chance.randint(2, 6)):
        start = chance.randrange(len(lines))
        ends = sorted(chance.randint(start + 1, len(lines)) for _ in range(chance.randint(1, 3)))
        form = chance.choice(sorted(FORMS))
        for end in ends if form == "lines" else ends[-1:]:
            path = write(tmp_path / f"{number}.json", lines[start:end], form)
            load(engine, path, batch_size=chance.choice([1, 2, 5, 50]))
        covered[start : ends[-1]] = [True] * (ends[-1] - start)
        twins = Counter(line for line, is_covered in zip(lines, covered, strict=True) if is_covered)
        # Which of two equal lines a part has cannot be known: at least one, at most as many as were covered.
        got = stored(engine)
        for line, most in twins.items():
            text = json.dumps(json.loads(line), sort_keys=True)
            assert 1 <= got[text] <= most, (seed, line)
        assert len(twins) == len(got)
    assert counters_are_right(engine)


def test_what_came_since_it_was_looked_up_is_stored_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that another loader stores after it was looked up, and before it is written, is looked up again."""
    lines = stream(120)
    live, part = write(tmp_path / "live.json", lines[:40]), write(tmp_path / "part.json", lines[30:])
    load(engine, live)
    other = again(engine)
    sizes = before_looked_up(monkeypatch, lambda: load(other, write(live, lines[:90])))

    result = load(engine, part, batch_size=500)
    dispose(other)

    assert [80, 30] == sizes
    assert expected(lines) == stored(engine)
    assert counters_are_right(engine)
    assert "60 of its events are stored already" in result.files[0].warnings[0]


@pytest.mark.parametrize("without", ["", "timestamp", "session"])
def test_retries_end_though_another_log_is_always_faster(
    small: Callable[[], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """A log that grows by an event each time before the other is written stores what it is fast enough for."""
    lines = stream(45)
    lines[12:] = (json.dumps({k: v for k, v in json.loads(line).items() if k != without}) for line in lines[12:])
    engine = small()
    live = write(tmp_path / "live.json", lines[:10])
    load(engine, live)
    other, ends = again(engine), iter(range(11, 46))
    sizes = before_looked_up(monkeypatch, lambda: load(other, write(live, lines[: next(ends, 45)])))

    load(engine, write(tmp_path / "part.json", lines[5:]), batch_size=30)
    dispose(other)

    # The first batch holds events 5 to 34; after it is written, nothing is left that only the other could store.
    assert [35 - at for at in range(10, 36)] == sizes[:26]
    assert expected(lines) == stored(engine)
    assert counters_are_right(engine)


def test_an_equal_line_that_came_meanwhile_is_one_of_two(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two equal lines, of which the other log stored one before and one meanwhile, two are stored."""
    lines = stream(30)
    twins = [*lines[:20], lines[19], *lines[20:]]
    live = write(tmp_path / "live.json", twins[:20])
    load(engine, live)
    other = again(engine)
    sizes = before_looked_up(monkeypatch, lambda: load(other, write(live, twins[:21])))

    load(engine, write(tmp_path / "part.json", twins[15:]), batch_size=500)
    dispose(other)

    assert [11, 10] == sizes
    assert expected(twins) == stored(engine)


@pytest.mark.postgres
@pytest.mark.parametrize("is_locked", [True, False])
def test_two_loaders_that_check_at_the_same_moment_are_serialized(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    """Of two loaders with the same events one checks after the other has committed; else all were stored twice."""
    lines = stream(40)
    paths = [write(tmp_path / f"{sensor}.json", [*stream(1, sensor=sensor), *lines]) for sensor in ("hp8", "hp9")]
    engines = [get_engine(postgres_url) for _ in paths]
    prepare(engines[0])
    answers: list[bool] = []

    def check(connection: Connection, *arguments: Any) -> bool:
        """Check, and continue when the other loader has checked too, or waits for the lock."""
        answer = overlaps(connection, *arguments)
        answers.append(answer)
        others = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        while len(answers) < 2 and not connection.execute(others).scalar():
            time.sleep(0.01)
        return answer

    monkeypatch.setattr(writer, "overlaps", check)
    if not is_locked:
        monkeypatch.setattr(writer, "lock_events", lambda *_: None)
    with ThreadPoolExecutor(2) as loaders:
        results = list(loaders.map(lambda pair: load(*pair, batch_size=500), zip(engines, paths, strict=True)))
    doubled = {number for number in stored(engines[0]).values() if number > 1}
    right = counters_are_right(engines[0])
    for engine in engines:
        dispose(engine)

    # The first finds nothing; the second finds what the first has stored, or nothing without the lock.
    assert [False, is_locked] == answers[:2]
    assert (set() if is_locked else {2}) == doubled
    assert (42 if is_locked else 82) == sum(result.counters["events"] for result in results)
    assert right


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(rounds(60, 2)))
def test_any_parts_at_once_give_the_whole(engine: Engine, tmp_path: Path, seed: int) -> None:
    """Concurrent loaders of random parts of a log, some of them growing, store each event once."""
    chance = random.Random(seed)
    lines = stream(200, per_session=chance.choice([1, 5, 40]))
    starts = [0, *sorted(chance.randrange(150) for _ in range(2))]
    plans = []
    for number, start in enumerate(starts):
        ends = sorted(chance.randint(start + 1, 200) for _ in range(3)) if number else [70, 140, 200]
        plans.append((tmp_path / f"{number}.json", start, ends, chance.choice([3, 10, 50]), again(engine)))

    def run(plan: tuple[Path, int, list[int], int, Engine]) -> None:
        path, start, ends, batch_size, own = plan
        for end in ends:
            load(own, write(path, lines[start:end]), batch_size=batch_size)
        dispose(own)

    with ThreadPoolExecutor(len(plans)) as loaders:
        list(loaders.map(run, plans))

    assert expected(lines) == stored(engine)
    assert counters_are_right(engine)
