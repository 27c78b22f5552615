"""The interface to a source of verdicts: the request about a file, and the outcome of the reply.

    Outcome
    ├── Found         the source knows the file: a ProviderVerdict
    ├── Unknown       the source answered that it does not know the file
    ├── RateLimited   it wants fewer requests, and may say until when
    ├── Refused       it will not answer this question, or none under this key
    └── Failed        no usable answer came; to be tried again

A source is the service; its provider is a class derived from `Provider` in a module of its own, see
docs/write_a_provider.md. A provider only builds requests and interprets replies. Sending, timeouts, bounds, quotas, the
queue and storage are done for it.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict

__all__ = [
    "Failed",
    "Found",
    "KeyQuota",
    "Limits",
    "Outcome",
    "Provider",
    "ProviderVerdict",
    "RateLimited",
    "Refused",
    "Reply",
    "Request",
    "Sample",
    "Unknown",
]


@dataclass(frozen=True, slots=True)
class Sample:
    """A file to ask about.

    Attributes:
        sha256: lower case.
        md5: None if unknown.
        sha1: None if unknown.
        size_bytes: None if unknown.
        download_url: one URL that it was downloaded from, if it was.
    """

    sha256: str
    md5: str | None = None
    sha1: str | None = None
    size_bytes: int | None = None
    download_url: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. URL and headers may contain a key and are never shown.

    Attributes:
        method: GET or POST.
        url: the whole URL.
        headers: in addition to those of every request.
        form: fields of a form, sent URL-encoded.
        document: sent as JSON.
        upload: name and content of a file, sent as the multipart field `file`.
    """

    method: Literal["GET", "POST"]
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = None
    document: object | None = None
    upload: tuple[str, bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that arrived whole.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name.
        body: at most as long as the client allows.
        received_at: when it arrived.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Found:
    """The source knows the file."""

    verdict: ProviderVerdict


@dataclass(frozen=True, slots=True)
class Unknown:
    """The source answered that it does not know the file; `response` is its answer, bounded."""

    response: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The source wants fewer requests; `retry_at` is when it may be asked again, if it said so."""

    reason: str
    retry_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The source will not answer, however often it is asked.

    Attributes:
        reason: its message, for people, without any key.
        scope: `file`: it does not answer this question; `source`: it answers none (the key is wrong, or not allowed to
            ask).
    """

    reason: str
    scope: Literal["file", "source"]


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer came; the question will be asked again.

    Attributes:
        kind: one word for counting: timeout, connection, server-error, redirect, empty-answer, bad-body, too-large,
            not-yet, other.
        reason: what happened, for people, without any key.
        retry_at: the earliest time to ask again, if the source gave one.
    """

    kind: str
    reason: str
    retry_at: dt.datetime | None = None


Outcome = Found | Unknown | RateLimited | Refused | Failed


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests may be sent under one key; None for no limit."""

    per_minute: int | None = None
    per_day: int | None = None
    per_month: int | None = None


@dataclass(frozen=True, slots=True)
class KeyQuota:
    """What a source reports about a key: allowed and used requests, None where it does not say."""

    hourly_allowed: int | None = None
    hourly_used: int | None = None
    daily_allowed: int | None = None
    daily_used: int | None = None
    monthly_allowed: int | None = None
    monthly_used: int | None = None


class Provider(ABC):
    """The interface to one source of verdicts.

    Attributes:
        name: the source's name in the database and the settings; at most 32 characters.
        ledger: the name that its requests are counted under; sources that share a limit share it.
        max_samples: how many files one request may ask about.
        url: the base URL.
        key: the API key, or None for a source that needs none.
        limits: what the settings, or the source's public terms, allow.
        own_limits: those of them that the user set: what the source reports of the key never raises them.
    """

    name: ClassVar[str]
    ledger: ClassVar[str]
    max_samples: ClassVar[int] = 1

    def __init__(self, url: str, key: str | None, limits: Limits, own_limits: Limits | None = None) -> None:
        self.url = url
        self.key = key
        self.limits = limits
        self.own_limits = own_limits or Limits()

    def can_ask(self, sample: Sample) -> bool:
        """Return whether the source can be asked about a file at all (some need the URL that it came from)."""
        return True

    def cache_key(self, sample: Sample) -> str:
        """Return the key of the answer in the cache, at most 128 characters; one key is one question."""
        return sample.sha256

    def batch(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return those of the files that one request asks about; the first is always among them."""
        return samples[:1]

    @abstractmethod
    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request that asks about these files (one, unless `batch` returns more)."""

    @abstractmethod
    def outcomes(self, samples: Sequence[Sample], reply: Reply) -> dict[str, Outcome]:
        """Return the outcome of a reply for each file, by SHA-256. Never raises: an unreadable reply is Failed."""

    @abstractmethod
    def verdict(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the verdict that a stored `ProviderVerdict.response` gives. Never raises."""

    def quota_request(self) -> Request | None:
        """Return the request for the quota of the key, or None if the source does not report it."""
        return None

    def quota(self, reply: Reply) -> KeyQuota | None:
        """Return the quota in the reply to `quota_request`, or None if it has none that is usable."""
        return None
