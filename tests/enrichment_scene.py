"""Files in sessions, written as the loader writes them, and providers' verdicts about them."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Engine, Table, insert, inspect, select

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.candidate_cache import CacheTiming
from cowrieprocessor.db.enrichment.propagation import propagate_some
from cowrieprocessor.db.enrichment.provider_verdict import CLEAN, MALICIOUS, ProviderVerdict
from cowrieprocessor.db.enrichment.skipped_hashes import initial_status
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import store_answer
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.models import Base

T = Base.metadata.tables
NO_CACHE = CacheTiming(slow_s=math.inf)
"""However long a candidate search takes, its result is not cached, and the next search is not paused."""

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
DECISIVE = frozenset({"known-good", "malicious"})
POLICY = Policy(("hashlookup", "malwarebazaar", "virustotal"), DECISIVE)
VT, HL, MB = "virustotal", "hashlookup", "malwarebazaar"


def sha(number: int) -> str:
    """Return the hash of a numbered sample; hashes do not sort by number."""
    return hashlib.sha256(f"sample {number}".encode()).hexdigest()


def load(engine: Engine, pairs: Iterable[tuple[str, str]], *, at: dt.datetime = NOW, url: str | None = None) -> None:
    """Load sessions (id, hash of the file they dropped) in one transaction, with the loader's own statements."""
    moment = at.strftime("%Y-%m-%d %H:%M:%S.%f")
    files = sorted(set(pairs))
    sessions = sorted({session for session, _ in files})
    hashes = sorted({sha256 for _, sha256 in files})
    with write_transaction(engine) as connection:
        statements = LoadingStatements(connection)
        try:
            statements.merge_sessions(
                [(session, moment, moment, 1, 0, 1, 0, "sensor-1", "[]", moment, moment) for session in sessions]
            )
            statements.merge_hashes([(sha256, moment, moment, initial_status(sha256), moment) for sha256 in hashes])
            statements.merge_files([(*pair, None, url, "download", moment) for pair in files], moment)
        finally:
            statements.close()


def vt_verdict(positives: int = 12, total: int = 70, **more: Any) -> ProviderVerdict:
    """Return a verdict of VirusTotal: malicious with any positives, else clean."""
    return ProviderVerdict(
        MALICIOUS if positives else CLEAN, positives=positives, total=total, response={"positives": positives}, **more
    )


def answer(
    engine: Engine,
    sha256: str,
    verdict: ProviderVerdict,
    *,
    provider: str = VT,
    at: dt.datetime = NOW,
    holds: dt.timedelta = 30 * DAY,
    policy: Policy = POLICY,
    now: dt.datetime | None = None,
    key: str | None = None,
    staged: bool = False,
) -> None:
    """Store a provider's answer in its own transaction."""
    with write_transaction(engine) as connection:
        store_answer(
            connection,
            sha256,
            provider,
            key or sha256,
            verdict,
            fetched_at=at,
            expires_at=at + holds,
            policy=policy,
            now=now or at,
            staged=staged,
        )


def propagate_all(engine: Engine, now: dt.datetime = NOW) -> int:
    """Propagate every verdict; return the number of rows changed."""
    changed = 0
    while (step := propagate_some(engine, now=now)) is not None:
        changed += step.changed
    return changed


def rows(engine: Engine, table: str, **where: object) -> list[dict[str, Any]]:
    """Return the rows of a table that match, in the order of their keys."""
    source: Table = T[table]
    query = select(source).order_by(*source.primary_key.columns)
    for name, value in where.items():
        query = query.where(source.c[name] == value)
    with read_transaction(engine) as connection:
        return [{str(name): value for name, value in row.items()} for row in connection.execute(query).mappings()]


def row(engine: Engine, table: str, **where: object) -> dict[str, Any]:
    """Return the only row of a table that matches."""
    (match,) = rows(engine, table, **where)
    return match


def put(engine: Engine, table: str, values: Mapping[str, object]) -> None:
    """Insert a row."""
    with write_transaction(engine) as connection:
        connection.execute(insert(T[table]).values(**values))


def flags(engine: Engine) -> dict[str, bool]:
    """Return the flag of each session."""
    return {entry["session_id"]: entry["vt_flagged"] for entry in rows(engine, "session_summaries")}


def dump_other_tables(engine: Engine) -> dict[str, list[str]]:
    """Return every row of every table except the cache, the queue and the ledger."""
    with read_transaction(engine) as connection:
        written = {"enrichment_cache", "enrichment_queue", "api_quota", "alembic_version"}
        present = set(inspect(connection).get_table_names()) - written
        tables = [Base.metadata.tables[name] for name in sorted(present)]
        return {table.name: sorted(map(str, connection.execute(select(table)))) for table in tables}
