"""The tables of logs: how far each was read, what was seen of its file, and where it is damaged or shared."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import (
    BigInteger,
    Boolean,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from cowrieprocessor.db.columns import EMPTY, FALSE, ZERO, Base
from cowrieprocessor.db.saved_rows import not_saved, saved

READ_AGAIN = "a log that has such rows is read once more: see `LogFile`"


class LogFile(Base):
    """One log, independent of its name: how far it was read, and the proof that it is the same log.

    `identity` is the SHA-256 of the log's first complete JSON object with sorted keys. Its rows in `raw_events` have
    the same `source`, `source_inode` and `source_generation`. `values_done` counts the values (events and dead letters)
    before the cursor (-1 - that once the cursor was reset), `byte_pos` is the cursor in the decompressed content,
    `tail_hash` the SHA-256 of the `tail_bytes` bytes before it, `last_value_hash` the payload_hash of the last value
    before it, `last_event_at` the time (UTC text) of the last event before it that has one. bytes_stored + bytes_dead +
    bytes_nul, with bytes_foreign of `wrapped_logs`, is always byte_pos; bytes_gap counts bytes after it that were seen
    but destroyed before they could be read.
    """

    __tablename__ = "log_files"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    source: Mapped[str] = mapped_column(String(512))
    source_inode: Mapped[str] = mapped_column(String(128))
    source_generation: Mapped[int] = mapped_column(Integer)
    current_path: Mapped[str] = mapped_column(Text)
    values_done: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    next_line: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    next_offset: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    byte_pos: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    tail_hash: Mapped[str | None] = mapped_column(String(64))
    tail_bytes: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    last_value_hash: Mapped[str | None] = mapped_column(String(64))
    bytes_stored: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    bytes_dead: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    bytes_nul: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    bytes_gap: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    updated_at: Mapped[dt.datetime]
    last_event_at: Mapped[str | None] = mapped_column(String(26))

    __table_args__ = (
        PrimaryKeyConstraint("identity", "generation"),
        UniqueConstraint("source", "source_inode", "source_generation", name="uq_log_files_source"),
        Index("ix_log_files_current_path", "current_path"),
        # A log that shares events with others, or is damaged, is read once more, and each of its events looked up.
        saved("identity", "generation", not_in=("overlapping_events", "log_damage")),
    )


class FollowedFile(Base):
    """The last known state of a followed file: an unchanged file costs one stat, and lost data is detected.

    `place` is the SHA-256 of host and path. `device` to `ctime_ns` are the stat values of the file when it was last
    read to its end (0 if it was not). `identity` and `generation` name the log in it, if it has a complete object, and
    `bytes_seen` is the length of that log in the file, counted like `byte_pos` of `log_files`; without a log, the
    number of its bytes that are not NUL. `head_digest` identifies its beginning: SHA-256 and length.
    """

    __tablename__ = "followed_files"

    place: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(255), server_default=text("''"))
    path: Mapped[str] = mapped_column(Text)
    device: Mapped[str] = mapped_column(String(32))
    inode: Mapped[str] = mapped_column(String(128))
    size_bytes: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    mtime_ns: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    ctime_ns: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    identity: Mapped[str | None] = mapped_column(String(64))
    generation: Mapped[int | None] = mapped_column(Integer)
    bytes_seen: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    head_digest: Mapped[str | None] = mapped_column(String(80))
    updated_at: Mapped[dt.datetime]

    __table_args__ = (
        PrimaryKeyConstraint("place"),
        not_saved("the follower looks at each file again"),
    )


class OverlappingEvent(Base):
    """How often an event of a log was not stored, because other logs had stored as many of it.

    With the log's own rows this is how often the event stands in the log so far, which decides whether the next one is
    stored: an event is in the database as often as in the log that has most of it. `identity` and `generation` name
    the log as in `log_files`; a log that shares no event with another one has no rows.
    """

    __tablename__ = "overlapping_events"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    payload_hash: Mapped[str] = mapped_column(String(64))
    occurrences: Mapped[int] = mapped_column(Integer)

    __table_args__ = (
        PrimaryKeyConstraint("identity", "generation", "payload_hash"),
        not_saved(READ_AGAIN),
    )


class OverlappingSession(Base):
    """A session of which a log holds events that were not stored from it, because they were stored already.

    With the log's own rows these are all the sessions of the log, which its name counts for. `identity` and
    `generation` name the log as in `log_files`.
    """

    __tablename__ = "overlapping_sessions"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    session_id: Mapped[str] = mapped_column(String(64))

    __table_args__ = (
        PrimaryKeyConstraint("identity", "generation", "session_id"),
        Index("ix_overlapping_sessions_session", "session_id"),
        not_saved(READ_AGAIN),
    )


class WrappedLog(Base):
    """A log that another program keeps in a form of its own: docker, a log service, a search engine.

    `wrapper` names the form in which the log was read last. `lines_foreign` and `bytes_foreign` count the lines of
    other programs in it that were passed over; these bytes are in none of the byte counters of `log_files`. `identity`
    and `generation` name the log as in `log_files`; a log as Cowrie writes it has no row.
    """

    __tablename__ = "wrapped_logs"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    wrapper: Mapped[str] = mapped_column(String(64))
    lines_foreign: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    bytes_foreign: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)

    __table_args__ = (
        PrimaryKeyConstraint("identity", "generation"),
        saved("identity", "generation"),
    )


class LogDamage(Base):
    """A damaged place of a log: a refused value, a run of NUL bytes, or the torn value at its end (`kind`).

    `identity` and `generation` name the log as in `log_files`; `byte_start` and `byte_end` count like its `byte_pos`.
    `digest` is the BLAKE2b-256 of the refused bytes and `context` the hash of the value before them: two logs with the
    same pair have the same dead letter, and share one. `moment` is the time of the event before a torn value, or of the
    event after a value that may be the rest of one (UTC text); `raw` are the bytes of both. `is_explained` says that
    the bytes are part of an event that is stored; `has_letter` that a dead letter was stored for them; `joined` is the
    payload_hash of the event that a torn end makes together with the value with which another log begins. Copies of a
    log can end within different values: `place` is the file with the torn end, as in `followed_files`, else empty, and
    `path` where that file was.
    """

    __tablename__ = "log_damage"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    byte_start: Mapped[int] = mapped_column(BigInteger)
    byte_end: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(8))
    source_offset: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    context: Mapped[str] = mapped_column(String(64), server_default=EMPTY)
    digest: Mapped[str] = mapped_column(String(64), server_default=EMPTY)
    moment: Mapped[str | None] = mapped_column(String(26))
    raw: Mapped[bytes | None] = mapped_column(LargeBinary)
    has_letter: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)
    is_explained: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)
    joined: Mapped[str | None] = mapped_column(String(64))
    place: Mapped[str] = mapped_column(String(64), server_default=EMPTY)
    path: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        PrimaryKeyConstraint("identity", "generation", "byte_start", "kind", "place"),
        Index("ix_log_damage_place", "place"),
        Index("ix_log_damage_value", "digest", "context"),
        Index("ix_log_damage_moment", "kind", "moment"),
        not_saved(READ_AGAIN),
    )


class LogSensor(Base):
    """The sensor that a log was given by its operator; `identity` and `generation` name the log as in `log_files`."""

    __tablename__ = "log_sensors"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    sensor: Mapped[str] = mapped_column(String(255))

    __table_args__ = (
        PrimaryKeyConstraint("identity", "generation"),
        saved("identity", "generation"),
    )
