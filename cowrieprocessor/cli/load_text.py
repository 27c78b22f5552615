"""What a load did, for people and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cowrieprocessor.loader.bulk import FileResult, LoadResult


def load_summary(result: LoadResult) -> list[str]:
    """Return what a load did, in lines for people."""
    counters = result.counters
    states = {
        state: sum(one.state == state for one in result.files) for state in ("loaded", "known", "pending", "failed")
    }
    files = f"{len(result.files)} file{'' if len(result.files) == 1 else 's'}"
    waiting = f"{states['pending']} without an event yet, " if states["pending"] else ""
    lines = [
        f"{files}: {states['loaded']} loaded, {states['known']} with nothing new, {waiting}{states['failed']} failed",
        f"{counters['events']:,} new events, {counters['file_sightings']:,} of them with a file",
    ]
    if counters["events"] >= 1000 and result.duration_s > 0:
        lines[-1] += f"; {counters['events'] / result.duration_s:,.0f} events/s"
    if counters["dead_letters"]:
        lines.append(f"{counters['dead_letters']:,} not stored as events: cowrieprocessor dead-letters list")
    if counters["file_dead_letters"]:
        lines.append(
            f"{counters['file_dead_letters']:,} events whose file could not be taken up: "
            "cowrieprocessor dead-letters list"
        )
    skipped = counters["file_event_empty_shasum"] + counters["file_event_no_shasum"]
    if skipped:
        lines.append(
            f"{skipped:,} file events that name no file ({counters['file_event_empty_shasum']:,} empty downloads, "
            f"{counters['file_event_no_shasum']:,} without a hash)"
        )
    nul_bytes = sum(one.bytes_nul for one in result.files)
    if nul_bytes:
        lines.append(f"{nul_bytes:,} NUL bytes passed over (left by log rotation)")
    return lines


def load_document(result: LoadResult) -> dict[str, object]:
    """Return what a load did, for scripts."""
    return {
        "ingest_id": result.ingest_id,
        "duration_s": round(result.duration_s, 3),
        "counters": dict(sorted(result.counters.items())),
        "files": [file_document(one) for one in result.files],
    }


def file_document(one: FileResult) -> dict[str, object]:
    """Return what became of one file, for scripts."""
    return {
        "path": one.path,
        "state": one.state,
        "counters": dict(sorted(one.counters.items())),
        "bytes_read": one.bytes_read,
        "bytes_pending": one.bytes_pending,
        "bytes_nul": one.bytes_nul,
        "warnings": one.warnings,
        "error": one.error,
    }
