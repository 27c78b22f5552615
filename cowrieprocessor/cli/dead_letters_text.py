"""What `dead-letters replay` and `purge` say: for people and for scripts."""

from __future__ import annotations

import time

from cowrieprocessor.cli.shared.common import message, print_text
from cowrieprocessor.jobs.dead_letters.purge import Purged, PurgePlan
from cowrieprocessor.jobs.dead_letters.replay import ReplayProgress, ReplayResult
from cowrieprocessor.jobs.dead_letters.writing import FILES, FOR_BACKFILL, KNOWN
from cowrieprocessor.loader.rows.batch import EVENTS
from cowrieprocessor.reporting.render.terminal import plural, shown

LINE_EVERY_S = 10.0
SHOWN_OUTCOMES = 20


class ProgressLines:
    """A line now and then."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def replayed(self, now: ReplayProgress) -> None:
        """Say how far a replay is."""
        if self._is_time():
            share = now.letters / now.total if now.total else 1.0
            message(f"{now.letters:,}/{now.total:,} dead letters {share:.1%}, {now.resolved:,} resolved")

    def purged(self, letters: int) -> None:
        """Say how far a purge is."""
        if self._is_time():
            message(f"{letters:,} dead letters deleted")

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._said_at < LINE_EVERY_S:
            return False
        self._said_at = now
        return True


def replay_document(database: str, result: ReplayResult) -> dict[str, object]:
    """Return what a replay did, for scripts."""
    return {
        "database": database,
        "dry_run": result.is_dry,
        "letters": result.letters,
        "resolved": result.resolved,
        "counters": dict(sorted((+result.counters).items())),
        "stays": dict(sorted(result.stays.items())),
        "outcomes": result.outcomes,
    }


def say_replayed(result: ReplayResult) -> None:
    """Print what a replay did, why letters stay, and which ones are the first."""
    would = "would be " if result.is_dry else ""
    counters = result.counters
    lines = [f"{result.letters:,} dead letters read again, {result.resolved:,} {would}resolved"]
    if result.resolved:
        lines.append(
            f"{counters[EVENTS]:,} events {would}stored, {counters[KNOWN]:,} were stored already, "
            f"{counters[FILES]:,} files {would}taken up"
        )
    for why, letters in result.stays.most_common():
        lines.append(f"{letters:,} stay: {shown(why)}")
    staying = [one for one in result.outcomes if one.why is not None]
    for one in staying[:SHOWN_OUTCOMES]:
        place = f"{one.source}:{one.line}" if one.line is not None else one.source
        lines.append(
            f"  {one.id}: {shown(place, 200)}: {shown(one.why)}{f' ({shown(one.detail)})' if one.detail else ''}"
        )
    if sum(result.stays.values()) > len(staying[:SHOWN_OUTCOMES]):
        lines.append("  and more; `cowrieprocessor dead-letters list` shows all that wait")
    print_text("".join(f"{line}\n" for line in lines))
    if counters[FOR_BACKFILL]:
        message(
            f"note: {counters[FOR_BACKFILL]:,} events come from letters of version 3; `cowrieprocessor db backfill` "
            "takes up their files, addresses and commands"
        )


def say_purged(plan: PurgePlan, purged: Purged | None) -> None:
    """Print what a purge did, or would do."""
    if purged is None:
        print_text(f"{plural(plan.letters, 'dead letter')} would be deleted{_reasons(plan)}; nothing was changed\n")
        return
    print_text(f"{plural(purged.letters, 'dead letter')} deleted{_reasons(plan)}\n")


def _reasons(plan: PurgePlan) -> str:
    return f": {by_reason(plan.by_reason)}" if plan.by_reason else ""


def by_reason(letters_by_reason: dict[str, int]) -> str:
    """Return how many letters each reason has, in a line."""
    return ", ".join(f"{shown(reason, 128)} {letters:,}" for reason, letters in letters_by_reason.items())
