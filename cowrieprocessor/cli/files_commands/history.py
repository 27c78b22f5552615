"""`cowrieprocessor files history`: what the sources of verdicts said about one file over time."""

from __future__ import annotations

import click

from cowrieprocessor.cli.shared.common import (
    db_option,
    json_option,
    limit_option,
    print_json,
    print_text,
    reading,
    screen,
)


@click.command()
@click.argument("sha256", metavar="SHA256")
@db_option
@limit_option(100, "changes, the latest ones,")
@json_option
def history(sha256: str, db: str | None, limit: int, as_json: bool) -> None:
    """Show what the sources said about one file over time: each change of verdict, and who has not answered.

    One line for each change, in order of time over all sources: when a source first said so and when last, and
    what it said before (`unknown → malicious 12/70`, `malicious 12/70 → 40/71`). Sources that failed or refused
    are named with the reason. SHA256 may be the beginning of the hash (6 characters or more), or a whole MD5 or
    SHA-1.

    Ends with 0, also when no source was asked yet; with 1 if there is no such file, or if several begin like this.

    \b
    Example: cowrieprocessor files history 8d2eda9f6a44
    """
    from cowrieprocessor.reporting.queries.file_details import find_hash
    from cowrieprocessor.reporting.queries.file_history import file_history
    from cowrieprocessor.reporting.render.history import file_history_text

    with reading(db) as connection:
        found = file_history(connection, find_hash(connection, sha256), limit=limit)
    if as_json:
        print_json(found)
    else:
        print_text(file_history_text(found, screen()))
