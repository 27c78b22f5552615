"""Spreading a verdict: rows of `files` and flags of sessions follow, in bounded steps, whoever writes beside."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, event, update

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.enrichment import propagation
from cowrieprocessor.db.enrichment.propagation import (
    MAX_ROWS,
    PropagationStep,
    Slice,
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
    """Return so many sessions that dropped one hash."""
    return [(f"{prefix}{number:04d}", sha(of)) for number in range(count)]


def disagreeing(engine: Engine) -> list[str]:
    """Return the sessions whose row in `files` does not say what the row of its hash says, or whose flag is wrong."""
    known = {one["sha256"]: one for one in rows(engine, "file_hashes")}
    flagged = flags(engine)
    found = []
    for one in rows(engine, "files"):
        wanted = known[one["shasum"]]
        if any(one[name] != wanted[name] for name in VERDICT_COLUMNS):
            found.append(one["session_id"])
        if one["vt_malicious"] and not flagged[one["session_id"]]:
            found.append(one["session_id"])
    malicious = {one["session_id"] for one in rows(engine, "files") if known[one["shasum"]]["vt_malicious"]}
    return found + [name for name, flag in flagged.items() if flag and name not in malicious]


def set_session(engine: Engine, session_id: str, **values: object) -> None:
    """Change a session, as v3 did."""
    table = T["session_summaries"]
    with write_transaction(engine) as connection:
        connection.execute(update(table).where(table.c.session_id == session_id).values(**values))


def test_nothing_to_do_is_none(engine: Engine) -> None:
    """Where no hash waits there is no step, and no write."""
    assert propagate_some(engine, now=NOW) is None


def test_rows_follow_in_bounded_steps(engine: Engine) -> None:
    """Each transaction changes at most so many rows; the cursor says how far; then the hash waits no more."""
    load(engine, sessions(25))
    answer(engine, sha(1), vt_verdict(9, size_bytes=77))

    first = propagate_some(engine, now=NOW, max_rows=10)

    assert first == PropagationStep(10, 10, 0)
    assert sum(one["vt_malicious"] for one in rows(engine, "files")) == 10 == sum(flags(engine).values())
    assert propagate_some(engine, now=NOW, max_rows=10) == PropagationStep(10, 10, 0)
    assert propagate_some(engine, now=NOW, max_rows=10) == PropagationStep(5, 5, 1)
    assert propagate_some(engine, now=NOW) is None
    assert disagreeing(engine) == []
    assert {one["file_size"] for one in rows(engine, "files")} == {77}


def test_a_step_is_never_larger_than_the_bound(engine: Engine) -> None:
    """However many rows are asked for, one transaction changes no more than MAX_ROWS."""
    load(engine, sessions(12))
    answer(engine, sha(1), vt_verdict(9))
    kept = propagation.MAX_ROWS

    assert kept == 5_000
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


def test_a_new_verdict_begins_again(engine: Engine) -> None:
    """When the verdict changes half way, the rows that had the old one get the new one too."""
    load(engine, sessions(20))
    answer(engine, sha(1), vt_verdict(9))
    propagate_some(engine, now=NOW, max_rows=10)
    answer(engine, sha(1), vt_verdict(11), at=NOW + DAY)

    propagate_all(engine, NOW + DAY)

    assert {one["vt_positives"] for one in rows(engine, "files")} == {11}
    assert disagreeing(engine) == []


def test_a_row_that_comes_meanwhile_has_the_verdict(engine: Engine) -> None:
    """A session loaded while a verdict is spread carries it at once, and its flag, whatever the cursor says."""
    load(engine, sessions(20))
    answer(engine, sha(1), vt_verdict(9))
    propagate_some(engine, now=NOW, max_rows=10)

    load(engine, [("late", sha(1))])

    assert row(engine, "files", session_id="late")["vt_positives"] == 9
    assert flags(engine)["late"]
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_a_flag_goes_with_the_last_malicious_file(engine: Engine) -> None:
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
def test_a_flag_of_v3_is_not_ours_to_take(engine: Engine, stored: object, kept: bool) -> None:
    """A session that v3 enriched keeps its flag; the JSON text null that v3 wrote means nothing."""
    load(engine, sessions(1))
    set_session(engine, "s0000", enrichment=stored)
    answer(engine, sha(1), vt_verdict(9))
    propagate_all(engine)
    assert flags(engine) == {"s0000": True}

    answer(engine, sha(1), vt_verdict(0), at=NOW + DAY)
    propagate_all(engine)

    assert flags(engine) == {"s0000": kept}


def test_a_flag_that_v3_set_alone_is_left(engine: Engine) -> None:
    """A verdict that was never malicious takes no flag from anybody."""
    load(engine, sessions(1))
    set_session(engine, "s0000", vt_flagged=True)

    answer(engine, sha(1), vt_verdict(0))
    propagate_all(engine)

    assert flags(engine) == {"s0000": True}


def test_a_killed_step_is_done_again(engine: Engine) -> None:
    """A step that ends before its commit leaves nothing, and the next one does it all."""
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

    assert not any(one["vt_malicious"] for one in rows(engine, "files"))
    assert row(engine, "verdict_propagation")["cursor"] == 0
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_a_note_about_a_hash_that_is_gone_is_removed(engine: Engine) -> None:
    """A note whose hash is not there does not stay for ever."""
    load(engine, sessions(2))
    answer(engine, sha(1), vt_verdict(9))
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM file_hashes")

    assert propagate_all(engine) == 0
    assert rows(engine, "verdict_propagation") == []


def test_everybody_at_once(db_url: str, engine: Engine) -> None:
    """Loaders, who judges, and two who spread, beside each other: no deadlock, and in the end all agree."""
    load(engine, [*sessions(60), *sessions(60, of=2)])
    errors: list[BaseException] = []
    start = threading.Barrier(5)

    def worker(work: Callable[[Engine], None]) -> threading.Thread:
        def run() -> None:
            own = get_engine(db_url)
            try:
                start.wait(30)
                work(own)
            except BaseException as error:  # noqa: BLE001 - shown by the test
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

    def judges(own: Engine) -> None:
        for turn in range(12):
            for of in (2, 1, 3):
                said = vt_verdict(9 if (turn + of) % 2 else 0)
                answer(own, sha(of), said, provider=VT, at=NOW + turn * DAY)

    def spreads(own: Engine) -> None:
        for _ in range(40):
            propagate_some(own, now=NOW, max_rows=17)

    threads = [worker(one) for one in (loads("x"), loads("y"), judges, spreads, spreads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert errors == []
    propagate_all(engine)
    assert disagreeing(engine) == []
    assert len(rows(engine, "files", shasum=sha(1))) == 60 + 24


def test_a_changed_size_follows_alone(engine: Engine) -> None:
    """Rows get a size that became known, also where the verdict is the same."""
    load(engine, sessions(3))
    answer(engine, sha(1), vt_verdict(0))
    propagate_all(engine)

    answer(engine, sha(1), vt_verdict(0, size_bytes=5))

    assert propagate_all(engine) == 3
    assert {one["file_size"] for one in rows(engine, "files")} == {5}


def test_settled_elsewhere_does_not_flag_sessions(engine: Engine) -> None:
    """`vt_flagged` is about VirusTotal's verdict: that of another source changes the status alone."""
    load(engine, sessions(2))
    answer(engine, sha(1), ProviderVerdict("malicious"), provider=HL)

    propagate_all(engine)

    assert flags(engine) == {"s0000": False, "s0001": False}
    assert {one["enrichment_status"] for one in rows(engine, "files")} == {"enriched"}


