"""How a long job leaves room for others."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.jobs import JobRecord, delete_job, save_job
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.runtime import process_identity as holder
from cowrieprocessor.jobs.runtime.throttle import (
    MIN_REST_S,
    SAY_EVERY_S,
    SHARED_WRITE_S,
    SHARING_S,
    WRITE_S,
    Obstacle,
    Throttle,
)
from tests.other_connections import OtherProcess


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


def paced(engine: Engine, clock: Clock, throttle: float = 0.0) -> Throttle:
    """Return a pace on that clock."""
    return Throttle(engine, "pause", clock=clock, sleep=clock.sleep, throttle=throttle)


def test_alone_it_writes_long_and_rests_a_moment(engine: Engine) -> None:
    """With nobody beside, a transaction may last as long as promised; reading counts as rest."""
    clock = Clock()
    pace = paced(engine, clock)
    pace.rest()
    for _ in range(2):
        with write_transaction(engine) as connection:
            assert pace.look(connection, 0.0) == WRITE_S
    pace.wrote(0.1)
    clock.now += MIN_REST_S / 4  # reading
    pace.rest()
    pace.wrote(0.1)
    clock.now += 2 * MIN_REST_S
    pace.rest()

    assert clock.slept == [pytest.approx(MIN_REST_S * 3 / 4)]


def test_beside_a_writer_it_shares(tmp_path: Path) -> None:
    """After another process has written, transactions are short and the rests as long as they; for some seconds."""
    path = tmp_path / "v4.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    clock = Clock()
    pace = paced(engine, clock)
    with write_transaction(engine) as connection:
        pace.look(connection, 0.0)
    with OtherProcess(path, "INSERT INTO schema_state VALUES ('other', '1')"):
        pass
    with write_transaction(engine) as connection:
        assert pace.look(connection, 0.0) == SHARED_WRITE_S
    pace.wrote(0.05)
    pace.rest()
    pace.wrote(0.001)
    pace.rest()
    assert clock.slept == [pytest.approx(0.05), pytest.approx(MIN_REST_S)]
    clock.now += SHARING_S
    with write_transaction(engine) as connection:
        assert pace.look(connection, 0.0) == WRITE_S
    dispose(engine)


def test_having_waited_for_the_lock_means_that_another_writes(engine: Engine) -> None:
    """Whoever waited to begin has met a writer, even one that has not committed anything yet."""
    pace = paced(engine, Clock())
    with write_transaction(engine) as connection:
        assert pace.look(connection, 0.2) == SHARED_WRITE_S
    assert pace.is_shared


@pytest.mark.parametrize(("throttle", "slept_s"), [(0.5, 0.3), (0.9, 2.7), (0.0, 0.0)])
def test_a_throttle_is_the_share_of_time_to_rest(engine: Engine, throttle: float, slept_s: float) -> None:
    """Half the time at 0.5, nine tenths at 0.9: of all time, reading included."""
    clock = Clock()
    pace = paced(engine, clock, throttle=throttle)
    clock.now += 0.1  # writing
    pace.wrote(0.1)
    clock.now += 0.2  # reading
    pace.rest()

    assert sum(clock.slept) == pytest.approx(slept_s)


def test_a_process_that_is_gone_holds_nothing() -> None:
    """A killed process, and another one that was given its number, are not mistaken for the holder."""
    ours = holder.this_process()
    alive = ours | {"pid": 1, "started": holder._started(1)}

    now = dt.datetime.now(dt.UTC)
    long_ago = now - dt.timedelta(seconds=holder.SILENT_FOR_S + 1)
    assert holder.is_alive(alive, long_ago)
    assert not holder.is_alive(alive | {"started": "12"}, now)
    assert not holder.is_alive(ours | {"pid": 2**22 + 1}, now)
    assert not holder.is_alive({"host": ours["host"]}, now)


def test_a_holder_elsewhere_is_believed_as_long_as_it_speaks() -> None:
    """A container that was killed has another name the next time: it must not keep everybody out for ever."""
    now = dt.datetime.now(dt.UTC)
    elsewhere = holder.this_process() | {"host": "another"}

    assert holder.is_alive(elsewhere, now)
    assert not holder.is_alive(elsewhere, now - dt.timedelta(seconds=holder.SILENT_FOR_S + 1))


def test_a_job_that_waits_says_so_again(engine: Engine) -> None:
    """Each minute of waiting is said, and the end of it, so that a waiting job is not taken to be dead."""
    clock = Clock()
    said: list[str | None] = []
    pace = paced(engine, clock)
    job = JobRecord("pause", "paused")
    with write_transaction(engine) as connection:
        save_job(connection, job)

    def say(obstacle: Obstacle | None) -> None:
        said.append(None if obstacle is None else obstacle.state)
        if len(said) == 3:
            with write_transaction(engine) as connection:
                delete_job(connection, "pause")

    pace.wait(say)
    assert said == ["paused", "paused", "paused", None]
    assert 2 * SAY_EVERY_S < clock.now < 3 * SAY_EVERY_S


def test_a_job_that_no_command_pauses_asks_for_none(engine: Engine) -> None:
    """Without a row that means pause nothing is looked up; with one, what is said is the job's own words."""
    for name in ("pause", "other"):
        with write_transaction(engine) as connection:
            save_job(connection, JobRecord(name, "paused"))

    assert Throttle(engine).obstacle() is None
    assert Throttle(engine, "nowhere").obstacle() is None
    assert Throttle(engine, "pause", paused="`go on` lets it").obstacle() == Obstacle("paused", "`go on` lets it")


def test_a_turn_rests_before_and_ends_in_time(engine: Engine) -> None:
    """A turn may go on for as long as a transaction may, commits, and the next one rests first."""
    clock = Clock()
    pace = paced(engine, clock)
    with pace.transaction() as turn:
        save_job(turn.connection, JobRecord("some job", "done"))
        assert turn.may_go_on()
        clock.now += WRITE_S
        assert not turn.may_go_on()

    def fail() -> None:
        with pace.transaction() as turn:
            delete_job(turn.connection, "some job")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert clock.slept == [pytest.approx(MIN_REST_S)]
    assert Throttle(engine, "some job").obstacle() is not None
