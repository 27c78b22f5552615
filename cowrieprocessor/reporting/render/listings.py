"""Lists as text: files, sessions, the sessions of a file, dead letters."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from rich.text import Text

from cowrieprocessor.reporting.queries.dead_letters import DeadLetter, ReasonCount
from cowrieprocessor.reporting.queries.file_sessions import FileSession
from cowrieprocessor.reporting.queries.files import FileListing
from cowrieprocessor.reporting.queries.paging import Page
from cowrieprocessor.reporting.queries.sensor_list import SensorList, SensorListing
from cowrieprocessor.reporting.queries.sessions import SessionListing
from cowrieprocessor.reporting.render.terminal import (
    Column,
    Screen,
    cell,
    draw,
    file_hash,
    media_type,
    minute,
    number,
    sentence,
    shown,
    size,
    table,
    verdict,
)
from cowrieprocessor.wording import plural

_UNFINISHED_ESCAPE = re.compile(r"\\u?[0-9a-f]{0,4}$|\\$", re.IGNORECASE)


def files_text(page: Page[FileListing], screen: Screen) -> str:
    """Return a page of files as text."""
    if not page.rows:
        return "No files match.\n"
    columns = (
        Column("SHA-256"),
        Column("name", wraps=True, takes_rest=True),
        Column("type", needs=100),
        Column("size", number=True, needs=88),
        Column("sessions", number=True, needs=56),
        Column("verdict"),
        Column("last seen (UTC)", needs=72),
    )
    rows = [
        (
            file_hash(file.sha256, screen),
            cell(file.name, 120),
            media_type(file.mime_type),
            size(file.size_bytes),
            number(file.session_count),
            verdict(file.verdict, file.vt_positives, file.vt_total),
            minute(file.last_seen),
        )
        for file in page.rows
    ]
    return draw(screen, table(screen, columns, rows))


def file_sessions_text(page: Page[FileSession], screen: Screen, captured: Sequence[str] = ()) -> str:
    """Return a page of the sessions of a file as text; `captured` are the sensors that captured it without a log."""
    if not page.rows and captured:
        return f"No log names a session with this file; it was captured on {shown(', '.join(captured), 400)}.\n"
    if not page.rows:
        return "No more sessions.\n"
    columns = (
        Column("session"),
        Column("time (UTC)"),
        Column("from", wraps=True),
        Column("user", wraps=True, needs=64),
        Column("sensor", wraps=True, needs=96, at_most=20),
        Column("name or URL", wraps=True, takes_rest=True),
    )
    rows = [
        (
            cell(row.session_id, 24),
            minute(row.first_seen),
            cell(row.src_ip, 45),
            cell(row.username, 40),
            cell(row.sensor, 64),
            cell(row.download_url or row.filename, 200),
        )
        for row in page.rows
    ]
    return draw(screen, table(screen, columns, rows))


def sessions_text(page: Page[SessionListing], screen: Screen) -> str:
    """Return a page of sessions as text."""
    if not page.rows:
        return "No sessions match.\n"
    columns = (
        Column("session"),
        Column("began (UTC)"),
        Column("from", wraps=True),
        Column("user", wraps=True, takes_rest=True, needs=48),
        Column("cmds", number=True, needs=60),
        Column("files", number=True, needs=60),
        Column("sensor", wraps=True, needs=96, at_most=20),
        Column("flags", wraps=True, needs=72),
    )
    rows = [
        (
            _session(row),
            minute(row.first_event_at),
            cell(row.src_ip, 45),
            _user(row),
            number(row.command_count),
            number(row.files),
            cell(row.sensor, 64),
            flags(row),
        )
        for row in page.rows
    ]
    return draw(screen, table(screen, columns, rows))


def _session(row: SessionListing) -> Text:
    """Return the id of a session, marked if it was used more than once."""
    text = Text(shown(row.session_id, 64))
    return text.append(" (reused)", style="yellow") if row.reused else text


def _user(row: SessionListing) -> Text:
    """Return the user name, in parentheses unless the login succeeded."""
    if row.username is None:
        return Text("")
    name = shown(row.username, 60)
    return Text(name) if row.login_success else Text(f"({name})", style="dim")


def flags(row: SessionListing) -> Text:
    """Return what a session is flagged for: its file, its address, or both."""
    names = [name for name, flagged in (("file", row.vt_flagged), ("address", row.dshield_flagged)) if flagged]
    return Text(" ".join(names), style="bold red")


def sensors_text(listed: SensorList, screen: Screen) -> str:
    """Return the sensors as text."""
    if not listed.sensors:
        return "No sensors.\n"
    columns = (
        Column("sensor", wraps=True, takes_rest=True),
        Column("named by", needs=64),
        Column("logs", number=True, needs=56),
        Column("sessions", number=True),
        Column("captured only", number=True, needs=112),
        Column("first event (UTC)", needs=80),
        Column("last event (UTC)"),
    )
    rows = [
        (
            _sensor(row),
            Text(row.named_by),
            number(row.logs),
            number(row.sessions),
            number(row.captured_files),
            minute(row.first_event_at),
            minute(row.last_event_at),
        )
        for row in listed.sensors
    ]
    return draw(screen, table(screen, columns, rows))


def _sensor(row: SensorListing) -> Text:
    """Return the whole name of a sensor, with those that it had before."""
    text = Text("(none)", style="dim") if row.sensor is None else Text(shown(row.sensor, 1024))
    if row.renamed_from:
        text.append(f" (was {shown(', '.join(row.renamed_from), 1024)})", style="dim")
    return text


def dead_letters_text(page: Page[DeadLetter], counts: Sequence[ReasonCount], screen: Screen) -> str:
    """Return a page of dead letters as text, below the counts by reason."""
    if not page.rows:
        return "No dead letters.\n"
    total = sum(count.count for count in counts)
    by_reason = ", ".join(f"{shown(count.reason, 128)} {count.count:,}" for count in counts)
    columns = (
        Column("id", number=True),
        Column("stored (UTC)", needs=80),
        Column("reason", wraps=True, at_most=24),
        Column("line", number=True, needs=56),
        Column("log and beginning of the value", wraps=True, takes_rest=True),
    )
    rows = [
        (
            number(letter.id),
            minute(letter.created_at),
            cell(letter.reason + (" (resolved)" if letter.resolved else ""), 128),
            number(letter.line),
            Text(f"{shown(letter.source, 200)}\n{shown(excerpt_text(letter.excerpt), 240)}"),
        )
        for letter in page.rows
    ]
    return draw(
        screen, sentence(f"{plural(total, 'dead letter')}: {by_reason}"), Text(""), table(screen, columns, rows)
    )


def excerpt_text(excerpt: str) -> str:
    """Return the log line in an excerpt of a stored payload, as far as the excerpt contains it.

    A dead letter is stored as an object that contains the line (`malformed` in version 3). Any other payload is
    returned as it is stored.
    """
    key = re.match(r'\s*\{\s*"(?:malformed|text|raw|line)"\s*:\s*"', excerpt)
    if not key:
        return excerpt
    body = re.match(r'(?:[^"\\]|\\.)*', excerpt[key.end() :], re.DOTALL)
    text = _UNFINISHED_ESCAPE.sub("", body.group()) if body and body.end() + key.end() == len(excerpt) else body
    quoted = text if isinstance(text, str) else text.group() if text else ""
    try:
        decoded = json.loads(f'"{quoted}"', strict=False)
    except json.JSONDecodeError:
        return excerpt
    return str(decoded)
