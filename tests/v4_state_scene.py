"""A database at every point of the path from v3, with everything that v4 alone can know."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, delete, insert, select, text, update

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.propagation import propagate_hash
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import V3_TABLES, Base
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v3_schema
from tests.logical_digest import Contents, difference, logical_contents
from tests.v3_schema import SHA_A, SHA_B

__all__ = ["ARTIFACT", "Contents", "build", "contents", "difference", "learn", "make_v3", "reasons", "rows_of_v3"]

T = Base.metadata.tables
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC)
LATER = MOMENT + dt.timedelta(days=1)
SHA_C = "c" * 64
SHA_D = "d" * 64
ARTIFACT = "artifact:sensor-1"
TABLES = (
    "raw_events",
    "session_summaries",
    "session_attributes",
    "command_stats",
    "files",
    "file_hashes",
    "log_files",
    "file_verdicts",
    "enrichment_cache",
    "enrichment_queue",
    "api_quota",
    "verdict_propagation",
)
"""Everything that has to come back; dead letters and jobs are compared on their own."""


def make_v3(engine: Engine) -> None:
    """Make an empty database one of v3 with all habits of its data, on either database."""
    with write_transaction(engine) as connection:
        Base.metadata.create_all(connection, tables=[T[name] for name in V3_TABLES])
        connection.execute(text("INSERT INTO schema_state VALUES ('schema_version', '3')"))
        ours = {"session_id": "session", "event_type": "eventid", "event_timestamp": "timestamp"}
        computed = engine.dialect.name == "sqlite"
        for line, payload in enumerate(v3_schema.habits()):
            row: dict[str, Any] = {"source": v3_schema.LOG, "source_offset": line, "source_inode": "77"}
            row |= {} if computed else {column: payload.get(key) for column, key in ours.items()}
            connection.execute(insert(T["raw_events"]).values(payload=payload, payload_hash=f"{line:064x}", **row))
        for session_id in ("s1", "s2"):
            connection.execute(insert(T["session_summaries"]).values(session_id=session_id, first_event_at=MOMENT))
        connection.execute(
            insert(T["dead_letter_events"]).values(
                source=v3_schema.LOG, reason="validation", payload={"malformed": "x"}
            )
        )
        connection.execute(insert(T["ingest_cursors"]).values(source=v3_schema.LOG, inode="77", last_offset=11))


def write_log(path: Path) -> Path:
    """Write a log that our own loader will load: a session with commands, files and one bad hash."""
    at = "2026-01-02T03:04:{:02d}.000000Z".format
    download = "cowrie.session.file_download"
    lines = [
        v3_schema.event("cowrie.session.connect", "s9", at(0), src_ip="203.0.113.9", protocol="telnet"),
        v3_schema.event("cowrie.command.input", "s9", at(1), input="uname -a"),
        v3_schema.event("cowrie.command.input", "s9", at(2), input="uname -a"),
        v3_schema.event(download, "s9", at(3), shasum=SHA_A, url="http://203.0.113.9/q"),
        v3_schema.event(download, "s9", at(4), shasum=SHA_D, url="http://203.0.113.9/d"),
        v3_schema.event(download, "s9", at(5), shasum="no hash"),
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def build(engine: Engine, folder: Path) -> None:
    """Take a v3 database along the whole path: migrated, loaded into, backfilled, enriched and scanned."""
    apply_migrations(engine)
    BulkLoader(engine).load([write_log(folder / "cowrie.json")])
    backfill(engine)
    learn(engine)


def learn_all_but_flags(engine: Engine) -> None:
    """Put in what enrichment and scans would, but leave the flags of v3's sessions alone."""
    learn(engine, flag_sessions=False)


