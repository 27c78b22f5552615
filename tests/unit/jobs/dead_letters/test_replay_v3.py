"""Replay of dead letters of v3 and of the backfill: events that v3 stored are never stored again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import CommandStat, DeadLetterEvent, Files, RawEvent, SessionSummary
from cowrieprocessor.errors import InvalidShasum
from cowrieprocessor.interpret import file_events
from cowrieprocessor.jobs.dead_letters.replay import replay
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.rows import file_aggregates
from cowrieprocessor.reporting.queries.backfill import ALL_JOBS
from cowrieprocessor.settings import Settings
from tests import v3_schema
from tests import v4_state_scene as scene
from tests.logs import count, events
from tests.other_connections import sqlite3
from tests.unit.jobs.dead_letters.letters import letters, summary

SETTINGS = Settings()
AT = "2025-01-02T04:00:{:02d}.000000Z".format
DOWNLOAD = v3_schema.event(
    "cowrie.session.file_download", "lost", AT(1), shasum=v3_schema.SHA_B, url="http://203.0.113.9/late"
)
COMMAND = v3_schema.event("cowrie.command.input", "lost", AT(2), input="uname -a")


@pytest.fixture
def v3(db_url: str) -> Iterator[Engine]:
    """An engine on a migrated v3 database, on SQLite and on PostgreSQL."""
    engine = get_engine(db_url)
    scene.make_v3(engine)
    apply_migrations(engine)
    yield engine
    dispose(engine)


def add_v3_line(engine: Engine, line: str, offset: int, *, letters_of_it: int = 1) -> None:
    """Add a line that v3 could not read: its row, and its dead letters."""
    malformed = {"malformed": line}
    with write_transaction(engine) as connection:
        connection.execute(
            insert(RawEvent).values(
                source=v3_schema.LOG, source_offset=offset, source_inode="77", payload=malformed, quarantined=True
            )
        )
        for _ in range(letters_of_it):
            connection.execute(
                insert(DeadLetterEvent).values(
                    source=v3_schema.LOG, source_offset=offset, reason="validation", payload=malformed
                )
            )


def add_v3_event(engine: Engine, event: Mapping[str, object], offset: int | None, *, is_stored: bool) -> None:
    """Add an event that v3 quarantined: its letter, and its row."""
    with write_transaction(engine) as connection:
        if is_stored:
            columns: dict[str, Any] = {"source": v3_schema.LOG, "source_offset": offset, "source_inode": "77"}
            connection.execute(insert(RawEvent).values(payload=dict(event), quarantined=True, **columns))
        connection.execute(
            insert(DeadLetterEvent).values(
                source=v3_schema.LOG, source_offset=offset, reason="quarantined", payload=dict(event)
            )
        )


def test_a_line_of_v3_that_is_an_event_now_is_stored_once(v3: Engine) -> None:
    """An event after NULs, unreadable for v3, is stored; the backfill adds its derived rows; validation passes."""
    add_v3_line(v3, "\0\0\0" + json.dumps(DOWNLOAD), 50, letters_of_it=2)
    add_v3_line(v3, json.dumps(COMMAND) + json.dumps(DOWNLOAD | {"timestamp": AT(9)}), 51)
    add_v3_line(v3, '{"eventid": "cowrie.session.conn', 52)
    before = count(v3, RawEvent)

    result = replay(v3, SETTINGS)

    assert (5, 3, 3, {"still not JSON": 2}) == summary(result)  # one of them is the scene's own
    assert (1, 3) == (result.counters["events_stored_already"], result.counters["events_for_the_backfill"])
    assert before + 3 == count(v3, RawEvent)
    with read_transaction(v3) as connection:
        session = connection.execute(select(SessionSummary).where(SessionSummary.session_id == "lost")).one()
    assert (3, 1, 2) == (session.event_count, session.command_count, session.file_downloads)

    backfill(v3)
    backfill(v3)

    assert 1 == count(v3, Files, Files.session_id == "lost")
    with read_transaction(v3) as connection:
        found = connection.execute(select(CommandStat.occurrences).where(CommandStat.session_id == "lost")).scalars()
        assert [1] == list(found)
    report = validate(v3)
    assert {} == report.differences
    assert (0, 0) == summary(replay(v3, SETTINGS))[1:3]


def test_a_line_replayed_after_the_backfill_is_counted_once(v3: Engine) -> None:
    """Events replayed after the backfill ended are processed by its next run, once."""
    backfill(v3)
    add_v3_line(v3, "\0" + json.dumps(COMMAND), 50)
    backfill(v3)
    replay(v3, SETTINGS)
    unfinished = validate(v3)
    backfill(v3)
    assert dict(zip(ALL_JOBS, (0, 0, 1, 1), strict=True)) == unfinished.not_backfilled
    assert validate(v3).valid
    with read_transaction(v3) as connection:
        found = connection.execute(select(CommandStat.occurrences).where(CommandStat.session_id == "lost")).scalars()
        assert [1] == list(found)


def test_a_quarantined_event_that_v3_stored_is_resolved(v3: Engine) -> None:
    """An event found by its offset, or by session, type and timestamp, is not stored again."""
    add_v3_event(v3, COMMAND, 60, is_stored=True)
    add_v3_event(v3, DOWNLOAD, 61, is_stored=True)
    nameless = {"eventid": "odd", "message": "neither session nor time"}
    add_v3_event(v3, nameless, 62, is_stored=True)
    with write_transaction(v3) as connection:
        connection.execute(text("UPDATE dead_letter_events SET source_offset = 999 WHERE source_offset = 61"))
    if v3.dialect.name == "postgresql":  # there the writer fills the columns
        with write_transaction(v3) as connection:
            connection.execute(
                text(
                    "UPDATE raw_events SET session_id = 'lost', event_type = 'cowrie.session.file_download',"
                    " event_timestamp = :at WHERE source_offset = 61"
                ),
                {"at": AT(1)},
            )
    before = count(v3, RawEvent)

    result = replay(v3, SETTINGS)

    assert (4, 3, 0, {"still not JSON": 1}) == summary(result)
    assert 3 == result.counters["events_stored_already"]
    assert before == count(v3, RawEvent)


def test_a_quarantined_event_that_v3_did_not_store_is_stored(v3: Engine) -> None:
    """A missing event is stored at the free offset of its line; its duplicate is found afterwards."""
    for _ in range(2):
        add_v3_event(v3, COMMAND, 63, is_stored=False)
        add_v3_event(v3, {"message": "neither session nor time"}, 64, is_stored=False)

    result = replay(v3, SETTINGS)

    assert (5, 4, 2) == summary(result)[:3]
    with read_transaction(v3) as connection:
        query = select(RawEvent.source_offset, RawEvent.session_id).where(RawEvent.source_offset.in_([63, 64]))
        assert [(63, "lost"), (64, None)] == [tuple(row) for row in connection.execute(query.order_by(RawEvent.id))]


def test_loading_a_log_of_v3_after_a_replay_adds_nothing_twice(v3_file: Path, tmp_path: Path) -> None:
    """Loading the log adds only events that neither v3 nor the replay stored; the replayed line stays one event."""
    line = "\0" + json.dumps(DOWNLOAD)
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        row = "INSERT INTO raw_events (source, source_offset, source_inode, payload) VALUES (?, 70, '77', ?)"
        connection.execute(row, (v3_schema.LOG, json.dumps({"malformed": line})))
        letter = "INSERT INTO dead_letter_events (source, source_offset, reason, payload) VALUES (?, 70, 'x', ?)"
        connection.execute(letter, (v3_schema.LOG, json.dumps({"malformed": line})))
    engine = get_engine(v3_file)
    apply_migrations(engine)
    log = tmp_path / "cowrie.json"
    log.write_text("".join(f"{text_line}\n" for text_line in [line, *events(3)]))

    replay(engine, SETTINGS)
    BulkLoader(engine).load([log])

    assert 1 == count(engine, RawEvent, RawEvent.session_id == "lost")
    dispose(engine)


def test_the_real_v3_file_has_nothing_to_store(corpus_v3_file: Path) -> None:
    """The events of all 97 letters of a genuine v3 database are stored already, and all letters are resolved."""
    engine = get_engine(corpus_v3_file)
    apply_migrations(engine)
    before = count(engine, RawEvent)

    result = replay(engine, SETTINGS)

    assert (97, 97, 0, {}) == summary(result)
    assert before == count(engine, RawEvent)
    dispose(engine)


# --- what the backfill refused ---


def test_files_refused_by_the_backfill_are_added_by_a_newer_program(
    v3: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a stored event is added from its row in raw_events, as if it had never been refused."""
    real = file_events.file_sighting

    def refuse(event: Any, session_id: str) -> Any:
        if event.get("url") == "http://203.0.113.9/x":
            raise InvalidShasum("an older program does not understand this hash")
        return real(event, session_id)

    with monkeypatch.context() as older:
        older.setattr(file_aggregates, "file_sighting", refuse)
        backfill(v3)
    refused = [row.id for row in letters(v3) if (row.metadata_json or {}).get("raw_event_id")]
    before = validate(v3)

    result = replay(v3, SETTINGS)

    assert len(refused) == 3
    assert (1, 0, 1) == (result.resolved, result.counters["events"], result.counters["letters_resolved"])
    assert not before.valid
    assert {} == validate(v3).differences


