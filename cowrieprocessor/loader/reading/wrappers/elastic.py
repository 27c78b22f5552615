"""Documents of Elasticsearch, Filebeat and Logstash: what they add to an event is removed again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.reading.wrappers.base import Piece, Wrapper, find_events, is_event
from cowrieprocessor.loader.reading.wrappers.spans import Span, elements, member, members

_ACTIONS = frozenset({"index", "create", "update", "delete"})
_ALWAYS_ADDED = frozenset({"host", "tags", "geoip", "geoip_ext", "ip_rep", "agent", "beat", "prospector"})
_ADDED_OBJECTS = frozenset(
    {
        *("cloud", "container", "data_stream", "docker", "ecs", "error", "event"),
        *("fields", "input", "kubernetes", "log", "process", "service"),
    }
)
"""Names that Cowrie may use for text; what shippers add under them is an object."""

_PLACES = frozenset({"path", "source", "offset"})
"""Where the shipper read the line: Logstash's file input, and Filebeat before version 7."""

_RENAMED = {"dest_ip": b'"dst_ip"', "dest_port": b'"dst_port"'}
"""What T-Pot's Logstash renames; Cowrie has no field of these names."""

_HOST_FIELD = re.compile(r"t-pot_(?:ip_(?:ext|int)|hostname)")
_KEY_TYPE = re.compile(r"(?:sk-)?(?:ssh|ecdsa|rsa|dsa|x509v3)\b.*|(?:RSA|DSA|EC|Ed25519)", re.DOTALL)
"""The values of the `type` that Cowrie writes itself (cowrie.client.fingerprint): the type of a public key."""


class ElasticsearchSource(Wrapper):
    """Documents as Elasticsearch returns them: hits one by one (elasticdump, scroll) or the answer to one search.

    Source: Elasticsearch docs, "Search API" (`hits.hits`, `_source`).
    """

    name = "Elasticsearch _source"

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object is a hit, or has a list of hits."""
        return _is_hit(fields) or _has_hits(fields)

    def pieces(self, value: Value) -> list[Piece]:
        """Return the original of each document."""
        fields, raw = value.fields or {}, value.raw
        if _is_hit(fields):
            span = member(raw, "_source")
            return [Piece(original_of(raw[slice(*span)], fields["_source"]))]
        hits = elements(raw, *member(raw, "hits", *member(raw, "hits")))
        documents = zip(fields["hits"]["hits"], (member(raw, "_source", *hit) for hit in hits), strict=True)
        return [Piece(original_of(raw[slice(*span)], hit["_source"]), *span) for hit, span in documents]


def _is_hit(fields: object) -> bool:
    return type(fields) is dict and type(fields.get("_source")) is dict and ("_index" in fields or "_id" in fields)


def _has_hits(fields: Mapping[str, Any]) -> bool:
    hits = fields.get("hits")
    found = hits.get("hits") if type(hits) is dict else None
    return type(found) is list and bool(found) and all(_is_hit(hit) for hit in found)


class Shipper(Wrapper):
    """Events as Filebeat or Logstash write them to a file, a queue or the console.

    Source: Filebeat docs, "Exported fields"; Logstash docs, `@timestamp`, `@version`.
    """

    name = "Filebeat or Logstash"

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object has `@timestamp` and what a shipper says of itself, its host or the file it read."""
        if type(fields.get("@timestamp")) is not str:
            return False
        metadata = fields.get("@metadata")
        if type(metadata) is dict and "beat" in metadata:
            return True
        structured = [name for name in ("agent", "beat", "host", "log", "event") if type(fields.get(name)) is dict]
        if fields.get("@version") == "1":
            return bool(structured) or "path" in fields
        return ("agent" in structured or "beat" in structured) and len(structured) > 1

    def pieces(self, value: Value) -> list[Piece]:
        """Return the original of the event."""
        return [Piece(original_of(value.raw, value.fields or {}))]


class ElasticsearchBulk(Wrapper):
    """The body of a `_bulk` request: an action before each document.

    Source: Elasticsearch docs, "Bulk API".
    """

    name = "Elasticsearch _bulk"

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object is an action, or the partial document of an update."""
        if len(fields) == 1:
            ((action, target),) = fields.items()
            is_action = action in _ACTIONS and type(target) is dict
            return (is_action and "eventid" not in target) or (action == "doc" and type(target) is dict)
        return type(fields.get("doc")) is dict and fields.keys() <= {"doc", "doc_as_upsert", "upsert"}

    def pieces(self, value: Value) -> list[Piece]:
        """Return the document of an update; an action carries nothing."""
        if type((value.fields or {}).get("doc")) is not dict:
            return []
        start, end = member(value.raw, "doc")
        return [Piece(value.raw[start:end])]


def original_of(raw: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return the event that a document was made of, as JSON; the document itself if there is none in it.

    Args:
        raw: the JSON of the document.
        fields: the decoded document.
    """
    event = fields.get("event")
    for text in (event.get("original") if type(event) is dict else None, fields.get("message")):
        if type(text) is str and '"eventid"' in text and _holds_event(text):
            return text.encode()
    if is_event(fields):
        return _without_added(raw, fields)
    for name, _, (start, end) in members(raw):
        if is_event(fields[name]):
            return raw[start:end]
    return raw


def _holds_event(text: str) -> bool:
    found = find_events(text.encode())
    return bool(found) and found[-1].fields is not None


def _without_added(raw: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return the JSON of an event without the fields that were added to it."""
    is_added = _added_fields(fields)
    kept: list[bytes] = []
    for name, span, value in members(raw):
        if name in _RENAMED and _RENAMED[name].decode().strip('"') not in fields:
            kept.append(_RENAMED[name] + raw[_end_of_key(raw, span) : value[1]])
        elif not is_added(name):
            kept.append(raw[slice(*span)])
    return b"{" + b", ".join(kept) + b"}"


def _end_of_key(raw: bytes, span: Span) -> int:
    return raw.index(b'"', span[0] + 1) + 1


def _added_fields(fields: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return a function that tells whether a field was added to this event."""

    def is_added(name: str) -> bool:
        if name.startswith("@") or name in _ALWAYS_ADDED or _HOST_FIELD.fullmatch(name):
            return True
        if name == "type":
            return _KEY_TYPE.fullmatch(str(fields["type"])) is None
        if name in _ADDED_OBJECTS:
            return type(fields[name]) is dict
        return name in _PLACES and _is_place(fields, name)

    return is_added


def _is_place(fields: Mapping[str, Any], name: str) -> bool:
    """Return whether a field says where the shipper read the line."""
    if name == "path":
        return type(fields[name]) is str and "@timestamp" in fields
    return "beat" in fields or "prospector" in fields
