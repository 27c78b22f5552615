"""What a source of verdicts is: the question it is asked about a file, and what its answer means.

    Outcome
    ├── Found         the source knows the file: a ProviderVerdict
    ├── Unknown       the source answered that it does not know the file
    ├── RateLimited   it wants fewer requests, and perhaps said until when
    ├── Refused       it will not answer this question, or none under this key
    └── Failed        no usable answer came; to be tried again

A source is one module with one class derived from `Provider`; docs/write_a_provider.md leads through one. A provider
only says what to send and what an answer means. Sending, time-outs, bounds, quotas, the queue and storage are done
for it.
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
    """A file to be asked about.

    Attributes:
        sha256: lower case.
        md5: if it is known.
        sha1: if it is known.
        size_bytes: if it is known.
        download_url: one address that it was downloaded from, if it was.
    """

    sha256: str
    md5: str | None = None
    sha1: str | None = None
    size_bytes: int | None = None
    download_url: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Its headers may carry a key: they are never shown.

    Attributes:
        method: GET or POST.
        url: the whole address.
        headers: beside those that every request has.
        form: fields of a form, sent url-encoded.
        document: sent as JSON.
        upload: a file sent as the multipart field `file`: its name and its content.
    """

    method: Literal["GET", "POST"]
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = None
    document: object | None = None
    upload: tuple[str, bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that arrived whole.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name.
        body: at most as long as the client allows.
        received_at: when.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Found:
    """The source knows the file."""

    finding: ProviderVerdict


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
        reason: what it said, for people, without any key.
        scope: `file`: this question is not answered; `source`: none is (the key is wrong or not allowed to ask).
    """

    reason: str
    scope: Literal["file", "source"]


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer came; the question is to be asked again later.

    Attributes:
        kind: one word for counting: timeout, connection, server-error, redirect, empty-answer, bad-body, too-large,
            not-yet, other.
        reason: what happened, for people, without any key.
        retry_at: not before then, if the source said so.
    """

    kind: str
    reason: str
    retry_at: dt.datetime | None = None


Outcome = Found | Unknown | RateLimited | Refused | Failed


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests may be sent under one key; None where there is no bound."""

    per_minute: int | None = None
    per_day: int | None = None
    per_month: int | None = None


@dataclass(frozen=True, slots=True)
class KeyQuota:
    """What a source itself says about a key: allowed and used requests, None where it does not say."""

    hourly_allowed: int | None = None
    hourly_used: int | None = None
    daily_allowed: int | None = None
    daily_used: int | None = None
    monthly_allowed: int | None = None
    monthly_used: int | None = None


class Provider(ABC):
    """One source of verdicts.

    Attributes:
        name: as the database, the settings and people call it; at most 32 characters.
        ledger: under which name its requests are counted; sources that share a limit share it.
        max_samples: how many files one request may ask about.
        limits: what the settings, or the source's public terms, allow.
        own_limits: of these, what the user set: never raised by what the source says of the key.
        key: the key, or None for a source that needs none.
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
        """Return whether the source can be asked about a file at all (some need an address it came from)."""
        return True

    def cache_key(self, sample: Sample) -> str:
        """Return the key that the answer is kept under, at most 128 characters; one key is one question."""
        return sample.sha256

    def batch(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return which of these files, the first always among them, one request asks about."""
        return samples[:1]

    @abstractmethod
    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request that asks about these files (one, unless `batch` returns more)."""

    @abstractmethod
    def outcomes(self, samples: Sequence[Sample], reply: Reply) -> dict[str, Outcome]:
        """Return what an answer means for each file, by sha256. Never raises: what cannot be read is Failed."""

    @abstractmethod
    def finding(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the finding of a `response` that Found carried and the cache kept. Never raises."""

    def quota_request(self) -> Request | None:
        """Return the request that asks what the key may do, or None if the source tells nobody."""
        return None

    def quota(self, reply: Reply) -> KeyQuota | None:
        """Return what the answer to `quota_request` says, or None if it says nothing usable."""
        return None
