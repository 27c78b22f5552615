"""Propagation: rows of `files` and flags of sessions follow a verdict, in bounded steps, next to other writers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, event, update

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.enrichment.propagation import (
    MAX_ROWS,
    PropagationStep,
    pending_slices,
    propagate_slices,
    propagate_some,
)
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.models import VERDICT_COLUMNS
from tests.enrichment_scene import (
    DAY,
    HL,
    NOW,
    VT,
    T,
    answer,
    flags,
    load,
    propagate_all,
    put,
    row,
    rows,
    sha,
    vt_verdict,
)


def sessions(count: int, *, of: int = 1, prefix: str = "s") -> list[tuple[str, str]]:
    """Return `count` sessions that dropped one hash."""
    return [(f"{prefix}{number:04d}", sha(of)) for number in range(count)]


def disagreeing(engine: Engine) -> list[str]:
    """Return the sessions whose row in `files` differs from the row of its hash, or whose flag is wrong."""
    hashes = {entry["sha256"]: entry for entry in rows(engine, "file_hashes")}
    flagged = flags(engine)
    wrong = []
    for file in rows(engine, "files"):
        expected = hashes[file["shasum"]]
        if any(file[name] != expected[name] for name in VERDICT_COLUMNS):
            wrong.append(file["session_id"])
        if file["vt_malicious"] and not flagged[file["session_id"]]:
            wrong.append(file["session_id"])
    malicious = {file["session_id"] for file in rows(engine, "files") if hashes[file["shasum"]]["vt_malicious"]}
    return wrong + [name for name, flag in flagged.items() if flag and name not in malicious]


def set_session(engine: Engine, session_id: str, **values: object) -> None:
    """Update a session, as v3 did."""
    table = T["session_summaries"]
    with write_transaction(engine) as connection:
        connection.execute(update(table).where(table.c.session_id == session_id).values(**values))


def test_nothing_to_do_is_none(engine: Engine) -> None:
    """If nothing is pending there is no step, and no write."""
    assert propagate_some(engine, now=NOW) is None


def test_rows_follow_in_bounded_steps(engine: Engine) -> None:
    """Each transaction changes at most `max_rows` rows and moves the cursor; then the hash is no longer pending."""
    load(engine, sessions(25))
    answer(engine, sha(1), vt_verdict(9, size_bytes=77))

    first = propagate_some(engine, now=NOW, max_rows=10)

    assert first == PropagationStep(10, 10, 0)
    assert sum(file["vt_malicious"] for file in rows(engine, "files")) == 10 == sum(flags(engine).values())
    assert propagate_some(engine, now=NOW, max_rows=10) == PropagationStep(10, 10, 0)
    assert propagate_some(engine, now=NOW, max_rows=10) == PropagationStep(5, 5, 1)
    assert propagate_some(engine, now=NOW) is None
    assert disagreeing(engine) == []
    assert {file["file_size"] for file in rows(engine, "files")} == {77}


def test_a_step_is_never_larger_than_the_bound(engine: Engine) -> None:
    """Whatever `max_rows` is, one transaction changes no more than MAX_ROWS."""
    load(engine, sessions(12))
    answer(engine, sha(1), vt_verdict(9))

    assert MAX_ROWS == 5_000
    step = propagate_some(engine, now=NOW, max_rows=10**9)
    assert step is not None
    assert step.rows == 12 <= MAX_ROWS


def test_small_hashes_share_a_step(engine: Engine) -> None:
    """Many hashes with few rows each do not take a transaction each."""
    load(engine, [(f"s{number}", sha(number)) for number in range(20)])
    for number in range(20):
        answer(engine, sha(number), vt_verdict(number % 3))

    assert propagate_some(engine, now=NOW) == PropagationStep(20, 20, 20)
    assert disagreeing(engine) == []


def test_a_new_verdict_restarts_the_propagation(engine: Engine) -> None:
    """When the verdict changes halfway, the rows that had the old verdict get the new one too."""
    load(engine, sessions(20))
    answer(engine, sha(1), vt_verdict(9))
    propagate_some(engine, now=NOW, max_rows=10)
    answer(engine, sha(1), vt_verdict(11), at=NOW + DAY)

    propagate_all(engine, NOW + DAY)

    assert {file["vt_positives"] for file in rows(engine, "files")} == {11}
    assert disagreeing(engine) == []


def test_a_row_inserted_meanwhile_has_the_verdict(engine: Engine) -> None:
    """A session loaded during a propagation has the verdict and the flag at once, wherever the cursor is."""
    load(engine, sessions(20))
    answer(engine, sha(1), vt_verdict(9))
    propagate_some(engine, now=NOW, max_rows=10)

    load(engine, [("late", sha(1))])

    assert row(engine, "files", session_id="late")["vt_positives"] == 9
    assert flags(engine)["late"]
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_a_flag_is_removed_with_the_last_malicious_file(engine: Engine) -> None:
    """A session keeps its flag while another of its files is malicious, and loses it with the last."""
    load(engine, [("one", sha(1)), ("both", sha(1)), ("both", sha(2))])
    answer(engine, sha(1), vt_verdict(9))
    answer(engine, sha(2), vt_verdict(9))
    propagate_all(engine)
    assert flags(engine) == {"one": True, "both": True}

    answer(engine, sha(1), vt_verdict(0), at=NOW + DAY)
    propagate_all(engine)
    assert flags(engine) == {"one": False, "both": True}

    answer(engine, sha(2), ProviderVerdict("unknown"), at=NOW + DAY)
    propagate_all(engine)
    assert flags(engine) == {"one": False, "both": False}


@pytest.mark.parametrize(("stored", "kept"), [({"virustotal": 1}, True), (None, False)])
def test_a_flag_of_v3_stays(engine: Engine, stored: object, kept: bool) -> None:
    """A session that v3 enriched keeps its flag; the JSON text null that v3 wrote means nothing."""
    load(engine, sessions(1))
    set_session(engine, "s0000", enrichment=stored)
    answer(engine, sha(1), vt_verdict(9))
    propagate_all(engine)
    assert flags(engine) == {"s0000": True}

    answer(engine, sha(1), vt_verdict(0), at=NOW + DAY)
    propagate_all(engine)

    assert flags(engine) == {"s0000": kept}


def test_a_flag_that_only_v3_set_stays(engine: Engine) -> None:
    """A verdict that was never malicious removes no flag."""
    load(engine, sessions(1))
    set_session(engine, "s0000", vt_flagged=True)

    answer(engine, sha(1), vt_verdict(0))
    propagate_all(engine)

    assert flags(engine) == {"s0000": True}


def test_a_killed_step_is_repeated(engine: Engine) -> None:
    """A step that ends before its commit leaves nothing, and the next step does all of it."""
    load(engine, sessions(20))
    answer(engine, sha(1), vt_verdict(9))

    class Killed(Exception):
        """Stands for a crash."""

    def kill(*_: object) -> None:
        raise Killed

    event.listen(engine, "commit", kill)
    try:
        with pytest.raises(Killed):
            propagate_some(engine, now=NOW)
    finally:
        event.remove(engine, "commit", kill)

    assert not any(file["vt_malicious"] for file in rows(engine, "files"))
    assert row(engine, "verdict_propagation")["cursor"] == 0
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_a_pending_entry_without_its_hash_is_removed(engine: Engine) -> None:
    """A pending entry whose hash is gone is deleted."""
    load(engine, sessions(2))
    answer(engine, sha(1), vt_verdict(9))
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM file_hashes")

    assert propagate_all(engine) == 0
    assert rows(engine, "verdict_propagation") == []


def test_concurrent_loaders_aggregation_and_propagation(db_url: str, engine: Engine) -> None:
    """Loaders, verdict aggregation and two propagations at once: no deadlock, and in the end all rows agree."""
    load(engine, [*sessions(60), *sessions(60, of=2)])
    errors: list[BaseException] = []
    start = threading.Barrier(5)

    def worker(work: Callable[[Engine], None]) -> threading.Thread:
        def run() -> None:
            own = get_engine(db_url)
            try:
                start.wait(30)
                work(own)
            except BaseException as error:  # noqa: BLE001 - asserted on below
                errors.append(error)
            finally:
                dispose(own)

        return threading.Thread(target=run)

    def loads(prefix: str) -> Callable[[Engine], None]:
        def work(own: Engine) -> None:
            for turn in range(12):
                names = [f"s{number:04d}" for number in range(turn, 60, 7)] + [f"{prefix}{turn}"]
                load(own, [(name, sha(of)) for name in names for of in (1, 2, 3)])

        return work

    def aggregates(own: Engine) -> None:
        for turn in range(12):
            for of in (2, 1, 3):
                verdict = vt_verdict(9 if (turn + of) % 2 else 0)
                answer(own, sha(of), verdict, provider=VT, at=NOW + turn * DAY)

    def propagates(own: Engine) -> None:
        for _ in range(40):
            propagate_some(own, now=NOW, max_rows=17)

    threads = [worker(work) for work in (loads("x"), loads("y"), aggregates, propagates, propagates)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert errors == []
    propagate_all(engine)
    assert disagreeing(engine) == []
    assert len(rows(engine, "files", shasum=sha(1))) == 60 + 24


def test_a_changed_size_is_propagated_alone(engine: Engine) -> None:
    """Rows get a size that became known, even if the verdict is the same."""
    load(engine, sessions(3))
    answer(engine, sha(1), vt_verdict(0))
    propagate_all(engine)

    answer(engine, sha(1), vt_verdict(0, size_bytes=5))

    assert propagate_all(engine) == 3
    assert {file["file_size"] for file in rows(engine, "files")} == {5}


def test_a_decisive_verdict_of_another_provider_flags_no_session(engine: Engine) -> None:
    """`vt_flagged` shows VirusTotal's verdict: that of another provider changes only the status."""
    load(engine, sessions(2))
    answer(engine, sha(1), ProviderVerdict("malicious"), provider=HL)

    propagate_all(engine)

    assert flags(engine) == {"s0000": False, "s0001": False}
    assert {file["enrichment_status"] for file in rows(engine, "files")} == {"enriched"}


