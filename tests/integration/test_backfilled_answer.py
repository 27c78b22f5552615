"""A generated v3 database, migrated and backfilled, has exactly the rows that its generator recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from benchmarks.make_v3_db import make_v3_db
from benchmarks.v3.answer import V3Answer, answer_of, differences
from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill

EVENTS = 6000


def backfill_answer(path: Path) -> dict[str, Any]:
    """Migrate and backfill a v3 file, and return its resulting answer."""
    with opened(path) as engine:
        apply_migrations(engine)
        backfill(engine)
        return answer_of(engine)


@contextmanager
def opened(path: Path) -> Iterator[Engine]:
    """Yield an engine for a file, and dispose of it."""
    engine = get_engine(path)
    try:
        yield engine
    finally:
        dispose(engine)


@pytest.mark.parametrize(("seed", "from_v1", "planned_files"), [(1, False, False), (2, True, False), (3, False, True)])
def test_the_backfill_gives_the_recorded_answer(
    tmp_path: Path, seed: int, *, from_v1: bool, planned_files: bool
) -> None:
    """Every pair, hash, attribute, refusal and count is what the generator of the database recorded."""
    path = tmp_path / "v3.sqlite"
    answer = make_v3_db(path, events=EVENTS, seed=seed, from_v1=from_v1, planned_files=planned_files)

    assert differences(answer, backfill_answer(path)) == []
    assert min(answer.files, answer.hashes, answer.command_stats, answer.doubled_sessions) > 0


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, V3Answer]:
    """A migrated and backfilled file and its answer; tests change copies of it."""
    path = tmp_path_factory.mktemp("done") / "v4.sqlite"
    answer = make_v3_db(path, events=EVENTS, seed=4)
    assert differences(answer, backfill_answer(path)) == []
    return path, answer


DAMAGES = {
    "DELETE FROM files WHERE id = (SELECT max(id) FROM files)": {"files", "files_digest"},
    "INSERT INTO files (session_id, shasum, first_seen) VALUES ('x', 'y', '2024-01-01 00:00:00.000000')": {
        "files",
        "files_digest",
    },
    "UPDATE files SET filename = 'another' WHERE id = 1": {"files_digest"},
    "UPDATE files SET download_url = coalesce(download_url, '') || '.' WHERE id = 2": {"files_digest"},
    "UPDATE files SET origin = 'artifact' WHERE id = 3": {"files_digest"},
    "UPDATE files SET first_seen = '2024-01-01 00:00:00.000001' WHERE id = 4": {"files_digest"},
    "UPDATE files SET session_id = 'x' WHERE id = 5": {"files_digest"},
    "UPDATE file_hashes SET session_count = session_count + 1 WHERE rowid = 1": {"file_hashes_digest"},
    "UPDATE file_hashes SET last_seen = '2033-01-01 00:00:00.000000' WHERE rowid = 1": {"file_hashes_digest"},
    "UPDATE session_attributes SET login_success = 1 - coalesce(login_success, 0) WHERE rowid = 1": {
        "session_attributes_digest"
    },
    "DELETE FROM command_stats WHERE id = (SELECT max(id) FROM command_stats)": {
        "command_stats",
        "command_occurrences",
    },
    "UPDATE command_stats SET occurrences = occurrences + 1 WHERE id = 1": {"command_occurrences"},
    "DELETE FROM dead_letter_events WHERE id = (SELECT max(id) FROM dead_letter_events)": {"file_events_refused"},
}
"""Statements that damage a row, and the figures of the answer that change with it."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_wrong_row_is_detected(tmp_path: Path, done: tuple[Path, V3Answer], damage: str) -> None:
    """A missing, changed or additional row changes the answer, in every table that v4 fills."""
    path, answer = done
    shutil.copy(path, tmp_path / "damaged.sqlite")

    with opened(tmp_path / "damaged.sqlite") as engine:
        with write_transaction(engine) as connection:
            connection.execute(text(damage))
        actual = answer_of(engine)

    assert {line.split(":")[0] for line in differences(answer, actual)} == DAMAGES[damage]
