"""Refresh what VirusTotal and others know about files: `cowrieprocessor enrich` under its other name.

`python scripts/enrichment_refresh.py --files [N] --db URL`; `--help` says the rest. It never asks.
"""

from __future__ import annotations

import sys

from cowrieprocessor.cli.enrich import refresh
from cowrieprocessor.cli.shared.common import run

if __name__ == "__main__":
    sys.exit(run(refresh))
