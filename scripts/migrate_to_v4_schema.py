"""Migrate a v3 database to schema version 4: an alias of `cowrieprocessor db migrate`.

Usage: `python scripts/migrate_to_v4_schema.py --db URL`; see `--help`. Without a terminal it does not ask.
"""

from __future__ import annotations

import sys

from environment import require_package

require_package()

from cowrieprocessor.cli.db_commands.migrate import migrate
from cowrieprocessor.cli.shared.common import run

if __name__ == "__main__":
    sys.exit(run(migrate))
