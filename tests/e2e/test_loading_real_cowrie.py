"""What a real Cowrie wrote goes into the database whole, once, and the same on SQLite and PostgreSQL."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import DeclarativeBase

from cowrieprocessor.analysis.downloads_scan import scan_downloads
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import (
    CommandStat,
    DeadLetterEvent,
    FileHash,
    Files,
    RawEvent,
    SessionAttribute,
    SessionSummary,
)
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.sanitize import inert, restore
from tests.e2e.conftest import Recording
from tests.e2e.cowrie_server import DEFAULT_SENSOR
from tests.e2e.scene import DOWNLOAD, FAKE_ELF, UPLOAD

pytestmark = [pytest.mark.cowrie, pytest.mark.timeout(180)]

Row = tuple[object, ...]


@pytest.fixture
def loaded(recording: Recording, engine: Engine) -> Engine:
    """A database with the whole recording in it."""
    result = BulkLoader(engine).load([recording.log])
    assert result.failed == []
    return engine


def count(engine: Engine, model: type[DeclarativeBase]) -> int:
    """Return how many rows a table has."""
    with read_transaction(engine) as connection:
        return connection.scalar(select(func.count()).select_from(model)) or 0


def rows(engine: Engine, *columns: object) -> list[Row]:
    """Return some columns of all rows of a table, sorted."""
    with read_transaction(engine) as connection:
        found = [tuple(row) for row in connection.execute(select(*columns))]  # type: ignore[call-overload]
    return sorted(found, key=repr)


def file_events(recording: Recording) -> dict[tuple[str, str], list[dict[str, object]]]:
    """Return the file events with a hash by (session, hash): each key is to be one row."""
    found: dict[tuple[str, str], list[dict[str, object]]] = defaultdict(list)
    for event in recording.events:
        if event["eventid"] in (DOWNLOAD, UPLOAD) and re.fullmatch("[0-9a-f]{64}", str(event["shasum"])):
            found[str(event["session"]), str(event["shasum"])].append(event)
    return found


def name_of(event: dict[str, object]) -> str | None:
    """Return what a file event calls its file: destfile, else filename, else the end of its URL."""
    url = str(event.get("url", ""))
    return str(event.get("destfile") or event.get("filename") or url.rsplit("/", 1)[-1]) or None


def expected_file(events: list[dict[str, object]]) -> Row:
    """Return (filename, download_url, origin) of the row that the events of one session and hash make."""
    names = [inert(name) for event in events if (name := name_of(event)) is not None]
    downloads = [event for event in events if event["eventid"] == DOWNLOAD]
    urls = [inert(str(event["url"])) for event in downloads if "url" in event]
    origins = {"upload" if event["eventid"] == UPLOAD else "download" for event in events}
    smallest = [min(found, key=str.encode) if found else None for found in (names, urls)]
    return (*smallest, min(origins))


def contents(engine: Engine) -> list[list[Row]]:
    """Return all that a load decides, table by table."""
    return [
        rows(engine, RawEvent.source_offset, RawEvent.payload_hash, RawEvent.session_id, RawEvent.event_type),
        rows(engine, SessionSummary.session_id, SessionSummary.event_count, SessionSummary.command_count,
             SessionSummary.file_downloads, SessionSummary.login_attempts, SessionSummary.first_event_at,
             SessionSummary.last_event_at),
        rows(engine, Files.session_id, Files.shasum, Files.filename, Files.download_url, Files.first_seen),
        rows(engine, FileHash.sha256, FileHash.session_count, FileHash.first_seen, FileHash.last_seen),
        rows(engine, CommandStat.session_id, CommandStat.command_normalized, CommandStat.occurrences),
        rows(engine, SessionAttribute.session_id, SessionAttribute.src_ip, SessionAttribute.username),
    ]  # fmt: skip


class TestEvents:
    """Every line is stored as it came."""

    def test_every_line_is_one_event(self, recording: Recording, loaded: Engine) -> None:
        """There are as many rows as lines, each at its line, and no dead letter."""
        assert rows(loaded, RawEvent.source_offset) == sorted(
            ((number,) for number in range(len(recording.lines))), key=repr
        )
        assert count(loaded, DeadLetterEvent) == 0

    def test_payloads_are_what_cowrie_wrote(self, recording: Recording, loaded: Engine) -> None:
        """Each payload is its line, hostile bytes and 100 kB commands included."""
        with read_transaction(loaded) as connection:
            stored = connection.execute(select(RawEvent.payload).order_by(RawEvent.source_offset)).scalars().all()
        assert stored == recording.events

    def test_sessions_and_names_are_columns(self, recording: Recording, loaded: Engine) -> None:
        """Session and event name of each line are what the row's columns say."""
        assert rows(loaded, RawEvent.session_id, RawEvent.event_type) == sorted(
            ((event["session"], event["eventid"]) for event in recording.events), key=repr
        )


