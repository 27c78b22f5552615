"""The report of a validation as text."""

from __future__ import annotations

import datetime as dt

import pytest

from cowrieprocessor.cli.db_commands.validate import report_text
from cowrieprocessor.jobs.validation.independent_rules import BAD_HASH
from cowrieprocessor.jobs.validation.report import CounterCheck, ValidationReport


@pytest.mark.parametrize("events", [1, 1_234])
def test_events_without_a_row_are_counted_whatever_their_number(events: int) -> None:
    """The text on events that make no row reads well for one event and for many."""
    counters = CounterCheck(0, 0, 0, is_sample=False)
    at = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    report = ValidationReport("x", True, at, 1.0, {}, {}, {BAD_HASH: events}, {}, {}, [], counters)
    assert report_text(report, "x").splitlines()[0] == f"events without a row: {BAD_HASH}: {events:,}"
