"""Trouble with the database that passes: what is said, how long is waited, and what is no such trouble."""

from __future__ import annotations

import pytest

from cowrieprocessor import errors
from cowrieprocessor.jobs.runtime.backoff import LONGEST_WAIT_S, SAY_EVERY_S, Backoff, passes


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_is_said_once_and_each_minute() -> None:
    """The first failure is said with the error, the others only each minute; then how long it took."""
    said: list[str] = []
    clock = Clock()
    patience = Backoff(said.append, clock)
    for _ in range(13):
        patience.met(errors.DatabaseLocked("it is locked"))
        clock.now += SAY_EVERY_S / 6
    patience.over()
    patience.over()

    assert 3 + 1 == len(said)
    assert all("it is locked" in line for line in said[:3])
    assert "the database serves again after 130 s" == said[3]


def test_another_trouble_is_said_at_once() -> None:
    """When the disk is full after a lock, that is said, too."""
    said: list[str] = []
    patience = Backoff(said.append, Clock())
    patience.met(errors.DatabaseLocked("it is locked"))
    patience.met(errors.DatabaseFull("the disk is full"))

    assert ["locked" in said[0], "full" in said[1]] == [True, True]


def test_waits_grow_to_a_bound_and_begin_anew() -> None:
    """Each wait is twice the last one, up to half a minute; after a success the first one is short again."""
    patience = Backoff(lambda _text: None, Clock())
    error = errors.DatabaseError("the connection to the server broke")
    waits = [patience.met(error) for _ in range(9)]
    patience.over()

    assert [0.5, 1, 2, 4, 8, 16, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S] == waits
    assert 0.5 == patience.met(error)


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    """Success after success is no news."""
    said: list[str] = []
    Backoff(said.append).over()

    assert [] == said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.DatabaseLocked, True),
        (errors.DatabaseFull, True),
        (errors.DatabaseReadOnly, True),
        (errors.DatabaseError, True),
        (errors.DatabaseDamaged, False),
        (errors.NotADatabase, False),
        (errors.MigrationNeeded, False),
        (errors.JobTaken, False),
        (errors.AlreadyFollowed, False),
    ],
)
def test_what_may_pass(error: type[errors.DatabaseError], expected: bool) -> None:
    """Locks, full disks and lost connections may pass; damage, another schema and another follower do not."""
    assert expected == passes(error("something"))
