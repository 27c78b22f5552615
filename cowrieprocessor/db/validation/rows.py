"""The rows that the validation compares: one class for each table."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.scan import Row, ScanQuery, TableScan
from cowrieprocessor.db.models import VERDICT_COLUMNS

ARTIFACT = "artifact"


class FileRow(NamedTuple):
    """One row of `files`, and whether it is consistent with other tables.

    Attributes:
        verdict_differs: its hash has another verdict or status, and no propagation to this row is pending.
        flag_missing: it is malicious but its session is not flagged.
        has_session: its session has a summary or events.
        has_hash: its hash has a row in file_hashes.
    """

    session_id: str
    shasum: str
    filename: str | None
    download_url: str | None
    origin: str
    first_seen: str
    enrichment_status: str
    verdict_differs: bool
    flag_missing: bool
    has_session: bool
    has_hash: bool


class HashRow(NamedTuple):
    """One row of `file_hashes`.

    Attributes:
        has_artifact: for a hash without sessions, whether a captured file has this hash; otherwise None.
    """

    sha256: str
    session_count: int
    first_seen: str
    last_seen: str
    enrichment_status: str
    has_artifact: bool | None


class MentionRow(NamedTuple):
    """One row of `file_mentions`."""

    session_id: str
    digest: str
    shasum: str
    kind: str
    value: str
    first_seen: str
    last_seen: str


class AttributeRow(NamedTuple):
    """One row of `session_attributes`."""

    session_id: str
    connect_at: str | None
    src_ip_rank: int | None
    src_ip_at: str | None
    src_ip: str | None
    protocol_rank: int | None
    protocol_at: str | None
    protocol: str | None
    hassh_at: str | None
    hassh: str | None
    login_success: bool | None
    login_at: str | None
    username: str | None


class SensorRow(NamedTuple):
    """One row of `session_sensors`, and what the logs that left out events of the session were given.

    Attributes:
        matcher: the sensor in the session's summary; None without one.
        is_marked: its names are about to be computed again.
        left_out_first: the smallest sensor given to a log that left out events of the session; None if there is none.
        left_out_last: the largest one.
    """

    session_id: str
    given_sensor: str | None
    logged_sensor: str | None
    sensors_differ: bool
    first_connect_at: str | None
    last_connect_at: str | None
    matcher: str | None
    is_marked: bool
    left_out_first: str | None
    left_out_last: str | None


class CommandRow(NamedTuple):
    """One row of `command_stats`."""

    session_id: str
    command: str
    occurrences: int
    first_seen: str | None
    last_seen: str | None
    high_risk: bool


class LoginRow(NamedTuple):
    """One row of `session_logins`."""

    session_id: str
    username: str
    attempts: int
    successes: int
    first_seen: str | None
    last_seen: str | None


class Rows:
    """The queries for these rows."""

    def __init__(self, scan: TableScan) -> None:
        self._scan = scan
        differs, moment = scan.sql.differs, scan.sql.moment
        verdict = " OR ".join(differs(f"f.{column}", f"h.{column}") for column in VERDICT_COLUMNS)
        self._queries: dict[type[Any], tuple[str, tuple[str, ...]]] = {
            FileRow: (
                f"SELECT f.session_id, f.shasum, f.filename, f.download_url, f.origin, {moment('f.first_seen')},"
                f" f.enrichment_status, h.sha256 IS NOT NULL AND p.sha256 IS NULL AND ({verdict}),"
                " f.vt_malicious AND s.session_id IS NOT NULL AND NOT s.vt_flagged, s.session_id IS NOT NULL"
                " OR EXISTS (SELECT 1 FROM raw_events AS e WHERE e.session_id = f.session_id),"
                " h.sha256 IS NOT NULL"
                " FROM files AS f LEFT JOIN file_hashes AS h ON h.sha256 = f.shasum"
                " LEFT JOIN verdict_propagation AS p ON p.sha256 = f.shasum"
                " LEFT JOIN session_summaries AS s ON s.session_id = f.session_id",
                ("f.session_id", "f.shasum"),
            ),
            HashRow: (
                f"SELECT h.sha256, h.session_count, {moment('h.first_seen')}, {moment('h.last_seen')},"
                " h.enrichment_status, CASE WHEN h.session_count = 0 THEN"
                " EXISTS (SELECT 1 FROM files AS f WHERE f.shasum = h.sha256 AND f.origin = 'artifact') END"
                " FROM file_hashes AS h",
                ("h.sha256",),
            ),
            MentionRow: (
                f"SELECT m.session_id, m.digest, m.shasum, m.kind, m.value, {moment('m.first_seen')},"
                f" {moment('m.last_seen')} FROM file_mentions AS m",
                ("m.session_id", "m.digest"),
            ),
            AttributeRow: (
                f"SELECT a.session_id, {moment('a.connect_at')}, a.src_ip_rank, {moment('a.src_ip_at')}, a.src_ip,"
                f" a.protocol_rank, {moment('a.protocol_at')}, a.protocol, {moment('a.hassh_at')}, a.hassh,"
                f" a.login_success, {moment('a.login_at')}, a.username FROM session_attributes AS a",
                ("a.session_id",),
            ),
            SensorRow: (
                "SELECT n.session_id, n.given_sensor, n.logged_sensor, n.sensors_differ,"
                f" {moment('n.first_connect_at')}, {moment('n.last_connect_at')}, s.matcher,"
                " EXISTS (SELECT 1 FROM sessions_to_rename AS t"
                f" WHERE t.session_id = n.session_id), {self._left_out('min')}, {self._left_out('max')}"
                " FROM session_sensors AS n LEFT JOIN session_summaries AS s ON s.session_id = n.session_id",
                ("n.session_id",),
            ),
            CommandRow: (
                f"SELECT c.session_id, c.command_normalized, c.occurrences, {moment('c.first_seen')},"
                f" {moment('c.last_seen')}, c.high_risk FROM command_stats AS c",
                ("c.session_id", "c.command_normalized"),
            ),
            LoginRow: (
                f"SELECT l.session_id, l.username, l.attempts, l.successes, {moment('l.first_seen')},"
                f" {moment('l.last_seen')} FROM session_logins AS l",
                ("l.session_id", "l.username"),
            ),
        }

    def _left_out(self, function: str) -> str:
        """Return the smallest or largest sensor given to the logs that left out events of a session."""
        name = self._scan.sql.binary("coalesce(r.renamed_to, g.sensor)")
        return (
            f"(SELECT {function}({name}) FROM overlapping_sessions AS o JOIN log_sensors AS g"
            " ON g.identity = o.identity AND g.generation = o.generation"
            " LEFT JOIN renamed_sensors AS r ON r.name = g.sensor WHERE o.session_id = n.session_id)"
        )

    def walk(self, kind: type[Any]) -> ScanQuery:
        """Return the scan of a table in the order of its keys."""
        select, keys = self._queries[kind]
        return ScanQuery(select, keys)

    def get(self, connection: Connection, kind: type[Any], key: Row) -> Row | None:
        """Return the row with a key, or None."""
        select, keys = self._queries[kind]
        where = " AND ".join(f"{column} = ?" for column in keys)
        rows = self._scan.rows(connection, f"{select} WHERE {where}", key)
        return rows[0] if rows else None
