"""A stand-in for CIRCL hashlookup: single hashes, and many md5 or sha1 at once; no key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from tests.stand_ins.clock import Timepiece
from tests.stand_ins.server import Answer, Received, StandIn, document

NAMES = {"md5": "MD5", "sha1": "SHA-1", "sha256": "SHA-256"}
LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64}


def entry(
    sha256: str,
    *,
    md5: str | None = None,
    trust: int | None = 100,
    source: str = "NSRL",
    malicious: str | None = None,
    name: str = "/bin/busybox",
) -> dict[str, Any]:
    """Return the entry of a file.

    Args:
        sha256: of the file.
        md5: of the file; derived from the SHA-256 by default.
        trust: 0 to 100, with 50 for no opinion; None for an entry without a trust.
        source: the collection that contains it.
        malicious: the collection that calls it malicious, if any.
        name: its file name.
    """
    digest = sha256.encode()
    known: dict[str, Any] = {
        "FileName": name,
        "FileSize": "1131168",
        "MD5": (md5 or hashlib.md5(digest, usedforsecurity=False).hexdigest()).upper(),
        "SHA-1": hashlib.sha1(digest, usedforsecurity=False).hexdigest().upper(),
        "SHA-256": sha256.upper(),
        "SSDEEP": "24576:q9oTVQ8vZ6dG0n:q9oO8x6",
        "TLSH": "T1" + hashlib.sha512(digest).hexdigest()[:70].upper(),
        "source": source,
        "db": "nsrl_modern_rds" if source == "NSRL" else "snap",
        "insert-timestamp": "1772182800.25",
        "mimetype": "application/x-executable",
        "parents": [
            {
                "SHA-1": hashlib.sha1(digest + b"parent", usedforsecurity=False).hexdigest().upper(),
                "PackageName": "busybox",
                "PackageVersion": "1:1.30.1-4",
            }
        ],
    }
    if trust is not None:
        known["hashlookup:trust"] = trust
    if malicious is not None:
        known["KnownMalicious"] = malicious
    return known


class Hashlookup(StandIn):
    """CIRCL hashlookup.

    Attributes:
        files: entries by sha256.
    """

    def __init__(self, clock: Timepiece | None = None) -> None:
        super().__init__(clock)
        self.files: dict[str, dict[str, Any]] = {}

    def add(self, sha256: str, **how: Any) -> dict[str, Any]:
        """Add a file, with an entry as `entry` makes it."""
        self.files[sha256] = entry(sha256, **how)
        return self.files[sha256]

    def subject(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> str:
        """Return the hash that is asked about, or `bulk`."""
        parts = path.split("?")[0].strip("/").split("/")
        if parts[0] == "bulk":
            return "bulk"
        return parts[2].lower() if len(parts) == 3 and parts[0] == "lookup" else path

    def bulk_hashes(self) -> list[list[str]]:
        """Return the hashes of each bulk request, in lower case."""
        with self._lock:
            bodies = [received.body for received in self.log if received.subject == "bulk"]
        return [[value.lower() for value in json.loads(body)["hashes"]] for body in bodies]

    def answer(self, received: Received) -> Answer:
        """Return the proper answer."""
        parts = received.path.split("?")[0].strip("/").split("/")
        match received.method, parts:
            case "GET", ["lookup", kind, value] if kind in NAMES:
                if not re.fullmatch(rf"[0-9a-fA-F]{{{LENGTHS[kind]}}}", value):
                    name = kind.upper()
                    return document({"message": f"{name} value incorrect, expecting a {name} value in hex format"}, 400)
                known = self._known(kind, value)
                if known is None:
                    return document({"message": "Non existing " + NAMES[kind], "query": value}, 404)
                return document(known)
            case "POST", ["bulk", "md5" | "sha1" as kind]:
                return self._bulk(kind, received.body)
        return document({"message": "The requested URL was not found on the server."}, 404)

    def _known(self, kind: str, value: str) -> dict[str, Any] | None:
        return next((known for known in self.files.values() if known.get(NAMES[kind]) == value.upper()), None)

    def _bulk(self, kind: str, body: bytes) -> Answer:
        """Return the known files in the order of the request; unknown ones are left out.

        Like the service, without what it computes for single hashes only: the trust and the parents.

        Source: the service's published code, and answers that its users have published.
        """
        try:
            hashes = json.loads(body)["hashes"]
        except (ValueError, KeyError, TypeError):
            return document({"message": "JSON format incorrect. An array of hashes in hex format is expected."}, 404)
        known = [self._known(kind, value) for value in hashes if isinstance(value, str)]
        left_out = ("hashlookup:trust", "parents")
        return document(
            [{name: value for name, value in found.items() if name not in left_out} for found in known if found]
        )
