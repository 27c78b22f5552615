"""Output of `enrich`: progress lines and the summary of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import notify
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.enrichment.providers.v3_cache import ImportedCache
    from cowrieprocessor.jobs.enrichment.run import EnrichProgress, EnrichResult

LINE_EVERY_S = 10.0

_COUNTER_LABELS = (
    ("found", "found"),
    ("unknown", "unknown"),
    ("cached", "from the cache"),
    ("refused", "refused"),
    ("uploaded", "uploaded"),
    ("rate limited", "rate limited"),
)


class ProgressLines:
    """Prints a line every ten seconds and at the start of each wait."""

    def __init__(self) -> None:
        self._line_at = 0.0
        self._reason: str | None = None

    def update(self, now: EnrichProgress) -> None:
        """Print the progress, if a line is due."""
        is_new = now.reason is not None and now.reason != self._reason
        self._reason = now.reason
        if not is_new and time.monotonic() - self._line_at < LINE_EVERY_S:
            return
        self._line_at = time.monotonic()
        asked = plural(now.files, "file") if now.limit is None else f"{now.files:,} of {plural(now.limit, 'file')}"
        requests = sum(counters.get("requests", 0) for counters in now.counters.values())
        line = f"{asked} asked about, {plural(requests, 'request')}"
        failed = sum(_failures(counters) for counters in now.counters.values())
        line += f", {failed:,} failed" if failed else ""
        if now.reason is not None and now.until is not None:
            line += f"; waiting until {now.until:%Y-%m-%d %H:%M:%S} UTC: {now.reason}"
        notify(line)


def result_text(result: EnrichResult) -> str:
    """Return what a run did, as text for people."""
    lines = [*_replayed(result), *(f"{name}: {_counts(counters)}" for name, counters in result.counters.items())]
    if not result.counters:
        lines.append("no source is in use: give a key (docs/enrichment.md), or use hashlookup, which needs none")
    lines.append(f"{plural(result.files, 'file')} asked about; {plural(result.rows_updated, 'row')} of files updated")
    lines += [f"{name} answered no request; the last failure: {reason}" for name, reason in result.unanswered.items()]
    lines += [f"{name} goes no further: {reason}" for name, reason in result.reasons.items()]
    if result.paused_until is not None:
        until = f"{result.paused_until:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(f"paused until {until}; run the same command then, or use --watch")
    if result.stopped:
        lines.append("stopped; all answers are kept, the same command continues from here")
    return "".join(f"{terminal_safe(line)}\n" for line in lines)


def _replayed(result: EnrichResult) -> Iterator[str]:
    """Yield what was stored without a request."""
    from_cache = result.replayed.get("cache", 0)
    from_logs = result.replayed.get("cowrie-virustotal", 0)
    if from_cache or from_logs:
        yield (
            f"without a request: {plural(from_logs, 'verdict')} logged by Cowrie, "
            f"{plural(from_cache, 'answer')} from the cache"
        )


def _counts(counters: dict[str, int]) -> str:
    """Return the counters of one source, on one line."""
    parts = [plural(counters.get("requests", 0), "request")]
    parts += [f"{counters[name]:,} {label}" for name, label in _COUNTER_LABELS if counters.get(name)]
    if failed := _failures(counters):
        parts.append(f"{failed:,} failed, to be tried again")
    return ", ".join(parts)


def import_text(result: ImportedCache) -> str:
    """Return what an import stored, as text for people."""
    found = plural(result.found, "about a known file", "about known files")
    kinds = f"{found}, {plural(result.unknown, 'about an unknown one', 'about unknown ones')}"
    lines = [f"{plural(result.files, 'answer')} read: {kinds}"]
    if result.expired:
        expired = plural(result.expired, "of them has expired", "of them have expired")
        lines.append(f"{expired}: kept as history, and requested again in turn")
    if result.unreadable:
        lines.append(plural(len(result.unreadable), "file contains no answer", "files contain no answer"))
    if result.passed_over:
        lines.append(
            plural(result.passed_over, "file with another name was skipped", "files with other names were skipped")
        )
    return "".join(f"{line}\n" for line in lines)


def _failures(counters: dict[str, int]) -> int:
    return sum(count for what, count in counters.items() if what.startswith("failed"))
