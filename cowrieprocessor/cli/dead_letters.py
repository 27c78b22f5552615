"""`cowrieprocessor dead-letters`: values of logs that could not be stored as events."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import (
    after_option,
    database_name,
    db_option,
    json_option,
    limit_option,
    message,
    open_for_reading,
    print_json,
    print_text,
    reading,
    say_more,
    say_waiting,
    screen,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cowrieprocessor.db.dead_letters.statements import LetterFilter
    from cowrieprocessor.jobs.dead_letters.purge import PurgePlan

EXIT_DECLINED = 1


@click.group("dead-letters")
def dead_letters() -> None:
    """Values of logs that could not be stored as events, and why.

    \b
    Example: cowrieprocessor dead-letters list
    """


_SOURCE_HELP = "Only those of this log: its path, as `list` shows it or where it lies now."


@dead_letters.command("list")
@db_option
@click.option("--reason", metavar="TEXT", help="Only those with exactly this reason.")
@click.option("--source", metavar="PATH", help=_SOURCE_HELP)
@click.option("--all", "resolved", is_flag=True, help="Also those that were resolved since.")
@limit_option(50, "dead letters", maximum=1000)
@after_option
@json_option
def list_(
    db: str | None,
    reason: str | None,
    source: str | None,
    resolved: bool,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List the dead letters, the latest stored first: reason, log, line, and how the value begins.

    How many there are for each reason stands above. Control characters are shown as escapes. Ends with 0,
    also when there is none.

    \b
    Example: cowrieprocessor dead-letters list --reason 'not JSON'
    """
    from cowrieprocessor.reporting.queries.dead_letters import count_dead_letters, list_dead_letters
    from cowrieprocessor.reporting.render.listings import dead_letters_text

    with reading(db) as connection:
        page = list_dead_letters(connection, reason=reason, source=source, resolved=resolved, limit=limit, after=after)
        counts = count_dead_letters(connection, source=source, resolved=resolved)
    if as_json:
        print_json({"counts": counts, "dead_letters": page.rows, "next": page.next})
        return
    print_text(dead_letters_text(page, counts, screen()))
    say_more(page.next)


@dead_letters.command()
@click.argument("letter_id", metavar="ID", type=click.IntRange(1))
@db_option
@json_option
def show(letter_id: int, db: str | None, as_json: bool) -> None:
    """Show one dead letter whole: why, where its bytes stood, and the bytes themselves.

    Control characters are shown as escapes, links defanged; --json gives the bytes as they came. Ends with 0,
    with 1 if there is none with this id.

    \b
    Example: cowrieprocessor dead-letters show 17
    """
    from cowrieprocessor.reporting.queries.dead_letters import dead_letter
    from cowrieprocessor.reporting.render.dead_letters import dead_letter_text

    with reading(db) as connection:
        letter = dead_letter(connection, letter_id)
    if as_json:
        print_json(letter)
    else:
        print_text(dead_letter_text(letter, screen()))


