"""A stand-in for URLhaus' API: payloads by hash, and addresses that malware was served from."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from tests.stand_ins.clock import Timepiece
from tests.stand_ins.malwarebazaar import AUTH_KEY, AbuseCh, fields, status
from tests.stand_ins.server import Answer, Received, document

_FORM = "%Y-%m-%d %H:%M:%S"
_SEEN = dt.datetime(2025, 11, 4, 6, 7, 8, tzinfo=dt.UTC)


def payload(
    sha256: str,
    *,
    signature: str | None = "Mirai",
    detected: int | None = 38,
    engines: int = 64,
    first_seen: dt.datetime = _SEEN,
    last_seen: dt.datetime | None = None,
) -> dict[str, Any]:
    """Return the entry of /payload/ about a file.

    Args:
        sha256: of the file.
        signature: the family, if URLhaus knows one.
        detected: how many of VirusTotal's engines detect it; None if URLhaus has no figures.
        engines: how many engines there are.
        first_seen: when it was first served.
        last_seen: when it last was.
    """
    digest = sha256.encode()
    virustotal = None
    if detected is not None:
        virustotal = {
            "result": f"{detected} / {engines}",
            "percent": f"{100 * detected / engines:.2f}",
            "link": f"https://www.virustotal.com/gui/file/{sha256}/detection",
        }
    return {
        "query_status": "ok",
        "md5_hash": hashlib.md5(digest, usedforsecurity=False).hexdigest(),
        "sha256_hash": sha256,
        "file_type": "elf",
        "file_size": "95268",
        "signature": signature,
        "firstseen": first_seen.strftime(_FORM),
        "lastseen": None if last_seen is None else last_seen.strftime(_FORM),
        "url_count": "1",
        "urlhaus_download": "https://urlhaus-api.abuse.ch/v1/download/" + sha256 + "/",
        "virustotal": virustotal,
        "imphash": None,
        "ssdeep": "1536:nV7tDkn5wXvHzLkq8Fxr:nRtDk5wfHzLL8v",
        "tlsh": "T1" + hashlib.sha512(digest).hexdigest()[:70].upper(),
        "magika": "elf",
        "urls": [
            {
                "url_id": "3456789",
                "url": "http://192.0.2.7/bot.arm7",
                "url_status": "online",
                "urlhaus_reference": "https://urlhaus.abuse.ch/url/3456789/",
                "filename": "bot.arm7",
                "firstseen": first_seen.strftime("%Y-%m-%d"),
                "lastseen": None,
            }
        ],
    }


def address(
    url: str,
    *,
    threat: str | None = "malware_download",
    tags: tuple[str, ...] | None = ("elf", "mirai"),
    online: bool = True,
    payloads: tuple[str, ...] = (),
    added_at: dt.datetime = _SEEN,
) -> dict[str, Any]:
    """Return the entry of /url/ about a URL; `payloads` are the SHA-256 of the files that it served."""
    return {
        "query_status": "ok",
        "id": "3456789",
        "urlhaus_reference": "https://urlhaus.abuse.ch/url/3456789/",
        "url": url,
        "url_status": "online" if online else "offline",
        "host": re.sub(r"^\w+://([^/:]+).*", r"\1", url, flags=re.DOTALL),
        "date_added": added_at.strftime(f"{_FORM} UTC"),
        "last_online": added_at.strftime(f"{_FORM} UTC") if online else None,
        "threat": threat,
        "blacklists": {"spamhaus_dbl": "not listed", "surbl": "not listed"},
        "reporter": "a reporter",
        "larted": "true",
        "takedown_time_in_seconds": None,
        "tags": None if tags is None else list(tags),
        "payloads": [
            {
                "firstseen": added_at.strftime("%Y-%m-%d"),
                "filename": "bot.arm7",
                "file_type": "elf",
                "response_size": "95268",
                "response_md5": hashlib.md5(sha256.encode(), usedforsecurity=False).hexdigest(),
                "response_sha256": sha256,
                "urlhaus_download": f"https://urlhaus-api.abuse.ch/v1/download/{sha256}/",
                "signature": "Mirai",
                "virustotal": None,
            }
            for sha256 in payloads
        ],
    }


class Urlhaus(AbuseCh):
    """URLhaus: POST /payload/ and /url/.

    Attributes:
        files: payloads by sha256.
        addresses: entries by URL, as it was written.
    """

    base_path = "/v1"

    def __init__(self, clock: Timepiece | None = None, *, auth_keys: tuple[str, ...] = (AUTH_KEY,)) -> None:
        super().__init__(clock, auth_keys=auth_keys)
        self.files: dict[str, dict[str, Any]] = {}
        self.addresses: dict[str, dict[str, Any]] = {}

    def add(self, sha256: str, **how: Any) -> dict[str, Any]:
        """Add a file, with a payload as `payload` makes it."""
        self.files[sha256] = payload(sha256, **how)
        return self.files[sha256]

    def add_address(self, url: str, **how: Any) -> dict[str, Any]:
        """Add a URL, with an entry as `address` makes it."""
        self.addresses[url] = address(url, **how)
        return self.addresses[url]

    def subject(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> str:
        """Return the SHA-256 or the URL that is asked about."""
        form = fields(body)
        if "md5_hash" in form:
            md5 = form["md5_hash"].lower()
            return next((sha256 for sha256, known in self.files.items() if known["md5_hash"] == md5), md5)
        return form.get("sha256_hash", "").lower() or form.get("url") or path

    def answer(self, received: Received) -> Answer:
        """Return the proper answer."""
        form = received.form
        match received.path.removeprefix(self.base_path).strip("/"):
            case "payload":
                return self._payload(received.subject, form)
            case "url":
                if not re.match(r"(https?|ftp)://[^/\s]+", form.get("url", "")):
                    return status("invalid_url")
                known = self.addresses.get(form["url"])
                return status("no_results") if known is None else document(known)
        return Answer(404, b"<html>no such page</html>", "text/html")

    def _payload(self, sha256: str, form: Mapping[str, str]) -> Answer:
        for name, length in (("sha256_hash", 64), ("md5_hash", 32)):
            if name in form and not re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", form[name]):
                return status(f"invalid_{name.removesuffix('_hash')}")
        known = self.files.get(sha256)
        return status("no_results") if known is None else document(known)
