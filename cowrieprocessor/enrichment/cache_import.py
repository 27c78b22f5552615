"""The warmed cache of v3, a folder of VirusTotal's answers: taken in, so that history costs no quota.

Three layouts were written: `<sha256>`, `vt_<sha256>.json` and `virustotal/<2 hex>/<64 hex>.json`, whose name says
nothing about the file. Each holds the JSON of GET /files/{hash}; its age is the file's modification time.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment_cache import store_in_cache
from cowrieprocessor.db.findings import VIRUSTOTAL, Finding
from cowrieprocessor.db.judgement import Policy
from cowrieprocessor.db.verdict_store import lock_hashes, store_answer
from cowrieprocessor.enrichment.book import unknown, with_expiry
from cowrieprocessor.enrichment.clock import Clock
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.provider import Found, Reply, Sample, Unknown
from cowrieprocessor.enrichment.virustotal import VirusTotal
from cowrieprocessor.errors import InputNotFound, InputNotReadable

MAX_ANSWER_BYTES = 8 << 20
FILES_AT_ONCE = 100

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
class _Answer:
    sha256: str
    finding: Finding
    fetched_at: dt.datetime


def import_cache(
    engine: Engine,
    folder: Path,
    provider: VirusTotal,
    *,
    policy: Policy,
    ttl: Ttl,
    clock: Clock,
    staged: bool,
    on_progress: Callable[[ImportedCache], None] | None = None,
) -> ImportedCache:
    """Take in a folder of answers. Again is a no-op; an answer older than what is known only adds to the history.

    Args:
        engine: the database, at our version.
        folder: the cache; symbolic links in it are not followed.
        provider: reads the answers.
        policy: the sources in use, and what settles a file.
        ttl: how long answers hold, from their age on.
        clock: the time.
        staged: write the cache alone (USE_NEW_ENRICHMENT=0).
        on_progress: told after each transaction.

    Raises:
        InputNotFound, InputNotReadable: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputNotFound(f"{folder}: no such folder; give the folder of the cache that v3 wrote")
    result = ImportedCache()
    waiting: list[_Answer] = []

    def write() -> None:
        if not waiting:
            return
        with write_transaction(engine) as connection:
            lock_hashes(connection, [answer.sha256 for answer in waiting])
            for answer in sorted(waiting, key=lambda one: (one.sha256, one.fetched_at)):
                _store(connection, answer, policy, ttl, clock.now(), staged=staged, result=result)
        waiting.clear()
        if on_progress is not None:
            on_progress(result)

    for path, named in _answers(folder, result):
        result.files += 1
        read = _read(path, named, provider, clock.now())
        if isinstance(read, str):
            result.unreadable.append((str(path), read))
            continue
        result.unknown += "error" in read.finding.response
        waiting.append(read)
        if len(waiting) >= FILES_AT_ONCE:
            write()
    write()
    result.found = result.files - result.unknown - len(result.unreadable)
    return result


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


def _read(path: Path, named: str | None, provider: VirusTotal, now: dt.datetime) -> _Answer | str:
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
            return _Answer(sha256, finding, fetched_at)
        case Unknown(response):
            return _Answer(sha256, unknown(response), fetched_at)
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


def _store(
    connection: Connection,
    answer: _Answer,
    policy: Policy,
    ttl: Ttl,
    now: dt.datetime,
    *,
    staged: bool,
    result: ImportedCache,
) -> None:
    until = with_expiry(connection, VIRUSTOTAL, answer.sha256, answer.finding, answer.fetched_at, ttl)
    result.expired += until <= now
    finding = answer.finding
    if staged:
        store_in_cache(
            connection, VIRUSTOTAL, answer.sha256, finding.verdict, finding.response, answer.fetched_at, until
        )
        return
    store_answer(
        connection,
        answer.sha256,
        VIRUSTOTAL,
        answer.sha256,
        finding,
        fetched_at=answer.fetched_at,
        expires_at=until,
        policy=policy,
        now=now,
    )
