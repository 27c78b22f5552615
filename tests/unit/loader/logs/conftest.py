"""What the tests of logs share: as many databases as they want."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.loading import database


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Makes SQLite databases."""
    made = 0
    with ExitStack() as stack:

        def make() -> Engine:
            nonlocal made
            made += 1
            return stack.enter_context(database(tmp_path / f"{made}.sqlite"))

        yield make
