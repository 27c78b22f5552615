"""A log's checkpoint and its table have the same columns."""

from __future__ import annotations

from cowrieprocessor.db.ingest import log_files
from cowrieprocessor.loader.logs import checkpoint


def test_the_checkpoint_has_every_column_of_its_table() -> None:
    """A column that the checkpoint does not have would always be stored with its default."""
    assert set(checkpoint.COLUMNS) == set(log_files.COLUMNS)
