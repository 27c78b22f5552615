"""Exports from which the original cannot be told for certain: they are refused, with the command that unwraps them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cowrieprocessor.loader.reading.wrappers.base import is_event

_SESSION = re.compile(r"[0-9a-f]{8,12}")
_ALL_EVENTS = """jq -c '.. | objects | select(has("eventid"))'"""


class Refusal(NamedTuple):
    """An export that is refused.

    Attributes:
        what: what it is.
        command: the command that unwraps it; the name of the file is to follow.
    """

    what: str
    command: str


MONGODB = Refusal(
    "an export of MongoDB",
    """jq -c '(if type == "array" then .[] else . end) | del(._id) | map_values(.["$date"]? // .)'""",
)
BY_SESSION = Refusal("one object with the events under the ids of their sessions", _ALL_EVENTS)
SPLUNK_RESULTS = Refusal(
    "a list of Splunk search results", """jq -r '(.result? // .results[]? // .) | ._raw // empty'"""
)
KIBANA_FIELDS = Refusal(
    "a list of Kibana's `fields`, in which each value is an array",
    """jq -c '(.hits.hits[]? // .) | .fields | map_values(if length == 1 then .[0] else . end)'""",
)
TOO_LARGE = (
    (
        re.compile(rb'\{\s*"(?:took|hits|_shards|timed_out|_scroll_id)"'),
        Refusal("the answer to an Elasticsearch search, larger than the limit for one value", "jq -c '.hits.hits[]'"),
    ),
    (
        re.compile(rb'\{\s*"(?:streams|status|data)"'),
        Refusal("an answer of Loki, larger than the limit for one value", "jq -r '.. | .values? // empty | .[][1]'"),
    ),
    (
        re.compile(rb'\{\s*"(?:events|messageType|owner|searchedLogStreams|logEvents)"'),
        Refusal(
            "an answer of CloudWatch, larger than the limit for one value",
            "jq -r '(.events // .logEvents)[].message'",
        ),
    ),
    (re.compile(rb'\{\s*"results"\s*:'), SPLUNK_RESULTS),
    (re.compile(rb'\{\s*"[0-9a-f]{8,12}"\s*:\s*[\[{]'), BY_SESSION),
)
"""How an object begins that is too large to be decoded, and what it is."""


def refusal_of(fields: Mapping[str, Any]) -> Refusal | None:
    """Return what an object is if logs of its kind are refused, else None."""
    document_id = fields.get("_id")
    if type(document_id) is dict and "$oid" in document_id and ("eventid" in fields or "session" in fields):
        return MONGODB
    if _is_splunk_result(fields):
        return SPLUNK_RESULTS
    if _is_kibana(fields) or any(_is_kibana(hit) for hit in _hits(fields)[:1]):
        return KIBANA_FIELDS
    if fields and all(map(_SESSION.fullmatch, fields)) and _holds_event(next(iter(fields.values()))):
        return BY_SESSION
    return None


def refusal_of_large(head: bytes) -> Refusal | None:
    """Return what an object that is too large to be decoded is, by its beginning; None if that is not known."""
    return next((refusal for start, refusal in TOO_LARGE if start.match(head)), None)


def _is_splunk_result(fields: Mapping[str, Any]) -> bool:
    results = fields.get("results")
    result = results[0] if type(results) is list and results else fields.get("result", fields)
    if type(result) is not dict or "_raw" not in result:
        return False
    return "eventid" in result or "eventid" in str(result["_raw"])


def _hits(fields: Mapping[str, Any]) -> list[Any]:
    hits = fields.get("hits")
    found = hits.get("hits") if type(hits) is dict else None
    return found if type(found) is list else []


def _is_kibana(hit: object) -> bool:
    if type(hit) is not dict or "_source" in hit or not ("_index" in hit or "_id" in hit):
        return False
    fields = hit.get("fields")
    return type(fields) is dict and any(name.partition(".")[0] == "eventid" for name in fields)


def _holds_event(value: object, depth: int = 2) -> bool:
    """Return whether a value is an event or begins with one, at most two levels down."""
    if is_event(value):
        return True
    if depth == 0 or type(value) not in (dict, list):
        return False
    inner = list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    return any(_holds_event(element, depth - 1) for element in inner[:20])
