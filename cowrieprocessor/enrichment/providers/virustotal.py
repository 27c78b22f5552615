"""VirusTotal: reports on files by SHA-256, the quota of a key, and uploads where a site has enabled them.

Source: docs.virustotal.com/reference (files, file-info, upload-file, files-upload-url, user overall quotas, errors).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from cowrieprocessor.db.enrichment.provider_verdict import CLEAN, MALICIOUS, SUSPICIOUS, UNKNOWN, VIRUSTOTAL
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    KeyQuota,
    Limits,
    Outcome,
    Provider,
    ProviderVerdict,
    RateLimited,
    Refused,
    Reply,
    Request,
    Sample,
    Unknown,
)
from cowrieprocessor.enrichment.providers.http_status import describe, error_outcome
from cowrieprocessor.enrichment.providers.json_values import (
    bounded,
    hexadecimal,
    integer,
    items,
    mapping,
    parsed,
    text,
    time_from_epoch,
)

PUBLIC_LIMITS = Limits(per_minute=4, per_day=500, per_month=15_500)
"""The limits of a free key; days and months are in UTC."""

SMALL_UPLOAD_BYTES = 32 * 1000 * 1000
"""A file of this size or larger is uploaded to an address that is requested first."""

MAX_UPLOAD_BYTES = 200 * 1000 * 1000
"""VirusTotal takes no larger file."""

_ADDRESS = re.compile(r"[\x21-\x7e]{1,4096}")
_MAX_ENGINES = 10_000
_MAX_ALLOWED = 2**31 - 1
_MAX_NAMES = 20
_COUNTED = ("malicious", "suspicious", "undetected", "harmless")
_DETECTIONS = ("malicious", "suspicious")
_STORED = frozenset(
    {
        "md5",
        "sha1",
        "sha256",
        "size",
        "type_description",
        "type_tag",
        "type_extension",
        "magic",
        "tlsh",
        "ssdeep",
        "vhash",
        "telfhash",
        "meaningful_name",
        "first_submission_date",
        "last_submission_date",
        "last_analysis_date",
        "times_submitted",
        "unique_sources",
        "reputation",
        "total_votes",
        "last_analysis_stats",
        "popular_threat_classification",
        "sandbox_verdicts",
        "tags",
    }
)


@dataclass(frozen=True, slots=True)
class UploadAddress:
    """The one-time address for uploading a large file."""

    url: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file was uploaded and is being analysed; its report is available some minutes later."""

    analysis_id: str


