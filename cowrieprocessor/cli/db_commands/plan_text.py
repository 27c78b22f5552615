"""Plans of maintenance commands, as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cowrieprocessor.db.schema_facts import CURRENT_SCHEMA_VERSION
from cowrieprocessor.reporting.render.terminal import size_text
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.jobs.maintenance.backup import BackupPlan
    from cowrieprocessor.jobs.maintenance.restore import RestorePlan
    from cowrieprocessor.jobs.upgrade.preflight import Preflight

MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
SHOWN_HOLDERS = 5


def about(seconds: float) -> str:
    """Return an estimated duration as text: `about 90 s`, `about 3 hours`."""
    if seconds < 1.5:
        return "about a second"
    if seconds < 2 * MINUTE_S:
        return f"about {seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"about {seconds / MINUTE_S:.0f} minutes"
    return f"about {seconds / HOUR_S:.0f} hours"


def backup_text(plan: BackupPlan) -> str:
    """Return the plan of a backup, in one paragraph."""
    return (
        f"{plan.database}: copying {size_text(plan.size_bytes)} to {plan.destination} takes {about(plan.copying_s)}, "
        f"verifying the copy {about(plan.checking_s)} more. Loaders may run. Until the copying is done the write-ahead "
        f"log ({size_text(plan.wal_bytes)} now) cannot shrink: it grows by about {size_text(plan.log_growth_bytes)} "
        "while a loader stores 500 events a second"
    )


def restore_text(plan: RestorePlan) -> str:
    """Return the plan of a restore, in one paragraph."""
    replaced = (
        f"replaces the existing database ({size_text(plan.replaced_bytes)}), which is kept next to it"
        if plan.replaced_bytes is not None
        else "becomes the database; none exists yet"
    )
    return (
        f"{plan.database}: {plan.source} ({size_text(plan.size_bytes)}, schema version {plan.schema_version}) "
        f"{replaced}. No process may have the database open. It takes {about(plan.duration_s)}"
    )


def preflight_text(found: Preflight) -> str:
    """Return the state of a database before an upgrade, one fact per line."""
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Preflight) -> Iterator[str]:
    yield f"database        {terminal_safe(found.database)}"
    version = "none: the database is empty" if found.schema_version is None else str(found.schema_version)
    yield f"schema version  {version}"
    bug = "; has the WAL-reset bug" if found.wal_reset_bug else "; sound" if found.in_a_file else ""
    yield f"library         {found.library}{bug}"
    log = f", write-ahead log {size_text(found.wal_bytes)}" if found.wal_bytes else ""
    yield f"size            {size_text(found.size_bytes)}{log}"
    if found.in_a_file:
        yield f"file system     {found.file_system or 'not known'}"
        yield f"free room       {size_text(found.free_bytes)}"
        yield f"open in         {_holders(found)}"
    if not found.needs_migration:
        yield f"to do           nothing: it is at version {CURRENT_SCHEMA_VERSION} already"
        return
    yield f"adds            {plural(len(found.adds), 'empty table')}: {', '.join(found.adds)}"
    yield f"needs           {size_text(found.need.upgrade_bytes)} at most: {_need(found)}"
    yield f"backup          {size_text(found.need.backup_bytes)} more, if it is made on the same disk"
    yield f"migrate         {about(found.migrate_s)}; readers go on, writers wait"
    yield f"backfill files  about {plural(found.work.file_events, 'event')}, {about(found.backfill_files_s)}"
    yield (
        f"backfill rest   about {plural(found.work.events, 'event')} in {plural(found.work.sessions, 'session')}, "
        f"{about(found.backfill_sessions_s + found.backfill_sensors_s)}"
    )


def _need(found: Preflight) -> str:
    log = f", {size_text(found.need.log_bytes)} for the write-ahead log" if found.need.log_bytes else ""
    return f"about {size_text(found.need.rows_bytes)} for the rows that the backfill adds{log}"


def _holders(found: Preflight) -> str:
    """Return the processes that have the database open."""
    if found.holders is None:
        return "not known: the system does not report it"
    unseen = "" if found.holders.complete else " (some processes could not be inspected)"
    processes = found.holders.processes
    if not processes:
        return f"no other process{unseen}"
    uses = {True: "writes", False: "reads", None: "may write"}
    named = [
        f"process {process.pid} ({terminal_safe(process.name)}), {uses[process.writes]}"
        for process in processes[:SHOWN_HOLDERS]
    ]
    if len(processes) > SHOWN_HOLDERS:
        named.append(f"and {len(processes) - SHOWN_HOLDERS} more")
    return "; ".join(named) + unseen
