"""Start Cowrie with its network edge replaced: no name is looked up and nothing but loopback is reached.

Run by Cowrie's own interpreter, not ours. Cowrie refuses to download from loopback, by a list in its code
that no setting changes, and asks the system's name servers. Both would keep a test from seeing a download, so
this puts a table in their place, given as JSON in COWRIEPROC_E2E_HOSTS: name or address as an attacker writes
it -> loopback address. What is not in it cannot be resolved. With COWRIEPROC_E2E_DAY_S its logs' days are so long, so
that it rotates them while a test looks on. Everything else that runs is Cowrie's own code.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from cowrie.core import network
from cowrie.python.logfile import CowrieDailyLogFile
from twisted.internet import defer, reactor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from twisted.scripts import twistd
from zope.interface import implementer, provider

HOSTS: dict[str, str] = json.loads(os.environ["COWRIEPROC_E2E_HOSTS"])


DAY_S = int(os.environ.get("COWRIEPROC_E2E_DAY_S", "0"))
FIRST_DAY = int(time.time()) // (DAY_S or 1)


def short_day(_log: CowrieDailyLogFile, moment: float | None = None) -> tuple[int, int, int]:
    """Stand in for `DailyLogFile.toDate`, which says on which date a moment is."""
    days = int(time.time() if moment is None else moment) // DAY_S - FIRST_DAY
    return 2026, 1 + days // 28, 1 + days % 28


def loopback_address(host: str) -> str | None:
    """Return where `host` may be reached, or None if it may not be."""
    if host in HOSTS.values():
        return host
    address = HOSTS.get(host.lower())
    return address if address is not None and ipaddress.ip_address(address).is_loopback else None


def resolve_allowed(address: str) -> defer.Deferred[str | None]:
    """Stand in for `cowrie.core.network.resolve_allowed`."""
    return defer.succeed(loopback_address(address))


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Do nothing: an answer from a table has come before anybody can cancel it."""


@provider(IHostnameResolver)
class TableResolver:
    """Stand in for the reactor's name resolver, which would ask the system's name servers."""

    @staticmethod
    def resolveHostName(  # noqa: N802 (Twisted's name)
        resolutionReceiver: Any,  # noqa: N803
        hostName: str,  # noqa: N803
        portNumber: int = 0,  # noqa: N803
        addressTypes: Sequence[type] | None = None,  # noqa: N803
        transportSemantics: str = "TCP",  # noqa: N803
    ) -> _Resolution:
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        address = loopback_address(hostName)
        if address is not None:
            kind = "UDP" if transportSemantics == "UDP" else "TCP"
            resolutionReceiver.addressResolved(IPv4Address(kind, address, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


def main() -> None:
    """Replace the network edge, then run Cowrie in the foreground as `twistd -n cowrie` would."""
    network.resolve_allowed = resolve_allowed
    if DAY_S:
        CowrieDailyLogFile.toDate = short_day
    reactor.installNameResolver(TableResolver)
    sys.argv = [
        "twistd",
        "-n",
        "--umask=0022",
        "--pidfile=",
        "--logger",
        "cowrie.python.logfile.stdoutLogger",
        "cowrie",
    ]
    twistd.run()


main()
