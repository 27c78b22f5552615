"""`cowrieprocessor dead-letters`: values of logs that could not be stored as events."""

from __future__ import annotations

import click

from cowrieprocessor.cli.common import (
    after_option,
    db_option,
    json_option,
    limit_option,
    print_json,
    print_text,
    reading,
    say_more,
    screen,
)


@click.group("dead-letters")
def dead_letters() -> None:
    """Values of logs that could not be stored as events, and why.

    \b
    Example: cowrieprocessor dead-letters list
    """


@dead_letters.command("list")
@db_option
@click.option("--reason", metavar="TEXT", help="Only those with exactly this reason.")
@click.option("--all", "resolved", is_flag=True, help="Also those that were resolved since.")
@limit_option(50, "dead letters", maximum=1000)
@after_option
@json_option
def list_(db: str | None, reason: str | None, resolved: bool, limit: int, after: str | None, as_json: bool) -> None:
    """List the dead letters, the latest stored first: reason, log, line, and how the value begins.

    How many there are for each reason stands above. Control characters are shown as escapes. Ends with 0,
    also when there is none.

    \b
    Example: cowrieprocessor dead-letters list --reason 'not JSON'
    """
    from cowrieprocessor.reporting.queries.dead_letters import count_dead_letters, list_dead_letters
    from cowrieprocessor.reporting.render.listings import dead_letters_text

    with reading(db) as connection:
        page = list_dead_letters(connection, reason=reason, resolved=resolved, limit=limit, after=after)
        counts = count_dead_letters(connection, resolved=resolved)
    if as_json:
        print_json({"counts": counts, "dead_letters": page.rows, "next": page.next})
        return
    print_text(dead_letters_text(page, counts, screen()))
    say_more(page.next)
