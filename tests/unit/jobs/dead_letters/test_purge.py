"""Purging dead letters: the selected letters are deleted, and the migration's record of v3's rows stays correct."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text, update

from cowrieprocessor.db.dead_letters import statements as dead_letters
from cowrieprocessor.db.dead_letters.statements import LetterFilter, count
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import DeadLetterEvent
from cowrieprocessor.db.upgrade.v3_digest import compare, read_record
from cowrieprocessor.jobs.dead_letters.purge import Purged, plan, purge
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.rollback import roll_back
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v4_state_scene as scene
from tests.unit.jobs.dead_letters.letters import letters, run

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
RESOLVED, ALL = LetterFilter(resolved=True), LetterFilter(resolved=None)


def add(engine: Engine, reason: str, *, resolved: bool = False, days_ago: int = 0, source: str = "/a") -> None:
    """Add a dead letter."""
    with write_transaction(engine) as connection:
        values = {"source": source, "created_at": NOW - dt.timedelta(days=days_ago), "resolved": resolved}
        connection.execute(insert(DeadLetterEvent).values(reason=reason, payload={"text": "x"}, **values))


def reasons(engine: Engine) -> dict[str, int]:
    """Return how many letters there are by reason."""
    with read_transaction(engine) as connection:
        return count(connection, ALL)


@pytest.fixture
def several(tmp_path: Path) -> Iterator[Engine]:
    """A database with letters of several kinds."""
    engine = get_engine(tmp_path / "letters.sqlite")
    apply_migrations(engine)
    add(engine, "not JSON")
    add(engine, "not JSON", resolved=True, days_ago=100)
    add(engine, "not JSON", resolved=True, source="/b")
    add(engine, "nested too deep", resolved=True, days_ago=91)
    add(engine, "nested too deep", days_ago=200)
    yield engine
    dispose(engine)


@pytest.mark.parametrize(
    ("choice", "gone", "left"),
    [
        (RESOLVED, {"nested too deep": 1, "not JSON": 2}, {"nested too deep": 1, "not JSON": 1}),
        (ALL, {"nested too deep": 2, "not JSON": 3}, {}),
        (LetterFilter(True, reason="not JSON"), {"not JSON": 2}, {"nested too deep": 2, "not JSON": 1}),
        (LetterFilter(True, sources=("/b",)), {"not JSON": 1}, {"nested too deep": 2, "not JSON": 2}),
        (
            LetterFilter(None, before=NOW - dt.timedelta(days=90)),
            {"nested too deep": 2, "not JSON": 1},
            {"not JSON": 2},
        ),
    ],
)
def test_selected_letters_are_deleted(
    several: Engine, choice: LetterFilter, gone: dict[str, int], left: dict[str, int]
) -> None:
    """The plan counts letters by reason, and exactly these are deleted."""
    planned = plan(several, choice)

    assert gone == planned.by_reason
    assert Purged(sum(gone.values()), 0) == purge(several, choice)
    assert left == reasons(several)


def test_the_plan_counts_unresolved_letters(several: Engine) -> None:
    """The plan counts unresolved letters, which cannot be replayed afterwards."""
    assert [(3, 0), (5, 2)] == [
        (planned.letters, planned.unresolved) for planned in (plan(several, RESOLVED), plan(several, ALL))
    ]


def test_many_letters_are_deleted_in_chunks(engine: Engine) -> None:
    """A purge of more letters than fit into one statement and transaction deletes all of them."""
    with write_transaction(engine) as connection:
        rows = [{"reason": f"r{number % 3}", "payload": {}, "resolved": number % 2 == 0} for number in range(1_300)]
        connection.execute(insert(DeadLetterEvent), rows)
    reported: list[int] = []

    assert 650 == purge(engine, RESOLVED, on_progress=reported.append, letters_at_once=450).letters
    assert 650 == sum(reasons(engine).values()) == reported[-1]
    assert {450, 650} <= set(reported)


def test_a_letter_that_is_no_longer_resolved_stays(several: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters are checked again in the transaction that deletes them."""
    next_ids = dead_letters.next_ids

    def meanwhile(*arguments: Any) -> list[int]:
        found = next_ids(*arguments)
        with write_transaction(several) as connection:
            connection.execute(update(DeadLetterEvent).values(resolved=False))
        return found

    monkeypatch.setattr(dead_letters, "next_ids", meanwhile)

    assert 0 == purge(several, RESOLVED).letters
    assert 5 == sum(reasons(several).values())


# --- letters that v3 wrote ---


@pytest.fixture
def v3(db_url: str) -> Iterator[Engine]:
    """An engine on a migrated v3 database with ten letters of v3, on SQLite and on PostgreSQL."""
    engine = get_engine(db_url)
    scene.make_v3(engine)
    with write_transaction(engine) as connection:
        rows = [{"source": "/v3", "reason": "quarantined", "payload": {"n": number}} for number in range(9)]
        connection.execute(insert(DeadLetterEvent), rows)
    apply_migrations(engine)
    yield engine
    dispose(engine)


def test_purged_letters_of_v3_are_not_missed(v3: Engine) -> None:
    """Purged letters leave the migration's record, so neither its comparison nor a validation reports them."""
    backfill(v3)
    run(v3, "UPDATE dead_letter_events SET resolved = TRUE WHERE id IN (2, 3, 10)")

    assert Purged(3, 3) == purge(v3, RESOLVED)

    with read_transaction(v3) as connection:
        assert [] == compare(connection)
        record = read_record(connection)
    assert record is not None
    assert 9 == record.dead_letters_max_id
    assert validate(v3).valid


def test_a_letter_of_v3_deleted_otherwise_is_reported(v3: Engine) -> None:
    """A letter that was deleted or changed other than by a purge is reported."""
    run(v3, "UPDATE dead_letter_events SET resolved = TRUE WHERE id = 2")
    purge(v3, RESOLVED)
    run(v3, "DELETE FROM dead_letter_events WHERE id = 4", "UPDATE dead_letter_events SET reason = 'x' WHERE id = 5")

    with read_transaction(v3) as connection:
        assert {(4, "missing"), (5, "changed")} == {(found.row_id, found.what) for found in compare(connection)}


def test_a_reused_id_is_ours(v3: Engine, tmp_path: Path) -> None:
    """New letters may get the ids of v3's purged ones: they are no difference, and a rollback deletes them."""
    assert Purged(10, 10) == purge(v3, ALL)
    BulkLoader(v3).load([scene.write_log(tmp_path / "cowrie.json")])
    backfill(v3)
    ours = len(letters(v3))

    with read_transaction(v3) as connection:
        assert [] == compare(connection)
    assert validate(v3).valid
    done = roll_back(v3, tmp_path / "saved.jsonl.gz")

    assert ours == done.forgotten.file_dead_letters > 0
    with read_transaction(v3) as connection:
        assert 0 == connection.execute(text("SELECT count(*) FROM dead_letter_events")).scalar_one()


def test_a_rollback_keeps_the_remaining_letters_of_v3(v3: Engine, tmp_path: Path) -> None:
    """A rollback keeps v3's letters that were not purged, and deletes v4's about files."""
    BulkLoader(v3).load([scene.write_log(tmp_path / "cowrie.json")])
    run(v3, "UPDATE dead_letter_events SET resolved = TRUE WHERE id IN (9, 10)")
    purge(v3, RESOLVED)
    backfill(v3)

    roll_back(v3, tmp_path / "saved.jsonl.gz")

    with read_transaction(v3) as connection:
        assert list(range(1, 9)) == list(
            connection.execute(text("SELECT id FROM dead_letter_events ORDER BY id")).scalars()
        )
