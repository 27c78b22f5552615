"""A VirusTotal stand-in without limits: `python -m benchmarks.enriching.verdict_source --files N`.

It knows every second one of the first N files as malicious. It prints one JSON object with `url` and `key`, and serves
until standard input ends.
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.enriching.inputs import hash_of
from tests.stand_ins.virustotal import KEY, KeyLimits, VirusTotal


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enriching.verdict_source", description=__doc__)
    parser.add_argument("--files", required=True, type=int, metavar="N", help="how many files are asked about")
    options = parser.parse_args()
    with VirusTotal(limits=KeyLimits(None, None, None)) as stand_in:
        for number in range(0, options.files, 2):
            stand_in.add(hash_of(number), malicious=12)
        print(json.dumps({"url": stand_in.url, "key": KEY}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
