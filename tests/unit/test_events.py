"""Cowrie's event names and the parser of a log line: events, their timestamps, and what SQLite reads from them."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib
import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cowrieprocessor import events
from cowrieprocessor.errors import UnreadableTimestamp
from cowrieprocessor.events import (
    EVENT_FAMILIES,
    EVENT_NAMES,
    REFUSED_DUPLICATE_KEY,
    REFUSED_NOT_OBJECT,
    REFUSED_TOO_DEEP,
    Event,
    Refused,
    duration_s,
    moment_or_none,
    parse_event,
    parse_timestamp,
    utc_text,
)
from cowrieprocessor.json_text import canonical_json, hash_payload
from tests.documents import PROJECT, table_rows

PAGE = (PROJECT / "docs" / "events.md").read_text(encoding="utf-8")


def parsed(raw: bytes | str, **options: int) -> Event | Refused:
    """Return the event of a line, or why it is refused."""
    raw = raw if isinstance(raw, bytes) else raw.encode()
    return parse_event(raw, orjson.loads(raw), **options)


def event_of(raw: bytes | str, **options: int) -> Event:
    """Return the event of a line, which must not be refused."""
    event = parsed(raw, **options)
    assert isinstance(event, Event), event
    return event


def reason_for(raw: bytes | str, **options: int) -> str:
    """Return why a line is refused, which it must be."""
    refused = parsed(raw, **options)
    assert isinstance(refused, Refused), refused
    return refused.reason


# --- the catalogue ---

REAL_NAMES = re.findall(
    r"\S+",
    """
    cowrie.session.connect cowrie.session.closed cowrie.session.params cowrie.session.input
    cowrie.session.file_download cowrie.session.file_download.failed cowrie.session.file_upload
    cowrie.client.version cowrie.client.kex cowrie.client.fingerprint cowrie.client.size cowrie.client.var
    cowrie.client.malformed_packet cowrie.login.success cowrie.login.failed
    cowrie.command.input cowrie.command.failed cowrie.command.success cowrie.command.chpasswd
    cowrie.log.open cowrie.log.closed
    cowrie.direct-tcpip.request cowrie.direct-tcpip.data cowrie.direct-tcpip.redirect cowrie.direct-tcpip.tunnel
    cowrie.direct-tcpip.ja4 cowrie.direct-tcpip.ja4h
    cowrie.tunnelproxy-tcpip.data
    cowrie.abuseipdb.started cowrie.abuseipdb.reportedip cowrie.abuseipdb.reportfail cowrie.abuseipdb.ratelimited
    cowrie.abuseipdb.wakeup
    cowrie.virustotal.scanfile cowrie.greynoise.result cowrie.malwarebazaar.submitted cowrie.urlhaus.submitted
    """,
)
"""Source: Cowrie's docs/OUTPUT.rst and its code up to 3.1.4."""

REAL_FAMILIES = ("cowrie.telnet.", "cowrie.proxy.", "cowrie.virustotal.", "cowrie.reversedns.", "KIPP")


def test_catalogue_names_what_cowrie_emits() -> None:
    """The catalogue has exactly the names and families of names that Cowrie is known to emit."""
    assert set(EVENT_NAMES) == set(REAL_NAMES)
    assert set(EVENT_FAMILIES) == set(REAL_FAMILIES)


def test_docs_list_every_event() -> None:
    """docs/events.md has one row for each event name, in order, with the meaning in the code."""
    assert table_rows(PAGE, "event", "what happened") == [[f"`{name}`", what] for name, what in EVENT_NAMES.items()]


def test_docs_list_every_family() -> None:
    """docs/events.md has one row for each family of event names, with the meaning in the code."""
    assert table_rows(PAGE, "begins with", "what happened") == [
        [f"`{name}`", what] for name, what in EVENT_FAMILIES.items()
    ]


def test_docs_name_no_event_that_is_not_catalogued() -> None:
    """Every event name in backticks on docs/events.md, and in a constant, is in the catalogue."""
    constants = {value for name, value in vars(events).items() if name.isupper() and str(value).startswith("cowrie.")}

    assert set(re.findall(r"`(cowrie\.[\w.-]+[\w-])`", PAGE)) == set(EVENT_NAMES)
    assert constants <= set(EVENT_NAMES)


