"""Helpers of the tests on replay and purge of dead letters."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, select, text

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import DeadLetterEvent
from cowrieprocessor.jobs.dead_letters.replay import ReplayResult


def letters(engine: Engine, *where: Any) -> list[Any]:
    """Return the dead letters ordered by id."""
    with read_transaction(engine) as connection:
        return list(connection.execute(select(DeadLetterEvent.__table__).where(*where).order_by(DeadLetterEvent.id)))


def run(engine: Engine, *statements: str) -> None:
    """Execute statements in one transaction."""
    with write_transaction(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


def summary(result: ReplayResult) -> tuple[int, int, int, dict[str, int]]:
    """Return letters read, letters resolved, events stored, and the reasons why letters stay."""
    return result.letters, result.resolved, result.counters["events"], dict(result.stays)
