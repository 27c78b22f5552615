"""Prove the tables of schema version 4 from the stored events: `db validate` under its other name.

`python scripts/validate_files_migration.py --db URL`; `--help` says the rest. `--sample-data` instead of a database
makes a small v3 database in a temporary folder, migrates it, fills it, and proves that; with `--json` and the rest as
usual. `--sample-data` needs the project's own folder, from which it takes the maker of v3 databases.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from cowrieprocessor.cli.db_commands.validate import validate
from cowrieprocessor.cli.shared.common import notify, run
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill

SAMPLE_DATA = "--sample-data"
SAMPLE_EVENTS = 20_000

validate.epilog = f"{SAMPLE_DATA} instead of --db: make a v3 database, migrate and fill it, and prove that one."


def upgraded_sample(folder: Path) -> Path:
    """Return a v3 database with every habit of v3, migrated and backfilled."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.make_v3_db import make_v3_db

    path = folder / "sample.sqlite"
    notify(f"{path}: making a v3 database of {SAMPLE_EVENTS:,} events, migrating and filling it")
    make_v3_db(path, events=SAMPLE_EVENTS)
    engine = get_engine(path)
    try:
        apply_migrations(engine)
        backfill(engine)
    finally:
        dispose(engine)
    return path


def main() -> int:
    """Run the command, on a sample if that was asked for."""
    if SAMPLE_DATA not in sys.argv:
        return run(validate)
    with tempfile.TemporaryDirectory(prefix="cowrieprocessor-sample-") as folder:
        at = sys.argv.index(SAMPLE_DATA)
        sys.argv[at : at + 1] = ["--db", str(upgraded_sample(Path(folder)))]
        return run(validate)


if __name__ == "__main__":
    sys.exit(main())
