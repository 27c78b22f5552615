"""The v4 schema as SQLAlchemy models: the unchanged v3 tables, and the tables that v4 adds.

The revisions in `db/revisions` create exactly these tables; a test compares them. The differences between SQLite and
PostgreSQL are in `db/dialects`, those of generated columns in `db/columns.py`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from cowrieprocessor.db.columns import EMPTY, FALSE, GENERATED_FROM_PAYLOAD, ZERO, Base, RowId, UtcDateTime
from cowrieprocessor.db.models_v3 import (
    V3_TABLES,
    CommandStat,
    DeadLetterEvent,
    IngestCursor,
    RawEvent,
    SchemaState,
    SessionSummary,
)

__all__ = [
    "FILES",
    "GENERATED_FROM_PAYLOAD",
    "HASHES",
    "V3_TABLES",
    "VERDICT_COLUMNS",
    "ApiQuota",
    "Base",
    "CommandStat",
    "DeadLetterEvent",
    "EnrichmentCacheEntry",
    "EnrichmentQueueItem",
    "FileHash",
    "FileMention",
    "FileVerdict",
    "Files",
    "FollowedFile",
    "IngestCursor",
    "Job",
    "LogDamage",
    "LogFile",
    "LogSensor",
    "OverlappingEvent",
    "OverlappingSession",
    "RawEvent",
    "RenamedSensor",
    "SchemaState",
    "SessionAttribute",
    "SessionLogin",
    "SessionSensor",
    "SessionSummary",
    "SessionToRename",
    "TwinEvent",
    "UtcDateTime",
    "VerdictPropagation",
]


VERDICT_COLUMNS = (
    "vt_classification",
    "vt_description",
    "vt_malicious",
    "vt_first_seen",
    "vt_last_analysis",
    "vt_positives",
    "vt_total",
    "vt_scan_date",
    "enrichment_status",
)
"""The columns that each row of `files` copies from the row of its hash in `file_hashes`."""


class Files(Base):
    """One file (by hash) of one session: downloaded, uploaded, or captured without a log that names it."""

    __tablename__ = "files"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(64))
    shasum: Mapped[str] = mapped_column(String(64))
    filename: Mapped[str | None] = mapped_column(String(512))
    file_size: Mapped[int | None] = mapped_column(BigInteger)
    download_url: Mapped[str | None] = mapped_column(String(1024))
    vt_classification: Mapped[str | None] = mapped_column(String(128))
    vt_description: Mapped[str | None] = mapped_column(Text)
    vt_malicious: Mapped[bool] = mapped_column(Boolean, default=False, server_default=FALSE)
    vt_first_seen: Mapped[dt.datetime | None]
    vt_last_analysis: Mapped[dt.datetime | None]
    vt_positives: Mapped[int | None] = mapped_column(Integer)
    vt_total: Mapped[int | None] = mapped_column(Integer)
    vt_scan_date: Mapped[dt.datetime | None]
    first_seen: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())
    last_updated: Mapped[dt.datetime] = mapped_column(
        server_default=func.current_timestamp(), onupdate=func.current_timestamp()
    )
    enrichment_status: Mapped[str] = mapped_column(String(32), default="pending", server_default="pending")
    origin: Mapped[str] = mapped_column(String(16), default="download", server_default="download")

    __table_args__ = (
        UniqueConstraint("session_id", "shasum", name="uq_files_session_hash"),
        Index("ix_files_session_id", "session_id"),
        Index("ix_files_shasum", "shasum"),
        Index("ix_files_vt_malicious", "vt_malicious"),
        Index("ix_files_enrichment_status", "enrichment_status"),
        Index("ix_files_first_seen", "first_seen"),
    )


class FileHash(Base):
    """One file by content: used by lists, queues and joins, and the location of the current verdict."""

    __tablename__ = "file_hashes"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    first_seen: Mapped[dt.datetime]
    last_seen: Mapped[dt.datetime]
    session_count: Mapped[int] = mapped_column(Integer, default=0, server_default=ZERO)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    md5: Mapped[str | None] = mapped_column(String(32))
    sha1: Mapped[str | None] = mapped_column(String(40))
    tlsh: Mapped[str | None] = mapped_column(String(72))
    mime_type: Mapped[str | None] = mapped_column(String(128))
    file_type: Mapped[str | None] = mapped_column(String(256))
    analysis: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    vt_classification: Mapped[str | None] = mapped_column(String(128))
    vt_description: Mapped[str | None] = mapped_column(Text)
    vt_malicious: Mapped[bool] = mapped_column(Boolean, default=False, server_default=FALSE)
    vt_first_seen: Mapped[dt.datetime | None]
    vt_last_analysis: Mapped[dt.datetime | None]
    vt_positives: Mapped[int | None] = mapped_column(Integer)
    vt_total: Mapped[int | None] = mapped_column(Integer)
    vt_scan_date: Mapped[dt.datetime | None]
    enrichment_status: Mapped[str] = mapped_column(String(32), default="pending", server_default="pending")
    verdict: Mapped[str] = mapped_column(String(16), default="unknown", server_default="unknown")
    family: Mapped[str | None] = mapped_column(String(128))
    reputation: Mapped[int | None] = mapped_column(Integer)
    reputation_reasons: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    next_check_at: Mapped[dt.datetime | None]
    updated_at: Mapped[dt.datetime] = mapped_column(
        server_default=func.current_timestamp(), onupdate=func.current_timestamp()
    )

    __table_args__ = (
        Index("ix_file_hashes_first_seen", "first_seen"),
        Index("ix_file_hashes_last_seen", "last_seen"),
        # The orders of `files list`, so that a page deep in a million hashes is read from the index.
        Index("ix_file_hashes_verdict", "verdict", text("last_seen DESC"), "sha256"),
        Index("ix_file_hashes_session_count", text("session_count DESC"), "sha256"),
        Index("ix_file_hashes_next_check_at", "next_check_at"),
        Index("ix_file_hashes_md5", "md5"),
        Index("ix_file_hashes_sha1", "sha1"),
    )


class FileMention(Base):
    """A URL or a name (`kind`) that the events of one session mention with one file, and when they do.

    `files` keeps one of each for a session and a file; here are all of them. `shasum` is empty for the URL of a
    download that brought no file. `digest` is the first half of the SHA-256 of kind, hash and value: a value is too
    long for a key.
    """

    __tablename__ = "file_mentions"

    session_id: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(32))
    shasum: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(8))
    value: Mapped[str] = mapped_column(String(1024))
    first_seen: Mapped[dt.datetime]
    last_seen: Mapped[dt.datetime]

    __table_args__ = (
        PrimaryKeyConstraint("session_id", "digest"),
        # `files show` counts the sessions of a hash by value, and finds their dates, in the index alone.
        Index("ix_file_mentions_shasum", "shasum", "kind", "digest", "first_seen", "last_seen"),
        Index("ix_file_mentions_first_seen", "kind", "first_seen"),
    )


class SessionAttribute(Base):
    """The origin and login of a session.

    The `*_at` and `*_rank` columns and `login_success` record from which event each value was taken, so that the first
    event wins in whatever order the events arrive, without reading them again. A connection (rank 0) names address and
    protocol before any other event (rank 1); rows of before there were ranks took both from the connection.
    """

    __tablename__ = "session_attributes"

    session_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    src_ip: Mapped[str | None] = mapped_column(String(45))
    protocol: Mapped[str | None] = mapped_column(String(16))
    hassh: Mapped[str | None] = mapped_column(String(32))
    username: Mapped[str | None] = mapped_column(String(255))
    connect_at: Mapped[dt.datetime | None]
    hassh_at: Mapped[dt.datetime | None]
    login_at: Mapped[dt.datetime | None]
    login_success: Mapped[bool | None] = mapped_column(Boolean)
    src_ip_rank: Mapped[int | None] = mapped_column(Integer)
    src_ip_at: Mapped[dt.datetime | None]
    protocol_rank: Mapped[int | None] = mapped_column(Integer)
    protocol_at: Mapped[dt.datetime | None]

    __table_args__ = (
        Index("ix_session_attributes_src_ip", "src_ip"),
        Index("ix_session_attributes_hassh", "hassh"),
        Index("ix_session_attributes_username", "username"),
    )


class SessionLogin(Base):
    """The attempts of a session to log in under one user name.

    `credential` is empty: the attempts under a name are not told apart by password or key.
    """

    __tablename__ = "session_logins"

    session_id: Mapped[str] = mapped_column(String(64))
    username: Mapped[str] = mapped_column(String(255))
    credential: Mapped[str] = mapped_column(String(255), server_default=text("''"))
    attempts: Mapped[int] = mapped_column(Integer)
    successes: Mapped[int] = mapped_column(Integer)
    first_seen: Mapped[dt.datetime | None]
    last_seen: Mapped[dt.datetime | None]

    __table_args__ = (PrimaryKeyConstraint("session_id", "username", "credential"),)


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

    __table_args__ = (PrimaryKeyConstraint("place"),)


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

    __table_args__ = (PrimaryKeyConstraint("identity", "generation", "payload_hash"),)


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

    __table_args__ = (PrimaryKeyConstraint("identity", "generation"),)


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
    )


class LogSensor(Base):
    """The sensor that a log was given by its operator; `identity` and `generation` name the log as in `log_files`."""

    __tablename__ = "log_sensors"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    sensor: Mapped[str] = mapped_column(String(255))

    __table_args__ = (PrimaryKeyConstraint("identity", "generation"),)


class RenamedSensor(Base):
    """A sensor that was renamed: wherever logs, events or the operator say `name`, `renamed_to` is meant."""

    __tablename__ = "renamed_sensors"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    renamed_to: Mapped[str] = mapped_column(String(255))
    renamed_at: Mapped[dt.datetime]


class SessionSensor(Base):
    """Which sensor a session was on, and what shows that its id may have been used more than once.

    `given_sensor` is the smallest name given to a log that holds events of the session, `logged_sensor` the smallest
    one in the events; the session is on the former, or on the latter if there is none. `sensors_differ` says that there
    is more than one of either kind. The two times are those of the first and of the last `cowrie.session.connect`.
    """

    __tablename__ = "session_sensors"

    session_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    given_sensor: Mapped[str | None] = mapped_column(String(255))
    logged_sensor: Mapped[str | None] = mapped_column(String(255))
    sensors_differ: Mapped[bool] = mapped_column(Boolean, default=False, server_default=FALSE)
    first_connect_at: Mapped[dt.datetime | None]
    last_connect_at: Mapped[dt.datetime | None]


class SessionToRename(Base):
    """A session whose row in `session_sensors` has to be computed again, because a log or a sensor was renamed."""

    __tablename__ = "sessions_to_rename"

    session_id: Mapped[str] = mapped_column(String(64), primary_key=True)


class TwinEvent(Base):
    """An event that version 3 stored again when it met its log under another name: it counts nowhere.

    `event_id` is the id of its row in raw_events; the row that counts is another one of the same session.
    """

    __tablename__ = "twin_events"

    event_id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=False)


class FileVerdict(Base):
    """The verdict of one source on one hash, and the period over which the source gave it. Append-only."""

    __tablename__ = "file_verdicts"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(32))
    fetched_at: Mapped[dt.datetime]
    confirmed_at: Mapped[dt.datetime]
    verdict: Mapped[str] = mapped_column(String(16))
    classification: Mapped[str | None] = mapped_column(String(128))
    positives: Mapped[int | None] = mapped_column(Integer)
    total: Mapped[int | None] = mapped_column(Integer)
    first_seen: Mapped[dt.datetime | None]
    last_analysis: Mapped[dt.datetime | None]
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    __table_args__ = (
        Index("ix_file_verdicts_sha256", "sha256", "provider", "fetched_at"),
        Index("ix_file_verdicts_fetched_at", "fetched_at"),
    )


class EnrichmentCacheEntry(Base):
    """The last answer of a source, and when it expires."""

    __tablename__ = "enrichment_cache"

    provider: Mapped[str] = mapped_column(String(32))
    key: Mapped[str] = mapped_column(String(128))
    status: Mapped[str] = mapped_column(String(32))
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    fetched_at: Mapped[dt.datetime]
    expires_at: Mapped[dt.datetime]

    __table_args__ = (
        PrimaryKeyConstraint("provider", "key"),
        Index("ix_enrichment_cache_expires_at", "expires_at"),
    )


class EnrichmentQueueItem(Base):
    """A hash to query at a source: when it is due, and the result of earlier attempts."""

    __tablename__ = "enrichment_queue"

    sha256: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(32), server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    next_attempt_at: Mapped[dt.datetime | None]
    priority: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    last_error: Mapped[str | None] = mapped_column(Text)
    leased_until: Mapped[dt.datetime | None]

    __table_args__ = (
        PrimaryKeyConstraint("sha256", "provider"),
        Index("ix_enrichment_queue_due", "provider", "status", "next_attempt_at"),
    )


class VerdictPropagation(Base):
    """A hash whose new verdict still has to be propagated to its rows in `files`."""

    __tablename__ = "verdict_propagation"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    requested_at: Mapped[dt.datetime]
    cursor: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)


class ApiQuota(Base):
    """The quota ledger: requests sent with one key in one window, written before each request.

    A window is a day or a month in UTC (`2026-11-22`, `2026-11`), or `now`: there `recent` lists the times of the last
    requests, `allowed` is the limit per minute, `used` counts consecutive failures, and `paused_until` and `reason` say
    why requests are paused after too many of them. The window `paused` records a pause that the source requested
    (`used` counts consecutive pauses), `refused` that the source rejects the key. The windows `day` and `month` have in
    `allowed` the limit that the source itself reports, and in `read_at` when it was read.
    """

    __tablename__ = "api_quota"

    provider: Mapped[str] = mapped_column(String(32))
    key_fingerprint: Mapped[str] = mapped_column(String(64))
    window: Mapped[str] = mapped_column(String(32))
    used: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    allowed: Mapped[int | None] = mapped_column(Integer)
    recent: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    paused_until: Mapped[dt.datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    read_at: Mapped[dt.datetime | None]

    __table_args__ = (PrimaryKeyConstraint("provider", "key_fingerprint", "window"),)


class Job(Base):
    """A long job: its position, its counters, who runs it, how far it is, and why it waits or stopped."""

    __tablename__ = "jobs"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    state: Mapped[str] = mapped_column(String(32))
    cursor: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    counters: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    started_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]
    finished_at: Mapped[dt.datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    request: Mapped[str | None] = mapped_column(String(16))


HASHES: Table = Base.metadata.tables["file_hashes"]
"""`file_hashes` for Core statements."""

FILES: Table = Base.metadata.tables["files"]
"""`files` for Core statements."""
