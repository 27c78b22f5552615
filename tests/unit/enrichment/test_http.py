"""Sending: one request, one answer, bounded in time and size, and no key in any message."""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import json
import logging
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cowrieprocessor import __version__
from cowrieprocessor.enrichment import http
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import Failed, Reply, Request
from cowrieprocessor.errors import ConfigurationError
from tests.stand_ins import behaviours
from tests.stand_ins.server import Answer, Behaviour, Received, StandIn, document
from tests.unit.enrichment.asking import KEY, NOW, FixedClock, assert_printable

GET = "GET"
HEADERS = {"x-apikey": KEY}
PROXY_VARIABLES = [
    name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")
]


class Echo(StandIn):
    """Answers with the path that it received."""

    def answer(self, received: Received) -> Answer:
        return document({"path": received.path}, X_Mixed_Case="Yes")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXY_VARIABLES, "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server on loopback."""
    with Echo() as stand_in:
        yield stand_in


@pytest.fixture
def client() -> Iterator[HttpClient]:
    """A client with a timeout of half a second."""
    with HttpClient(0.5, FixedClock(), max_body_bytes=64 * 1024) as made:
        yield made


def test_an_answer_arrives_whole(echo: Echo, client: HttpClient) -> None:
    """A reply has status, headers by lower-case name, body, and the clock's time of its arrival."""
    reply = client.send(Request(GET, f"{echo.url}/a?b=c", HEADERS))

    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.received_at) == (200, b'{"path": "/a?b=c"}', NOW)
    assert reply.headers["x-mixed-case"] == "Yes"


def test_what_every_request_says(echo: Echo, client: HttpClient) -> None:
    """Every request names the program, asks for no compression, and has the key in its header."""
    client.send(Request(GET, f"{echo.url}/a", HEADERS))

    said = echo.log[0].headers
    assert (said["user-agent"], said["accept-encoding"]) == (f"cowrieprocessor/{__version__}", "identity")
    assert said["x-apikey"] == KEY


def test_forms_documents_and_files_are_sent(echo: Echo, client: HttpClient) -> None:
    """A form is url-encoded, a document is JSON, a file is the multipart field `file`."""
    client.send(Request("POST", f"{echo.url}/form", form={"query": "get_info", "hash": "a&b"}))
    client.send(Request("POST", f"{echo.url}/json", document={"hashes": ["A"]}))
    client.send(Request("POST", f"{echo.url}/file", upload=("n.bin", b"\x00content\r\n")))

    form, sent, file = echo.log
    assert form.form == {"query": "get_info", "hash": "a&b"}
    assert (sent.headers["content-type"], sent.body) == ("application/json", b'{"hashes":["A"]}')
    assert b'name="file"; filename="n.bin"' in file.body
    assert b"\x00content\r\n" in file.body


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (behaviours.SLOW_DRIP, "timeout"),
        (behaviours.DRIPPING_HEADERS, "timeout"),
        (behaviours.HANG, "timeout"),
        (behaviours.HANG_IN_BODY, "timeout"),
        (behaviours.RESET, "connection"),
        (behaviours.RESET_IN_BODY, "connection"),
        (behaviours.CLOSED, "connection"),
        (behaviours.NOT_HTTP, "connection"),
        (behaviours.SHORT, "connection"),
        (behaviours.MANY_HEADERS, "connection"),
        (behaviours.HUGE, "too-large"),
        (behaviours.ENDLESS, "too-large"),
        (behaviours.GZIP_BOMB, "too-large"),
        (behaviours.CUT_GZIP, "bad-body"),
        (behaviours.NOT_GZIP, "bad-body"),
        (behaviours.BROTLI, "bad-body"),
    ],
    ids=str,
)
def test_what_goes_wrong_is_told_apart(behaviour: Behaviour, kind: str, client: HttpClient) -> None:
    """Each kind of error has its name; the request is sent once, and the client can send the next one."""

    class Long(Echo):
        def answer(self, received: Received) -> Answer:
            return document({"filler": "A" * 2000})

    with Long() as stand_in:
        stand_in.fail_next(1, behaviour)
        failed = client.send(Request(GET, f"{stand_in.url}/a", HEADERS))
        after = client.send(Request(GET, f"{stand_in.url}/b", HEADERS))

        assert isinstance(failed, Failed)
        assert kind == failed.kind
        assert_printable(failed.reason)
        assert isinstance(after, Reply)
        assert ["/a", "/b"] == [received.path for received in stand_in.log]


