"""One captured file, found by its hash or a prefix of it, with all its names, URLs, sources and sensors."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, RowMapping, Text, and_, cast, func, select

from cowrieprocessor.db.enrichment.shown_verdict import file_verdict, staging_providers
from cowrieprocessor.db.models import FileHash, RawEvent
from cowrieprocessor.errors import ConfigurationError, InvalidShasum, NotFound
from cowrieprocessor.events import FILE_DOWNLOAD, FILE_UPLOAD
from cowrieprocessor.json_text import stored_fields
from cowrieprocessor.reporting.queries.backfill import FILES_JOB, not_yet
from cowrieprocessor.reporting.queries.file_history import SourceVerdict, source_verdicts
from cowrieprocessor.reporting.queries.file_sessions import FileSession, list_file_sessions
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.sensors import ARTIFACT
from cowrieprocessor.sanitize import visible

if TYPE_CHECKING:
    from cowrieprocessor.loader.file_processor import FileSighting

MIN_PREFIX_CHARS = 6
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_SHOWN_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Sightings:
    """A value seen with a file (a name, a URL, a sensor), and the number of sessions it was seen in."""

    value: str
    sessions: int


@dataclass(frozen=True, slots=True)
class FileDetails:
    """One file, identified by its content, with everything that is known about it.

    Attributes:
        sources: each source's current answer and queue state.
        names: its names, the most frequent first; `names_total` counts all of them.
        urls: its download URLs, the most frequent first; `urls_total` counts all of them.
        addresses: number of distinct source addresses.
        sightings_read: number of sessions (the latest) over which names, URLs, origins, sensors and addresses are
            counted.
        events_read: number of these whose events were read, too, for names and URLs that their rows do not keep.
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
    names: tuple[Sightings, ...]
    names_total: int
    urls: tuple[Sightings, ...]
    urls_total: int
    sightings_read: int
    events_read: int


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
    read_events_of: int = 200,
    max_values: int = 100,
) -> FileDetails:
    """Return everything that is known about one file.

    Args:
        connection: a connection in a transaction.
        sha256: the whole hash, in lower case.
        max_sightings: number of sessions (the latest) over which names, URLs, sensors and addresses are counted.
        read_events_of: number of these (the latest) whose events are read: a row of `files` keeps one name and one
            URL, but a session can fetch one file under several.
        max_values: number of names and of URLs to return.

    Raises:
        NotFound: the database has no such file.
    """
    row = _hash_row(connection, sha256)
    sessions = list_file_sessions(connection, sha256, limit=max_sightings, captured=True).rows
    in_logs = [session for session in sessions if session.origin != ARTIFACT]
    with_events = in_logs[:read_events_of]
    event_names, event_urls = _count_event_values(connection, sha256, with_events)
    names = _count(session.filename for session in sessions) + event_names
    urls = _count(session.download_url for session in sessions) + event_urls
    return FileDetails(
        **{key: row[key] for key in _COLUMNS},
        verdict=row["shown_verdict"],
        reputation_reasons=tuple(row["reputation_reasons"] or ()),
        sources=source_verdicts(connection, sha256),
        origins=_ranked(_count(session.origin for session in sessions)),
        sensors=_ranked(_count(session.sensor for session in sessions)),
        addresses=len(_count(session.src_ip for session in sessions)),
        names=_ranked(names)[:max_values],
        names_total=len(names),
        urls=_ranked(urls)[:max_values],
        urls_total=len(urls),
        sightings_read=len(in_logs),
        events_read=len(with_events),
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


def _count_event_values(
    connection: Connection, sha256: str, sessions: Sequence[FileSession]
) -> tuple[Counter[str], Counter[str]]:
    """Return names and URLs of the file that are in the sessions' events but not in their rows, once per session."""
    rows = {session.session_id: session for session in sessions}
    names: set[tuple[str, str]] = set()
    urls: set[tuple[str, str]] = set()
    for sighting in _event_sightings(connection, sha256, list(rows)):
        row = rows[sighting.session_id]
        name, url = (text and visible(text) for text in (sighting.filename, sighting.download_url))
        if name is not None and name != row.filename:
            names.add((sighting.session_id, name))
        if url is not None and url != row.download_url:
            urls.add((sighting.session_id, url))
    return Counter(name for _, name in names), Counter(url for _, url in urls)


def _event_sightings(connection: Connection, sha256: str, session_ids: Sequence[str]) -> Iterator[FileSighting]:
    """Yield the sightings of one file in the events of these sessions."""
    from cowrieprocessor.loader.file_processor import file_sighting

    if not session_ids:
        return
    # coalesce() keeps the planner from the index on event_type, which would read every file event there is.
    events = (
        select(RawEvent.session_id, cast(RawEvent.payload, Text))
        .where(
            RawEvent.session_id.in_(session_ids),
            func.coalesce(RawEvent.event_type, "").in_((FILE_DOWNLOAD, FILE_UPLOAD)),
        )
        .execution_options(yield_per=500)
    )
    for session_id, payload in connection.execute(events):
        try:
            sighting = file_sighting(stored_fields(payload), session_id or "")
        except InvalidShasum:
            continue
        if sighting is not None and sighting.sha256 == sha256:
            yield sighting
