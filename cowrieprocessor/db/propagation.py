"""Copies of a hash's verdict and size in the rows of `files`, and the flags of its sessions."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from cowrieprocessor.db.knowledge import FILES, HASHES
from cowrieprocessor.db.models import VERDICT_COLUMNS, SessionSummary


def current_verdict(connection: Connection, sha256: str) -> dict[str, Any] | None:
    """Return what `file_hashes` says about a hash that `files` copies, or None."""
    columns = (HASHES.c.size_bytes, *(HASHES.c[name] for name in VERDICT_COLUMNS))
    row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256)).mappings().one_or_none()
    return None if row is None else {str(name): value for name, value in row.items()}


def propagate(connection: Connection, sha256: str, after_id: int, limit: int) -> tuple[int, int, int | None]:
    """Give the next rows of a hash in `files` what `file_hashes` says, and flag their sessions if it is malicious.

    Args:
        connection: holds the write lock.
        sha256: the hash.
        after_id: rows behind this id are looked at.
        limit: how many rows at most.

    Returns:
        The rows looked at, the rows changed, and the id to go on behind; None at the end.
    """
    known = current_verdict(connection, sha256)
    if known is None:
        return 0, 0, None
    columns = (FILES.c.id, FILES.c.session_id, FILES.c.file_size, *(FILES.c[name] for name in VERDICT_COLUMNS))
    rows = (
        connection.execute(
            select(*columns).where(FILES.c.shasum == sha256, FILES.c.id > after_id).order_by(FILES.c.id).limit(limit)
        )
        .mappings()
        .all()
    )
    wanted = {name: known[name] for name in VERDICT_COLUMNS}
    size = known["size_bytes"]
    different = [
        row["id"]
        for row in rows
        if any(row[name] != value for name, value in wanted.items()) or (size is not None and row["file_size"] != size)
    ]
    if different:
        values = wanted | ({} if size is None else {"file_size": size}) | {"last_updated": dt.datetime.now(dt.UTC)}
        connection.execute(
            update(FILES).where(FILES.c.id == bindparam("row_id")).values(values),
            [{"row_id": one} for one in different],
        )
    if known["vt_malicious"] and rows:
        connection.execute(
            update(SessionSummary)
            .where(SessionSummary.session_id == bindparam("flagged"), SessionSummary.vt_flagged.is_(False))
            .values(vt_flagged=True),
            [{"flagged": row["session_id"]} for row in rows],
        )
    return len(rows), len(different), rows[-1]["id"] if len(rows) == limit else None
