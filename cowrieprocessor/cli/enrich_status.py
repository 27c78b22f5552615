"""`cowrieprocessor enrich status`: queue, quota, failures, and when the backlog will be done."""

from __future__ import annotations

import datetime as dt

import click

from cowrieprocessor.cli.shared.common import db_option, json_option, message, print_json, print_text, reading, screen


@click.command()
@db_option
@json_option
def status(db: str | None, as_json: bool) -> None:
    """Show how enrichment stands: files waiting for each source, quota left, failures, when all will be done.

    For each source how many files it was never asked about, is to be asked about again, and has answered; for each
    key what was sent today and this month (UTC) of what is allowed, until when it is paused and why, and when the
    files that wait now will have been asked about at this rate. Failures are counted by kind with an example. It
    may be called while `enrich` runs; nothing is changed and nobody is asked.

    Ends with 0, also when enrichment never ran; 4 if the database cannot be read, 5 if it has to be migrated first.

    \b
    Example: cowrieprocessor enrich status --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.reporting.enrichment_status import enrichment_status
    from cowrieprocessor.reporting.render.enrichment import enrichment_text
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    with reading(db) as connection:
        found = enrichment_status(connection, settings, dt.datetime.now(dt.UTC))
    if as_json:
        print_json(found)
    else:
        print_text(enrichment_text(found, screen()))
    if found.staged:
        message(
            "USE_NEW_ENRICHMENT=0: only the cache and the ledger of the quota are written; "
            f"answers in the cache that wait to be replayed when it is 1 again: {found.replayable or 0:,}"
        )
    if found.problem is not None:
        message(f"note: {found.problem}")
