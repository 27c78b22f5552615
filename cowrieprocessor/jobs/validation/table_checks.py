"""Comparison of one row of a table with its expected row: a class for each table of v4."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from cowrieprocessor.db.validation.rows import (
    ARTIFACT,
    AttributeRow,
    CommandRow,
    FileRow,
    HashRow,
    LoginRow,
    MentionRow,
    SensorRow,
)
from cowrieprocessor.db.validation.spill import (
    ATTRIBUTES,
    COMMANDS,
    FILES,
    HASHES,
    LOGINS,
    MENTIONS,
    SENSORS,
    Row,
    Shape,
    Spill,
)
from cowrieprocessor.interpret.sensors import matcher
from cowrieprocessor.jobs.validation import independent_rules as rules
from cowrieprocessor.jobs.validation.report import BAD_FORMAT, DIFFERENT, EXTRA, MISSING, ORPHAN, Difference

ARTIFACT_SESSION = "artifact:"
HASH_FORMAT = "64 lower-case hexadecimal characters"


class TableCheck(ABC):
    """Compares the rows of one table."""

    table: ClassVar[str]
    shape: ClassVar[Shape]
    kind: ClassVar[type[Any]]

    @abstractmethod
    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether a row is as expected; fast, because it is called for every row."""

    @abstractmethod
    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row, of which expected or found may be None; nothing if it is correct."""


class FilesCheck(TableCheck):
    """`files`: every (session, hash) of the events, and captured files that no event names."""

    table = "files"
    shape = FILES
    kind = FileRow

    _columns = ("filename", "download_url", "origin", "first_seen")

    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether fields, format and status are correct."""
        return (
            expected[2:6] == found[2:6]
            and found[6] in rules.STATUSES
            and not (found[7] or found[8])
            and rules.HASH.fullmatch(found[1]) is not None
        )

    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row."""
        if found is None:
            if expected is not None:
                yield Difference(MISSING, self.table, expected[0], expected[1])
            return
        row = FileRow._make(found)
        key = (self.table, row.session_id, row.shasum)
        if expected is None:
            if row.origin == ARTIFACT and row.session_id.startswith(ARTIFACT_SESSION):
                yield from self._artifact_differences(row, spill)
            elif row.has_session:
                yield Difference(EXTRA, *key, found="no event names this file in this session")
            else:
                yield Difference(ORPHAN, *key, found="there is no such session, neither a summary nor an event of it")
            return
        for column, value, actual in zip(self._columns, expected[2:6], found[2:6], strict=True):
            if value != actual:
                yield Difference(DIFFERENT, *key, column, value, actual)
        yield from self._common_differences(row)

    def _artifact_differences(self, row: FileRow, spill: Spill) -> Iterator[Difference]:
        key = (self.table, row.session_id, row.shasum)
        if spill.get(HASHES, (row.shasum,)) is not None:
            yield Difference(EXTRA, *key, found="a captured file that no log names, but an event does")
        elif not row.has_hash:
            yield Difference(MISSING, HashesCheck.table, sha256=row.shasum)
        yield from self._common_differences(row)

    def _common_differences(self, row: FileRow) -> Iterator[Difference]:
        key = (self.table, row.session_id, row.shasum)
        if rules.HASH.fullmatch(row.shasum) is None:
            yield Difference(BAD_FORMAT, *key, "shasum", HASH_FORMAT, row.shasum)
        if row.enrichment_status not in rules.STATUSES:
            yield _bad_status(*key, found=row.enrichment_status)
        elif row.verdict_differs:
            yield Difference(DIFFERENT, *key, "verdict or status", "what file_hashes says", "something else")
        if row.flag_missing:
            yield Difference(DIFFERENT, "session_summaries", row.session_id, row.shasum, "vt_flagged", 1, 0)


class HashesCheck(TableCheck):
    """`file_hashes`: every hash that an event names, and those of captured files."""

    table = "file_hashes"
    shape = HASHES
    kind = HashRow

    _columns = ("session_count", "first_seen", "last_seen")

    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether count, times and status are correct; the format is, because an event has the same hash."""
        return expected[1:4] == found[1:4] and found[4] in rules.STATUSES

    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row."""
        if found is None:
            if expected is not None:
                yield Difference(MISSING, self.table, sha256=expected[0])
            return
        row = HashRow._make(found)
        if expected is None:
            if not row.has_artifact:
                yield Difference(EXTRA, self.table, sha256=row.sha256, found="no event and no captured file has it")
                return
        else:
            for column, value, actual in zip(self._columns, expected[1:4], found[1:4], strict=True):
                if value != actual:
                    yield Difference(DIFFERENT, self.table, None, row.sha256, column, value, actual)
        if rules.HASH.fullmatch(row.sha256) is None:
            yield Difference(BAD_FORMAT, self.table, None, row.sha256, "sha256", HASH_FORMAT, row.sha256)
        if row.enrichment_status not in rules.STATUSES:
            yield _bad_status(self.table, None, row.sha256, found=row.enrichment_status)


class MentionsCheck(TableCheck):
    """`file_mentions`: every URL and name that the file events of each session mention."""

    table = "file_mentions"
    shape = MENTIONS
    kind = MentionRow

    _columns = ("shasum", "kind", "value", "first_seen", "last_seen")

    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether all columns are those of the events."""
        return expected[2:] == found[2:]

    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row."""
        if found is None:
            if expected is not None:
                row = MentionRow._make(expected)
                yield Difference(MISSING, self.table, row.session_id, row.shasum or None, mention=row.value)
            return
        row = MentionRow._make(found)
        key = (self.table, row.session_id, row.shasum or None)
        if expected is None:
            yield Difference(EXTRA, *key, found="no event of the session mentions it", mention=row.value)
            return
        for column, value, actual in zip(self._columns, expected[2:], found[2:], strict=True):
            if value != actual:
                yield Difference(DIFFERENT, *key, column, value, actual, mention=row.value)


class AttributesCheck(TableCheck):
    """`session_attributes`: the first connection, address, protocol, key exchange and login of each session."""

    table = "session_attributes"
    shape = ATTRIBUTES
    kind = AttributeRow

    _columns = (
        ("connect_at", None, None),
        ("src_ip_rank", "src_ip_at", "src_ip"),
        ("protocol_rank", "protocol_at", "protocol"),
        ("hassh_at", "hassh", None),
        ("login_failed", "login_at", "username"),
    )

    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether all candidates are those of the events."""
        return expected[1:] == _joined(AttributeRow._make(found))

    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row."""
        if found is None:
            if expected is not None:
                yield Difference(MISSING, self.table, expected[0])
            return
        if expected is None:
            yield Difference(EXTRA, self.table, found[0], found="no event of the session says any of it")
            return
        joined = _joined(AttributeRow._make(found))
        for columns, expected_text, actual_text in zip(self._columns, expected[1:], joined, strict=True):
            if expected_text == actual_text:
                continue
            for column, value, actual in zip(columns, _split(expected_text), _split(actual_text), strict=True):
                if column is not None and value != actual:
                    yield Difference(DIFFERENT, self.table, found[0], None, column, value, actual)


class SensorsCheck(TableCheck):
    """`session_sensors`: the sensors and connects of each session, and the sensor in its summary."""

    table = "session_sensors"
    shape = SENSORS
    kind = SensorRow

    _columns = ("given_sensor", "logged_sensor", "sensors_differ", "first_connect_at", "last_connect_at", "matcher")

    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether the names and times are those of the events and logs; not yet, if they are about to change."""
        return bool(found[7]) or _sensor_values(expected, found) == _found_sensors(found)

    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row."""
        if found is None:
            if expected is not None:
                yield Difference(MISSING, self.table, expected[0])
            return
        if found[7]:
            return
        if expected is None:
            yield Difference(EXTRA, self.table, found[0], found="there is no event of this session")
            return
        values = zip(self._columns, _sensor_values(expected, found), _found_sensors(found), strict=True)
        for column, value, actual in values:
            if value != actual:
                yield Difference(DIFFERENT, self.table, found[0], None, column, value, actual)


class CommandsCheck(TableCheck):
    """`command_stats`: how often each session entered each command."""

    table = "command_stats"
    shape = COMMANDS
    kind = CommandRow

    _columns = ("occurrences", "first_seen", "last_seen", "high_risk")

    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether count, times and risk are correct."""
        return expected[2:5] == found[2:5] and bool(expected[5]) == bool(found[5])

    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row."""
        if found is None:
            if expected is not None:
                yield Difference(MISSING, self.table, expected[0], command=expected[1])
            return
        if expected is None:
            yield Difference(EXTRA, self.table, found[0], command=found[1])
            return
        expected_values = (*expected[2:5], int(expected[5]))
        actual_values = (*found[2:5], int(found[5]))
        for column, value, actual in zip(self._columns, expected_values, actual_values, strict=True):
            if value != actual:
                yield Difference(DIFFERENT, self.table, found[0], None, column, value, actual, command=found[1])


class LoginsCheck(TableCheck):
    """`session_logins`: how often each session tried each user name."""

    table = "session_logins"
    shape = LOGINS
    kind = LoginRow

    _columns = ("attempts", "successes", "first_seen", "last_seen")

    def agrees(self, expected: Row, found: Row) -> bool:
        """Return whether counts and times are correct."""
        return expected[2:] == found[2:]

    def differences(self, expected: Row | None, found: Row | None, spill: Spill) -> Iterator[Difference]:
        """Yield the differences of a row."""
        if found is None:
            if expected is not None:
                yield Difference(MISSING, self.table, expected[0], username=expected[1])
            return
        if expected is None:
            yield Difference(EXTRA, self.table, found[0], username=found[1])
            return
        for column, value, actual in zip(self._columns, expected[2:], found[2:], strict=True):
            if value != actual:
                yield Difference(DIFFERENT, self.table, found[0], None, column, value, actual, username=found[1])


def _sensor_values(expected: Row, found: Row) -> Row:
    """Return the columns of a row of sensors as they should be, ending with the sensor in the session's summary."""
    row = SensorRow._make(found)
    _, given_first, given_last, logged_first, logged_last, first, last = expected
    given = [name for name in (given_first, given_last, row.left_out_first, row.left_out_last) if name is not None]
    sensor = min(given, default=logged_first)
    short = row.matcher if sensor is None or row.matcher is None else matcher(sensor)
    differ = len(set(given)) > 1 or logged_first != logged_last
    return (min(given, default=None), logged_first, differ, first, last, short)


