"""`enrich --watch` through days that pass as fast as it works, and what a stand-in for VirusTotal saw of it.

`python -m benchmarks.enriching.virtual_day --db FILE --hours 24 --per-day 6000`: the key may send 4 requests a minute
and 6000 a day, in UTC. It begins at midnight, and prints one JSON object: requests `sent`, and those `over` a limit.
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
LOOK_EVERY_S = 0.05
PATIENCE_S = 3600.0


def virtual_days(db: str, hours: float, per_day: int) -> dict[str, int]:
    """Enrich for so many hours of virtual time; return how many requests arrived, and how many over a limit.

    Raises:
        RuntimeError: the process that enriches ended, or it takes for ever.
    """
    until = MIDNIGHT + dt.timedelta(hours=hours)
    with (
        VirtualTimeServer(MIDNIGHT, until=until) as server,
        VirusTotal(server, limits=KeyLimits(PER_MINUTE, per_day, PER_MONTH)) as stand_in,
    ):
        process = start(db, server.address, stand_in.url)
        deadline = time.monotonic() + PATIENCE_S
        while not server.ended.wait(LOOK_EVERY_S) and process.poll() is None and time.monotonic() < deadline:
            pass
        has_ended = process.poll() is None and server.ended.is_set()
        process.terminate()
        output, _ = process.communicate()
        if not has_ended or process.returncode:
            raise RuntimeError(f"it ended with {process.returncode} at {server.now()}: {output}")
        return {"sent": len(stand_in.log), "over": len(stand_in.violations)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enriching.virtual_day", description=__doc__)
    parser.add_argument("--db", required=True, metavar="FILE")
    parser.add_argument("--hours", required=True, type=float, metavar="N")
    parser.add_argument("--per-day", required=True, type=int, metavar="N")
    given = parser.parse_args()
    json.dump(virtual_days(given.db, given.hours, given.per_day), sys.stdout)


if __name__ == "__main__":
    main()
