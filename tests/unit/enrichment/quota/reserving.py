"""Reserves a number of requests and ends: `python -m tests.unit.enrichment.quota.reserving DB REQUESTS`.

It prints the time of each granted request, when a process would send it.
"""

from __future__ import annotations

import sys
import threading

from cowrieprocessor.clock import SystemClock
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.enrichment.providers.base import Limits
from cowrieprocessor.enrichment.quota.ledger import Granted, Ledger

PER_MINUTE = 3000
"""Which is four in 82 milliseconds."""


def main(database: str, requests: int) -> None:
    """Reserve a number of requests, waiting as long as the ledger says."""
    engine = get_engine(database)
    clock = SystemClock()
    ledger = Ledger(engine, "virustotal", "a" * 16, Limits(PER_MINUTE, None, None), Limits(), clock)
    never = threading.Event()
    try:
        while requests:
            answer = ledger.reserve()
            if isinstance(answer, Granted):
                print(answer.at.isoformat(), flush=True)
                requests -= 1
            else:
                clock.wait((answer.until - clock.now()).total_seconds(), never)
    finally:
        dispose(engine)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
