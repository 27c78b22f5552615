"""`cowrieprocessor report`: what happened in a day, a week or a month."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from cowrieprocessor.cli.shared.backfill_hint import print_hint
from cowrieprocessor.cli.shared.common import (
    db_argument,
    db_option,
    json_option,
    notify,
    print_text,
    read_connection,
    screen,
    session_gap,
)
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.filesystems import os_error_text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cowrieprocessor.reporting.periods import Period
    from cowrieprocessor.reporting.reports import Report

Command = TypeVar("Command", bound=Callable[..., None])


@click.group()
def report() -> None:
    """What happened on the honeypots in a day, a week or a month, compared with the previous one.

    \b
    Example: cowrieprocessor report daily --date 2026-11-21
    """


def _options(function: Command) -> Command:
    """Add the options that all reports share."""
    for option in (
        json_option,
        click.option("--output", metavar="FILE", help="Write to FILE, readable only by you, instead of printing."),
        click.option(
            "--format",
            "format_",
            type=click.Choice(("text", "json", "csv")),
            help="Output format. Default: text.",
        ),
        click.option(
            "--top",
            type=click.IntRange(min=1),
            metavar="N",
            help="Rows of each list. Default: 25 of files, 10 of the others; all formats say how many are left out.",
        ),
        click.option("--sensor", metavar="NAME", help="Only what this sensor saw."),
        db_option,
    ):
        function = option(function)
    return function


@report.command()
@click.option(
    "--date", metavar="DAY", help="YYYY-MM-DD, today or yesterday (UTC). Default: the newest with sessions or files."
)
@_options
def daily(
    date: str | None,
    db: str | None,
    sensor: str | None,
    top: int | None,
    format_: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Report on one day, from midnight to midnight UTC.

    Sessions belong to the day on which they began. Ends with 0, also when nothing happened; with 1 if
    there is no such sensor.

    \b
    Example: cowrieprocessor report daily --date yesterday --output report.txt
    """
    show_report("daily", date, db, sensor, _format(format_, as_json), output, top)


@report.command()
@click.option("--date", metavar="WEEK", help="YYYY-Www, or a day of it. Default: the newest with sessions or files.")
@_options
def weekly(
    date: str | None,
    db: str | None,
    sensor: str | None,
    top: int | None,
    format_: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Report on one ISO week, from Monday to Sunday, UTC.

    Sessions belong to the week in which they began. Ends with 0, also when nothing happened; with 1 if
    there is no such sensor.

    \b
    Example: cowrieprocessor report weekly --date 2026-W47 --format csv --output week.csv
    """
    show_report("weekly", date, db, sensor, _format(format_, as_json), output, top)


@report.command()
@click.option("--date", metavar="MONTH", help="YYYY-MM, or a day of it. Default: the newest with sessions or files.")
@_options
def monthly(
    date: str | None,
    db: str | None,
    sensor: str | None,
    top: int | None,
    format_: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Report on one month, UTC.

    Sessions belong to the month in which they began. Ends with 0, also when nothing happened; with 1 if
    there is no such sensor.

    \b
    Example: cowrieprocessor report monthly --date 2026-11 --json
    """
    show_report("monthly", date, db, sensor, _format(format_, as_json), output, top)


def _format(format_: str | None, as_json: bool) -> str:
    if as_json and format_ not in (None, "json"):
        raise click.UsageError(f"--json and --format {format_} contradict each other; give one of them.")
    return "json" if as_json else format_ or "text"


def show_report(
    kind_name: str,
    date: str | None,
    db: str | None,
    sensor: str | None,
    format_: str,
    output: str | None,
    top: int | None = None,
) -> None:
    """Print a report, or write it to a file.

    Args:
        kind_name: `daily`, `weekly` or `monthly`.
        date: the value of `--date`; None for the newest period with anything to report.
        db: the value of `--db`.
        sensor: only what this sensor saw; None for all sensors.
        format_: `text`, `json` or `csv`.
        output: the file to write; None to print.
        top: the most rows of each list; None for the usual number.
    """
    from cowrieprocessor.reporting.periods import PeriodKind, parse_period, period_of
    from cowrieprocessor.reporting.reports import TOP_FILES, TOP_VALUES, make_report

    kind = PeriodKind(kind_name)
    now = dt.datetime.now(dt.UTC)
    chosen = parse_period(kind, date, now) if date else None
    with read_connection(db) as connection:
        period = chosen or _newest_period(connection, kind_name, now, sensor, db) or period_of(kind, now)
        made = make_report(
            connection,
            period,
            sensor=sensor,
            session_gap=session_gap(),
            top_files=top or TOP_FILES,
            top_values=top or TOP_VALUES,
            now=now,
        )
    print_hint(made.completeness)
    text = _render(made, format_, db, to_file=output is not None)
    if output is None:
        print_text(text)
    else:
        write_private_file(Path(output), text)
        notify(f"report on {period.name} written to {output}")


def _newest_period(
    connection: Connection, kind_name: str, now: dt.datetime, sensor: str | None, db: str | None
) -> Period | None:
    """Return the newest period with anything to report, and name it on standard error."""
    from cowrieprocessor.reporting.periods import PeriodKind
    from cowrieprocessor.reporting.reports import newest_period

    period = newest_period(connection, PeriodKind(kind_name), now, sensor)
    if period is None:
        notify(f"no session and no file has a date to report: `cowrieprocessor load{db_argument(db)} PATH` loads logs")
    elif period.start > now:
        notify(f"{period.name} lies in the future, and nothing is dated before it; --date takes another")
    else:
        notify(f"{period.name} is the newest with sessions or files; --date takes another")
    return period


def _render(made: Report, format_: str, db: str | None, *, to_file: bool) -> str:
    if format_ == "json":
        from cowrieprocessor.reporting.render.json import report_json

        return report_json(made) + "\n"
    if format_ == "csv":
        from cowrieprocessor.reporting.render.csv import report_csv

        return report_csv(made)
    from cowrieprocessor.reporting.render.terminal import Screen
    from cowrieprocessor.reporting.render.text import report_text

    return report_text(made, Screen() if to_file else screen(), db_option=db_argument(db))


def write_private_file(path: Path, text: str) -> None:
    """Write a text file atomically, readable only by its owner (0600).

    Raises:
        ConfigurationError: the file cannot be written.
    """
    try:
        is_other = path.exists() and not path.is_file()
    except OSError as error:
        raise _cannot_write(path, error) from error
    if is_other:
        raise ConfigurationError(f"{path}: not a regular file; choose another name for --output")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path}: cannot be written: {os_error_text(error)}; choose another --output")
