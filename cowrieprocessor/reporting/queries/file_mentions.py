"""The URLs and names that events mention with files: those of one file, and the files that have a certain one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, Select, func, select

from cowrieprocessor.db.models import FileMention
from cowrieprocessor.loader.rows.file_mentions import NO_FILE
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.shown import visible

_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class Mention:
    """A name or a URL of a file, the number of sessions that mention it, and when it was first and last mentioned."""

    value: str
    sessions: int
    first_seen: dt.datetime
    last_seen: dt.datetime


@dataclass(frozen=True, slots=True)
class Mentions:
    """The mentions of most sessions, the latest first of those with as many; `total` counts all of them."""

    top: tuple[Mention, ...]
    total: int


def mentions_of_file(connection: Connection, sha256: str, kind: str, limit: int) -> Mentions:
    """Return the names or the URLs of one file.

    Args:
        connection: a connection in a transaction.
        sha256: the whole hash, in lower case.
        kind: `URL` or `NAME`.
        limit: how many to return at most.
    """
    # A session has one row for each value of a file, so that rows are sessions. All but the values is in the index.
    of_file = (FileMention.shasum == sha256, FileMention.kind == kind)
    ranked = (
        select(
            FileMention.digest,
            func.count().label("sessions"),
            func.min(FileMention.first_seen).label("first_seen"),
            func.max(FileMention.last_seen).label("last_seen"),
            func.count().over().label("total"),
        )
        .where(*of_file)
        .group_by(FileMention.digest)
        .order_by(func.count().desc(), func.max(FileMention.last_seen).desc(), Bytewise(FileMention.digest))
        .limit(limit)
        .subquery()
    )
    value = (
        select(visible(FileMention.value)).where(*of_file, FileMention.digest == ranked.c.digest).limit(1)
    ).scalar_subquery()
    rows = connection.execute(
        select(value.label("value"), ranked).order_by(
            ranked.c.sessions.desc(), ranked.c.last_seen.desc(), Bytewise(ranked.c.digest)
        )
    ).all()
    top = tuple(Mention(str(row.value), row.sessions, row.first_seen, row.last_seen) for row in rows)
    return Mentions(top, rows[0].total if rows else 0)


def files_mentioned(kind: str, part: str) -> Select[str]:
    """Return the query for the hashes of files with a text in any of their names or URLs.

    Args:
        kind: `URL` or `NAME`.
        part: the text; the case of ASCII letters is ignored.
    """
    value = func.lower(Bytewise(visible(FileMention.value)))
    return select(FileMention.shasum).where(
        FileMention.kind == kind,
        FileMention.shasum != NO_FILE,
        value.contains(part.translate(_ASCII_LOWER), autoescape=True),
    )
