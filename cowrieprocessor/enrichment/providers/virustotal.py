"""VirusTotal: reports on files by their SHA-256, what the key may do, and uploads where a site wants them.

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
from cowrieprocessor.enrichment.providers.http_status import describe, trouble
from cowrieprocessor.enrichment.providers.json_values import (
    bounded,
    hexadecimal,
    integer,
    items,
    mapping,
    moment_of_epoch,
    parsed,
    text,
)

PUBLIC_LIMITS = Limits(per_minute=4, per_day=500, per_month=15_500)
"""Of a key that nobody pays for; days and months are those of UTC."""

SMALL_UPLOAD_BYTES = 32 * 1000 * 1000
"""A larger file goes to an address that is asked for first."""

MAX_UPLOAD_BYTES = 200 * 1000 * 1000
"""A larger file is not uploaded."""

_ADDRESS = re.compile(r"[\x21-\x7e]{1,4096}")
_MAX_ENGINES = 10_000
_MAX_ALLOWED = 2**31 - 1
_NAMES_KEPT = 20
_COUNTED = ("malicious", "suspicious", "undetected", "harmless")
_TELLING = ("malicious", "suspicious")
_KEPT = frozenset(
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
    """Where one large file may be uploaded to, once."""

    url: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file arrived and is being analysed; a report on it can be asked for some minutes later."""

    analysis_id: str


class VirusTotal(Provider):
    """Reports of some 70 engines on a file.

    Args:
        url: the address of the API.
        key: the key.
        limits: what may be sent.
        own_limits: of these, what the user set.
        malicious_at: how many engines have to say malicious for the file to count as malicious.
        user: the user's name; without it the key itself stands for its user where its quota is asked for.
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
        """Return what an answer means for the file that was asked about."""
        sha256 = samples[0].sha256
        return {sha256: self._outcome(sha256, reply)}

    def _outcome(self, sha256: str, reply: Reply) -> Outcome:
        document = mapping(parsed(reply.body))
        if reply.status == 404 and mapping(document.get("error")).get("code") == "NotFoundError":
            return Unknown(bounded(document, self.key))
        if reply.status != 200 or not document:
            return self._trouble(reply)
        report = mapping(document.get("data"))
        attributes = mapping(report.get("attributes"))
        named = {value.lower() for value in (report.get("id"), attributes.get("sha256")) if isinstance(value, str)}
        kind = report.get("type")
        if named != {sha256} or (isinstance(kind, str) and kind != "file"):
            return Failed("bad-body", "VirusTotal's answer is no report on the file that was asked about")
        return Found(self.finding(bounded(_kept(attributes, sha256), self.key)))

    def finding(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return what the kept attributes of a report say."""
        threat = mapping(response.get("popular_threat_classification"))
        families = (text(mapping(name).get("value"), 128) for name in items(threat.get("popular_threat_name")))
        positives, total, verdict = self._judge(mapping(response.get("last_analysis_stats")))
        return ProviderVerdict(
            verdict,
            classification=text(threat.get("suggested_threat_label"), 128),
            description=text(response.get("type_description"), 1000),
            family=next((family for family in families if family), None),
            positives=positives,
            total=total,
            first_seen=moment_of_epoch(response.get("first_submission_date")),
            last_analysis=moment_of_epoch(response.get("last_analysis_date")),
            md5=hexadecimal(response.get("md5"), 32),
            sha1=hexadecimal(response.get("sha1"), 40),
            tlsh=text(response.get("tlsh"), 72),
            size_bytes=integer(response.get("size")),
            file_type=text(response.get("type_tag")),
            response=dict(response),
        )

    def _judge(self, stats: Mapping[str, Any]) -> tuple[int | None, int | None, str]:
        """Return how many engines say malicious, how many said anything, and the verdict of that."""
        counts = {name: integer(stats.get(name), high=_MAX_ENGINES) for name in _COUNTED}
        positives = counts["malicious"]
        total = sum(count for count in counts.values() if count is not None) if positives is not None else None
        if positives and positives >= self.malicious_at:
            return positives, total, MALICIOUS
        if positives or counts["suspicious"]:
            return positives, total, SUSPICIOUS
        return positives, total, CLEAN if total else UNKNOWN

    def quota_request(self) -> Request | None:
        """Return the request for what the key may do; it costs no more than another."""
        return self._get(f"/users/{quote(self.user or self.key or '', safe='')}/overall_quotas")

    def quota(self, reply: Reply) -> KeyQuota | None:
        """Return what the key may do and has done. A limit that is missing, null or 0 was not stated."""
        if reply.status != 200:
            return None
        data = mapping(mapping(parsed(reply.body)).get("data"))
        hourly, daily, monthly = (_figures(data.get(f"api_requests_{name}")) for name in ("hourly", "daily", "monthly"))
        read = KeyQuota(*hourly, *daily, *monthly)
        return None if read == KeyQuota() else read

    def upload_request(self, name: str, content: bytes) -> Request:
        """Return the request that uploads a file of less than 32 MB, under a name that VirusTotal will show."""
        return Request("POST", f"{self.url}/files", self._headers, upload=(name, content))

    def upload_address_request(self) -> Request:
        """Return the request for an address that a file of up to 200 MB may be uploaded to."""
        return self._get("/files/upload_url")

    def upload_address(self, reply: Reply) -> UploadAddress | RateLimited | Refused | Failed:
        """Return where a large file may be uploaded to: an https address, or one of the API's own host."""
        document = mapping(parsed(reply.body))
        if reply.status != 200 or not document:
            return self._trouble(reply)
        given = document.get("data")
        if isinstance(given, str) and _may_upload_to(given, self.url):
            return UploadAddress(given)
        return Failed("bad-body", "VirusTotal's answer is no address that a file can be uploaded to")

    def upload_to(self, address: UploadAddress, name: str, content: bytes) -> Request:
        """Return the request that uploads a large file; the key goes only to hosts of the API's own domain."""
        headers = self._headers if _same_domain(address.url, self.url) else {}
        return Request("POST", address.url, headers, upload=(name, content))

    def uploaded(self, reply: Reply) -> Uploaded | RateLimited | Refused | Failed:
        """Return what the answer to an upload means."""
        if reply.status == 413:
            return Refused(describe(reply, "VirusTotal", self._said(reply), key=self.key), "file")
        document = mapping(parsed(reply.body))
        if reply.status != 200 or not document:
            return self._trouble(reply)
        analysis_id = text(mapping(bounded(document, self.key).get("data")).get("id"))
        if analysis_id is None:
            return Failed("bad-body", "VirusTotal's answer to an upload names no analysis")
        return Uploaded(analysis_id)

    @property
    def _headers(self) -> dict[str, str]:
        return {"x-apikey": self.key or ""}

    def _get(self, path: str) -> Request:
        return Request("GET", f"{self.url}{path}", self._headers)

    def _trouble(self, reply: Reply) -> RateLimited | Refused | Failed:
        said = self._said(reply)
        if said is not None and said.startswith("NotAvailableYet"):
            return Failed("not-yet", describe(reply, "VirusTotal", said, key=self.key))
        return trouble(reply, "VirusTotal", said, key=self.key)

    def _said(self, reply: Reply) -> str | None:
        error = mapping(mapping(parsed(reply.body)).get("error"))
        code, message = text(error.get("code"), 100), text(error.get("message"), 1000)
        return f"{code}: {message}" if code and message else code


