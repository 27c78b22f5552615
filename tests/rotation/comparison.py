"""Compares what the database contains with what it must contain."""

from __future__ import annotations

import base64
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.loader.bulk import BulkLoader
from tests.logical_digest import difference, logical_contents
from tests.rotation.lines import SEPARATORS

if TYPE_CHECKING:
    from tests.rotation.sequence import Run

_ORIGIN_COLUMNS = ("source", "source_files", "source_offset", "source_generation", "metadata_json")


def differences(run: Run) -> list[str]:
    """Return the differences between database and model as text; empty if there are none."""
    stored = stored_events(run.engine)
    return [
        *_compare_events(run, stored),
        *_compare_dead_letters(run, stored),
        *_compare_gap(run, stored),
        *_compare_sessions(run.engine, stored),
        *_compare_accounts(run.engine),
        *_load_again(run, stored),
    ]


def stored_events(engine: Engine) -> Counter[str]:
    """Return how often each payload is stored."""
    return Counter(row[0] for row in _rows(engine, "SELECT CAST(payload AS TEXT) FROM raw_events"))


def _rows(engine: Engine, sql: str) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(text(sql)))


def _compare_events(run: Run, stored: Counter[str]) -> list[str]:
    missing, unexpected = run.model.required - stored, stored - run.world.honeypot.written
    return [
        *(f"stored {stored[line]} times instead of {run.model.required[line]}: {line}" for line in missing),
        *(f"stored {stored[line]} times, written {run.world.honeypot.written[line]}: {line}" for line in unexpected),
    ]


def _compare_dead_letters(run: Run, events: Counter[str]) -> list[str]:
    least, most = run.model.torn(events)
    rows = _rows(run.engine, "SELECT CAST(payload AS TEXT), CAST(metadata_json AS TEXT) FROM dead_letter_events")
    letters = [(_bytes(json.loads(payload)), json.loads(metadata)) for payload, metadata in rows]
    stored = Counter(raw for raw, metadata in letters if not metadata.get("event_stored"))
    of_files = Counter(raw.decode() for raw, metadata in letters if metadata.get("event_stored"))
    without_session = Counter(
        {line: count for line, count in events.items() if _is_file_without_session(json.loads(line))}
    )
    return [
        *(f"files refused {of_files}, without a session {without_session}" for _ in "x" if of_files != without_session),
        *(f"dead letter missing: {piece!r}" for piece in least - stored),
        *(f"dead letter {stored[piece]} times, at most {most[piece]}: {piece!r}" for piece in stored - most),
    ]


def _is_file_without_session(event: Mapping[str, object]) -> bool:
    """Return whether an event names a file and no session: the event is stored, its file is a dead letter."""
    return "session" not in event and "shasum" in event


def _bytes(payload: Mapping[str, str]) -> bytes:
    raw = payload["text"].encode() if "text" in payload else base64.b64decode(payload["base64"])
    return raw.strip(SEPARATORS)


def _compare_gap(run: Run, stored: Counter[str]) -> list[str]:
    least, most = run.model.gap(stored)
    stored = _rows(run.engine, "SELECT COALESCE(SUM(bytes_gap), 0) FROM log_files")[0][0]
    found = (
        []
        if least <= stored <= most or (run.has_met and least <= stored)
        else [f"a gap of {stored} bytes instead of {least} to {most}"]
    )
    # A reported loss may be taken back if something comes back that was gone: there the gap is not certain.
    is_reported = run.gaps_reported == stored or (run.gaps_reported > stored and least < most)
    if not (run.was_ended or run.has_met) and not is_reported:
        found.append(f"the polls reported {run.gaps_reported} lost bytes, log_files has {stored}")
    return found


def _compare_sessions(engine: Engine, stored: Counter[str]) -> list[str]:
    """Compare the counters of sessions with a recount from the stored events."""
    expected: dict[str, dict[str, Any]] = {}
    for line, count in stored.items():
        event = json.loads(line)
        if "session" not in event:
            continue
        empty = {"events": 0, "commands": 0, "files": 0, "logins": 0, "first": "9", "last": ""}
        session = expected.setdefault(event["session"], empty)
        session["events"] += count
        session["commands"] += count * (event["eventid"] == "cowrie.command.input")
        session["files"] += count * (event["eventid"] == "cowrie.session.file_download")
        session["logins"] += count * event["eventid"].startswith("cowrie.login.")
        moment = event["timestamp"].replace("T", " ").removesuffix("Z")[:19]
        session["first"], session["last"] = min(session["first"], moment), max(session["last"], moment)
    rows = _rows(
        engine,
        "SELECT session_id, event_count AS events, command_count AS commands, file_downloads AS files,"
        " login_attempts AS logins, CAST(first_event_at AS TEXT) AS first, CAST(last_event_at AS TEXT) AS last"
        " FROM session_summaries",
    )
    found = {row.session_id: {**row._mapping, "first": row.first[:19], "last": row.last[:19]} for row in rows}
    for session in found.values():
        del session["session_id"]
    names = sorted(expected.keys() | found.keys())
    return [
        f"session {name}: {found.get(name)} instead of {expected.get(name)}"
        for name in names
        if found.get(name) != expected.get(name)
    ]


def _compare_accounts(engine: Engine) -> list[str]:
    """Compare each log's checkpoint with the bytes that are accounted for."""
    rows = _rows(engine, "SELECT * FROM log_files")
    return [
        f"{row.source}: {row.bytes_stored} + {row.bytes_dead} + {row.bytes_nul} bytes are not {row.byte_pos}"
        for row in rows
        if row.bytes_stored + row.bytes_dead + row.bytes_nul != row.byte_pos or row.bytes_gap < 0
    ]


def _load_again(run: Run, stored: Counter[str]) -> list[str]:
    """Load everything present with the bulk loader: nothing is new, and a new database is equal to this one."""
    paths = run.world.disk.paths()
    if not paths:
        return []
    clean = get_engine(shutil.copyfile(run.template, run.world.disk.folder.parent / "clean.sqlite"))
    try:
        found = []
        if not run.world.disk.was_destroyed:
            BulkLoader(clean).load(paths)
            tables = ("raw_events", "session_summaries", "session_attributes", "command_stats", "files", "file_hashes")
            found = difference(
                *(logical_contents(engine, tables=tables, without=_ORIGIN_COLUMNS) for engine in (clean, run.engine))
            )
    finally:
        dispose(clean)
    BulkLoader(run.engine).load(paths)
    if more := stored_events(run.engine) - stored:
        found.append(f"loading everything again stored {more}")
    return found
