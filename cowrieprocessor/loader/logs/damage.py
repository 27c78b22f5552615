"""Whether a file is damaged where a log is known to be damaged, and the digest that says which bytes were refused.

This module imports no database code: the parser process starts often and has to start quickly.
"""

from __future__ import annotations

from hashlib import blake2b, sha256
from typing import Protocol

from cowrieprocessor.db.ingest.damage_kinds import NUL
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import DEAD_LETTER_WHOLE_BYTES, Value

_BLANKS = b" \t\r\n"
_SEPARATORS = b" \t\r\n,[]\0"
_BRACKETS = b" \t\r,[]"
_SAMPLES = 64
_PIECE_BYTES = 1 << 16


class Place(Protocol):
    """A damaged place of a log: its bytes and, of a refused value, their digest."""

    @property
    def kind(self) -> str:
        """What the damage is."""

    @property
    def byte_start(self) -> int:
        """Where it begins, in decompressed bytes."""

    @property
    def byte_end(self) -> int:
        """Where it ends, exclusive."""

    @property
    def digest(self) -> str:
        """The digest of the refused bytes."""


def digest_of_value(value: Value) -> str:
    """Return the digest of a refused value: SHA-256 of all its bytes if it is over 1 MiB, else BLAKE2b-256."""
    return value.digest or digest_of_bytes(value.raw)


def digest_of_bytes(raw: bytes) -> str:
    """Return the BLAKE2b-256 (hex) of the bytes of a value, without the white space and brackets around it."""
    return blake2b(raw.strip(_BLANKS).lstrip(_BRACKETS), digest_size=32).hexdigest()


def holds_damage(stream: LogStream, place: Place) -> bool:
    """Return whether a file holds the same damage at a place, which must not lie before the stream's position."""
    distance = place.byte_start - stream.position
    if distance < 0 or stream.skip(distance) < distance:
        return False
    size = place.byte_end - place.byte_start
    if place.kind == NUL:
        return _is_nul_run(stream, size)
    if size <= DEAD_LETTER_WHOLE_BYTES:
        return digest_of_bytes(stream.read_exactly(size)) == place.digest
    digest = sha256()
    while size > 0 and (piece := stream.read_exactly(min(size, DEAD_LETTER_WHOLE_BYTES))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest() == place.digest


def _is_nul_run(stream: LogStream, size: int) -> bool:
    """Return whether the next bytes are NULs and separators; of a long run, samples from its beginning to its end."""
    step = max(_PIECE_BYTES, size // _SAMPLES)
    for start in range(0, size, step):
        piece = stream.read_exactly(min(_PIECE_BYTES, size - start))
        if b"\0" not in piece or piece.strip(_SEPARATORS):
            return False
        stream.skip(max(0, min(step, size - start) - len(piece)))
    return True
