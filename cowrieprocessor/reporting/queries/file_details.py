"""One captured file: found by its hash or the beginning of it, with all its names, sources and sensors."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, distinct, func, select

from cowrieprocessor.db.models import FileHash, Files, RawEvent, SessionAttribute, SessionSummary
from cowrieprocessor.errors import ConfigurationError, InvalidShasum, NotFound
from cowrieprocessor.events import FILE_DOWNLOAD, FILE_UPLOAD
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.sensors import ARTIFACT, artifact_sensor

MIN_PREFIX_CHARS = 6
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_SHOWN_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Sightings:
    """A value seen with a file (a name, a URL, a sensor), and in how many sessions."""

    value: str
    sessions: int


@dataclass(frozen=True, slots=True)
class FileDetails:
    """One file by content, with everything that is known about it.

    Attributes:
        names: names it had, the most frequent first; `names_total` counts all of them.
        urls: where it was fetched from, as `names`.
        events_read: sessions whose events were read for names and URLs beyond the one that each row keeps.
        addresses: how many different addresses dropped it.
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
    origins: tuple[Sightings, ...]
    sensors: tuple[Sightings, ...]
    addresses: int
    names: tuple[Sightings, ...]
    names_total: int
    urls: tuple[Sightings, ...]
    urls_total: int
    events_read: int


def find_hash(connection: Connection, text: str) -> str:
    """Return the SHA-256 of the file that a person names.

    Args:
        connection: a connection in a transaction.
        text: a SHA-256, the beginning of one (at least 6 characters), or a whole MD5 or SHA-1; in any case.

    Raises:
        ConfigurationError: it is too short, too long or not hexadecimal.
        NotFound: no file of the database is meant, or several are.
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
    found = list(connection.scalars(ordered.where(matches)))
    if not found and len(prefix) in (32, 40):
        column = FileHash.md5 if len(prefix) == 32 else FileHash.sha1
        found = list(connection.scalars(ordered.where(column == prefix)))
    if not found:
        raise NotFound(
            f"no file with the hash {prefix} in this database; `cowrieprocessor files list` shows them"
        )
    if len(found) > 1:
        candidates = ", ".join(found[:_SHOWN_CANDIDATES]) + (
            ", ..." if len(found) > _SHOWN_CANDIDATES else ""
        )
        raise NotFound(f"{prefix} is the beginning of several hashes: {candidates}; give more characters")
    return found[0]


def file_details(
    connection: Connection, sha256: str, *, read_events_of: int = 200, max_values: int = 100
) -> FileDetails:
    """Return everything that is known about one file.

    Args:
        connection: a connection in a transaction.
        sha256: the whole hash, in lower case.
        read_events_of: of how many sessions (the earliest) the events are read: each row of `files` keeps one
            name and one URL, but a session can fetch one file under several.
        max_values: how many names and URLs to return.

    Raises:
        NotFound: the database has no such file.
    """
    hashed = (
        connection.execute(select(FileHash.__table__).where(FileHash.sha256 == sha256)).mappings().first()
    )
    if hashed is None:
        raise NotFound(
            f"no file with the hash {sha256} in this database; `cowrieprocessor files list` shows them"
        )
    of_file = Files.shasum == sha256
    earliest = (
        select(Files.session_id, Files.filename, Files.download_url)
        .where(of_file, Files.origin != ARTIFACT)
        .order_by(Files.first_seen, Bytewise(Files.session_id))
        .limit(read_events_of)
    )
    sessions = {row.session_id: (row.filename, row.download_url) for row in connection.execute(earliest)}
    names = _counted(connection, Files.filename, of_file)
    urls = _counted(connection, Files.download_url, of_file)
    for name, url in _beyond_rows(connection, sha256, sessions):
        if name is not None:
            names[name] += 1
        if url is not None:
            urls[url] += 1
    addresses = (
        select(func.count(distinct(SessionAttribute.src_ip)))
        .select_from(Files)
        .join(SessionAttribute, SessionAttribute.session_id == Files.session_id)
        .where(of_file)
    )
    return FileDetails(
        **{
            key: hashed[key]
            for key in FileDetails.__dataclass_fields__
            if key in hashed and key not in ("reputation_reasons", "session_count")
        },
        session_count=hashed["session_count"],
        reputation_reasons=tuple(hashed["reputation_reasons"] or ()),
        origins=_ranked(_counted(connection, Files.origin, of_file)),
        sensors=_ranked(_sensors(connection, of_file)),
        addresses=connection.scalar(addresses) or 0,
        names=_ranked(names)[:max_values],
        names_total=len(names),
        urls=_ranked(urls)[:max_values],
        urls_total=len(urls),
        events_read=len(sessions),
    )


def _sensors(connection: Connection, of_file: ColumnElement[bool]) -> Counter[str]:
    """Return the sensors that saw the file; a captured file that no log names counts for its sensor once."""
    in_sessions = (
        select(SessionSummary.matcher, func.count())
        .select_from(Files)
        .join(SessionSummary, SessionSummary.session_id == Files.session_id)
        .where(of_file)
        .group_by(SessionSummary.matcher)
    )
    sensors = _as_counter(connection.execute(in_sessions))
    for session_id in connection.scalars(select(Files.session_id).where(of_file, Files.origin == ARTIFACT)):
        sensors[artifact_sensor(session_id)] += 1
    return sensors


def _counted(connection: Connection, column: Any, condition: ColumnElement[bool]) -> Counter[str]:
    return _as_counter(connection.execute(select(column, func.count()).where(condition).group_by(column)))


def _as_counter(rows: Iterable[Any]) -> Counter[str]:
    return Counter({value: count for value, count in rows if value is not None})


def _ranked(counts: Counter[str]) -> tuple[Sightings, ...]:
    return tuple(Sightings(*item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _beyond_rows(
    connection: Connection, sha256: str, sessions: dict[str, tuple[str | None, str | None]]
) -> list[tuple[str | None, str | None]]:
    """Return the names and URLs that events of sessions give the file and that their rows do not keep."""
    from cowrieprocessor.loader.file_processor import file_sighting

    # coalesce() keeps the planner from the index on event_type, which would read every file event there is.
    events = (
        select(RawEvent.session_id, RawEvent.payload)
        .where(
            RawEvent.session_id.in_(list(sessions)),
            func.coalesce(RawEvent.event_type, "").in_((FILE_DOWNLOAD, FILE_UPLOAD)),
        )
        .execution_options(yield_per=500)
    )
    names: defaultdict[str, set[str]] = defaultdict(set)
    urls: defaultdict[str, set[str]] = defaultdict(set)
    for session_id, payload in connection.execute(events) if sessions else ():
        try:
            sighting = file_sighting(payload, session_id)
        except InvalidShasum:
            continue
        if sighting is None or sighting.sha256 != sha256:
            continue
        kept_name, kept_url = sessions[session_id]
        if sighting.filename and sighting.filename != kept_name:
            names[sighting.filename].add(session_id)
        if sighting.download_url and sighting.download_url != kept_url:
            urls[sighting.download_url].add(session_id)
    return [(name, None) for name, where in names.items() for _ in where] + [
        (None, url) for url, where in urls.items() for _ in where
    ]