@pytest.mark.parametrize("form", [row[1] for row in table_rows(PAGE, "form", "example")])
def test_documented_timestamps_are_understood(form: str) -> None:
    """Every example of a timestamp on docs/events.md is read as a time on 21 November 2026."""
    examples = re.findall(r"`([^`]+)`", form)
    values = [json.loads(example) if example[0] in '"1' else example for example in examples]

    assert {moment_or_none(value)[:10] for value in values} == {"2026-11-21"}  # type: ignore[index]


# --- what is an event ---


def test_unknown_name_is_an_event() -> None:
    """An event with an unknown name is an event."""
    assert event_of('{"eventid":"cowrie.teapot.brewed","session":"a"}').event_type == "cowrie.teapot.brewed"


def test_event_of_a_plain_line() -> None:
    """The event of a typical line has the fields, the original text, its hash and the three column values."""
    raw = b'{"eventid":"cowrie.login.failed","session":"00c0ffee0001","timestamp":"2026-11-21T23:48:27.110758Z","a":1}'

    assert parsed(raw) == Event(
        fields=json.loads(raw),
        payload=raw.decode(),
        payload_hash=hash_payload(json.loads(raw)),
        session_id="00c0ffee0001",
        event_type="cowrie.login.failed",
        timestamp="2026-11-21T23:48:27.110758Z",
        moment="2026-11-21 23:48:27.110758",
    )


def test_payload_is_kept_unchanged() -> None:
    """Escapes, whitespace, control characters and the spelling of numbers are stored unchanged."""
    raw = '{ "session" : "a",\t"x":"\\u00e9\\u001b[31m\\u0000é","n":1.50E+2,"big":123456789012345678901234567890}'

    assert event_of(raw).payload == raw


def test_hash_does_not_depend_on_order_or_whitespace() -> None:
    """The same object in another order and spelling has the same hash; another object has another hash."""
    event = event_of('{"session":"a","x":{"p":[1,2],"q":"é"}}')
    respelled = event_of('{ "x": {"q": "\\u00e9", "p": [1, 2]},\n "session": "a" }')

    assert respelled.payload_hash == event.payload_hash
    assert event_of('{"session":"a","x":{"p":[2,1],"q":"é"}}').payload_hash != event.payload_hash


def test_hash_is_that_of_v3() -> None:
    """The hash is the BLAKE2b-256 of the compact JSON with sorted keys, in UTF-8."""
    expected = hashlib.blake2b(b'{"eventid":"x","input":"\xc3\xa9\\n","session":"a"}', digest_size=32).hexdigest()

    assert event_of(r'{"session":"a", "eventid":"x", "input":"\u00e9\n"}').payload_hash == expected


@pytest.mark.parametrize("raw", ["[1]", '"text"', "5", "null", "true", "[]"])
def test_json_of_another_kind_is_refused(raw: str) -> None:
    """JSON that is not an object is refused."""
    assert reason_for(raw) == REFUSED_NOT_OBJECT


@pytest.mark.parametrize("value", ["{}", '{"session":null,"eventid":null,"timestamp":null}', '{"message":["a"]}'])
def test_missing_keys_are_none(value: str) -> None:
    """An object without session, name and timestamp, or with null values, is an event without them."""
    assert event_of(value)[3:] == (None, None, None, None)


def test_empty_keys_stay_empty() -> None:
    """An empty session, name or timestamp stays an empty text, which differs from a missing one."""
    assert event_of('{"session":"","eventid":"","timestamp":""}')[3:] == ("", "", "", None)


KEYS = ("session", "eventid", "timestamp")
LIMITS = {"session": 64, "eventid": 128, "timestamp": 64}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["[]", '["a"]', "{}", '{"a":1}', "true", "false", str(2**63), str(2**64 - 1)])
def test_values_that_are_not_text_are_refused(key: str, value: str) -> None:
    """A session, name or timestamp that is a list, an object, true, false or beyond SQLite's integers is refused."""
    assert reason_for(f'{{"{key}":{value}}}') == f"{key} is not text"


