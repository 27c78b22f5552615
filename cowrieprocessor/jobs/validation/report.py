"""Report of a validation: the first differences in detail, and the number of all."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field

MISSING = "missing"
EXTRA = "extra"
ORPHAN = "orphan"
DIFFERENT = "different"
BAD_FORMAT = "bad format"
SCHEMA = "schema"
V3_TABLES = "v3 tables"


@dataclass(frozen=True, slots=True)
class Difference:
    """One deviation from what the events prescribe.

    Attributes:
        kind: missing, extra, orphan, different, bad format, schema, v3 tables.
        table: the table.
        session_id: the session of the row; None for a row of a hash.
        sha256: the file, if the row is about a file.
        field: the column that differs, if it is about a column.
        expected: the value the column should have.
        found: the value it has, or a description of the row.
        command: the command, if the row is about a command.
        username: the user name, if the row is about logins.
        mention: the URL or name, if the row is about one.
    """

    kind: str
    table: str
    session_id: str | None = None
    sha256: str | None = None
    field: str | None = None
    expected: str | int | None = None
    found: str | int | None = None
    command: str | None = None
    username: str | None = None
    mention: str | None = None

    def describe(self) -> str:
        """Return the difference in one line."""
        parts = [f"{self.kind} in {self.table}" if self.kind != SCHEMA else f"schema of {self.table}"]
        parts += [
            f"{name} {value}"
            for name, value in (
                ("session", self.session_id),
                ("hash", self.sha256),
                ("command", self.command),
                ("user name", self.username),
                ("URL or name", self.mention),
            )
            if value is not None
        ]
        line = ", ".join(parts)
        if self.field is None:
            return line if self.found is None else f"{line}: {self.found}"
        return f"{line}: {self.field} is {_shown(self.found)}, expected {_shown(self.expected)}"


@dataclass(slots=True)
class Differences:
    """The first differences, and the number of each kind.

    Attributes:
        limit: how many differences are stored.
        first: the stored differences.
        counts: number of all differences, by kind and table (`missing in files`).
    """

    limit: int
    first: list[Difference] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, difference: Difference) -> None:
        """Count a difference, and store it up to the limit."""
        self.counts[f"{difference.kind} in {difference.table}"] += 1
        if len(self.first) < self.limit:
            self.first.append(difference)


@dataclass(frozen=True, slots=True)
class CounterCheck:
    """Result of comparing session counters with their events. Informative: `db recount` repairs counters.

    Attributes:
        sessions: number of sessions compared.
        wrong: number whose counters differ from their events, most often because v3 counted a log twice.
        without_events: number of sessions without a stored event.
        is_sample: whether only a sample was compared.
    """

    sessions: int
    wrong: int
    without_events: int
    is_sample: bool


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Result of a validation.

    Attributes:
        database: its name, without any password.
        valid: nothing differs, and every event is backfilled.
        started_at: when it began.
        compared: number of rows compared, by table.
        events_read: number of events read, by job of the backfill.
        without_row: number of file events that make no row, by reason.
        not_backfilled: number of events not backfilled yet, by job; None if the job has not begun.
        differences: number of all differences, by kind and table.
        first_differences: the first differences.
        counters: the comparison of session counters.
        seconds: duration.
    """

    database: str
    valid: bool
    started_at: dt.datetime
    seconds: float
    compared: dict[str, int]
    events_read: dict[str, int]
    without_row: dict[str, int]
    not_backfilled: dict[str, int | None]
    differences: dict[str, int]
    first_differences: list[Difference]
    counters: CounterCheck


def _shown(value: object) -> str:
    return "empty" if value is None else repr(value)