@dead_letters.command()
@db_option
@click.option("--reason", metavar="TEXT", help="Only those with exactly this reason.")
@click.option("--id", "ids", type=click.IntRange(1), multiple=True, metavar="N", help="Only this one; may be repeated.")
@click.option("--source", metavar="PATH", help=_SOURCE_HELP)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End when so many are resolved.")
@click.option("--dry-run", is_flag=True, help="Say what would become of them; change no byte.")
@json_option
def replay(
    db: str | None,
    reason: str | None,
    ids: tuple[int, ...],
    source: str | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Read dead letters again with today's program and settings, and store what is an event by now.

    Worth it after an upgrade, or after a limit was raised (COWRIEPROC_MAX_VALUE_BYTES). What is an event now is
    stored as loading would have stored it, and its letter is resolved in the same transaction: stopped at any point,
    or run twice, no event is lost or stored twice. Of a letter over 1 MiB the bytes are read from its log, if it is
    still there. What is refused again stays, and it is said why. Runs beside loaders.

    Letters of version 3: an event that is stored too is resolved; one that is not, and events in a line that
    version 3 could not read, are stored, and `db backfill` takes up their files and commands.

    Ends with 0, also when all letters stay; with 4 if the database refused, 5 if it has another schema version,
    130 if it was interrupted.

    \b
    Example: cowrieprocessor dead-letters replay --reason 'larger than the limit for one event'
    """
    from cowrieprocessor.cli.dead_letters_text import ProgressLines, replay_document, say_replayed
    from cowrieprocessor.db.engine import describe, dispose
    from cowrieprocessor.jobs.dead_letters.replay import replay as run
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    engine = open_for_reading(db) if dry_run else _open_for_writing(db)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        choice = _choice(engine, resolved=False, reason=reason, ids=ids, source=source)
        result = run(
            engine,
            settings,
            choice,
            limit=limit,
            dry_run=dry_run,
            on_progress=ProgressLines().replayed,
            notify=message,
        )
    finally:
        dispose(engine)
    if as_json:
        print_json(replay_document(describe(engine), result))
    else:
        say_replayed(result)


@dead_letters.command()
@db_option
@click.option("--resolved/--all", "resolved", default=True, help="Only resolved ones (default), or all.")
@click.option("--reason", metavar="TEXT", help="Only those with exactly this reason.")
@click.option("--source", metavar="PATH", help=_SOURCE_HELP)
@click.option("--older-than", metavar="TIME", help="Only those stored longer ago than this: 12h, 90d.")
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def purge(
    db: str | None,
    resolved: bool,
    reason: str | None,
    source: str | None,
    older_than: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters: those that were resolved, or with --all also those that wait.

    Says how many of which reason go. What waits cannot be replayed afterwards, so --all asks on a terminal, and
    elsewhere wants --yes. Letters that version 3 wrote may go as well: the migration's record says so, `db validate`
    does not miss them, and a rollback does not bring them back.

    Ends with 0; with 1 if you said no, 2 if --yes is needed, 4 if the database refused, 5 if it has another schema
    version, 130 if it was interrupted.

    \b
    Example: cowrieprocessor dead-letters purge --older-than 90d
    """
    from cowrieprocessor.cli.dead_letters_text import ProgressLines, say_purged
    from cowrieprocessor.db.engine import describe, dispose
    from cowrieprocessor.jobs.dead_letters import purge as job

    engine = open_for_reading(db) if dry_run else _open_for_writing(db)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        choice = _choice(
            engine, resolved=True if resolved else None, reason=reason, source=source, older_than=older_than
        )
        plan = job.plan(engine, choice)
        purged = None
        if not dry_run:
            if plan.unresolved and not yes:
                _ask(describe(engine), plan)
            purged = job.purge(engine, choice, on_progress=ProgressLines().purged, notify=message)
    finally:
        dispose(engine)
    if as_json:
        print_json({"database": describe(engine), "dry_run": dry_run, "plan": plan, "purged": purged})
    else:
        say_purged(plan, purged)


def _open_for_writing(db: str | None) -> Engine:
    """Return an engine on a database that is there and at our version."""
    from cowrieprocessor.db.engine import dispose, get_engine

    dispose(open_for_reading(db))
    return get_engine(database_name(db), on_wait=say_waiting)


def _choice(
    engine: Engine,
    *,
    resolved: bool | None,
    reason: str | None,
    source: str | None,
    ids: tuple[int, ...] = (),
    older_than: str | None = None,
) -> LetterFilter:
    import datetime as dt

    from cowrieprocessor.db.dead_letters.statements import LetterFilter, sources_of
    from cowrieprocessor.db.engine import read_transaction
    from cowrieprocessor.settings.values import duration

    before, sources = None, None
    if older_than is not None:
        try:
            before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=duration(older_than))
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(f"{older_than!r}: {error}", param_hint="--older-than") from error
    if source is not None:
        with read_transaction(engine) as connection:
            sources = sources_of(connection, source)
    return LetterFilter(resolved, reason, tuple(sorted(set(ids))) or None, sources, before)


def _interrupt(_signal: int, _frame: object) -> None:
    """End as Ctrl-C does: whoever stops a service sends SIGTERM."""
    raise KeyboardInterrupt


def _ask(database: str, plan: PurgePlan) -> None:
    """Ask before letters go that wait."""
    from cowrieprocessor.cli.dead_letters_text import by_reason

    if not sys.stdin.isatty():
        raise click.UsageError(f"{plan.unresolved:,} of them wait to be replayed; give --yes to delete them, too")
    message(f"{database}: deletes {plan.letters:,} dead letters: {by_reason(plan.by_reason)}")
    message(f"{plan.unresolved:,} of them wait: what they hold can never be stored afterwards")
    if not click.confirm("Go on?", err=True):
        message("nothing was changed")
        raise click.exceptions.Exit(EXIT_DECLINED)
