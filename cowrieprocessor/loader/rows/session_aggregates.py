"""Aggregates of a batch's events by session, ready to be merged into the database.

Every merge is a sum, a minimum or a maximum, so the result does not depend on the order of events, batches and files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from cowrieprocessor.events import (
    CLIENT_KEX,
    COMMAND_INPUT,
    FILE_DOWNLOAD,
    FORWARDED,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    SESSION_CONNECT,
    Event,
)
from cowrieprocessor.interpret.addresses import canonical_address
from cowrieprocessor.interpret.commands import command_of, describe_command
from cowrieprocessor.interpret.sensors import sensor_name
from cowrieprocessor.sanitize import inert_cut, inert_key

NO_MOMENT = "9999-12-31 23:59:59.999999"
"""Sorts after all other times: the time of an event without one."""

MAX_PROTOCOL_CHARS = 16
MAX_USERNAME_CHARS = 255

_Candidate = TypeVar("_Candidate", str, tuple[str, str], tuple[int, str, str])

CONNECT, OTHER = 0, 1
"""Ranks of events that name an address or a protocol: a connection goes before any other event."""


@dataclass(slots=True)
class SessionAggregate:
    """What a batch adds to one session.

    Attributes:
        first_event_at: `YYYY-MM-DD HH:MM:SS.ffffff` in UTC; None while no event has a time.
        last_event_at: likewise; set together with `first_event_at`.
        sensors: the names of sensors that its events say.
        first_connect_at: the time of the first `cowrie.session.connect`, like `first_event_at`.
        last_connect_at: that of the last one.
    """

    event_count: int = 0
    command_count: int = 0
    file_downloads: int = 0
    login_attempts: int = 0
    first_event_at: str | None = None
    last_event_at: str | None = None
    sensors: set[str] = field(default_factory=set)
    first_connect_at: str | None = None
    last_connect_at: str | None = None

    def add_sensor(self, said: object) -> None:
        """Add the name that an event says, if it says one."""
        if type(said) is str and said:
            self.sensors.add(sensor_name(said))

    def add_connect(self, moment: str) -> None:
        """Add the time of a `cowrie.session.connect`."""
        self.first_connect_at = min(moment, self.first_connect_at or moment)
        self.last_connect_at = max(moment, self.last_connect_at or moment)

    def merge(self, other: SessionAggregate) -> None:
        """Add what other events add to the session."""
        self.event_count += other.event_count
        self.command_count += other.command_count
        self.file_downloads += other.file_downloads
        self.login_attempts += other.login_attempts
        self.first_event_at = _smallest(self.first_event_at, other.first_event_at)
        self.last_event_at = _largest(self.last_event_at, other.last_event_at)
        self.sensors |= other.sensors
        self.first_connect_at = _smallest(self.first_connect_at, other.first_connect_at)
        self.last_connect_at = _largest(self.last_connect_at, other.last_connect_at)


@dataclass(slots=True)
class AttributeAggregate:
    """Candidates for a session's attributes, preceded by their sort key; the smallest wins.

    Attributes:
        connect: moment of a connection.
        address: (rank, moment, src_ip).
        protocol: (rank, moment, protocol).
        kex: (moment, hassh).
        login: (0 for a success or 1, moment, username).
    """

    connect: str | None = None
    address: tuple[int, str, str] | None = None
    protocol: tuple[int, str, str] | None = None
    kex: tuple[str, str] | None = None
    login: tuple[int, str, str] | None = None

    def merge(self, other: AttributeAggregate) -> None:
        """Add the candidates of other events."""
        self.connect = _smallest(self.connect, other.connect)
        self.address = _smallest(self.address, other.address)
        self.protocol = _smallest(self.protocol, other.protocol)
        self.kex = _smallest(self.kex, other.kex)
        self.login = _smallest(self.login, other.login)


@dataclass(slots=True)
class LoginAggregate:
    """How often, and when, a session tried one user name in a batch."""

    attempts: int = 0
    successes: int = 0
    first_seen: str | None = None
    last_seen: str | None = None

    def merge(self, other: LoginAggregate) -> None:
        """Add the attempts of other events."""
        self.attempts += other.attempts
        self.successes += other.successes
        self.first_seen = _smallest(self.first_seen, other.first_seen)
        self.last_seen = _largest(self.last_seen, other.last_seen)


@dataclass(slots=True)
class CommandAggregate:
    """How often, and when, a session gave one command in a batch."""

    occurrences: int = 0
    first_seen: str | None = None
    last_seen: str | None = None
    high_risk: bool = False

    def merge(self, other: CommandAggregate) -> None:
        """Add what other events say of the command."""
        self.occurrences += other.occurrences
        self.first_seen = _smallest(self.first_seen, other.first_seen)
        self.last_seen = _largest(self.last_seen, other.last_seen)
        self.high_risk = self.high_risk or other.high_risk


@dataclass(slots=True)
class SessionAggregates:
    """The aggregates of a batch, by session, by (session, command) and by (session, user name)."""

    sessions: dict[str, SessionAggregate] = field(default_factory=lambda: defaultdict(SessionAggregate))
    attributes: dict[str, AttributeAggregate] = field(default_factory=dict)
    commands: dict[tuple[str, str], CommandAggregate] = field(default_factory=dict)
    logins: dict[tuple[str, str], LoginAggregate] = field(default_factory=dict)
    _named: set[str] = field(default_factory=set)
    """Sessions whose connection named both address and protocol, so that no other event decides them."""

    def add(self, event: Event) -> None:
        """Add one event; an event without a session is not counted."""
        fields, _, _, session_id, event_type, _, moment = event
        if not session_id:
            return
        session = self.sessions[session_id]
        session.event_count += 1
        if moment is not None:
            if session.last_event_at is None:
                session.first_event_at = session.last_event_at = moment
            elif moment > session.last_event_at:
                session.last_event_at = moment
            elif moment < session.first_event_at:  # type: ignore[operator]  # both are set, or neither
                session.first_event_at = moment
        said = fields.get("sensor")
        if type(said) is str and said not in session.sensors:  # nearly every event of a session says the same
            session.add_sensor(said)
        if session_id not in self._named:
            self._name(session_id, event)
        handler = _HANDLERS.get(event_type)
        if handler is not None:
            handler(self, session_id, session, fields, moment)

    def merge(self, other: SessionAggregates) -> None:
        """Add the aggregates of other events."""
        for session_id, session in other.sessions.items():
            self.sessions[session_id].merge(session)
        for session_id, attributes in other.attributes.items():
            self._attributes_of(session_id).merge(attributes)
        for key, command in other.commands.items():
            self.commands.setdefault(key, CommandAggregate()).merge(command)
        for key, login in other.logins.items():
            self.logins.setdefault(key, LoginAggregate()).merge(login)
        self._named |= other._named

    def sensor_rows(self) -> list[list[Any]]:
        """Return (session_id, names in the events, first and last time of a connect), sorted by session."""
        return [
            [
                session_id,
                sorted(session.sensors),
                session.first_connect_at,
                session.last_connect_at,
            ]
            for session_id, session in sorted(self.sessions.items())
        ]

    def attribute_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_attributes`, sorted by key."""
        return [_attribute_row(*item) for item in sorted(self.attributes.items())]

    def command_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_commands`, sorted by key."""
        return [
            [*key, command.occurrences, command.first_seen, command.last_seen, command.high_risk]
            for key, command in sorted(self.commands.items())
        ]

    def login_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_logins`, sorted by key."""
        return [
            [*key, login.attempts, login.successes, login.first_seen, login.last_seen]
            for key, login in sorted(self.logins.items())
        ]

    def _name(self, session_id: str, event: Event) -> None:
        """Take address and protocol from an event that is no connection."""
        event_type = event.event_type
        if event_type != SESSION_CONNECT and not (event_type and event_type.startswith(FORWARDED)):
            self._take_names(session_id, OTHER, event.fields, event.moment)

    def _take_names(self, session_id: str, rank: int, fields: dict[str, Any], moment: str | None) -> None:
        """Take address and protocol from an event, if it names them and no earlier one does."""
        src_ip, protocol = fields.get("src_ip"), fields.get("protocol")
        key = (rank, moment or NO_MOMENT)
        if type(src_ip) is str and src_ip:
            attributes = self._attributes_of(session_id)
            known = attributes.address
            if known is None or key <= known[:2]:
                candidate = (*key, canonical_address(src_ip))
                attributes.address = candidate if known is None else min(known, candidate)
        if type(protocol) is str and protocol:
            attributes = self._attributes_of(session_id)
            known = attributes.protocol
            if known is None or key <= known[:2]:
                candidate = (*key, inert_cut(protocol, MAX_PROTOCOL_CHARS))
                attributes.protocol = candidate if known is None else min(known, candidate)

    def _attributes_of(self, session_id: str) -> AttributeAggregate:
        attributes = self.attributes.get(session_id)
        if attributes is None:
            attributes = self.attributes[session_id] = AttributeAggregate()
        return attributes

    def _connect(self, session_id: str, session: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        if moment is not None:
            session.add_connect(moment)
        attributes = self._attributes_of(session_id)
        at = moment or NO_MOMENT
        attributes.connect = at if attributes.connect is None else min(at, attributes.connect)
        self._take_names(session_id, CONNECT, fields, moment)
        address, protocol = attributes.address, attributes.protocol
        if address is not None and protocol is not None and address[0] == protocol[0] == CONNECT:
            self._named.add(session_id)

    def _kex(self, session_id: str, _: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        candidate = (moment or NO_MOMENT, _cut(fields.get("hassh"), 32))
        attributes = self._attributes_of(session_id)
        if attributes.kex is None or candidate < attributes.kex:
            attributes.kex = candidate

    def _login_success(
        self, session_id: str, session: SessionAggregate, fields: dict[str, Any], moment: str | None
    ) -> None:
        self._login(session_id, session, fields, moment, succeeds=True)

    def _login_failed(
        self, session_id: str, session: SessionAggregate, fields: dict[str, Any], moment: str | None
    ) -> None:
        self._login(session_id, session, fields, moment, succeeds=False)

    def _login(
        self, session_id: str, session: SessionAggregate, fields: dict[str, Any], moment: str | None, *, succeeds: bool
    ) -> None:
        session.login_attempts += 1
        username = fields.get("username")
        shown, key = _login_name(username) if type(username) is str else ("", "")
        attributes = self._attributes_of(session_id)
        candidate = (0 if succeeds else 1, moment or NO_MOMENT, shown)
        if attributes.login is None or candidate < attributes.login:
            attributes.login = candidate
        login = self.logins.get((session_id, key))
        if login is None:
            login = self.logins[session_id, key] = LoginAggregate()
        login.attempts += 1
        login.successes += succeeds
        if moment is not None:
            login.first_seen = min(moment, login.first_seen or moment)
            login.last_seen = max(moment, login.last_seen or moment)

    def _command(self, session_id: str, session: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        session.command_count += 1
        text = fields.get("input")
        if type(text) is not str:
            text = command_of(fields)
        if not text:
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

    def _download(self, session_id: str, session: SessionAggregate, fields: dict[str, Any], moment: str | None) -> None:
        session.file_downloads += 1


def _smallest(left: _Candidate | None, right: _Candidate | None) -> _Candidate | None:
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)


def _largest(left: str | None, right: str | None) -> str | None:
    if left is None or right is None:
        return right if left is None else left
    return max(left, right)


def _attribute_row(session_id: str, attributes: AttributeAggregate) -> list[Any]:
    src_ip_rank, src_ip_at, src_ip = attributes.address or (None, None, None)
    protocol_rank, protocol_at, protocol = attributes.protocol or (None, None, None)
    hassh_at, hassh = attributes.kex or (None, None)
    failed, login_at, username = attributes.login or (None, None, None)
    success = None if failed is None else failed == 0
    return [
        session_id,
        attributes.connect,
        src_ip_rank,
        src_ip_at,
        src_ip,
        protocol_rank,
        protocol_at,
        protocol,
        hassh_at,
        hassh or None,
        success,
        login_at,
        username,
    ]


@lru_cache(maxsize=4096)
def _login_name(username: str) -> tuple[str, str]:
    """Return a user name as a session's attribute, and as the key under which its attempts are counted."""
    return inert_cut(username, MAX_USERNAME_CHARS), inert_key(username, MAX_USERNAME_CHARS)


def _cut(value: object, max_chars: int) -> str:
    return inert_cut(value, max_chars) if isinstance(value, str) else ""


_HANDLERS: dict[str | None, Callable[[SessionAggregates, str, SessionAggregate, dict[str, Any], str | None], None]] = {
    SESSION_CONNECT: SessionAggregates._connect,
    CLIENT_KEX: SessionAggregates._kex,
    LOGIN_SUCCESS: SessionAggregates._login_success,
    LOGIN_FAILED: SessionAggregates._login_failed,
    COMMAND_INPUT: SessionAggregates._command,
    FILE_DOWNLOAD: SessionAggregates._download,
}
