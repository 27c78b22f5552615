"""A stand-in for VirusTotal's API v3: its responses, errors and limits, by a clock that the test controls.

It shows that a client keeps the limits and understands responses as documented, not what VirusTotal really does.
"""

from __future__ import annotations

import bisect
import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Literal

from tests.stand_ins.behaviours import with_retry_after
from tests.stand_ins.clock import Timepiece
from tests.stand_ins.server import Answer, Behaviour, Received, StandIn, answering, document

KEY = hashlib.sha256(b"the key of the tests").hexdigest()
USER = "tester"
WINDOW = dt.timedelta(seconds=60)
_HASH = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}")
_ENGINES = ("ClamAV", "Kaspersky", "Microsoft", "Sophos", "ESET-NOD32", "BitDefender", "Avast", "Fortinet", "Ikarus")


@dataclass(frozen=True)
class KeyLimits:
    """The limits of a key; None for no limit."""

    per_minute: int | None = 4
    per_day: int | None = 500
    per_month: int | None = 15_500

    @property
    def per_hour(self) -> int | None:
        """The hourly limit in the quotas."""
        return None if self.per_minute is None else self.per_minute * 60


@dataclass(frozen=True)
class Violation:
    """A request over a limit."""

    window: Literal["minute", "day", "month"]
    at: dt.datetime
    count: int


def report(
    sha256: str,
    *,
    malicious: int = 0,
    total: int = 70,
    suspicious: int = 0,
    label: str | None = "trojan.mirai/gafgyt",
    family: str | None = "mirai",
    names: tuple[str, ...] = ("bot.arm7",),
    analysed_at: dt.datetime | None = dt.datetime(2026, 2, 27, 9, 30, tzinfo=dt.UTC),
    first_seen: dt.datetime = dt.datetime(2025, 11, 3, 4, 5, 6, tzinfo=dt.UTC),
) -> dict[str, Any]:
    """Return the attributes of a file report.

    Args:
        sha256: of the file; its md5 and sha1 are made up from it.
        malicious: how many engines say malicious.
        total: engines that gave a result: malicious, suspicious, undetected and harmless.
        suspicious: how many engines say suspicious.
        label: the suggested threat label, given when any engine says malicious.
        family: the first popular threat name, likewise.
        names: file names that uploaders gave it.
        analysed_at: the last analysis, or None for a file that has none yet.
        first_seen: the first submission.
    """
    digest = sha256.encode()
    attributes: dict[str, Any] = {
        "md5": hashlib.md5(digest, usedforsecurity=False).hexdigest(),
        "sha1": hashlib.sha1(digest, usedforsecurity=False).hexdigest(),
        "sha256": sha256,
        "size": 95_268,
        "type_description": "ELF",
        "type_tag": "elf",
        "type_tags": ["executable", "linux", "elf"],
        "type_extension": "so",
        "magic": "ELF 32-bit LSB executable, ARM, EABI4 version 1 (SYSV), statically linked, stripped",
        "magika": "ELF",
        "trid": [{"file_type": "ELF Executable and Linkable format (generic)", "probability": 100.0}],
        "ssdeep": "1536:nV7tDkn5wXvHzLkq8Fxr:nRtDk5wfHzLL8v",
        "tlsh": "T1" + hashlib.sha512(digest).hexdigest()[:70].upper(),
        "vhash": hashlib.md5(digest + b"v", usedforsecurity=False).hexdigest(),
        "names": list(names),
        "first_submission_date": int(first_seen.timestamp()),
        "last_submission_date": int(first_seen.timestamp()) + 86_400,
        "last_modification_date": int(first_seen.timestamp()) + 172_800,
        "times_submitted": 7,
        "unique_sources": 5,
        "reputation": -11,
        "total_votes": {"harmless": 0, "malicious": 1},
        "tags": ["elf", "upx"],
        "sandbox_verdicts": {},
        "downloadable": True,
    }
    if names:
        attributes["meaningful_name"] = names[0]
    if analysed_at is None:
        return attributes
    attributes["last_analysis_date"] = int(analysed_at.timestamp())
    attributes["last_analysis_stats"] = {
        "malicious": malicious,
        "suspicious": suspicious,
        "undetected": total - malicious - suspicious,
        "harmless": 0,
        "timeout": 1,
        "confirmed-timeout": 0,
        "failure": 0,
        "type-unsupported": 5,
    }
    attributes["last_analysis_results"] = _results(malicious, suspicious, total, label)
    if malicious and (label or family):
        attributes["popular_threat_classification"] = {
            **({"suggested_threat_label": label} if label else {}),
            "popular_threat_category": [{"value": "trojan", "count": malicious}],
            **({"popular_threat_name": [{"value": family, "count": max(1, malicious - 1)}]} if family else {}),
        }
        attributes["sandbox_verdicts"] = {
            "Zenbox Linux": {
                "category": "malicious",
                "confidence": 88,
                "sandbox_name": "Zenbox Linux",
                "malware_classification": ["MALWARE", "TROJAN"],
                "malware_names": [family or "unknown"],
            }
        }
    return attributes


