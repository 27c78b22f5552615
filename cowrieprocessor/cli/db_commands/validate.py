"""`cowrieprocessor db validate`: check the tables of version 4 against the stored events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import db_argument, json_option, named_db_option, print_json, print_text
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.jobs.validation.report import ValidationReport

EXIT_DIFFERENT = 1


@click.command()
@named_db_option
@click.option(
    "--limit-differences",
    type=click.IntRange(0, 1_000_000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many differences to list; all are counted.",
)
@click.option("--files-only", is_flag=True, help="Skip the tables of sessions: much faster.")
@click.option("--counters", is_flag=True, help="Check the counters of every session, not of a sample.")
@json_option
def validate(db: str, limit_differences: int, files_only: bool, counters: bool, as_json: bool) -> None:
    """Check every row of version 4's tables against the stored events.

    Recomputes each (session, hash) and each field of `files`, then file_hashes and the tables of sessions,
    by an independent implementation of the rules; checks formats, orphans, the schema, and v3's rows against their
    state at the migration; lists each difference. Nothing is changed. Loaders may run: rows written meanwhile are
    read again before they count as different. The recomputed rows need space in the temporary folder (TMPDIR), about
    a tenth of the database's size.

    Counters that v3 doubled are reported, but are no difference.

    Ends with 0 if nothing differs; with 1 if something does, or if the backfill has not processed every event; 4 if
    the database cannot be read, 5 if it has to be migrated first.

    \b
    Example: cowrieprocessor db validate --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.validation.validate import validate as run

    engine = get_engine(db, read_only=True)
    try:
        with JobProgressLine(ticks=True) as line:
            report = run(
                engine,
                limit_differences=limit_differences,
                files_only=files_only,
                all_counters=counters,
                on_progress=line.update,
            )
    finally:
        dispose(engine)
    if as_json:
        print_json(report)
    else:
        print_text(report_text(report, db))
    if not report.valid:
        raise click.exceptions.Exit(EXIT_DIFFERENT)


def report_text(report: ValidationReport, db: str) -> str:
    """Return a report as text for people; attackers' text is escaped."""
    lines = [
        *(f"{table}: {plural(rows, 'row')} compared" for table, rows in report.compared.items()),
        *(f"events without a row: {reason}: {rows:,}" for reason, rows in report.without_row.items()),
        *_counters(report, db),
        *_not_backfilled(report, db),
    ]
    total = sum(report.differences.values())
    if total:
        lines.append(f"{plural(total, 'difference')}:")
        lines += [f"  {rows:,} {what}" for what, rows in report.differences.items()]
        lines.append(f"the first {len(report.first_differences):,}:")
        lines += [f"  {difference.describe()}" for difference in report.first_differences]
    verdict = "valid: every row agrees with the events" if report.valid else "NOT valid"
    lines.append(f"{report.database}: {verdict} ({report.seconds:,.1f} s)")
    return "".join(f"{terminal_safe(line)}\n" for line in lines)


def _counters(report: ValidationReport, db: str) -> list[str]:
    counters = report.counters
    if not counters.wrong:
        return []
    share = counters.wrong / counters.sessions
    if counters.is_sample:
        sessions = f"about {share:.1%} of the sessions ({plural(counters.sessions, 'was', 'were')} sampled)"
    else:
        sessions = f"{counters.wrong:,} of {plural(counters.sessions, 'session')} ({share:.1%})"
    has, their = ("has", "its") if counters.wrong == 1 and not counters.is_sample else ("have", "their")
    return [
        f"{sessions} {has} counters or times that differ from {their} events, as v3 left them: "
        f"`cowrieprocessor db recount{db_argument(db)}` repairs them"
    ]


def _not_backfilled(report: ValidationReport, db: str) -> list[str]:
    lines = []
    for job, rows in report.not_backfilled.items():
        if rows == 0:
            continue
        what = "has not begun" if rows is None else f"has not processed {plural(rows, 'event')} yet"
        lines.append(
            f"not backfilled: {job} {what}: run `cowrieprocessor db backfill{db_argument(db)}`, then validate again"
        )
    return lines
