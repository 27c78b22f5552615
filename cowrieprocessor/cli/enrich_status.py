"""`cowrieprocessor enrich status`: queue, quota, failures, and the estimated end of the backlog."""

from __future__ import annotations

import datetime as dt

import click

from cowrieprocessor.cli.shared.backfill_hint import print_hint, with_completeness
from cowrieprocessor.cli.shared.common import (
    db_option,
    json_option,
    notify,
    print_json,
    print_text,
    read_connection,
    screen,
)


@click.command()
@db_option
@json_option
def status(db: str | None, as_json: bool) -> None:
    """Show the state of enrichment: files waiting for each source, quota left, failures, and the estimated end.

    For each source: the files never asked about, due again, and answered. For each key: the requests sent today and
    this month (UTC) against its quota, until when it is paused and why, and when the waiting files will be done at
    this rate. Failures are counted by kind with an example. It may run while `enrich` runs; it changes nothing and
    sends no request.

    Ends with 0, also when enrichment never ran; 4 if the database cannot be read, 5 if it has to be migrated first.

    \b
    Example: cowrieprocessor enrich status --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.reporting.enrichment_status import enrichment_status
    from cowrieprocessor.reporting.queries.backfill import FILES_JOB, completeness
    from cowrieprocessor.reporting.render.enrichment import enrichment_text
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    with read_connection(db) as connection:
        state = enrichment_status(connection, settings, dt.datetime.now(dt.UTC))
        filled = completeness(connection, [FILES_JOB])
    if as_json:
        print_json(with_completeness(state, filled))
    else:
        print_text(enrichment_text(state, screen()))
    print_hint(filled)
    if state.staged:
        notify(
            "USE_NEW_ENRICHMENT=0: only the cache, the queue and the quota ledger are written; "
            f"answers in the cache that wait to be replayed when it is 1 again: {state.replayable or 0:,}"
        )
    if state.problem is not None:
        notify(f"note: {state.problem}")
