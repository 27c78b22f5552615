"""`cowrieprocessor files`: the files dropped on the honeypots."""

from __future__ import annotations

import click

from cowrieprocessor.cli.files_commands.history import history
from cowrieprocessor.cli.files_commands.scan import scan
from cowrieprocessor.cli.shared.backfill_hint import print_hint, with_completeness
from cowrieprocessor.cli.shared.common import (
    after_option,
    db_option,
    json_option,
    limit_option,
    print_json,
    print_text,
    read_connection,
    report_next_page,
    screen,
)

_VERDICTS = (
    *("malicious", "known-good", "suspicious", "clean", "unknown", "staged", "skipped", "failed"),
    *("rate-limited", "refused", "not-asked"),
)
_ORDERS = ("last-seen", "first-seen", "sessions")


@click.group()
def files() -> None:
    """Files dropped on the honeypots, by their hash, with names, sources and verdicts.

    \b
    Example: cowrieprocessor files list --verdict malicious --since 2026-11-01
    """


@files.command("list")
@db_option
@click.option("--verdict", type=click.Choice(_VERDICTS), help="Only files that are shown with this verdict.")
@click.option(
    "--since", metavar="TIME", help="Only files last seen at or after this time (ISO 8601, UTC, or yesterday)."
)
@click.option("--until", metavar="TIME", help="Only files first seen before this time.")
@click.option("--sensor", metavar="NAME", help="Only files that this sensor saw.")
@click.option("--name", metavar="TEXT", help="Only files with TEXT in any of their names, ignoring case.")
@click.option("--url", metavar="TEXT", help="Only files fetched from a URL with TEXT in it, defanged or not.")
@click.option(
    "--sort",
    type=click.Choice(_ORDERS),
    default="last-seen",
    show_default=True,
    help="Newest or most frequent first.",
)
@limit_option(50, "files")
@after_option
@json_option
def list_(
    db: str | None,
    verdict: str | None,
    since: str | None,
    until: str | None,
    sensor: str | None,
    name: str | None,
    url: str | None,
    sort: str,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List the files, newest first: hash, a name, type, size, sessions, verdict, when last seen.

    The short hash is enough for `files show`. `not-asked` means that no source was asked about the file yet.
    Ends with 0, also when no file matches; with 1 if there is no such sensor, 2 if --until is not after --since.

    \b
    Example: cowrieprocessor files list --sort sessions --limit 10
    """
    from cowrieprocessor.reporting.periods import parse_span
    from cowrieprocessor.reporting.queries.backfill import FILES_JOB, MENTIONS_JOB, SENSORS_JOB, completeness
    from cowrieprocessor.reporting.queries.files import FileFilter, FileOrder, list_files
    from cowrieprocessor.reporting.render.listings import files_text
    from cowrieprocessor.sanitize import refang

    first, end = parse_span(since, until)
    filters = FileFilter(
        verdict=verdict,
        since=first,
        until=end,
        sensor=sensor,
        name=name or None,
        url=refang(url) if url else None,
    )
    order: FileOrder = "sessions" if sort == "sessions" else "first-seen" if sort == "first-seen" else "last-seen"
    jobs = [FILES_JOB]
    jobs += [SENSORS_JOB] if sensor is not None else []
    jobs += [MENTIONS_JOB] if name or url else []
    with read_connection(db) as connection:
        page = list_files(connection, filters, order=order, limit=limit, after=after)
        state = completeness(connection, jobs)
    if as_json:
        print_json(with_completeness({"files": page.rows, "next": page.next}, state))
    else:
        print_text(files_text(page, screen()))
        report_next_page(page.next)
    print_hint(state)


@files.command()
@click.argument("sha256", metavar="SHA256")
@db_option
@click.option(
    "--sightings",
    type=click.IntRange(1, 100_000),
    default=2_000,
    show_default=True,
    metavar="N",
    help="Count sensors and addresses over the latest N sessions.",
)
@json_option
def show(sha256: str, db: str | None, sightings: int, as_json: bool) -> None:
    """Show one file: hashes, size, type, verdict, every name and URL, sensors, when seen.

    SHA256 may be the beginning of the hash (6 characters or more), or a full MD5 or SHA-1. URLs are defanged and
    their passwords hidden; --json has the originals. `files history` shows the earlier verdicts of each source.

    Ends with 1 if no file matches, or several do.

    \b
    Example: cowrieprocessor files show 8d2eda9f6a44
    """
    from cowrieprocessor.reporting.queries.backfill import ALL_JOBS, FILES_JOB, awaits_backfill, completeness
    from cowrieprocessor.reporting.queries.file_details import file_details, find_hash
    from cowrieprocessor.reporting.render.details import file_text

    with read_connection(db) as connection:
        details = file_details(connection, find_hash(connection, sha256), max_sightings=sightings)
        state = completeness(connection, ALL_JOBS)
        is_so_far = awaits_backfill(connection, [FILES_JOB])
    if as_json:
        print_json(with_completeness(details, state))
    else:
        print_text(file_text(details, screen(), is_so_far=is_so_far))
    print_hint(state)


@files.command()
@click.argument("sha256", metavar="SHA256")
@db_option
@limit_option(50, "sessions")
@after_option
@json_option
def sessions(sha256: str, db: str | None, limit: int, after: str | None, as_json: bool) -> None:
    """List the sessions with one file, the latest first: source address, user, sensor.

    SHA256 may be the beginning of the hash (6 characters or more), or a full MD5 or SHA-1. A captured file that no
    log names has no sessions; it says which sensor captured it.

    Ends with 1 if no file matches, or several do.

    \b
    Example: cowrieprocessor files sessions 8d2eda9f6a44 --limit 10
    """
    from cowrieprocessor.reporting.queries.backfill import SESSION_JOBS, completeness
    from cowrieprocessor.reporting.queries.file_details import find_hash
    from cowrieprocessor.reporting.queries.file_sessions import captured_on, list_file_sessions
    from cowrieprocessor.reporting.render.listings import file_sessions_text

    with read_connection(db) as connection:
        full_hash = find_hash(connection, sha256)
        page = list_file_sessions(connection, full_hash, limit=limit, after=after)
        captured = captured_on(connection, full_hash)
        state = completeness(connection, SESSION_JOBS)
    if as_json:
        document = {"sha256": full_hash, "sessions": page.rows, "captured_on": captured, "next": page.next}
        print_json(with_completeness(document, state))
    else:
        print_text(file_sessions_text(page, screen(), captured))
        report_next_page(page.next)
    print_hint(state)


files.add_command(history)
files.add_command(scan)
