"""abuse.ch: MalwareBazaar and URLhaus, which share one Auth-Key.

Source: bazaar.abuse.ch/api and urlhaus-api.abuse.ch. Both answer with HTTP 200 even if they know nothing; the outcome
is in `query_status`.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from cowrieprocessor.db.enrichment.provider_verdict import MALICIOUS, SUSPICIOUS
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Outcome,
    Provider,
    ProviderVerdict,
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
    integer_in_text,
    items,
    mapping,
    parsed,
    text,
    time_from_text,
)

NOT_KNOWN = frozenset({"hash_not_found", "no_results"})
BAD_QUESTION = frozenset({"illegal_hash", "no_hash_provided"})
KEY_TROUBLE = re.compile("auth|api_key|apikey|blacklist|blocklist|banned", re.IGNORECASE)
"""What a status or an error says if the key is missing, wrong or blocked: `no_api_key`, `unknown_auth_key`,
`user_blacklisted` and their like."""

MAX_URL_CHARS = 1024

_OF_THE_SERVICE = (200, 400, 401, 403)
"""The HTTP statuses with which abuse.ch refuses a key; on another one the message is about the service."""

_ROWS_KEPT = 10
_MAX_ENGINES = 10_000
_RATIO = re.compile(r"([0-9]{1,5}) ?/ ?([0-9]{1,5})")
_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,4})?")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}


class AbuseCh(Provider):
    """The common part of the providers for abuse.ch.

    Attributes:
        title: the service's name for people.
    """

    title: ClassVar[str]

    def outcomes(self, samples: Sequence[Sample], reply: Reply) -> dict[str, Outcome]:
        """Return the outcome of a reply for the file that was asked about."""
        return {samples[0].sha256: self._outcome(samples[0], reply)}

    @abstractmethod
    def _relevant(self, sample: Sample, document: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the part of an answer that is stored, or None if it is about something else."""

    def _post(self, path: str, **form: str) -> Request:
        return Request("POST", f"{self.url}{path}", {"Auth-Key": self.key or ""}, form=form)

    def _outcome(self, sample: Sample, reply: Reply) -> Outcome:
        document = mapping(parsed(reply.body))
        status = text(document.get("query_status"), 100)
        message = status or text(document.get("error"))
        if reply.status in _OF_THE_SERVICE and message is not None and KEY_TROUBLE.search(message):
            return Refused(f"{describe(reply, self.title, message, key=self.key)}; check the key", "source")
        if reply.status != 200 or status is None:
            return error_outcome(reply, self.title, message, key=self.key)
        if status == "ok":
            return self._report_outcome(sample, document)
        return self._status_outcome(status, document, reply)

    def _status_outcome(self, status: str, document: Mapping[str, Any], reply: Reply) -> Outcome:
        """Return the outcome of an answer that is only a `query_status`."""
        if status in NOT_KNOWN:
            return Unknown(bounded(document, self.key))
        description = describe(reply, self.title, status, key=self.key)
        if status in BAD_QUESTION or status.startswith("invalid_"):
            return Refused(description, "file")
        return Failed("other", description)

    def _report_outcome(self, sample: Sample, document: Mapping[str, Any]) -> Outcome:
        relevant = self._relevant(sample, document)
        if relevant is None:
            return Failed("bad-body", f"{self.title}'s answer is not about what was asked for")
        return Found(self.verdict(bounded(relevant, self.key)))


class MalwareBazaar(AbuseCh):
    """MalwareBazaar: samples of confirmed malware, by SHA-256."""

    name: ClassVar[str] = "malwarebazaar"
    ledger: ClassVar[str] = "malwarebazaar"
    title: ClassVar[str] = "MalwareBazaar"

    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request about a file."""
        return self._post("/", query="get_info", hash=samples[0].sha256)

    def _relevant(self, sample: Sample, document: Mapping[str, Any]) -> dict[str, Any] | None:
        for row in items(document.get("data"))[:1]:
            if hexadecimal(mapping(row).get("sha256_hash"), 64) == sample.sha256:
                return {name: value for name, value in row.items() if name not in _DROPPED}
        return None

    def verdict(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the verdict of a sample's row: malware, because MalwareBazaar lists nothing else."""
        signature = text(response.get("signature"), 128)
        return ProviderVerdict(
            MALICIOUS,
            classification=signature,
            description=text(response.get("file_type_mime")) or text(response.get("file_type")),
            family=signature,
            first_seen=time_from_text(response.get("first_seen")),
            md5=hexadecimal(response.get("md5_hash"), 32),
            sha1=hexadecimal(response.get("sha1_hash"), 40),
            tlsh=text(response.get("tlsh"), 72),
            size_bytes=integer_in_text(response.get("file_size")),
            file_type=text(response.get("file_type")),
            response=dict(response),
        )


