"""Fill the tables of schema version 4 from the events that are stored: `db backfill` under its other name.

`python scripts/backfill_files_table.py --db URL --batch-size 10000`; `--help` says the rest. Without a terminal it does
not ask.
"""

from __future__ import annotations

import sys

from cowrieprocessor.cli.db_commands.backfill import backfill
from cowrieprocessor.cli.shared.common import run

if __name__ == "__main__":
    sys.exit(run(backfill))
