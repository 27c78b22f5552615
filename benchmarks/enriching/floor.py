"""Floors for enrichment: the least that asking about files, and that spreading a verdict, takes.

`ask`: one GET after the other on one connection, each answer parsed; nothing is claimed, counted or kept. It prints
the files that were known and the seconds.
`spread`: the rows of one hash and the flags of its sessions, changed by one UPDATE each in one transaction, during
which nobody else can write; it prints the seconds.
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
    """Send the requests that `enrich` sends about the first so many files; return how many are known, and seconds."""
    import httpx
    import orjson

    known = 0
    began = time.perf_counter()
    with httpx.Client(headers={"x-apikey": key, "Accept-Encoding": "identity"}) as client:
        for number in range(files):
            reply = client.get(f"{url}/files/{hash_of(number)}")
            known += "data" in orjson.loads(reply.content)
    return known, time.perf_counter() - began


def spread(db: str, sha256: str) -> float:
    """Give every row of a hash a verdict and its sessions the flag; return the seconds that the transaction took."""
    engine = get_engine(db)
    values = ("trojan.mirai/gafgyt", "ELF", 12, 70, MOMENT, MOMENT, MOMENT, 95_268, MOMENT, sha256)
    began = time.perf_counter()
    with write_transaction(engine) as connection:
        cursor = connection.connection.cursor()
        cursor.execute(VERDICT, values)
        cursor.execute(FLAGS, (sha256,))
        cursor.close()
    took_s = time.perf_counter() - began
    dispose(engine)
    return took_s


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enriching.floor", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    asking = parts.add_parser("ask")
    asking.add_argument("--url", required=True)
    asking.add_argument("--key", required=True)
    asking.add_argument("--files", required=True, type=int, metavar="N")
    spreading = parts.add_parser("spread")
    spreading.add_argument("--db", required=True, metavar="FILE")
    given = parser.parse_args()
    if given.part == "ask":
        print(*ask(given.url, given.key, given.files))
    else:
        print(spread(given.db, hash_of(0)))


if __name__ == "__main__":
    main()
