"""Refresh the verdicts of VirusTotal and others on files: an alias of `cowrieprocessor enrich`.

Usage: `python scripts/enrichment_refresh.py --files [N] --db URL`; see `--help`. It never asks.
"""

from __future__ import annotations

import sys

from environment import require_package

require_package()

from cowrieprocessor.cli.enrich import refresh
from cowrieprocessor.cli.shared.common import run

if __name__ == "__main__":
    sys.exit(run(refresh))
