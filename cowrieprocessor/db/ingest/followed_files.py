"""The statements about followed files: what was seen of each last, and what was lost of a log."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.ingest import log_files
from cowrieprocessor.db.models import Base
from cowrieprocessor.sanitize import inert

SHOWN_LOSSES = 10

_FILE = Base.metadata.tables["followed_files"]
_LOG = Base.metadata.tables["log_files"]


@dataclass(frozen=True, slots=True)
class SeenFile:
    """What was seen of a file; the fields are the columns of `followed_files`.

    Attributes:
        host: whose file it is, on a database server.
        signature: size, mtime_ns and ctime_ns, (0, 0, 0) where the file was not read to its end.
        log: identity and generation of the log in it; None while it has no complete object.
        bytes_pending: how many of the bytes seen are not stored; not in the database.
        origin: of one without a path the place where it was; not in the database.
    """

    file_key: str
    path: str
    device: str
    inode: str
    signature: tuple[int, int, int] = (0, 0, 0)
    log: tuple[str, int] | None = None
    bytes_seen: int = 0
    head_digest: str | None = None
    host: str = ""
    bytes_pending: int = field(default=0, compare=False)
    origin: str | None = field(default=None, compare=False)

    def displaced(self) -> SeenFile:
        """Return the same under a place of its own: the file has gone from its path, its log may be elsewhere."""
        if self.origin:
            return self
        place = hashlib.sha256(repr((self.file_key, self.device, self.inode, self.log)).encode())
        return replace(self, file_key=place.hexdigest(), origin=self.file_key)

    def is_from_same_file(self, other: SeenFile) -> bool:
        """Return whether two are of one file."""
        return (self.device, self.inode) == (other.device, other.inode)

    def detects_same_loss_as(self, other: SeenFile) -> bool:
        """Return whether another one is enough to miss what disappears: bytes that are stored are not missed."""
        if (self.log, self.device, self.inode) != (other.log, other.device, other.inode):
            return False
        return not self.bytes_pending or self.bytes_seen == other.bytes_seen

    def row(self) -> dict[str, Any]:
        """Return the row."""
        size_bytes, mtime_ns, ctime_ns = self.signature
        return {
            "place": self.file_key,
            "host": self.host,
            "path": self.path,
            "device": self.device,
            "inode": self.inode,
            "size_bytes": size_bytes,
            "mtime_ns": mtime_ns,
            "ctime_ns": ctime_ns,
            "identity": self.log[0] if self.log else None,
            "generation": self.log[1] if self.log else None,
            "bytes_seen": self.bytes_seen,
            "head_digest": self.head_digest,
            "updated_at": dt.datetime.now(dt.UTC),
        }


@dataclass(frozen=True, slots=True)
class LostOfLog:
    """How much was lost of one log, and where it was last."""

    path: str
    bytes_lost: int


@dataclass(frozen=True, slots=True)
class Losses:
    """What was seen of logs and destroyed before it could be read.

    Attributes:
        logs: of how many logs something is missing.
        bytes_lost: how much in all.
        largest: the logs that lost most; SHOWN_LOSSES at most.
    """

    logs: int = 0
    bytes_lost: int = 0
    largest: tuple[LostOfLog, ...] = ()


def followed_host(engine: Engine) -> str:
    """Return whose files the paths of this database are: a server's clients may all have the same paths."""
    return "" if dialect_of(engine).files is not None else socket.gethostname()


def file_key_of(host: str, path: Path) -> str:
    """Return the key of a file in `followed_files`."""
    return hashlib.sha256(f"{host}\0".encode() + os.fsencode(path)).hexdigest()


def seen_files(connection: Connection) -> list[SeenFile]:
    """Return what was seen of every file, on all hosts."""
    rows = connection.execute(select(_FILE)).mappings()
    return [
        SeenFile(
            file_key=row["place"],
            host=row["host"],
            path=row["path"],
            device=row["device"],
            inode=row["inode"],
            signature=(row["size_bytes"], row["mtime_ns"], row["ctime_ns"]),
            log=None if row["identity"] is None else (row["identity"], row["generation"]),
            bytes_seen=row["bytes_seen"],
            head_digest=row["head_digest"],
        )
        for row in rows
    ]


def save(connection: Connection, files: Iterable[SeenFile]) -> None:
    """Write what was seen of files."""
    for one in sorted(files, key=lambda file: file.file_key):
        row = one.row()
        if not connection.execute(update(_FILE).where(_FILE.c.place == one.file_key).values(row)).rowcount:
            connection.execute(insert(_FILE).values(row))


def forget(connection: Connection, places: Iterable[str]) -> None:
    """Forget files that have gone."""
    for place in sorted(places):
        connection.execute(delete(_FILE).where(_FILE.c.place == place))


def keep_extent(connection: Connection, one: SeenFile) -> None:
    """Note how far a log goes in a file, beside a batch of it; what is known of another log there stays."""
    row = one.row() | {"updated_at": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")}
    cursor = connection.connection.cursor()
    try:
        cursor.execute(
            sql_of(connection).statement(
                f"INSERT INTO followed_files AS f ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
                " ON CONFLICT (place) DO UPDATE SET bytes_seen = excluded.bytes_seen"
                " WHERE f.identity = excluded.identity AND f.generation = excluded.generation"
                " AND f.bytes_seen < excluded.bytes_seen"
            ),
            tuple(row.values()),
        )
    finally:
        cursor.close()


def cursor_of(connection: Connection, log: tuple[str, int]) -> Mapping[str, Any] | None:
    """Return the row of a log."""
    query = select(_LOG).where(_LOG.c.identity == log[0], _LOG.c.generation == log[1])
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def set_gap(connection: Connection, log: tuple[str, int], bytes_gap: int) -> None:
    """Note how many bytes behind a log's cursor are lost."""
    connection.execute(
        update(_LOG)
        .where(_LOG.c.identity == log[0], _LOG.c.generation == log[1])
        .values(bytes_gap=bytes_gap, updated_at=dt.datetime.now(dt.UTC))
    )


def add_lost_log(connection: Connection, file: SeenFile) -> None:
    """Note that a file was destroyed of which nothing could be stored: it had no complete object yet."""
    identity = hashlib.sha256(repr((file.file_key, file.device, file.inode, file.head_digest)).encode()).hexdigest()
    known = [row["generation"] for row in log_files.generations(connection, identity)]
    source, source_generation = log_files.free_place(connection, file.path[: log_files.MAX_SOURCE_CHARS], file.inode)
    connection.execute(
        insert(_LOG).values(
            identity=identity,
            generation=1 + max(known, default=-1),
            source=source,
            source_inode=file.inode,
            source_generation=source_generation,
            current_path=inert(file.path),
            bytes_gap=file.bytes_seen,
            updated_at=dt.datetime.now(dt.UTC),
        )
    )


def losses(connection: Connection) -> Losses:
    """Return what was lost in all."""
    query = select(func.count(), func.coalesce(func.sum(_LOG.c.bytes_gap), 0)).where(_LOG.c.bytes_gap > 0)
    logs, bytes_lost = connection.execute(query).one()
    largest = (
        select(_LOG.c.current_path, _LOG.c.bytes_gap)
        .where(_LOG.c.bytes_gap > 0)
        .order_by(_LOG.c.bytes_gap.desc(), _LOG.c.identity, _LOG.c.generation)
        .limit(SHOWN_LOSSES)
    )
    return Losses(int(logs), int(bytes_lost), tuple(LostOfLog(*row) for row in connection.execute(largest)))
