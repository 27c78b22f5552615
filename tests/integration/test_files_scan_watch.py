"""`files scan --watch` beside a follower and enrichment on one database: nobody is refused, and the rows are right."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import Files
from tests.command_line import PROGRAM

PATIENCE_S = 120.0
FILES = 16
NOBODY_ANSWERS = {
    "COWRIEPROC_ENRICHMENT_PROVIDERS": "malwarebazaar",
    "COWRIEPROC_ABUSECH_KEY": "no-key",
    "COWRIEPROC_MALWAREBAZAAR_URL": "http://127.0.0.1:9",
}
"""A source that is tried again and again, and is never reached."""


@contextmanager
def started(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Start the program; end it, at the latest, at the end of the block."""
    environment = os.environ | NOBODY_ANSWERS
    process = subprocess.Popen(
        [*PROGRAM, *args], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def file_event(number: int, sha256: str) -> str:
    """Return the line of a log that names a file."""
    event = {
        "eventid": "cowrie.session.file_download",
        "session": f"session{number:05d}",
        "timestamp": f"2026-11-01T10:00:{number:02d}.000000Z",
        "url": f"http://198.51.100.7/{number}",
        "shasum": sha256,
        "sensor": "pot-1",
    }
    return json.dumps(event) + "\n"


def rows(engine: Engine) -> set[tuple[str, str, int | None]]:
    """Return the rows of `files`: session, hash, size."""
    with read_transaction(engine) as connection:
        found = connection.execute(select(Files.session_id, Files.shasum, Files.file_size)).all()
    return {(row.session_id, row.shasum, row.file_size) for row in found}


def test_follower_watch_and_enrichment_work_beside_each_other(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Files and the events that name them come in any order, and each row has its session and its size."""
    log, folder = tmp_path / "cowrie.json", tmp_path / "downloads"
    log.touch()
    folder.mkdir()
    expected: set[tuple[str, str, int | None]] = set()

    with (
        started("follow", str(log), "--db", db_url) as follower,
        started("files", "scan", str(folder), "--sensor", "pot-1", "--watch", "--db", db_url) as watch,
        started("enrich", "--watch", "--db", db_url) as enrichment,
    ):
        processes = (follower, watch, enrichment)
        for number in range(FILES):
            content = b"x" * (number + 1)
            sha256 = hashlib.sha256(content).hexdigest()
            lines = [file_event(number, sha256)] if number % 3 else []
            if number % 2:
                (folder / sha256).write_bytes(content)
            with log.open("a", encoding="utf-8") as file:
                file.writelines(lines)
            (folder / sha256).write_bytes(content)
            session = f"session{number:05d}" if lines else "artifact:pot-1"
            expected.add((session, sha256, len(content)))
            time.sleep(0.1)
        ends_at = time.monotonic() + PATIENCE_S
        while rows(engine) != expected:
            assert time.monotonic() < ends_at
            assert [process.poll() for process in processes] == [None, None, None]
            time.sleep(0.2)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        said = [process.communicate()[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [line for line in "".join(said).splitlines() if line.startswith(("error", "waiting"))] == []
