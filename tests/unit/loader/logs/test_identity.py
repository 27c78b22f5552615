"""A log's cursor and the table that keeps it name the same columns."""

from __future__ import annotations

from cowrieprocessor.db.ingest import log_files
from cowrieprocessor.loader.logs import checkpoint as log_cursor


def test_the_cursor_carries_every_column_of_its_table() -> None:
    """A column that the cursor does not know would be stored with its default for ever."""
    assert set(log_cursor.COLUMNS) == set(log_files.COLUMNS)
