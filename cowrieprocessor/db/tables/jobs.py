"""The table of long jobs."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import JSON, Boolean, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from cowrieprocessor.db.columns import FALSE, Base
from cowrieprocessor.db.saved_rows import saved


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
    pause_requested: Mapped[bool] = mapped_column(Boolean, default=False, server_default=FALSE)
    stop_requested_at: Mapped[dt.datetime | None]

    __table_args__ = saved(
        "name",
        rebuilt=frozenset({"owner", "progress", "pause_requested", "stop_requested_at"}),
        only=lambda c: c.name != "migrate",
    )
