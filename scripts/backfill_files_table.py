"""Fill the tables of schema version 4 from the stored events: an alias of `cowrieprocessor db backfill`.

Usage: `python scripts/backfill_files_table.py --db URL --batch-size 10000`; see `--help`. Without a terminal it
does not ask.
"""

from __future__ import annotations

import sys

from environment import require_package

require_package()

from cowrieprocessor.cli.db_commands.backfill import backfill
from cowrieprocessor.cli.shared.common import run

if __name__ == "__main__":
    sys.exit(run(backfill))
