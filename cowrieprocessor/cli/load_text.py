"""The result of a load: text for people, JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import db_argument
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.loader.bulk import FileResult, LoadResult

RATED_FROM_EVENTS = 1000
"""A load of fewer events shows no rate."""


def load_summary(result: LoadResult, db: str | None) -> list[str]:
    """Return the summary of a load of the database that `--db` names, as lines for people."""
    return [
        _files_line(result),
        _events_line(result),
        *_notes(result, f"cowrieprocessor dead-letters list{db_argument(db)}"),
    ]


def load_messages(result: LoadResult) -> Iterator[str]:
    """Yield the warnings and errors of a load's files, and how many more files have some."""
    for file in result.files:
        yield from (f"note: {warning}" for warning in file.warnings)
        if file.error:
            yield f"error: {file.error}"
    if more := result.noted_total - result.named_noted:
        yield f"note: {plural(more, 'more file has', 'more files have')} notes or dead letters that are not named here"
    if more := result.failed_total - len(result.failed):
        yield (
            f"error: {plural(more, 'more file failed and is', 'more files failed and are')} not named here; "
            "mend what failed and load again, which passes over what is stored"
        )


def _files_line(result: LoadResult) -> str:
    states = result.states
    files = plural(result.files_total, "file")
    pending = f"{states['pending']} without an event yet, " if states["pending"] else ""
    foreign = f"{states['foreign']} of other programs, " if states["foreign"] else ""
    known = f"{states['loaded']} loaded, {states['known']} with nothing new"
    return f"{files}: {known}, {pending}{foreign}{states['failed']} failed"


def _events_line(result: LoadResult) -> str:
    counters = result.counters
    line = f"{plural(counters['events'], 'new event')}, {counters['file_sightings']:,} of them with a file"
    if counters["events"] >= RATED_FROM_EVENTS and result.duration_s > 0:
        line += f"; {counters['events'] / result.duration_s:,.0f} events/s"
    return line


def _notes(result: LoadResult, listing: str) -> Iterator[str]:
    """Yield a line for each kind of input that became no event or no file."""
    counters = result.counters
    letters = counters["dead_letters"] - counters["dead_letters_withdrawn"]
    if letters > 0:
        yield f"{letters:,} not stored as events: {listing}"
    elif letters < 0:
        yield f"{plural(-letters, 'dead letter')} withdrawn: what was torn is stored now"
    if taken_back := counters["events_taken_back"]:
        yield (
            f"{plural(taken_back, 'event')} taken back: the log with the first half was not complete when the halves "
            "were joined"
        )
    if counters["file_dead_letters"]:
        yield (f"{plural(counters['file_dead_letters'], 'event')} whose file could not be recorded: {listing}")
    without_file = counters["file_event_empty_shasum"] + counters["file_event_no_shasum"]
    if without_file:
        yield (
            f"{plural(without_file, 'file event that names', 'file events that name')} no file "
            f"({plural(counters['file_event_empty_shasum'], 'empty download')}, "
            f"{counters['file_event_no_shasum']:,} without a hash)"
        )
    if result.bytes_nul:
        yield f"{plural(result.bytes_nul, 'NUL byte')} skipped (left by log rotation)"


def load_document(result: LoadResult) -> dict[str, object]:
    """Return the result of a load as a JSON document."""
    return {
        "ingest_id": result.ingest_id,
        "duration_s": round(result.duration_s, 3),
        "counters": dict(sorted(result.counters.items())),
        "files_total": result.files_total,
        "files_named": len(result.files),
        "states": dict(sorted(result.states.items())),
        "bytes_nul": result.bytes_nul,
        "files": [file_document(file) for file in result.files],
    }


def file_document(file: FileResult) -> dict[str, object]:
    """Return the result of one log as a JSON document."""
    return {
        "path": file.path,
        "state": file.state,
        "counters": dict(sorted(file.counters.items())),
        "bytes_read": file.bytes_read,
        "bytes_pending": file.bytes_pending,
        "bytes_nul": file.bytes_nul,
        "wrapper": file.wrapper,
        "lines_foreign": file.lines_foreign,
        "warnings": file.warnings,
        "error": file.error,
    }
