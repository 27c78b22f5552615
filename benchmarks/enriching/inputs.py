"""Databases for the enrichment benchmarks, written with plain SQL: loading them would take hours."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import prepare

ROWS_AT_ONCE = 50_000
FIRST_SEEN_AT = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
CAPTURED_AT = "2026-02-01 10:00:00.000000"
ASKED_AT = "2026-02-02 10:00:00.000000"
VALID_UNTIL = "2099-01-01 00:00:00.000000"
RESPONSE = '{"type_description": "ELF", "names": ["' + "bot.arm7 " * 25 + '"], "reputation": -11}'
"""About 300 bytes; real responses are larger."""

KNOWN_GOOD_EVERY = 100
"""hashlookup knows every 100th file as good; VirusTotal is not asked about it."""

Row = Sequence[Any]


def hash_of(number: int) -> str:
    """Return the hash of the file with this number."""
    return hashlib.sha256(b"file %d of the benchmark" % number).hexdigest()


def files_to_ask(path: Path, files: int, sessions_each: int) -> None:
    """Make a database of files that no source was asked about.

    Args:
        path: the database; it does not exist yet.
        files: the number of files.
        sessions_each: sessions per file; with 0 no verdict has to be propagated.
    """
    engine = _new_database(path)
    _insert(
        engine,
        "file_hashes",
        _HASH_COLUMNS,
        ((hash_of(n), CAPTURED_AT, CAPTURED_AT, sessions_each) for n in range(files)),
    )
    pairs = [(f"{n * sessions_each + k:012x}", hash_of(n)) for n in range(files) for k in range(sessions_each)]
    _insert_files(engine, pairs)
    dispose(engine)


def one_hash_everywhere(path: Path, sessions: int) -> None:
    """Make a database in which every session has the same file, number 0.

    Args:
        path: the database; it does not exist yet.
        sessions: the number of sessions.
    """
    engine = _new_database(path)
    sha256 = hash_of(0)
    _insert(engine, "file_hashes", _HASH_COLUMNS, [(sha256, CAPTURED_AT, CAPTURED_AT, sessions)])
    _insert_files(engine, [(hash_of(n)[:12], sha256) for n in range(sessions)])
    dispose(engine)


def half_asked(path: Path, files: int) -> None:
    """Make a database of files that are half enriched.

    Few files are in many sessions, most in one. hashlookup was asked about all files, VirusTotal about the first half
    in the order of the queue. There are no sessions and no rows in `files`: neither claims nor the status read them.

    Args:
        path: the database; it does not exist yet.
        files: the number of files.
    """
    engine = _new_database(path)
    ordered = sorted((hash_of(n), n) for n in range(files))
    _insert(
        engine,
        "file_hashes",
        (*_HASH_COLUMNS, *_VERDICT_COLUMNS),
        (
            (sha256, CAPTURED_AT, _last_seen(n, files), max(1, files // 5 // (n + 1)), *_aggregated(n, files))
            for sha256, n in ordered
        ),
    )
    verdicts = [(sha256, provider, verdict) for sha256, n in ordered for provider, verdict in _answers(n, files)]
    _insert(
        engine,
        "enrichment_queue",
        ("sha256", "provider", "status", "next_attempt_at"),
        ((sha256, provider, "answered", VALID_UNTIL) for sha256, provider, _ in verdicts),
    )
    _insert(
        engine,
        "file_verdicts",
        ("sha256", "provider", "fetched_at", "confirmed_at", "verdict", "response"),
        ((sha256, provider, ASKED_AT, ASKED_AT, verdict, RESPONSE) for sha256, provider, verdict in verdicts),
    )
    verdicts.sort(key=lambda row: row[1])
    _insert(
        engine,
        "enrichment_cache",
        ("provider", "key", "status", "response", "fetched_at", "expires_at"),
        ((provider, sha256, verdict, RESPONSE, ASKED_AT, VALID_UNTIL) for sha256, provider, verdict in verdicts),
    )
    dispose(engine)


_HASH_COLUMNS = ("sha256", "first_seen", "last_seen", "session_count")
_VERDICT_COLUMNS = ("verdict", "enrichment_status", "vt_malicious", "vt_scan_date", "next_check_at")


def _answers(number: int, files: int) -> Iterator[tuple[str, str]]:
    """Yield each provider and verdict of a file."""
    is_known_good = number % KNOWN_GOOD_EVERY == 0
    yield "hashlookup", "known-good" if is_known_good else "unknown"
    if number < files // 2 and not is_known_good:
        yield "virustotal", ("malicious", "malicious", "clean", "unknown")[number % 4]


def _aggregated(number: int, files: int) -> Row:
    """Return the aggregated verdict of a file, in the order of _VERDICT_COLUMNS."""
    verdicts = dict(_answers(number, files))
    virustotal = verdicts.get("virustotal")
    verdict = virustotal if virustotal not in (None, "unknown") else verdicts["hashlookup"]
    status = "enriched" if virustotal is not None or verdict == "known-good" else "pending"
    return verdict, status, virustotal == "malicious", ASKED_AT if virustotal else None, VALID_UNTIL


def _last_seen(number: int, files: int) -> str:
    """Return when a file was last seen: longer ago for higher numbers."""
    return f"{FIRST_SEEN_AT + dt.timedelta(seconds=30 * (files - number)):%Y-%m-%d %H:%M:%S.%f}"


def _new_database(path: Path) -> Engine:
    engine = get_engine(path)
    prepare(engine)
    return engine


def _insert_files(engine: Engine, pairs: Sequence[tuple[str, str]]) -> None:
    """Insert sessions and their rows in `files`, given as pairs of session and hash."""
    _insert(engine, "session_summaries", ("session_id", "first_event_at"), ((name, CAPTURED_AT) for name, _ in pairs))
    rows = ((name, sha256, "bot.arm7", f"http://203.0.113.9/{name}", CAPTURED_AT) for name, sha256 in pairs)
    _insert(engine, "files", ("session_id", "shasum", "filename", "download_url", "first_seen"), rows)


def _insert(engine: Engine, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    remaining = iter(rows)
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    while batch := list(islice(remaining, ROWS_AT_ONCE)):
        with write_transaction(engine) as connection:
            cursor = connection.connection.cursor()
            cursor.executemany(statement, batch)
            cursor.close()
