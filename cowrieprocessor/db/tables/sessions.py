"""The tables of sessions: origin, logins and sensor, and the events that count nowhere."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Boolean, Index, Integer, PrimaryKeyConstraint, String, text
from sqlalchemy.orm import Mapped, mapped_column

from cowrieprocessor.db.columns import FALSE, Base, RowId
from cowrieprocessor.db.saved_rows import not_saved, saved
from cowrieprocessor.db.tables.files import BACKFILLED


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
        not_saved(BACKFILLED),
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

    __table_args__ = (
        PrimaryKeyConstraint("session_id", "username", "credential"),
        not_saved(BACKFILLED),
    )


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

    __table_args__ = not_saved(BACKFILLED)


class SessionToRename(Base):
    """A session whose row in `session_sensors` has to be computed again, because a log or a sensor was renamed."""

    __tablename__ = "sessions_to_rename"

    session_id: Mapped[str] = mapped_column(String(64), primary_key=True)

    __table_args__ = not_saved("its sessions are computed again in any case")


class RenamedSensor(Base):
    """A sensor that was renamed: wherever logs, events or the operator say `name`, `renamed_to` is meant."""

    __tablename__ = "renamed_sensors"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    renamed_to: Mapped[str] = mapped_column(String(255))
    renamed_at: Mapped[dt.datetime]

    __table_args__ = saved("name")


class TwinEvent(Base):
    """An event that version 3 stored again when it met its log under another name: it counts nowhere.

    `event_id` is the id of its row in raw_events; the row that counts is another one of the same session.
    """

    __tablename__ = "twin_events"

    event_id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=False)

    __table_args__ = not_saved("`db recount` finds the twins again")
