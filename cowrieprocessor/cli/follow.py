"""`cowrieprocessor follow`: logs of running honeypots into the database, as they grow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.load_text import file_document
from cowrieprocessor.cli.shared.common import database_name, db_option, json_option, message, print_json, say_waiting
from cowrieprocessor.cli.shared.stopping import stop_on_signals, stop_waiting

if TYPE_CHECKING:
    from cowrieprocessor.jobs.watch.follow import FollowResult
    from cowrieprocessor.loader.delta import PollResult

EXIT_FILES_FAILED = 3
EXAMPLE_LOG = "/srv/cowrie/var/log/cowrie/cowrie.json"


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path, readable=False))
@db_option
@click.option("--once", is_flag=True, help="Store what is new now, and end: for cron.")
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="Look so often, instead of being told of changes by the kernel.",
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

    A PATH is a live log, which stands for the rotated ones beside it, too, or a folder of logs; it may appear later.
    Without one, every [[sensor]] of sensors.toml is followed. Logs may be renamed, compressed, truncated or deleted
    at any time; what was destroyed before it could be read is said, with its size. SIGTERM or Ctrl-C ends it; started
    again, it goes on from there. docs/follow.md says the rest.

    While the database is locked or full, or its server away, it waits, says so, and loses nothing; with --once it
    ends instead. With --json each look that found something is one line of JSON; with --once too, one document.

    Ends with 0 when it was told to stop; with 2 for a wrong call or setting; 3 if --once could not read a file to its
    end (the others are stored); 4 if the database refused; 5 if its schema has another version; 6 if another process
    of this machine follows one of the paths; 130 at the second Ctrl-C.

    \b
    Example: cowrieprocessor follow /srv/cowrie/var/log/cowrie/cowrie.json
             cowrieprocessor follow --once --db /var/lib/cowrieprocessor/cowrie.sqlite
    """
    from cowrieprocessor.cli.shared.follow_progress import FollowLines
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.watch.follow import LOCK_TIMEOUT_S
    from cowrieprocessor.jobs.watch.follow import follow as run
    from cowrieprocessor.settings import load_settings

    settings = load_settings(overrides={"batch_size": batch_size})
    followed = paths or _configured_logs()
    stop = threading.Event()
    stop_on_signals(stop, "stopping: the batch in hand is committed")
    engine = get_engine(
        database_name(db),
        lock_timeout_s=settings.lock_timeout_s if once else min(settings.lock_timeout_s, LOCK_TIMEOUT_S),
        on_wait=_on_wait(stop, is_said=once),
    )
    lines = FollowLines(len(followed))

    def on_look(look: PollResult) -> None:
        lines.looked(look)
        if as_json and not once:
            print_look(look)

    try:
        with lines:
            result = run(
                engine,
                followed,
                settings,
                once=once,
                poll_s=poll_s,
                stop=stop,
                notify=message,
                on_poll=on_look,
                on_progress=lines.progress,
            )
    finally:
        dispose(engine)
    if as_json:
        if once:
            print_json(follow_document(result))
    else:
        for text in follow_summary(result):
            click.echo(text)
    if once and result.failed:
        raise click.exceptions.Exit(EXIT_FILES_FAILED)


def follow_summary(result: FollowResult) -> list[str]:
    """Return what a follower did, in lines for people."""
    counters = result.counters
    lines = [
        f"{counters['events']:,} new events, {counters['file_sightings']:,} of them with a file, in "
        f"{_spoken(result.duration_s)}"
    ]
    if counters["dead_letters"]:
        lines.append(f"{counters['dead_letters']:,} not stored as events: cowrieprocessor dead-letters list")
    if counters["file_dead_letters"]:
        lines.append(
            f"{counters['file_dead_letters']:,} events whose file could not be taken up: "
            "cowrieprocessor dead-letters list"
        )
    if result.losses:
        times = "once" if result.losses == 1 else f"{result.losses:,} times"
        lines.append(f"{result.bytes_lost:,} bytes were destroyed before they could be read, {times}")
    if result.stopped:
        lines.append("stopped; the same command goes on from here")
    return lines


def follow_document(result: FollowResult) -> dict[str, object]:
    """Return what `--once` did, for scripts."""
    return {
        "duration_s": round(result.duration_s, 3),
        "stopped": result.stopped,
        "counters": dict(sorted(result.counters.items())),
        "files": [file_document(one) for one in result.files],
        "gaps": [{"path": gap.path, "bytes_lost": gap.bytes_lost} for gap in result.gaps],
    }


def look_document(look: PollResult) -> dict[str, object] | None:
    """Return what one look found, for scripts; None if it found nothing."""
    import datetime as dt

    files = [one for one in look.files if one.counters or one.error or one.warnings]
    if not files and not look.gaps:
        return None
    return {
        "at": dt.datetime.now(dt.UTC),
        "counters": dict(sorted(look.counters.items())),
        "files": [file_document(one) for one in files],
        "gaps": [{"path": gap.path, "bytes_lost": gap.bytes_lost} for gap in look.gaps],
    }


def print_look(look: PollResult) -> None:
    """Print what one look found as one line of JSON, in ASCII; nothing if it found nothing."""
    import json

    from cowrieprocessor.reporting.render.json import plain

    if document := look_document(look):
        click.echo(json.dumps(plain(document), ensure_ascii=True, allow_nan=False))


def _configured_logs() -> tuple[Path, ...]:
    """Return the logs of every configured sensor.

    Raises:
        ConfigurationError: there is none; the message shows how to write one.
    """
    from cowrieprocessor.settings.sensors import load_sensors, no_sensors

    logs = tuple(sensor.logpath for sensor in load_sensors())
    if not logs:
        raise no_sensors("logpath", EXAMPLE_LOG)
    return logs


def _on_wait(stop: threading.Event, *, is_said: bool) -> Callable[[float], None]:
    """Return what is done now and then while another process has the database."""
    give_up_on_stop = stop_waiting(stop)

    def on_wait(waited_s: float) -> None:
        give_up_on_stop(waited_s)
        if is_said:
            say_waiting(waited_s)

    return on_wait


def _spoken(seconds: float) -> str:
    """Return a duration for people."""
    minutes, left_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left_s} s" if minutes else f"{left_s} s"
