"""What log services export: Loki, CloudWatch, and what Splunk's collector takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.reading.wrappers.base import Piece, Wrapper
from cowrieprocessor.loader.reading.wrappers.spans import Span, elements, member


class Loki(Wrapper):
    """Grafana Loki: lines of `logcli -o jsonl` and of Grafana, and the streams of its push and query interfaces.

    Source: Loki docs, "HTTP API" (`streams`, `data.result`; a value is time, line and perhaps metadata).
    """

    name = "Loki"

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object is a line with labels, a stream, or the streams of one request."""
        if "eventid" in fields:
            return False
        if type(fields.get("line")) is str and "labels" in fields:
            return True
        return bool(_stream_path(fields)) or _is_stream(fields)

    def pieces(self, value: Value) -> list[Piece]:
        """Return the lines of all streams, in their order."""
        fields, raw = value.fields or {}, value.raw
        if type(fields.get("line")) is str:
            return [Piece(fields["line"].encode())]
        if _is_stream(fields):
            streams: list[Span] = [(0, len(raw))]
        else:
            span = (0, len(raw))
            for name in _stream_path(fields):
                span = member(raw, name, *span)
            streams = list(elements(raw, *span))
        return [piece for stream in streams for piece in _lines_of_stream(raw, stream)]


def _stream_path(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that lead to the streams of a request; empty if there are none."""
    data = fields.get("data")
    if type(data) is dict and data.get("resultType") == "streams" and _are_streams(data.get("result")):
        return "data", "result"
    return ("streams",) if _are_streams(fields.get("streams")) else ()


def _are_streams(streams: object) -> bool:
    return type(streams) is list and bool(streams) and all(_is_stream(stream) for stream in streams)


def _is_stream(stream: object) -> bool:
    if type(stream) is not dict or type(stream.get("stream")) is not dict:
        return False
    values = stream.get("values")
    return type(values) is list and all(type(entry) is list and len(entry) >= 2 for entry in values)


def _lines_of_stream(raw: bytes, stream: Span) -> Iterator[Piece]:
    for entry in elements(raw, *member(raw, "values", *stream)):
        _, line, *_ = elements(raw, *entry)
        yield _text_piece(raw, line)


class CloudWatch(Wrapper):
    """CloudWatch Logs: events one by one, as the command line prints them, or as a subscription sends them.

    Source: AWS docs, "GetLogEvents", "FilterLogEvents" (`events`) and "Subscription filters" (`logEvents`).
    """

    name = "CloudWatch"

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object is an event of CloudWatch, or a list of them."""
        return "eventid" not in fields and (bool(_list_name(fields)) or _is_log_event(fields))

    def pieces(self, value: Value) -> list[Piece]:
        """Return the messages, in their order."""
        fields, raw = value.fields or {}, value.raw
        name = _list_name(fields)
        if not name:
            return [Piece(fields["message"].encode())]
        spans = elements(raw, *member(raw, name))
        return [_text_piece(raw, member(raw, "message", *span)) for span in spans]


def _list_name(fields: Mapping[str, Any]) -> str:
    """Return which field holds the list of events; empty if none does."""
    for name in ("events", "logEvents"):
        events = fields.get(name)
        if type(events) is list and events and all(_has_message(event) for event in events):
            return name
    return ""


def _is_log_event(fields: Mapping[str, Any]) -> bool:
    own = ("ingestionTime", "eventId", "logStreamName", "id")
    return _has_message(fields) and any(name in fields for name in own)


def _has_message(event: object) -> bool:
    return type(event) is dict and type(event.get("message")) is str and type(event.get("timestamp")) is int


class SplunkHec(Wrapper):
    """What Splunk's HTTP Event Collector takes: the event embedded, or as text.

    Source: Splunk docs, "Format events for HTTP Event Collector".
    """

    name = "Splunk HEC"
    _FIELDS = frozenset({"time", "host", "source", "sourcetype", "index", "event", "fields"})

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object has an `event` and nothing but the collector's own fields."""
        return len(fields) > 1 and type(fields.get("event")) in (dict, str) and fields.keys() <= self._FIELDS

    def pieces(self, value: Value) -> list[Piece]:
        """Return the event."""
        event = (value.fields or {})["event"]
        if type(event) is str:
            return [Piece(event.encode())]
        start, end = member(value.raw, "event")
        return [Piece(value.raw[start:end])]


def _text_piece(raw: bytes, span: Span) -> Piece:
    """Return the piece of a string in a value, with its place; what is no string is a piece without text."""
    text = orjson.loads(raw[slice(*span)])
    return Piece(text.encode() if type(text) is str else b"", *span)
