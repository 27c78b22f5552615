"""Throttling a long job so that other writers get their transaction."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import JobRecord, delete_job, load_job, save_job
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.throttle import (
    MIN_REST_S,
    REPORT_EVERY_S,
    SHARING_S,
    Obstacle,
    Throttle,
    ThrottleLimits,
)
from tests.other_connections import OtherProcess

LIMITS = ThrottleLimits()


class Clock:
    """A clock that goes on only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.slept.append(seconds)


def throttled(engine: Engine, clock: Clock, share: float = 0.0) -> Throttle:
    """Return a throttle on that clock."""
    return Throttle(engine, clock=clock, sleep=clock.sleep, throttle=share)


def test_alone_it_writes_long_and_rests_briefly(engine: Engine) -> None:
    """Without other writers a transaction gets the full limit; reading counts as rest."""
    clock = Clock()
    throttle = throttled(engine, clock)
    throttle.rest()
    for _ in range(2):
        with write_transaction(engine) as connection:
            assert throttle.budget_s(connection, 0.0) == LIMITS.write_s
    throttle.record_write(0.1)
    clock.now += MIN_REST_S / 4  # reading
    throttle.rest()
    throttle.record_write(0.1)
    clock.now += 2 * MIN_REST_S
    throttle.rest()

    assert clock.slept == [pytest.approx(MIN_REST_S * 3 / 4)]


def test_it_shares_with_another_writer(tmp_path: Path) -> None:
    """For some seconds after another process wrote, transactions are short and rests as long as they."""
    path = tmp_path / "v4.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    clock = Clock()
    throttle = throttled(engine, clock)
    with write_transaction(engine) as connection:
        throttle.budget_s(connection, 0.0)
    with OtherProcess(path, "INSERT INTO schema_state VALUES ('other', '1')"):
        pass
    with write_transaction(engine) as connection:
        assert throttle.budget_s(connection, 0.0) == LIMITS.shared_write_s
    throttle.record_write(0.05)
    throttle.rest()
    throttle.record_write(0.001)
    throttle.rest()
    assert clock.slept == [pytest.approx(0.05), pytest.approx(MIN_REST_S)]
    clock.now += SHARING_S
    with write_transaction(engine) as connection:
        assert throttle.budget_s(connection, 0.0) == LIMITS.write_s
    dispose(engine)


def test_a_wait_for_the_lock_means_that_another_writes(engine: Engine) -> None:
    """A transaction that had to wait has met another writer, even one that has not committed yet."""
    throttle = throttled(engine, Clock())
    with write_transaction(engine) as connection:
        assert throttle.budget_s(connection, 0.2) == LIMITS.shared_write_s
    assert throttle.is_shared


@pytest.mark.parametrize(("share", "slept_s"), [(0.5, 0.3), (0.9, 2.7), (0.0, 0.0)])
def test_the_throttle_is_the_share_of_time_to_rest(engine: Engine, share: float, slept_s: float) -> None:
    """It rests half the time at 0.5, nine tenths at 0.9, of the whole time including reading."""
    clock = Clock()
    throttle = throttled(engine, clock, share=share)
    clock.now += 0.1  # writing
    throttle.record_write(0.1)
    clock.now += 0.2  # reading
    throttle.rest()

    assert sum(clock.slept) == pytest.approx(slept_s)


def test_a_process_that_is_gone_is_dead() -> None:
    """A killed process is not alive, even if its PID was reused."""
    ours = process_identity.this_process()
    alive = ours | {"pid": 1, "started": process_identity._started(1)}

    now = dt.datetime.now(dt.UTC)
    long_ago = now - dt.timedelta(seconds=process_identity.SILENT_FOR_S + 1)
    assert process_identity.is_alive(alive, long_ago)
    assert not process_identity.is_alive(alive | {"started": "12"}, now)
    assert not process_identity.is_alive(ours | {"pid": 2**22 + 1}, now)
    assert not process_identity.is_alive({"host": ours["host"]}, now)


def test_a_process_elsewhere_is_alive_while_it_updates_its_job() -> None:
    """A killed container gets a new host name on its next start: it must not block others for ever."""
    now = dt.datetime.now(dt.UTC)
    elsewhere = process_identity.this_process() | {"host": "another"}

    assert process_identity.is_alive(elsewhere, now)
    assert not process_identity.is_alive(elsewhere, now - dt.timedelta(seconds=process_identity.SILENT_FOR_S + 1))


def test_a_waiting_job_reports_again(engine: Engine) -> None:
    """A wait is reported every minute, and its end, so that a waiting job is not mistaken for dead."""
    clock = Clock()
    states: list[str | None] = []
    reasons: list[str | None] = ["paused by command"]
    throttle = Throttle(engine, paused_reason=lambda: reasons[-1], clock=clock, sleep=clock.sleep)

    def notify(obstacle: Obstacle | None) -> None:
        states.append(None if obstacle is None else obstacle.state)
        if len(states) == 3:
            reasons.append(None)

    throttle.wait(notify)
    assert states == ["paused", "paused", "paused", None]
    assert 2 * REPORT_EVERY_S < clock.now < 3 * REPORT_EVERY_S


def test_the_reason_of_a_pause_is_the_one_that_was_given(engine: Engine) -> None:
    """Without a reason the job is not paused; with one, that is its obstacle."""
    assert Throttle(engine).obstacle() is None
    assert Throttle(engine, paused_reason=lambda: "`go on` lets it").obstacle() == Obstacle("paused", "`go on` lets it")


def test_a_timed_transaction_rests_first_and_ends_in_time(engine: Engine) -> None:
    """A transaction may go on for its time limit and commits; the next one rests first."""
    clock = Clock()
    throttle = throttled(engine, clock)
    with throttle.transaction() as transaction:
        save_job(transaction.connection, JobRecord("some job", "done"))
        assert transaction.may_go_on()
        clock.now += LIMITS.write_s
        assert not transaction.may_go_on()

    def fail() -> None:
        with throttle.transaction() as transaction:
            delete_job(transaction.connection, "some job")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert clock.slept == [pytest.approx(MIN_REST_S)]
    with read_transaction(engine) as connection:
        assert load_job(connection, "some job") is not None