class Urlhaus(AbuseCh):
    """URLhaus: files that were served from malware URLs, by SHA-256."""

    name: ClassVar[str] = "urlhaus"
    ledger: ClassVar[str] = "urlhaus"
    title: ClassVar[str] = "URLhaus"

    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request about a file."""
        return self._post("/payload/", sha256_hash=samples[0].sha256)

    def _relevant(self, sample: Sample, document: Mapping[str, Any]) -> dict[str, Any] | None:
        if hexadecimal(document.get("sha256_hash"), 64) != sample.sha256:
            return None
        return {**document, "urls": items(document.get("urls"))[:_ROWS_KEPT]}

    def verdict(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the verdict of a payload's entry: malicious if it has a signature or detections, else suspicious."""
        signature = text(response.get("signature"), 128)
        positives, total, is_detected = _detections(mapping(response.get("virustotal")))
        return ProviderVerdict(
            MALICIOUS if signature or is_detected else SUSPICIOUS,
            classification=signature,
            description=text(response.get("file_type")),
            family=signature,
            positives=positives,
            total=total,
            first_seen=time_from_text(response.get("firstseen")),
            md5=hexadecimal(response.get("md5_hash"), 32),
            tlsh=text(response.get("tlsh"), 72),
            size_bytes=integer_in_text(response.get("file_size")),
            file_type=text(response.get("file_type")),
            response=dict(response),
        )


class UrlhausUrl(AbuseCh):
    """URLhaus: malware URLs; a file that came from one is suspicious, whatever it is."""

    name: ClassVar[str] = "urlhaus-url"
    ledger: ClassVar[str] = "urlhaus"
    title: ClassVar[str] = "URLhaus"

    def can_ask(self, sample: Sample) -> bool:
        """Return whether the file came from a URL of a kind that URLhaus lists."""
        url = sample.download_url or ""
        return (
            len(url) <= MAX_URL_CHARS
            and url.lower().startswith(("http://", "https://", "ftp://"))
            and url.isprintable()
            and _canonical(url) is not None
        )

    def cache_key(self, sample: Sample) -> str:
        """Return the key of the URL: files that came from the same URL share its answer."""
        return f"url:{hashlib.sha256((sample.download_url or '').encode('utf-8', 'surrogatepass')).hexdigest()}"

    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request about the URL that a file came from."""
        return self._post("/url/", url=samples[0].download_url or "")

    def _relevant(self, sample: Sample, document: Mapping[str, Any]) -> dict[str, Any] | None:
        url = document.get("url")
        asked = _canonical(sample.download_url or "")
        if not isinstance(url, str) or asked is None or _canonical(url) != asked:
            return None
        return {**document, "payloads": items(document.get("payloads"))[:_ROWS_KEPT]}

    def verdict(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the verdict of a URL's entry on the files that came from it."""
        tags = [tag for tag in (text(tag, 64) for tag in items(response.get("tags"))) if tag]
        return ProviderVerdict(
            SUSPICIOUS,
            classification=text(response.get("threat"), 128),
            description=text(", ".join(tags), 1000),
            first_seen=time_from_text(response.get("date_added")),
            response=dict(response),
        )


_DROPPED = frozenset({"file_information", "vendor_intel", "ole_information", "comments"})
"""Large parts of MalwareBazaar's rows that no provider reads."""


def _detections(virustotal: Mapping[str, Any]) -> tuple[int | None, int | None, bool]:
    """Return what URLhaus quotes from VirusTotal: positives, total, and whether any engine says malicious."""
    match = _RATIO.fullmatch((text(virustotal.get("result")) or "").strip())
    if match is not None:
        positives, total = int(match[1]), int(match[2])
        if positives <= total <= _MAX_ENGINES:
            return positives, total, positives > 0
        return None, None, False
    percent = text(virustotal.get("percent")) or ""
    return None, None, _PERCENT.fullmatch(percent) is not None and 0 < float(percent) <= 100


def _canonical(url: str) -> tuple[str, str, int | None, str] | None:
    """Return a URL in a form in which equivalent spellings are equal; None if it is invalid."""
    try:
        parts = urlsplit(url.strip())
        host, port, scheme = (parts.hostname or "").rstrip("."), parts.port, parts.scheme.lower()
    except ValueError:
        return None
    if not host:
        return None
    rest = unquote(parts.path).rstrip("/") + (f"?{unquote(parts.query)}" if parts.query else "")
    return scheme, host, port or _DEFAULT_PORTS.get(scheme), rest