def test_the_json_null_of_v3_is_stored_as_such(engine: Engine) -> None:
    """The scene really stores the JSON text null, so that the test about it is about it."""
    load(engine, sessions(1))
    set_session(engine, "s0000", enrichment=None)

    with write_transaction(engine) as connection:
        sql = "SELECT CAST(enrichment AS VARCHAR(9)) FROM session_summaries"
        assert connection.exec_driver_sql(sql).scalar_one() == json.dumps(None)


def test_a_hash_is_written_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction can end behind each part; the note says how far it came, and the rest is written later."""
    monkeypatch.setattr(propagation, "SLICE_ROWS", 4)
    load(engine, [*sessions(10), *sessions(1, of=2, prefix="t")])
    answer(engine, sha(1), vt_verdict(9))
    answer(engine, sha(2), vt_verdict(9))
    with read_transaction(engine) as connection:
        parts = pending_slices(connection, 100)
    answers = iter([True, False])
    with write_transaction(engine) as connection:
        step = propagate_slices(connection, parts, now=NOW, may_go_on=lambda: next(answers))

    assert sorted(len(part.rows) for part in parts) == [1, 2, 4, 4]
    assert step.rows == sum(one["vt_malicious"] for one in rows(engine, "files")) == sum(map(len_of, parts[:2]))
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_what_another_did_meanwhile_is_left_to_it(engine: Engine) -> None:
    """Where a verdict was asked for or spread since it was looked at, the step does nothing about that hash."""
    load(engine, [*sessions(3), *sessions(3, of=2, prefix="t")])
    answer(engine, sha(1), vt_verdict(9))
    answer(engine, sha(2), vt_verdict(9))
    with read_transaction(engine) as connection:
        parts = pending_slices(connection, 100)
    propagate_all(engine)
    answer(engine, sha(1), vt_verdict(0), at=NOW + DAY)

    with write_transaction(engine) as connection:
        assert propagate_slices(connection, parts, now=NOW) == PropagationStep(0, 0, 0)

    assert [one["sha256"] for one in rows(engine, "verdict_propagation")] == [sha(1)]
    propagate_all(engine)
    assert disagreeing(engine) == []


def test_a_row_that_agrees_is_not_written(engine: Engine) -> None:
    """Rows that say what their hash says keep the time at which they were last changed."""
    load(engine, sessions(2))
    answer(engine, sha(1), vt_verdict(9))
    propagate_all(engine)
    before = rows(engine, "files")
    put(engine, "verdict_propagation", {"sha256": sha(1), "requested_at": NOW, "cursor": 0})

    assert propagate_some(engine, now=NOW + DAY) == PropagationStep(2, 0, 1)
    assert before == rows(engine, "files")


def len_of(part: Slice) -> int:
    """Return how many rows a part has."""
    return len(part.rows)
