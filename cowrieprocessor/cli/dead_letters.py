"""`cowrieprocessor dead-letters`: log values that could not be stored as events."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import (
    after_option,
    confirm_or_exit,
    db_option,
    json_option,
    limit_option,
    notify,
    open_for_writing,
    open_read_only,
    print_json,
    print_text,
    read_connection,
    report_next_page,
    screen,
)
from cowrieprocessor.cli.shared.stopping import interrupt_on_sigterm
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cowrieprocessor.db.dead_letters.statements import LetterFilter
    from cowrieprocessor.jobs.dead_letters.purge import PurgePlan


@click.group("dead-letters")
def dead_letters() -> None:
    """Log values that could not be stored as events, and why.

    \b
    Example: cowrieprocessor dead-letters list
    """


_SOURCE_HELP = "Only those of this log, given as `list` shows it or by its current path."


@dead_letters.command("list")
@db_option
@click.option("--reason", metavar="TEXT", help="Only those with exactly this reason.")
@click.option("--source", metavar="PATH", help=_SOURCE_HELP)
@click.option("--all", "resolved", is_flag=True, help="Include resolved ones.")
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

    Begins with the number for each reason. Control characters are shown as escapes. Ends with 0, also when there
    are none.

    \b
    Example: cowrieprocessor dead-letters list --reason 'not JSON'
    """
    from cowrieprocessor.reporting.queries.dead_letters import count_dead_letters, list_dead_letters
    from cowrieprocessor.reporting.render.listings import dead_letters_text
    from cowrieprocessor.reporting.render.terminal import shown

    with read_connection(db) as connection:
        page = list_dead_letters(connection, reason=reason, source=source, resolved=resolved, limit=limit, after=after)
        counts = count_dead_letters(connection, source=source, resolved=resolved)
    if as_json:
        print_json({"counts": counts, "dead_letters": page.rows, "next": page.next})
        return
    print_text(dead_letters_text(page, counts, screen()))
    if reason is not None and counts and reason not in {count.reason for count in counts}:
        others = ", ".join(repr(shown(count.reason, 128)) for count in counts)
        notify(f"note: none has the reason {reason!r}; there are: {others}")
    if source is not None and not counts:
        notify(f"note: none is of the log {source!r}; `dead-letters list` without --source shows the logs")
    report_next_page(page.next)


@dead_letters.command()
@click.argument("letter_id", metavar="ID", type=click.IntRange(1))
@db_option
@json_option
def show(letter_id: int, db: str | None, as_json: bool) -> None:
    """Show one dead letter in full: its reason, its position in the log, and its bytes.

    Control characters are shown as escapes, links are defanged; --json has the original bytes. Ends with 0, with 1 if
    no dead letter has this id.

    \b
    Example: cowrieprocessor dead-letters show 17
    """
    from cowrieprocessor.reporting.queries.dead_letters import dead_letter
    from cowrieprocessor.reporting.render.dead_letters import dead_letter_text

    with read_connection(db) as connection:
        letter = dead_letter(connection, letter_id)
    if as_json:
        print_json(letter)
    else:
        print_text(dead_letter_text(letter, screen()))


