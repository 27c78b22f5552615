"""One form for every spelling of an address."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.interpret.addresses import MAX_ADDRESS_CHARS, any_ipv4, canonical_address, spellings


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("::FFFF:198.51.100.7", "198.51.100.7"),
        ("::ffff:c633:6407", "198.51.100.7"),
        ("0:0:0:0:0:ffff:198.51.100.7", "198.51.100.7"),
        (" 198.51.100.7\n", "198.51.100.7"),
        ("2001:DB8::1", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("fe80::A%eth0", "fe80::a%eth0"),
        ("0.0.0.9", "0.0.0.9"),
        ("::", "::"),
        # No addresses, or none that every program reads alike: they stay.
        ("198.051.100.007", "198.051.100.007"),
        ("999.1.1.1", "999.1.1.1"),
        ("gateway.example", "gateway.example"),
        ("198.51.100.7:22", "198.51.100.7:22"),
        ("", ""),
        ("x" * 60, "x" * 44 + "…"),
    ],
)
def test_an_address_has_one_form(spelling: str, canonical: str) -> None:
    """An IPv4-mapped address is the IPv4 one, an IPv6 address has lower case and short zeros; other text stays."""
    assert canonical_address(spelling) == canonical
    assert canonical_address(canonical) == canonical


def test_other_text_is_made_inert() -> None:
    """A text that is no address is stored with its control characters as escapes."""
    assert canonical_address("\x1b[31m") == r"\x1b[31m"


@given(st.one_of(st.ip_addresses().map(str), st.text(max_size=60)))
def test_any_text_has_one_form_that_fits(text: str) -> None:
    """Whatever stands in the field, the form fits the column, and is its own form if it is an address."""
    canonical = canonical_address(text)

    assert len(canonical) <= MAX_ADDRESS_CHARS
    canonical.encode()


@given(st.ip_addresses(), st.data())
def test_every_spelling_of_an_address_is_found(address: IPv4Address | IPv6Address, data: st.DataObject) -> None:
    """Whichever spelling is asked for, the list has the canonical form first, and all others that it names agree."""
    forms = spellings(str(address))
    asked = data.draw(st.sampled_from(forms))

    assert {canonical_address(one) for one in forms} == {forms[0]}
    assert spellings(asked)[0] == forms[0]
    assert set(forms) <= set(spellings(asked))
    assert asked in spellings(asked)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("3221225985", "192.0.2.1"),
        ("0xc0.0.2.1", "192.0.2.1"),
        ("0XC0000201", "192.0.2.1"),
        ("0300.0000.0002.0001", "192.0.2.1"),
        ("192.0.513", "192.0.2.1"),
        ("192.513", "192.0.2.1"),
        ("16909060", "1.2.3.4"),
        ("127.1", "127.0.0.1"),
        ("4294967296", None),
        ("192.0.2.256", None),
        ("256.1", None),
        ("192.0.65536", None),
        ("08.1.1.1", None),
        ("1.2.3.4.5", None),
        ("1..2", None),
        ("0x", None),
        ("", None),
        ("example.com", None),
        ("1" * 100, None),
        ("²", None),
    ],
)
def test_numbers_are_addresses_as_the_system_reads_them(text: str, address: str | None) -> None:
    """Decimal, octal and hexadecimal spellings of an IPv4 address are that address, as `inet_aton` has it."""
    assert any_ipv4(text) == address
    if address is not None:
        assert socket.inet_ntoa(socket.inet_aton(text)) == address
