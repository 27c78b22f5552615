"""One form for every spelling of an address: what is stored, listed, filtered and counted.

An IPv4 address that is written as an IPv6 one (`::ffff:198.51.100.7`, as a socket for both protocols reports it) is the
IPv4 address; an IPv6 address is in lower case with its zeros shortened. A text that is no address stays as it is.

Source: RFC 4291, 2.5.5.2 (IPv4-mapped addresses); RFC 5952 (the canonical text of an IPv6 address).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from cowrieprocessor.sanitize import inert_cut

MAX_ADDRESS_CHARS = 45
"""The longest address: an IPv6 one that ends in an IPv4 one."""

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,16}", re.ASCII)
_PLAIN_IPV4 = re.compile(r"[1-9]\d{0,2}(?:\.(?:0|[1-9]\d{0,2})){3}", re.ASCII)


@lru_cache(maxsize=65536)
def canonical_address(text: str) -> str:
    """Return the one form of an address; of a text that is no address its inert form, at most 45 characters.

    White space and brackets around it do not count.
    """
    if _PLAIN_IPV4.fullmatch(text):
        return text  # nearly every one
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    try:
        address = ip_address(bare)
    except ValueError:
        return inert_cut(text, MAX_ADDRESS_CHARS)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return inert_cut(str(mapped or address), MAX_ADDRESS_CHARS)


def any_ipv4(text: str) -> str | None:
    """Return an IPv4 address in dotted decimals from any spelling that `inet_aton` reads; None if the text is none.

    It has one to four numbers, each decimal, octal (`0177`) or hexadecimal (`0x7f`); the last fills what is left.

    Source: POSIX, inet_addr().
    """
    if _PLAIN_IPV4.fullmatch(text) and max(map(int, text.split("."))) < 256:
        return text
    parts = text.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        numbers = [_c_number(part) for part in parts]
    except ValueError:
        return None
    *first, last = numbers
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        return None
    return str(IPv4Address(sum(number << 24 - 8 * place for place, number in enumerate(first)) + last))


def _c_number(text: str) -> int:
    """Return a number as C spells it."""
    if text[:2].lower() == "0x":
        return int(text, 16)
    return int(text, 8) if text.startswith("0") else int(text)


def spellings(text: str) -> tuple[str, ...]:
    """Return the canonical form of an address first, then others in which earlier releases may have stored it.

    These stored an address as the log had it: as given here, IPv4-mapped, with other case or all of its zeros.
    """
    canonical = canonical_address(text)
    found = [text]
    try:
        address = ip_address(canonical)
    except ValueError:
        return _distinct(canonical, text)
    number = int(address)
    if not isinstance(address, IPv6Address):
        number |= 0xFFFF << 32
        found += (f"{prefix}:ffff:{address}" for prefix in (":", "0:0:0:0:0", "0000:0000:0000:0000:0000"))
        found.append(f"::ffff:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}")
    groups = [number >> shift & 0xFFFF for shift in range(112, -1, -16)]
    found += (":".join(f"{group:x}" for group in groups), ":".join(f"{group:04x}" for group in groups))
    return _distinct(canonical, *found, *(one.upper() for one in (canonical, *found)))


def network_of(text: str) -> IPv4Network | IPv6Network:
    """Return the network that a text names: CIDR, or an address, which is a network of one; host bits do not count.

    Raises:
        ValueError: the text is neither.
    """
    address, slash, length = text.strip().partition("/")
    return ip_network(f"{canonical_address(address)}{slash}{length}", strict=False)


def prefixes(network: IPv4Network) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the whole addresses of an IPv4 network, and the beginnings of all others: together at most 128 texts."""
    octets = -(-network.prefixlen // 8)
    parts = (str(part.network_address).split(".")[:octets] for part in network.subnets(new_prefix=8 * octets))
    texts = tuple(".".join(part) for part in parts)
    return (texts, ()) if octets == 4 else ((), tuple(f"{text}." if text else "" for text in texts))


def is_in(text: str, network: IPv4Network | IPv6Network) -> bool:
    """Return whether a text is an address of a network, in any spelling."""
    try:
        return ip_address(canonical_address(text)) in network
    except ValueError:
        return False


def _distinct(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
