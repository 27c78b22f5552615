"""Sends one request and waits for its answer: bounded in time and size, no redirects, no retries, no keys in messages.

Nothing is sent twice: a request costs quota whether or not its answer arrives, so only the ledger decides on the next.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from cowrieprocessor import __version__
from cowrieprocessor.clock import Clock
from cowrieprocessor.enrichment.content_encoding import BadEncoding, decoded
from cowrieprocessor.enrichment.providers.base import Failed, Reply, Request
from cowrieprocessor.enrichment.providers.http_status import printable
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.wording import plural

MAX_BODY_BYTES = 8 * 1024 * 1024
"""The longest answer that is accepted. VirusTotal's reports on files have some 100 KB."""

UPLOAD_BYTES_PER_S = 64 * 1024
"""The slowest upload that is waited for: the timeout grows by a second for each 64 KiB."""

CONNECT_TIMEOUT_S = 10.0
"""For each address of a host; shorter if the whole request has less."""

LOOPBACK = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""Never reached through a proxy: keys may be sent there unencrypted."""

_LOGGERS = ("httpx", "httpcore", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
_REQUEST_ERRORS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_CONNECTED = (".connect_tcp.complete", ".start_tls.complete")


class _UnusableAnswer(Exception):
    """Ends an exchange with a failure."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind)
        self.failure = Failed(kind, reason)