def _found_sensors(found: Row) -> Row:
    return (*found[1:3], bool(found[3]), *found[4:7])


def _bad_status(table: str, session_id: str | None, sha256: str, *, found: str) -> Difference:
    expected = f"one of {', '.join(sorted(rules.STATUSES))}"
    return Difference(BAD_FORMAT, table, session_id, sha256, "enrichment_status", expected, found)


def _joined(row: AttributeRow) -> tuple[str | None, ...]:
    """Return the row's candidates in the form in which the spill has those of the events."""
    failed = "0" if row.login_success else "1"
    return (
        row.connect_at,
        _named(row, row.src_ip_rank, row.src_ip_at, row.src_ip),
        _named(row, row.protocol_rank, row.protocol_at, row.protocol),
        None if row.hassh_at is None else _join(row.hassh_at, row.hassh, None),
        None if row.login_at is None else _join(failed, row.login_at, row.username),
    )


def _named(row: AttributeRow, rank: int | None, at: str | None, value: str | None) -> str | None:
    """Return an address or a protocol with its key; without a rank it is that of the connection."""
    return None if value is None else _join(str(rank or 0), row.connect_at if rank is None else at, value)


def _join(*values: str | None) -> str:
    return rules.SEPARATOR.join(value or "" for value in values)


def _split(joined: str | None) -> list[str | None]:
    values = [] if joined is None else [value or None for value in joined.split(rules.SEPARATOR)]
    return values + [None] * (3 - len(values))
