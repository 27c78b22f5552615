"""What an answer says of rows of version 3 that it lacks until `db backfill`, or has doubled until `db recount`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cowrieprocessor.cli.shared.common import notify

if TYPE_CHECKING:
    from cowrieprocessor.reporting.queries.backfill import Completeness


def print_hint(state: Completeness) -> None:
    """Print a note on standard error, unless the answer is complete."""
    hint = backfill_hint(state)
    if hint is not None:
        notify(hint)


def backfill_hint(state: Completeness) -> str | None:
    """Return the note for an answer, or None if it is complete and counts every event once."""
    if state.complete and state.may_count_twice:
        return (
            "note: events that version 3 stored or counted twice may count twice here, until a recount: "
            f"{state.command}"
        )
    if state.complete:
        return None
    if state.is_recount:
        return (
            f"note: an earlier release derived addresses, user names and commands; those of {state.percent} of the "
            f"sessions are renewed: {state.command} renews the rest"
        )
    twice = "events that version 3 stored or counted twice may count twice until a recount, and "
    return (
        f"note: the backfill of {state.lacks} is at {state.percent}: {twice if state.may_count_twice else ''}"
        f"those that an earlier release stored are not all here yet: {state.command}"
    )


def with_completeness(document: object, state: Completeness) -> dict[str, Any]:
    """Return a JSON document that says whether it is complete."""
    from cowrieprocessor.reporting.render.json import plain

    return {**plain(document), **state.fields()}
