"""How servers, proxies and networks misbehave, for any service."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.stand_ins.server import HTML_TYPE, Answer, Behaviour, Exchange, answering

HUGE_BYTES = 32 * 1024 * 1024
"""Longer than any answer that a client accepts."""

BOMB_BYTES = 256 * 1024 * 1024
"""The unpacked size of a small compressed answer."""

DRIP_S = 0.02
"""Seconds between two bytes of a slow answer."""


def _drip(exchange: Exchange) -> None:
    """Send the proper answer a byte at a time: each byte arrives in time, the whole answer does not."""
    answer = exchange.proper()
    exchange.send_raw(answer.head + f"Content-Length: {len(answer.body)}\r\n\r\n".encode())
    for place in range(len(answer.body)):
        if exchange.closing.wait(DRIP_S):
            return
        exchange.send_raw(answer.body[place : place + 1])


def _drip_headers(exchange: Exchange) -> None:
    exchange.send_raw(b"HTTP/1.1 200 OK\r\n")
    while not exchange.closing.wait(DRIP_S):
        exchange.send_raw(b"X-More: to come\r\n")


def _hang(exchange: Exchange) -> None:
    exchange.keep_alive = False
    exchange.closing.wait()


def _hang_in_body(exchange: Exchange) -> None:
    answer = exchange.proper()
    exchange.send_raw(answer.head + f"Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body[:10])
    exchange.closing.wait()


def _reset(exchange: Exchange) -> None:
    exchange.keep_alive = False
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(exchange.connection.detach())


def _reset_in_body(exchange: Exchange) -> None:
    answer = exchange.proper()
    exchange.send_raw(answer.head + f"Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body[:10])
    _reset(exchange)


def _close(exchange: Exchange) -> None:
    exchange.keep_alive = False


def _short(exchange: Exchange) -> None:
    """Announce a longer body than is sent."""
    answer = exchange.proper()
    exchange.send_raw(answer.head + f"Content-Length: {len(answer.body) + 100}\r\n\r\n".encode() + answer.body)


def _truncated(exchange: Exchange) -> None:
    """Send half of the document, with a length that fits the half."""
    answer = exchange.proper()
    exchange.send(Answer(answer.status, answer.body[: len(answer.body) // 2], answer.content_type))


def _not_http(exchange: Exchange) -> None:
    exchange.send_raw(b"220 mail.example ESMTP\r\n")


def _huge_pieces() -> Iterator[bytes]:
    yield b'{"data": {"filler": "'
    piece = b"A" * (64 * 1024)
    for _ in range(HUGE_BYTES // len(piece)):
        yield piece
    yield b'"}}'


def _huge(exchange: Exchange) -> None:
    """Send a body that is far too long, its length announced."""
    length = sum(map(len, _huge_pieces()))
    exchange.send_raw(Answer().head + f"Content-Length: {length}\r\n\r\n".encode())
    for piece in _huge_pieces():
        exchange.send_raw(piece)


def _endless(exchange: Exchange) -> None:
    """Send a body that never ends, in chunks, without a length."""
    exchange.send_raw(Answer().head + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"A" * (64 * 1024)
    with contextlib.suppress(OSError):
        while not exchange.closing.is_set():
            exchange.send_raw(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def _many_headers(exchange: Exchange) -> None:
    exchange.send_raw(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(OSError):
        while not exchange.closing.is_set():
            exchange.send_raw(b"X-Filler: " + b"A" * 8000 + b"\r\n")


def _gzip_bomb(exchange: Exchange) -> None:
    """Send few bytes that unpack to very many."""
    # Blocks of a full flush need nothing from before them: a megabyte packed once serves for all, but for the checksum.
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(b'{"data": "') + packer.flush(zlib.Z_FULL_FLUSH)
    megabyte = packer.compress(b"0" * 1024 * 1024) + packer.flush(zlib.Z_FULL_FLUSH)
    body = start + megabyte * (BOMB_BYTES // (1024 * 1024)) + packer.flush()
    exchange.send(Answer(200, body, headers={"Content-Encoding": "gzip"}))


def encoded(header: str, pack: Callable[[bytes], bytes]) -> Behaviour:
    """Return the behaviour that sends the proper answer encoded, against the request's Accept-Encoding."""

    def act(exchange: Exchange) -> None:
        answer = exchange.proper()
        exchange.send(Answer(answer.status, pack(answer.body), answer.content_type, {"Content-Encoding": header}))

    return Behaviour(f"encoded as {header}", act)


