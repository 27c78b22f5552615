"""Claims, timed one by one: `python -m benchmarks.enriching.claim_files --db FILE --claims N [--in-a-row]`.

Each is what VirusTotal's turn begins with while hashlookup can be asked, too: the next files are looked for and
claimed, as many as a public key may ask about in a minute. So that happens once a minute, and what was read ahead is
too old by then: each claim is made through new connections. With `--in-a-row` they follow each other on the same
ones. It prints one JSON object: how long one claim `lasts_s`, and the `seconds` that each took.
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
    """Claim and print how long it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enriching.claim_files", description=__doc__)
    parser.add_argument("--db", required=True, metavar="FILE")
    parser.add_argument("--claims", required=True, type=int, metavar="N")
    parser.add_argument("--in-a-row", action="store_true", help="let claims share what one of them read ahead")
    given = parser.parse_args()
    took: list[float] = []
    engine = _connected(given.db)
    for _ in range(given.claims):
        took.append(_timed(engine))
        if not given.in_a_row:
            dispose(engine)
            engine = _connected(given.db)
    dispose(engine)
    json.dump({"lasts_s": 60 * FILES / PER_MINUTE, "seconds": took}, sys.stdout)


def _connected(db: str) -> Engine:
    engine = get_engine(db)
    with write_transaction(engine):
        pass
    return engine


def _timed(engine: Engine) -> float:
    """Claim the next files and return the seconds it took.

    Raises:
        RuntimeError: there were not enough.
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
    took_s = time.perf_counter() - began
    if len(claimed) < FILES or any(one.reason != "new" for one in claimed):
        raise RuntimeError(f"only {len(claimed)} files to claim: the database is too small for so many claims")
    return took_s


if __name__ == "__main__":
    main()
