"""The tables of captured files: by session, by content, and by the URLs and names that mention them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    or_,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from cowrieprocessor.db.columns import FALSE, ZERO, Base, RowId
from cowrieprocessor.db.saved_rows import Columns, Gap, newer_row, not_saved, saved

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

JUDGEMENT_COLUMNS = ("verdict", "family", "reputation", "reputation_reasons", "next_check_at")
"""The other columns of `file_hashes` that express the current verdict."""

CONTENT_COLUMNS = ("size_bytes", "md5", "sha1", "tlsh", "mime_type", "file_type", "analysis")
"""The columns of `file_hashes` that describe the content of the file."""

VERDICT_AGE = ("vt_scan_date", "vt_malicious", "enrichment_status")
"""The columns that tell which of two verdicts on a hash is newer."""

BACKFILLED = "the backfill computes it from the events"


def _is_more_than_seen(c: Columns) -> ColumnElement[bool]:
    """Return the condition for hashes with more than the backfill finds in the events."""
    known = [c[name] for name in (*CONTENT_COLUMNS, *VERDICT_COLUMNS, *JUDGEMENT_COLUMNS) if c[name].nullable]
    is_evaluated = or_(c.enrichment_status != "pending", c.vt_malicious, c.verdict != "unknown")
    return or_(c.session_count == 0, is_evaluated, *(column.is_not(None) for column in known))


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
        saved(
            "sha256",
            only=_is_more_than_seen,
            rebuilt=frozenset({"session_count"}),
            ranks={"enrichment_status": {"pending": -1}, "verdict": {"unknown": -1}},
            rules={
                **dict.fromkeys(CONTENT_COLUMNS, Gap()),
                **newer_row(*VERDICT_AGE, columns=VERDICT_COLUMNS),
                **newer_row(*VERDICT_AGE, columns=JUDGEMENT_COLUMNS, fills_gaps=True),
            },
        ),
    )


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
        saved("session_id", "shasum", only=lambda c: c.origin == "artifact"),
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
        not_saved(BACKFILLED),
    )


HASHES: Table = Base.metadata.tables["file_hashes"]
"""`file_hashes` for Core statements."""

FILES: Table = Base.metadata.tables["files"]
"""`files` for Core statements."""
