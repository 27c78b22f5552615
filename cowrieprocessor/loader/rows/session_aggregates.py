"""What the events of one batch say about their sessions, ready to be merged into the database.

Every merge is one of: a sum, an earliest, a latest, a smallest, so that the result does not depend on the order in
which events, batches and files come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cowrieprocessor.events import (
    CLIENT_KEX,
    COMMAND_INPUT,
    FILE_DOWNLOAD,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    SESSION_CONNECT,
    Event,
)
from cowrieprocessor.interpret.commands import describe_command
from cowrieprocessor.sanitize import inert_cut

NO_MOMENT = "9999-12-31 23:59:59.999999"
"""Stands for the time of an event that has none: later than all others."""

MAX_SENSOR_CHARS = 32


@dataclass(slots=True)
class SessionAggregate:
    """What a batch adds to one session. Times are `YYYY-MM-DD HH:MM:SS.ffffff` in UTC."""

    event_count: int = 0
    command_count: int = 0
    file_downloads: int = 0
    login_attempts: int = 0
    first_event_at: str | None = None
    last_event_at: str | None = None
    sensor: str | None = None


@dataclass(slots=True)
class AttributeAggregate:
    """Candidates for a session's attributes, each with what decides between candidates.

    connect is (moment, src_ip, protocol), kex (moment, hassh), login (0 for a success or 1, moment, username);
    the smallest wins.
    """

    connect: tuple[str, str, str] | None = None
    kex: tuple[str, str] | None = None
    login: tuple[int, str, str] | None = None


@dataclass(slots=True)
class CommandAggregate:
    """How often a session gave a command in a batch."""

    occurrences: int = 0
    first_seen: str | None = None
    last_seen: str | None = None
    high_risk: bool = False


@dataclass(slots=True)
class SessionAggregates:
    """All that a batch says about sessions."""

    sessions: dict[str, SessionAggregate] = field(default_factory=dict)
    attributes: dict[str, AttributeAggregate] = field(default_factory=dict)
    commands: dict[tuple[str, str], CommandAggregate] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Count one event; one that names no session is nobody's."""
        session_id = event.session_id
        if not session_id:
            return
        tally = self.sessions.get(session_id)
        if tally is None:
            tally = self.sessions[session_id] = SessionAggregate()
        tally.event_count += 1
        moment = event.moment
        if moment is not None:
            if tally.first_event_at is None or moment < tally.first_event_at:
                tally.first_event_at = moment
            if tally.last_event_at is None or moment > tally.last_event_at:
                tally.last_event_at = moment
        sensor = event.fields.get("sensor")
        if type(sensor) is str and sensor:
            name = _sensor_name(sensor)
            if name != tally.sensor:
                tally.sensor = name if tally.sensor is None else min(name, tally.sensor)
        handler = _HANDLERS.get(event.event_type or "")
        if handler is not None:
            handler(self, session_id, tally, event.fields, moment)

    def attribute_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_attributes`, in the order of their keys."""
        return [_attribute_row(*item) for item in sorted(self.attributes.items())]

    def command_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_commands`, in the order of their keys."""
        return [
            [*key, one.occurrences, one.first_seen, one.last_seen, one.high_risk]
            for key, one in sorted(self.commands.items())
        ]

    def _connect(self, session_id: str, _: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        candidate = (moment or NO_MOMENT, _cut(fields.get("src_ip"), 45), _cut(fields.get("protocol"), 16))
        attributes = self.attributes.setdefault(session_id, AttributeAggregate())
        if attributes.connect is None or candidate < attributes.connect:
            attributes.connect = candidate

    def _kex(self, session_id: str, _: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        candidate = (moment or NO_MOMENT, _cut(fields.get("hassh"), 32))
        attributes = self.attributes.setdefault(session_id, AttributeAggregate())
        if attributes.kex is None or candidate < attributes.kex:
            attributes.kex = candidate

    def _login_success(
        self, session_id: str, tally: SessionAggregate, fields: dict[str, Any], moment: str | None
    ) -> None:
        self._login(session_id, tally, (0, moment or NO_MOMENT, _cut(fields.get("username"), 255)))

    def _login_failed(
        self, session_id: str, tally: SessionAggregate, fields: dict[str, Any], moment: str | None
    ) -> None:
        self._login(session_id, tally, (1, moment or NO_MOMENT, _cut(fields.get("username"), 255)))

    def _login(self, session_id: str, tally: SessionAggregate, candidate: tuple[int, str, str]) -> None:
        tally.login_attempts += 1
        attributes = self.attributes.setdefault(session_id, AttributeAggregate())
        if attributes.login is None or candidate < attributes.login:
            attributes.login = candidate

    def _command(self, session_id: str, tally: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        tally.command_count += 1
        text = fields.get("input")
        if type(text) is not str:
            text = fields.get("input_safe")  # v3 kept a command in this form alone
        if type(text) is not str or not text:
            return
        normalized, high_risk = describe_command(text)
        if not normalized:
            return
        key = (session_id, normalized)
        command = self.commands.get(key)
        if command is None:
            command = self.commands[key] = CommandAggregate()
        command.occurrences += 1
        command.high_risk = command.high_risk or high_risk
        if moment is not None:
            command.first_seen = min(moment, command.first_seen or moment)
            command.last_seen = max(moment, command.last_seen or moment)

    def _download(self, session_id: str, tally: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        tally.file_downloads += 1


def _attribute_row(session_id: str, one: AttributeAggregate) -> list[Any]:
    connect_at, src_ip, protocol = one.connect or (None, None, None)
    hassh_at, hassh = one.kex or (None, None)
    failed, login_at, username = one.login or (None, None, None)
    success = None if failed is None else failed == 0
    return [
        session_id,
        connect_at,
        src_ip or None,
        protocol or None,
        hassh_at,
        hassh or None,
        success,
        login_at,
        username,
    ]


@lru_cache(maxsize=1024)
def _sensor_name(sensor: str) -> str:
    return inert_cut(sensor, MAX_SENSOR_CHARS)


def _cut(value: object, max_chars: int) -> str:
    return inert_cut(value, max_chars) if isinstance(value, str) else ""


_HANDLERS = {
    SESSION_CONNECT: SessionAggregates._connect,
    CLIENT_KEX: SessionAggregates._kex,
    LOGIN_SUCCESS: SessionAggregates._login_success,
    LOGIN_FAILED: SessionAggregates._login_failed,
    COMMAND_INPUT: SessionAggregates._command,
    FILE_DOWNLOAD: SessionAggregates._download,
}