def _results(malicious: int, suspicious: int, total: int, label: str | None) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for number in range(total + 6):
        engine = _ENGINES[number] if number < len(_ENGINES) else f"Engine{number}"
        if number < malicious:
            category, result = "malicious", f"Linux.{label or 'Generic'}"
        elif number < malicious + suspicious:
            category, result = "suspicious", "Heuristic"
        elif number < total:
            category, result = "undetected", None
        else:
            category, result = ("timeout" if number == total else "type-unsupported"), None
        results[engine] = {
            "method": "blacklist",
            "engine_name": engine,
            "engine_version": "1.0.0.1" if number % 7 else None,
            "engine_update": "20260227" if number % 5 else None,
            "category": category,
            "result": result,
        }
    return results


def error(status: int, code: str, message: str = "as asked for by the test") -> Answer:
    """Return an error in VirusTotal's format."""
    return document({"error": {"code": code, "message": message}}, status)


_TABLE = (
    (400, "BadRequestError"),
    (400, "InvalidArgumentError"),
    (400, "UnselectiveContentQueryError"),
    (400, "UnsupportedContentQueryError"),
    (400, "NotAvailableYet"),
    (401, "AuthenticationRequiredError"),
    (401, "UserNotActiveError"),
    (401, "WrongCredentialsError"),
    (403, "ForbiddenError"),
    (404, "NotFoundError"),
    (409, "AlreadyExistsError"),
    (424, "FailedDependencyError"),
    (429, "QuotaExceededError"),
    (429, "TooManyRequestsError"),
    (503, "TransientError"),
    (504, "DeadlineExceededError"),
)
ERRORS: Mapping[str, Behaviour] = {code: answering(f"{status} {code}", error(status, code)) for status, code in _TABLE}
"""Every row of VirusTotal's table of errors, by code. Source: docs.virustotal.com/reference/errors."""

STATUS: Mapping[str, int] = {code: status for status, code in _TABLE}


def limited(retry_after: str, code: str = "QuotaExceededError") -> Behaviour:
    """Return the behaviour of a 429 with Retry-After."""
    return with_retry_after(f"429 {code}, Retry-After: {retry_after}", error(429, code), retry_after)


