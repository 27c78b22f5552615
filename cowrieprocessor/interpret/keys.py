"""SSH public keys in text, with the fingerprint by which OpenSSH names them.

Source: RFC 4253, 6.6 (the blob of a key); RFC 8709 (Ed25519); RFC 5656, 3.1 (ECDSA); OpenSSH's PROTOCOL.u2f (`sk-`).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

MAX_COMMENT_CHARS = 256

_KEY = re.compile(
    r"(?<![\w@.-])(ssh-(?:rsa|dss|ed25519|ed448)|ecdsa-sha2-nistp(?:256|384|521)"
    r"|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)[ \t]+([A-Za-z0-9+/]{16,16384}={0,2})(?![\w+/=])"
    r"(?:[ \t]+([^\r\n\"'`;|&<>]{0,1024}))?"
)
_SHORT_NAMES = {"ssh-rsa": "RSA", "ssh-dss": "DSA", "ssh-ed25519": "ED25519", "ssh-ed448": "ED448"}
_FIELDS = {"ssh-rsa": 2, "ssh-dss": 4, "ssh-ed25519": 1, "ssh-ed448": 1}
_CURVE_POINT_BYTES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
_EDWARDS = {"ssh-ed25519": (32, 256), "sk-ssh-ed25519@openssh.com": (32, 256), "ssh-ed448": (57, 456)}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key.

    Attributes:
        key_type: as in the text, such as `ssh-rsa`.
        fingerprint: `SHA256:` and 43 characters, as OpenSSH prints it.
        bits: its length.
        comment: the text after the key, at most MAX_COMMENT_CHARS characters; empty without one.
    """

    key_type: str
    fingerprint: str
    bits: int
    comment: str

    @property
    def short_type(self) -> str:
        """The type as `ssh-keygen -l` prints it, such as RSA or ED25519-SK."""
        if self.key_type in _SHORT_NAMES:
            return _SHORT_NAMES[self.key_type]
        name = "ECDSA" if "ecdsa" in self.key_type else "ED25519"
        return f"{name}-SK" if self.key_type.startswith("sk-") else name


def keys_in(text: str) -> list[PublicKey]:
    """Return the public keys in a text, in order, each once. What is no whole key of its type is none."""
    if "ssh-" not in text and "ecdsa-" not in text:
        return []
    found: dict[str, PublicKey] = {}
    for match in _KEY.finditer(text):
        key = _key(*match.groups())
        if key is not None:
            found.setdefault(key.fingerprint, key)
    return list(found.values())


def _key(key_type: str, encoded: str, comment: str | None) -> PublicKey | None:
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
    fields = _split(blob)
    bits = _bits(key_type, fields[1:]) if fields and fields[0] == key_type.encode() else None
    if bits is None:
        return None
    digest = base64.b64encode(sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(key_type, f"SHA256:{digest}", bits, (comment or "").strip()[:MAX_COMMENT_CHARS])


def _split(blob: bytes) -> list[bytes]:
    """Return the strings that a blob consists of, each after its length in four bytes; none if it does not add up."""
    fields: list[bytes] = []
    position = 0
    while position < len(blob) and len(fields) < 6:
        end = position + 4 + int.from_bytes(blob[position : position + 4], "big")
        if position + 4 > len(blob) or end > len(blob):
            return []
        fields.append(blob[position + 4 : end])
        position = end
    return fields if position == len(blob) else []


def _bits(key_type: str, fields: list[bytes]) -> int | None:
    """Return the length of a key from the fields after its type; None if they are not those of its type."""
    is_security_key = key_type.startswith("sk-")
    if is_security_key:
        fields = fields[:-1] if len(fields) > 1 and fields[-1] else []
    if key_type in _EDWARDS:
        size_bytes, bits = _EDWARDS[key_type]
        return bits if len(fields) == 1 and len(fields[0]) == size_bytes else None
    if "ecdsa" in key_type:
        curve = "nistp" + key_type.partition("nistp")[2][:3]
        point_bytes = _CURVE_POINT_BYTES[curve]
        is_right = len(fields) == 2 and fields[0] == curve.encode() and len(fields[1]) == point_bytes
        return int(curve.removeprefix("nistp")) if is_right and fields[1][:1] == b"\x04" else None
    if len(fields) != _FIELDS[key_type]:
        return None
    number = fields[1] if key_type == "ssh-rsa" else fields[0]
    return int.from_bytes(number, "big").bit_length() or None
