"""URLs and hosts in text, in one form for every spelling."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.interpret.urls import (
    Endpoint,
    canonical_host,
    endpoints_in,
    last_path_segment,
    parse_port,
    parse_url,
    urls_in,
)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("http://192.0.2.1/x", "http://192.0.2.1/x"),
        ("HTTP://EXAMPLE.com./X", "http://example.com/X"),
        ("http://example.com", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:443?a=b", "https://example.com/?a=b"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://example.com:/x", "http://example.com/x"),
        ("http://example.com/x#fragment", "http://example.com/x"),
        ("ftp://user:p@ss@example.com/x", "ftp://user:p@ss@example.com/x"),
        ("http://[2001:DB8:0:0::1]:8080/x", "http://[2001:db8::1]:8080/x"),
        ("http://[::ffff:c000:201]/x", "http://192.0.2.1/x"),
        ("http://0xC0000201/", "http://192.0.2.1/"),
        ("http://030000001001/", "http://192.0.2.1/"),
        ("http://3221225985/", "http://192.0.2.1/"),
        ("http://192.513/", "http://192.0.2.1/"),
        ("tftp://192.0.2.1:69/x", "tftp://192.0.2.1/x"),
        ("stratum+tcp://pool.example.com:3333", "stratum+tcp://pool.example.com:3333/"),
        ("http://münchen.example.com/", "http://münchen.example.com/"),
    ],
)
def test_urls_have_one_form(given_text: str, expected: str) -> None:
    """Spellings of a URL are one URL; what the server sees of the path stays as it is, and the form is its own form."""
    url = parse_url(given_text)

    assert url is not None
    assert url.text == expected
    assert parse_url(url.text) == url


@pytest.mark.parametrize(
    "text",
    ["", "x", "http://", "http:///x", "http://$h/x", "http://192.0.2.256/", "http://a b/", "http://h:99999/", "http://h:0/",
     "http://-a/", "http://[::1/x", "http://[x]/", "http://1.2.3.4.5/", "http://" + "a" * 254 + "/", "://x", "a://x"],
)  # fmt: skip
def test_what_is_no_url(text: str) -> None:
    """A text without a host, with a host that cannot be one, or with an impossible port is no URL."""
    assert parse_url(text) is None


def test_a_scheme_is_completed_where_a_program_does() -> None:
    """A text without a scheme is a URL only where the scheme is given."""
    assert parse_url("192.0.2.1/x") is None
    for text in ("192.0.2.1:81/x", "//192.0.2.1:81/x"):
        url = parse_url(text, "http")
        assert url is not None
        assert (url.text, url.port, url.file_name) == ("http://192.0.2.1:81/x", 81, "x")


def test_urls_in_text_end_where_the_sentence_goes_on() -> None:
    """Quotes, brackets and punctuation around a URL do not belong to it; each is named once."""
    text = "see (http://192.0.2.1/a), 'https://example.com/b.'; <http://192.0.2.1/a> ftp://[2001:db8::1]"

    assert [url.text for url in urls_in(text)] == [
        "http://192.0.2.1/a",
        "https://example.com/b",
        "ftp://[2001:db8::1]/",
    ]


def test_addresses_and_sockets_in_text() -> None:
    """Dotted addresses and bash's sockets are hosts; networks, versions and parts of longer numbers are not."""
    text = "192.0.2.1 192.0.2.2:81, 192.0.2.0/24 v1.2.3.4 1.2.3.4.5 192.0.2.999 >/dev/tcp/example.com/443"

    assert endpoints_in(text) == [Endpoint("example.com", 443), Endpoint("192.0.2.1"), Endpoint("192.0.2.2", 81)]


@pytest.mark.parametrize(
    ("text", "port"), [("1", 1), ("65535", 65535), ("65536", None), ("0", None), ("", None), ("²", None), (None, None)]
)
def test_ports(text: str | None, port: int | None) -> None:
    """A port is a number between 1 and 65535."""
    assert parse_port(text) == port


@pytest.mark.parametrize("unit", ["http://", "a@", "http://@", "[", "/dev/tcp/a/", "1.2.3.4:", "a.", "-", "http://a."])
def test_long_texts_are_searched_in_linear_time(unit: str) -> None:
    """No text makes the search slow."""
    text = unit * (65_536 // len(unit))
    started = time.monotonic()
    urls_in(text)
    endpoints_in(text)
    canonical_host(text)
    parse_url(f"http://{text}")

    assert time.monotonic() - started < 2


@given(st.text(st.characters(codec=None) | st.sampled_from(":/@[].#?0x"), max_size=80))
def test_the_form_of_any_url_is_its_own(text: str) -> None:
    """Whatever is read as a URL reads the same again."""
    for url in (parse_url(text, "http"), *urls_in(f"http://{text}")):
        assert url is None or parse_url(url.text) == url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://198.51.100.7/a/b.sh?x=/c#d", "b.sh"),
        ("http://198.51.100.7", None),
        ("http://198.51.100.7/", None),
        ("http://198.51.100.7/a%20b", "a b"),
        ("/tmp/x", "x"),
        ("x", "x"),
        ("", None),
    ],
)
def test_last_segment_of_a_path_is_a_name(url: str, name: str | None) -> None:
    """The name is the text after the last slash of the path, without query and fragment."""
    assert name == last_path_segment(url)
