"""The value reader: every form, every kind of damage, every way to split the bytes into reads."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cowrieprocessor.errors import CompressedDataError
from cowrieprocessor.events import (
    REFUSED_NOT_JSON,
    REFUSED_NOT_OBJECT,
    REFUSED_NUMBER,
    REFUSED_TOO_DEEP,
    REFUSED_TOO_LARGE,
)
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import DEAD_LETTER_HEAD_BYTES, TAIL_BYTES, Value, ValueReader

SEPARATORS = b" \t\r\n,[]\0\xef\xbb\xbf"


class Pieces:
    """A stream that returns the given pieces; a finished one cannot grow."""

    def __init__(self, pieces: Iterator[bytes] | list[bytes], *, finished: bool = False) -> None:
        self._pieces = iter(pieces)
        self.is_finished = finished

    def read(self) -> bytes:
        """Return the next piece; empty at the end."""
        return next(self._pieces, b"")


def reader_of(*pieces: bytes, finished: bool = False, **options: Any) -> ValueReader:
    """Return a reader of a log that is read in these pieces."""
    return ValueReader(Pieces([piece for piece in pieces if piece], finished=finished), **options)  # type: ignore[arg-type]


def values_of(*pieces: bytes, **options: Any) -> list[Value]:
    """Return the values of a log."""
    return list(reader_of(*pieces, **options))


def told(values: list[Value]) -> list[Any]:
    """Return for each value its object, or the reason and the bytes of a problem."""
    return [value.fields if value.problem is None else (value.problem.reason, value.raw) for value in values]


def objects_of(data: bytes, **options: Any) -> list[dict[str, Any]]:
    """Return the objects of a log."""
    return [value.fields for value in values_of(data, **options) if value.fields is not None]


def events(count: int) -> list[dict[str, Any]]:
    """Return events as Cowrie writes them, with lists, nested objects and hostile text."""
    return [
        {
            "eventid": "cowrie.client.kex",
            "session": f"{number:012x}",
            "kexAlgs": ["a", "b{", '"]}'],
            "scans": {"one": {"detected": True}, "two": []},
            "list": [{"x": 1}, {"y": [2]}, []],
            "input": 'echo "{\n[}]\0\\" \x1b é 😀 \\',
            "empty": {},
            "n": number,
        }
        for number in range(count)
    ]


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "lines": lambda found: b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in found),
    "spaced lines": lambda found: b"".join(b" " + json.dumps(one).encode() + b"\t\r\n" for one in found),
    "blank lines": lambda found: b"\n\n".join(json.dumps(one).encode() + b"\n" for one in found),
    "no newlines": lambda found: b"".join(json.dumps(one).encode() for one in found) + b"\n",
    "pretty 1": lambda found: b"".join(json.dumps(one, indent=1).encode() + b"\n" for one in found),
    "pretty 2": lambda found: b"".join(json.dumps(one, indent=2).encode() + b"\n" for one in found),
    "pretty 4": lambda found: b"".join(json.dumps(one, indent=4, ensure_ascii=False).encode() + b"\n" for one in found),
    "pretty tab": lambda found: b"".join(json.dumps(one, indent="\t").encode() + b"\n" for one in found),
    "braces on lines of their own": lambda found: re.sub(
        rb'^( *)("[^"]*": )\{$', rb"\1\2\n\1{", FORMS["pretty 2"](found), flags=re.MULTILINE
    ),
    "pretty of windows": lambda found: FORMS["pretty 2"](found).replace(b"\n", b"\r\n"),
    "pretty, with commas": lambda found: b",\n".join(json.dumps(one, indent=2).encode() for one in found) + b"\n",
    "array on a line": lambda found: json.dumps(found).encode() + b"\n",
    "array, an element a line": lambda found: b"[" + b",\n".join(json.dumps(one).encode() for one in found) + b"]\n",
    "array, comma first": lambda found: b"[\n " + b"\n,".join(json.dumps(one).encode() for one in found) + b"\n]\n",
    "pretty array": lambda found: json.dumps(found, indent=2).encode() + b"\n",
    "pretty array, tabs": lambda found: json.dumps(found, indent="\t").encode() + b"\n",
    "array per event": lambda found: b"".join(json.dumps([one]).encode() + b"\n" for one in found),
    "several marks": lambda found: b"".join(b"\xef\xbb\xbf" + json.dumps(one).encode() + b"\n" for one in found),
}  # fmt: skip


# --- forms ---


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_objects(form: str) -> None:
    """Lines, pretty-printed objects of any indentation and arrays of any layout give the same events."""
    found = values_of(FORMS[form](events(5)))

    assert told(found) == events(5)


def test_forms_can_change_in_the_middle() -> None:
    """Concatenated logs of different forms are one log."""
    data = b"".join(form(events(2)) for form in FORMS.values())

    assert objects_of(data) == events(2) * len(FORMS)


def test_real_log_gives_every_event_in_every_form(corpus: Path) -> None:
    """The events of a real log are the same as lines, pretty-printed, and as an array."""
    raw = (corpus / "cowrie-3.1.4" / "cowrie.json").read_bytes()
    found = [json.loads(line) for line in raw.splitlines()]

    assert len(found) > 1000
    assert objects_of(raw) == found
    assert objects_of(FORMS["pretty 2"](found)) == found
    assert objects_of(FORMS["array on a line"](found)) == found


def test_value_has_its_position() -> None:
    """A value has its bytes without surrounding blanks, its line from 0, its start and its end."""
    data = b'\n {"a":1}\r\n[\n{\n "b":2\n},{"c":3}]\n'

    assert values_of(data) == [
        Value(b'{"a":1}', {"a": 1}, 1, 2, 9),
        Value(b'{\n "b":2\n}', {"b": 2}, 3, 13, 23),
        Value(b'{"c":3}', {"c": 3}, 5, 24, 31),
    ]


def test_identical_lines_are_two_values() -> None:
    """The same line twice is two events."""
    assert objects_of(b'{"a":1}\n' * 2) == [{"a": 1}, {"a": 1}]


def test_values_on_one_line_have_the_same_line() -> None:
    """Objects on the same line have the same line number."""
    assert [value.line for value in values_of(b'\n{"a":1} {"b":2}{"c":3}\n{"d":4}\n')] == [1, 1, 1, 2]


def test_raw_is_kept_byte_for_byte() -> None:
    """The bytes of an object are kept unchanged, including escapes and white space."""
    raw = b'{ "a" : "\\u00e9\xc3\xa9" ,\t"b":1.50E+2 }'

    assert [value.raw for value in values_of(raw + b"\n")] == [raw]


# --- byte-order marks and NULs ---


def test_byte_order_marks_separate() -> None:
    """Byte-order marks at the start, and where files were concatenated, belong to no event."""
    assert told(values_of(b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf\xef\xbb\xbf{"b":2}\n')) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "data",
    [
        b'\0\0\0{"a":1}\n{"b":2}\n',
        b'{"a":1}\n\0\0\0{"b":2}\n',
        b'{"a":1}\0\0\0\n{"b":2}\n',
        b'{"a":1}\n{"b":2}\n\0\0\0',
        b'\0{"a":1}\n\0\n\0{"b":2}\n',
    ],
)
def test_nul_runs_separate_and_are_counted(data: bytes) -> None:
    """NULs before, after and between events are counted, and the rest of their line is kept."""
    reader = reader_of(data)

    assert told(list(reader)) == [{"a": 1}, {"b": 2}]
    assert reader.take_nul_bytes() == 3
    assert reader.take_nul_bytes() == 0
    assert reader.position == len(data)


def test_nul_run_of_copytruncate_costs_nothing() -> None:
    """Half a megabyte of NULs at the start of a file is skipped."""
    reader = reader_of(bytes(500_000), bytes(12) + b'{"a":1}\n')

    assert told(list(reader)) == [{"a": 1}]
    assert reader.take_nul_bytes() == 500_012


@pytest.mark.parametrize(
    "torn",
    [b'{"a":"to', b'{"a":', b'{"a":[1,', b'{\n "a": "to', b'{\n "a": [\n  {\n   "b": 1,', b"junk"],
)
def test_torn_value_ends_at_nuls(torn: bytes) -> None:
    """A value cut off by NULs ends there; they are counted, and an event after them on the same line is kept."""
    reader = reader_of(torn + bytes(3) + b'{"b":2}\n{"c":3}\n')

    assert told(list(reader)) == [(REFUSED_NOT_JSON, torn), {"b": 2}, {"c": 3}]
    assert reader.nul_bytes == 3


# --- damage ---

EVENT = b'{"eventid":"cowrie.login.failed","session":"a","list":["x"],"deep":{"y":{"z":[]}}}'


@pytest.mark.parametrize(
    "torn",
    [
        b"{",
        b'{"',
        b'{"eventid":"cowrie.log',
        b'{"eventid":"a\\',
        b'{"eventid":"a"',
        b'{"eventid":"a","session"',
        b'{"eventid":"a","session":',
        b'{"eventid":"a",',
        b'{"eventid":"a","kexAlgs":[',
        b'{"eventid":"a","kexAlgs":["b",',
        b'{"eventid":"a","kexAlgs":["b"]',
        b'{"eventid":"a","x":{"y":1',
        b'{"eventid":"a","x":[{"y":1},',
        b'{"eventid":"a","x":tru',
        b'{"eventid":"a"]',
        b'entid":"a"}',
        b'"}',
        b"}",
    ],
)
@pytest.mark.parametrize("glue", [b"\n", b"", b"\n\n"])
def test_torn_line_loses_only_itself(torn: bytes, glue: bytes) -> None:
    """A torn line is one problem, whether the next event is on the next line or appended to it."""
    found = values_of(EVENT + b"\n" + torn + glue + EVENT + b"\n" + EVENT + b"\n")

    assert [value.raw for value in found if value.problem is None] == [EVENT] * 3
    assert [value.raw for value in found if value.problem] == [torn]


@pytest.mark.parametrize(
    "form", ["pretty 1", "pretty 2", "pretty 4", "pretty tab", "pretty array", "pretty of windows"]
)
@pytest.mark.parametrize(
    "damage", [(b'"cowrie', b'"cow"rie'), (b": ", b" "), (b"}", b""), (b'": ', b'": \x01'), (b'",', b"")]
)
def test_one_damaged_object_of_a_pretty_printed_file_loses_only_itself(form: str, damage: tuple[bytes, bytes]) -> None:
    """One damaged object of 40 pretty-printed ones is one problem; the other 39 are events."""
    whole = [
        {"eventid": "cowrie.a", "session": f"{n:04}", "scans": {"x": {"y": n}}, "algs": ["a", "b"]} for n in range(40)
    ]
    before, behind = FORMS[form](whole).split(b'"session": "0017"')
    head, opening, rest = before.rpartition(b"{")
    broken = head + (opening + rest + b'"session": "0017"' + behind).replace(*damage, 1)

    found = values_of(broken)

    assert [value.fields["session"] for value in found if value.fields] == [f"{n:04}" for n in range(40) if n != 17]
    assert next(value.problem.reason for value in found if value.problem) == REFUSED_NOT_JSON


@pytest.mark.parametrize("form", ["pretty 2", "pretty array", "pretty array, tabs"])
@pytest.mark.parametrize("lines_left", range(1, 20))
def test_torn_pretty_printed_object_loses_only_itself(form: str, lines_left: int) -> None:
    """A pretty-printed object torn after any of its lines, in a list or not, is one problem."""
    whole = [{"eventid": "a", "list": [{"x": {"y": [1]}}, {"z": 2}], "algs": ["b", "c"], "n": n} for n in range(12)]
    lines = FORMS[form](whole).splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if b'"eventid"' in line]
    torn = b"".join(lines[: starts[5] - 1 + lines_left] + lines[starts[6] - 1 :])
    assert starts[6] - starts[5] == 20

    found = values_of(torn)

    assert [value.fields["n"] for value in found if value.fields] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert [value.problem.reason for value in found if value.problem] == [REFUSED_NOT_JSON]


@pytest.mark.parametrize(
    ("element", "reason", "raw"),
    [
        (b'{"eventid":"x","a":NaN}', REFUSED_NOT_JSON, b'{"eventid":"x","a":NaN}'),
        (b'{"eventid":"x","a":}', REFUSED_NOT_JSON, b'{"eventid":"x","a":}'),
        (b'{"eventid":"x","a":"tor', REFUSED_NOT_JSON, b'{"eventid":"x","a":"tor,'),
        (b'{"eventid":"x","a":[1', REFUSED_NOT_JSON, b'{"eventid":"x","a":[1,'),
        (b"5", REFUSED_NOT_JSON, b"5,"),
        (b'"text"', REFUSED_NOT_JSON, b'"text",'),
        (b'{"eventid":"x","n":1e999}', REFUSED_NUMBER, b'{"eventid":"x","n":1e999}'),
        (b'{"eventid":"x","n":' + b"9" * 400 + b"}", REFUSED_NUMBER, b'{"eventid":"x","n":' + b"9" * 400 + b"}"),
        (b"{" + b'"x":{' * 1024 + b"}" * 1025, REFUSED_TOO_DEEP, b"{" + b'"x":{' * 1024 + b"}" * 1025),
    ],
)
def test_one_bad_element_of_an_array_on_one_line_loses_only_itself(element: bytes, reason: str, raw: bytes) -> None:
    """An element that is torn, or not an event, does not affect the events after it on the same line."""
    data = b"[" + b",".join([EVENT, element, EVENT, EVENT]) + b"]\n" + EVENT + b"\n"

    assert told(values_of(data)) == [json.loads(EVENT), (reason, raw), *[json.loads(EVENT)] * 3]


@pytest.mark.parametrize("form", [b"%s\n%s\n", b"[%s,%s]\n", b"[\n %s,\n %s\n]\n", b"tor%s\n%s\n"])
def test_lone_surrogates_are_no_damage(form: bytes) -> None:
    """An object with a lone surrogate is a value, on a line or in an array; its bytes stay as they came."""
    odd = rb'{"eventid":"x","a":"\ud800","b":{"c":"\udc00\ud800"}}'
    found = [value for value in values_of(form % (odd, EVENT)) if value.problem is None]

    assert [value.raw for value in found] == [odd, EVENT]
    assert [value.fields for value in found] == [
        {"eventid": "x", "a": r"\ud800", "b": {"c": r"\udc00\ud800"}},
        json.loads(EVENT),
    ]


def test_text_after_an_event_is_a_problem_of_its_own() -> None:
    """A superfluous bracket, or other text after an event on its line, does not affect the event."""
    assert told(values_of(EVENT + b"}\n" + EVENT + b" junk\n")) == [
        json.loads(EVENT),
        (REFUSED_NOT_JSON, b"}"),
        json.loads(EVENT),
        (REFUSED_NOT_JSON, b"junk"),
    ]


def test_appended_pretty_printed_event_is_kept() -> None:
    """A pretty-printed event appended to a torn one is kept."""
    pretty = json.dumps(json.loads(EVENT), indent=2).encode()
    found = values_of(pretty[:40] + pretty + b"\n" + pretty + b"\n")

    assert told(found) == [(REFUSED_NOT_JSON, pretty[:40].strip()), json.loads(EVENT), json.loads(EVENT)]


def test_text_before_an_event_is_a_problem_of_its_own() -> None:
    """The prefix of a log shipper before an event on its line is a problem, and the event is kept."""
    found = values_of(b"Nov 21 23:48:27 pot cowrie: " + EVENT + b"\n")

    assert told(found) == [(REFUSED_NOT_JSON, b"Nov 21 23:48:27 pot cowrie:"), json.loads(EVENT)]


def test_event_in_the_text_of_another_is_not_an_event() -> None:
    """An event that an attacker typed as a command stays text, even if its line is torn."""
    typed = json.dumps({"eventid": "cowrie.command.input", "input": EVENT.decode()}).encode()

    assert told(values_of(typed[:-3] + b"\n" + typed + b"\n")) == [
        (REFUSED_NOT_JSON, typed[:-3]),
        json.loads(typed),
    ]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"[1, 2]", "a list"),
        (b'  ["a", [null]]', "a list"),
        (b'"text"', "text"),
        (b"5", "a number"),
        (b"-1.5", "a number"),
        (b"true", "true or false"),
        (b"null", "null"),
    ],
)
def test_json_that_is_no_object_is_a_problem_with_its_bytes(line: bytes, kind: str) -> None:
    """JSON of another type on a line is returned whole, with its type."""
    found = values_of(EVENT + b"\n" + line + b"\n" + EVENT + b"\n")

    assert told(found) == [json.loads(EVENT), (REFUSED_NOT_OBJECT, line.strip()), json.loads(EVENT)]
    assert found[1].problem
    assert found[1].problem.detail == kind


@pytest.mark.parametrize("data", [b"", b"\n", b"[]\n", b"[\n\n]\n", b" \t\r\n,,[[]]\xef\xbb\xbf\0\n"])
def test_separators_alone_are_no_values(data: bytes) -> None:
    """White space, commas, brackets, byte-order marks and NULs alone are not values, and are all consumed."""
    reader = reader_of(data)

    assert list(reader) == []
    assert (reader.position, reader.pending_bytes) == (len(data), 0)


def test_too_deep_nesting_is_named() -> None:
    """An object that is nested too deep for any reader is a problem that says so."""
    line = b'{"a":' * 2000 + b"1" + b"}" * 2000

    assert told(values_of(line + b"\n" + EVENT + b"\n")) == [(REFUSED_TOO_DEEP, line), json.loads(EVENT)]


def test_problem_keeps_odd_white_space() -> None:
    """Only JSON white space around a problem is removed."""
    assert told(values_of(b' \x0b{"a":1}\x0c \n')) == [(REFUSED_NOT_JSON, b'\x0b{"a":1}\x0c')]


# --- growing files ---


def test_last_line_without_newline_waits() -> None:
    """The last value is pending until something follows it, even if it is complete, and is then one event."""
    reader = reader_of(b'{"a":1}\n{"b":2}')

    assert told(list(reader)) == [{"a": 1}]
    assert (reader.position, reader.line, reader.pending_bytes) == (8, 1, 7)
    assert told(values_of(b'{"b":2}\n', position=8, line=1)) == [{"b": 2}]


@pytest.mark.parametrize("unfinished", [b'{"b":', b'{"b":"x', b"{\n ", b'{"b":[1,', b"junk", b'"text"', b"\xef\xbb"])
def test_unfinished_value_waits(unfinished: bytes) -> None:
    """An unfinished value is not returned; its bytes are pending."""
    reader = reader_of(b'{"a":1}\n' + unfinished)

    assert told(list(reader)) == [{"a": 1}]
    assert (reader.position, reader.pending_bytes) == (8, len(unfinished))


def test_array_that_is_closed_later_gives_nothing_new() -> None:
    """The closing bracket of an array may come later, after further elements."""
    reader = reader_of(b'[{"a":1},\n')

    assert told(list(reader)) == [{"a": 1}]
    assert reader.pending_bytes == 0
    assert told(values_of(b'{"b":2}\n]\n', position=reader.position, line=reader.line)) == [{"b": 2}]


def test_finished_log_gives_its_last_value() -> None:
    """A finished log cannot grow: its last object needs no newline, and an event in torn bytes is found."""
    assert told(values_of(b'{"a":1}\n{"b":2}', finished=True)) == [{"a": 1}, {"b": 2}]
    assert told(values_of(b'{"a":1}\njunk{"eventid":2}', finished=True)) == [
        {"a": 1},
        (REFUSED_NOT_JSON, b"junk"),
        {"eventid": 2},
    ]


def test_a_whole_last_event_does_not_wait_for_its_newline() -> None:
    """An event at the end of a log that may grow is whole; an object without a name may be part of a torn event."""
    assert told(values_of(b'{"a":1}\n{"eventid":2}')) == [{"a": 1}, {"eventid": 2}]
    assert told(values_of(b'{"a":1}\n{"b":2}')) == [{"a": 1}]


@pytest.mark.parametrize("end", [b'},"c":3}', b'"c":3}', b"}}", b"x"])
def test_an_object_before_damage_on_its_line_is_a_fragment(end: bytes) -> None:
    """The end of a torn event may begin with a whole object, which is no value of its own."""
    line = b'{"b":2},' + end if not end.startswith(b"}") else b'{"b":2}' + end
    found = values_of(b'{"a":1}\n' + line + b'\n{"c":3}\n')

    assert [value.fields for value in found] == [{"a": 1}, None, {"c": 3}]
    assert found[1].raw == line


@pytest.mark.parametrize("torn", [b'{"b":', b"junk", b'"c":3}', b'{"b"'])
def test_unfinished_value_of_a_finished_log_waits(torn: bytes) -> None:
    """The torn end of a finished log stays pending: a whole copy of the log may exist elsewhere."""
    reader = reader_of(b'{"a":1}\n' + torn, finished=True)

    assert told(list(reader)) == [{"a": 1}]
    assert (reader.position, reader.pending) == (8, torn)


def test_tail_is_what_precedes_the_cursor() -> None:
    """The tail is the 512 bytes before the cursor, even if they come from an earlier read."""
    data = b"".join(b'{"n":%d}\n' % number for number in range(500))
    reader = reader_of(data[:3000], data[3000:3001], data[3001:])

    for _ in reader:
        assert reader.tail() == data[: reader.position][-TAIL_BYTES:]
    resumed = reader_of(b'{"n":500}\n', position=len(data), before=data)
    assert resumed.tail() == data[-TAIL_BYTES:]
    assert [value.start for value in resumed] == [len(data)]
    assert resumed.tail() == (data + b'{"n":500}\n')[-TAIL_BYTES:]


# --- what is too large ---


@pytest.mark.parametrize(
    ("large", "raw"),
    [
        (b'{"a":"' + b"x" * 100 + b'"}', None),
        (b'{"a":[' + b"1," * 60 + b"1]}", None),
        (b"x" * 101, None),
        (b'{"a":"' + b"x" * 200, None),
        (b'{\n "a": "' + b"x" * 100 + b'"\n}', None),
        (b"{" + b'\n "a": 1,' * 20 + b'\n "b": 2\n}', None),
        (b'{\n "eventid": 1}' + b"x" * 200, b'{\n "eventid": 1}'),
        (b'{\n "a": 1}' + b"x" * 200, None),
        (b'[{"a":1}' + b"x" * 200, None),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_value_over_the_limit_is_one_problem(large: bytes, raw: bytes | None, size: int) -> None:
    """A value over the limit is one problem with its bytes, and the next object is found."""
    data = b'{"a":1}\n' + large + b'\n{"b":2}\n'
    found = values_of(*(data[at : at + size] for at in range(0, len(data), size)), max_value_bytes=100)

    problems = [value for value in found if value.problem]
    assert (found[0].fields, found[-1].fields) == ({"a": 1}, {"b": 2})
    assert [(one.problem.reason, one.digest) for one in problems if one.problem] == [(REFUSED_TOO_LARGE, None)]
    assert large.endswith(problems[0].raw)
    assert problems[0].raw == data[problems[0].start : problems[0].end]
    assert raw is None or not problems[0].raw.startswith(raw)


def test_value_at_the_limit_is_an_event() -> None:
    """A value of exactly the allowed size, without surrounding blanks, is an event; one more byte is too many."""
    exact = b'{"a":"' + b"x" * 92 + b'"}'

    assert objects_of(b"   " + exact + b"\t\n", max_value_bytes=100) == [{"a": "x" * 92}]
    assert objects_of(exact.replace(b"x", b"xx", 1) + b"\n", max_value_bytes=100) == []


def test_large_element_of_an_array_over_several_lines() -> None:
    """In a pretty-printed array an element over the limit does not affect its neighbours."""
    data = json.dumps([{"a": 1}, {"b": "x" * 200}, {"c": 3}], indent=1).encode() + b"\n"
    found = values_of(data, max_value_bytes=100)

    assert [value.fields for value in found if value.fields] == [{"a": 1}, {"c": 3}]
    assert [value.problem.reason for value in found if value.problem] == [REFUSED_TOO_LARGE]


def test_digest_and_range_of_a_very_large_value() -> None:
    """Of a value over 1 MiB the first 64 KiB are kept, with the SHA-256 of the whole and its range."""
    large = b'{"a":"' + b"x" * (3 << 20) + b'"}'
    found = values_of(b"\n" + large + b"\n", max_value_bytes=1 << 20)

    assert len(found) == 1
    assert found[0].problem
    assert found[0].problem.detail == f"{len(large):,} bytes, allowed are {1 << 20:,}"
    assert found[0].raw == large[:DEAD_LETTER_HEAD_BYTES]
    assert found[0].digest == hashlib.sha256(large).hexdigest()
    assert (found[0].start, found[0].end) == (1, 1 + len(large))


def test_damaged_value_over_a_mebibyte_keeps_its_beginning() -> None:
    """A damaged value over 1 MiB within the limit is kept like one over it."""
    large = b"x" * (2 << 20)
    found = values_of(large + b"\n", max_value_bytes=4 << 20)

    assert [(one.raw, one.digest) for one in found] == [
        (large[:DEAD_LETTER_HEAD_BYTES], hashlib.sha256(large).hexdigest())
    ]


def test_large_value_waits_for_its_end() -> None:
    """A value over the limit is pending until its end is read, and is then one problem."""
    data = b'{"a":1}\n{"b":"' + b"x" * 500
    reader = reader_of(data, b"y" * 100, max_value_bytes=100)

    assert told(list(reader)) == [{"a": 1}]
    assert (reader.position, reader.line, reader.pending_bytes) == (8, 1, len(data) - 8 + 100)
    assert reader.tail() == data[:8]
    late = values_of(data[8:] + b"y" * 100 + b'"}\n', position=8, line=1, max_value_bytes=100)
    assert [(one.start, one.end) for one in late] == [(8, len(data) + 102)]


def test_large_value_cut_off_by_a_damaged_archive_is_not_consumed() -> None:
    """If an archive ends inside a value over the limit, the cursor stays before that value."""

    class Breaking(Pieces):
        def read(self) -> bytes:
            if piece := super().read():
                return piece
            raise CompressedDataError("it ends early")

    reader = ValueReader(Breaking([b'{"a":1}\n{"b":"', b"x" * 500]), max_value_bytes=100)  # type: ignore[arg-type]
    found = []
    with pytest.raises(CompressedDataError):
        found.extend(reader)

    assert (reader.position, reader.line, reader.pending_bytes) == (8, 1, 506)


HOSTILE = {
    "a line": (b'{"a":"', b"x" * (1 << 16)),
    "a damaged line": (b"{]", b"x" * (1 << 16)),
    "no object": (b"", b"x" * (1 << 16)),
    "many lines": (b'{\n"a":[', b"1,\n" * 20000),
    "a line behind a newline": (b'{\n"a":', b"x" * (1 << 16)),
    "brackets": (b'{"a":', b"[" * (1 << 16)),
    "quotes": (b"{", b'"' * (1 << 16)),
    "backslashes": (b'{"a":"', b"\\" * (1 << 16)),
    "objects": (b"", b"{" * (1 << 16)),
    "blank lines": (b'{\n"a":1', b"\n" * (1 << 16)),
    "blanks behind a newline": (b'{\n"a":1\n', b" " * (1 << 16)),
    "torn objects": (b"[", b'{"eventid":1,' * 5000),
    "separators": (b"", b"[,\0 " * (1 << 14)),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("finished", [False, True])
def test_memory_is_bounded(kind: str, finished: bool) -> None:
    """8 MiB of any construct without an end take a few times the limit of memory at most, and reading terminates."""
    head, piece = HOSTILE[kind]
    reader = reader_of(head, *[piece] * (8 << 20 >> 16), finished=finished, max_value_bytes=1 << 16)
    tracemalloc.start()
    try:
        size = sum(value.end - value.start for value in reader)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20
    assert size <= reader.position


# --- properties ---

TEXTS = st.text(max_size=8) | st.sampled_from(['{"eventid":1}', "\n{", '"', "\\", "[", "]}", "\0", "é", "😀"])
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | TEXTS
JSON_VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(["eventid", "session", "a", "b"]) | TEXTS, JSON_VALUES, max_size=4)

BITS = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'{}[]",:\\ \t\r\n\0x1'),
        b"\n{",
        b"\n  {",
        b"\xef\xbb\xbf",
        b"\xef\xbb",
        b"\xff",
        b"null",
        b'"a":',
        b'{"a":1}\n',
        b'{"eventid":1}',
        b'\n{"eventid":"x","s":["a"]}\n',
        b'{"a":{"eventid":3}}',
        b'[\n {"a":1},\n {"b":[]}\n]\n',
        b'{\n "a": [\n  {\n   "b": 1\n  }\n ]\n}\n',
        b"x" * 30,
        b" " * 30,
    ]
)
JUNK = st.lists(BITS, max_size=24).map(b"".join)
LOGS = st.one_of(
    JUNK,
    st.tuples(st.sampled_from(list(FORMS)), st.lists(OBJECTS, max_size=3)).map(lambda log: FORMS[log[0]](log[1])),
    st.lists(st.one_of(OBJECTS.map(lambda one: json.dumps(one).encode() + b"\n"), JUNK), max_size=5).map(b"".join),
)
LIMITS = st.sampled_from([20, 45, 100, 1 << 20])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the data in pieces, split at these positions."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@settings(max_examples=500)
@given(LOGS, st.lists(st.integers(0, 500), max_size=6), LIMITS, st.booleans())
@example(b"[1, 2]\n", [1], 100, False)
@example(b'\xef\xbb\xbf{"a":1}\n', [1, 2], 100, False)
@example(b'{"a":"\\\\"}\n', [7, 8], 100, False)
def test_pieces_do_not_matter(data: bytes, places: list[int], limit: int, finished: bool) -> None:
    """However the bytes of a log are split into reads, values, cursor and pending bytes are the same."""
    options: dict[str, Any] = {"max_value_bytes": limit, "finished": finished}
    whole, pieces = reader_of(data, **options), reader_of(*cut(data, places), **options)
    single = reader_of(*(data[at : at + 1] for at in range(len(data))), **options)

    expected = list(whole)

    for other in (pieces, single):
        assert list(other) == expected
        assert (other.position, other.line, other.nul_bytes) == (whole.position, whole.line, whole.nul_bytes)
        assert (other.pending_bytes, other.tail()) == (whole.pending_bytes, whole.tail())


@settings(max_examples=300)
@given(LOGS, LIMITS, st.booleans())
def test_resuming_does_not_matter(data: bytes, limit: int, finished: bool) -> None:
    """A new reader that resumes after any value returns the rest, with the same lines and positions."""
    options: dict[str, Any] = {"max_value_bytes": limit, "finished": finished}
    expected = values_of(data, **options)

    reader = reader_of(data, **options)
    for count, _ in enumerate(reader, start=1):
        before, rest = data[: reader.position], data[reader.position :]
        here = {"position": reader.position, "line": reader.line, "before": before[-TAIL_BYTES:]}
        assert values_of(rest, **here, **options) == expected[count:]


@settings(max_examples=500)
@given(LOGS, LIMITS, st.integers(0, 1000))
@example(b"[1, 2]\n", 100, 1)
@example(b'{"a":"' + b"x" * 50 + b'"}\n', 20, 40)
def test_growing_does_not_matter(data: bytes, limit: int, place: int) -> None:
    """Reading a log up to any byte, and later from the cursor, gives the same as reading it at once."""
    place %= len(data) + 1
    early = reader_of(data[:place], max_value_bytes=limit)
    first = list(early)
    assert early.position + early.pending_bytes == place

    here = {"position": early.position, "line": early.line, "before": data[: early.position][-TAIL_BYTES:]}
    later = values_of(data[early.position :], **here, max_value_bytes=limit)

    assert first + later == values_of(data, max_value_bytes=limit)


@given(st.lists(OBJECTS, max_size=5))
def test_the_form_does_not_matter(found: list[dict[str, Any]]) -> None:
    """The same objects as lines, pretty-printed or in arrays give the same objects in the same order."""
    for form, write in FORMS.items():
        assert told(values_of(write(found))) == found, form


@settings(max_examples=300)
@given(LOGS, LIMITS, st.booleans())
def test_every_byte_is_accounted_for(data: bytes, limit: int, finished: bool) -> None:
    """Every byte of a log is in a value, is a separator, or is pending; each value has the right bytes and line."""
    reader = reader_of(data, max_value_bytes=limit, finished=finished)
    at = nul_bytes = 0
    for value in reader:
        between = data[at : value.start]
        assert at <= value.start < value.end <= reader.position
        assert set(between) <= set(SEPARATORS)
        assert value.line == data.count(b"\n", 0, value.start)
        assert value.raw.endswith(data[value.start : value.end].strip(b" \t\r\n"))
        assert (value.fields is None) == (value.problem is not None)
        if value.fields is not None:
            assert json.loads(value.raw) == value.fields
        at, nul_bytes = value.end, nul_bytes + between.count(0)
    between = data[at : reader.position]

    assert set(between) <= set(SEPARATORS)
    assert reader.nul_bytes == nul_bytes + between.count(0)
    assert reader.position + reader.pending_bytes == len(data)
    assert reader.line == data.count(b"\n", 0, reader.position)


@settings(max_examples=500)
@given(st.lists(JUNK | st.binary(max_size=30), max_size=6))
@example([b'{"a":[', b"x", b"]}"])
@example([b'{"a":"', b'"}'])
@example([b'{"a":[1,', b'{"b":[[', b"[["])
@example([b"{" * 50])
def test_intact_lines_are_found_whatever_is_between(junk: list[bytes]) -> None:
    """Whatever bytes are between them, events on their own lines are all found, once and in order."""
    lines = [b'{"eventid":"cowrie.login.failed","number":%d,"list":["a"]}' % number for number in range(len(junk) + 1)]
    data = lines[0] + b"\n" + b"".join(one + b"\n" + line + b"\n" for one, line in zip(junk, lines[1:], strict=True))
    assume(b"cowrie.login.failed" not in b"".join(junk))

    found = [value.raw for value in values_of(data) if value.fields and "number" in value.fields]

    assert found == lines


@settings(max_examples=300)
@given(st.binary(max_size=200), LIMITS, st.booleans())
def test_any_bytes_are_read_to_an_end(data: bytes, limit: int, finished: bool) -> None:
    """Any bytes are read without an error, and each value advances the position."""
    starts = [value.start for value in values_of(data, max_value_bytes=limit, finished=finished)]

    assert starts == sorted(set(starts))


def test_a_real_stream_is_read_like_pieces(tmp_path: Path) -> None:
    """A file opened as a log gives the same as its bytes."""
    data = FORMS["pretty array"](events(300))
    path = tmp_path / "cowrie.json"
    path.write_bytes(data)
    with LogStream(path) as stream:
        assert list(ValueReader(stream)) == values_of(data)
