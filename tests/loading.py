"""Loading logs in tests: by either loader, at any time, and what the database says of them afterwards."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import DeadLetterEvent, RawEvent
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.settings import Settings
from tests.logical_digest import EVENT_TABLES, logical_contents

LOADERS = ("load", "poll")
WHICH_LOG_IS_CREDITED = ("source", "source_offset", "source_generation", "source_files", "metadata_json", "reason")


@cache
def _empty_database() -> bytes:
    """Return an empty SQLite database of the current version."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.sqlite"
        engine = get_engine(path)
        apply_migrations(engine)
        dispose(engine)
        return path.read_bytes()


@contextmanager
def database(path: Path | str) -> Iterator[Engine]:
    """Yield an empty database of the current version."""
    if isinstance(path, Path):
        path.write_bytes(_empty_database())
    engine = get_engine(path)
    apply_migrations(engine)
    try:
        yield engine
    finally:
        dispose(engine)


def read_by(
    loader: str,
    engine: Engine,
    paths: Sequence[Path],
    settings: Settings | None = None,
    *,
    clock: Callable[[], float] = time.time,
) -> Counter[str]:
    """Read what is new in some logs, by one of the loaders; return the counters."""
    settings = settings or Settings()
    if loader == "load":
        return BulkLoader(engine, settings=settings, clock=clock).load(paths).counters
    timing = FollowTiming(archive_settles_s=0.0)
    with DeltaLoader(engine, paths, settings=settings, timing=timing, clock=clock) as follower:
        counters = follower.poll().counters
        follower.close()
    return counters


def stored(engine: Engine) -> Counter[str]:
    """Return how often each payload is stored."""
    with read_transaction(engine) as connection:
        payloads = connection.execute(select(RawEvent.payload)).scalars()
        return Counter(json.dumps(payload, sort_keys=True) for payload in payloads)


def letters(engine: Engine) -> list[str]:
    """Return the texts of the unresolved dead letters, sorted."""
    with read_transaction(engine) as connection:
        payloads = connection.execute(select(DeadLetterEvent.payload).where(~DeadLetterEvent.resolved)).scalars()
        return sorted(str(payload.get("text", payload)) for payload in payloads)


def contents(engine: Engine) -> dict[str, list[str]]:
    """Return what does not depend on the order of loading: events, dead letters and every row of facts."""
    facts = logical_contents(
        engine,
        tables=[name for name in EVENT_TABLES if name not in ("raw_events", "dead_letter_events")],
        without=WHICH_LOG_IS_CREDITED,
    )
    return facts | {"events": sorted(stored(engine).elements()), "dead letters": letters(engine)}