class _DropAll(logging.Filter):
    """Drops every record: httpx and httpcore log addresses and headers, which can contain a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


_DROP_ALL = _DropAll()


class HttpClient:
    """Sends requests, one at a time; close it, or use it in a `with` statement.

    Proxies and certificates come from the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and the like).

    Args:
        timeout_s: timeout of a whole request in real seconds; longer for uploads. It does not include the look-up of
            a host's name, which the system bounds.
        clock: the current time, for `Reply.received_at`.
        max_body_bytes: a longer answer is Failed.

    Raises:
        ConfigurationError: the environment names a proxy or certificates that cannot be used.
    """

    def __init__(self, timeout_s: float, clock: Clock, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        _drop_log_records()
        self._timeout_s = timeout_s
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._sockets: list[socket.socket] = []
        try:
            self._client = httpx.Client(
                headers={"User-Agent": f"cowrieprocessor/{__version__}", "Accept-Encoding": "identity"},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                limits=httpx.Limits(max_connections=8, max_keepalive_connections=4, keepalive_expiry=5.0),
                follow_redirects=False,
                mounts=dict.fromkeys(LOOPBACK),
                event_hooks={"response": [_refuse_redirect]},
            )
        except (ValueError, ImportError, OSError, httpx.InvalidURL):
            raise ConfigurationError(
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE or SSL_CERT_DIR names something that cannot be used "
                "for requests; correct it in the environment, or take it out"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._sockets.clear()

    def send(self, request: Request) -> Reply | Failed:
        """Send a request once and return the whole answer, or why there is none. Never raises for network errors."""
        keys = list(request.headers.values())
        host = printable(_host(request.url) or "the address", *keys)
        deadline = _Deadline(self._timeout_for(request), self._shut_down_connections)
        try:
            with deadline:
                return self._exchange(request, deadline)
        except _UnusableAnswer as unusable:
            failure = unusable.failure
            return Failed(failure.kind, f"{host}: {printable(failure.reason, request.url, *keys)}")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            if deadline.has_passed or isinstance(error, (httpx.TimeoutException, TimeoutError)):
                return Failed("timeout", f"{host}: no whole answer within {deadline.seconds:g} s")
            if isinstance(error, _REQUEST_ERRORS) or not isinstance(error, (httpx.TransportError, OSError)):
                return Failed("other", f"{host}: the request cannot be sent: check the address of the source")
            # After the colon of a RemoteProtocolError stands the repr of what the server sent.
            message = str(error).partition(":")[0] if isinstance(error, httpx.RemoteProtocolError) else str(error)
            return Failed(
                "connection", f"{host}: {printable(message or 'the connection was lost', request.url, *keys)}"
            )

    def _exchange(self, request: Request, deadline: _Deadline) -> Reply:
        content: dict[str, Any] = {}
        if request.upload is not None:
            content["files"] = {"file": request.upload}
        elif request.form is not None:
            content["data"] = dict(request.form)
        elif request.document is not None:
            content["json"] = request.document
        httpx_request = self._client.build_request(
            request.method,
            request.url,
            headers=dict(request.headers),
            timeout=httpx.Timeout(deadline.seconds, connect=min(deadline.seconds, CONNECT_TIMEOUT_S)),
            extensions={"trace": self._record_connection},
            **content,
        )
        response = self._client.send(httpx_request, stream=True)
        try:
            body = self._read_body(response, deadline)
        finally:
            response.close()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status_code, headers, body, self._clock.now())

    def _read_body(self, response: httpx.Response, deadline: _Deadline) -> bytes:
        too_large = _UnusableAnswer("too-large", f"the answer has more than {plural(self._max_body_bytes, 'byte')}")
        announced = response.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced[:18]) > self._max_body_bytes:
            raise too_large
        try:
            arriving = self._bounded(response.iter_raw(), deadline, too_large)
            content = decoded(arriving, response.headers.get("content-encoding", ""))
            return b"".join(self._bounded(content, deadline, too_large))
        except BadEncoding as error:
            raise _UnusableAnswer("bad-body", str(error)) from None

    def _bounded(self, pieces: Iterable[bytes], deadline: _Deadline, too_large: _UnusableAnswer) -> Iterator[bytes]:
        """Yield pieces until they are too many or too late; both what arrives and what it unpacks to are bounded."""
        size_bytes = 0
        for piece in pieces:
            size_bytes += len(piece)
            if size_bytes > self._max_body_bytes:
                raise too_large
            if deadline.has_passed:
                raise TimeoutError
            yield piece

    def _timeout_for(self, request: Request) -> float:
        upload_bytes = 0 if request.upload is None else len(request.upload[1])
        return self._timeout_s + upload_bytes / UPLOAD_BYTES_PER_S

    def _record_connection(self, event: str, info: Mapping[str, Any]) -> None:
        """Record the socket of a connection that httpcore opened, so that another thread can shut it down."""
        if event.endswith(_CONNECTED):
            opened = info["return_value"].get_extra_info("socket")
            open_sockets = [known for known in self._sockets if known.fileno() != -1]
            self._sockets = [*open_sockets, opened] if isinstance(opened, socket.socket) else open_sockets

    def _shut_down_connections(self) -> None:
        """Wake the thread that waits for a byte: a timeout for each read does not bound all reads together."""
        for known in self._sockets:
            with suppress(OSError):
                socket.socket.shutdown(known, socket.SHUT_RDWR)


class _Deadline:
    """Calls `on_passed` from a thread of its own if the block takes longer than `seconds`."""

    def __init__(self, seconds: float, on_passed: Callable[[], None]) -> None:
        self.seconds = seconds
        self.has_passed = False
        self._on_passed = on_passed
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()  # so that a late call cannot hit the next request

    def _pass(self) -> None:
        self.has_passed = True
        self._on_passed()


def _refuse_redirect(response: httpx.Response) -> None:
    """Refuse a redirect: a key must not follow it, and its target is not in the settings."""
    if 300 <= response.status_code < 400:
        target = _origin(response.headers.get("location", "")) or "an unreadable address"
        reason = f"it answers {response.status_code} and sends us to {target}, which is not followed"
        raise _UnusableAnswer("redirect", f"{reason}; correct the address")


def _origin(address: str) -> str:
    """Return the scheme and the host of a URL, or an empty text if it has none."""
    host = _host(address)
    try:
        return f"{urlsplit(address).scheme}://{host}" if host else ""
    except ValueError:
        return ""


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _drop_log_records() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_DROP_ALL)
