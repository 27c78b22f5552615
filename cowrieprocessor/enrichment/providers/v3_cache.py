"""Reads the cache of v3, a folder of VirusTotal's answers, so that importing history costs no quota.

v3 wrote three layouts: `<sha256>`, `vt_<sha256>.json` and `virustotal/<2 hex>/<64 hex>.json`, whose name is not the
hash of the file. Each contains the JSON of GET /files/{hash}; the file's modification time is the time of the answer.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.enrichment.providers.base import Found, Reply, Sample, Unknown
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.enrichment.verdict_repository import unknown_verdict
from cowrieprocessor.errors import InputNotFound, InputNotReadable

MAX_ANSWER_BYTES = 8 << 20

_NAMED = re.compile(r"(?:vt_)?([0-9a-fA-F]{64})(?:\.json)?")
_KEYED_FOLDER = re.compile(r"[0-9a-fA-F]{2}")


@dataclass(slots=True)
class ImportedCache:
    """The result of importing a folder.

    Attributes:
        files: files named like an answer.
        found: answers that know the file.
        unknown: answers that do not.
        expired: answers of both kinds that have expired: stored as history, and asked again in their turn.
        passed_over: files whose names match none of the three layouts.
        unreadable: paths without an answer, each with the reason.
    """

    files: int = 0
    found: int = 0
    unknown: int = 0
    expired: int = 0
    passed_over: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer in the cache.

    Attributes:
        sha256: the file that it is about.
        verdict: VirusTotal's verdict; `unknown` if it does not know the file.
        fetched_at: when it was given.
    """

    sha256: str
    verdict: ProviderVerdict
    fetched_at: dt.datetime


def read_answers(folder: Path, provider: VirusTotal, clock: Clock, result: ImportedCache) -> Iterator[CachedAnswer]:
    """Yield the answers in a folder and count them as they are read.

    Args:
        folder: the cache; symbolic links in it are not followed.
        provider: interprets the answers.
        clock: the current time; a later modification time counts as now.
        result: where answers are counted (all but `expired`) and files without an answer are listed.

    Raises:
        InputNotFound, InputNotReadable: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputNotFound(f"{folder}: no such folder; give the folder of the cache that v3 wrote")
    for path, named in _answers(folder, result):
        result.files += 1
        answer = _read(path, named, provider, clock.now())
        if isinstance(answer, str):
            result.unreadable.append((str(path), answer))
            continue
        is_unknown = "error" in answer.verdict.response
        result.unknown += is_unknown
        result.found += not is_unknown
        yield answer


def _answers(folder: Path, result: ImportedCache) -> Iterator[tuple[Path, str | None]]:
    """Yield each file named like an answer, in order, and the hash in its name, if that is the hash of the file."""

    def refuse(error: OSError) -> None:
        raise InputNotReadable(f"{error.filename}: cannot be read: {error.strerror}; correct its permissions")

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders.sort()
        keyed = _KEYED_FOLDER.fullmatch(Path(parent).name) is not None
        for name in sorted(names):
            match = _NAMED.fullmatch(name)
            if match is None:
                result.passed_over += 1
            else:
                yield Path(parent) / name, None if keyed else match[1].lower()


def _read(path: Path, named: str | None, provider: VirusTotal, now: dt.datetime) -> CachedAnswer | str:
    """Return the answer in a file, or the reason why there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return "no regular file"
            content = file.read(MAX_ANSWER_BYTES + 1)
    except OSError as error:
        return error.strerror or "cannot be read"
    if len(content) > MAX_ANSWER_BYTES:
        return f"larger than {MAX_ANSWER_BYTES >> 20} MiB"
    sha256 = _hash_in(content) or named
    if sha256 is None:
        return "it does not say which file it is about"
    fetched_at = min(dt.datetime.fromtimestamp(status.st_mtime, dt.UTC), now)
    known = b'"error"' not in content[:64]
    reply = Reply(200 if known else 404, {"content-type": "application/json"}, content, fetched_at)
    outcome = provider.outcomes([Sample(sha256)], reply).get(sha256)
    match outcome:
        case Found(verdict):
            return CachedAnswer(sha256, verdict, fetched_at)
        case Unknown(response):
            return CachedAnswer(sha256, unknown_verdict(response), fetched_at)
    return "no answer of VirusTotal about a file"


def _hash_in(content: bytes) -> str | None:
    """Return the SHA-256 of the file that an answer is about; None if it does not say."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict):
        return None
    attributes = data.get("attributes")
    inner = attributes.get("sha256") if isinstance(attributes, dict) else None
    for given in (inner, data.get("id")):
        if isinstance(given, str) and re.fullmatch(r"[0-9a-fA-F]{64}", given):
            return given.lower()
    return None
