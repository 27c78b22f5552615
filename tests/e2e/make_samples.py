"""Make `samples/`: a log and the captured files of a real Cowrie on loopback.

Run as `python -m tests.e2e.make_samples` from the project's root, after `tests/e2e/install_cowrie.sh`.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.attackers import Campaign
from tests.e2e.cowrie_server import CowrieServer, venv_path
from tests.e2e.scene import HOSTS

PROJECT: Final = Path(__file__).resolve().parents[2]
SAMPLES: Final = PROJECT / "samples"
SEED: Final = 20260101
# Of an older log, rotated and compressed, and of the current one.
OLDER_SESSIONS: Final = 480
SESSIONS: Final = 320
# The log is read by people and kept in the repository: one line of 4 kB shows what a long command is.
LONG_COMMAND_BYTES: Final = 4_000


class LeakedPathError(Exception):
    """The log names a path of the machine it was made on."""


def make_samples(folder: Path, seed: int = SEED) -> None:
    """Write `cowrie.json`, an older part of it compressed, and `downloads/` into `folder`, in place of what is there.

    Args:
        folder: where to; its README is left alone.
        seed: of the campaigns.

    Raises:
        LeakedPathError: the log would tell where it was made.
    """
    ports = (80, 21, 69)
    older = Campaign(seed, OLDER_SESSIONS, one_of_each=False, at_once=10, wanted_ports=ports)
    newer = Campaign(seed + 1, SESSIONS, long_command_bytes=LONG_COMMAND_BYTES, at_once=10, wanted_ports=ports)
    with CowrieServer(hosts=HOSTS) as cowrie:
        older.run(cowrie)
        cowrie.restart_with_new_log()
        newer.run(cowrie)
        cowrie.stop()
        for attack in (*older.ledger, *newer.ledger):
            if attack.error is not None:
                print(f"{attack.behaviour}: {attack.error}", file=sys.stderr)
        logs = {log.name: log.read_bytes() for log in cowrie.logs}
        captured = {path.name: path.read_bytes() for path in cowrie.downloads.iterdir()}
        _refuse_leaks(logs, (cowrie.home, venv_path(), PROJECT, Path("/var/tmp"), Path.home() / ".cache"))
    shutil.rmtree(folder / "downloads", ignore_errors=True)
    (folder / "downloads").mkdir(parents=True)
    for old in folder.glob("cowrie.json*"):
        old.unlink()
    for name, content in logs.items():
        if name == "cowrie.json":
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    for name, content in captured.items():
        (folder / "downloads" / name).write_bytes(content)


def _refuse_leaks(logs: Mapping[str, bytes], places: Sequence[Path]) -> None:
    """Raise LeakedPathError if a log names one of `places`."""
    for name, content in logs.items():
        leaks = [str(place) for place in places if str(place).encode() in content]
        if leaks:
            raise LeakedPathError(f"{name} holds {leaks}")


def main() -> None:
    """Read the command line and make the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=SAMPLES)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    make_samples(arguments.folder, arguments.seed)


if __name__ == "__main__":
    main()
