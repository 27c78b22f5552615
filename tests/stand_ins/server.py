"""The base of the stand-ins: real HTTP servers on loopback that count, log and misbehave on demand."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import parse_qsl

from cowrieprocessor.clock import SystemClock
from tests.stand_ins.clock import Timepiece

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Received:
    """One request as it arrived.

    Attributes:
        method: GET, POST and so on.
        path: from the first slash, with the query string.
        headers: by lower-case name.
        body: whole.
        at: the time of the stand-in's clock.
        subject: what it asks about: a hash, a URL, `overall_quotas`; otherwise the path.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    at: dt.datetime
    subject: str

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form; empty where there is none."""
        if not self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return {}
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> bytes:
        """The status line and the headers, without Content-Length."""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        if self.body or self.status == HTTPStatus.OK:
            lines.append(f"Content-Type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "".join(f"{line}\r\n" for line in lines).encode()


def document(content: object, status: int = 200, **headers: str) -> Answer:
    """Return an answer that is JSON; underscores in header names stand for hyphens."""
    body = json.dumps(content).encode()
    return Answer(status, body, headers={name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class Exchange:
    """One request and its connection.

    Attributes:
        received: the request.
        proper: returns the answer of a healthy service.
        closing: set when the stand-in ends; a behaviour that keeps a client waiting returns then.
        keep_alive: whether the connection serves another request afterwards.
    """

    received: Received
    proper: Callable[[], Answer]
    connection: socket.socket
    closing: threading.Event
    keep_alive: bool = True

    def send(self, answer: Answer) -> None:
        """Send an answer as it should be sent."""
        length = b"" if answer.status == HTTPStatus.NO_CONTENT else f"Content-Length: {len(answer.body)}\r\n".encode()
        self.connection.sendall(answer.head + length + b"\r\n" + answer.body)

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are; the connection is closed afterwards."""
        self.keep_alive = False
        self.connection.sendall(data)


@dataclass(frozen=True)
class Behaviour:
    """One way to answer a request, or not to.

    Attributes:
        name: shown by tests.
        act: sends anything on the connection of an exchange.
    """

    name: str
    act: Callable[[Exchange], None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name


def answering(name: str, answer: Answer) -> Behaviour:
    """Return a behaviour that sends the same answer to every request."""
    return Behaviour(name, lambda exchange: exchange.send(answer))


class StandIn:
    """A service on 127.0.0.1 as long as the `with` block lasts.

    Attributes:
        log: every request, in the order they arrived.
        errors: errors of the stand-in itself; must stay empty.
        outage: the behaviour towards every request while it is set.
    """

    base_path = ""
    """The path of the base address."""

    def __init__(self, clock: Timepiece | None = None) -> None:
        self.clock: Timepiece = clock or SystemClock()
        self.log: list[Received] = []
        self.errors: list[BaseException] = []
        self.outage: Behaviour | None = None
        self._scripts: dict[str, deque[Behaviour]] = {}
        self._next: deque[Behaviour] = deque()
        self._lock = threading.RLock()
        self._server: _Server | None = None

    @property
    def host(self) -> str:
        """The address without any path."""
        assert self._server is not None, "a stand-in listens only inside its with block"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """The base address, as its setting expects it."""
        return self.host + self.base_path

    def __enter__(self) -> Self:
        """Listen."""
        self._server = _Server(self)
        self._server.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, and end every connection."""
        assert self._server is not None
        self._server.end()
        self._server = None
        if kind is None:
            assert self.errors == [], "the stand-in itself failed"

    def script(self, subject: str, behaviours: Iterable[Behaviour]) -> None:
        """Apply behaviours to the next requests about a subject, in order; later ones are answered properly."""
        with self._lock:
            self._scripts.setdefault(self.canonical(subject), deque()).extend(behaviours)

    def fail_next(self, count: int, behaviour: Behaviour) -> None:
        """Apply a behaviour to the next `count` requests, whatever they ask about."""
        with self._lock:
            self._next.extend([behaviour] * count)

    def asked(self) -> Counter[str]:
        """Return how often each subject was asked about."""
        with self._lock:
            return Counter(received.subject for received in self.log)

    def canonical(self, subject: str) -> str:
        """Return the canonical name of a subject that has several."""
        return subject

    def subject(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> str:
        """Return what a request asks about."""
        return path

    def answer(self, received: Received) -> Answer:
        """Return the proper answer."""
        raise NotImplementedError

    def before(self, received: Received) -> Answer | None:
        """Return the answer to a request that is refused before it is read (no key, no quota), or None."""
        return None

    def receive(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[Received, Behaviour]:
        """Log one request and return it with how to treat it."""
        with self._lock:
            subject = self.subject(method, path, body, headers)
            received = Received(method, path, headers, body, self.clock.now(), subject)
            self.log.append(received)
            refusal = self.before(received)
            if refusal is not None:
                return received, answering("refuse", refusal)
            if self.outage is not None:
                return received, self.outage
            if self._next:
                return received, self._next.popleft()
            script = self._scripts.get(subject)
            if script:
                return received, script.popleft()
            return received, PROPERLY

    def proper(self, received: Received) -> Answer:
        """Return the proper answer, one request at a time."""
        with self._lock:
            return self.answer(received)


PROPERLY = Behaviour("properly", lambda exchange: exchange.send(exchange.proper()))
"""Answers as a healthy service does."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stand_in = stand_in
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="stand-in")

    def end(self) -> None:
        """Stop listening, wake behaviours that hang, end the connections, and wait for their threads."""
        self.closing.set()
        self.shutdown()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self.thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Record an error of the stand-in; a client that disconnected is not an error."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.stand_in.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _owner(self) -> _Server:
        return cast("_Server", self.server)

    def setup(self) -> None:
        super().setup()
        with self._owner.lock:
            self._owner.connections.add(self.connection)
        if self._owner.closing.is_set():
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        with self._owner.lock:
            self._owner.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _treat(self) -> None:
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        stand_in = self._owner.stand_in
        received, behaviour = stand_in.receive(self.command, self.path, headers, body)
        exchange = Exchange(received, lambda: stand_in.proper(received), self.connection, self._owner.closing)
        behaviour.act(exchange)
        self.close_connection = self.close_connection or not exchange.keep_alive

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Treat every method alike."""
        if name.startswith("do_"):
            return self._treat
        raise AttributeError(name)
