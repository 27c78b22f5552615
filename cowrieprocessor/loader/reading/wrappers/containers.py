"""Logs of containers and services in JSON: docker's json-file, journald, and objects with the line in a field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.reading.wrappers.base import Piece, Wrapper, find_events, is_object

FIELD_PREFIX = "field "
_MAX_FIELD_CHARS = 40


class DockerJsonFile(Wrapper):
    """Docker's default log driver: an object a line; a line over 16 KiB is split.

    Shippers that forward these records may strip the line feed, so a record with a whole object ends a line, too.

    Source: Docker docs, "JSON File logging driver"; a record ends a line if its `log` ends with a line feed.
    """

    name = "docker json-file"

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object has `log`, `stream` and `time`."""
        return "time" in fields and fields.get("stream") in ("stdout", "stderr") and type(fields.get("log")) is str

    def pieces(self, value: Value) -> list[Piece]:
        """Return the line, or the part of it."""
        fields = value.fields or {}
        line: str = fields["log"]
        text = line.encode()
        return [Piece(text, continues=not line.endswith("\n") and not is_object(text), stream=fields["stream"])]


class Journald(Wrapper):
    """The journal, as `journalctl -o json` prints it; the text is an array of bytes where it is not printable.

    Source: systemd docs, "Journal Export Formats" and systemd.journal-fields(7), `_LINE_BREAK=`.
    """

    name = "journald"

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object has `MESSAGE` and the journal's own fields."""
        return "MESSAGE" in fields and ("__CURSOR" in fields or "__REALTIME_TIMESTAMP" in fields)

    def pieces(self, value: Value) -> list[Piece]:
        """Return the message, or the part of a line that was too long for one."""
        fields = value.fields or {}
        message = fields["MESSAGE"]
        if type(message) is list and all(type(byte) is int and 0 <= byte < 256 for byte in message):
            text = bytes(message)
        else:
            text = message.encode() if type(message) is str else b""
        stream = str(fields.get("_STREAM_ID") or fields.get("_PID") or "")
        return [Piece(text, continues=fields.get("_LINE_BREAK") == "line-max", stream=stream)]


class Field(Wrapper):
    """An object that some other program made of each line, with the line itself in one field of it.

    Args:
        field: the name of the field.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self.name = FIELD_PREFIX + field

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object that is no event has text in the field."""
        return type(fields.get(self.field)) is str and "eventid" not in fields

    def pieces(self, value: Value) -> list[Piece]:
        """Return the text of the field."""
        return [Piece(str((value.fields or {})[self.field]).encode())]


def field_wrapper(fields: Mapping[str, Any]) -> Field | None:
    """Return the wrapper of an object that has an event as text in one of its fields, None if there is none."""
    if "eventid" in fields:
        return None
    for name, text in fields.items():
        if type(text) is str and '"eventid"' in text and len(name) <= _MAX_FIELD_CHARS and name.isprintable():
            found = find_events(text.encode())
            if found and found[-1].fields is not None:
                return Field(name)
    return None
