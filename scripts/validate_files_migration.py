"""Check the tables of schema version 4 against the stored events: an alias of `cowrieprocessor db validate`.

Usage: `python scripts/validate_files_migration.py --db URL`; see `--help`. With `--sample-data` instead of a database
it makes a small v3 database in a temporary folder, migrates it, fills it and checks it; other options work as usual.
`--sample-data` needs a checkout of the project, whose `benchmarks` generate the v3 database.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from environment import require_package

require_package()

from cowrieprocessor.cli.db_commands.validate import validate
from cowrieprocessor.cli.shared.common import notify, run
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill

SAMPLE_DATA = "--sample-data"
SAMPLE_EVENTS = 20_000

validate.epilog = f"{SAMPLE_DATA} instead of --db: make a v3 database, migrate it, fill it and check it."


def upgraded_sample(folder: Path) -> Path:
    """Make a v3 database with all peculiarities of v3, migrate and backfill it, and return its path."""
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
    """Run the command, with `--sample-data` on a generated database."""
    if SAMPLE_DATA not in sys.argv:
        return run(validate)
    with tempfile.TemporaryDirectory(prefix="cowrieprocessor-sample-") as folder:
        index = sys.argv.index(SAMPLE_DATA)
        sys.argv[index : index + 1] = ["--db", str(upgraded_sample(Path(folder)))]
        return run(validate)


if __name__ == "__main__":
    sys.exit(main())
