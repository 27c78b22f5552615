"""The benchmarks of following at tiny size: they measure what they claim, and can fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import following
from benchmarks.cases import QUICK, Bench, Result
from benchmarks.follower import Follower
from benchmarks.honeypots import LiveLog, copy, make_event, write_live
from benchmarks.inputs import Inputs
from benchmarks.measure import CommandFailed

TINY = replace(QUICK, pairs=1, events=300, live_files=3, archives=2, settle_s=0.0, idle_s=0.5, live_s=1.0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with its own inputs, which does not wait until followers are idle."""
    work = tmp_path / "work"
    work.mkdir()
    return Bench(work, TINY, inputs=Inputs(tmp_path / "inputs"))


def measured(case: Callable[[Bench], Iterator[Result]], bench: Bench) -> dict[str, Result]:
    """Return the results of a case by what was measured."""
    results = list(case(bench))
    assert {"following"} == {result.name for result in results}
    assert all(result.value.low <= result.value.median <= result.value.high for result in results)
    assert [] == list(bench.work.glob("*.sqlite*")), "databases are removed"
    return {result.what: result for result in results}


def test_live_ingest_is_compared_with_a_bulk_load(bench: Bench) -> None:
    """The rate is that of the same events in both, also while the log rotates, and memory is the follower's."""
    results = measured(following.live_ingest, bench)

    plain = results["rate of follow / of load, 300 events"]
    rotating = results["rate of follow / of load, 300 events, rotating"]
    assert (0.7, True) == (plain.target, plain.at_least)
    assert plain.details is not None
    assert rotating.details is not None
    assert 0 == plain.details["rotations"]
    assert 10 < rotating.details["rotations"] <= 20
    assert plain.details["follow_events_per_s"] == 300 / plain.details["follow_s"]
    assert plain.value.low == plain.details["load_s"] / plain.details["follow_s"]
    peak = results["follow, peak memory, rotating"]
    assert ("MiB", 200.0, True) == (peak.unit, peak.target, peak.met)
    assert peak.value.low > 20
    behind = results["behind, after 0.7 x the rate of load"]
    assert ("s", 2.0) == (behind.unit, behind.target)


def test_an_idle_follower_is_measured(bench: Bench) -> None:
    """Its CPU time is measured with kernel notifications and polling, with archives and without."""
    results = measured(following.idle, bench)

    logs = "4 logs and 2 archives"
    names = [f"CPU when idle, {how}, {what}" for what in ("4 logs", logs) for how in ("notified", "polling")]
    assert names == list(results)
    assert {("%", 1.0)} == {(result.unit, result.target) for result in results.values()}
    assert {0.5} == {result.details["of_s"] for result in results.values() if result.details}


def test_a_follower_of_many_logs_is_measured(bench: Bench) -> None:
    """Every event of every log is seen in the database, and how long after its writing."""
    results = measured(following.many_at_once, bench)

    of = "3 logs, 5 lines/s each"
    half, nearly, longest = (results[f"from write to commit, {name}, {of}"] for name in ("p50", "p99", "longest"))
    assert 0 < half.value.median <= nearly.value.median <= longest.value.median
    assert {("s", 2.0)} == {(result.unit, result.target) for result in (half, nearly, longest)}
    cpu = results[f"CPU, {of}"].details
    assert cpu is not None
    assert cpu["cpu_s"] > 0


def test_events_that_do_not_arrive_are_no_measurement(bench: Bench) -> None:
    """A follower that ended, that stores nothing, or that stored too much, ends the measurement."""
    log, db = bench.work / "cowrie.json", bench.new_database()

    with Follower(bench.program, db, log) as running:
        with pytest.raises(CommandFailed, match="did not come to 5 events"):
            running.wait_for(5, timeout_s=0.5)
        log.write_bytes(make_event(0, 0) + make_event(0, 1))
        running.wait_for(2, timeout_s=60.0)
        with pytest.raises(CommandFailed, match="stored 2 rows of 2 values, there were 1 events"):
            running.wait_for(1)
        with pytest.raises(CommandFailed, match="ended before 3 events"), Follower(bench.program, db, log) as second:
            second.wait_for(3, timeout_s=60.0)