def _bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("header", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", lambda body: gzip.compress(body[:7]) + gzip.compress(body[7:])),
        ("deflate", zlib.compress),
        ("deflate", _bare_deflate),
        ("identity", bytes),
        ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
    ],
)
def test_an_encoded_answer_is_read(header: str, pack: Callable[[bytes], bytes], echo: Echo, client: HttpClient) -> None:
    """An answer that a server or proxy compressed unasked is the answer, whatever format of deflate it chose."""
    echo.fail_next(1, behaviours.encoded(header, pack))
    reply = client.send(Request(GET, f"{echo.url}/a", HEADERS))
    assert isinstance(reply, Reply)
    assert json.loads(reply.body) == {"path": "/a"}


def test_an_encoded_answer_is_bounded_by_what_it_unpacks_to(echo: Echo, client: HttpClient) -> None:
    """A packed answer may unpack to exactly the maximum length, and to no byte more."""
    for size_bytes, is_taken in ((64 * 1024, True), (64 * 1024 + 1, False)):
        echo.fail_next(1, behaviours.encoded("gzip", lambda _, size=size_bytes: gzip.compress(bytes(size))))
        reply = client.send(Request(GET, f"{echo.url}/a", HEADERS))
        assert is_taken == isinstance(reply, Reply)
        assert is_taken or "more than 65,536 bytes" in str(reply)


def test_a_body_of_the_greatest_length_is_taken(echo: Echo) -> None:
    """A body of exactly the maximum length is accepted; a byte more is not."""
    length = len(b'{"path": "/a"}')
    for max_body_bytes, expected in ((length, Reply), (length - 1, Failed)):
        with HttpClient(5, FixedClock(), max_body_bytes) as client:
            assert isinstance(client.send(Request(GET, f"{echo.url}/a")), expected)


def test_a_redirect_is_not_followed(echo: Echo, client: HttpClient) -> None:
    """The key never follows a redirect; of its target only scheme and host are named."""
    with Echo() as other:
        echo.fail_next(1, behaviours.redirect(f"{other.url}/users/{KEY}?k={KEY}"))
        failed = client.send(Request(GET, f"{echo.url}/a", HEADERS))

        assert isinstance(failed, Failed)
        assert failed.kind == "redirect"
        assert "http://127.0.0.1," in failed.reason
        assert_printable(failed.reason)
        assert other.log == []


@pytest.mark.parametrize(
    "location", ["http://[bad", "/elsewhere", "", f"https://{KEY}.example/", "https://host.example:x/"]
)
def test_a_redirect_to_nowhere_is_a_redirect(location: str, echo: Echo, client: HttpClient) -> None:
    """Whatever Location contains, the failure is a redirect, without the key."""
    echo.fail_next(1, behaviours.redirect(location, 307))

    failed = client.send(Request(GET, f"{echo.url}/a", HEADERS))

    assert isinstance(failed, Failed)
    assert failed.kind == "redirect"
    assert_printable(failed.reason)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (Request(GET, "http://127.0.0.1:1/a", HEADERS), "connection"),
        (Request(GET, "http://no-such-host.invalid/a", HEADERS), "connection"),
        (Request(GET, f"nonsense://{KEY}/", HEADERS), "other"),
        (Request(GET, f"http://[{KEY}", HEADERS), "other"),
        (Request(GET, "http://127.0.0.1:1/a", {"x-apikey": f"{KEY}ä\u1234"}), "other"),
        (Request("POST", "http://127.0.0.1:1/a", HEADERS, document=float("nan")), "other"),
    ],
)
def test_what_cannot_be_sent_fails(request_: Request, kind: str, client: HttpClient) -> None:
    """An unreachable host and an invalid request are failures whose reason contains no key."""
    failed = client.send(request_)

    assert isinstance(failed, Failed)
    assert kind == failed.kind
    assert_printable(failed.reason)


def test_a_header_that_cannot_be_sent_fails(echo: Echo, client: HttpClient) -> None:
    """A key of two lines cannot inject a header; neither line appears in the reason."""
    failed = client.send(Request(GET, f"{echo.url}/a", {"x-apikey": f"{KEY}\nX-Other: {KEY}"}))

    assert isinstance(failed, Failed)
    assert failed.kind == "other"
    assert_printable(failed.reason)


def test_no_cookie_is_kept(echo: Echo, client: HttpClient) -> None:
    """A source cannot track the client by cookies."""
    echo.fail_next(1, behaviours.answering("cookie", Answer(200, b"{}", headers={"Set-Cookie": "a=b; Path=/"})))

    for path in ("/a", "/b"):
        client.send(Request(GET, echo.url + path))

    assert [None, None] == [received.headers.get("cookie") for received in echo.log]


