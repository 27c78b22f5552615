"""A campaign of attackers against a real Cowrie: mostly guessing, some commands, a few files."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import asyncssh

from tests.e2e import behaviours, hostile_behaviours
from tests.e2e.attacker_clients import Source
from tests.e2e.cowrie_server import CowrieServer
from tests.e2e.malware_host import MalwareHost
from tests.e2e.scene import HOSTS, MALWARE_NAME, SERVED, Attack, Behaviour, Scene

ONE_OF_EACH: Final[dict[str, Behaviour]] = {
    name: behaviour
    for module in (behaviours, hostile_behaviours)
    for name, behaviour in vars(module).items()
    if inspect.iscoroutinefunction(behaviour) and behaviour.__module__ == module.__name__
} | hostile_behaviours.LOGINS

# What sensors on the Internet mostly see, in parts of a hundred.
USUAL: Final[dict[str, float]] = {
    "telnet_brute_force": 40,
    "ssh_brute_force": 38,
    "ssh_banner_grab": 4,
    "telnet_port_scan": 4,
    "ssh_login_only": 4,
    "ssh_recon_exec": 3.5,
    "ssh_plant_key": 2.5,
    "ssh_recon_shell": 2,
    "telnet_recon": 1.5,
    "telnet_wget": 0.3,
    "ssh_stdin_upload": 0.2,
}


def _sources(dice: random.Random) -> Iterator[Source]:
    """Yield where attackers come from, first by IPv6: some addresses come again and again, no port twice."""
    addresses = [f"198.51.100.{dice.randint(1, 254)}" for _ in range(20)]
    addresses += [f"203.0.113.{dice.randint(1, 254)}" for _ in range(15)]
    addresses += [f"198.{dice.randint(18, 19)}.{dice.randint(0, 255)}.{dice.randint(1, 254)}" for _ in range(40)]
    ipv6 = [f"2001:db8:{dice.randint(16, 4095):x}::{dice.randint(1, 4095):x}" for _ in range(5)]
    addresses += ipv6
    weights = [1 / (rank + 1) for rank in range(len(addresses))]
    dice.shuffle(addresses)
    port = 32768
    yield Source(ipv6[0], port)
    while True:
        port += dice.randint(1, 20)
        yield Source(dice.choices(addresses, weights)[0], port)


@dataclass
class Campaign:
    """So many sessions against one Cowrie, the same for the same seed but for their order and timing.

    Args:
        seed: of all choices.
        sessions: how many connections, but no fewer than one of each behaviour where that is wanted.
        one_of_each: begin with one of each behaviour; else all are as usual.
        long_command_bytes: how long the long command is.
        at_once: how many attackers are busy at a time.
        wanted_ports: of the host with the files: HTTP, FTP, TFTP.
    """

    seed: int
    sessions: int
    one_of_each: bool = True
    long_command_bytes: int = 100_000
    at_once: int = 12
    wanted_ports: tuple[int, int, int] = (0, 0, 0)
    ledger: list[Attack] = field(init=False, default_factory=list)

    def run(self, cowrie: CowrieServer) -> list[Attack]:
        """Play the campaign and return the ledger; every session is closed in the log when it returns."""
        asyncio.run(self._run(cowrie))
        cowrie.wait_for_sessions_to_close()
        return self.ledger

    def _plan(self, dice: random.Random) -> list[tuple[str, Behaviour]]:
        names = list(ONE_OF_EACH) if self.one_of_each else []
        names += dice.choices(list(USUAL), list(USUAL.values()), k=max(0, self.sessions - len(names)))
        plan = [(name, ONE_OF_EACH[name]) for name in names]
        dice.shuffle(plan)
        return plan

    async def _run(self, cowrie: CowrieServer) -> None:
        dice = random.Random(self.seed)
        sources = _sources(dice)
        turn = asyncio.Semaphore(self.at_once)
        async with MalwareHost(SERVED, HOSTS[MALWARE_NAME], self.wanted_ports) as host:

            async def play(scene: Scene, behaviour: Behaviour) -> None:
                async with turn:
                    try:
                        await asyncio.wait_for(behaviour(scene), 60)
                    except (TimeoutError, asyncssh.Error, OSError) as error:
                        scene.attack.error = f"{type(error).__name__}: {error}"

            async with asyncio.TaskGroup() as tasks:
                for name, behaviour in self._plan(dice):
                    attack = Attack(name, next(sources))
                    self.ledger.append(attack)
                    scene = Scene(cowrie, host, random.Random(dice.random()), attack, self.long_command_bytes)
                    tasks.create_task(play(scene, behaviour))