def _kept(attributes: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Return what of a report is worth keeping: no row of an engine that found nothing, and few names."""
    kept = {name: value for name, value in attributes.items() if name in _KEPT and value is not None}
    kept["sha256"] = sha256
    kept["names"] = items(attributes.get("names"))[:_NAMES_KEPT]
    engines = mapping(attributes.get("last_analysis_results"))
    kept["last_analysis_results"] = {
        name: {"category": mapping(row).get("category"), "result": mapping(row).get("result")}
        for name, row in engines.items()
        if mapping(row).get("category") in _TELLING
    }
    return {name: value for name, value in kept.items() if value not in ([], {})}


def _figures(limit: object) -> tuple[int | None, int | None]:
    """Return what is allowed and what is used: the user's own figures, else those of the user's group."""
    for level in ("user", "group"):
        figures = mapping(mapping(limit).get(level))
        allowed = integer(figures.get("allowed"), high=_MAX_ALLOWED)
        if allowed:
            return allowed, integer(figures.get("used"), high=_MAX_ALLOWED)
    return None, None


def _may_upload_to(address: str, own: str) -> bool:
    """Return whether an address is one that a file may be sent to: encrypted, or where the API itself is."""
    if _ADDRESS.fullmatch(address) is None:
        return False
    place = _place(address)
    return place is not None and (place[0] == "https" or place == _place(own))


def _place(address: str) -> tuple[str, str, int | None] | None:
    """Return scheme, host and port of an address; None if it is none, or has a user in it."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (parts.scheme, host, port) if host and parts.username is None else None


def _same_domain(address: str, own: str) -> bool:
    """Return whether an address is of the same host, or of another host of its domain."""
    host, own_host = urlsplit(address).hostname or "", urlsplit(own).hostname or ""
    if host == own_host:
        return True
    try:
        ipaddress.ip_address(own_host)
    except ValueError:
        domain = ".".join(own_host.split(".")[-2:])
        return domain.count(".") == 1 and host.endswith(f".{domain}")
    return False
