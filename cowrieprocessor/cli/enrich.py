"""`cowrieprocessor enrich`: look files up at VirusTotal and other sources, within quota."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.enrich_text import ProgressLines, import_text, result_text
from cowrieprocessor.cli.shared.common import (
    database_name,
    db_option,
    json_option,
    named_db_option,
    notify,
    print_json,
    print_text,
    report_waiting,
)
from cowrieprocessor.cli.shared.lazy import LazyGroup
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.enrichment.providers.v3_cache import ImportedCache
    from cowrieprocessor.jobs.enrichment.run import EnrichOptions

EXIT_REFUSED = 2
EXIT_FILES_FAILED = 3
EXIT_NO_ANSWER = 7
SHOWN_UNREADABLE = 20

COMMANDS: dict[str, tuple[str, str]] = {
    "import-cache": ("cowrieprocessor.cli.enrich:import_cache", "Import v3's cache of VirusTotal's answers."),
    "status": ("cowrieprocessor.cli.enrich_status:status", "Show queue, quota, failures, and the estimated end."),
}
"""For each command, its location and help line."""

_SOURCES = ("hashlookup", "malwarebazaar", "urlhaus", "urlhaus-url", "virustotal")


@click.group(cls=LazyGroup, lazy_commands=COMMANDS, invoke_without_command=True)
@db_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Send requests about at most N files.")
@click.option(
    "--provider", "providers", multiple=True, type=click.Choice(_SOURCES), help="Ask only this source (repeatable)."
)
@click.option(
    "--watch", is_flag=True, help="Keep running: wait for quota, for retries that are due, and for new files."
)
@click.option(
    "--order",
    type=click.Choice(("turn", "oldest")),
    default="turn",
    show_default=True,
    help="Among new files, ask first about those in most sessions (turn) or those seen first.",
)
@click.option(
    "--sha256", "hashes", multiple=True, metavar="SHA256", help="Ask about this file now, whatever is already known."
)
@json_option
@click.pass_context
def enrich(
    context: click.Context,
    db: str | None,
    limit: int | None,
    providers: tuple[str, ...],
    watch: bool,
    order: str,
    hashes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask VirusTotal, MalwareBazaar, URLhaus and CIRCL hashlookup about the files, within quota.

    Sources that cost nothing come first: the cache, Cowrie's own verdicts in the logs, hashlookup, then abuse.ch.
    VirusTotal is asked only about files without a decisive verdict. One answer serves every session that had the file,
    is kept with its history, and is refreshed when it is old. Keys come from the environment:
    COWRIEPROC_VIRUSTOTAL_KEY, COWRIEPROC_ABUSECH_KEY; hashlookup needs none. See docs/enrichment.md.

    Without --watch it ends when nothing is left to ask, the daily quota is used up, or a source wants fewer requests
    twice in a row; the same command continues from there. SIGTERM and Ctrl-C let the request in flight finish. With
    USE_NEW_ENRICHMENT=0 only the cache, the queue and the quota ledger are written.

    Ends with 0, also when the quota is used up; 2 if a key or a setting cannot be used, or a source does not accept its
    key (the other sources are still asked), 4 if the database refused, 5 if it has to be migrated first, 7 if requests
    failed and no source answered any; a run that was asked to stop does not end with 7.

    \b
    Example: cowrieprocessor enrich --limit 100
             cowrieprocessor enrich --watch --db /var/lib/cowrieprocessor/cowrie.sqlite
    """
    if context.invoked_subcommand is not None:
        if any((db, limit, providers, watch, hashes, as_json)):
            raise click.UsageError(f"options go after the subcommand: enrich {context.invoked_subcommand} --db ...")
        return
    from cowrieprocessor.jobs.enrichment.run import EnrichOptions

    full_hashes = _full_hashes(db, hashes)
    run_enrichment(
        database_name(db),
        EnrichOptions(limit, providers or None, watch, "oldest" if order == "oldest" else "turn", full_hashes),
        as_json=as_json,
    )