@pytest.mark.parametrize("key", ["session", "eventid"])
@pytest.mark.parametrize("value", ["1.5", "1e3", "-0.0", str(2**64), str(-(2**63) - 1), "0.1"])
def test_decimal_session_or_name_is_refused(key: str, value: str) -> None:
    """A session or name that is a decimal number, whose text depends on the SQLite version, is refused."""
    assert reason_for(f'{{"{key}":{value}}}') == f"{key} is not text"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["0", "-0", "7", "-7", "1606003200", str(2**63 - 1), str(1 - 2**63)])
def test_whole_numbers_become_their_digits(key: str, value: str) -> None:
    """A session, name or timestamp that is a whole number is read as the text of its digits."""
    assert event_of(f'{{"{key}":{value}}}')[3 + KEYS.index(key)] == str(int(value))


@pytest.mark.parametrize("key", KEYS)
def test_column_values_have_a_maximum_length(key: str) -> None:
    """A value with as many characters as its column allows is accepted, whatever its bytes; a longer one is refused."""
    longest = "😀" * LIMITS[key]

    assert event_of(json.dumps({key: longest}))[3 + KEYS.index(key)] == longest
    assert reason_for(json.dumps({key: longest + "x"})) == f"{key} is too long"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["\\u0000", "a\\u0000", "\\u0000b", "a\\u0000b"])
def test_nul_in_a_key_is_refused(key: str, value: str) -> None:
    """A NUL in session, name or timestamp, at which databases would truncate it, is refused."""
    assert reason_for(f'{{"{key}":"{value}"}}') == f"{key} holds a NUL"


def test_nul_in_another_field_is_an_event() -> None:
    """An event with a NUL, or any other control character, in a field of the attacker is accepted."""
    event = event_of('{"session":"a","input":"\\u0000\\u001b\\u202e","username":"\\ud83d\\ude00"}')

    assert event.fields["input"] == "\0\x1b\u202e"


# --- duplicate keys and unusual spellings ---


@pytest.mark.parametrize(
    "raw",
    [
        '{"session":"a","session":"b"}',
        '{"session":"a","session":"a"}',
        '{"x":1,"x":2}',
        '{"session":"a","\\u0073ession":"b"}',
        '{"\\u0073\\u0065ssion":"a","\\u0073ession":"b"}',
        '{"session":"a","session" :"b"}',
        '{"session":"a","session"\\n:"b"}'.replace("\\n", "\n"),
        '{"session" : "a","session"\t:"b"}',
        '{"a":{"x":1,"x":2}}',
        '{"a":[{"x":1},{"x":1,"y":2,"x":3}]}',
        '{"session":"a","x":"\\":","session"  :  "b"}',
        '{"a/b":1,"a\\/b":2}',
        '{"é":1,"\\u00e9":2}',
        '{"":1,"":2}',
        '{"timestamp":true,"timestamp":0.5}',
        '{"timestamp":[1],"timestamp":0.5}',
    ],
)
def test_duplicate_key_is_refused(raw: str) -> None:
    """An object with a duplicate key is refused, however the second key is spelled and wherever it is."""
    assert reason_for(raw) == REFUSED_DUPLICATE_KEY


@pytest.mark.parametrize(
    "raw",
    [
        '{"session":"a","x":{"session":"b"}}',
        '{"session":"a","x":[{"session":"b"},{"session":"c"}]}',
        '{"session":"a","x":"\\"session\\":\\"b\\""}',
        '{"session":"a","x":"session"}',
        '{"session":"a","x":"\\\\","y":"\\\\\\"session\\":"}',
        '{"session":"a","x":"\\u0073ession"}',
        '{"session":"a" , "x" :\t1 }',
    ],
)
def test_apparent_duplicates_are_accepted(raw: str) -> None:
    """The same key in another object, or its spelling in a text, is no duplicate, and the payload is unchanged."""
    event = event_of(raw)

    assert (event.session_id, event.payload) == ("a", raw)


