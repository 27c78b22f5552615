"""Time that processes share and that passes only while all of them wait for it.

    server (in the test)                 clients (in threads or processes)
    time stands still  ◀── wait 15 s ──  one waits, another still works
    time stands still  ◀── wait 12 s ──  now all of them wait:
    it is 12 s later   ── the time ───▶  the client that waited for it works on; the other still waits

A day of waiting takes as long as the work in it. Which of several clients reaches a database first is still
undetermined; what time it then is, is determined.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.stand_ins.clock import START

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_FOREVER = 2**62
STOP_CHECK_S = 0.01
"""How often, in real time, a waiting client checks whether it should stop."""


def _number(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(number: int) -> dt.datetime:
    return _EPOCH + number * _MICROSECOND


@dataclass
class _Client:
    connection: socket.socket
    received: bytes = b""
    deadline: int | None = None


class VirtualTimeServer:
    """Keeps the time for its clients, in a thread, as long as the `with` block lasts.

    Time passes only when every connected client waits, and only up to the earliest moment that any of them waits for.
    A client whose connection is closed, for example that of a killed process, no longer counts. Without clients no time
    passes.

    Args:
        now: the time at the beginning.
        expected: how many clients must be connected at once before any time passes.
        until: the last time; None for no end.

    Attributes:
        ended: set once all clients wait for a time after `until`, or for ever.
    """

    def __init__(self, now: dt.datetime = START, expected: int = 1, until: dt.datetime | None = None) -> None:
        self.ended = threading.Event()
        self._now = _number(now)
        self._until = _FOREVER if until is None else _number(until)
        self._expected = expected
        self._freezes = 0
        self._clients: dict[socket.socket, _Client] = {}
        self._closing = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="virtual time")

    @property
    def address(self) -> str:
        """The address for clients, as HOST:PORT."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def now(self) -> dt.datetime:
        """Return the time, aware, in UTC."""
        with self._lock:
            return _moment(self._now)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no time pass inside the block: for replacing a client, or inspecting the state."""
        with self._lock:
            self._freezes += 1
        try:
            yield
        finally:
            with self._lock:
                self._freezes -= 1
            self._wake.send(b"!")

    def wait_until_quiet(self, timeout_s: float = 60.0) -> bool:
        """Return True once every client waits while time is stopped, or False after a real-time timeout."""
        with self._lock:
            return self._changed.wait_for(
                lambda: all(client.deadline is not None for client in self._clients.values()), timeout_s
            )

    def wait_for_clients(self, count: int, timeout_s: float = 60.0) -> bool:
        """Return True once exactly this number of clients is connected, or False after a real-time timeout."""
        with self._lock:
            return self._changed.wait_for(lambda: len(self._clients) == count, timeout_s)

    def wait_until(self, moment: dt.datetime, timeout_s: float = 60.0) -> bool:
        """Return True once it is a certain time or later, or False after a real-time timeout."""
        with self._lock:
            return self._changed.wait_for(lambda: self._now >= _number(moment), timeout_s)

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: waiting clients see their connection closed."""
        with self._lock:
            self._closing = True
        self._wake.send(b"!")
        self._thread.join()
        self._selector.close()
        for open_socket in (self._listener, self._wake, self._woken, *self._clients):
            open_socket.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._read(key.fileobj)
            with self._lock:
                if self._closing:
                    return
                self._let_time_pass()
                self._changed.notify_all()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ)
        with self._lock:
            self._clients[connection] = _Client(connection)
            self._tell(self._clients[connection])

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
        except OSError:
            data = b""
        with self._lock:
            client = self._clients[connection]
            if not data:
                self._selector.unregister(connection)
                del self._clients[connection]
                connection.close()
                return
            *lines, client.received = (client.received + data).split(b"\n")
            for line in lines:
                if line == b"cancel":
                    # A client that no longer waits has been sent its answer already.
                    if client.deadline is not None:
                        self._tell(client)
                else:
                    client.deadline = min(self._now + max(0, int(line)), _FOREVER)

    def _tell(self, client: _Client) -> None:
        """Send a client the time; from then on it is working."""
        client.deadline = None
        with contextlib.suppress(OSError):
            client.connection.sendall(b"%d\n" % self._now)

    def _let_time_pass(self) -> None:
        """If all clients wait, advance to the earliest time that any waits for."""
        if len(self._clients) < self._expected or not self._clients:
            return
        self._expected = 0
        deadlines = [client.deadline for client in self._clients.values() if client.deadline is not None]
        if self._freezes or len(deadlines) < len(self._clients):
            return
        earliest = min(deadlines)
        if earliest > self._until or earliest == _FOREVER:
            self._now = self._now if self._until == _FOREVER else max(self._now, self._until)
            self.ended.set()
            return
        self._now = max(self._now, earliest)
        for client in self._clients.values():
            if client.deadline is not None and client.deadline <= self._now:
                self._tell(client)


class VirtualClock:
    """The clock of one thread or process: a client of a server. Close it after use.

    Between two waits the time stands still, so the clock does not ask the server for it.
    """

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._connection = socket.create_connection((host, int(port)))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._now = self._answer(None)

    def now(self) -> dt.datetime:
        """Return the time, aware, in UTC."""
        return self._now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return once the seconds have passed for all clients, or as soon as `stop` is set."""
        if stop.is_set():
            return
        microseconds = _FOREVER if math.isinf(seconds) else math.ceil(max(0.0, seconds) * 1_000_000)
        self._connection.sendall(b"%d\n" % microseconds)
        self._now = self._answer(stop)

    def close(self) -> None:
        """Disconnect: time passes for the other clients without this one."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, stop: threading.Event | None) -> dt.datetime:
        """Return the next time that the server sends; ask for it at once when `stop` is set."""
        cancelled = False
        self._connection.settimeout(None if stop is None else STOP_CHECK_S)
        while b"\n" not in self._received:
            try:
                data = self._connection.recv(4096)
            except TimeoutError:
                assert stop is not None
                if stop.is_set() and not cancelled:
                    cancelled = True
                    self._connection.settimeout(None)
                    self._connection.sendall(b"cancel\n")
                continue
            if not data:
                raise ConnectionError("the server of the virtual time is gone")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return _moment(int(line))
