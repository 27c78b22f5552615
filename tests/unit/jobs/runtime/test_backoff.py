"""Transient database errors: what is reported, how long the waits are, and which errors are permanent."""

from __future__ import annotations

import pytest

from cowrieprocessor import errors
from cowrieprocessor.jobs.runtime.backoff import REPORT_EVERY_S, Backoff, BackoffTiming, is_transient


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_error_is_reported_once_and_each_minute() -> None:
    """The first failure is reported with the error, later ones once a minute; the recovery with its duration."""
    notices: list[str] = []
    clock = Clock()
    backoff = Backoff(notices.append, clock)
    for _ in range(13):
        backoff.failed(errors.DatabaseLocked("it is locked"))
        clock.now += REPORT_EVERY_S / 6
    backoff.succeeded()
    backoff.succeeded()

    assert 3 + 1 == len(notices)
    assert all("it is locked" in line for line in notices[:3])
    assert "the database serves again after 130 s" == notices[3]


def test_another_error_is_reported_at_once() -> None:
    """When the disk is full after a lock, that is reported, too."""
    notices: list[str] = []
    backoff = Backoff(notices.append, Clock())
    backoff.failed(errors.DatabaseLocked("it is locked"))
    backoff.failed(errors.DatabaseFull("the disk is full"))

    assert ["locked" in notices[0], "full" in notices[1]] == [True, True]


def test_waits_grow_to_a_bound_and_start_over() -> None:
    """Each wait is twice as long as the last, up to half a minute; after a success the first is short again."""
    backoff = Backoff(lambda _text: None, Clock())
    error = errors.DatabaseError("the connection to the server broke")
    waits = [backoff.failed(error) for _ in range(9)]
    backoff.succeeded()

    assert [0.5, 1, 2, 4, 8, 16, 30, 30, 30] == waits
    assert 0.5 == backoff.failed(error)


def test_the_waits_can_be_set() -> None:
    """The first and the longest wait are arguments."""
    backoff = Backoff(lambda _text: None, Clock(), BackoffTiming(first_wait_s=0.01, longest_wait_s=0.03))

    assert [0.01, 0.02, 0.03] == [backoff.failed(errors.DatabaseFull("full")) for _ in range(3)]


def test_success_is_not_reported_without_a_failure() -> None:
    """A success that follows no failure is silent."""
    notices: list[str] = []
    Backoff(notices.append).succeeded()

    assert [] == notices


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
def test_transient_errors(error: type[errors.DatabaseError], expected: bool) -> None:
    """Locks, full disks and lost connections are transient; damage, another schema and another follower are not."""
    assert expected == is_transient(error("something"))
