"""One file or one session as text, with everything that is known about it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from cowrieprocessor.reporting.queries.file_details import FileDetails, Sightings
from cowrieprocessor.reporting.queries.file_mentions import Mention
from cowrieprocessor.reporting.queries.sessions import SessionDetails, SessionEvent
from cowrieprocessor.reporting.render.history import source_text
from cowrieprocessor.reporting.render.limits import MAX_EVENTS, left_out_text
from cowrieprocessor.reporting.render.listings import flags
from cowrieprocessor.reporting.render.terminal import (
    Column,
    Screen,
    cell,
    draw,
    facts,
    file_hash,
    heading,
    minute,
    moment,
    moment_text,
    number,
    sentence,
    shown,
    size,
    size_text,
    table,
    verdict,
)
from cowrieprocessor.reporting.timeline import describe_event
from cowrieprocessor.wording import plural

_SHORT_EVENT = "cowrie."
_EVENT_TEXT_CHARS = 1000
_PARTS_SHOWN = 100


def file_text(file: FileDetails, screen: Screen, *, is_so_far: bool = False) -> str:
    """Return one file as text, with everything that is known about it.

    Args:
        file: the file.
        screen: the output device.
        is_so_far: whether a backfill may still bring sightings of it: then its dates and counts are those so far.
    """
    so_far = " (so far)" if is_so_far else ""
    size_bytes = "" if file.size_bytes is None else f"{size_text(file.size_bytes)} ({plural(file.size_bytes, 'byte')})"
    fields = [
        ("SHA-256", cell(file.sha256)),
        ("SHA-1", cell(file.sha1)),
        ("MD5", cell(file.md5)),
        ("TLSH", cell(file.tlsh)),
        ("size", Text(size_bytes or "not known: no captured file was scanned")),
        ("type", cell(", ".join(part for part in (file.mime_type, file.file_type) if part))),
        ("verdict", verdict(file.verdict, file.vt_positives, file.vt_total)),
        ("family", cell(file.family)),
        ("reputation", number(file.reputation)),
        ("because", cell("; ".join(file.reputation_reasons), 1000)),
        ("VirusTotal", cell(file.vt_classification)),
        ("", cell(file.vt_description, 1000)),
        ("first seen there", moment(file.vt_first_seen)),
        ("analysed there", moment(file.vt_last_analysis)),
        ("asked", moment(file.vt_scan_date)),
        *_sources(file),
        ("first seen here", Text(f"{moment_text(file.first_seen)}{so_far}")),
        ("last seen here", Text(f"{moment_text(file.last_seen)}{so_far}")),
        ("sessions", Text(f"{file.session_count:,} from {plural(file.addresses, 'address', 'addresses')}{so_far}")),
        ("how", _joined(file.origins)),
        ("sensors", _joined(file.sensors)),
    ]
    parts: list[RenderableType] = [facts(fields)]
    parts += _mentions(screen, "Names", "name", file.names, file.names_total)
    parts += _mentions(screen, "Fetched from", "URL", file.urls, file.urls_total)
    return draw(screen, *parts, *_coverage_note(file))


def _sources(file: FileDetails) -> list[tuple[str, Text]]:
    """Return a line for each source: its current answer and queue state."""
    lines = [Text(f"{shown(source.provider, 32)}: ").append_text(source_text(source)) for source in file.sources]
    return [("" if index else "sources", line) for index, line in enumerate(lines)]


def _coverage_note(file: FileDetails) -> list[RenderableType]:
    """Return a note on sessions of the file that were not read; empty if all were."""
    if file.sightings_read >= file.session_count:
        return []
    text = (
        f"\nSensors, addresses and how it came are counted over the latest {file.sightings_read:,} of "
        f"{plural(file.session_count, 'session')}; --sightings N counts more."
    )
    return [sentence(text, "dim")]


def _joined(values: Sequence[Sightings]) -> Text:
    """Return the values with their numbers of sessions on one line."""
    return Text(", ".join(f"{shown(value.value, 64) or '(no name)'} {value.sessions:,}" for value in values))


def _mentions(screen: Screen, title: str, what: str, values: Sequence[Mention], total: int) -> list[RenderableType]:
    if not values:
        return []
    rows = [
        (number(value.sessions), cell(value.value, 1024), minute(value.first_seen), minute(value.last_seen))
        for value in values
    ]
    columns = (
        Column("sessions", number=True),
        Column(what, wraps=True, takes_rest=True),
        Column("first (UTC)", needs=88),
        Column("last (UTC)", needs=72),
    )
    parts: list[RenderableType] = [heading(title), table(screen, columns, rows)]
    if total > len(values):
        parts.append(sentence(f"and {total - len(values):,} more", "dim"))
    return parts


def session_text(session: SessionDetails, screen: Screen) -> str:
    """Return one session as text: its summary, files, and events in order of time, or its commands without events."""
    summary = session.summary
    parts: list[RenderableType] = [facts(_session_facts(session))]
    if session.files:
        parts += [heading("Files"), _session_files(session, screen)]
        parts += _more(session.files_total, len(session.files), "file")
    if len(session.parts) > 1:
        parts += _uses(screen, session)
    if session.events:
        parts += _what_happened(screen, session)
        parts += _more(session.events_total, len(session.events), "event")
    elif session.commands:
        rows = [(number(command.times), cell(command.command, 600)) for command in session.commands]
        columns = (Column("times", number=True), Column("command", wraps=True, takes_rest=True))
        parts += [heading("Commands"), table(screen, columns, rows)]
        parts += _more(session.commands_total, len(session.commands), "command")
    if not session.events and summary.event_count:
        parts.append(sentence("\nThe events of this session are no longer in the database.", "dim"))
    return draw(screen, *parts)


def _uses(screen: Screen, session: SessionDetails) -> list[RenderableType]:
    """Return the parts of a session whose id was used more than once."""
    text = (
        f"\nThis id was used {plural(len(session.parts), 'time')}: by several sensors, for several connections, or "
        "again after a long pause. What stands above is of all of them together."
    )
    columns = (
        Column("part", number=True),
        Column("sensor", wraps=True),
        Column("first event (UTC)"),
        Column("last event (UTC)", needs=72),
        Column("from", wraps=True),
        Column("events", number=True, needs=56),
    )
    shown_parts = session.parts[:_PARTS_SHOWN]
    rows = [
        (
            number(index),
            cell(part.sensor, 255),
            Text(moment_text(part.first_event_at)),
            Text(moment_text(part.last_event_at)),
            cell(part.src_ip, 45),
            number(part.events),
        )
        for index, part in enumerate(shown_parts, 1)
    ]
    parts: list[RenderableType] = [sentence(text), heading("Parts"), table(screen, columns, rows)]
    if len(session.parts) > len(shown_parts):
        parts.append(
            sentence(f"and {plural(len(session.parts) - len(shown_parts), 'more part')}: --json lists all", "dim")
        )
    return parts


def _what_happened(screen: Screen, session: SessionDetails) -> list[RenderableType]:
    """Return the events of a session, those of each part under a heading of their own."""
    if len(session.parts) == 1:
        return [heading("What happened (UTC)"), _events(screen, session.events)]
    shown_parts: list[RenderableType] = []
    for index in sorted({event.part for event in session.events}):
        sensor = shown(session.parts[index - 1].sensor, 64) or "(no sensor)"
        shown_parts += [
            heading(f"What happened in part {index}, on {sensor} (UTC)"),
            _events(screen, [event for event in session.events if event.part == index]),
        ]
    return shown_parts


def _session_facts(session: SessionDetails) -> list[tuple[str, Text]]:
    summary = session.summary
    uses = f"  (id used {plural(len(session.parts), 'time')})" if summary.reused else ""
    duration = ""
    if summary.first_event_at and summary.last_event_at:
        duration = f"  ({(summary.last_event_at - summary.first_event_at).total_seconds():,.1f} s)"
    login = {True: "  (got in)", False: "  (did not get in)", None: ""}[summary.login_success]
    return [
        ("session", Text(f"{shown(summary.session_id, 64)}{uses}")),
        ("sensor", cell(summary.sensor)),
        ("from", cell(" ".join(part for part in (summary.src_ip, summary.protocol) if part))),
        (
            "user",
            Text(f"{shown(summary.username, 255)}{login}") if summary.username is not None else Text(""),
        ),
        ("HASSH", cell(summary.hassh)),
        ("first event", Text(moment_text(summary.first_event_at))),
        (
            "last event",
            Text(f"{moment_text(summary.last_event_at)}{duration}" if summary.last_event_at else ""),
        ),
        (
            "counted",
            Text(
                ", ".join(
                    (
                        plural(summary.event_count, "event"),
                        plural(summary.login_attempts, "login attempt"),
                        plural(summary.command_count, "command"),
                        plural(summary.files, "file"),
                    )
                )
            ),
        ),
        ("flagged for its", flags(summary)),
        ("logs", cell(", ".join(session.source_files), 600)),
    ]


def _session_files(session: SessionDetails, screen: Screen) -> RenderableType:
    columns = (
        Column("SHA-256"),
        Column("how", needs=72),
        Column("size", number=True, needs=56),
        Column("verdict"),
        Column("name and URL", wraps=True, takes_rest=True),
    )
    rows = [
        (
            file_hash(file.sha256, screen),
            cell(file.origin, 16),
            size(file.file_size),
            verdict(file.verdict, None, None),
            cell("  ".join(part for part in (file.filename, file.download_url) if part), 300),
        )
        for file in session.files
    ]
    return table(screen, columns, rows)


def _events(screen: Screen, events: Sequence[SessionEvent]) -> RenderableType:
    columns = (Column("time (UTC)"), Column("event", wraps=True), Column("", wraps=True, takes_rest=True))
    rows = []
    last_day = ""
    for event in events:
        day = event.at.date().isoformat() if event.at else ""
        clock = f"{event.at:%H:%M:%S}.{event.at.microsecond // 1000:03d}" if event.at else "(no time)"
        time = f"{day} {clock}" if day and day != last_day else clock.rjust(len("2026-11-21 00:00:00.000"))
        last_day = day or last_day
        name = (event.event_type or "(no name)").removeprefix(_SHORT_EVENT)
        rows.append(
            (
                Text(time if event.at else clock),
                cell(name, 32),
                cell(
                    describe_event(event.event_type, event.fields),
                    _EVENT_TEXT_CHARS,
                    _style(event.event_type),
                ),
            )
        )
    return table(screen, columns, rows)


def _style(event_type: str | None) -> str:
    if event_type == "cowrie.command.input":
        return "bold"
    return "yellow" if event_type in ("cowrie.session.file_download", "cowrie.session.file_upload") else ""


def _more(total: int, shown_count: int, what: str) -> list[RenderableType]:
    text = left_out_text(total, shown_count, what, MAX_EVENTS)
    return [] if text is None else [sentence(text, "dim")]