# --- keys ---


def raw_server(answer: bytes) -> contextlib.AbstractContextManager[str]:
    """Return a server that answers every request with these bytes."""

    @contextlib.contextmanager
    def serving() -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            stopping = threading.Event()

            def serve() -> None:
                while not stopping.is_set():
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                stopping.set()
                with socket.create_connection(listening.getsockname()[:2]) as last:
                    last.sendall(b"end")
                thread.join()

    return serving()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 %s\r\nContent-Encoding: %s\r\n\r\nx",
        b"HTTP/1.1 302 Found\r\nLocation: https://%s.example/%s\r\n\r\n",
        b"HTTP/9.9 %s %s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n%s %s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %s%s\r\n\r\n",
        b"%s %s\r\n\r\n",
    ],
)
def test_a_key_that_is_echoed_is_not_said(answer: bytes, client: HttpClient) -> None:
    """Whatever a server does with the key, no message contains it."""
    with raw_server(answer % (KEY.encode(), KEY.upper().encode())) as url:
        failed = client.send(Request(GET, f"{url}/users/{KEY}/overall_quotas", HEADERS))

    assert isinstance(failed, Failed)
    assert_printable(failed.reason)


def test_nothing_of_a_request_is_logged(
    echo: Echo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loggers of httpx and httpcore, which log URLs and headers, are silent: both can contain a key."""
    request = Request(GET, f"{echo.url}/users/{KEY}/overall_quotas", HEADERS)
    with caplog.at_level(logging.DEBUG):
        with HttpClient(5, FixedClock()) as client:
            client.send(request)
        assert KEY not in caplog.text
        assert "HTTP Request" not in caplog.text

        for name in http._LOGGERS:
            monkeypatch.setattr(logging.getLogger(name), "filters", [])
        httpx.get(request.url, trust_env=False)
        assert KEY in caplog.text  # without the filters it would be there


def test_no_repr_shows_a_key() -> None:
    """The repr of a request shows neither its URL nor its headers."""
    request = Request(GET, f"https://host.example/{KEY}", HEADERS)

    assert KEY not in repr(request)


# --- proxies and certificates of the environment ---


def test_proxies_of_the_environment_serve_but_not_for_this_machine(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to another machine uses the proxy; one to loopback, where keys may be sent unencrypted, does not."""
    with Echo() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.host)
        with HttpClient(5, FixedClock()) as client:
            client.send(Request(GET, f"{echo.url}/here"))
            client.send(Request(GET, "http://elsewhere.invalid/there"))

        assert ["/here"] == [received.path for received in echo.log]
        assert ["http://elsewhere.invalid/there"] == [received.path for received in proxy.log]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", f"gopher://me:{KEY}@proxy.example"), ("ALL_PROXY", f"socks5://me:{KEY}@proxy.example:1")],
)
def test_a_proxy_that_cannot_be_used_is_said(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variables, and not the password in them."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError, match=variable) as raised:
        HttpClient(5, FixedClock())

    assert KEY not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextlib.contextmanager
def tls_server(certificate: Path, act: Callable[[ssl.SSLSocket, threading.Event], None]) -> Iterator[str]:
    """Serve one TLS connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            raw, _ = listening.accept()
            with raw, contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
                connection.recv(65536)
                act(connection, closing)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://localhost:{listening.getsockname()[1]}"
        finally:
            closing.set()
            thread.join()


def drip(connection: ssl.SSLSocket, closing: threading.Event) -> None:
    """Send headers without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not closing.wait(0.02):
        connection.sendall(b"X-More: to come\r\n")


def hang(connection: ssl.SSLSocket, closing: threading.Event) -> None:
    """Send nothing."""
    closing.wait()


@pytest.mark.parametrize("act", [drip, hang])
def test_an_encrypted_answer_is_bounded_in_time(
    act: Callable[[ssl.SSLSocket, threading.Event], None], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline also bounds TLS connections, including headers that never end."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with tls_server(certificate, act) as url, HttpClient(0.5, FixedClock()) as client:
        failed = client.send(Request(GET, f"{url}/a", HEADERS))

    assert isinstance(failed, Failed)
    assert failed.kind == "timeout"


def test_certificates_are_checked(certificate: Path) -> None:
    """An untrusted certificate is a failure whose reason says so."""
    with tls_server(certificate, hang) as url, HttpClient(5, FixedClock()) as client:
        failed = client.send(Request(GET, f"{url}/a", HEADERS))

    assert isinstance(failed, Failed)
    assert failed.kind == "connection"
    assert "CERTIFICATE_VERIFY_FAILED" in failed.reason
