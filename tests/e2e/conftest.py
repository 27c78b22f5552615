"""One campaign against one real Cowrie, for all tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.e2e.attackers import ONE_OF_EACH, Campaign
from tests.e2e.cowrie_server import CowrieNotInstalledError, CowrieServer, installed_python
from tests.e2e.scene import HOSTS, Attack

LONG_COMMAND_BYTES = 100_000


@dataclass
class Recording:
    """What a Cowrie wrote while a campaign ran, what the attackers did, and the Python that has Cowrie."""

    log: Path
    downloads: Path
    ledger: list[Attack]
    python: Path
    long_command_bytes: int = LONG_COMMAND_BYTES

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines of the log, with their ends."""
        return self.log.read_bytes().splitlines(keepends=True)

    @cached_property
    def events(self) -> list[dict[str, object]]:
        """The events of the log, in order."""
        return [json.loads(line) for line in self.lines]

    @cached_property
    def _by_source(self) -> dict[tuple[object, object], list[dict[str, object]]]:
        found: dict[tuple[object, object], list[dict[str, object]]] = defaultdict(list)
        for event in self.events:
            found[event["src_ip"], event["src_port"]].append(event)
        return found

    def events_of(self, attack: Attack, eventid: str | None = None) -> list[dict[str, object]]:
        """Return what Cowrie logged about one attack, or only its events of one name."""
        events = self._by_source[attack.source.ip, attack.source.port]
        return [event for event in events if eventid in (None, event["eventid"])]

    def attacks(self, behaviour: str) -> list[Attack]:
        """Return every attack of one behaviour."""
        return [attack for attack in self.ledger if attack.behaviour == behaviour]

    def attack(self, behaviour: str) -> Attack:
        """Return the first attack of one behaviour."""
        return self.attacks(behaviour)[0]


def _required() -> bool:
    return any(os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "COWRIEPROC_REQUIRE_COWRIE"))


def cowrie_or_skip() -> Path:
    """Return the Python that has Cowrie; without one a test is skipped, or fails where it is required."""
    try:
        return installed_python()
    except CowrieNotInstalledError as error:
        if _required():
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Play a campaign of one of each behaviour and a few more, and keep what Cowrie wrote."""
    python = cowrie_or_skip()
    folder = tmp_path_factory.mktemp("cowrie")
    campaign = Campaign(seed=7, sessions=len(ONE_OF_EACH) + 12, long_command_bytes=LONG_COMMAND_BYTES)
    with CowrieServer(hosts=HOSTS) as cowrie:
        campaign.run(cowrie)
        cowrie.stop()
        # Midnight may have come: what it rotated away is part of the same story.
        (folder / "cowrie.json").write_bytes(b"".join(log.read_bytes() for log in cowrie.logs))
        shutil.copytree(cowrie.downloads, folder / "downloads")
    return Recording(folder / "cowrie.json", folder / "downloads", campaign.ledger, python)
