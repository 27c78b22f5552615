"""Captured files, listed by hash."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, func, select

from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, VERDICTS
from cowrieprocessor.db.enrichment.shown_verdict import file_verdict, may_be_shown
from cowrieprocessor.db.enrichment.staged_answers import staging_providers
from cowrieprocessor.db.models import FileHash, Files, SessionSummary
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.loader.rows.file_mentions import NAME, URL
from cowrieprocessor.reporting.queries.file_mentions import files_mentioned
from cowrieprocessor.reporting.queries.paging import (
    EARLIEST,
    Bytewise,
    Page,
    after_descending,
    page_of,
    parse_count_cursor,
    parse_time_cursor,
    time_cursor,
)
from cowrieprocessor.reporting.queries.sensors import file_on_sensor, require_sensor
from cowrieprocessor.reporting.queries.shown import visible

FileOrder = Literal["last-seen", "first-seen", "sessions"]
HashTimes = tuple[str, dt.datetime, dt.datetime]
"""A SHA-256, and when it was first and last seen."""

_NAME_SAMPLE_ROWS = 100
_HASHES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files to list; None means no restriction.

    Attributes:
        verdict: one of `SHOWN_VERDICTS`.
        since: last seen at this time or later.
        until: first seen before this time.
        sensor: seen by this sensor.
        name: part of a name that the file had in any session; the case of ASCII letters is ignored.
        url: part of a URL that the file came from in any session, likewise.
    """

    verdict: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    sensor: str | None = None
    name: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class FileListing:
    """One hash in a list; `name` is its name when first seen, else when last seen, else from any session."""

    sha256: str
    name: str | None
    size_bytes: int | None
    mime_type: str | None
    verdict: str
    family: str | None
    vt_positives: int | None
    vt_total: int | None
    session_count: int
    first_seen: dt.datetime
    last_seen: dt.datetime
    enrichment_status: str


def list_files(
    connection: Connection,
    filters: FileFilter = FileFilter(),
    *,
    order: FileOrder = "last-seen",
    limit: int = 50,
    after: str | None = None,
) -> Page[FileListing]:
    """Return one page of the files, newest (or most frequent) first.

    Args:
        connection: a connection in a transaction.
        filters: which files to list.
        order: by the time last or first seen, or by the number of sessions; always descending, then by hash.
        limit: rows per page, at least 1.
        after: the cursor of an earlier page.

    Raises:
        ConfigurationError: `after` is not a cursor of this list.
        NotFound: the database has no such sensor.
    """
    sorted_by: ColumnElement[Any] = {
        "last-seen": FileHash.last_seen,
        "first-seen": FileHash.first_seen,
        "sessions": FileHash.session_count,
    }[order].expression
    staging = staging_providers(connection)
    shown_verdict = file_verdict(staging)
    query = _filtered(
        select(
            FileHash.sha256,
            FileHash.size_bytes,
            FileHash.mime_type,
            shown_verdict.label("verdict"),
            FileHash.family,
            FileHash.vt_positives,
            FileHash.vt_total,
            FileHash.session_count,
            FileHash.first_seen,
            FileHash.last_seen,
            FileHash.enrichment_status,
        ),
        filters,
        shown_verdict,
        staging,
    )
    query = query.where(sorted_by >= (0 if order == "sessions" else EARLIEST))
    if after is not None:
        value, sha256 = parse_count_cursor(after) if order == "sessions" else parse_time_cursor(after)
        if value is None:
            raise ConfigurationError(f"--after {after!r}: not a cursor of this list")
        query = query.where(after_descending(sorted_by, value, Bytewise(FileHash.sha256), sha256))
    query = query.order_by(sorted_by.desc(), Bytewise(FileHash.sha256)).limit(limit + 1)
    rows = connection.execute(query).mappings().all()
    if not rows and filters.sensor is not None:
        require_sensor(connection, filters.sensor)
    names = find_names(connection, [(row["sha256"], row["first_seen"], row["last_seen"]) for row in rows[:limit]])
    files = [FileListing(name=names.get(row["sha256"]), **row) for row in rows]

    def cursor_of(file: FileListing) -> str:
        if order == "sessions":
            return f"{file.session_count},{file.sha256}"
        return time_cursor(file.first_seen if order == "first-seen" else file.last_seen, file.sha256)

    return page_of(files, limit, cursor_of)