def test_a_follower_that_ends_early_is_an_error(bench: Bench) -> None:
    """A follower that rejects its command line ends the measurement, with its error message."""
    follower_ = Follower(bench.program, bench.new_database(), bench.work, flags=("--no-such-option",))

    with pytest.raises(CommandFailed, match=r"(?s)ended before 1 events.*No such option"), follower_ as running:
        running.wait_for(1)


def test_a_follower_that_ends_badly_is_an_error(bench: Bench) -> None:
    """A follower that was killed ends the measurement, even if it stored everything."""
    log = bench.work / "cowrie.json"
    log.write_bytes(make_event(0, 0))
    stack = ExitStack()
    running = stack.enter_context(Follower(bench.program, bench.new_database(), log))
    running.wait_for(1)
    running.kill()

    with pytest.raises(CommandFailed, match="follow ended with -9"):
        stack.close()


def test_the_cpu_of_a_follower_grows(bench: Bench) -> None:
    """Its CPU time never decreases, and storing events adds to it."""
    log = bench.work / "cowrie.json"
    with Follower(bench.program, bench.new_database(), log) as running:
        log.write_bytes(make_event(0, 0))
        running.wait_for(1)
        before_s = running.cpu_s()
        with log.open("ab") as out:
            out.writelines(make_event(0, number) for number in range(1, 20_001))
        running.wait_for(20_001)
        assert running.cpu_s() >= before_s + 0.1


def test_a_log_is_written_line_by_line_and_rotates(tmp_path: Path) -> None:
    """The lines keep their order, and a new file begins each time the last one reaches its size."""
    source, target = tmp_path / "source.json", tmp_path / "cowrie.json"
    source.write_bytes(b"".join(b"%04d\n" % number for number in range(100)))

    report = copy(source, target, rotate_bytes=100)

    rotated = [tmp_path / f"cowrie.json.{number}" for number in range(1, int(report["rotations"]) + 1)]
    assert (100, 4) == (report["events"], len(rotated))
    assert {100} == {path.stat().st_size for path in [*rotated, target]}
    assert source.read_bytes() == b"".join(path.read_bytes() for path in [*rotated, target])


def test_a_writer_keeps_its_rate(tmp_path: Path) -> None:
    """A writer with a rate takes at least as long as its lines take at that rate."""
    source = tmp_path / "source.json"
    source.write_bytes(b"line\n" * 200)

    report = copy(source, tmp_path / "cowrie.json", rate=1000.0)

    assert 200 == report["events"]
    assert report["ended"] - report["began"] >= 0.15
    assert source.read_bytes() == (tmp_path / "cowrie.json").read_bytes()


def test_many_logs_get_the_same(tmp_path: Path) -> None:
    """Each log gets equally many events, each with the time at which it was written."""
    report = write_live(tmp_path, files=3, rate=50.0, seconds=0.2)

    assert 30 == report["events"]
    logs = [path.read_text().splitlines() for path in sorted(tmp_path.iterdir())]
    assert [10, 10, 10] == [len(lines) for lines in logs]
    events = [json.loads(line) for lines in logs for line in lines]
    assert all(report["began"] <= event["written_at"] <= report["ended"] for event in events)
    assert 3 == len({event["sensor"] for event in events})


def test_a_live_log_is_appended_to(tmp_path: Path) -> None:
    """As in Cowrie, an existing log is appended to."""
    path = tmp_path / "cowrie.json"
    path.write_bytes(b"first\n")
    log = LiveLog(path)
    log.write(b"second\n")
    log.close()

    assert b"first\nsecond\n" == path.read_bytes()
