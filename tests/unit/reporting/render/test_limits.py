"""Below a list that was cut stands a limit that its command accepts."""

from __future__ import annotations

import pytest

from cowrieprocessor.reporting.render.limits import MAX_EVENTS, MAX_ROWS, left_out_text
from tests.unit.cli.every_command import ALL


@pytest.mark.parametrize(
    ("total", "shown", "expected"),
    [
        (5, 5, None),
        (5, 2, "and 3 more events: --limit 5 shows all"),
        (10, 9, "and 1 more event: --limit 10 shows all"),
        (12, 9, "and 3 more events: --limit 10 shows the most that can be shown at once"),
        (12, 10, "and 2 more events, beyond the largest --limit"),
    ],
)
def test_an_accepted_limit_is_offered(total: int, shown: int, expected: str | None) -> None:
    """Of more rows than the command shows at once, its largest limit is offered, and nothing where that was given."""
    assert left_out_text(total, shown, "event", 10) == expected


@pytest.mark.parametrize(("command", "largest"), [("sessions show", MAX_EVENTS), ("files history", MAX_ROWS)])
def test_the_largest_limit_is_that_of_the_command(command: str, largest: int) -> None:
    """The commands that offer a limit accept exactly up to it."""
    (limit,) = (option for option in ALL[command].params if option.name == "limit")

    assert limit.type.max == largest
