"""The whole of an SQLite file as data, and what lies in a folder of databases."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from tests.other_connections import sqlite3


def dump(path: Path) -> tuple[list[Any], list[Any]]:
    """Return a database's schema, computed columns and indexes included, and the rows of each table."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
        rows = [
            connection.execute(f'SELECT rowid, * FROM "{name}" ORDER BY 1').fetchall()
            for kind, name, _, _ in schema
            if kind == "table"
        ]
    return schema, rows


def files_in(folder: Path) -> set[str]:
    """Return the names of what is in a folder, but for the lock of a library that needs one, and records of jobs."""
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if not name.endswith(".writer-lock") and ".job-" not in name}
