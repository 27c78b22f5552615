"""Run `enrich --watch` in virtual time, and count the requests that a stand-in for VirusTotal receives.

`python -m benchmarks.enriching.virtual_day --db FILE --hours 24 --per-day 6000`: the key allows 4 requests a minute and
6000 a day, in UTC. It begins at midnight and prints one JSON object: requests `sent`, and those `over` a limit.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import time

from tests.stand_ins.enrich_process import start
from tests.stand_ins.virtual_time import VirtualTimeServer
from tests.stand_ins.virustotal import KeyLimits, VirusTotal

MIDNIGHT = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
PER_MINUTE = 4
PER_MONTH = 1_000_000
CHECK_EVERY_S = 0.05
TIMEOUT_S = 3600.0


def virtual_days(db: str, hours: float, per_day: int) -> dict[str, int]:
    """Enrich in virtual time and return the number of requests that arrived, and of those over a limit.

    Args:
        db: the database.
        hours: hours of virtual time.
        per_day: requests a day that the key allows.

    Raises:
        RuntimeError: `enrich` ended early or timed out.
    """
    until = MIDNIGHT + dt.timedelta(hours=hours)
    with (
        VirtualTimeServer(MIDNIGHT, until=until) as server,
        VirusTotal(server, limits=KeyLimits(PER_MINUTE, per_day, PER_MONTH)) as stand_in,
    ):
        process = start(db, server.address, stand_in.url)
        deadline = time.monotonic() + TIMEOUT_S
        while not server.ended.wait(CHECK_EVERY_S) and process.poll() is None and time.monotonic() < deadline:
            pass
        is_complete = process.poll() is None and server.ended.is_set()
        process.terminate()
        output, _ = process.communicate()
        if not is_complete or process.returncode:
            raise RuntimeError(f"enrich ended with {process.returncode} at {server.now()}: {output}")
        return {"sent": len(stand_in.log), "over": len(stand_in.violations)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enriching.virtual_day", description=__doc__)
    parser.add_argument("--db", required=True, metavar="FILE")
    parser.add_argument("--hours", required=True, type=float, metavar="N")
    parser.add_argument("--per-day", required=True, type=int, metavar="N")
    options = parser.parse_args()
    json.dump(virtual_days(options.db, options.hours, options.per_day), sys.stdout)


if __name__ == "__main__":
    main()
