"""CIRCL hashlookup: known files, such as those of operating systems, so that no quota is spent on them.

Source: circl.lu/services/hashlookup. It needs no key; it takes up to a hundred MD5 at once, or one SHA-256.
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
from cowrieprocessor.enrichment.providers.http_status import error_outcome
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
"""The trust, from 0 to 100, that says nothing for or against a file; a higher one means that many sources have it."""

REFERENCE_LIBRARY = "nsrl"
"""The National Software Reference Library: known software. Its entries often have no more trust than NO_OPINION."""

_PARENTS_KEPT = 5
_NOT_KNOWN = re.compile("non existing", re.IGNORECASE)
_TITLE = "CIRCL hashlookup"


class Hashlookup(Provider):
    """CIRCL hashlookup: files of operating systems, distributions and well-known software."""

    name: ClassVar[str] = "hashlookup"
    ledger: ClassVar[str] = "hashlookup"
    max_samples: ClassVar[int] = 100

    def batch(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return the files up to the first without an MD5, at most a hundred; the first alone if it has none."""
        known = list(takewhile(lambda sample: _md5(sample) is not None, samples[: self.max_samples]))
        return known or samples[:1]

    def request(self, samples: Sequence[Sample]) -> Request:
        """Return the request about several files by MD5, or about one by SHA-256."""
        if len(samples) == 1:
            return Request("GET", f"{self.url}/lookup/sha256/{samples[0].sha256}")
        hashes = [(_md5(sample) or "").upper() for sample in samples]
        return Request("POST", f"{self.url}/bulk/md5", document={"hashes": hashes})

    def outcomes(self, samples: Sequence[Sample], reply: Reply) -> dict[str, Outcome]:
        """Return the outcome of a reply for each file that was asked about."""
        if len(samples) == 1:
            return {samples[0].sha256: self._single_outcome(samples[0], reply)}
        document = parsed(reply.body)
        if reply.status != 200 or not isinstance(document, list):
            outcome = error_outcome(reply, _TITLE, _error_message(document), key=self.key)
            if getattr(outcome, "scope", None) == "file":  # it does not say which of the hundred it refuses
                outcome = Failed("other", outcome.reason)
            return {sample.sha256: outcome for sample in samples}
        entries: dict[str | None, list[Mapping[str, Any]]] = {}
        for entry in document:
            entries.setdefault(hexadecimal(mapping(entry).get("MD5"), 32), []).append(mapping(entry))
        # An entry with no MD5 of ours may be about any file without an entry: those are then not known to be unknown.
        is_sound = entries.keys() <= {_md5(sample) for sample in samples}
        missing: Outcome = Unknown() if is_sound else Failed("bad-body", f"{_TITLE}'s answer has an unreadable entry")
        return {sample.sha256: self._bulk_outcome(sample, entries.get(_md5(sample), []), missing) for sample in samples}

    def _single_outcome(self, sample: Sample, reply: Reply) -> Outcome:
        document = parsed(reply.body)
        entry = mapping(document)
        if reply.status == 404 and _NOT_KNOWN.match(text(entry.get("message")) or ""):
            return Unknown(bounded(entry, self.key))
        if reply.status != 200 or not entry:
            return error_outcome(reply, _TITLE, _error_message(document), key=self.key)
        if hexadecimal(entry.get("SHA-256"), 64) != sample.sha256:
            return Failed("bad-body", f"{_TITLE}'s answer is not about the file that was asked about")
        return self._found(entry)

    def _bulk_outcome(self, sample: Sample, entries: Sequence[Mapping[str, Any]], missing: Outcome) -> Outcome:
        """Return the outcome for a file from the entries with its MD5, which a forged collision may share."""
        for entry in entries:
            sha1 = hexadecimal(entry.get("SHA-1"), 40)
            if sample.sha1 and sha1 and sha1 != sample.sha1.lower():
                continue
            if entry.get("SHA-256") is None or hexadecimal(entry.get("SHA-256"), 64) == sample.sha256:
                return self._found(entry)
        return missing if not entries else Unknown()

    def _found(self, entry: Mapping[str, Any]) -> Found:
        return Found(self.verdict(bounded({**entry, "parents": items(entry.get("parents"))[:_PARENTS_KEPT]}, self.key)))

    def verdict(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the verdict of an entry; an entry without a SHA-256 only counts against the file."""
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

    It vouches with a trust above NO_OPINION, or with an entry of the reference library whose trust is not below
    NO_OPINION. An unreadable value never speaks for a file.
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
    """Return who says that a file is malicious; hashlookup gives one name or a list."""
    names = [text(name, 128) for name in (value if isinstance(value, list) else [value])]
    return text(", ".join(name for name in names if name), 128)


def _error_message(document: object) -> str | None:
    """Return the service's own message in a JSON object; None if the reply is no object and so not its own."""
    if not isinstance(document, dict):
        return None
    return text(document.get("message"), 1000) or text(document.get("error"), 1000) or "an object that says nothing"