class VirusTotal(Provider):
    """VirusTotal: reports of some 70 engines on a file.

    Args:
        url: the base URL of the API.
        key: the API key.
        limits: how many requests may be sent.
        own_limits: those limits that the user set.
        malicious_at: how many engines must say malicious for a file to count as malicious, 1 or more.
        user: the user's name, for reading the quota; by default the key identifies its user.
    """

    name: ClassVar[str] = VIRUSTOTAL
    ledger: ClassVar[str] = VIRUSTOTAL

    def __init__(
        self,
        url: str,
        key: str | None,
        limits: Limits = PUBLIC_LIMITS,
        own_limits: Limits | None = None,
        *,
        malicious_at: int = 1,
        user: str | None = None,
    ) -> None:
        super().__init__(url, key, limits, own_limits)
        self.malicious_at = malicious_at
        self.user = user

    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request for the report on a file."""
        return self._get(f"/files/{samples[0].sha256}")

    def outcomes(self, samples: Sequence[Sample], reply: Reply) -> dict[str, Outcome]:
        """Return the outcome of a reply for the file that was asked about."""
        sha256 = samples[0].sha256
        return {sha256: self._outcome(sha256, reply)}

    def _outcome(self, sha256: str, reply: Reply) -> Outcome:
        document = mapping(parsed(reply.body))
        if reply.status == 404 and mapping(document.get("error")).get("code") == "NotFoundError":
            return Unknown(bounded(document, self.key))
        if reply.status != 200 or not document:
            return self._error_outcome(reply)
        report = mapping(document.get("data"))
        attributes = mapping(report.get("attributes"))
        named = {value.lower() for value in (report.get("id"), attributes.get("sha256")) if isinstance(value, str)}
        kind = report.get("type")
        if named != {sha256} or (isinstance(kind, str) and kind != "file"):
            return Failed("bad-body", "VirusTotal's answer is no report on the file that was asked about")
        return Found(self.verdict(bounded(_relevant(attributes, sha256), self.key)))

    def verdict(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the verdict of the stored attributes of a report."""
        threat = mapping(response.get("popular_threat_classification"))
        families = (text(mapping(name).get("value"), 128) for name in items(threat.get("popular_threat_name")))
        positives, total, verdict = self._evaluate(mapping(response.get("last_analysis_stats")))
        return ProviderVerdict(
            verdict,
            classification=text(threat.get("suggested_threat_label"), 128),
            description=text(response.get("type_description"), 1000),
            family=next((family for family in families if family), None),
            positives=positives,
            total=total,
            first_seen=time_from_epoch(response.get("first_submission_date")),
            last_analysis=time_from_epoch(response.get("last_analysis_date")),
            md5=hexadecimal(response.get("md5"), 32),
            sha1=hexadecimal(response.get("sha1"), 40),
            tlsh=text(response.get("tlsh"), 72),
            size_bytes=integer(response.get("size")),
            file_type=text(response.get("type_tag")),
            response=dict(response),
        )

    def _evaluate(self, stats: Mapping[str, Any]) -> tuple[int | None, int | None, str]:
        """Return how many engines say malicious, how many gave a result, and the verdict."""
        counts = {name: integer(stats.get(name), high=_MAX_ENGINES) for name in _COUNTED}
        positives = counts["malicious"]
        total = sum(count for count in counts.values() if count is not None) if positives is not None else None
        if positives and positives >= self.malicious_at:
            return positives, total, MALICIOUS
        if positives or counts["suspicious"]:
            return positives, total, SUSPICIOUS
        return positives, total, CLEAN if total else UNKNOWN

    def quota_request(self) -> Request | None:
        """Return the request for the quota of the key; it counts as one request."""
        return self._get(f"/users/{quote(self.user or self.key or '', safe='')}/overall_quotas")

    def quota(self, reply: Reply) -> KeyQuota | None:
        """Return the allowed and used requests of the key. A limit that is missing, null or 0 was not stated."""
        if reply.status != 200:
            return None
        data = mapping(mapping(parsed(reply.body)).get("data"))
        hourly, daily, monthly = (_figures(data.get(f"api_requests_{name}")) for name in ("hourly", "daily", "monthly"))
        quota = KeyQuota(*hourly, *daily, *monthly)
        return None if quota == KeyQuota() else quota

    def upload_request(self, name: str, content: bytes) -> Request:
        """Return the request that uploads a file of less than 32 MB; VirusTotal shows its name."""
        return Request("POST", f"{self.url}/files", self._headers, upload=(name, content))

    def upload_address_request(self) -> Request:
        """Return the request for an upload address for a file of up to 200 MB."""
        return self._get("/files/upload_url")

    def upload_address(self, reply: Reply) -> UploadAddress | RateLimited | Refused | Failed:
        """Return the upload address for a large file: an https URL, or one at the API's own host."""
        document = mapping(parsed(reply.body))
        if reply.status != 200 or not document:
            return self._error_outcome(reply)
        given = document.get("data")
        if isinstance(given, str) and _may_upload_to(given, self.url):
            return UploadAddress(given)
        return Failed("bad-body", "VirusTotal's answer is no address that a file can be uploaded to")

    def upload_to(self, address: UploadAddress, name: str, content: bytes) -> Request:
        """Return the request that uploads a large file; the key is sent only to hosts in the API's own domain."""
        headers = self._headers if _same_domain(address.url, self.url) else {}
        return Request("POST", address.url, headers, upload=(name, content))

    def uploaded(self, reply: Reply) -> Uploaded | RateLimited | Refused | Failed:
        """Return the outcome of an upload."""
        if reply.status == 413:
            return Refused(describe(reply, "VirusTotal", self._error_message(reply), key=self.key), "file")
        document = mapping(parsed(reply.body))
        if reply.status != 200 or not document:
            return self._error_outcome(reply)
        analysis_id = text(mapping(bounded(document, self.key).get("data")).get("id"))
        if analysis_id is None:
            return Failed("bad-body", "VirusTotal's answer to an upload names no analysis")
        return Uploaded(analysis_id)

    @property
    def _headers(self) -> dict[str, str]:
        return {"x-apikey": self.key or ""}

    def _get(self, path: str) -> Request:
        return Request("GET", f"{self.url}{path}", self._headers)

    def _error_outcome(self, reply: Reply) -> RateLimited | Refused | Failed:
        message = self._error_message(reply)
        if message is not None and message.startswith("NotAvailableYet"):
            return Failed("not-yet", describe(reply, "VirusTotal", message, key=self.key))
        return error_outcome(reply, "VirusTotal", message, key=self.key)

    def _error_message(self, reply: Reply) -> str | None:
        error = mapping(mapping(parsed(reply.body)).get("error"))
        code, message = text(error.get("code"), 100), text(error.get("message"), 1000)
        return f"{code}: {message}" if code and message else code


def _relevant(attributes: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Return the attributes of a report that are stored: no engine that found nothing, and few names."""
    relevant = {name: value for name, value in attributes.items() if name in _STORED and value is not None}
    relevant["sha256"] = sha256
    relevant["names"] = items(attributes.get("names"))[:_MAX_NAMES]
    engines = mapping(attributes.get("last_analysis_results"))
    relevant["last_analysis_results"] = {
        name: {"category": mapping(row).get("category"), "result": mapping(row).get("result")}
        for name, row in engines.items()
        if mapping(row).get("category") in _DETECTIONS
    }
    return {name: value for name, value in relevant.items() if value not in ([], {})}


def _figures(limit: object) -> tuple[int | None, int | None]:
    """Return the allowed and used requests: the user's own figures, else those of the user's group."""
    for level in ("user", "group"):
        figures = mapping(mapping(limit).get(level))
        allowed = integer(figures.get("allowed"), high=_MAX_ALLOWED)
        if allowed:
            return allowed, integer(figures.get("used"), high=_MAX_ALLOWED)
    return None, None


def _may_upload_to(address: str, own: str) -> bool:
    """Return whether a file may be sent to an address: it is encrypted, or has the API's own origin."""
    if _ADDRESS.fullmatch(address) is None:
        return False
    origin = _origin(address)
    return origin is not None and (origin[0] == "https" or origin == _origin(own))


def _origin(address: str) -> tuple[str, str, int | None] | None:
    """Return scheme, host and port of a URL; None if it is invalid, or contains a user name."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (parts.scheme, host, port) if host and parts.username is None else None


def _same_domain(address: str, own: str) -> bool:
    """Return whether an address has the host of the API, or another host in its domain."""
    host, own_host = urlsplit(address).hostname or "", urlsplit(own).hostname or ""
    if host == own_host:
        return True
    try:
        ipaddress.ip_address(own_host)
    except ValueError:
        domain = ".".join(own_host.split(".")[-2:])
        return domain.count(".") == 1 and host.endswith(f".{domain}")
    return False
