"""In which form a log is: as Cowrie wrote it, in a wrapper, or of another program, as told by its first values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from cowrieprocessor.errors import WrappedLog
from cowrieprocessor.events import REFUSED_TOO_LARGE, is_cowrie_name
from cowrieprocessor.loader.reading.log_reader import LogReader
from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.reading.wrappers.refused import Refusal, refusal_of, refusal_of_large
from cowrieprocessor.loader.reading.wrappers.registry import object_wrapper
from cowrieprocessor.loader.reading.wrappers.text_lines import ANY_PREFIX, CRI, text_wrapper
from cowrieprocessor.sanitize import inert, inert_cut

LOOK_BYTES = 1 << 20
"""How much is read of a log whose first objects are no events of Cowrie, before it counts as another program's."""

_PREFIXED_LINES = 2
_OF_OTHERS = re.compile(r"[A-Za-z][\w-]*\.")
_SHOWN_CHARS = 80


class LogForm(NamedTuple):
    """The form of a log.

    Attributes:
        first: its first object, None if there is none, or if it is in a wrapper.
        wrapper: the name of its wrapper.
        foreign: what it seems to be, if it is of another program.
        is_torn: whether there are values before the first object.
        is_text: whether some of these do not belong to a log.
        is_certain: whether enough was read to know that it is of another program, whatever follows.
    """

    first: Value | None = None
    wrapper: str | None = None
    foreign: str | None = None
    is_torn: bool = False
    is_text: bool = False
    is_certain: bool = False


def find_form(reader: LogReader, name: str) -> LogForm:
    """Return the form of a log.

    Args:
        reader: its values, from a place before which there is no object.
        name: the path of the log, for messages.

    Raises:
        WrappedLog: it is an export that has to be unwrapped first.
    """
    look = _Look(name)
    begin = reader.position
    for value in reader:
        form = look.take(value)
        if form is not None:
            return form
        if look.other is None:
            begin = reader.position
        elif reader.position - begin > LOOK_BYTES and not look.prefixed:
            return LogForm(foreign=describe(look.other), is_certain=True)
    foreign = None if look.other is None or look.prefixed else describe(look.other)
    return LogForm(look.first, None, foreign, look.is_torn, look.is_text)


class _Look:
    """What the first values of a log show.

    Attributes:
        first: the first object.
        other: the first object that another program must have written; an empty one tells nothing.
        prefixed: the number of events with something before them on their line.
        is_torn: see `LogForm`.
        is_text: see `LogForm`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._before: Value | None = None
        self.first: Value | None = None
        self.other: dict[str, Any] | None = None
        self.prefixed = 0
        self.is_torn = self.is_text = False

    def take(self, value: Value) -> LogForm | None:
        """Take the next value; return the form once it is certain."""
        before, self._before = self._before, value
        if value.fields is None:
            return self._take_problem(value)
        if refusal := refusal_of(value.fields):
            raise self._refused(refusal)
        if wrapper := object_wrapper(value.fields):
            return LogForm(wrapper=wrapper.name)
        self.first = self.first or value
        if not _may_be_event(value.fields):
            self.other = self.other or value.fields or None
            return None
        return self._take_event(value, before)

    def _take_event(self, value: Value, before: Value | None) -> LogForm | None:
        wrapper = text_wrapper(before.raw) if before is not None and _is_prefix(before, value) else None
        if wrapper is ANY_PREFIX and self.prefixed + 1 < _PREFIXED_LINES:
            self.prefixed += 1
            return None
        if wrapper is not None:
            return LogForm(wrapper=wrapper.name)
        return LogForm(self.first)

    def _take_problem(self, value: Value) -> LogForm | None:
        is_large = value.problem is not None and value.problem.reason == REFUSED_TOO_LARGE
        if is_large and self.first is None and (refusal := refusal_of_large(value.raw)):
            raise self._refused(refusal)
        if CRI.has_prefix(value.raw):
            return LogForm(wrapper=CRI.name)
        self.is_torn = True
        self.is_text = self.is_text or not (value.raw.startswith(b"{") or value.raw.endswith(b"}"))
        return None

    def _refused(self, refusal: Refusal) -> WrappedLog:
        return WrappedLog(
            f"{inert(self._name)}: is {refusal.what}, and is not loaded; unwrap it and load the result: "
            f"{refusal.command} {inert(shlex.quote(self._name))} > unwrapped.json"
        )


def _is_prefix(before: Value, value: Value) -> bool:
    """Return whether a value that is no JSON stands directly before an event of Cowrie, on the same line."""
    is_adjacent = before.problem is not None and before.end == value.start and before.line == value.line
    return is_adjacent and is_cowrie_name((value.fields or {}).get("eventid"))


def _may_be_event(fields: Mapping[str, Any]) -> bool:
    """Return whether an object may be an event of Cowrie, also of a name that we never heard of.

    Other honeypots that are made like Cowrie name theirs `adbhoney.session.connect`.
    """
    name = fields.get("eventid")
    return is_cowrie_name(name) or (type(name) is str and not _OF_OTHERS.match(name))


def describe(fields: Mapping[str, Any]) -> str:
    """Return what a log seems to be, by an object of it that is no event of Cowrie."""
    name = fields.get("eventid")
    if type(name) is str and name:
        return f"its events have names like {inert_cut(name, _SHOWN_CHARS)}"
    kind = fields.get("event_type")
    if type(kind) is str and "timestamp" in fields:
        return f"it looks like Suricata's eve.json, with event_type {inert_cut(kind, _SHOWN_CHARS)}"
    keys = ", ".join(inert_cut(key, _SHOWN_CHARS // 4) for key in list(fields)[:4])
    return f"its objects have no eventid, but {keys}" if keys else "its objects are empty"
