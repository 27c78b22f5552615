"""Output of `dead-letters replay` and `purge`: progress, text and JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cowrieprocessor.cli.shared.common import notify, print_text
from cowrieprocessor.jobs.dead_letters.purge import Purged, PurgePlan
from cowrieprocessor.jobs.dead_letters.replay import ReplayResult
from cowrieprocessor.jobs.dead_letters.writing import FILES, FOR_BACKFILL, KNOWN
from cowrieprocessor.loader.rows.batch import EVENTS
from cowrieprocessor.reporting.render.terminal import shown
from cowrieprocessor.wording import plural

LINE_EVERY_S = 10.0
SHOWN_OUTCOMES = 20


class ProgressLines:
    """Prints a progress line every ten seconds."""

    def __init__(self) -> None:
        self._line_at = time.monotonic()

    def purged(self, letters: int) -> None:
        """Print the progress of a purge, if a line is due."""
        if self._is_due():
            notify(f"{plural(letters, 'dead letter')} deleted")

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._line_at < LINE_EVERY_S:
            return False
        self._line_at = now
        return True


def replay_document(database: str, result: ReplayResult) -> dict[str, object]:
    """Return the result of a replay as a JSON document."""
    return {
        "database": database,
        "dry_run": result.is_dry,
        "letters": result.letters,
        "resolved": result.resolved,
        "counters": dict(sorted((+result.counters).items())),
        "stays": dict(sorted(result.stays.items())),
        "outcomes": result.outcomes,
    }


def print_replay_result(result: ReplayResult) -> None:
    """Print what a replay did, the reasons why letters stay, and the first letters that stay."""
    lines = [*_replay_counts(result), *_staying_letters(result)]
    print_text("".join(f"{line}\n" for line in lines))
    if from_v3 := result.counters[FOR_BACKFILL]:
        notify(
            f"note: {plural(from_v3, 'event comes', 'events come')} from letters of version 3; "
            "`db backfill` adds files, addresses and commands"
        )


def _replay_counts(result: ReplayResult) -> Iterator[str]:
    would = "would be " if result.is_dry else ""
    counters = result.counters
    yield f"{plural(result.letters, 'dead letter')} read again, {result.resolved:,} {would}resolved"
    if result.resolved:
        yield (
            f"{plural(counters[EVENTS], 'event')} {would}stored, "
            f"{plural(counters[KNOWN], 'was', 'were')} stored already, "
            f"{plural(counters[FILES], 'file')} {would}recorded"
        )


def _staying_letters(result: ReplayResult) -> Iterator[str]:
    for why, letters in result.stays.most_common():
        yield f"{plural(letters, 'stays', 'stay')}: {shown(why)}"
    outcomes = [outcome for outcome in result.outcomes if outcome.why is not None][:SHOWN_OUTCOMES]
    for outcome in outcomes:
        position = f"{outcome.source}:{outcome.line}" if outcome.line is not None else outcome.source
        detail = f" ({shown(outcome.detail)})" if outcome.detail else ""
        yield f"  {outcome.id}: {shown(position, 200)}: {shown(outcome.why)}{detail}"
    if result.stays.total() > len(outcomes):
        yield "  and more; `dead-letters list` shows all unresolved ones"


def print_purge_result(plan: PurgePlan, purged: Purged | None) -> None:
    """Print what a purge deleted.

    Args:
        plan: what was selected.
        purged: what was deleted; None for a dry run.
    """
    if purged is None:
        print_text(
            f"{plural(plan.letters, 'dead letter')} would be deleted{_reason_suffix(plan)}; nothing was changed\n"
        )
        return
    print_text(f"{plural(purged.letters, 'dead letter')} deleted{_reason_suffix(plan)}\n")


def _reason_suffix(plan: PurgePlan) -> str:
    return f": {reason_counts(plan.by_reason)}" if plan.by_reason else ""


def reason_counts(letters_by_reason: dict[str, int]) -> str:
    """Return the number of letters for each reason, on one line."""
    return ", ".join(f"{shown(reason, 128)} {letters:,}" for reason, letters in letters_by_reason.items())