class TestSessions:
    """Every session is summed up."""

    def test_every_session_has_its_counts(self, recording: Recording, loaded: Engine) -> None:
        """Each session's summary counts its events, commands, downloads and logins as the log has them."""
        found = Counter((event["session"], event["eventid"]) for event in recording.events)
        sessions = {str(event["session"]) for event in recording.events}
        expected = [
            (
                session,
                sum(1 for event in recording.events if event["session"] == session),
                found[session, "cowrie.command.input"],
                found[session, DOWNLOAD],
                found[session, "cowrie.login.failed"] + found[session, "cowrie.login.success"],
            )
            for session in sessions
        ]
        assert rows(
            loaded,
            SessionSummary.session_id,
            SessionSummary.event_count,
            SessionSummary.command_count,
            SessionSummary.file_downloads,
            SessionSummary.login_attempts,
        ) == sorted(expected, key=repr)

    def test_every_session_has_its_source(self, recording: Recording, loaded: Engine) -> None:
        """Each session's attributes name the address and protocol it came with, IPv6 too."""
        connects = [event for event in recording.events if event["eventid"] == "cowrie.session.connect"]
        assert any(":" in str(event["src_ip"]) for event in connects)
        assert rows(loaded, SessionAttribute.session_id, SessionAttribute.src_ip, SessionAttribute.protocol) == sorted(
            ((event["session"], event["src_ip"], event["protocol"]) for event in connects), key=repr
        )


class TestFiles:
    """Every file that the log names is a row."""

    def test_every_session_and_hash_is_one_row(self, recording: Recording, loaded: Engine) -> None:
        """There is a row for each (session, hash) of a download or upload with a hash, and no other."""
        assert rows(loaded, Files.session_id, Files.shasum) == sorted(file_events(recording), key=repr)

    def test_rows_say_what_the_events_said(self, recording: Recording, loaded: Engine) -> None:
        """Name, URL and origin of each row are those of its events."""
        columns = (Files.session_id, Files.shasum, Files.filename, Files.download_url, Files.origin)
        assert rows(loaded, *columns) == sorted(
            ((*key, *expected_file(events)) for key, events in file_events(recording).items()), key=repr
        )

    def test_every_kind_of_file_is_there(self, recording: Recording, loaded: Engine) -> None:
        """Downloads by HTTP, FTP and TFTP have their URL; redirects and uploads have none."""
        found = rows(loaded, Files.download_url, Files.origin)
        kinds = {str(url).split(":")[0] if url else origin for url, origin in found}
        assert kinds == {"http", "ftp", "tftp", "download", "upload"}

    def test_hostile_names_are_inert_and_restorable(self, recording: Recording, loaded: Engine) -> None:
        """No name holds a character that does harm, and each gives back what the attacker wrote."""
        names = [str(name) for (name,) in rows(loaded, Files.filename) if name is not None]
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\ufeff]", "".join(names))
        written = {name_of(event) for events in file_events(recording).values() for event in events}
        assert {restore(name) for name in names} <= written
        for hostile in ("a\x00b", "\x1b[31mred\x1b[0m", "/root/txt.\u202egpj.exe", "/tmp/\ufeffbom"):
            assert hostile in {restore(name) for name in names}

    def test_every_hash_knows_its_sessions(self, recording: Recording, loaded: Engine) -> None:
        """Each hash is one row that counts the sessions it was in."""
        sessions = Counter(sha256 for _, sha256 in file_events(recording))
        assert rows(loaded, FileHash.sha256, FileHash.session_count) == sorted(sessions.items(), key=repr)


