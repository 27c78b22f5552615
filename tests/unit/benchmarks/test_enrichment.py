"""The benchmarks of enrichment at tiny size: they measure what they claim, and can miss their targets."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from benchmarks.cases import QUICK, Bench, Result
from benchmarks.enriching import cases
from benchmarks.enriching.claim_files import POLICY
from benchmarks.enriching.inputs import files_to_ask, half_asked, hash_of, one_hash_everywhere
from benchmarks.inputs import Inputs
from benchmarks.measure import CommandFailed, run
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.enrichment.claims import claim
from cowrieprocessor.db.enrichment.verdict_aggregation import aggregate
from cowrieprocessor.db.models import HASHES

TINY = replace(
    QUICK,
    pairs=1,
    virtual_hours=1,
    per_day=20,
    asked_files=20,
    sessions_each=(2,),
    propagated_sessions=300,
    known_hashes=1_000,
)
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with its own inputs."""
    work = tmp_path / "work"
    work.mkdir()
    return Bench(work, TINY, inputs=Inputs(tmp_path / "inputs"))


def measured(case: Callable[[Bench], Iterator[Result]], bench: Bench) -> dict[str, Result]:
    """Return the results of a case by what was measured."""
    results = list(case(bench))
    assert {"enrichment"} == {result.name for result in results}
    assert all(result.value.low <= result.value.median <= result.value.high for result in results)
    return {result.what: result for result in results}


def test_the_share_of_the_allowed_rate_is_counted_where_requests_arrive(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All requests of a day are sent, and none over the limit; with too little work the target is missed."""
    results = measured(cases.allowed_rate, bench)

    by_day = results["requests sent / allowed: 20 a day, 1 days"]
    assert (1.0, True) == (by_day.value.median, by_day.met)
    assert results["requests over a limit / sent"].met is True

    monkeypatch.setattr(cases, "files_to_ask", lambda path, _files, _each: files_to_ask(path, 10, 0))
    by_minute = next(cases.allowed_rate(bench))
    assert ("requests sent / allowed: 4 a minute, 1 hours", False) == (by_minute.what, by_minute.met)


def test_a_request_is_compared_with_a_plain_one(bench: Bench) -> None:
    """Every file is asked about, by enrich and by the floor; memory is that of enrich."""
    results = measured(cases.cost_of_requests, bench)

    assert results["enrich / plain requests, 20 files, 2 sessions each"].value.low > 0
    peak = results["enrich, peak memory, 2 sessions each"]
    assert ("MiB", 200.0, True) == (peak.unit, peak.target, peak.met)
    assert peak.value.low > 20


def test_requests_that_were_not_all_sent_are_no_measurement(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of enrich that left out a file ends the measurement, and so does a plain loop that found too few."""
    monkeypatch.setattr(cases, "files_to_ask", lambda path, files, each: files_to_ask(path, files - 1, each))

    with pytest.raises(CommandFailed, match="did not ask about all 20 files"):
        list(cases.cost_of_requests(bench))


def test_a_verdict_is_propagated_to_every_row(bench: Bench) -> None:
    """Propagation is compared with plain UPDATEs of the same effect, and a loader alongside it is timed."""
    results = measured(cases.propagation, bench)

    assert results["propagating to 300 rows / plain UPDATEs"].value.low > 0
    longest = results["a live loader's stall during propagation, longest"]
    p99 = results["a live loader's stall during propagation, p99"]
    assert (250.0, 250.0) == (longest.target, p99.target)
    assert longest.details is not None
    assert longest.details["count"] >= 1
    assert 0 < p99.value.median <= longest.value.median


def test_rows_without_the_verdict_are_no_measurement(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict that did not reach every row and session ends the measurement."""
    monkeypatch.setattr(cases, "one_hash_everywhere", lambda path, rows: one_hash_everywhere(path, rows - 1))

    with pytest.raises(CommandFailed, match="of 300 rows 299 have the verdict, and 299 sessions the flag"):
        list(cases.propagation(bench))


def test_claims_are_timed_among_many_files(bench: Bench) -> None:
    """Each claim got its files, the status counted what waits, and the start of enrich was measured with its memory."""
    results = measured(cases.claims, bench)

    assert results["enrich status, 1,000 files, half asked"].value.low > 0
    median = results["claiming / asking, 1,000 files, half asked"].value.median
    p99 = results["claiming / asking, p99"]
    assert ("%", 2.5) == (p99.unit, p99.target)
    assert 0 < median <= p99.value.median
    assert results["enrich --limit 1, peak memory"].met is True


def test_claims_end_where_files_do(bench: Bench, tmp_path: Path) -> None:
    """A database with too few files for the claims is an error, not a fast result."""
    files_to_ask(tmp_path / "small.sqlite", 30, 0)

    with pytest.raises(CommandFailed, match="too small"):
        run(
            [
                sys.executable,
                "-m",
                "benchmarks.enriching.claim_files",
                "--db",
                tmp_path / "small.sqlite",
                "--claims",
                "2",
            ],
            cwd=bench.work,
        )


def test_half_asked_files_are_as_enrichment_leaves_them(tmp_path: Path) -> None:
    """The rows written with plain SQL are what aggregation gives, and the first unasked file is claimed next."""
    path = tmp_path / "half.sqlite"
    half_asked(path, 400)
    engine = get_engine(path)
    with write_transaction(engine) as connection:
        changed = [number for number in range(400) if aggregate(connection, hash_of(number), POLICY, NOW)]
    with read_transaction(engine) as connection:
        verdicts = connection.scalars(select(HASHES.c.verdict)).all()
    claimed = claim(
        engine, "virustotal", limit=3, now=NOW, lease_s=60.0, policy=POLICY, earlier=("hashlookup",), order="turn"
    )
    dispose(engine)

    assert [] == changed
    assert {"known-good", "malicious", "clean", "unknown"} == set(verdicts)
    assert [hash_of(201), hash_of(202), hash_of(203)] == [file.sha256 for file in claimed]
