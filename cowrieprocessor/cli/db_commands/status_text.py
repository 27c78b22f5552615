"""The state of a database as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.job_text import job_text
from cowrieprocessor.db.schema_facts import CURRENT_SCHEMA_VERSION
from cowrieprocessor.reporting.render.terminal import size_text
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.db.status import DatabaseStatus, RowCount
    from cowrieprocessor.jobs.runtime.job_list import ListedJob


def status_text(status: DatabaseStatus, jobs: Sequence[ListedJob]) -> str:
    """Return the state of a database and of the jobs on it, one fact per line."""
    return "".join(f"{line}\n" for line in _lines(status, jobs))


def _lines(status: DatabaseStatus, jobs: Sequence[ListedJob]) -> Iterator[str]:
    storage = status.storage
    yield f"database        {terminal_safe(status.database)}"
    yield f"schema version  {_version(status)}"
    yield f"library         {storage.library}{_library_note(status)}"
    if storage.journal_mode is not None:
        yield f"journal mode    {storage.journal_mode}"
    log = f", write-ahead log {size_text(storage.wal_bytes)}" if storage.wal_bytes else ""
    yield f"size            {size_text(storage.size_bytes)}{log}"
    if status.tables:
        yield "rows"
        yield from _columns([(name, _rows(count)) for name, count in status.tables.items()])
    lost = status.losses
    if lost.logs:
        of_logs = f"{plural(lost.bytes_lost, 'byte')} of {plural(lost.logs, 'log')}"
        yield f"lost            {of_logs}, destroyed before being read"
        yield from _columns([(terminal_safe(log.path), plural(log.bytes_lost, "byte")) for log in lost.largest])
    if jobs:
        yield "jobs"
        yield from _columns([(terminal_safe(job.name), job_text(job)) for job in jobs])


def _version(status: DatabaseStatus) -> str:
    version = "none: the database is empty" if status.schema_version is None else str(status.schema_version)
    if status.problem is not None and status.schema_version == CURRENT_SCHEMA_VERSION:
        return f"{version}, which cannot be used: {terminal_safe(status.problem)}"
    if status.needs_migration:
        return f"{version} (`db migrate` brings it to {CURRENT_SCHEMA_VERSION})"
    is_current = status.schema_version == CURRENT_SCHEMA_VERSION
    if is_current:
        return f"{version}, revision {status.schema_revision}" if status.schema_revision else version
    return f"{version} (this program works with {CURRENT_SCHEMA_VERSION} only)"


def _library_note(status: DatabaseStatus) -> str:
    if status.storage.journal_mode is None:
        return ""
    return "; has the WAL-reset bug, writers are serialized" if status.storage.wal_reset_bug else "; sound"


def _rows(count: RowCount) -> str:
    return f"{count.rows:,}" if count.exact else f"about {count.rows:,}"


def _columns(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        yield f"  {name:<{width}}  {value}"
