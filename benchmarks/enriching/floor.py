"""Floors for enrichment: the minimum cost of the requests and of propagating a verdict.

`ask`: one GET after another on one connection, each answer parsed; nothing is claimed, counted or stored. Prints the
number of known files and the seconds.
`propagate`: one UPDATE of the rows of a hash and one of the flags of its sessions in one transaction, which blocks all
other writers; prints the seconds.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.enriching.inputs import hash_of
from cowrieprocessor.db.engine import dispose, get_engine, write_transaction

VERDICT = (
    "UPDATE files SET vt_malicious = 1, vt_classification = ?, vt_description = ?, vt_positives = ?, vt_total = ?,"
    " vt_first_seen = ?, vt_last_analysis = ?, vt_scan_date = ?, enrichment_status = 'enriched', file_size = ?,"
    " last_updated = ? WHERE shasum = ?"
)
FLAGS = (
    "UPDATE session_summaries SET vt_flagged = 1 WHERE session_id IN (SELECT session_id FROM files WHERE shasum = ?)"
)
MOMENT = "2026-02-27 09:30:00.000000"


def ask(url: str, key: str, files: int) -> tuple[int, float]:
    """Send the requests of `enrich`, one after another.

    Args:
        url: the base URL of the source.
        key: its API key.
        files: ask about the first files, this many.

    Returns:
        The number of known files, and the seconds.
    """
    import httpx
    import orjson

    known = 0
    began = time.perf_counter()
    with httpx.Client(headers={"x-apikey": key, "Accept-Encoding": "identity"}) as client:
        for number in range(files):
            reply = client.get(f"{url}/files/{hash_of(number)}")
            known += "data" in orjson.loads(reply.content)
    return known, time.perf_counter() - began


def propagate(db: str, sha256: str) -> float:
    """Set the verdict in every row of a hash and the flag of its sessions; return the seconds of the transaction."""
    engine = get_engine(db)
    values = ("trojan.mirai/gafgyt", "ELF", 12, 70, MOMENT, MOMENT, MOMENT, 95_268, MOMENT, sha256)
    began = time.perf_counter()
    with write_transaction(engine) as connection:
        cursor = connection.connection.cursor()
        cursor.execute(VERDICT, values)
        cursor.execute(FLAGS, (sha256,))
        cursor.close()
    duration_s = time.perf_counter() - began
    dispose(engine)
    return duration_s


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enriching.floor", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    asking = parts.add_parser("ask")
    asking.add_argument("--url", required=True)
    asking.add_argument("--key", required=True)
    asking.add_argument("--files", required=True, type=int, metavar="N")
    propagating = parts.add_parser("propagate")
    propagating.add_argument("--db", required=True, metavar="FILE")
    options = parser.parse_args()
    if options.part == "ask":
        print(*ask(options.url, options.key, options.files))
    else:
        print(propagate(options.db, hash_of(0)))


if __name__ == "__main__":
    main()