def test_commands_that_the_backfill_refused_are_counted_once(v3: Engine) -> None:
    """A command whose payload was repaired is counted only by the replay of its letter."""
    with write_transaction(v3) as connection:
        long = json.dumps(COMMAND | {"session": "x" * 65})
        if v3.dialect.name == "postgresql":
            connection.execute(
                text(
                    "INSERT INTO raw_events (source, source_offset, payload, event_type)"
                    " VALUES ('a', 1, :payload, 'cowrie.command.input')"
                ),
                {"payload": long},
            )
        else:
            connection.execute(
                text("INSERT INTO raw_events (source, source_offset, payload) VALUES ('a', 1, :payload)"),
                {"payload": long},
            )
    backfill(v3)
    assert 1 == dict(replay(v3, SETTINGS).stays)["still session is too long"]
    with write_transaction(v3) as connection:
        connection.execute(
            text("UPDATE raw_events SET payload = :payload WHERE source = 'a'"), {"payload": json.dumps(COMMAND)}
        )

    first, second = replay(v3, SETTINGS), replay(v3, SETTINGS)

    assert (1, 0) == (first.resolved, second.resolved)
    with read_transaction(v3) as connection:
        found = connection.execute(select(CommandStat.occurrences).where(CommandStat.session_id == "lost")).scalars()
        assert [1] == list(found)


def test_a_payload_that_is_too_long_for_the_backfill_stays(v3: Engine) -> None:
    """A payload over 2 MiB is read neither by the backfill nor by a replay."""
    payload = json.dumps(DOWNLOAD | {"pad": "x" * (2 << 20)})
    extra = {"event_type": "cowrie.session.file_download"} if v3.dialect.name == "postgresql" else {}
    columns = "".join(f", {name}" for name in extra)
    values = "".join(f", :{name}" for name in extra)
    with write_transaction(v3) as connection:
        connection.execute(
            text(f"INSERT INTO raw_events (source, source_offset, payload{columns}) VALUES ('a', 1, :payload{values})"),
            {"payload": payload} | extra,
        )
    backfill(v3)

    assert 1 == dict(replay(v3, SETTINGS).stays)["still backfill: the stored payload is over 2 MiB"]