def test_duplicate_next_to_deep_nesting_is_detected() -> None:
    """A duplicate key is detected however deep another value is nested."""
    raw = '{"session":"a","session":"b","x":' + "[" * 990 + "]" * 990 + "}"

    assert reason_for(raw) == REFUSED_DUPLICATE_KEY


@pytest.mark.parametrize("key", KEYS)
def test_escaped_key_is_rewritten_without_escapes(key: str) -> None:
    """If a key is spelled with escapes, which old SQLite versions do not find, only its spelling is changed."""
    escaped = f"\\u{ord(key[0]):04x}{key[1:]}"
    event = event_of(f'{{"x": "\\u0041", "{escaped}" : "v", "y":1.50}}')

    assert event.payload == f'{{"x": "\\u0041", "{key}" : "v", "y":1.50}}'
    assert event[3 + KEYS.index(key)] == "v"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1606003200.110758", "1606003200.110758"),
        ("1606003200.1107580000", "1606003200.1107580000"),
        ("1.5e3", "1500.0"),
        ("1606003200E0", "1606003200.0"),
        ("1E16", "10000000000000000"),
        ("-0.0", "-0.0"),
        ("0.1", "0.1"),
        (str(2**64), str(2**64)),
        (str(-(2**63) - 1), str(-(2**63) - 1)),
    ],
)
def test_decimal_timestamp_becomes_its_digits(number: str, text: str) -> None:
    """A timestamp that is a decimal number, whose text depends on the SQLite version, is stored as its digits."""
    event = event_of(f'{{"x":{{"timestamp":1.5}},"timestamp" :{number} ,"y":2.50}}')

    assert event.payload == f'{{"x":{{"timestamp":1.5}},"timestamp" :"{text}" ,"y":2.50}}'
    assert event.timestamp == event.fields["timestamp"] == text
    assert event.moment == moment_or_none(json.loads(number))


@pytest.mark.parametrize("number", ["1e300", "5e-324", "1e-300", "0." + "1" * 100])
def test_timestamp_of_too_many_digits_is_refused(number: str) -> None:
    """A number with more digits than the column allows is refused instead of being written out."""
    assert reason_for(f'{{"timestamp":{number}}}') == "timestamp is too long"


# --- nesting ---


def nested(levels: int, kind: str = "[") -> bytes:
    """Return an object with the given nesting depth: the object itself, and lists or objects in it."""
    inner = levels - 1
    if kind == "[":
        return b'{"session":"a","x":' + b"[" * inner + b"]" * inner + b"}"
    return b'{"session":"a","x":' + b'{"x":' * (inner - 1) + b"{}" + b"}" * (inner - 1) + b"}"


@pytest.mark.parametrize("kind", "[{")
@pytest.mark.parametrize("levels", [2, 100, 254, 255, 256, 999, 1000])
def test_nesting_that_sqlite_reads_is_an_event(levels: int, kind: str) -> None:
    """An object of up to 1000 levels is an event with a hash."""
    raw = nested(levels, kind)
    event = event_of(raw)

    assert (event.payload, event.session_id) == (raw.decode(), "a")
    assert event.payload_hash == hashlib.blake2b(raw, digest_size=32).hexdigest()


@pytest.mark.parametrize("kind", "[{")
@pytest.mark.parametrize("levels", [1001, 1002, 1023])
def test_nesting_that_sqlite_refuses_is_refused(levels: int, kind: str) -> None:
    """An object of more than 1000 levels is refused."""
    assert reason_for(nested(levels, kind)) == REFUSED_TOO_DEEP


def test_orjson_refuses_deeper_nesting() -> None:
    """A nesting of 2000 levels does not reach the parser: orjson refuses it."""
    with pytest.raises(orjson.JSONDecodeError, match="depth limit exceeded"):
        orjson.loads(nested(2000))


@pytest.mark.parametrize(("levels", "refused"), [(10, False), (11, True), (50, True)])
def test_lower_limit_of_nesting_holds_for_short_values(levels: int, refused: bool) -> None:
    """A limit below SQLite's applies to values of any length."""
    assert isinstance(parsed(nested(levels), max_nesting=10), Refused) == refused


