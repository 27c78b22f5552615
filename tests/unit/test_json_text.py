"""JSON as every program reads it: lone surrogates have one inert spelling, which can be undone."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.events import Event, parse_event
from cowrieprocessor.json_text import (
    object_with_surrogates,
    read_json,
    restore_lone_surrogates,
    spell_lone_surrogates,
    stored_fields,
)

PIECES = st.sampled_from(
    [
        *(r"\ud800", r"\uD83D", r"\ude00", r"\uDC00", r"\uDFFF", r"\\", r"\\u", "ud800", "d800", r"\uffff", r"\uFFFF"),
        *("\uffff", "ffff", r"\n", r"\"", "a", "é", "😀", r"\u0000"),
    ]
)
STRINGS = st.lists(PIECES, max_size=8).map("".join)


def event_of(raw: bytes) -> Event:
    """Return the event of a line."""
    event = parse_event(raw, read_json(raw))
    assert isinstance(event, Event)
    return event


@pytest.mark.parametrize(
    ("raw", "spelled", "text"),
    [
        (r'"\ud800"', r'"\u005cud800"', r"\ud800"),
        (r'"\uDFFF!"', r'"\u005cudfff!"', r"\udfff!"),
        (r'"\ude00\ud83d"', r'"\u005cude00\u005cud83d"', r"\ude00\ud83d"),
        (r'"\ud83d\ud83d\ude00"', r'"\u005cud83d\ud83d\ude00"', "\\ud83d😀"),
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"', "😀"),
        (r'"\\ud800"', r'"\\ud800"', r"\ud800"),
        (r'"\\\ud800"', r'"\\\u005cud800"', r"\\ud800"),
        (r'"\u005cud800"', r'"\u005cud800"', r"\ud800"),
        (r'{"\ud800":1}', r'{"\u005cud800":1}', {r"\ud800": 1}),
    ],
)
def test_a_lone_surrogate_has_one_spelling(raw: str, spelled: str, text: object) -> None:
    """High, low, reversed and in a key: a lone surrogate is spelled as text; a pair and a typed escape stay."""
    assert spell_lone_surrogates(raw.encode()) == spelled.encode()
    assert read_json(raw.encode()) == orjson.loads(spelled) == json.loads(spelled) == text


@given(STRINGS, STRINGS)
def test_the_spelling_can_be_undone_and_keeps_identity(one: str, other: str) -> None:
    """The original comes back, the hash is that of the original, and the stored payload is the same event."""
    raw = f'{{"session":"s","eventid":"x","timestamp":"t","input":"{one}","{other}k":[1.5,"{other}"]}}'.encode()
    event = event_of(raw)
    original: Any = json.loads(raw)

    assert json.loads(restore_lone_surrogates(event.payload.encode())) == original
    text = json.dumps(original, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert event.payload_hash == blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
    assert event_of(event.payload.encode()) == event
    assert stored_fields(event.payload) == stored_fields(raw.decode()) == event.fields


def test_a_typed_escape_is_another_event() -> None:
    """A lone surrogate and its six characters typed are read alike, but are two events."""
    lone, typed = (event_of(b'{"session":"s","eventid":"x","input":"%s"}' % text) for text in (rb"\ud800", rb"\\ud800"))

    assert lone.fields == typed.fields
    assert lone.payload_hash != typed.payload_hash


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"a":NaN}', b'{"a":"\\ud800}', b'{"a":"\\ud80"}', b'{"a":"\xed\xa0\x80"}']
)
def test_other_damage_is_still_refused(raw: bytes) -> None:
    """Only lone surrogates are forgiven; what is damaged otherwise is no JSON."""
    with pytest.raises(orjson.JSONDecodeError):
        read_json(raw)
    assert object_with_surrogates(raw) is None


def test_keys_that_read_alike_are_refused() -> None:
    """A key with a lone surrogate beside the same key typed would be one key twice."""
    raw = rb'{"\ud800":1,"\\ud800":2}'

    assert not isinstance(parse_event(raw, read_json(raw)), Event)


@pytest.mark.parametrize("payload", [None, "", "[]", "17", "{", '{"a":NaN'])
def test_a_payload_that_is_no_object_has_no_fields(payload: str | None) -> None:
    """What version 3 stored of a line that is no event has no fields."""
    assert stored_fields(payload) == {}


def test_numbers_of_version_3_stay() -> None:
    """Version 3 stored numbers that are no JSON."""
    assert stored_fields('{"a":-Infinity}') == {"a": float("-inf")}
