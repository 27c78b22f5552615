"""A table walked beside what was recomputed; what disagrees is looked at again before it is called a difference.

While the walk goes on, loaders and the backfill write. So a disagreement is only a suspicion: at the end each suspect
is read again in one transaction together with the events that this transaction sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from cowrieprocessor.db.table_scan import TableScan
from cowrieprocessor.db.validation.rows import Rows
from cowrieprocessor.db.validation.spill import Row, Spill
from cowrieprocessor.jobs.validation.expected_rows import EventsRead
from cowrieprocessor.jobs.validation.report import Difference, Differences
from cowrieprocessor.jobs.validation.table_checks import TableCheck

LOOKED_AT_AGAIN = 200
"""Suspects that one transaction reads again."""


class TableWalk:
    """Compares one table with the spill.

    Args:
        reading: the database.
        spill: what the events say.
        check: how a row is compared.
    """

    def __init__(self, reading: TableScan, spill: Spill, check: TableCheck) -> None:
        self._reading = reading
        self._spill = spill
        self._check = check
        self._rows = Rows(reading)
        self._suspects: list[Row] = []

    def find_suspects(self, on_rows: Callable[[int, float], None]) -> int:
        """Note the keys of rows that disagree; return how many rows the table has.

        Args:
            on_rows: told how many rows were compared, and the share of the whole.
        """
        total = max(1, self._spill.count(self._check.shape))
        expected = self._spill.walk(self._check.shape)
        due = next(expected, None)
        keys = len(self._check.shape.keys)
        walk = self._reading.walk(self._rows.walk(self._check.kind))
        compared = 0
        for page in walk:
            for found in page:
                key = found[:keys]
                while due is not None and due[:keys] < key:
                    self._suspect(due[:keys])
                    due = next(expected, None)
                if due is not None and due[:keys] == key:
                    if not self._check.agrees(due, found):
                        self._suspect(key)
                    due = next(expected, None)
                elif next(self._check.differences(None, found, self._spill), None) is not None:
                    self._suspect(key)
            compared += len(page)
            on_rows(compared, min(1.0, compared / total))
        while due is not None:
            self._suspect(due[:keys])
            due = next(expected, None)
        self._note_suspects()
        return compared

    def judge(self, events: EventsRead, differences: Differences) -> None:
        """Look at the suspects again, and name those that are still wrong."""
        suspects = self._noted()
        while some := list(islice(suspects, LOOKED_AT_AGAIN)):
            found: list[Difference] = []
            with self._reading.snapshot() as connection:
                events.follow(connection)
                for key in some:
                    expected = self._spill.get(self._check.shape, key)
                    row = self._rows.get(connection, self._check.kind, key)
                    found += self._check.differences(expected, row, self._spill)
            for one in found:
                differences.add(one)

    def _suspect(self, key: Row) -> None:
        self._suspects.append((self._check.table, key[0], key[1] if len(key) > 1 else None))
        if len(self._suspects) >= LOOKED_AT_AGAIN:
            self._note_suspects()

    def _note_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        self._spill.add_suspects(suspects)

    def _noted(self) -> Iterator[Row]:
        for one, other in self._spill.suspects(self._check.table):
            yield (one,) if other is None else (one, other)
