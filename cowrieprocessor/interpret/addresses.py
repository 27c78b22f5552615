"""One form for every spelling of an address: what is stored, listed, filtered and counted.

An IPv4 address that is written as an IPv6 one (`::ffff:198.51.100.7`, as a socket for both protocols reports it) is the
IPv4 address; an IPv6 address is in lower case with its zeros shortened. A text that is no address stays as it is.

Source: RFC 4291, 2.5.5.2 (IPv4-mapped addresses); RFC 5952 (the canonical text of an IPv6 address).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from cowrieprocessor.sanitize import inert_cut

MAX_ADDRESS_CHARS = 45
"""The longest address: an IPv6 one that ends in an IPv4 one."""

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


def _distinct(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
