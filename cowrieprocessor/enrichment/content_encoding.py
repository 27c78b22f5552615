"""Content-Encoding: answers that a server or a proxy compressed although nobody asked for it, read with a bound."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

DECODED = ("gzip", "x-gzip", "deflate")
"""The encodings that are read. Source: RFC 9110, section 8.4.1."""

_WINDOW_GZIP_OR_ZLIB = 47
_WINDOW_RAW = -15
_DECODED_AT_ONCE = 64 * 1024
_ZLIB_METHOD = 8


class BadEncoding(ValueError):
    """The content is not what its Content-Encoding says, or the encoding is none of DECODED."""


def encodings_of(header: str) -> list[str]:
    """Return the encodings of an answer in the order in which they were applied, without `identity`.

    Args:
        header: the value of Content-Encoding; empty if the answer has none.

    Raises:
        BadEncoding: one of them is none of DECODED; the message names it.
    """
    names = [name for name in (part.strip().lower() for part in header.split(",")) if name not in ("", "identity")]
    for name in names:
        if name not in DECODED:
            raise BadEncoding(f"the answer is encoded as {name}, which cannot be read and was not asked for")
    return names


def decoded(pieces: Iterable[bytes], header: str) -> Iterator[bytes]:
    """Yield content without its Content-Encoding, in pieces of at most 64 KiB.

    Args:
        pieces: the content as it arrives.
        header: the value of Content-Encoding; empty if the answer has none.

    Raises:
        BadEncoding: the content is damaged, ends early, or has an encoding that is not read.
    """
    stream = iter(pieces)
    for name in reversed(encodings_of(header)):
        stream = _inflated(stream, _deflate_window if name == "deflate" else _gzip_window)
    return stream


def _inflated(pieces: Iterator[bytes], window_of: Callable[[bytes], int]) -> Iterator[bytes]:
    """Yield the content of compressed members, one after the other; nothing where there is no byte at all."""
    member = None
    for piece in pieces:
        rest = piece
        while rest:
            if member is None or member.eof:
                member = zlib.decompressobj(window_of(rest))
            try:
                content = member.decompress(rest, _DECODED_AT_ONCE)
            except zlib.error:
                raise BadEncoding("the answer is not what its Content-Encoding says") from None
            rest = member.unused_data if member.eof else member.unconsumed_tail
            if content:
                yield content
    while member is not None and not member.eof:
        content = member.decompress(member.unconsumed_tail, _DECODED_AT_ONCE)
        if not content:
            raise BadEncoding("the compressed answer ends early")
        yield content


def _gzip_window(_start: bytes) -> int:
    return _WINDOW_GZIP_OR_ZLIB


def _deflate_window(start: bytes) -> int:
    """Return the window of `deflate`: zlib's format, or, as some servers send it, the bare stream."""
    has_header = start[0] & 0x0F == _ZLIB_METHOD and (len(start) < 2 or int.from_bytes(start[:2], "big") % 31 == 0)
    return _WINDOW_GZIP_OR_ZLIB if has_header else _WINDOW_RAW
