"""`sessions list --src-ip`: an address in any spelling, a network, and nothing else."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.interpret.addresses import canonical_address, network_of, prefixes
from cowrieprocessor.reporting.queries.sessions import SessionFilter, list_sessions
from tests.unit.reporting.scene import add_session, at

ADDRESSES = (
    *("10.0.0.1", "10.0.1.1", "10.128.0.1", "100.0.0.1", "198.51.100.7", "198.51.100.77", "198.51.100.200"),
    *("198.51.101.7", "2001:db8::7", "2001:db8:0:5::7", "2001:db9::7", "2001::5", "::1", "::ffff:198.51.100.9"),
)
NETWORKS = (
    *("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/23", "198.51.100.0/24", "198.51.100.7/24", "198.51.100.0/25"),
    *("198.51.100.7/32", "203.0.113.0/24", "::/0", "2001:db8::/32", "2001:db8::/64", "2001::/16", "2001:DB8::7/128"),
)


def test_a_network_finds_its_addresses(engine: Engine) -> None:
    """Every session from an address of the network is listed, and no other, whatever the spelling."""
    with write_transaction(engine) as connection:
        for number, address in enumerate(ADDRESSES):
            add_session(connection, f"s{number}", at(number), src_ip=address)
    with read_transaction(engine) as connection:
        found = {
            text: {session.src_ip for session in list_sessions(connection, SessionFilter(src_ip=text)).rows}
            for text in NETWORKS
        }

    assert found == {
        text: {
            address for address in ADDRESSES if ip_address(canonical_address(address)) in ip_network(text, strict=False)
        }
        for text in NETWORKS
    }


@pytest.mark.parametrize(
    "text", ["", "nonsense", "198.51.100", "198.51.100.256", "198.51.100.0/33", "a/8", "1.2.3.4/x"]
)
def test_what_is_no_address_is_refused(engine: Engine, text: str) -> None:
    """A filter that cannot match is an error that shows the forms, not an empty list."""
    with read_transaction(engine) as connection, pytest.raises(ConfigurationError, match=r"198\.51\.100\.0/24"):
        list_sessions(connection, SessionFilter(src_ip=text))


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_prefixes_are_those_of_the_network(base: int, length: int, other: int) -> None:
    """An address has one of the beginnings, or is one of the whole addresses, exactly if it is in the network."""
    network = network_of(f"{ip_address(base)}/{length}")
    whole, starts = prefixes(network)  # type: ignore[arg-type]

    for address in map(str, (ip_address(base), ip_address(other), network[0], network[-1])):
        assert (address in whole or address.startswith(starts or "?")) == (ip_address(address) in network)
    assert len(whole) + len(starts) <= 128
