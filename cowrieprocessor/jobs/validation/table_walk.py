"""Comparison of a table with its expected rows; a deviation is verified before it is reported as a difference.

Loaders and the backfill may write during the comparison, so that a deviation is only a suspect: at the end each suspect
is read again, in one transaction with the events that this transaction sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from cowrieprocessor.db.dialects.scan import TableScan
from cowrieprocessor.db.validation.rows import Rows
from cowrieprocessor.db.validation.spill import Row, Spill
from cowrieprocessor.jobs.validation.expected_rows import ExpectedRows
from cowrieprocessor.jobs.validation.report import Difference, Differences
from cowrieprocessor.jobs.validation.table_checks import TableCheck

VERIFIED_SUSPECTS = 200
"""Suspects that one transaction verifies."""


class TableWalk:
    """Compares one table with the spill.

    Args:
        scan: the database.
        spill: the expected rows.
        check: compares one row.
    """

    def __init__(self, scan: TableScan, spill: Spill, check: TableCheck) -> None:
        self._scan = scan
        self._spill = spill
        self._check = check
        self._rows = Rows(scan)
        self._suspects: list[Row] = []

    def find_suspects(self, on_rows: Callable[[int, float], None]) -> int:
        """Store the keys of rows that deviate; return the number of rows of the table.

        Args:
            on_rows: called with the number of rows compared, and the share of all, 0 to 1.
        """
        total = max(1, self._spill.count(self._check.shape))
        expected_rows = self._spill.walk(self._check.shape)
        expected = next(expected_rows, None)
        width = len(self._check.shape.keys)
        compared = 0
        for page in self._scan.walk(self._rows.walk(self._check.kind)):
            for found in page:
                key = found[:width]
                while expected is not None and expected[:width] < key:
                    self._suspect(expected[:width])
                    expected = next(expected_rows, None)
                if expected is not None and expected[:width] == key:
                    if not self._check.agrees(expected, found):
                        self._suspect(key)
                    expected = next(expected_rows, None)
                elif next(self._check.differences(None, found, self._spill), None) is not None:
                    self._suspect(key)
            compared += len(page)
            on_rows(compared, min(1.0, compared / total))
        while expected is not None:
            self._suspect(expected[:width])
            expected = next(expected_rows, None)
        self._flush_suspects()
        return compared

    def verify_suspects(self, expected_rows: ExpectedRows, differences: Differences) -> None:
        """Read the suspects again, and add the differences of those that still deviate."""
        keys = self._suspect_keys()
        while batch := list(islice(keys, VERIFIED_SUSPECTS)):
            confirmed: list[Difference] = []
            with self._scan.snapshot() as connection:
                expected_rows.follow(connection)
                for key in batch:
                    expected = self._spill.get(self._check.shape, key)
                    row = self._rows.get(connection, self._check.kind, key)
                    confirmed += self._check.differences(expected, row, self._spill)
            for difference in confirmed:
                differences.add(difference)

    def _suspect(self, key: Row) -> None:
        self._suspects.append((self._check.table, key[0], key[1] if len(key) > 1 else None))
        if len(self._suspects) >= VERIFIED_SUSPECTS:
            self._flush_suspects()

    def _flush_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        self._spill.add_suspects(suspects)

    def _suspect_keys(self) -> Iterator[Row]:
        for first, second in self._spill.suspects(self._check.table):
            yield (first,) if second is None else (first, second)
