"""Statements on followed files: the last observed state of each file, and the bytes lost from each log."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, insert, select, update

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest import log_files
from cowrieprocessor.db.models import Base
from cowrieprocessor.sanitize import inert

SHOWN_LOSSES = 10

_FILE = Base.metadata.tables["followed_files"]
_LOG = Base.metadata.tables["log_files"]


@dataclass(frozen=True, slots=True)
class SeenFile:
    """Last observed state of a file: one row of `followed_files`.

    Attributes:
        file_key: identifies the path on its host, see `file_key_of`; column `place`.
        host: host of the file where the database is on a server, else empty.
        signature: size, mtime_ns and ctime_ns; (0, 0, 0) if the file was not read to its end.
        log: identity and generation of the log in the file; None until it has a complete object.
        bytes_pending: bytes observed but not stored yet; in the database as bytes_seen beyond the log's cursor.
        origin: former `file_key` of a file that lost its path; not in the database.
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
        """Return this state under a key of its own, for a file that left its path; its log may be elsewhere."""
        if self.origin:
            return self
        displaced_key = hashlib.sha256(repr((self.file_key, self.device, self.inode, self.log)).encode())
        return replace(self, file_key=displaced_key.hexdigest(), origin=self.file_key)

    def is_from_same_file(self, other: SeenFile) -> bool:
        """Return whether both states describe the same file (device and inode)."""
        return (self.device, self.inode) == (other.device, other.inode)

    def detects_same_loss_as(self, other: SeenFile) -> bool:
        """Return whether `other` would detect the same loss; bytes already stored cannot be lost."""
        if (self.log, self.device, self.inode) != (other.log, other.device, other.inode):
            return False
        return not self.bytes_pending or self.bytes_seen == other.bytes_seen

    def row(self) -> dict[str, Any]:
        """Return the state as a row of `followed_files`."""
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
class LogLoss:
    """Bytes lost from one log, and its last path."""

    path: str
    bytes_lost: int


@dataclass(frozen=True, slots=True)
class Losses:
    """Log data that was observed but destroyed before it could be read.

    Attributes:
        logs: number of logs with losses.
        bytes_lost: bytes lost from all logs.
        largest: the logs with the largest losses, at most SHOWN_LOSSES.
    """

    logs: int = 0
    bytes_lost: int = 0
    largest: tuple[LogLoss, ...] = ()


def followed_host(engine: Engine) -> str:
    """Return the host for file keys: empty for a database file, since only clients of a server can share paths."""
    return "" if dialect_of(engine).files is not None else socket.gethostname()


def file_key_of(host: str, path: Path) -> str:
    """Return the key of a file in `followed_files`."""
    return hashlib.sha256(f"{host}\0".encode() + os.fsencode(path)).hexdigest()


def seen_files(connection: Connection) -> list[SeenFile]:
    """Return the last observed state of every file, on all hosts."""
    is_its_log = and_(_LOG.c.identity == _FILE.c.identity, _LOG.c.generation == _FILE.c.generation)
    rows = connection.execute(select(_FILE, _LOG.c.byte_pos).outerjoin(_LOG, is_its_log)).mappings()
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
            bytes_pending=0 if row["byte_pos"] is None else max(0, row["bytes_seen"] - row["byte_pos"]),
        )
        for row in rows
    ]


def save(connection: Connection, files: Iterable[SeenFile]) -> None:
    """Insert or update the states of files."""
    for file in sorted(files, key=lambda file: file.file_key):
        row = file.row()
        if not connection.execute(update(_FILE).where(_FILE.c.place == file.file_key).values(row)).rowcount:
            connection.execute(insert(_FILE).values(row))


def forget(connection: Connection, file_keys: Iterable[str]) -> None:
    """Delete the states of files that no longer exist."""
    for file_key in sorted(file_keys):
        connection.execute(delete(_FILE).where(_FILE.c.place == file_key))


def keep_extent(connection: Connection, file: SeenFile) -> None:
    """Record how far a log extends in a file, with a batch of it; the state of another log there is unchanged."""
    row = file.row() | {"updated_at": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")}
    cursor = connection.connection.cursor()
    try:
        cursor.execute(
            dialect_of(connection).sql.statement(
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
    """Return the `log_files` row of a log, None if there is none."""
    query = select(_LOG).where(_LOG.c.identity == log[0], _LOG.c.generation == log[1])
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def set_gap(connection: Connection, log: tuple[str, int], bytes_gap: int) -> None:
    """Record how many bytes after a log's checkpoint are lost."""
    connection.execute(
        update(_LOG)
        .where(_LOG.c.identity == log[0], _LOG.c.generation == log[1])
        .values(bytes_gap=bytes_gap, updated_at=dt.datetime.now(dt.UTC))
    )


def add_lost_log(connection: Connection, file: SeenFile) -> None:
    """Record a file that was destroyed before it had a complete object, so that nothing of it was stored."""
    identity = hashlib.sha256(repr((file.file_key, file.device, file.inode, file.head_digest)).encode()).hexdigest()
    generations = [row["generation"] for row in log_files.generations(connection, identity)]
    source, source_generation = log_files.free_source(connection, file.path[: log_files.MAX_SOURCE_CHARS], file.inode)
    connection.execute(
        insert(_LOG).values(
            identity=identity,
            generation=1 + max(generations, default=-1),
            source=source,
            source_inode=file.inode,
            source_generation=source_generation,
            current_path=inert(file.path),
            bytes_gap=file.bytes_seen,
            updated_at=dt.datetime.now(dt.UTC),
        )
    )


def losses(connection: Connection) -> Losses:
    """Return the losses over all logs."""
    query = select(func.count(), func.coalesce(func.sum(_LOG.c.bytes_gap), 0)).where(_LOG.c.bytes_gap > 0)
    logs, bytes_lost = connection.execute(query).one()
    largest = (
        select(_LOG.c.current_path, _LOG.c.bytes_gap)
        .where(_LOG.c.bytes_gap > 0)
        .order_by(_LOG.c.bytes_gap.desc(), _LOG.c.identity, _LOG.c.generation)
        .limit(SHOWN_LOSSES)
    )
    return Losses(int(logs), int(bytes_lost), tuple(LogLoss(*row) for row in connection.execute(largest)))
