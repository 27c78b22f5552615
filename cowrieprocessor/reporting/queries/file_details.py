"""One captured file, found by its hash or a prefix of it, with all its names, URLs, sources and sensors."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, and_, select

from cowrieprocessor.db.enrichment.shown_verdict import file_verdict
from cowrieprocessor.db.enrichment.staged_answers import staging_providers
from cowrieprocessor.db.models import FileHash
from cowrieprocessor.errors import ConfigurationError, NotFound
from cowrieprocessor.loader.rows.file_mentions import NAME, URL
from cowrieprocessor.reporting.queries.backfill import FILES_JOB, not_yet
from cowrieprocessor.reporting.queries.file_history import SourceVerdict, source_verdicts
from cowrieprocessor.reporting.queries.file_mentions import Mention, mentions_of_file
from cowrieprocessor.reporting.queries.file_sessions import list_file_sessions
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.sensors import ARTIFACT

MIN_PREFIX_CHARS = 6
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_SHOWN_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Sightings:
    """A value seen with a file (an origin, a sensor), and the number of sessions it was seen in."""

    value: str
    sessions: int


@dataclass(frozen=True, slots=True)
class FileDetails:
    """One file, identified by its content, with everything that is known about it.

    Attributes:
        sources: each source's current answer and queue state.
        names: its names in all sessions, the most frequent first; `names_total` counts all of them.
        urls: its download URLs in all sessions, the most frequent first; `urls_total` counts all of them.
        addresses: number of distinct source addresses.
        sightings_read: number of sessions (the latest) over which origins, sensors and addresses are counted.
    """

    sha256: str
    md5: str | None
    sha1: str | None
    tlsh: str | None
    size_bytes: int | None
    mime_type: str | None
    file_type: str | None
    verdict: str
    family: str | None
    reputation: int | None
    reputation_reasons: tuple[str, ...]
    vt_classification: str | None
    vt_description: str | None
    vt_malicious: bool
    vt_positives: int | None
    vt_total: int | None
    vt_first_seen: dt.datetime | None
    vt_last_analysis: dt.datetime | None
    vt_scan_date: dt.datetime | None
    enrichment_status: str
    first_seen: dt.datetime
    last_seen: dt.datetime
    session_count: int
    sources: tuple[SourceVerdict, ...]
    origins: tuple[Sightings, ...]
    sensors: tuple[Sightings, ...]
    addresses: int
    names: tuple[Mention, ...]
    names_total: int
    urls: tuple[Mention, ...]
    urls_total: int
    sightings_read: int


def find_hash(connection: Connection, text: str) -> str:
    """Return the SHA-256 of the file that the user means.

    Args:
        connection: a connection in a transaction.
        text: a SHA-256 or a prefix of one (at least 6 characters), or a whole MD5 or SHA-1; case is ignored.

    Raises:
        ConfigurationError: the text is too short, too long or not hexadecimal.
        NotFound: no file of the database matches, or several do.
    """
    prefix = text.strip().lower()
    if not _HEX.fullmatch(prefix) or not MIN_PREFIX_CHARS <= len(prefix) <= 64:
        raise ConfigurationError(
            f"{text!r:.80} is not a hash: give a SHA-256, its first {MIN_PREFIX_CHARS} or more characters, "
            "an MD5 or a SHA-1"
        )
    exact = len(prefix) == 64
    matches = FileHash.sha256 == prefix
    if not exact:
        matches = and_(FileHash.sha256 >= prefix, FileHash.sha256 < f"{prefix}g")
    ordered = select(FileHash.sha256).order_by(Bytewise(FileHash.sha256)).limit(_SHOWN_CANDIDATES + 1)
    hashes = list(connection.scalars(ordered.where(matches)))
    if not hashes and len(prefix) in (32, 40):
        column = FileHash.md5 if len(prefix) == 32 else FileHash.sha1
        hashes = list(connection.scalars(ordered.where(column == prefix)))
    if not hashes:
        missing = not_yet(connection, [FILES_JOB])
        raise NotFound(f"no file with the hash {prefix} in this database; `files list` shows them{missing}")
    if len(hashes) > 1:
        candidates = ", ".join(hashes[:_SHOWN_CANDIDATES]) + (", ..." if len(hashes) > _SHOWN_CANDIDATES else "")
        raise NotFound(f"{prefix} is the beginning of several hashes: {candidates}; give more characters")
    return hashes[0]


def file_details(
    connection: Connection,
    sha256: str,
    *,
    max_sightings: int = 2_000,
    max_values: int = 100,
) -> FileDetails:
    """Return everything that is known about one file.

    Args:
        connection: a connection in a transaction.
        sha256: the whole hash, in lower case.
        max_sightings: number of sessions (the latest) over which origins, sensors and addresses are counted.
        max_values: number of names and of URLs to return.

    Raises:
        NotFound: the database has no such file.
    """
    row = _hash_row(connection, sha256)
    sessions = list_file_sessions(connection, sha256, limit=max_sightings, captured=True).rows
    in_logs = [session for session in sessions if session.origin != ARTIFACT]
    names = mentions_of_file(connection, sha256, NAME, max_values)
    urls = mentions_of_file(connection, sha256, URL, max_values)
    return FileDetails(
        **{key: row[key] for key in _COLUMNS},
        verdict=row["shown_verdict"],
        reputation_reasons=tuple(row["reputation_reasons"] or ()),
        sources=source_verdicts(connection, sha256),
        origins=_ranked(_count(session.origin for session in sessions)),
        sensors=_ranked(_count(session.sensor for session in sessions)),
        addresses=len(_count(session.src_ip for session in sessions)),
        names=names.top,
        names_total=names.total,
        urls=urls.top,
        urls_total=urls.total,
        sightings_read=len(in_logs),
    )


_COLUMNS = tuple(
    name
    for name in FileDetails.__dataclass_fields__
    if name in FileHash.__table__.columns and name not in ("reputation_reasons", "verdict")
)


def _hash_row(connection: Connection, sha256: str) -> RowMapping:
    """Return the row of `file_hashes`, or raise NotFound."""
    verdict = file_verdict(staging_providers(connection)).label("shown_verdict")
    row = connection.execute(select(FileHash.__table__, verdict).where(FileHash.sha256 == sha256)).mappings().first()
    if row is None:
        raise NotFound(f"no file with the hash {sha256} in this database; `files list` shows them")
    return row


def _count(values: Iterable[str | None]) -> Counter[str]:
    return Counter(value for value in values if value is not None)


def _ranked(counts: Counter[str]) -> tuple[Sightings, ...]:
    return tuple(Sightings(*item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
