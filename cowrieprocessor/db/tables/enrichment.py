"""The tables of enrichment: verdicts and their history, the cache, the queue, and the ledger of requests."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, PrimaryKeyConstraint, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from cowrieprocessor.db.columns import ZERO, Base, RowId
from cowrieprocessor.db.saved_rows import Larger, LatestItems, newer_row, saved


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
        saved("sha256", "provider", "fetched_at", rules={"confirmed_at": Larger()}),
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
        saved(
            "provider",
            "key",
            rules=newer_row("fetched_at", columns=("fetched_at", "expires_at", "status", "response")),
        ),
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
        # A rate limit says nothing about a file; of two outcomes an answer counts, then a request by hand, then time.
        saved(
            "sha256",
            "provider",
            ranks={"status": {"rate-limited": -2, "pending": -1, "answered": 1}},
            rules=newer_row(
                "status",
                "priority",
                "next_attempt_at",
                columns=("status", "attempts", "next_attempt_at", "priority", "last_error", "leased_until"),
            ),
        ),
    )


class VerdictPropagation(Base):
    """A hash whose new verdict still has to be propagated to its rows in `files`."""

    __tablename__ = "verdict_propagation"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    requested_at: Mapped[dt.datetime]
    cursor: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)

    __table_args__ = saved("sha256", rebuilt=frozenset({"cursor"}))  # an id of `files`: these are assigned anew


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

    __table_args__ = (
        PrimaryKeyConstraint("provider", "key_fingerprint", "window"),
        # No sent request is forgotten, and no pause is shortened.
        saved(
            "provider",
            "key_fingerprint",
            "window",
            rules={
                "used": Larger(),
                "recent": LatestItems(),
                **newer_row("paused_until", columns=("paused_until", "reason")),
                **newer_row("read_at", columns=("allowed", "read_at"), fills_gaps=True),
            },
        ),
    )