def test_many_brackets_are_not_nesting() -> None:
    """Thousands of adjacent lists are not deep."""
    assert event_of(b'{"session":"a","x":[' + b"[]," * 2000 + b"[]]}").session_id == "a"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
        max_leaves=12,
    )
)
def test_canonical_json_is_the_same_below_any_depth(value: Any) -> None:
    """The compact JSON of a value nested deeper than orjson's limit is orjson's JSON of the inner value in brackets."""
    deep = value
    for _ in range(300):
        deep = [deep]

    assert canonical_json(deep) == b"[" * 300 + orjson.dumps(value, option=orjson.OPT_SORT_KEYS) + b"]" * 300


@pytest.mark.parametrize("key", [*KEYS, "shasum"])
def test_deep_nesting_in_a_key_is_no_crash(key: str) -> None:
    """A session, name, timestamp or hash that is nested 990 levels deep is refused or ignored, never a crash."""
    raw = f'{{"{key}":{"[" * 990}{"]" * 990}}}'

    assert isinstance(parsed(raw), Event if key == "shasum" else Refused)


# --- invalid JSON ---


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1E400}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\xff"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\x00"}',
        b'{"a":"\t"}',
        b'{"a":01}',
        b'{"a":1,}',
        b"{'a':1}",
        b'\xef\xbb\xbf{"a":1}',
    ],
)
def test_invalid_json_never_becomes_an_event(raw: bytes) -> None:
    """NaN, infinities, 5,000-digit integers, invalid UTF-8 and raw control characters are not JSON."""
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(raw)


# --- timestamps ---


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        ("2026-11-21T23:48:27.110758Z", "2026-11-21 23:48:27.110758"),
        ("2026-11-22T01:48:27.110758+0200", "2026-11-21 23:48:27.110758"),
        ("2026-11-22T05:18:27.110758+05:30", "2026-11-21 23:48:27.110758"),
        ("2026-11-21T13:48:27.110758-10", "2026-11-21 23:48:27.110758"),
        ("2026-11-21T23:48:27.110758", "2026-11-21 23:48:27.110758"),
        ("2026-11-21 23:48:27.110758", "2026-11-21 23:48:27.110758"),
        ("2026-11-21T23:48:27Z", "2026-11-21 23:48:27.000000"),
        ("2026-11-21T23:48Z", "2026-11-21 23:48:00.000000"),
        ("2026-11-21T23:48:27.1Z", "2026-11-21 23:48:27.100000"),
        ("2026-11-21T23:48:27,110Z", "2026-11-21 23:48:27.110000"),
        ("2026-11-21T23:48:27.110758999Z", "2026-11-21 23:48:27.110758"),
        ("2026-11-21T23:48:27.110758999+00:00", "2026-11-21 23:48:27.110758"),
        ("2026-11-21t23:48:27.110758z", "2026-11-21 23:48:27.110758"),
        ("2026-11-21 23:48:27.110758 UTC", "2026-11-21 23:48:27.110758"),
        ("2026-11-21 23:48:27.110 GMT", "2026-11-21 23:48:27.110000"),
        ("2026-11-21T23:48:27.11075 Z", "2026-11-21 23:48:27.110750"),
        (" 2026-11-21T23:48:27Z\n", "2026-11-21 23:48:27.000000"),
        ("0001-01-01T00:00:00.000000Z", "0001-01-01 00:00:00.000000"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31 23:59:59.999999"),
        ("0001-01-01T01:00:00+0100", "0001-01-01 00:00:00.000000"),
        (0, "1970-01-01 00:00:00.000000"),
        (-1, "1969-12-31 23:59:59.000000"),
        (1795304907, "2026-11-21 23:48:27.000000"),
        (1795304907110, "2026-11-21 23:48:27.110000"),
        (1795304907110758, "2026-11-21 23:48:27.110758"),
        (1795304907110758999, "2026-11-21 23:48:27.110758"),
        (1795304907.25, "2026-11-21 23:48:27.250000"),
        (1795304907110.5, "2026-11-21 23:48:27.110500"),
        (1795304907110758.0, "2026-11-21 23:48:27.110758"),
        ("1795304907", "2026-11-21 23:48:27.000000"),
        ("1795304907110", "2026-11-21 23:48:27.110000"),
        ("1795304907110758", "2026-11-21 23:48:27.110758"),
        ("1795304907110758999", "2026-11-21 23:48:27.110758"),
        ("1795304907.25", "2026-11-21 23:48:27.250000"),
    ],
)
def test_timestamps_of_all_forms(timestamp: object, moment: str) -> None:
    """ISO 8601 with Z, any offset or none, and epochs of any unit as number or text are converted to UTC."""
    assert moment_or_none(timestamp) == moment
    assert utc_text(parse_timestamp(timestamp)) == moment


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "yesterday",
        "2026-11-21",
        "2026-13-21T23:48:27.110758Z",
        "2026-02-30T23:48:27.110758Z",
        "2026-11-21T25:48:27.110758Z",
        "2026-11-21T23:48:60.110758Z",
        "2026-11-21T23:48:27.11075xZ",
        "2026-11-21T23:48:27.110758+25:00",
        "2026-11-21T23:48:27.110758+05:75",
        "2026-11-21T23:48:27.110758 EST",
        "２０２６-11-21T23:48:27.110758Z",
        "１７９５３０４９０７",
        "0001-01-01T00:00:00.000000+0100",
        "9999-12-31T23:59:59.999999-0100",
        "0000-01-01T00:00:00.000000Z",
        "1e9",
        "9" * 25,
        10**20,
        -(10**13) * 9,
        float("nan"),
        float("inf"),
        True,
        [],
        {},
        b"2026-11-21T23:48:27Z",
        "\ud800",
    ],
)
def test_unreadable_timestamps_have_no_moment(timestamp: object) -> None:
    """A value that is not a timestamp, or is outside the years 1 to 9999 in UTC, has no moment and never crashes."""
    assert moment_or_none(timestamp) is None
    with pytest.raises(UnreadableTimestamp):
        parse_timestamp(timestamp)


