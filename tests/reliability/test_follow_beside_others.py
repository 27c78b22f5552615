"""A follower beside a load, enrichment, a backfill and readers: nobody is told of locks, and all of them get on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from cowrieprocessor.clock import SystemClock
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import Base, FileVerdict, RawEvent
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v3_schema
from tests.logical_digest import Contents, difference, logical_contents
from tests.logs import events
from tests.reliability.command_forks import CommandForks
from tests.stand_ins.scene import Services, download, services, sha256_of
from tests.stand_ins.virustotal import KeyLimits

PATIENCE_S = 120.0
BURSTS = 8
TABLES = (
    "session_summaries",
    "session_attributes",
    "command_stats",
    "files",
    "file_mentions",
    "file_hashes",
    "dead_letter_events",
)
KNOWN_OF_FILES = {
    "enrichment",
    "enrichment_status",
    "verdict",
    "family",
    "reputation",
    "reputation_reasons",
    "md5",
    "sha1",
    "tlsh",
    "size_bytes",
    "file_size",
    "file_type",
    "mime_type",
    "analysis",
    "next_check_at",
}
"""Columns that say what services know, with those that begin with `vt_`."""

READING = (["files", "list"], ["sessions", "list"], ["report", "daily", "--date", "2026-03-01"])


@pytest.fixture
def here() -> Iterator[Services]:
    """Every service that is asked about files, by the machine's clock."""
    with services(KeyLimits(None, 500, 15_500), SystemClock()) as all_of_them:  # type: ignore[arg-type]
        yield all_of_them


@pytest.fixture
def forks(tmp_path: Path, here: Services) -> Iterator[CommandForks]:
    """What starts the program's commands, so that they ask the stand-ins."""
    slow = {f"COWRIEPROC_{name}_PER_MINUTE": "600" for name in ("VIRUSTOTAL", "MALWAREBAZAAR", "URLHAUS", "HASHLOOKUP")}
    with CommandForks(tmp_path / "said.txt", here.environment() | slow) as made:
        yield made


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder for logs."""
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def append(log: Path, lines: list[str]) -> None:
    """Write lines to a log."""
    with log.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def burst(number: int) -> list[str]:
    """Return what comes at once: a few sessions that begin, and files that nobody knows."""
    return [
        *events(20, start=20 * number, session="1111"),
        *(json.dumps(download(f"f{number}", sha256_of(f"{number}/{one}"))) for one in range(4)),
    ]


def count(engine: Engine, model: Any) -> int:
    """Return how many rows a table has."""
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(model)).scalar_one()


def is_stored(engine: Engine, line: str) -> bool:
    """Return whether an event is in the database."""
    event = json.loads(line)
    with read_transaction(engine) as connection:
        payloads = connection.execute(select(RawEvent.payload).where(RawEvent.session_id == event["session"])).scalars()
        return event in list(payloads)


def wait_until(condition: Callable[[], bool], said: Callable[[], str]) -> None:
    """Return when something is the case.

    Raises:
        AssertionError: it is not, for longer than anything may take.
    """
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"it took too long: {said()[-2000:]}"
        time.sleep(0.02)


def contents(engine: Engine) -> Contents:
    """Return what a database says, but for what services know of files, and where events lay."""
    columns = {column.name for name in TABLES for column in Base.metadata.tables[name].columns}
    left_out = KNOWN_OF_FILES | {"source_files"} | {name for name in columns if name.startswith("vt_")}
    return {
        **logical_contents(engine, tables=TABLES, without=left_out),
        **logical_contents(engine, tables=["raw_events"], without=("source", "source_generation", "source_inode")),
    }


def run_beside(forks: CommandForks, engine: Engine, logs: Path, tmp_path: Path, *more: list[object]) -> None:
    """Follow a log that grows in bursts while others load it and another one, enrich, read, and do more.

    Each burst is waited for, so that whoever is kept out for long is noticed.
    """
    url = engine.url.render_as_string(hide_password=False)
    live, other = logs / "cowrie.json", tmp_path / "other.json"
    append(other, events(1500, session="0000"))
    append(live, burst(0))
    follower = forks.start("follow", live, "--db", url)
    enricher = forks.start("enrich", "--watch", "--db", url)
    others = [
        forks.start("load", other, "--batch-size", 25, "--db", url),
        *(forks.start(*arguments, "--db", url) for arguments in more),
    ]
    for number in range(1, BURSTS):
        append(live, burst(number))
        if number in (2, 4):
            others.append(forks.start("load", logs, "--batch-size", 5, "--db", url))
        assert 0 == forks.run(*READING[number % len(READING)], "--db", url), forks.said[-2000:]
        wait_until(partial(is_stored, engine, burst(number)[-1]), lambda: forks.said)
    codes = [forks.wait(pid) for pid in others]
    wait_until(lambda: count(engine, FileVerdict) > 4 * BURSTS, lambda: forks.said)
    codes += [forks.end(follower), forks.end(enricher)]

    assert [0] * len(codes) == codes, forks.said[-3000:]
    for word in ("locked", "waiting since", "error", "Traceback"):
        assert word not in forks.said


def test_on_sqlite(forks: CommandForks, logs: Path, tmp_path: Path) -> None:
    """Beside a load, enrichment, the backfill of a v3 file and readers each event arrives once, and no lock is said."""
    path = tmp_path / "v3.sqlite"
    v3_schema.create(path, payloads=[json.loads(line) for line in events(800, session="3333")])
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    shutil.copyfile(path, tmp_path / "clean.sqlite")
    engine = get_engine(path)
    run_beside(forks, engine, logs, tmp_path, ["db", "backfill", "--yes", "--batch-size", 50])

    clean = get_engine(tmp_path / "clean.sqlite")
    backfill(clean)
    BulkLoader(clean).load([logs, tmp_path / "other.json"])
    assert [] == difference(contents(clean), contents(engine))
    for one in (clean, engine):
        dispose(one)


@pytest.mark.postgres
def test_on_postgresql(forks: CommandForks, postgres_url: str, logs: Path, tmp_path: Path) -> None:
    """On PostgreSQL it is the same beside a load, enrichment and readers."""
    engine, clean = get_engine(postgres_url), get_engine(tmp_path / "clean.sqlite")
    apply_migrations(engine)
    run_beside(forks, engine, logs, tmp_path)

    BulkLoader(clean).load([logs, tmp_path / "other.json"])
    assert [] == difference(contents(clean), contents(engine))
    for one in (clean, engine):
        dispose(one)
