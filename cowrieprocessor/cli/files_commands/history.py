"""`cowrieprocessor files history`: the verdicts of each source on one file over time."""

from __future__ import annotations

import click

from cowrieprocessor.cli.shared.backfill_hint import print_hint, with_completeness
from cowrieprocessor.cli.shared.common import (
    db_option,
    json_option,
    limit_option,
    print_json,
    print_text,
    read_connection,
    screen,
)


@click.command()
@click.argument("sha256", metavar="SHA256")
@db_option
@limit_option(100, "changes, the latest ones,")
@json_option
def history(sha256: str, db: str | None, limit: int, as_json: bool) -> None:
    """Show the verdicts on one file over time: each change, and the sources that have not answered.

    One line per change, ordered by time across all sources: when the source first and last gave this verdict, and the
    one before (`unknown → malicious 12/70`, `malicious 12/70 → 40/71`). Sources that failed or refused are listed with
    the reason. SHA256 may be the beginning of the hash (6 characters or more), or a full MD5 or SHA-1.

    Ends with 0, also when no source was asked yet; with 1 if no file matches, or several do.

    \b
    Example: cowrieprocessor files history 8d2eda9f6a44
    """
    from cowrieprocessor.reporting.queries.backfill import FILES_JOB, completeness
    from cowrieprocessor.reporting.queries.file_details import find_hash
    from cowrieprocessor.reporting.queries.file_history import file_history
    from cowrieprocessor.reporting.render.history import file_history_text

    with read_connection(db) as connection:
        changes = file_history(connection, find_hash(connection, sha256), limit=limit)
        state = completeness(connection, [FILES_JOB])
    if as_json:
        print_json(with_completeness(changes, state))
    else:
        print_text(file_history_text(changes, screen()))
    print_hint(state)
