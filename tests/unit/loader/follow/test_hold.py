"""Logs that are held open while nothing is stored: whatever becomes of them, the next poll reads them to their end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow import open_logs
from cowrieprocessor.loader.follow.timing import FollowTiming
from tests.loading import database
from tests.logs import count, events, write

ALWAYS_LISTED = FollowTiming(archive_settles_s=0.0, listing_settles_s=3600.0)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    with database(tmp_path / "x.sqlite") as made:
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with ten events in a folder of its own."""
    (tmp_path / "logs").mkdir()
    return write(tmp_path / "logs" / "cowrie.json", events(10))


def append(log: Path, start: int) -> None:
    """Append ten events to a log."""
    with log.open("a") as file:
        file.writelines(f"{line}\n" for line in events(10, start=start))


@pytest.mark.parametrize("is_polled_before", [True, False])
def test_rotated_and_deleted_logs_are_read_afterwards(engine: Engine, log: Path, is_polled_before: bool) -> None:
    """Of three logs that are renamed and deleted during the pause every event is stored, and nothing is lost."""
    with DeltaLoader(engine, [log.parent], timing=ALWAYS_LISTED) as loader:
        if is_polled_before:
            loader.poll()
        for start in (10, 20, 30):
            loader.hold()
            append(log, start)
            log.rename(log.with_name("cowrie.json.1"))
            loader.hold()
            log.with_name("cowrie.json.1").unlink()
            write(log, [])
        loader.hold()
        assert count(engine, RawEvent) == (10 if is_polled_before else 0)
        result = loader.poll()

    assert count(engine, RawEvent) == 40
    assert result.gaps == []


def test_a_log_without_a_path_is_read_after_a_long_pause(
    engine: Engine, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was added to a deleted log is read also if nobody looked at it for longer than such logs are kept."""
    monkeypatch.setattr(open_logs, "CLOSE_UNNAMED_AFTER_S", 0.5)
    with DeltaLoader(engine, [log.parent], timing=ALWAYS_LISTED) as loader, log.open("a") as writer:
        loader.poll()
        log.unlink()
        writer.writelines(f"{line}\n" for line in events(5, start=10))
        writer.flush()
        loader.poll()
        writer.writelines(f"{line}\n" for line in events(5, start=15))
        writer.flush()
        time.sleep(0.7)
        loader.poll()

    assert count(engine, RawEvent) == 20
