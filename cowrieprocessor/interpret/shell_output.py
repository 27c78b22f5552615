r"""What a command prints when that is certain without running it: `echo`, `printf`, `base64 -d` and the like."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Callable, Sequence

MAX_PRINTED_BYTES = 65_536

_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|0?([0-7]{1,3})|([abeEfnrtv\\'\"?]))"
)
_PLAIN = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ECHO_OPTION = re.compile(r"-[neE]+")
_DIRECTIVE = re.compile(r"%(?:(%)|[-+ #0]*\d{0,3}(?:\.\d{0,3})?([sbdiuxXoc]))")
_MAX_CODE_POINT = 0x10FFFF


def decode_escapes(text: str) -> bytes:
    r"""Return a text with `\x41`, `\101`, `\u0041`, `\n` and the like decoded, as `echo -e`, `printf` and `$'…'` do."""
    parts: list[bytes] = []
    position = 0
    for match in _ESCAPE.finditer(text):
        parts.append(_encode(text[position : match.start()]))
        parts.append(_decoded(match))
        position = match.end()
    parts.append(_encode(text[position:]))
    return b"".join(parts)


def _decoded(match: re.Match[str]) -> bytes:
    byte, short, long, octal, plain = match.groups()
    if byte or octal:
        return bytes([(int(byte, 16) if byte else int(octal, 8)) & 0xFF])
    if plain:
        return _encode(_PLAIN.get(plain, plain))
    code = int(short or long, 16)
    return _encode(chr(code) if code <= _MAX_CODE_POINT else "\ufffd")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def printed(name: str, arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    """Return what a command prints, at most MAX_PRINTED_BYTES; None where that is not certain.

    Args:
        name: the program's name without its folder.
        arguments: its arguments, expanded.
        stdin: what it reads; None if that is not known.
    """
    function = _PROGRAMS.get(name)
    output = None if function is None else function(arguments, stdin)
    return None if output is None else output[:MAX_PRINTED_BYTES]


def _echo(arguments: Sequence[str], _: bytes | None) -> bytes:
    words = list(arguments)
    options = ""
    while words and _ECHO_OPTION.fullmatch(words[0]):
        options += words.pop(0)
    text = " ".join(words)
    return (decode_escapes(text) if "e" in options else _encode(text)) + (b"" if "n" in options else b"\n")


def _printf(arguments: Sequence[str], _: bytes | None) -> bytes | None:
    words = [word for word in arguments[:1] if word != "--"] + list(arguments[1:])
    if not words:
        return None
    template, *values = words
    parts: list[bytes] = []
    size = 0
    while size <= MAX_PRINTED_BYTES:
        before = len(values)
        part = _filled(template, values)
        parts.append(part)
        size += len(part)
        if not values or len(values) == before:
            break
    return b"".join(parts)


def _filled(template: str, values: list[str]) -> bytes:
    """Return printf's template once, with as many values as it takes; these are removed."""
    parts: list[bytes] = []
    position = 0
    for match in _DIRECTIVE.finditer(template):
        parts.append(decode_escapes(template[position : match.start()]))
        position = match.end()
        if match[1]:
            parts.append(b"%")
        else:
            value = values.pop(0) if values else ""
            parts.append(decode_escapes(value) if match[2] == "b" else _encode(value))
    parts.append(decode_escapes(template[position:]))
    return b"".join(parts)


def _base64(arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    options = {word for word in arguments if word.startswith("-")}
    if stdin is None or not options & {"-d", "--decode", "-D", "-di", "-id"} or len(arguments) > len(options):
        return None
    text = re.sub(rb"[^A-Za-z0-9+/]", b"", stdin)
    try:
        return base64.b64decode(text[: len(text) - (len(text) % 4 == 1)] + b"=" * (-len(text) % 4))
    except binascii.Error:
        return None


def _openssl(arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    is_base64 = {"base64", "-base64", "-a"} & set(arguments)
    return _base64(["-d"], stdin) if is_base64 and "-d" in arguments else None


def _xxd(arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    options = "".join(word[1:] for word in arguments if word.startswith("-"))
    if stdin is None or not {"r", "p"} <= set(options):
        return None
    digits = re.sub(rb"\s", b"", stdin)
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return None


def _cat(arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    return stdin if set(arguments) <= {"-", "/dev/stdin"} else None


def _tee(_: Sequence[str], stdin: bytes | None) -> bytes | None:
    return stdin


def _rev(arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    if arguments or stdin is None:
        return None
    return b"\n".join(line[::-1] for line in stdin.split(b"\n"))


def _gunzip(arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    if stdin is None or any(not word.startswith("-") for word in arguments):
        return None
    try:
        return zlib.decompressobj(wbits=31).decompress(stdin, MAX_PRINTED_BYTES)
    except zlib.error:
        return None


def _gzip(arguments: Sequence[str], stdin: bytes | None) -> bytes | None:
    options = "".join(word for word in arguments if word.startswith("-"))
    return _gunzip(arguments, stdin) if "d" in options else None


_PROGRAMS: dict[str, Callable[[Sequence[str], bytes | None], bytes | None]] = {
    "echo": _echo,
    "printf": _printf,
    "base64": _base64,
    "openssl": _openssl,
    "xxd": _xxd,
    "cat": _cat,
    "tee": _tee,
    "rev": _rev,
    "gunzip": _gunzip,
    "zcat": _gunzip,
    "gzip": _gzip,
}