@click.command("enrichment_refresh")
@named_db_option
@click.option(
    "--files", type=click.IntRange(0), is_flag=False, flag_value=0, metavar="[N]", help="Refresh files; at most N."
)
@json_option
def refresh(db: str, files: int | None, as_json: bool) -> None:
    """Refresh what is known about files: an alias of `cowrieprocessor enrich`.

    Ends with 0, also when the quota is used up; 2 if a key or a setting cannot be used, 4 if the database refused,
    5 if it has to be migrated first, 7 if requests failed and no source answered any.

    \b
    Example: python scripts/enrichment_refresh.py --files 100 --db sqlite:///cowrie.sqlite
    """
    from cowrieprocessor.jobs.enrichment.run import EnrichOptions

    run_enrichment(db, EnrichOptions(limit=files or None), as_json=as_json)


@click.command("import-cache")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, readable=False))
@db_option
@json_option
def import_cache(folder: Path, db: str | None, as_json: bool) -> None:
    """Import v3's cache folder, so that answers already paid for are not requested again.

    Reads all three layouts that v3 wrote; the age of an answer is its file's modification time. Importing again is a
    no-op. Files without an answer are listed. No request is sent.

    Ends with 0; 3 if files could not be read (the others are imported), 4 if the database refused, 5 if it has to be
    migrated first.

    \b
    Example: cowrieprocessor enrich import-cache ~/.cache/cowrieprocessor
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.enrichment.run import import_v3_cache
    from cowrieprocessor.settings import load_settings

    engine = get_engine(database_name(db), on_wait=report_waiting)
    try:
        result = import_v3_cache(engine, folder, load_settings(), notify=notify, on_progress=_report_import_progress)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
    else:
        for path, why in result.unreadable[:SHOWN_UNREADABLE]:
            notify(f"note: {path}: {why}")
        if len(result.unreadable) > SHOWN_UNREADABLE:
            notify(f"note: {len(result.unreadable) - SHOWN_UNREADABLE:,} more; --json lists all")
        print_text(import_text(result))
    if result.unreadable:
        raise click.exceptions.Exit(EXIT_FILES_FAILED)


def run_enrichment(db: str, options: EnrichOptions, *, as_json: bool) -> None:
    """Run enrichment on a database and print the result."""
    from cowrieprocessor.cli.shared.backfill_hint import print_hint, with_completeness
    from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
    from cowrieprocessor.jobs.enrichment.run import enrich as run
    from cowrieprocessor.reporting.queries.backfill import FILES_JOB, completeness
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    stop = threading.Event()
    _stop_on_signals(stop)
    if not settings.use_new_enrichment:
        notify(
            "USE_NEW_ENRICHMENT=0: only the cache, the queue and the quota ledger are written; every other table stays "
            "as it is. Once it is 1 again, the cache is replayed without a request."
        )
    lines = ProgressLines()
    engine = get_engine(db, on_wait=report_waiting)
    try:
        result = run(engine, settings, options, stop=stop, notify=notify, on_progress=lines.update)
        with read_transaction(engine) as connection:
            state = completeness(connection, [FILES_JOB])
    finally:
        dispose(engine)
    if as_json:
        print_json(with_completeness(result, state))
    else:
        print_text(result_text(result))
    print_hint(state)
    if result.refused:
        raise click.exceptions.Exit(EXIT_REFUSED)
    if result.has_failed:
        raise click.exceptions.Exit(EXIT_NO_ANSWER)


def _full_hashes(db: str | None, prefixes: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the full SHA-256 for each hash or prefix; None if there are none."""
    if not prefixes:
        return None
    from cowrieprocessor.cli.shared.common import read_connection
    from cowrieprocessor.reporting.queries.file_details import find_hash

    with read_connection(db) as connection:
        return tuple(find_hash(connection, prefix) for prefix in prefixes)


def _stop_on_signals(stop: threading.Event) -> None:
    """Make SIGTERM and the first Ctrl-C end the run after the request in flight; the second Ctrl-C ends it at once."""

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        notify("stopping: the request in flight is finished and its answer kept")

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _report_import_progress(result: ImportedCache) -> None:
    if result.files % 10_000 < 100:
        notify(f"{plural(result.files, 'file')} read")
