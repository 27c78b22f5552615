"""What a validation found: each difference by name, all of them by number."""

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
    """One thing that is not as the events say.

    Attributes:
        kind: missing, extra, orphan, different, bad format, schema, v3 tables.
        table: where.
        session_id: whose row it is; None where the row is a hash's.
        sha256: which file it is about, if any.
        field: the column that differs, if one does.
        expected: what it should hold.
        found: what it holds.
    """

    kind: str
    table: str
    session_id: str | None = None
    sha256: str | None = None
    field: str | None = None
    expected: str | int | None = None
    found: str | int | None = None
    command: str | None = None

    def describe(self) -> str:
        """Return it in a line."""
        place = [f"{self.kind} in {self.table}" if self.kind != SCHEMA else f"schema of {self.table}"]
        place += [
            f"{name} {value}"
            for name, value in (("session", self.session_id), ("hash", self.sha256), ("command", self.command))
            if value is not None
        ]
        line = ", ".join(place)
        if self.field is None:
            return line if self.found is None else f"{line}: {self.found}"
        return f"{line}: {self.field} is {_shown(self.found)}, expected {_shown(self.expected)}"


@dataclass(slots=True)
class Differences:
    """The first differences, and how many there are of each kind.

    Attributes:
        limit: how many are kept.
        first: these.
        counts: all of them: `missing in files` and so on.
    """

    limit: int
    first: list[Difference] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, one: Difference) -> None:
        """Count a difference; keep it while there are few."""
        self.counts[f"{one.kind} in {one.table}"] += 1
        if len(self.first) < self.limit:
            self.first.append(one)


@dataclass(frozen=True, slots=True)
class QueryTime:
    """One question, answered as v3 had to and from v4's tables. Information, never judged.

    Attributes:
        question: what is asked.
        before_ms: the answer from raw_events.
        after_ms: the answer from `files`.
        how: how the first number came about.
    """

    question: str
    before_ms: float
    after_ms: float
    how: str


@dataclass(frozen=True, slots=True)
class CounterCheck:
    """Sessions whose counters were compared with their events. Information: `db recount` repairs them.

    Attributes:
        sessions: how many were compared.
        wrong: how many say something else than their events, most often because v3 added a log twice.
        without_events: sessions of which no event is stored.
        is_sample: whether these were some of many.
    """

    sessions: int
    wrong: int
    without_events: int
    is_sample: bool


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """All that a validation says.

    Attributes:
        database: its name, without any password.
        valid: nothing differs, and every event is taken up.
        compared: rows compared, by table.
        events_read: events read, by job of the backfill.
        without_row: file events that can have no row, by reason.
        not_backfilled: events that the backfill has not taken up yet, by its job; None where it has not begun.
        differences: all differences, by kind and table.
        first_differences: the first of them.
        counters: sessions whose counters were compared.
        query_times: questions, before and after.
        seconds: how long it took.
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
    query_times: list[QueryTime]


def _shown(value: object) -> str:
    return "empty" if value is None else repr(value)
