"""One captured file: found by its hash or the beginning of it, with all its names, sources and sensors."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, select

from cowrieprocessor.db.models import FileHash, RawEvent
from cowrieprocessor.errors import ConfigurationError, InvalidShasum, NotFound
from cowrieprocessor.events import FILE_DOWNLOAD, FILE_UPLOAD
from cowrieprocessor.reporting.queries.file_history import SourceVerdict, source_verdicts
from cowrieprocessor.reporting.queries.file_sessions import FileSession, list_file_sessions
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.sensors import ARTIFACT

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
        sources: what each source says of it now, and how it stands in the queue.
        names: names it had, the most frequent first; `names_total` counts all of them.
        urls: where it was fetched from, as `names`.
        addresses: how many different addresses dropped it.
        sightings_read: of how many sessions (the latest) names, URLs, origins, sensors and addresses are counted.
        events_read: of how many of these also the events were read, for names and URLs that their rows do not keep.
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
        raise NotFound(f"no file with the hash {prefix} in this database; `cowrieprocessor files list` shows them")
    if len(found) > 1:
        candidates = ", ".join(found[:_SHOWN_CANDIDATES]) + (", ..." if len(found) > _SHOWN_CANDIDATES else "")
        raise NotFound(f"{prefix} is the beginning of several hashes: {candidates}; give more characters")
    return found[0]


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
        max_sightings: of how many sessions (the latest) names, URLs, sensors and addresses are counted.
        read_events_of: of how many of these (the latest) the events are read: each row of `files` keeps one name
            and one URL, but a session can fetch one file under several.
        max_values: how many names and URLs to return.

    Raises:
        NotFound: the database has no such file.
    """
    hashed = connection.execute(select(FileHash.__table__).where(FileHash.sha256 == sha256)).mappings().first()
    if hashed is None:
        raise NotFound(f"no file with the hash {sha256} in this database; `cowrieprocessor files list` shows them")
    sightings = list_file_sessions(connection, sha256, limit=max_sightings).rows
    read = [sighting for sighting in sightings if sighting.origin != ARTIFACT][:read_events_of]
    names = Counter(sighting.filename for sighting in sightings if sighting.filename is not None)
    urls = Counter(sighting.download_url for sighting in sightings if sighting.download_url is not None)
    _add_beyond_rows(connection, sha256, read, names, urls)
    return FileDetails(
        **{key: hashed[key] for key in _COLUMNS},
        reputation_reasons=tuple(hashed["reputation_reasons"] or ()),
        sources=source_verdicts(connection, sha256),
        origins=_ranked(Counter(sighting.origin for sighting in sightings)),
        sensors=_ranked(Counter(sighting.sensor for sighting in sightings if sighting.sensor is not None)),
        addresses=len({sighting.src_ip for sighting in sightings if sighting.src_ip is not None}),
        names=_ranked(names)[:max_values],
        names_total=len(names),
        urls=_ranked(urls)[:max_values],
        urls_total=len(urls),
        sightings_read=len(sightings),
        events_read=len(read),
    )


_COLUMNS = tuple(
    name
    for name in FileDetails.__dataclass_fields__
    if name in FileHash.__table__.columns and name != "reputation_reasons"
)


def _ranked(counts: Counter[str]) -> tuple[Sightings, ...]:
    return tuple(Sightings(*item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _add_beyond_rows(
    connection: Connection, sha256: str, read: Sequence[FileSession], names: Counter[str], urls: Counter[str]
) -> None:
    """Count the names and URLs that events of sessions give the file and that their rows do not keep."""
    from cowrieprocessor.loader.file_processor import file_sighting

    kept = {sighting.session_id: sighting for sighting in read}
    # coalesce() keeps the planner from the index on event_type, which would read every file event there is.
    events = (
        select(RawEvent.session_id, RawEvent.payload)
        .where(
            RawEvent.session_id.in_(list(kept)),
            func.coalesce(RawEvent.event_type, "").in_((FILE_DOWNLOAD, FILE_UPLOAD)),
        )
        .execution_options(yield_per=500)
    )
    seen: set[tuple[str, str, str]] = set()
    for session_id, payload in connection.execute(events) if kept else ():
        try:
            sighting = file_sighting(payload, session_id)
        except InvalidShasum:
            continue
        if sighting is None or sighting.sha256 != sha256:
            continue
        row = kept[session_id]
        for counts, kind, value, in_row in (
            (names, "name", sighting.filename, row.filename),
            (urls, "url", sighting.download_url, row.download_url),
        ):
            if value is not None and value != in_row and (kind, value, session_id) not in seen:
                seen.add((kind, value, session_id))
                counts[value] += 1
