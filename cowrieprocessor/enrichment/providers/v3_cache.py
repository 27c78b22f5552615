"""The warmed cache of v3, a folder of VirusTotal's answers: taken in, so that history costs no quota.

Three layouts were written: `<sha256>`, `vt_<sha256>.json` and `virustotal/<2 hex>/<64 hex>.json`, whose name says
nothing about the file. Each holds the JSON of GET /files/{hash}; its age is the file's modification time.
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
from cowrieprocessor.enrichment.verdict_repository import unknown
from cowrieprocessor.errors import InputNotFound, InputNotReadable

MAX_ANSWER_BYTES = 8 << 20

_NAMED = re.compile(r"(?:vt_)?([0-9a-fA-F]{64})(?:\.json)?")
_KEYED_FOLDER = re.compile(r"[0-9a-fA-F]{2}")


@dataclass(slots=True)
class ImportedCache:
    """What came of a folder.

    Attributes:
        files: how many files looked like answers.
        found: answers that know the file.
        unknown: answers that do not.
        expired: of both, those that no longer hold: kept as history, and asked again when their turn comes.
        passed_over: files whose names are none of the three layouts.
        unreadable: paths that hold no answer, with why.
    """

    files: int = 0
    found: int = 0
    unknown: int = 0
    expired: int = 0
    passed_over: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What one file of the cache says.

    Attributes:
        sha256: the file that it is about.
        finding: what VirusTotal said; `unknown` with its response: it does not know the file.
        fetched_at: when.
    """

    sha256: str
    finding: ProviderVerdict
    fetched_at: dt.datetime


def kept_answers(folder: Path, provider: VirusTotal, clock: Clock, result: ImportedCache) -> Iterator[KeptAnswer]:
    """Yield the answers in a folder, and count them as they are read.

    Args:
        folder: the cache; symbolic links in it are not followed.
        provider: reads the answers.
        clock: the time; no answer is younger.
        result: where they are counted, all but `expired`; what holds no answer is listed there.

    Raises:
        InputNotFound, InputNotReadable: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputNotFound(f"{folder}: no such folder; give the folder of the cache that v3 wrote")
    for path, named in _answers(folder, result):
        result.files += 1
        read = _read(path, named, provider, clock.now())
        if isinstance(read, str):
            result.unreadable.append((str(path), read))
            continue
        is_unknown = "error" in read.finding.response
        result.unknown += is_unknown
        result.found += not is_unknown
        yield read


def _answers(folder: Path, result: ImportedCache) -> Iterator[tuple[Path, str | None]]:
    """Yield each file that is an answer by its name, in order, and the hash that the name says, if it says one."""

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


def _read(path: Path, named: str | None, provider: VirusTotal, now: dt.datetime) -> KeptAnswer | str:
    """Return the answer in a file, or why it is none."""
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
        case Found(finding):
            return KeptAnswer(sha256, finding, fetched_at)
        case Unknown(response):
            return KeptAnswer(sha256, unknown(response), fetched_at)
    return "no answer of VirusTotal about a file"


def _hash_in(content: bytes) -> str | None:
    """Return the SHA-256 that an answer is about."""
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
