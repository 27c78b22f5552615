"""Typed reading of untrusted JSON: wrong values count as missing, and nothing grows without bounds."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowrieprocessor.enrichment.providers import json_values
from cowrieprocessor.enrichment.providers.json_values import (
    MAX_RESPONSE_BYTES,
    bounded,
    hexadecimal,
    integer,
    integer_in_text,
    parsed,
    redact,
    text,
    time_from_epoch,
    time_from_text,
)
from tests.unit.enrichment.asking import KEY, assert_storable_response


def utc(*parts: int) -> dt.datetime:
    """Return a moment in UTC."""
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("Mirai", "Mirai"),
        (" Mirai\n", "Mirai"),
        ("a\x00b\ud800c", "a\ufffdb\ufffdc"),
        ("", None),
        ("  ", None),
        (None, None),
        (7, None),
        (["Mirai"], None),
        ("x" * 300, "x" * 256),
    ],
)
def test_text(given_: object, expected: str | None) -> None:
    """Strings are storable and bounded; blank ones and other types are None."""
    assert expected == text(given_)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (7, 7),
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (-1, None),
        (True, None),
        (7.0, None),
        ("7", None),
        (None, None),
    ],
)
def test_integer(given_: object, expected: int | None) -> None:
    """Only integers that every database stores are read; true, 7.0 and "7" are None."""
    assert expected == integer(given_)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [("95268", 95268), (" 7 ", 7), (7, 7), ("-1", None), ("7.5", None), ("٧", None), ("9" * 19, None)],
)
def test_integer_in_text(given_: object, expected: int | None) -> None:
    """A string of digits is read where a source writes numbers as strings."""
    assert expected == integer_in_text(given_)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (1_762_142_706, utc(2025, 11, 3, 4, 5, 6)),
        (0, None),
        (-1, None),
        (10**12, None),
        (10**30, None),
        (True, None),
        (1_762_142_706.5, None),
        ("1762142706", None),
        (None, None),
    ],
)
def test_moment_of_epoch(given_: object, expected: dt.datetime | None) -> None:
    """Integer seconds since 1970 are read in UTC; milliseconds are out of range and not misread."""
    assert expected == time_from_epoch(given_)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("2026-01-02 03:04:05 UTC", utc(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02 03:04:05", utc(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02T03:04:05Z", utc(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02T03:04:05.123456+02:00", utc(2026, 1, 2, 1, 4, 5)),
        ("2026-01-02", utc(2026, 1, 2)),
        ("2026-02-30 00:00:00", None),
        ("2026-01-02 25:00:00", None),
        ("1970-01-01 00:00:00", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("2026-01-02T03:04:05+99:99", None),
        ("yesterday", None),
        ("", None),
        (1_762_142_706, None),
    ],
)
def test_moment_of_text(given_: object, expected: dt.datetime | None) -> None:
    """The formats of abuse.ch and ISO 8601 are read; without a zone in UTC."""
    assert expected == time_from_text(given_)


@pytest.mark.parametrize(
    ("given_", "expected"), [("AB" * 16, "ab" * 16), ("ab" * 15, None), ("xy" * 16, None), (7, None)]
)
def test_hexadecimal(given_: object, expected: str | None) -> None:
    """Hashes are lower case and of the right length."""
    assert expected == hexadecimal(given_, 32)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'{"a": NaN, "b": Infinity}', {"a": None, "b": None}),
        (b"", None),
        (b"<html>", None),
        (b'{"a": 1', None),
        (b"\xff\xfe\x00", None),
        (b"[" * 100_000, None),
        (b"9" * 100_000, None),
    ],
)
def test_parsed(body: bytes, expected: object) -> None:
    """JSON is read, any other body is None, and nothing raises."""
    assert expected == parsed(body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(st.characters(), max_size=30)
    | st.sampled_from([KEY, f"x{KEY.upper()}y", "\x00", "\ud800", "A" * 70_000]),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(st.characters(), max_size=10), inner, max_size=5)
    ),
    max_leaves=30,
)


@settings(max_examples=150)
@given(st.dictionaries(st.text(st.characters(), max_size=10) | st.just(KEY), JSON, max_size=6))
def test_what_is_kept_can_be_stored_and_read_again(document: dict[str, Any]) -> None:
    """The copy of any value is bounded JSON without the key, and copying it again changes nothing."""
    kept = bounded(document, KEY)

    assert_storable_response(kept)
    assert kept == bounded(kept, KEY)


def test_the_largest_entries_give_way() -> None:
    """Of a document that is too large the largest top-level entries are dropped, and the rest is unchanged."""
    document = {"verdict": "malicious", "rows": [{"text": "x" * 900}] * 90, "few": [1, 2]}

    kept = bounded(document)

    assert {"verdict": "malicious", "few": [1, 2]} == kept
    assert len(json.dumps(bounded({**document, "rows": document["rows"][:60]}))) > MAX_RESPONSE_BYTES * 3 // 4


def test_deep_and_long_documents_are_cut() -> None:
    """Values nested too deeply are dropped, long lists and strings are cut."""
    deep: Any = "bottom"
    for _ in range(50):
        deep = [deep]

    kept = bounded({"deep": deep, "list": list(range(1000)), "text": "x" * 5000})

    assert kept["deep"] == [[[[[]]]]]
    assert len(kept["list"]) == 100
    assert len(kept["text"]) == 1000


@pytest.mark.parametrize("form", [KEY, KEY.upper(), f"https://host/users/{KEY}/overall_quotas", f"{KEY}{KEY}"])
def test_a_key_is_hidden(form: str) -> None:
    """A key is redacted in every place and in any case."""
    assert KEY not in redact(form, KEY).lower()
    assert json_values.REDACTED in redact(form, KEY)


def test_a_key_with_other_characters_is_hidden_in_addresses() -> None:
    """A key is also redacted where it is URL-encoded."""
    assert redact("https://host/users/a%2Fb%3Dc%2B/x and a/b=c+", "a/b=c+") == "https://host/users/***/x and ***"
