"""CIRCL hashlookup: files that everybody has, so that no quota is spent on them.

Source: circl.lu/services/hashlookup. No key; by MD5 up to a hundred at once, by SHA-256 one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar

from cowrieprocessor.db.enrichment.provider_verdict import KNOWN_GOOD, MALICIOUS, UNKNOWN
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Outcome,
    Provider,
    ProviderVerdict,
    Reply,
    Request,
    Sample,
    Unknown,
)
from cowrieprocessor.enrichment.providers.http_status import trouble
from cowrieprocessor.enrichment.providers.json_values import (
    bounded,
    hexadecimal,
    integer_in_text,
    items,
    mapping,
    parsed,
    text,
)

NO_OPINION = 50
"""The trust, from 0 to 100, at which hashlookup says nothing for or against a file; more means many sources have it."""

REFERENCE_LIBRARY = "nsrl"
"""The National Software Reference Library: known software. Its entries often have no more than NO_OPINION."""

_PARENTS_KEPT = 5
_NOT_KNOWN = re.compile("non existing", re.IGNORECASE)
_TITLE = "CIRCL hashlookup"


class Hashlookup(Provider):
    """Files of operating systems, distributions and well-known software."""

    name: ClassVar[str] = "hashlookup"
    ledger: ClassVar[str] = "hashlookup"
    max_samples: ClassVar[int] = 100

    def batch(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return the first files as far as their MD5 is known, at most a hundred; else the first alone."""
        known = list(takewhile(lambda sample: _md5(sample) is not None, samples[: self.max_samples]))
        return known or samples[:1]

    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request about several files by their MD5, or about one by its SHA-256."""
        if len(samples) == 1:
            return Request("GET", f"{self.url}/lookup/sha256/{samples[0].sha256}")
        hashes = [(_md5(sample) or "").upper() for sample in samples]
        return Request("POST", f"{self.url}/bulk/md5", document={"hashes": hashes})

    def outcomes(self, samples: Sequence[Sample], reply: Reply) -> dict[str, Outcome]:
        """Return what an answer means for each file that was asked about."""
        if len(samples) == 1:
            return {samples[0].sha256: self._one(samples[0], reply)}
        document = parsed(reply.body)
        if reply.status != 200 or not isinstance(document, list):
            outcome = trouble(reply, _TITLE, _said(document), key=self.key)
            if getattr(outcome, "scope", None) == "file":  # which of the hundred it refuses it does not say
                outcome = Failed("other", outcome.reason)
            return {sample.sha256: outcome for sample in samples}
        entries: dict[str | None, list[Mapping[str, Any]]] = {}
        for entry in document:
            entries.setdefault(hexadecimal(mapping(entry).get("MD5"), 32), []).append(mapping(entry))
        # An entry that cannot be told to belong to anybody may be about any of those that have none.
        is_sound = entries.keys() <= {_md5(sample) for sample in samples}
        missing: Outcome = Unknown() if is_sound else Failed("bad-body", f"{_TITLE}'s answer has an unreadable entry")
        return {sample.sha256: self._of_many(sample, entries.get(_md5(sample), []), missing) for sample in samples}

    def _one(self, sample: Sample, reply: Reply) -> Outcome:
        document = parsed(reply.body)
        entry = mapping(document)
        if reply.status == 404 and _NOT_KNOWN.match(text(entry.get("message")) or ""):
            return Unknown(bounded(entry, self.key))
        if reply.status != 200 or not entry:
            return trouble(reply, _TITLE, _said(document), key=self.key)
        if hexadecimal(entry.get("SHA-256"), 64) != sample.sha256:
            return Failed("bad-body", f"{_TITLE}'s answer is not about the file that was asked about")
        return self._found(entry)

    def _of_many(self, sample: Sample, entries: Sequence[Mapping[str, Any]], missing: Outcome) -> Outcome:
        """Return the entry of a file among those with its MD5: files with the MD5 of a harmless one can be made."""
        for entry in entries:
            sha1 = hexadecimal(entry.get("SHA-1"), 40)
            if sample.sha1 and sha1 and sha1 != sample.sha1.lower():
                continue
            if entry.get("SHA-256") is None or hexadecimal(entry.get("SHA-256"), 64) == sample.sha256:
                return self._found(entry)
        return missing if not entries else Unknown()

    def _found(self, entry: Mapping[str, Any]) -> Found:
        return Found(self.finding(bounded({**entry, "parents": items(entry.get("parents"))[:_PARENTS_KEPT]}, self.key)))

    def finding(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return what an entry says; of the file itself only if the entry has its SHA-256."""
        bad_name = _known_malicious(response.get("KnownMalicious"))
        description = text(response.get("FileName"), 1000)
        if hexadecimal(response.get("SHA-256"), 64) is None:
            verdict = UNKNOWN if bad_name is None else MALICIOUS
            return ProviderVerdict(verdict, classification=bad_name, description=description, response=dict(response))
        return ProviderVerdict(
            _verdict(response) if bad_name is None else MALICIOUS,
            classification=bad_name,
            description=description,
            md5=hexadecimal(response.get("MD5"), 32),
            sha1=hexadecimal(response.get("SHA-1"), 40),
            tlsh=text(response.get("TLSH"), 72),
            size_bytes=integer_in_text(response.get("FileSize")),
            file_type=text(response.get("mimetype")),
            response=dict(response),
        )


def _verdict(response: Mapping[str, Any]) -> str:
    """Return known-good if hashlookup vouches for a file that it does not call malicious, else unknown.

    It vouches with a trust above NO_OPINION. An entry of the reference library is enough as well, unless its trust is
    below. What cannot be read never speaks for a file.
    """
    given = response.get("hashlookup:trust")
    trust = NO_OPINION if given is None else integer_in_text(given, high=100)
    origin = f"{text(response.get('source')) or ''} {text(response.get('db')) or ''}".lower()
    if trust is None or trust < NO_OPINION or response.get("KnownMalicious"):
        return UNKNOWN
    return KNOWN_GOOD if trust > NO_OPINION or REFERENCE_LIBRARY in origin else UNKNOWN


def _md5(sample: Sample) -> str | None:
    return hexadecimal(sample.md5, 32)


def _known_malicious(value: object) -> str | None:
    """Return who says that a file is malicious; hashlookup writes a name, or several."""
    names = [text(name, 128) for name in (value if isinstance(value, list) else [value])]
    return text(", ".join(name for name in names if name), 128)


def _said(document: object) -> str | None:
    if not isinstance(document, dict):
        return None
    return text(document.get("message"), 1000) or text(document.get("error"), 1000) or "an object that says nothing"
