"""A log that is truncated and written anew while it is read: what was read of it counts, the two are never mixed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import DeadLetterEvent, RawEvent
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.reading import log_stream
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.loader.rows import parser_process
from cowrieprocessor.settings import Settings
from tests.logs import count, events, write

OLD = events(900)
NEW = events(2500, start=1000)
SMALL_PIECES = ReadSizes(piece_bytes=4096, feed_bytes=4096)


def overwrite(path: Path, lines: list[str]) -> None:
    """Truncate a log in place and write it anew, as copytruncate and a busy honeypot do."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write("".join(f"{line}\n" for line in lines).encode())


def after_reads(number: int, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an action after this number of reads, unnoticed by the reader."""
    read = os.pread
    done = 0

    def counting(descriptor: int, size: int, start: int) -> bytes:
        nonlocal done
        data = read(descriptor, size, start)
        done += size == 4096
        if done == number:
            done += 1
            action()
        return data

    monkeypatch.setattr(log_stream.os, "pread", counting)


def payload_hashes(engine: Engine) -> set[str]:
    """Return the payload hashes of the events that are stored."""
    with read_transaction(engine) as connection:
        return {str(hash_) for hash_ in connection.scalars(select(RawEvent.payload_hash))}


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 20])
def test_two_logs_are_never_mixed(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Wherever the log is overwritten, no line is made of both logs, and the new log is loaded whole."""
    log = write(tmp_path / "cowrie.json", OLD)
    with monkeypatch.context() as patched:
        after_reads(number, lambda: overwrite(log, NEW), patched)
        result = BulkLoader(engine, settings=Settings(batch_size=50), sizes=SMALL_PIECES).load([log])
    assert 0 == count(engine, DeadLetterEvent)
    assert [None] == [file.error for file in result.files]
    stored = count(engine, RawEvent)
    assert stored == len(payload_hashes(engine))
    BulkLoader(engine, sizes=SMALL_PIECES).load([write(tmp_path / "new.json", NEW)])
    assert stored == count(engine, RawEvent), "the new log was not loaded whole"
    BulkLoader(engine, sizes=SMALL_PIECES).load([write(tmp_path / "old.json", OLD)])
    assert len(OLD) + len(NEW) == count(engine, RawEvent)


@pytest.mark.parametrize("number", [5, 8, 20])
def test_without_the_anchor_they_would_be(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The test above can fail: a stream that does not compare the bytes before its position mixes the two."""
    log = write(tmp_path / "cowrie.json", OLD)
    anchored = LogStream._read_plain

    def blind(stream: LogStream) -> bytes:
        stream._anchor = b""
        return anchored(stream)

    monkeypatch.setattr(LogStream, "_read_plain", blind)
    with monkeypatch.context() as patched:
        after_reads(number, lambda: overwrite(log, NEW), patched)
        BulkLoader(engine, settings=Settings(batch_size=50), sizes=SMALL_PIECES).load([log])
    stored, letters = count(engine, RawEvent), count(engine, DeadLetterEvent)
    BulkLoader(engine, sizes=SMALL_PIECES).load([write(tmp_path / "new.json", NEW)])
    assert letters or stored < count(engine, RawEvent)


def test_the_parser_process_checks_before_it_reads(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is overwritten before the parser process has opened it is read again."""
    log = write(tmp_path / "cowrie.json", OLD)
    BulkLoader(engine).load([log])
    with log.open("a") as file:
        file.write("".join(f"{line}\n" for line in events(50, start=900)))
    started = parser_process.subprocess.Popen
    overwritten: list[bool] = []

    def starting(*arguments: object, **options: object) -> object:
        if not overwritten:
            overwritten.append(True)
            overwrite(log, NEW)
        return started(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(parser_process.subprocess, "Popen", starting)
    BulkLoader(engine, sizes=ReadSizes(other_core_bytes=0)).load([log])
    assert [True] == overwritten
    assert (len(OLD) + len(NEW), 0) == (count(engine, RawEvent), count(engine, DeadLetterEvent))
