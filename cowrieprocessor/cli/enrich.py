"""`cowrieprocessor enrich`: what VirusTotal and others know about the files, within quota."""

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
    message,
    named_db_option,
    print_json,
    print_text,
    say_waiting,
)
from cowrieprocessor.cli.shared.lazy import LazyGroup

if TYPE_CHECKING:
    from cowrieprocessor.enrichment.providers.v3_cache import ImportedCache
    from cowrieprocessor.jobs.enrichment.run import EnrichOptions

EXIT_REFUSED = 2
EXIT_FILES_FAILED = 3
SHOWN_UNREADABLE = 20

COMMANDS: dict[str, tuple[str, str]] = {
    "import-cache": ("cowrieprocessor.cli.enrich:import_cache", "Take in v3's cache of VirusTotal's answers."),
    "status": ("cowrieprocessor.cli.enrich_status:status", "Show queue, quota, failures, and when all will be done."),
}
"""Each command: where it is, and its help line."""

_SOURCES = ("hashlookup", "malwarebazaar", "urlhaus", "urlhaus-url", "virustotal")


@click.group(cls=LazyGroup, places=COMMANDS, invoke_without_command=True)
@db_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Send requests about so many files at most.")
@click.option(
    "--provider", "providers", multiple=True, type=click.Choice(_SOURCES), help="Ask only this source (repeatable)."
)
@click.option("--watch", is_flag=True, help="Go on: wait for quota, for retries that are due, and for new files.")
@click.option(
    "--order",
    type=click.Choice(("turn", "oldest")),
    default="turn",
    show_default=True,
    help="Of files never asked about, first those of most sessions, or those seen first.",
)
@click.option(
    "--sha256", "hashes", multiple=True, metavar="SHA256", help="Ask about this file now, whatever is known of it."
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

    What costs nothing is asked first: the cache, Cowrie's own verdicts in the logs, hashlookup, then abuse.ch, and
    VirusTotal only about files that nobody else settled. One answer serves every session that had the file, is kept
    with its history, and is renewed when it is old. Keys come from the environment: COWRIEPROC_VIRUSTOTAL_KEY,
    COWRIEPROC_ABUSECH_KEY; hashlookup needs none. docs/enrichment.md says the rest.

    Without --watch it ends when there is nothing more to ask, or no more may be asked today; the same command goes
    on from there. SIGTERM and Ctrl-C let the request in flight finish. With USE_NEW_ENRICHMENT=0 only the cache and
    the ledger of the quota are written.

    Ends with 0, also when the quota is used up; 2 if a key or a setting cannot be used, or a source does not accept its
    key (the others are asked all the same), 4 if the database refused, 5 if it has to be migrated first.

    \b
    Example: cowrieprocessor enrich --limit 100
             cowrieprocessor enrich --watch --db /var/lib/cowrieprocessor/cowrie.sqlite
    """
    if context.invoked_subcommand is not None:
        if any((db, limit, providers, watch, hashes, as_json)):
            raise click.UsageError(f"options come behind the name: enrich {context.invoked_subcommand} --db ...")
        return
    from cowrieprocessor.jobs.enrichment.run import EnrichOptions

    whole = _whole_hashes(db, hashes)
    run_enrichment(
        database_name(db),
        EnrichOptions(limit, providers or None, watch, "oldest" if order == "oldest" else "turn", whole),
        as_json=as_json,
    )


@click.command("enrichment_refresh")
@named_db_option
@click.option(
    "--files", type=click.IntRange(0), is_flag=False, flag_value=0, metavar="[N]", help="Refresh files; N at most."
)
@json_option
def refresh(db: str, files: int | None, as_json: bool) -> None:
    """Refresh what is known about files: `cowrieprocessor enrich` under its other name.

    Ends with 0, also when the quota is used up; 2 if a key or a setting cannot be used, 4 if the database refused,
    5 if it has to be migrated first.

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
    """Take in the cache folder of v3, so that what was paid for once is not asked again.

    All three layouts that v3 wrote are read; the age of an answer is its file's modification time. Again is a no-op.
    Files that hold no answer are listed. Nothing is sent to anybody.

    Ends with 0; 3 if files could not be read (the others are taken in), 4 if the database refused, 5 if it has to be
    migrated first.

    \b
    Example: cowrieprocessor enrich import-cache ~/.cache/cowrieprocessor
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.enrichment.run import import_v3_cache
    from cowrieprocessor.settings import load_settings

    engine = get_engine(database_name(db), on_wait=say_waiting)
    try:
        result = import_v3_cache(engine, folder, load_settings(), notify=message, on_progress=_say_imported)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
    else:
        for path, why in result.unreadable[:SHOWN_UNREADABLE]:
            message(f"note: {path}: {why}")
        if len(result.unreadable) > SHOWN_UNREADABLE:
            message(f"note: {len(result.unreadable) - SHOWN_UNREADABLE:,} more; --json lists all")
        print_text(import_text(result))
    if result.unreadable:
        raise click.exceptions.Exit(EXIT_FILES_FAILED)


def run_enrichment(db: str, options: EnrichOptions, *, as_json: bool) -> None:
    """Run enrichment on a database and print what came of it."""
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.enrichment.run import enrich as run
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    stop = threading.Event()
    _stop_on_signals(stop)
    if not settings.use_new_enrichment:
        message(
            "USE_NEW_ENRICHMENT=0: only the cache and the ledger of the quota are written; every other table stays as "
            "it is. Back at 1, the cache is replayed without a request."
        )
    lines = ProgressLines()
    engine = get_engine(db, on_wait=say_waiting)
    try:
        result = run(engine, settings, options, stop=stop, notify=message, on_progress=lines.update)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
    else:
        print_text(result_text(result))
    if result.refused:
        raise click.exceptions.Exit(EXIT_REFUSED)


def _whole_hashes(db: str | None, given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the whole hashes that were named, perhaps by their beginnings."""
    if not given:
        return None
    from cowrieprocessor.cli.shared.common import reading
    from cowrieprocessor.reporting.queries.file_details import find_hash

    with reading(db) as connection:
        return tuple(find_hash(connection, one) for one in given)


def _stop_on_signals(stop: threading.Event) -> None:
    """Let SIGTERM and the first Ctrl-C end the run after the request in flight; the second Ctrl-C ends it at once."""

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        message("stopping: the request in flight is finished and kept")

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _say_imported(result: ImportedCache) -> None:
    if result.files % 10_000 < 100:
        message(f"{result.files:,} files read")