def test_the_json_null_of_v3_is_stored_as_such(engine: Engine) -> None:
    """The scene really stores the JSON text null, which the test of v3's flags depends on."""
    load(engine, sessions(1))
    set_session(engine, "s0000", enrichment=None)

    with write_transaction(engine) as connection:
        sql = "SELECT CAST(enrichment AS VARCHAR(9)) FROM session_summaries"
        assert connection.exec_driver_sql(sql).scalar_one() == json.dumps(None)


def test_a_hash_is_propagated_in_slices(engine: Engine) -> None:
    """A transaction can end after each slice; the cursor tells how far it came, and the rest is done later."""
    load(engine, [*sessions(10), *sessions(1, of=2, prefix="t")])
    answer(engine, sha(1), vt_verdict(9))
    answer(engine, sha(2), vt_verdict(9))
    with read_transaction(engine) as connection:
        slices = pending_slices(connection, 100, slice_rows=4)
    answers = iter([True, False])
    with write_transaction(engine) as connection:
        step = propagate_slices(connection, slices, now=NOW, may_go_on=lambda: next(answers))

    assert sorted(len(part.rows) for part in slices) == [1, 2, 4, 4]
    malicious = sum(file["vt_malicious"] for file in rows(engine, "files"))
    assert step.rows == malicious == sum(len(part.rows) for part in slices[:2])
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_what_another_process_did_meanwhile_is_skipped(engine: Engine) -> None:
    """A step skips hashes whose propagation was requested again or done since their slices were read."""
    load(engine, [*sessions(3), *sessions(3, of=2, prefix="t")])
    answer(engine, sha(1), vt_verdict(9))
    answer(engine, sha(2), vt_verdict(9))
    with read_transaction(engine) as connection:
        slices = pending_slices(connection, 100)
    propagate_all(engine)
    answer(engine, sha(1), vt_verdict(0), at=NOW + DAY)

    with write_transaction(engine) as connection:
        assert propagate_slices(connection, slices, now=NOW) == PropagationStep(0, 0, 0)

    assert [entry["sha256"] for entry in rows(engine, "verdict_propagation")] == [sha(1)]
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_a_row_that_agrees_is_not_written(engine: Engine) -> None:
    """Rows that agree with their hash keep their last_updated time."""
    load(engine, sessions(2))
    answer(engine, sha(1), vt_verdict(9))
    propagate_all(engine)
    before = rows(engine, "files")
    put(engine, "verdict_propagation", {"sha256": sha(1), "requested_at": NOW, "cursor": 0})

    assert propagate_some(engine, now=NOW + DAY) == PropagationStep(2, 0, 1)
    assert before == rows(engine, "files")
