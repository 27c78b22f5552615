r"""JSON as every program reads it: decoded, in one canonical form, hashed, and with one spelling for lone surrogates.

A lone surrogate (`"\ud800"`) is no character: SQLite reads bytes that are not UTF-8, PostgreSQL refuses the whole
payload, orjson the line. It is spelled `"\u005cud800"`, which all of them read as the six characters `\ud800`. No
program writes a backslash as `\u005c`, so the spelling tells which texts were surrogates, and can be undone.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import Any

import orjson

_SORTED = orjson.OPT_SORT_KEYS
_HEX = rb"[0-9a-fA-F]"
_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*+)\\u"
    rb"(?:[dD][89abAB]" + _HEX + rb"{2}\\u[dD][c-fC-F]" + _HEX + rb"{2}"  # a pair is a character
    rb"|(?:005[cC]u)?([dD][89a-fA-F]" + _HEX + rb"{2}))"
)
_SPELLED = rb"\u005cu"
_MARK = "\uffff".encode()
_MARKS = re.compile(rb"(?<!\\)((?:\\\\)*+)\\u[fF]{4}|" + _MARK)
_MARKED = re.compile(_MARK + rb"([0-9a-f]{4})")


_KINDS = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words: null, true or false, a number, text, a list, an object."""
    return _KINDS.get(type(value), "a number")


def json_problem(error: json.JSONDecodeError) -> str:
    """Return why a value is no JSON, and where in the value: its lines are not those of the log."""
    return f"{error.msg}, at character {error.pos + 1:,} of the value"


def read_json(text: bytes) -> Any:
    """Return what JSON decodes to, lone surrogates in their inert spelling.

    Raises:
        orjson.JSONDecodeError: it is no JSON for another reason.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        spelled = spell_lone_surrogates(text)
        if spelled == text:
            raise
    return orjson.loads(spelled)


def object_with_surrogates(text: bytes) -> dict[str, Any] | None:
    """Return the object of JSON that `orjson.loads` refuses, if that is for its lone surrogates only; else None."""
    try:
        fields = orjson.loads(spell_lone_surrogates(text)) if may_have_surrogates(text) else None
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def stored_fields(payload: str | None) -> dict[str, Any]:
    """Return the fields of a stored payload as every database reads them; empty if it is no JSON object.

    Version 3 stored numbers that are no JSON, and lone surrogates as they came.
    """
    text = payload or ""
    try:
        fields = json.loads(spell_lone_surrogates(text.encode("utf-8", "surrogatepass")))
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def spell_lone_surrogates(text: bytes) -> bytes:
    r"""Return JSON with each lone surrogate in its inert spelling: `"\ud800"` as `"\u005cud800"`; pairs stay."""
    return _respell_surrogates(text, _SPELLED)


def restore_lone_surrogates(text: bytes) -> bytes:
    r"""Return the JSON that `spell_lone_surrogates` was given: `"\u005cud800"` as `"\ud800"`, in lower case."""
    return _respell_surrogates(text, rb"\u")


def may_have_surrogates(raw: bytes) -> bool:
    """Return whether JSON may have surrogates: a quick test before `spell_lone_surrogates`."""
    return b"\\ud" in raw or b"\\uD" in raw or b"\\u005" in raw


def has_spelled_surrogates(text: bytes) -> bool:
    """Return whether JSON from `spell_lone_surrogates` may have lone surrogates; False if there are none."""
    return _SPELLED in text


def hash_payload(fields: Any) -> str:
    """Return the BLAKE2b-256 (hex) of a value's compact JSON with sorted keys, as in v3."""
    try:
        canonical = orjson.dumps(fields, option=_SORTED)
    except orjson.JSONEncodeError:
        canonical = canonical_json(fields)
    return blake2b(canonical, digest_size=32).hexdigest()


def canonical_json(fields: Any) -> bytes:
    """Return a decoded value as compact JSON with sorted keys, at any nesting depth."""
    try:
        return orjson.dumps(fields, option=_SORTED)
    except orjson.JSONEncodeError:  # orjson writes 254 levels but reads 1024
        return _dump_deep(fields)


def hash_with_surrogates(raw: bytes) -> str:
    """Return `hash_payload` of an object with its lone surrogates, so that their spelling is no other event's hash.

    Each becomes a mark and its digits, which the decoder keeps; in the bytes to hash it is what UTF-8 would make of it.
    """
    doubled = _MARKS.sub(lambda found: (found[1] or b"") + _MARK + b"ffff", raw)
    canonical = canonical_json(orjson.loads(_respell_surrogates(doubled, _MARK)))
    original = _MARKED.sub(lambda mark: chr(int(mark[1], 16)).encode("utf-8", "surrogatepass"), canonical)
    return blake2b(original, digest_size=32).hexdigest()


def _respell_surrogates(text: bytes, prefix: bytes) -> bytes:
    """Return JSON with a prefix and the four digits, in lower case, for each lone surrogate in either spelling."""
    return _SURROGATES.sub(lambda found: found[0] if found[2] is None else found[1] + prefix + found[2].lower(), text)


def _dump_deep(value: Any) -> bytes:
    """Return compact JSON with sorted keys, as orjson writes it, without orjson's limit on nesting."""
    written: list[bytes] = []
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, bytes):
            written.append(item)
        elif isinstance(item, dict):
            written.append(b"{")
            pending.append(b"}")
            for number, key in enumerate(sorted(item, reverse=True), start=1):
                comma = b"," if number < len(item) else b""
                pending += (item[key], comma + orjson.dumps(key) + b":")
        elif isinstance(item, list):
            written.append(b"[")
            pending.append(b"]")
            for number, element in enumerate(reversed(item), start=1):
                pending.append(element)
                if number < len(item):
                    pending.append(b",")
        else:
            written.append(orjson.dumps(item))
    return b"".join(written)
