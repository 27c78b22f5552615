"""What `enrich` says: lines while it runs, and what came of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import message
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.enrichment.providers.v3_cache import ImportedCache
    from cowrieprocessor.jobs.enrichment.run import EnrichProgress, EnrichResult

LINE_EVERY_S = 10.0


class ProgressLines:
    """A line every ten seconds, and one for each wait that is new."""

    def __init__(self) -> None:
        self._said_at = 0.0
        self._reason: str | None = None

    def update(self, now: EnrichProgress) -> None:
        """Say how far the run is."""
        is_new = now.reason is not None and now.reason != self._reason
        self._reason = now.reason
        if not is_new and time.monotonic() - self._said_at < LINE_EVERY_S:
            return
        self._said_at = time.monotonic()
        of = f" of {now.limit:,}" if now.limit is not None else ""
        requests = sum(one.get("requests", 0) for one in now.counters.values())
        line = f"{now.files:,}{of} files asked about, {requests:,} requests"
        failed = sum(_failures(one) for one in now.counters.values())
        line += f", {failed:,} failed" if failed else ""
        if now.reason is not None and now.until is not None:
            line += f"; waiting until {now.until:%Y-%m-%d %H:%M:%S} UTC: {now.reason}"
        message(line)


def result_text(result: EnrichResult) -> str:
    """Return what a run did, in lines for people."""
    lines = []
    taken = result.replayed.get("cache", 0)
    own = result.replayed.get("cowrie-virustotal", 0)
    if taken or own:
        lines.append(f"without a request: {own:,} verdicts logged by Cowrie, {taken:,} answers from the cache")
    for name, counters in result.counters.items():
        parts = [f"{counters.get('requests', 0):,} requests"]
        parts += [
            f"{counters[what]:,} {said}"
            for what, said in (
                ("found", "found"),
                ("unknown", "unknown"),
                ("cached", "from the cache"),
                ("refused", "refused"),
                ("uploaded", "uploaded"),
                ("rate limited", "times told to slow down"),
            )
            if counters.get(what)
        ]
        if failed := _failures(counters):
            parts.append(f"{failed:,} failed, to be tried again")
        lines.append(f"{name}: {', '.join(parts)}")
    if not result.counters:
        lines.append("no source is in use: give a key (docs/enrichment.md), or use hashlookup, which needs none")
    lines.append(f"{result.files:,} files asked about; {result.rows_updated:,} rows of files updated")
    lines += [f"{name} goes no further: {reason}" for name, reason in result.reasons.items()]
    if result.paused_until is not None:
        until = f"{result.paused_until:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(f"paused until {until}; the same command goes on then, or --watch")
    if result.stopped:
        lines.append("stopped; everything that was answered is kept, the same command goes on")
    return "".join(f"{terminal_safe(line)}\n" for line in lines)


def import_text(result: ImportedCache) -> str:
    """Return what an import took in, in lines for people."""
    kinds = f"{result.found:,} about known files, {result.unknown:,} about unknown ones"
    lines = [f"{result.files:,} answers read: {kinds}"]
    if result.expired:
        lines.append(f"{result.expired:,} of them are too old to hold; they are history, and asked again in their turn")
    if result.unreadable:
        lines.append(f"{len(result.unreadable):,} files hold no answer")
    if result.passed_over:
        lines.append(f"{result.passed_over:,} files with other names were passed over")
    return "".join(f"{line}\n" for line in lines)


def _failures(counters: dict[str, int]) -> int:
    return sum(count for what, count in counters.items() if what.startswith("failed"))
