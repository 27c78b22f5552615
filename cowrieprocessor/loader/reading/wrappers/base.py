"""What a wrapper is: a form in which another program keeps the lines of a log, and how to get them back."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

import orjson

from cowrieprocessor.events import REFUSED_NOT_JSON, Refused, is_cowrie_name, refused_json
from cowrieprocessor.loader.reading.value_reader import Value

MAX_WRAPPER_CHARS = 64
"""Longest name of a wrapper."""

_OBJECT_START = re.compile(rb'\{[ \t]*+"')
_EVENT_KEYS = re.compile(rb'"(?:eventid|session|sensor|src_ip)"')
_MAX_STARTS = 16


class Piece(NamedTuple):
    """A text that a value of a wrapped log carries, usually one line.

    Attributes:
        text: the text as Cowrie wrote it, or the JSON of an embedded object.
        start: where it starts in the value, in bytes; None if it stands for the whole value.
        end: where it ends in the value, exclusive.
        continues: whether the line goes on in the next value of the same stream.
        stream: tells apart streams whose lines are split.
    """

    text: bytes
    start: int | None = None
    end: int | None = None
    continues: bool = False
    stream: str = ""


class Wrapper(ABC):
    """A form in which another program keeps the lines of a log.

    Attributes:
        name: the name, as it is shown and stored.
        reads_lines: whether the log is text that holds one value a line, not a sequence of JSON objects.
    """

    name: str
    reads_lines = False

    def is_frame(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an object has the shape that this wrapper gives to its values."""
        return False

    @abstractmethod
    def pieces(self, value: Value) -> list[Piece]:
        """Return the texts in a value: an object for which `is_frame` is true, or a line."""


class Found(NamedTuple):
    """An event in a text, or the part of the text that must have been one.

    Attributes:
        raw: its bytes.
        fields: the decoded event, None for a problem.
        problem: why it is not an event.
    """

    raw: bytes
    fields: dict[str, Any] | None
    problem: Refused | None = None


def is_event(fields: object) -> bool:
    """Return whether a decoded value is an event of Cowrie or Kippo, by its name."""
    return type(fields) is dict and is_cowrie_name(fields.get("eventid"))


def is_object(text: bytes) -> bool:
    """Return whether a text is a whole JSON object."""
    try:
        return text.startswith(b"{") and type(orjson.loads(text)) is dict
    except orjson.JSONDecodeError:
        return False


def may_be_torn_event(text: bytes) -> bool:
    """Return whether a text that is no JSON may be a part of an event, by the keys in it."""
    return _EVENT_KEYS.search(text) is not None


def find_events(text: bytes) -> list[Found]:
    """Return the event that a text ends with, and what is left of damaged ones; empty for a line of another program.

    Args:
        text: one line, with or without a prefix.
    """
    text = text.strip()
    problem = Refused(REFUSED_NOT_JSON, "the line holds no intact event")
    if text.startswith(b"{"):
        try:
            fields = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            problem = refused_json(error)
        else:
            return [Found(text, fields)] if is_event(fields) else []
    if not may_be_torn_event(text):
        return []
    for start in islice(_OBJECT_START.finditer(text), _MAX_STARTS):
        at = start.start()
        try:
            fields = orjson.loads(text[at:])
        except orjson.JSONDecodeError as error:
            problem = refused_json(error) if text.startswith(b"{") else problem
            continue
        before = text[:at].rstrip()
        torn = [Found(before, None, problem)] if may_be_torn_event(before) else []
        return [*torn, Found(text[at:], fields)] if is_event(fields) else torn
    return [Found(text, None, problem)]