class TestAgain:
    """The same log is loaded once, whatever it is called."""

    def test_loading_again_changes_nothing(self, recording: Recording, loaded: Engine) -> None:
        """A second load of the same file stores nothing and leaves every row as it is."""
        before = contents(loaded)
        again = BulkLoader(loaded).load([recording.log])
        assert again.counters["events"] == 0
        assert contents(loaded) == before

    def test_a_compressed_copy_changes_nothing(self, recording: Recording, loaded: Engine, tmp_path: Path) -> None:
        """Nor does a rotated and compressed copy."""
        before = contents(loaded)
        copy = tmp_path / "cowrie.json.1.gz"
        copy.write_bytes(gzip.compress(recording.log.read_bytes()))
        assert BulkLoader(loaded).load([copy]).counters["events"] == 0
        assert contents(loaded) == before

    def test_the_log_as_it_grew_gives_the_same(self, recording: Recording, engine: Engine, tmp_path: Path) -> None:
        """Loading while Cowrie writes, torn lines and all, gives what one load at the end gives."""
        log, whole = tmp_path / "cowrie.json", recording.log.read_bytes()
        for share in (0.1, 0.35, 0.5, 0.83, 1):
            log.write_bytes(whole[: int(len(whole) * share)])
            BulkLoader(engine).load([log])
        assert rows(engine, RawEvent.source_offset) == sorted(
            ((number,) for number in range(len(recording.lines))), key=repr
        )
        assert rows(engine, Files.session_id, Files.shasum) == sorted(file_events(recording), key=repr)
        assert count(engine, DeadLetterEvent) == 0


class TestDownloads:
    """The captured files themselves give what events do not say."""

    def test_a_scan_gives_every_file_its_size(self, recording: Recording, loaded: Engine) -> None:
        """After a scan each row has the size of the file that Cowrie captured, and there is no row more."""
        scan_downloads(loaded, recording.downloads, sensor=DEFAULT_SENSOR)
        assert rows(loaded, Files.session_id, Files.shasum, Files.file_size) == sorted(
            ((*key, (recording.downloads / key[1]).stat().st_size) for key in file_events(recording)), key=repr
        )

    def test_a_scan_before_the_load_gives_the_same(self, recording: Recording, engine: Engine) -> None:
        """Files scanned before any log named them are artifacts, until the log is loaded."""
        scan_downloads(engine, recording.downloads, sensor=DEFAULT_SENSOR)
        hashes = {sha256 for _, sha256 in file_events(recording)}
        assert {row[1:] for row in rows(engine, Files.session_id, Files.shasum, Files.origin)} == {
            (sha256, "artifact") for sha256 in hashes
        }
        BulkLoader(engine).load([recording.log])
        assert rows(engine, Files.session_id, Files.shasum, Files.file_size) == sorted(
            ((*key, (recording.downloads / key[1]).stat().st_size) for key in file_events(recording)), key=repr
        )

    def test_what_busybox_wrote_is_found_an_hour_later(
        self, recording: Recording, engine: Engine, tmp_path: Path
    ) -> None:
        """What Cowrie forgot to log of a Mirai loader is an artifact, as soon as nobody can be writing to it."""
        folder = tmp_path / "downloads"
        shutil.copytree(recording.downloads, folder, ignore=lambda _, names: [n for n in names if "redir_" not in n])
        young = scan_downloads(engine, folder, sensor=DEFAULT_SENSOR)
        for path in folder.iterdir():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
        old = scan_downloads(engine, folder, sensor=DEFAULT_SENSOR)
        attacks, stage = len(recording.attacks("telnet_busybox_loader")), FAKE_ELF[:8] + b"harmless"
        assert (young.left_alone, young.leftovers) == ({"temporary": attacks}, 0)
        assert (old.left_alone, old.leftovers, old.artifacts) == ({}, attacks, 1)
        assert rows(engine, Files.session_id, Files.shasum, Files.file_size) == [
            (f"artifact:{DEFAULT_SENSOR}", hashlib.sha256(stage).hexdigest(), len(stage))
        ]


def test_a_lost_line_would_be_noticed(recording: Recording, engine: Engine, tmp_path: Path) -> None:
    """The checks above fail when one file event is not loaded."""
    log = tmp_path / "cowrie.json"
    key, events = next(iter(file_events(recording).items()))
    log.write_text("".join(json.dumps(event) + "\n" for event in recording.events if event not in events))
    BulkLoader(engine).load([log])
    assert set(file_events(recording)) - set(rows(engine, Files.session_id, Files.shasum)) == {key}
