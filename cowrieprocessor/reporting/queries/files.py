"""Captured files: the list by hash."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, func, select

from cowrieprocessor.db.models import FileHash, Files, SessionSummary
from cowrieprocessor.errors import ConfigurationError
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
from cowrieprocessor.reporting.queries.sensors import file_on_sensor

FileOrder = Literal["last-seen", "first-seen", "sessions"]
VERDICTS = ("malicious", "suspicious", "clean", "known-good", "unknown")
_NAME_SAMPLE_ROWS = 100
_HASHES_AT_ONCE = 500
_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files to list; what is None does not filter.

    Attributes:
        verdict: one of `VERDICTS`.
        since: last seen then or later.
        until: first seen before then.
        sensor: seen by that sensor.
        name: part of a name it had in some session, in any case of ASCII letters.
    """

    verdict: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    sensor: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class FileListing:
    """One hash in a list. `name` is the one it had when first or last seen, else one of some session."""

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
        filters: which files.
        order: by the last or first time seen, or by the number of sessions; always descending, then by hash.
        limit: rows on the page, at least 1.
        after: the cursor of an earlier page.

    Raises:
        ConfigurationError: `after` is not a cursor of this list.
    """
    sorted_by: ColumnElement[Any] = {
        "last-seen": FileHash.last_seen,
        "first-seen": FileHash.first_seen,
        "sessions": FileHash.session_count,
    }[order].expression
    query = _filtered(
        select(
            FileHash.sha256,
            FileHash.size_bytes,
            FileHash.mime_type,
            FileHash.verdict,
            FileHash.family,
            FileHash.vt_positives,
            FileHash.vt_total,
            FileHash.session_count,
            FileHash.first_seen,
            FileHash.last_seen,
            FileHash.enrichment_status,
        ),
        filters,
    )
    query = query.where(sorted_by >= (0 if order == "sessions" else EARLIEST))
    if after is not None:
        value, sha256 = parse_count_cursor(after) if order == "sessions" else parse_time_cursor(after)
        if value is None:
            raise ConfigurationError(f"--after {after!r}: not a cursor of this list")
        query = query.where(after_descending(sorted_by, value, Bytewise(FileHash.sha256), sha256))
    query = query.order_by(sorted_by.desc(), Bytewise(FileHash.sha256)).limit(limit + 1)
    found = connection.execute(query).mappings().all()
    names = names_of(connection, [(row["sha256"], row["first_seen"], row["last_seen"]) for row in found[:limit]])
    rows = [FileListing(name=names.get(row["sha256"]), **row) for row in found]

    def cursor_of(row: FileListing) -> str:
        if order == "sessions":
            return f"{row.session_count},{row.sha256}"
        return time_cursor(row.first_seen if order == "first-seen" else row.last_seen, row.sha256)

    return page_of(rows, limit, cursor_of)


def _filtered(query: Select[*tuple[Any, ...]], filters: FileFilter) -> Select[*tuple[Any, ...]]:
    if filters.verdict is not None:
        query = query.where(FileHash.verdict == filters.verdict)
    if filters.since is not None:
        query = query.where(FileHash.last_seen >= filters.since)
    if filters.until is not None:
        query = query.where(FileHash.first_seen < filters.until)
    if filters.name is not None:
        part = filters.name.translate(_ASCII_LOWER)
        named = func.lower(Bytewise(Files.filename)).contains(part, autoescape=True)
        query = query.where(FileHash.sha256.in_(select(Files.shasum).where(named)))
    if filters.sensor is not None:
        seen = (
            select(Files.id)
            .outerjoin(SessionSummary, SessionSummary.session_id == Files.session_id)
            .where(Files.shasum == FileHash.sha256, file_on_sensor(filters.sensor))
        )
        query = query.where(seen.exists())
    return query


def names_of(connection: Connection, hashes: Sequence[tuple[str, dt.datetime, dt.datetime]]) -> dict[str, str]:
    """Return one name for each of these hashes (with the first and the last time it was seen) that has any.

    It is the name in the sighting that was first, else in the last; both are found by their time, so that a
    hash of a hundred thousand sessions costs no more than another. Only without those, some rows are read.
    """
    names: dict[str, str] = {}
    for start in range(0, len(hashes), _HASHES_AT_ONCE):
        names.update(_names_of_some(connection, hashes[start : start + _HASHES_AT_ONCE]))
    return names


def _names_of_some(connection: Connection, hashes: Sequence[tuple[str, dt.datetime, dt.datetime]]) -> dict[str, str]:
    wanted = {sha256 for sha256, _, _ in hashes}
    moments = {moment for _, first, last in hashes for moment in (first, last)}
    # coalesce() keeps the planner from the index on the hash: the one on the time finds far fewer rows.
    sightings = connection.execute(
        select(Files.shasum, Files.first_seen, Files.filename).where(
            Files.first_seen.in_(moments),
            func.coalesce(Files.shasum, "").in_(wanted),
            Files.filename.is_not(None),
        )
    )
    by_time: dict[tuple[str, dt.datetime], str] = {}
    for sha256, moment, name in sightings:
        by_time[sha256, moment] = min(str(name), by_time.get((sha256, moment), str(name)))
    names = {
        sha256: name
        for sha256, first, last in hashes
        if (name := by_time.get((sha256, first)) or by_time.get((sha256, last)))
    }
    if missing := wanted - names.keys():
        sample = select(Files.filename).where(Files.shasum == FileHash.sha256).limit(_NAME_SAMPLE_ROWS)
        sampled = sample.correlate(FileHash).subquery()
        name_of = select(func.min(Bytewise(sampled.c.filename))).scalar_subquery()
        found = connection.execute(select(FileHash.sha256, name_of).where(FileHash.sha256.in_(missing)))
        names.update({sha256: name for sha256, name in found if name})
    return names
