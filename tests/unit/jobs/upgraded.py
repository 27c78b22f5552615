"""A v3 database, migrated and backfilled, and changes made to it behind our back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill
from tests.other_connections import sqlite3


def upgrade(path: Path) -> Path:
    """Migrate a v3 file and take up its events."""
    with opened(path) as engine:
        apply_migrations(engine)
        backfill(engine)
    return path


@contextmanager
def opened(path: Path, *, read_only: bool = False) -> Iterator[Engine]:
    """Yield an engine on a file, and close it."""
    engine = get_engine(path, read_only=read_only)
    try:
        yield engine
    finally:
        dispose(engine)


def change(path: Path, *statements: str) -> None:
    """Run statements on a file, as another program would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def rows(path: Path, query: str) -> list[Any]:
    """Return the rows of a query."""
    with closing(sqlite3.connect(path)) as connection:
        return [tuple(row) for row in connection.execute(query)]
