"""A process that enriches in virtual time until it is stopped: for tests that kill it.

    python -m tests.stand_ins.enrich_process DATABASE-URL TIME-ADDRESS VIRUSTOTAL-URL

It uses the tests' key for VirusTotal. SIGTERM ends it after the request in flight.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def main(db_url: str, time_address: str, virustotal_url: str) -> None:
    """Enrich with `watch` until a signal arrives."""
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.enrichment.run import EnrichOptions, enrich
    from cowrieprocessor.settings import Secret, Settings
    from tests.stand_ins.virtual_time import VirtualClock
    from tests.stand_ins.virustotal import KEY, USER

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    settings = Settings(
        enrichment_providers=("virustotal",),
        virustotal_key=Secret(KEY, "COWRIEPROC_VIRUSTOTAL_KEY"),
        virustotal_user=USER,
        virustotal_url=virustotal_url,
        request_timeout_s=60.0,
    )
    engine = get_engine(db_url)
    try:
        with VirtualClock(time_address) as clock:
            enrich(engine, settings, EnrichOptions(watch=True), clock=clock, stop=stop)
    finally:
        dispose(engine)


def start(db_url: str, time_address: str, virustotal_url: str) -> subprocess.Popen[str]:
    """Start such a process; its output can be read once it has ended."""
    command = [sys.executable, "-m", "tests.stand_ins.enrich_process", db_url, time_address, virustotal_url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT)


if __name__ == "__main__":
    main(*sys.argv[1:])