def test_missing_timestamp_has_no_moment() -> None:
    """An event without a timestamp has no moment."""
    assert moment_or_none(None) is None


def test_unreadable_timestamp_is_still_an_event() -> None:
    """An event whose time in UTC is outside the calendar is an event without a moment."""
    event = event_of('{"session":"a","timestamp":"0001-01-01T00:00:00.000000+0100"}')

    assert (event.timestamp, event.moment) == ("0001-01-01T00:00:00.000000+0100", None)


ISO_PIECES = st.lists(
    st.sampled_from([*"0123456789TtZz:.,+- W", "2026-", "-11-21", "T23:48:27", ".110758", "+0200"]), max_size=12
)


@given(ISO_PIECES.map("".join) | st.from_regex(r"\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d.\d{6}Z", fullmatch=True) | st.text())
@example("2026-11-21T23:48:27.11075 Z")
@example("2026-W47-6T23:48:27.110758Z")
@example("2026-11-21T23:48:27-110758Z")
def test_fast_path_for_the_common_form_changes_nothing(text: str) -> None:
    """The fast path for the most common form has the same result as parse_timestamp, for any text."""
    try:
        expected = utc_text(parse_timestamp(text))
    except UnreadableTimestamp:
        expected = None

    assert moment_or_none(text) == expected