def _filtered(
    query: Select[*tuple[Any, ...]], filters: FileFilter, shown_verdict: ColumnElement[str], staging: Sequence[str]
) -> Select[*tuple[Any, ...]]:
    if filters.verdict is not None:
        # What is stored comes first: it has an index.
        stored = filters.verdict if filters.verdict in VERDICTS else UNKNOWN
        query = query.where(FileHash.verdict == stored)
        if stored == UNKNOWN:
            query = query.where(may_be_shown(filters.verdict, staging), shown_verdict == filters.verdict)
    if filters.since is not None:
        query = query.where(FileHash.last_seen >= filters.since)
    if filters.until is not None:
        query = query.where(FileHash.first_seen < filters.until)
    for kind, part in ((NAME, filters.name), (URL, filters.url)):
        if part is not None:
            query = query.where(FileHash.sha256.in_(files_mentioned(kind, part)))
    if filters.sensor is not None:
        seen = (
            select(Files.id)
            .outerjoin(SessionSummary, SessionSummary.session_id == Files.session_id)
            .where(Files.shasum == FileHash.sha256, file_on_sensor(filters.sensor))
        )
        query = query.where(seen.exists())
    return query


def find_names(connection: Connection, hashes: Sequence[HashTimes]) -> dict[str, str]:
    """Return a name for each of these hashes that has one.

    It is the name in the first sighting, else in the last. Both are looked up by their time, so that a hash of a
    hundred thousand sessions costs no more than any other. Only if neither has a name is a sample of rows read.

    Args:
        connection: a connection in a transaction.
        hashes: SHA-256 and the times first and last seen.
    """
    names: dict[str, str] = {}
    for start in range(0, len(hashes), _HASHES_AT_ONCE):
        chunk = hashes[start : start + _HASHES_AT_ONCE]
        names.update(_names_by_time(connection, chunk))
        missing = {sha256 for sha256, _, _ in chunk} - names.keys()
        if missing:
            names.update(_sampled_names(connection, missing))
    return names


def _names_by_time(connection: Connection, hashes: Sequence[HashTimes]) -> dict[str, str]:
    """Return the name of each hash in its first sighting, else in its last; of several names the least."""
    sha256s = {sha256 for sha256, _, _ in hashes}
    moments = {moment for _, first, last in hashes for moment in (first, last)}
    # coalesce() keeps the planner from the index on the hash: the one on the time finds far fewer rows.
    sightings = connection.execute(
        select(Files.shasum, Files.first_seen, visible(Files.filename)).where(
            Files.first_seen.in_(moments),
            func.coalesce(Files.shasum, "").in_(sha256s),
            Files.filename.is_not(None),
        )
    )
    by_time: dict[tuple[str, dt.datetime], str] = {}
    for sha256, moment, name in sightings:
        by_time[sha256, moment] = min(str(name), by_time.get((sha256, moment), str(name)))
    return {
        sha256: name
        for sha256, first, last in hashes
        if (name := by_time.get((sha256, first)) or by_time.get((sha256, last)))
    }


def _sampled_names(connection: Connection, sha256s: AbstractSet[str]) -> dict[str, str]:
    """Return the least name of each hash in a sample of its sightings."""
    sample = (
        select(visible(Files.filename).label("filename"))
        .where(Files.shasum == FileHash.sha256)
        .limit(_NAME_SAMPLE_ROWS)
    )
    sampled = sample.correlate(FileHash).subquery()
    least_name = select(func.min(Bytewise(sampled.c.filename))).scalar_subquery()
    rows = connection.execute(select(FileHash.sha256, least_name).where(FileHash.sha256.in_(sha256s)))
    return {sha256: name for sha256, name in rows if name}
