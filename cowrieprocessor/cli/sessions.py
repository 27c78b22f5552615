"""`cowrieprocessor sessions`: what attackers did, session by session."""

from __future__ import annotations

import click

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
    session_gap,
)
from cowrieprocessor.reporting.render.limits import MAX_EVENTS


@click.group()
def sessions() -> None:
    """What attackers did, session by session.

    \b
    Example: cowrieprocessor sessions list --since 2026-11-21 --with-files
    """


@sessions.command("list")
@db_option
@click.option("--since", metavar="TIME", help="Only sessions that began then or later (ISO 8601, UTC, or yesterday).")
@click.option("--until", metavar="TIME", help="Only sessions that began before then.")
@click.option("--src-ip", metavar="ADDRESS|CIDR", help="Only sessions from this address or network.")
@click.option("--sensor", metavar="NAME", help="Only sessions on this sensor.")
@click.option("--with-files", is_flag=True, help="Only sessions that left a file.")
@click.option("--flagged", is_flag=True, help="Only sessions flagged for a file or for their address.")
@limit_option(50, "sessions")
@after_option
@json_option
def list_(
    db: str | None,
    since: str | None,
    until: str | None,
    src_ip: str | None,
    sensor: str | None,
    with_files: bool,
    flagged: bool,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List the sessions, the latest first: when, where from, which user, how many commands and files.

    A user name in brackets did not log in successfully. `(reused)` marks a session id that was used more than once.
    Sessions without a readable time come last. Ends with 0, also when no session matches; with 1 if there is no such
    sensor, 2 if --src-ip is no address or --until is not after --since.

    \b
    Example: cowrieprocessor sessions list --src-ip 198.51.100.7
    """
    from cowrieprocessor.reporting.periods import parse_span
    from cowrieprocessor.reporting.queries.backfill import SESSION_JOBS, completeness
    from cowrieprocessor.reporting.queries.sessions import SessionFilter, list_sessions
    from cowrieprocessor.reporting.render.listings import sessions_text

    first, end = parse_span(since, until)
    filters = SessionFilter(
        since=first,
        until=end,
        src_ip=src_ip,
        sensor=sensor,
        with_files=with_files,
        flagged=flagged,
    )
    with read_connection(db) as connection:
        page = list_sessions(connection, filters, limit=limit, after=after, gap=session_gap())
        state = completeness(connection, SESSION_JOBS)
    if as_json:
        print_json(with_completeness({"sessions": page.rows, "next": page.next}, state))
    else:
        print_text(sessions_text(page, screen()))
        report_next_page(page.next)
    print_hint(state)


@sessions.command()
@click.argument("session_id", metavar="ID")
@db_option
@limit_option(200, "events (and files, and commands)", maximum=MAX_EVENTS)
@json_option
def show(session_id: str, db: str | None, limit: int, as_json: bool) -> None:
    """Show one session: where from, its files, and what happened in order.

    A command that version 3 rewrote is shown as it was typed where that is proven, else as version 3 kept it, marked
    `[rewritten by version 3]`. URLs are defanged and their passwords hidden; --json has the events as stored. A session
    id that was used more than once (by two sensors, for two connections, or again after `session_gap_s`) is shown in
    its parts.

    Ends with 1 if there is no such session.

    \b
    Example: cowrieprocessor sessions show 3f2a9c0d1b7e
    """
    from cowrieprocessor.reporting.queries.backfill import SESSION_JOBS, completeness
    from cowrieprocessor.reporting.queries.sessions import session_details
    from cowrieprocessor.reporting.render.details import session_text

    with read_connection(db) as connection:
        details = session_details(connection, session_id, limit=limit, gap=session_gap())
        state = completeness(connection, SESSION_JOBS)
    if as_json:
        print_json(with_completeness(details, state))
    else:
        print_text(session_text(details, screen()))
    print_hint(state)