class VirusTotal(StandIn):
    """VirusTotal: GET /files/{hash}, uploads, quotas; every request to any path counts.

    A request exceeds the minute limit if more than that many requests fall into the 60 s that end with it: a sliding
    window, not the minutes of the clock.

    Attributes:
        files: attributes by sha256.
        keys: the limits of each key.
        users: the key of each user, for their quotas.
        violations: requests over a limit; each was answered with a 429, and a good client never causes one.
        uploads: names and contents that were uploaded.
        quotas_as: the level of the figures in overall_quotas; `none`: the figures are null.
    """

    base_path = "/api/v3"

    def __init__(
        self,
        clock: Timepiece | None = None,
        *,
        limits: KeyLimits | None = None,
        keys: Mapping[str, KeyLimits] | None = None,
    ) -> None:
        super().__init__(clock)
        self.files: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, KeyLimits] = dict(keys) if keys is not None else {KEY: limits or KeyLimits()}
        self.users: dict[str, str] = {USER: next(iter(self.keys), KEY)}
        self.violations: list[Violation] = []
        self.uploads: list[tuple[str, bytes]] = []
        self.quotas_as: Literal["user", "group", "both", "none"] = "user"
        self._sent: dict[str, list[dt.datetime]] = {key: [] for key in self.keys}

    def add(self, sha256: str, **how: Any) -> dict[str, Any]:
        """Add a file, with a report as `report` makes it."""
        self.files[sha256] = report(sha256, **how)
        return self.files[sha256]

    def canonical(self, subject: str) -> str:
        """Return the sha256 of a file that is asked for by another hash."""
        subject = subject.lower() if _HASH.fullmatch(subject.lower()) else subject
        if len(subject) in (32, 40):
            name = "md5" if len(subject) == 32 else "sha1"
            return next((sha256 for sha256, known in self.files.items() if known.get(name) == subject), subject)
        return subject

    def subject(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> str:
        """Return the hash, `overall_quotas`, `upload`, or the path below the base."""
        parts = path.removeprefix(self.base_path).split("?")[0].strip("/").split("/")
        if len(parts) == 2 and parts[0] == "files" and _HASH.fullmatch(parts[1].lower()):
            return self.canonical(parts[1])
        if parts[-1] in ("overall_quotas", "upload_url"):
            return parts[-1]
        if method == "POST" and parts[0] in ("files", "big_upload"):
            return "upload"
        return "/" + "/".join(parts)

    def used(self, key: str, window: Literal["hour", "day", "month"]) -> int:
        """Return how many requests a key has sent in the current hour, day or month (UTC)."""
        now = self.clock.now()
        start = now.replace(minute=0, second=0, microsecond=0)
        if window != "hour":
            start = start.replace(hour=0, day=start.day if window == "day" else 1)
        return len(self._sent[key]) - bisect.bisect_left(self._sent[key], start)

    def before(self, received: Received) -> Answer | None:
        """Refuse a wrong key; count the request, and refuse it if it exceeds a limit."""
        key = received.headers.get("x-apikey")
        if key is None:
            return error(401, "AuthenticationRequiredError", "X-Apikey header is missing")
        if key not in self.keys:
            return error(401, "WrongCredentialsError", "Wrong API key")
        sent, limits = self._sent.setdefault(key, []), self.keys[key]
        bisect.insort(sent, received.at)
        in_window = len(sent) - bisect.bisect_right(sent, received.at - WINDOW)
        counts: tuple[tuple[Literal["minute", "day", "month"], int, int | None], ...] = (
            ("minute", in_window, limits.per_minute),
            ("day", self.used(key, "day"), limits.per_day),
            ("month", self.used(key, "month"), limits.per_month),
        )
        over = [
            Violation(window, received.at, count)
            for window, count, allowed in counts
            if allowed is not None and count > allowed
        ]
        self.violations += over
        return error(429, "QuotaExceededError", "Quota exceeded") if over else None

    def answer(self, received: Received) -> Answer:
        """Return the proper answer."""
        path = received.path.removeprefix(self.base_path).split("?")[0]
        match received.method, path.strip("/").split("/"):
            case "GET", ["files", "upload_url"]:
                return document({"data": f"{self.url}/big_upload/one-time"})
            case "GET", ["files", hash_]:
                return self._file(hash_)
            case "POST", ["files"] | ["big_upload", _]:
                return self._upload(received)
            case "GET", ["users", user, "overall_quotas"]:
                return self._quotas(user, received.headers["x-apikey"])
        return error(404, "NotFoundError", "Resource not found.")

    def _file(self, hash_: str) -> Answer:
        sha256 = self.canonical(hash_)
        if sha256 not in self.files:
            return error(404, "NotFoundError", f'File "{hash_}" not found')
        link = {"self": f"{self.url}/files/{sha256}"}
        return document({"data": {"id": sha256, "type": "file", "links": link, "attributes": self.files[sha256]}})

    def _upload(self, received: Received) -> Answer:
        head = f"Content-Type: {received.headers.get('content-type', '')}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + received.body)
        for part in message.iter_parts() if message.is_multipart() else ():
            if part.get_param("name", header="content-disposition") == "file":
                content = part.get_payload(decode=True)
                assert isinstance(content, bytes)
                self.uploads.append((part.get_filename() or "", content))
                analysis = f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}:{int(received.at.timestamp())}"
                link = {"self": f"{self.url}/analyses/{analysis}"}
                return document({"data": {"type": "analysis", "id": analysis, "links": link}})
        return error(400, "BadRequestError", "File is missing")

    def _quotas(self, user: str, asking: str) -> Answer:
        key = self.users.get(user, user)
        if key not in self.keys:
            return error(404, "NotFoundError", f'User "{user}" not found')
        if key != asking:
            return error(403, "ForbiddenError", "You are not authorized to perform the requested operation")
        limits = self.keys[key]
        figures = {
            "hourly": (limits.per_hour, self.used(key, "hour")),
            "daily": (limits.per_day, self.used(key, "day")),
            "monthly": (limits.per_month, self.used(key, "month")),
        }
        data: dict[str, Any] = {"intelligence_searches_monthly": {"user": {"allowed": 0, "used": 0}}}
        for name, (allowed, used) in figures.items():
            own = {"allowed": allowed if allowed is not None else 1_000_000_000, "used": used}
            group = {**own, "inherited_from": "a_group"}
            data[f"api_requests_{name}"] = {
                "user": {"user": own},
                "group": {"group": group},
                "both": {"user": own, "group": {"allowed": 10 * own["allowed"], "used": 3 * used}},
                "none": {"user": {"allowed": None, "used": None}},
            }[self.quotas_as]
        return document({"data": data})
