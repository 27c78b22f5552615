"""`cowrieprocessor jobs`: long jobs as other processes see them, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import (
    database_name,
    db_option,
    json_option,
    open_for_writing,
    print_json,
    print_text,
    read_connection,
    report_waiting,
)
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from cowrieprocessor.jobs.runtime.job_list import ListedJob

_NAMES = click.argument("names", metavar="JOB...", nargs=-1, required=True)


@click.group()
def jobs() -> None:
    """Long jobs: how far they are, who runs them, and how the last ones ended.

    \b
    Example: cowrieprocessor jobs list
    """


@jobs.command("list")
@db_option
@json_option
def list_(db: str | None, as_json: bool) -> None:
    """List the jobs of a database, the most recently updated first.

    A job is running, waiting (with the reason), paused, done, failed or stopped. `died` is one whose process is gone
    without a last word: the same command goes on from there. `silent` is one whose process cannot be asked, on another
    machine or in a container, and that has said nothing for five minutes; after that another process may take it over.

    A backup, a restore and a validation are recorded in files beside the database (NAME.job-backup and so on), because
    the database is only read, or is being replaced; the other commands here reach them just as well.

    Ends with 0; with 5 if the database has to be migrated first.

    \b
    Example: cowrieprocessor jobs list --json
    """
    listed = _listed(db)
    if as_json:
        print_json({"jobs": listed})
    else:
        print_text(_text(listed))


@jobs.command()
@_NAMES
@db_option
@json_option
def pause(names: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """Pause jobs until `jobs resume`, also those that were started here before and are started again later.

    A running job pauses a second or two after the batch that it is in; one that waits (`follow`, `files scan --watch`,
    `enrich`) within five seconds. On PostgreSQL a paused recount keeps its snapshot, which holds back vacuum: stop it
    if it shall rest for long. Ends with 0; with 1 if there is no such job, or it is not one that can be asked.

    \b
    Example: cowrieprocessor jobs pause backfill-sessions
    """
    from cowrieprocessor.jobs.runtime import job_list

    _ask(db, names, job_list.pause, "pauses", as_json=as_json)


@jobs.command()
@_NAMES
@db_option
@json_option
def resume(names: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """Let jobs go on that `jobs pause` holds. Ends with 0; with 1 if there is no such job.

    \b
    Example: cowrieprocessor jobs resume backfill-sessions
    """
    from cowrieprocessor.jobs.runtime import job_list

    _ask(db, names, job_list.resume, "goes on", as_json=as_json)


@jobs.command()
@_NAMES
@db_option
@json_option
def stop(names: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """Stop running jobs; what they have committed is kept, and the command that ran them goes on from there.

    A running job stops a second or two after the batch that it is in, and its command ends with 130;
    `follow` and `files scan --watch` end with 0, as at SIGTERM. A pause stays.
    Ends with 0, also if none of them runs; with 1 if there is no such job, or it is not one that can be asked.

    \b
    Example: cowrieprocessor jobs stop recount
    """
    from cowrieprocessor.jobs.runtime import job_list

    _ask(db, names, job_list.stop, "stops", as_json=as_json)


def _ask(
    db: str | None,
    names: Sequence[str],
    ask: Callable[[Engine, Sequence[str]], list[str]],
    verb: str,
    *,
    as_json: bool,
) -> None:
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.runtime import job_file

    engine = get_engine(database_name(db), on_wait=report_waiting)
    if any(job_file.load(engine, name) is None for name in names):
        dispose(engine)
        engine = open_for_writing(db)
    try:
        asked = ask(engine, names)
    finally:
        dispose(engine)
    if as_json:
        print_json({"jobs": asked})
        return
    others = {"goes on": "was not asked to pause", "stops": "does not run"}.get(verb, "")
    print_text("".join(f"{terminal_safe(name)} {verb if name in asked else others}\n" for name in names))


def _listed(db: str | None) -> list[ListedJob]:
    from cowrieprocessor.db.engine import get_engine
    from cowrieprocessor.errors import MigrationNeeded
    from cowrieprocessor.jobs.runtime.job_file import file_jobs
    from cowrieprocessor.jobs.runtime.job_list import list_jobs, listed_jobs

    try:
        with read_connection(db) as connection:
            return list_jobs(connection)
    except MigrationNeeded:
        beside = listed_jobs(file_jobs(get_engine(database_name(db), read_only=True)))
        if not beside:
            raise
        return beside


def _text(listed: Sequence[ListedJob]) -> str:
    from cowrieprocessor.cli.shared.job_text import job_text

    if not listed:
        return "no job has been started on this database\n"
    width = max(len(job.name) for job in listed)
    return "".join(f"{terminal_safe(job.name):<{width}}  {job_text(job)}\n" for job in listed)
