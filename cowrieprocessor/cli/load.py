"""`cowrieprocessor load`: Cowrie's logs into the database."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import database_name, db_option, json_option, message, print_json, say_waiting

if TYPE_CHECKING:
    from cowrieprocessor.loader.bulk import FileResult, LoadResult

EXIT_FILES_FAILED = 3


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@db_option
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Events per transaction. Default: 10000.")
@json_option
def load(paths: tuple[Path, ...], db: str | None, batch_size: int | None, as_json: bool) -> None:
    """Load Cowrie's JSON logs: files, or folders with all logs in them.

    \b
      cowrieprocessor load /home/cowrie/cowrie/var/log/cowrie
      cowrieprocessor load cowrie.json cowrie.json.2026-01-31.gz --db honeypots.sqlite

    A log may be plain or compressed (gzip, bzip2, xz, zstd), a line per event, pretty-printed or a JSON array; no
    option is needed. Loading again is a no-op: also when the log was renamed, copied or compressed, and of one that
    has grown only what is new is loaded. Lines that are no events are kept as dead letters.

    Ends with 0; with 3 if a file could not be read to its end (the others are loaded; an archive that was cut short
    only notes it when nothing new came out of it), 4 if the database refused, 5 if its schema has another version.
    """
    from cowrieprocessor.cli.shared.progress import LoadProgressLine
    from cowrieprocessor.db.engine import get_engine
    from cowrieprocessor.loader.bulk import BulkLoader
    from cowrieprocessor.settings import load_settings

    settings = load_settings(overrides={"batch_size": batch_size})
    name = database_name(db)
    engine = get_engine(name, on_wait=say_waiting)
    signal.signal(signal.SIGTERM, _interrupt)
    with LoadProgressLine() as line:
        result = BulkLoader(engine, settings=settings, on_progress=line.update).load(paths)
    engine.dispose()
    for one in result.files:
        for warning in one.warnings:
            message(f"note: {warning}")
        if one.error:
            message(f"error: {one.error}")
    if as_json:
        print_json(load_document(result))
    else:
        for text in load_summary(result):
            click.echo(text)
    if result.failed:
        raise click.exceptions.Exit(EXIT_FILES_FAILED)


def _interrupt(_signal: int, _frame: object) -> None:
    """End the load as Ctrl-C does: whoever stops a service sends SIGTERM."""
    raise KeyboardInterrupt


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