def _changed(name: str, change: Callable[[Any], Any]) -> Behaviour:
    """Return the behaviour that sends the proper document, changed."""

    def act(exchange: Exchange) -> None:
        answer = exchange.proper()
        body = json.dumps(change(json.loads(answer.body))).encode()
        exchange.send(Answer(answer.status, body, answer.content_type, answer.headers))

    return Behaviour(name, act)


def html(status: int, title: str) -> Answer:
    """Return the page of a proxy."""
    page = f"<html><head><title>{status} {title}</title></head><body><center><h1>{status} {title}</h1></center></body>"
    return Answer(status, f"{page}</html>\n".encode(), HTML_TYPE)


def redirect(location: str, status: int = 302) -> Behaviour:
    """Return the behaviour that redirects a client."""
    answer = Answer(status, b"", HTML_TYPE, {"Location": location})
    return answering(f"{status} to another place", answer)


def with_retry_after(behaviour_name: str, answer: Answer, retry_after: str) -> Behaviour:
    """Return the behaviour that sends an answer with a Retry-After."""
    headers = {**answer.headers, "Retry-After": retry_after}
    return answering(behaviour_name, Answer(answer.status, answer.body, answer.content_type, headers))


def _every_leaf(value: Any, replacement: Any) -> Any:
    if isinstance(value, dict):
        return {name: _every_leaf(inner, replacement) for name, inner in value.items()}
    if isinstance(value, list):
        return [_every_leaf(inner, replacement) for inner in value]
    return replacement


SLOW_DRIP = Behaviour("slow drip", _drip)
DRIPPING_HEADERS = Behaviour("headers without end, slowly", _drip_headers)
HANG = Behaviour("hang", _hang)
HANG_IN_BODY = Behaviour("hang in the body", _hang_in_body)
RESET = Behaviour("connection reset", _reset)
RESET_IN_BODY = Behaviour("connection reset in the body", _reset_in_body)
CLOSED = Behaviour("connection closed", _close)
NOT_HTTP = Behaviour("not HTTP", _not_http)
HTML_502 = answering("HTML 502", html(502, "Bad Gateway"))
HTML_404 = answering("HTML 404", html(404, "Not Found"))
HTML_403 = answering("HTML 403", html(403, "Forbidden"))
HTML_200 = answering("HTML 200", html(200, "Log in to the hotel's network"))
EMPTY_204 = answering("empty 204", Answer(204))
EMPTY_200 = answering("empty 200", Answer(200))
NOT_TEXT = answering("bytes that are no text", Answer(200, bytes(range(256))))
DEEP = answering("nested 100,000 deep", Answer(200, b'{"data":' * 100_000 + b"1" + b"}" * 100_000))
LONG_NUMBER = answering("a number of 100,000 digits", Answer(200, b'{"data": ' + b"9" * 100_000 + b"}"))
TRUNCATED = Behaviour("truncated JSON", _truncated)
SHORT = Behaviour("shorter than announced", _short)
HUGE = Behaviour("huge body", _huge)
ENDLESS = Behaviour("body without end", _endless)
MANY_HEADERS = Behaviour("headers without end", _many_headers)
GZIP_BOMB = Behaviour("gzip bomb", _gzip_bomb)
ENCODED = encoded("gzip", gzip.compress)
CUT_GZIP = encoded("gzip", lambda body: gzip.compress(body)[:-9])
NOT_GZIP = encoded("gzip", bytes)
BROTLI = encoded("br", bytes)
ALL_NULL = _changed("every value null", lambda document: _every_leaf(document, None))
ALL_NUMBERS = _changed("every value a number", lambda document: _every_leaf(document, 7))
ALL_TEXTS = _changed("every value a text", lambda document: _every_leaf(document, "seven"))
ALL_LISTS = _changed("every value a list", lambda document: _every_leaf(document, [{}]))
A_LIST = _changed("a list instead of an object", lambda document: [document])
A_STRING = _changed("a string instead of an object", lambda document: "data")
A_NULL = _changed("null instead of an object", lambda document: None)