@given(st.datetimes(), st.integers(-24 * 60, 24 * 60))
def test_offsets_are_subtracted(moment: dt.datetime, minutes: int) -> None:
    """A local time with its offset is converted to UTC, for every offset of up to a day."""
    try:
        local = moment + dt.timedelta(minutes=minutes)
    except OverflowError:
        return
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    text = f"{local.isoformat(timespec='microseconds')}{sign}{size // 60:02}:{size % 60:02}"

    assert parse_timestamp(text) == moment.replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"duration": 3.1}, 3.1),
        ({"duration": "3.1"}, 3.1),
        ({"duration": "3"}, 3.0),
        ({"duration": 3}, 3.0),
        ({"duration_ms": 3100}, 3.1),
        ({"duration_ms": 3100, "duration": 9}, 3.1),
        ({"duration_ms": True, "duration": 9}, 9.0),
        ({}, None),
        ({"duration": True}, None),
        ({"duration": None}, None),
        ({"duration": "a while"}, None),
        ({"duration": "3.1s"}, None),
        ({"duration": [3.1]}, None),
        ({"duration_ms": "3100"}, None),
    ],
)
def test_durations_of_all_versions(fields: dict[str, Any], seconds: float | None) -> None:
    """The duration of a session is read in the forms of all Cowrie versions: a number, text, or whole milliseconds."""
    assert duration_s(fields) == seconds


# --- SQLite reads the same values as the parser ---

COLUMNS = ", ".join(
    f"{column} VARCHAR(64) GENERATED ALWAYS AS (json_extract(payload, '$.{key}')) VIRTUAL"
    for column, key in (("session_id", "session"), ("event_type", "eventid"), ("event_timestamp", "timestamp"))
)


@pytest.fixture(scope="module", params=["pysqlite3", "sqlite3"])
def sqlite(request: pytest.FixtureRequest) -> Any:
    """A database with a table like raw_events, for each installed SQLite library."""
    try:
        library = importlib.import_module(request.param)
    except ModuleNotFoundError:
        pytest.skip(f"{request.param} is not installed")
    connection = library.connect(":memory:", isolation_level=None)
    connection.execute(f"CREATE TABLE raw_events (payload JSON NOT NULL, {COLUMNS})")
    yield connection
    connection.close()


def read_by_sqlite(connection: Any, payload: str) -> tuple[object, ...]:
    """Return whether SQLite accepts a payload as JSON, and the values of its generated columns."""
    connection.execute("DELETE FROM raw_events")
    connection.execute("INSERT INTO raw_events (payload) VALUES (?)", (payload,))
    row = connection.execute("SELECT json_valid(payload), session_id, event_type, event_timestamp FROM raw_events")
    return tuple(row.fetchone())


def assert_sqlite_reads_the_same(connection: Any, raw: bytes) -> None:
    """Assert that SQLite reads the same values from a stored payload as the parser, if the line is an event."""
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return
    event = parse_event(raw, fields)
    if isinstance(event, Event):
        found = read_by_sqlite(connection, event.payload)
        assert found == (1, event.session_id, event.event_type, event.timestamp), raw
        assert parse_event(event.payload.encode(), orjson.loads(event.payload)) == event


def spelled(text: str, draw: st.DrawFn) -> str:
    """Return a text as JSON in a random spelling, with or without escapes."""
    spelling = draw(st.sampled_from(["plain", "ascii", "all escaped", "slash"]))
    if spelling == "all escaped":
        units = text.encode("utf-16-be", "surrogatepass")
        return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'
    document = json.dumps(text, ensure_ascii=spelling == "ascii")
    return document.replace("/", "\\/") if spelling == "slash" else document


NUMBERS = st.one_of(
    st.sampled_from(
        re.findall(
            r"\S+",
            "0 -0 1 -1 0.0 -0.0 0.1 1e2 1E+2 1e-7 1e15 1e16 1e22 1E400 -1E400 1e-400 5e-324 1.7976931348623157e308"
            " 9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551615"
            " 18446744073709551616 1606003200.110758 1606003200110.7581 01 1. .5 +1 NaN Infinity",
        )
    ),
    st.integers(-(2**66), 2**66).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12).map(str),
    st.from_regex(r"-?(0|[1-9]\d{0,20})(\.\d{1,20})?([eE][+-]?\d{1,3})?", fullmatch=True),
)
TEXTS = st.one_of(
    st.sampled_from(["", "a", "00c0ffee0001", "cowrie.login.failed", "2026-11-21T23:48:27.110758Z", "1e5", "a\0b"]),
    st.text(max_size=6),
    st.text(st.characters(min_codepoint=0, max_codepoint=0x9F), max_size=6),
    st.text(st.sampled_from('\\"/:{}[],\b\f\n\r\t\x7f\u2028\ufeff\uffff\U0001f600\ud800\udc00'), max_size=6),
    st.text("ab", min_size=60, max_size=70),
)
SPACES = st.sampled_from(["", "", "", " ", "\t", "\n ", "\r\n"])
OTHER_KEYS = st.sampled_from(["x", "sess", "sessions", "Session", "$.session", "session.x", 'se"ssion', "é", ""])