@dead_letters.command()
@db_option
@click.option("--reason", metavar="TEXT", help="Only those with exactly this reason.")
@click.option(
    "--id", "ids", type=click.IntRange(1), multiple=True, metavar="N", help="Only this dead letter; may be repeated."
)
@click.option("--source", metavar="PATH", help=_SOURCE_HELP)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop once N are resolved.")
@click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing.")
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
    """Parse dead letters again with the current program and settings, and store those that are now valid events.

    Use it after an upgrade, or after raising a limit (COWRIEPROC_MAX_VALUE_BYTES). Each event is stored as loading
    would have stored it, and its letter is resolved in the same transaction: interrupted or run twice, no event is
    lost or stored twice. For a letter over 1 MiB the bytes are read from its log, if that still exists. Letters that
    are refused again stay, with the reason shown. Loaders may run at the same time.

    Letters of version 3 are resolved if their event is stored already. Other events in them, also in lines that
    version 3 could not read, are stored, and `db backfill` adds their files and commands.

    Ends with 0, also when all letters stay; with 4 if the database refused, 5 if it has another schema version,
    130 if it was interrupted.

    \b
    Example: cowrieprocessor dead-letters replay --reason 'larger than the limit for one event'
    """
    from cowrieprocessor.cli.dead_letters_text import print_replay_result, replay_document
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.db.engine import describe, dispose
    from cowrieprocessor.jobs.dead_letters.replay import replay as run
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    engine = open_read_only(db) if dry_run else open_for_writing(db)
    interrupt_on_sigterm()
    try:
        choice = _choice(engine, resolved=False, reason=reason, ids=ids, source=source)
        with JobProgressLine() as line:
            result = run(engine, settings, choice, limit=limit, dry_run=dry_run, on_progress=line.update)
    finally:
        dispose(engine)
    if as_json:
        print_json(replay_document(describe(engine), result))
    else:
        print_replay_result(result)


@dead_letters.command()
@db_option
@click.option("--resolved/--all", "resolved", default=True, help="Only resolved ones (default), or all.")
@click.option("--reason", metavar="TEXT", help="Only those with exactly this reason.")
@click.option("--source", metavar="PATH", help=_SOURCE_HELP)
@click.option("--older-than", metavar="TIME", help="Only those stored longer ago than this: 12h, 90d.")
@click.option("--dry-run", is_flag=True, help="Only show how many would be deleted.")
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
    """Delete resolved dead letters, or with --all also unresolved ones.

    Shows how many letters of each reason are deleted. Deleted letters cannot be replayed, so --all asks on a terminal
    and requires --yes elsewhere. Letters that version 3 wrote may be deleted, too: this is recorded, so `db validate`
    does not report them as missing, and a rollback does not bring them back.

    Ends with 0; with 1 if you said no, 2 if --yes is needed, 4 if the database refused, 5 if it has another schema
    version, 130 if it was interrupted.

    \b
    Example: cowrieprocessor dead-letters purge --older-than 90d
    """
    from cowrieprocessor.cli.dead_letters_text import ProgressLines, print_purge_result
    from cowrieprocessor.db.engine import describe, dispose
    from cowrieprocessor.jobs.dead_letters import purge as job

    engine = open_read_only(db) if dry_run else open_for_writing(db)
    interrupt_on_sigterm()
    try:
        choice = _choice(
            engine, resolved=True if resolved else None, reason=reason, source=source, older_than=older_than
        )
        plan = job.plan(engine, choice)
        purged = None
        if not dry_run:
            if plan.unresolved and not yes:
                _confirm_purge(describe(engine), plan)
            purged = job.purge(engine, choice, on_progress=ProgressLines().purged, notify=notify)
    finally:
        dispose(engine)
    if as_json:
        print_json({"database": describe(engine), "dry_run": dry_run, "plan": plan, "purged": purged})
    else:
        print_purge_result(plan, purged)


def _choice(
    engine: Engine,
    *,
    resolved: bool | None,
    reason: str | None,
    source: str | None,
    ids: tuple[int, ...] = (),
    older_than: str | None = None,
) -> LetterFilter:
    """Return the selection of dead letters that the options describe.

    Raises:
        click.BadParameter: `older_than` is no duration.
    """
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


def _confirm_purge(database: str, plan: PurgePlan) -> None:
    """Ask before unresolved letters are deleted.

    Raises:
        click.UsageError: there is no terminal to ask on.
    """
    from cowrieprocessor.cli.dead_letters_text import reason_counts

    unresolved = plural(plan.unresolved, "of them is unresolved", "of them are unresolved")
    if not sys.stdin.isatty():
        raise click.UsageError(f"{unresolved}; give --yes to delete unresolved ones, too")
    notify(f"{database}: deletes {plural(plan.letters, 'dead letter')}: {reason_counts(plan.by_reason)}")
    notify(f"{unresolved}: {'its' if plan.unresolved == 1 else 'their'} contents can never be stored afterwards")
    confirm_or_exit(yes=False)
