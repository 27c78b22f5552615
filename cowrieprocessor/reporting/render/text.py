"""Reports as text: a summary sentence, the dropped files, then sources, commands and sensors."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cowrieprocessor.reporting.periods import PeriodKind
from cowrieprocessor.reporting.queries.activity import Ranking, Totals
from cowrieprocessor.reporting.queries.dead_letters import SUSPECTED_BY_V3
from cowrieprocessor.reporting.render.history import changed_verdicts_section, found_malicious_section
from cowrieprocessor.reporting.render.terminal import (
    SHORT_HASH_CHARS,
    Column,
    Screen,
    cell,
    draw,
    file_hash,
    heading,
    media_type,
    moment_text,
    number,
    sentence,
    shown,
    size,
    table,
    verdict,
)
from cowrieprocessor.reporting.reports import Change, Report
from cowrieprocessor.sanitize import shell_word
from cowrieprocessor.wording import plural

_SIDE_BY_SIDE_WIDTH = 90
_PERIOD = {PeriodKind.DAILY: "day", PeriodKind.WEEKLY: "week", PeriodKind.MONTHLY: "month"}
_COMPARED = (
    ("sessions", "sessions"),
    ("addresses", "source addresses"),
    ("sessions_logged_in", "sessions let in"),
    ("login_attempts", "login attempts"),
    ("commands", "commands"),
    ("files", "different files"),
    ("files_new", "never seen before"),
    ("files_malicious", "malicious"),
    ("downloads", "downloads"),
    ("uploads", "uploads"),
    ("files_found_malicious", "found to be malicious"),
    ("verdicts_changed", "changed verdicts"),
)


def report_text(report: Report, screen: Screen, *, db_option: str = "") -> str:
    """Return a report as text.

    Args:
        report: the report.
        screen: the output device.
        db_option: ` --db NAME` for the commands at the end; empty where the settings name the database.
    """
    title = f"Cowrie report: {report.period.title} (UTC)" + (
        f", sensor {shown(report.sensor, 64)}" if report.sensor else ""
    )
    parts: list[RenderableType] = [
        Text(title, style="bold"),
        Rule(style="dim"),
        sentence(headline(report)),
    ]
    parts += _notes(report)
    if not report.is_empty or report.has_news:
        parts += [Text(""), _comparison(report, screen)]
        parts += _files(report, screen)
        parts += found_malicious_section(report.found_malicious, report.totals.files_found_malicious, screen)
        parts += changed_verdicts_section(report.changed_verdicts, report.totals.answers_changed, screen)
        parts += _ranking(screen, "URLs of downloads", report.urls, "URL", "files", 300)
        parts += _pair(
            screen,
            _ranking(screen, "Where from", report.addresses, "address", "events", 45),
            _ranking(screen, "User names", report.usernames, "name", "logins tried", 60),
        )
        parts += _ranking(screen, "What they typed", report.commands, "command", "times", 160)
        parts += _pair(
            screen,
            _ranking(screen, "Sensors", report.sensors, "sensor", "events", 64),
            _ranking(screen, "Protocols", report.protocols, "protocol", "events", 16),
        )
    parts += _dead_letters(report)
    commands = next_commands(report, db_option)
    if commands:
        parts.append(heading("Next"))
    # Commands are meant to be copied: each stays on one line, however narrow the screen is.
    return draw(screen, *parts) + "".join(f"  {line}\n" for line in commands)


def headline(report: Report) -> str:
    """Return the report in one or two sentences."""
    if report.is_empty and report.has_news:
        return f"No session began and no file was seen ({report.period.name}, UTC). {_news_sentence(report.totals)}"
    if report.is_empty and report.is_to_come:
        return f"This {_PERIOD[report.period.kind]} has not come yet ({report.period.name}, UTC)."
    if report.is_empty:
        return f"Nothing happened: no session began and no file was seen ({report.period.name}, UTC)."
    return f"{_sessions_sentence(report.totals)} {_files_sentence(report.totals)}"


def _sessions_sentence(totals: Totals) -> str:
    if not totals.sessions:
        return "No session began."
    text = plural(totals.sessions, "session")
    if totals.addresses:
        text += f" from {plural(totals.addresses, 'address', 'addresses')}"
    if totals.sessions_logged_in:
        text += f", {totals.sessions_logged_in:,} of them let in"
    return f"{text}."


def _news_sentence(totals: Totals) -> str:
    """Return what sources said that is new, about files of any date."""
    news = []
    if totals.files_found_malicious:
        were = "was" if totals.files_found_malicious == 1 else "were"
        news.append(f"{plural(totals.files_found_malicious, 'file')} of earlier days {were} found malicious")
    if totals.answers_changed:
        news.append(f"{plural(totals.answers_changed, 'answer')} about earlier files changed")
    return f"{', '.join(news)}."


def _files_sentence(totals: Totals) -> str:
    if not totals.files:
        return f"No file {'is recorded' if totals.sessions_without_their_files else 'was dropped'}."
    if totals.sessions_with_files:
        sessions = plural(totals.sessions_with_files, "session")
        if totals.sessions_begun_earlier == totals.sessions_with_files:
            sessions += " that began earlier"
        elif totals.sessions_begun_earlier:
            sessions += f", {totals.sessions_begun_earlier:,} of them begun earlier,"
        dropped = f"{sessions} dropped {plural(totals.files, 'file', 'different files')}"
    else:
        dropped = f"{plural(totals.files, 'captured file')} that no log names"
    details = _file_details(totals)
    if details:
        return f"{dropped}: {', '.join(details)}."
    if totals.files_new is None:
        return f"{dropped}."
    return f"{dropped}, {'all ' if totals.files > 1 else ''}seen before."


def _file_details(totals: Totals) -> list[str]:
    """Return how many of the files are malicious, suspicious and new; empty if none is, or it is not known."""
    details = []
    if totals.files_malicious:
        details.append(f"{totals.files_malicious:,} malicious")
    if totals.files_suspicious:
        details.append(f"{totals.files_suspicious:,} suspicious")
    if totals.files_new == totals.files:
        details.append("none of them seen before" if totals.files > 1 else "not seen before")
    elif totals.files_new:
        details.append(f"{totals.files_new:,} never seen before")
    return details


def _notes(report: Report) -> list[RenderableType]:
    """Return notes on missing data; a few downloads without a file are normal and not worth a note."""
    totals = report.totals
    notes = []
    state = report.completeness
    or_not_yet = "" if state.complete else ", or are not backfilled yet"
    if state.is_recount:
        notes.append(
            f"An earlier release derived addresses, user names and commands; those of {state.percent} of the sessions "
            "are renewed. `cowrieprocessor db recount` renews the rest."
        )
    elif not state.complete:
        notes.append(
            f"This report is incomplete: the backfill of {state.lacks} is at {state.percent}. Those that an earlier "
            "release stored are not all here; `cowrieprocessor db backfill` adds them."
        )
    if state.may_count_twice:
        notes.append(
            "Events that version 3 stored or counted twice may count twice here: `cowrieprocessor db recount` counts "
            "each once."
        )
    if totals.sessions_reused:
        were = "was" if totals.sessions_reused == 1 else "were"
        notes.append(
            f"{plural(totals.sessions_reused, 'session id')} {were} used more than once, each for one session here: "
            "`sessions list` marks them, `sessions show` tells the parts."
        )
    if totals.sessions_without_attributes:
        notes.append(
            f"Address, user name and protocol of {plural(totals.sessions_without_attributes, 'session')} are not "
            f"known: the events that tell them are not in the logs{or_not_yet}."
        )
    if totals.sessions_without_sensor:
        have = "has" if totals.sessions_without_sensor == 1 else "have"
        notes.append(
            f"{plural(totals.sessions_without_sensor, 'session')} {have} no sensor: their events name none, their logs "
            f"were given none{or_not_yet}."
        )
    if totals.sessions_without_their_files > totals.sessions_with_files:
        notes.append(
            f"In {plural(totals.sessions_without_their_files, 'session')} downloads were counted of which no file is "
            f"recorded: they were empty, failed or named no valid hash{or_not_yet}."
        )
    return [sentence(note, "yellow") for note in notes]


def _comparison(report: Report, screen: Screen) -> Table:
    period = _PERIOD[report.period.kind]
    changes = report.changes()
    columns = [Column(""), Column(f"this {period}", number=True)]
    if any(change.previous for change in changes.values()):
        columns += [Column(f"{period} before", number=True), Column("change", number=True)]
    rows = [
        (
            Text(label),
            number(changes[name].current),
            number(changes[name].previous),
            _change(changes[name]),
        )[: len(columns)]
        for name, label in _COMPARED
        if changes[name].current or changes[name].previous
    ]
    return table(screen, columns, rows)


def _change(change: Change) -> Text:
    if change.percent is None:
        return Text("new" if change.current else "")
    return Text(f"{change.percent:+,.0f} %" if change.percent else "same")


def _files(report: Report, screen: Screen) -> list[RenderableType]:
    if not report.files:
        return []
    columns = (
        Column("SHA-256"),
        Column("name", wraps=True, takes_rest=True),
        Column("type", needs=92),
        Column("size", number=True, needs=72),
        Column("sessions", number=True, needs=56),
        Column("verdict"),
        Column("first seen" if report.totals.files_new is not None else "first seen so far", needs=60),
    )
    rows = [
        (
            file_hash(file.sha256, screen),
            cell(file.name, 80),
            media_type(file.mime_type),
            size(file.size_bytes),
            number(file.sessions),
            verdict(file.verdict, file.vt_positives, file.vt_total),
            Text("new", style="bold") if file.new else Text(moment_text(file.first_seen)[:10]),
        )
        for file in report.files
    ]
    parts: list[RenderableType] = [heading("What was dropped"), table(screen, columns, rows)]
    return parts + _more(report.totals.files - len(report.files), "file")


def _ranking(
    screen: Screen, title: str, ranking: Ranking, value: str, times: str, max_chars: int
) -> list[RenderableType]:
    if not ranking.top:
        return []
    columns = (
        Column("sessions", number=True),
        Column(times, number=True),
        Column(value, wraps=True, takes_rest=True),
    )
    rows = [
        (
            number(ranked.sessions),
            number(ranked.times),
            cell(ranked.value, max_chars) if ranked.value else Text("(empty)", style="dim"),
        )
        for ranked in ranking.top
    ]
    return [heading(title), table(screen, columns, rows), *_more(ranking.distinct - len(ranking.top), "more")]


def _more(count: int, what: str) -> list[RenderableType]:
    if count <= 0:
        return []
    return [sentence(f"and {plural(count, 'more file', 'more files') if what == 'file' else f'{count:,} more'}", "dim")]


def _pair(screen: Screen, left: Sequence[RenderableType], right: Sequence[RenderableType]) -> Sequence[RenderableType]:
    """Return two sections side by side if the screen is wide enough, else one below the other."""
    if not left or not right or screen.width < _SIDE_BY_SIDE_WIDTH:
        return [*left, *right]
    grid = Table.grid(expand=True, padding=(0, 4, 0, 0), pad_edge=False)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    for index in range(max(len(left), len(right))):
        grid.add_row(*(side[index] if index < len(side) else Text("") for side in (left, right)))
    return [grid]


def _dead_letters(report: Report) -> list[RenderableType]:
    if not report.dead_letters:
        return []
    total = sum(letters.count for letters in report.dead_letters)
    suspected = sum(letters.count for letters in report.dead_letters if letters.reason in SUSPECTED_BY_V3)
    reasons = ", ".join(f"{shown(letters.reason, 128)} {letters.count:,}" for letters in report.dead_letters)
    parts: list[RenderableType] = [
        heading("Suspected by version 3" if suspected == total else "Not understood"),
        sentence(f"{plural(total, 'dead letter')} of any date: {reasons}"),
    ]
    if suspected:
        parts.append(
            sentence(
                f"{plural(suspected, 'of these is an event', 'of these are events')} that version 3 suspected and, as "
                "a rule, stored; `cowrieprocessor dead-letters replay` resolves the letters of those that are stored."
            )
        )
    return parts


def next_commands(report: Report, db_option: str) -> list[str]:
    """Return the commands that show more, ready to paste into a shell; none that would show an empty period.

    Args:
        report: the report below which they stand.
        db_option: ` --db NAME`; empty where the settings name the database.
    """
    lines = []
    if report.files:
        lines.append(f"cowrieprocessor files show{db_option} {report.files[0].sha256[:SHORT_HASH_CHARS]}")
    for sha256 in _hashes_with_news(report)[:1]:
        lines.append(f"cowrieprocessor files history{db_option} {sha256[:SHORT_HASH_CHARS]}")
    if report.totals.sessions:
        lines.append(f"cowrieprocessor sessions list{db_option} {_session_options(report)}")
    if report.earlier_session is not None:
        lines.append(f"cowrieprocessor sessions show{db_option} {shell_word(report.earlier_session)}")
    if report.dead_letters:
        lines.append(f"cowrieprocessor dead-letters list{db_option}")
    other = [report.period.previous()] if report.previous.sessions or report.previous.files else []
    if report.newest is not None and report.newest not in other:
        other.append(report.newest)
    lines += [
        f"cowrieprocessor report {period.kind}{db_option} --date {period.name}{_sensor_option(report)}"
        for period in other
    ]
    return lines


def _hashes_with_news(report: Report) -> list[str]:
    """Return the hashes of files found malicious, or, if there are none, of changed verdicts."""
    found = [file.sha256 for file in report.found_malicious]
    return found or [change.sha256 for change in report.changed_verdicts]


def _session_options(report: Report) -> str:
    """Return the options of `sessions list` that pick the report's sessions."""
    since, until = (moment.date().isoformat() for moment in (report.period.start, report.period.end))
    options = f"--since {since} --until {until}{_sensor_option(report)}"
    return f"{options} --with-files" if report.lists_files else options


def _sensor_option(report: Report) -> str:
    return f" --sensor {shell_word(report.sensor)}" if report.sensor else ""
