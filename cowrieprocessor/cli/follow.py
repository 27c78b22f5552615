"""`cowrieprocessor follow`: store the logs of running honeypots while they grow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.load_text import file_document
from cowrieprocessor.cli.shared.common import (
    database_name,
    db_argument,
    db_option,
    json_option,
    notify,
    print_json,
    print_text,
    report_waiting,
)
from cowrieprocessor.cli.shared.stopping import stop_aborts_wait, stop_on_signals
from cowrieprocessor.wording import destroyed, plural

if TYPE_CHECKING:
    from cowrieprocessor.jobs.watch.follow import FollowResult
    from cowrieprocessor.loader.delta import PollResult

EXIT_FILES_FAILED = 3


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path, readable=False))
@db_option
@click.option("--once", is_flag=True, help="Store what is new and exit: for cron.")
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="Poll at this interval instead of using the kernel's change notifications.",
)
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Events per transaction. Default: 10000.")
@json_option
def follow(
    paths: tuple[Path, ...],
    db: str | None,
    once: bool,
    poll_s: float | None,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Follow Cowrie's JSON logs while honeypots write them: each event once, within two seconds.

    A PATH is a live log, which includes its rotated logs, or a folder of logs; it may appear later. Without a PATH,
    every [[sensor]] of sensors.toml is followed. Logs may be renamed, compressed, truncated or deleted at any time;
    data destroyed before it could be read is reported with its size. SIGTERM or Ctrl-C ends it; started again, it
    continues from there. See docs/follow.md.

    While the database is locked, full or unreachable, it waits, says so, and loses nothing; with --once it exits
    instead. With --json each poll that found something is one line of JSON; with --once as well, one document.

    Ends with 0 when it was stopped; with 2 for a wrong call or setting; 3 if --once could not read a file to its
    end (the others are stored); 4 if the database refused; 5 if its schema has another version; 6 if another process
    on this machine follows one of the paths; 130 at the second Ctrl-C.

    \b
    Example: cowrieprocessor follow /srv/cowrie/var/log/cowrie/cowrie.json
             cowrieprocessor follow --once --db /var/lib/cowrieprocessor/cowrie.sqlite
    """
    from cowrieprocessor.cli.shared.follow_progress import FollowProgressLine
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.watch.follow import LOCK_TIMEOUT_S
    from cowrieprocessor.jobs.watch.follow import follow as run
    from cowrieprocessor.settings import configured_logs, load_settings

    settings = load_settings(overrides={"batch_size": batch_size})
    followed_paths = paths or configured_logs()
    stop = threading.Event()
    stop_on_signals(stop, "stopping: the batch in hand is committed")
    engine = get_engine(
        database_name(db),
        lock_timeout_s=settings.lock_timeout_s if once else min(settings.lock_timeout_s, LOCK_TIMEOUT_S),
        on_wait=_on_wait(stop, is_reported=once),
    )
    line = FollowProgressLine(len(followed_paths))

    def on_poll(result: PollResult) -> None:
        line.poll_finished(result)
        if as_json and not once:
            print_poll(result)

    try:
        with line:
            result = run(
                engine,
                followed_paths,
                settings,
                once=once,
                poll_s=poll_s,
                stop=stop,
                notify=notify,
                on_poll=on_poll,
                on_progress=line.batch_stored,
            )
    finally:
        dispose(engine)
    if as_json:
        if once:
            print_json(follow_document(result))
    else:
        for text in follow_summary(result, db):
            print_text(f"{text}\n")
    if once and result.failed:
        raise click.exceptions.Exit(EXIT_FILES_FAILED)


def follow_summary(result: FollowResult, db: str | None) -> list[str]:
    """Return the summary of a follower's run, as lines for people; `db` is what `--db` names."""
    listing = f"cowrieprocessor dead-letters list{db_argument(db)}"
    counters = result.counters
    lines = [
        f"{plural(counters['events'], 'new event')}, {counters['file_sightings']:,} of them with a file, in "
        f"{_duration_text(result.duration_s)}"
    ]
    if counters["dead_letters"]:
        lines.append(f"{counters['dead_letters']:,} not stored as events: {listing}")
    if counters["file_dead_letters"]:
        lines.append(f"{plural(counters['file_dead_letters'], 'event')} whose file could not be recorded: {listing}")
    if result.losses:
        times = "once" if result.losses == 1 else plural(result.losses, "time")
        lines.append(f"{destroyed(result.bytes_lost)}, {times}")
    if result.stopped:
        lines.append("stopped; the same command goes on from here")
    return lines


def follow_document(result: FollowResult) -> dict[str, object]:
    """Return the result of `--once` as a JSON document."""
    return {
        "duration_s": round(result.duration_s, 3),
        "stopped": result.stopped,
        "counters": dict(sorted(result.counters.items())),
        "files": [file_document(file) for file in result.files],
        "gaps": [{"path": gap.path, "bytes_lost": gap.bytes_lost} for gap in result.gaps],
    }


def poll_document(result: PollResult) -> dict[str, object] | None:
    """Return the result of one poll as a JSON document; None if it found nothing."""
    import datetime as dt

    files = [file for file in result.files if file.counters or file.error or file.warnings]
    if not files and not result.gaps:
        return None
    return {
        "at": dt.datetime.now(dt.UTC),
        "counters": dict(sorted(result.counters.items())),
        "files": [file_document(file) for file in files],
        "gaps": [{"path": gap.path, "bytes_lost": gap.bytes_lost} for gap in result.gaps],
    }


def print_poll(result: PollResult) -> None:
    """Print the result of one poll as one line of ASCII JSON; print nothing if it found nothing."""
    import json

    from cowrieprocessor.reporting.render.json import plain

    if document := poll_document(result):
        click.echo(json.dumps(plain(document), ensure_ascii=True, allow_nan=False))


def _on_wait(stop: threading.Event, *, is_reported: bool) -> Callable[[float], None]:
    """Return the callback for the time that another process has the database locked."""
    abort_if_stopped = stop_aborts_wait(stop)

    def on_wait(waited_s: float) -> None:
        abort_if_stopped(waited_s)
        if is_reported:
            report_waiting(waited_s)

    return on_wait


def _duration_text(seconds: float) -> str:
    """Return a duration for people: `2 h 3 min`, `1 min 1 s`, `7 s`."""
    minutes, left_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left_s} s" if minutes else f"{left_s} s"