@st.composite
def json_values(draw: st.DrawFn, depth: int = 2) -> str:
    """JSON of any kind in many spellings, some of it invalid."""
    kind = draw(st.sampled_from(["number", "text", "text", "word", "list", "object"] if depth else ["text", "number"]))
    if kind == "number":
        return draw(NUMBERS)
    if kind == "text":
        return spelled(draw(TEXTS), draw)
    if kind == "word":
        return draw(st.sampled_from(["true", "false", "null"]))
    if kind == "list":
        return "[" + ",".join(draw(st.lists(json_values(depth - 1), max_size=3))) + "]"
    return draw(json_objects(depth - 1))


@st.composite
def json_objects(draw: st.DrawFn, depth: int = 2) -> str:
    """JSON objects with the three keys that SQLite extracts, some of them twice, in any spelling."""
    pairs = []
    for key in draw(st.lists(st.sampled_from(KEYS) | OTHER_KEYS, max_size=5)):
        before, after = draw(SPACES), draw(SPACES)
        pairs.append(f"{spelled(key, draw)}{before}:{after}{draw(json_values(depth))}{draw(SPACES)}")
    return "{" + ",".join(draw(SPACES) + pair for pair in pairs) + "}"


@settings(max_examples=500)
@given(raw=json_objects())
def test_sqlite_reads_what_we_read(sqlite: Any, raw: str) -> None:
    """SQLite accepts the payload of any event as JSON, and reads the same session, name and timestamp as the parser."""
    assert_sqlite_reads_the_same(sqlite, raw.encode("utf-8", "surrogatepass"))


@given(raw=st.binary(max_size=40), before=json_objects(), after=json_objects())
def test_sqlite_reads_what_we_read_of_junk(sqlite: Any, raw: bytes, before: str, after: str) -> None:
    """Whatever bytes are inserted into an object, SQLite never reads other values from it than the parser."""
    text = before.encode("utf-8", "surrogatepass")[:-1] + raw + after.encode("utf-8", "surrogatepass")[1:]

    assert_sqlite_reads_the_same(sqlite, text)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "literal",
    re.findall(
        r"\S+",
        "1e16 -0.0 1E400 0.1 1.0 123456789012345678 9223372036854775807 9223372036854775808 1606003200.110758"
        " 1606003200.1107581 1606003200110.7581 5e-324 true null [] {}"
        r' "a\u0000b" "\ud83d\ude00" "\/" "\u0041" "\b\f\n\r\t" "" "😀"',
    ),
)
def test_sqlite_reads_what_we_read_of_known_traps(sqlite: Any, key: str, literal: str) -> None:
    """Numbers that print differently, NULs, escapes and unusual characters in a value are read the same or refused."""
    for name in (key, f"\\u{ord(key[0]):04x}{key[1:]}"):
        assert_sqlite_reads_the_same(sqlite, f'{{"x":{{"{key}":"no"}}, "{name}" :{literal}}}'.encode())


@pytest.mark.parametrize("kind", "[{")
def test_sqlite_reads_the_deepest_nesting(sqlite: Any, kind: str) -> None:
    """SQLite accepts the deepest nesting that the parser accepts."""
    assert read_by_sqlite(sqlite, event_of(nested(1000, kind)).payload) == (1, "a", None, None)


def test_parity_check_can_fail(sqlite: Any) -> None:
    """A payload with a duplicate key is read differently, so that the tests above can fail."""
    raw = '{"session":"first","session":"last"}'

    assert orjson.loads(raw)["session"] == "last"
    assert read_by_sqlite(sqlite, raw)[1] == "first"