def learn(engine: Engine, *, flag_sessions: bool = True) -> None:
    """Put in what enrichment and scans would."""
    with write_transaction(engine) as connection:
        _learn_hashes(connection)
        connection.execute(
            insert(T["file_verdicts"]),
            [
                {"sha256": SHA_A, "provider": "virustotal", "fetched_at": moment, "confirmed_at": moment}
                | {"verdict": verdict, "positives": positives, "response": {"odd": "\ud83d\ude00 \x1b[2J"}}
                for moment, verdict, positives in ((MOMENT, "unknown", 0), (LATER, "malicious", 40))
            ],
        )
        connection.execute(
            insert(T["enrichment_cache"]).values(
                provider="virustotal", key=SHA_A, status="found", fetched_at=MOMENT, expires_at=LATER, response={"a": 1}
            )
        )
        connection.execute(
            insert(T["enrichment_queue"]).values(
                sha256=SHA_B,
                provider="virustotal",
                status="failed",
                attempts=3,
                next_attempt_at=LATER,
                last_error="503",
            )
        )
        connection.execute(
            insert(T["api_quota"]).values(
                provider="virustotal", key_fingerprint="f", window="2026-01-02", used=123, allowed=500
            )
        )
        connection.execute(insert(T["verdict_propagation"]).values(sha256=SHA_B, requested_at=MOMENT, cursor=1))
        connection.execute(
            insert(T["jobs"]).values(
                name="scan", state="done", counters={"files": 2}, started_at=MOMENT, updated_at=MOMENT
            )
        )
        for sha256 in (SHA_A, SHA_B, SHA_C, SHA_D) if flag_sessions else ():
            propagate_hash(connection, sha256, 0, 1000)


def _learn_hashes(connection: Any) -> None:
    hashes = T["file_hashes"]
    malicious = {"vt_malicious": True, "vt_positives": 40, "vt_total": 70, "vt_scan_date": LATER, "reputation": 97}
    connection.execute(
        update(hashes)
        .where(hashes.c.sha256 == SHA_A)
        .values(enrichment_status="enriched", verdict="malicious", reputation_reasons=["old"], **malicious)
    )
    connection.execute(update(hashes).where(hashes.c.sha256 == SHA_B).values(enrichment_status="failed"))
    content = {"size_bytes": 77, "md5": "5" * 32, "sha1": "1" * 40, "mime_type": "text/x-sh", "analysis": {"urls": []}}
    connection.execute(update(hashes).where(hashes.c.sha256 == SHA_D).values(**content))
    connection.execute(
        insert(hashes).values(sha256=SHA_C, first_seen=MOMENT, last_seen=MOMENT, session_count=0, **content)
    )
    connection.execute(
        insert(T["files"]).values(
            session_id=ARTIFACT, shasum=SHA_C, file_size=77, first_seen=MOMENT, last_updated=MOMENT, origin="artifact"
        )
    )


def delete_jobs(engine: Engine) -> None:
    """Remove the rows of all jobs."""
    with write_transaction(engine) as connection:
        connection.execute(delete(T["jobs"]))


def contents(engine: Engine) -> Contents:
    """Return everything that a roll back and the way forward again have to keep."""
    return logical_contents(engine, tables=TABLES) | {
        "dead letters": reasons(engine),
        "jobs": [row for row in logical_contents(engine, tables=["jobs"])["jobs"] if '"name": "scan"' in row],
    }


def reasons(engine: Engine) -> list[str]:
    """Return why each dead letter is one."""
    with read_transaction(engine) as connection:
        return sorted(connection.scalars(select(T["dead_letter_events"].c.reason)))


def rows_of_v3(engine: Engine, *, without: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return every column of every row of v3's tables, as they are stored, but for the version."""
    found: dict[str, list[str]] = {}
    with read_transaction(engine) as connection:
        for table in set(V3_TABLES) - {"schema_state", *without}:
            columns = ", ".join(f"CAST({column.name} AS TEXT)" for column in T[table].c)
            rows = connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1"))
            found[table] = sorted(repr(tuple(row)) for row in rows)
    return found


def working(engine: Engine, cursor: object, state: str = "running", owner: object = None) -> None:
    """Write the row of a job that is at work."""
    with write_transaction(engine) as connection:
        now = dt.datetime.now(dt.UTC)
        connection.execute(
            insert(T["jobs"]).values(
                name="backfill-files", state=state, cursor=cursor, owner=owner, started_at=now, updated_at=now
            )
        )
