"""The condition that a session came from an address or a network."""

from __future__ import annotations

from ipaddress import IPv4Network

from sqlalchemy import ColumnElement, Connection, or_, select

from cowrieprocessor.db.models import SessionAttribute
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.interpret.addresses import is_in, network_of, prefixes, spellings

MAX_ADDRESSES = 10_000
"""The most IPv6 addresses of a network that one query takes."""

_src_ip = SessionAttribute.src_ip.expression


def from_addresses(connection: Connection, text: str) -> ColumnElement[bool]:
    """Return the condition that a session came from an address, however it is spelled, or from a network.

    The addresses of IPv4 networks are found by how they begin. Those with a colon are read from the index, because the
    text of an IPv6 address does not always begin as its network does.

    Args:
        connection: a connection in a transaction.
        text: an address, or a network as CIDR.

    Raises:
        ConfigurationError: the text is neither, or the network has too many IPv6 addresses in this database.
    """
    try:
        network = network_of(text)
    except ValueError:
        raise ConfigurationError(
            f"{text!r:.80} is no address and no network: give it as 198.51.100.7, 198.51.100.0/24 or 2001:db8::/32"
        ) from None
    if network.prefixlen == network.max_prefixlen:
        return _src_ip.in_(spellings(str(network.network_address)))
    with_colon = connection.scalars(select(_src_ip).where(_src_ip.contains(":")).distinct())
    addresses = [address for address in with_colon if address and is_in(address, network)]
    if len(addresses) > MAX_ADDRESSES:
        raise ConfigurationError(
            f"{text}: more than {MAX_ADDRESSES:,} addresses in this database; give a smaller network"
        )
    starts: tuple[str, ...] = ()
    if isinstance(network, IPv4Network):
        whole, starts = prefixes(network)
        addresses += whole
    starting = (_src_ip.startswith(start) if start else ~_src_ip.contains(":") for start in starts)
    return or_(_src_ip.in_(addresses), *starting)
