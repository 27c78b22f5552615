"""Time single claims: `python -m benchmarks.enriching.claim_files --db FILE --claims N [--in-a-row]`.

A claim searches and claims the next files for VirusTotal, while hashlookup comes first: as many files as a public key
may ask about in a minute. A run of `enrich` therefore claims once a minute, when its cache of candidates has expired,
so each claim here uses new connections. With `--in-a-row` all claims use the same ones. It prints one JSON object:
`lasts_s`, the seconds that the requests of one claim take, and the `seconds` of each claim.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import time

from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.enrichment.claims import claim
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.enrichment.file_enrichment import CLAIMED_AT_ONCE
from cowrieprocessor.enrichment.providers.virustotal import PUBLIC_LIMITS
from cowrieprocessor.enrichment.verdict_repository import LEASE_S

PER_MINUTE = PUBLIC_LIMITS.per_minute or CLAIMED_AT_ONCE
FILES = min(CLAIMED_AT_ONCE, PER_MINUTE)
POLICY = Policy(("hashlookup", "virustotal"), frozenset({"known-good", "malicious"}))


def main() -> None:
    """Claim and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enriching.claim_files", description=__doc__)
    parser.add_argument("--db", required=True, metavar="FILE")
    parser.add_argument("--claims", required=True, type=int, metavar="N")
    parser.add_argument("--in-a-row", action="store_true", help="let claims share the cache of candidates")
    options = parser.parse_args()
    durations_s: list[float] = []
    engine = _connected(options.db)
    for _ in range(options.claims):
        durations_s.append(_claim_s(engine))
        if not options.in_a_row:
            dispose(engine)
            engine = _connected(options.db)
    dispose(engine)
    json.dump({"lasts_s": 60 * FILES / PER_MINUTE, "seconds": durations_s}, sys.stdout)


def _connected(db: str) -> Engine:
    """Return an engine whose connection is open already."""
    engine = get_engine(db)
    with write_transaction(engine):
        pass
    return engine


def _claim_s(engine: Engine) -> float:
    """Claim the next files and return the seconds that it took.

    Raises:
        RuntimeError: there are not enough files.
    """
    now = dt.datetime.now(dt.UTC)
    began = time.perf_counter()
    claimed = claim(
        engine,
        "virustotal",
        limit=FILES,
        now=now,
        lease_s=LEASE_S,
        policy=POLICY,
        earlier=("hashlookup",),
    )
    duration_s = time.perf_counter() - began
    if len(claimed) < FILES or any(file.reason != "new" for file in claimed):
        raise RuntimeError(f"only {len(claimed)} files to claim: the database is too small for that many claims")
    return duration_s


if __name__ == "__main__":
    main()
