"""What a table declares about its rows across a rollback: which are saved, and how they are merged later.

Every model says it as the last of its `__table_args__`: `saved(…)`, or `not_saved(…)` with the reason. A rollback
writes the saved rows of all tables, and `db migrate` merges them, by nothing but these declarations and the few
conditions in `db/upgrade/v4_state_merge.py` that ask other tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Table
from sqlalchemy.sql.base import ReadOnlyColumnCollection

_DECLARATION = "saved_rows"
"""Key in `Table.info`."""

Row = Mapping[str, Any]
Columns = ReadOnlyColumnCollection[str, Column[Any]]
Condition = Callable[[Columns], ColumnElement[bool]]
Ranks = Mapping[str, Mapping[object, int]]
_NO_RANK = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """A stored value is kept; where there is none, the saved one is taken."""


@dataclass(frozen=True, slots=True)
class Larger:
    """The larger number or the later time counts."""


@dataclass(frozen=True, slots=True)
class LatestItems:
    """Of two lists of times the latest items count, as many as the longer list has."""


@dataclass(frozen=True, slots=True)
class NewerRow:
    """The value of the newer row counts.

    Attributes:
        by: the columns that tell which row is newer, compared in this order; NULL is older than any value.
        fills_gaps: of two rows of the same age, the saved value is taken where there is none.
    """

    by: tuple[str, ...]
    fills_gaps: bool = False


Rule = Gap | Larger | LatestItems | NewerRow
"""What becomes of a stored value; a column without a rule keeps it."""


@dataclass(frozen=True, slots=True)
class SavedRows:
    """How the rows of a table are saved and merged.

    Columns of the primary key that are not in `key` are surrogate ids: they are not saved, and assigned anew.

    Attributes:
        key: the natural key: what tells that a saved and a stored row are the same.
        rules: by column, what becomes of a stored value.
        rebuilt: columns that are not saved, because they are computed again.
        only: which rows are saved; None for all.
        not_in: tables with the same key: a row that one of them refers to is not saved.
        ranks: by column and value, which values say less (below 0) or more (above 0) than others. A value that says
            less is a gap, like NULL; a row with the value that says least is compared no further.
    """

    key: tuple[str, ...]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    rebuilt: frozenset[str] = frozenset()
    only: Condition | None = None
    not_in: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=dict)

    def columns(self, table: Table) -> tuple[Column[Any], ...]:
        """Return the columns that are saved."""
        surrogates = {column.name for column in table.primary_key.columns} - set(self.key)
        return tuple(column for column in table.columns if column.name not in surrogates | self.rebuilt)

    def is_newer(self, by: tuple[str, ...], row: Row, other: Row) -> bool:
        """Return whether a row is newer than another one by these columns."""
        return list(self._ages(by, row)) > list(self._ages(by, other))

    def is_gap(self, name: str, value: object) -> bool:
        """Return whether a value of a column says nothing."""
        return value is None or (name in self.ranks and self.ranks[name].get(value, _NO_RANK) < _NO_RANK)

    def _ages(self, by: tuple[str, ...], row: Row) -> Iterator[tuple[bool, Any]]:
        """Yield what is compared of the columns of a row; after a value of the lowest rank nothing more is."""
        for name in by:
            value, ranks = row[name], self.ranks.get(name)
            if ranks is None:
                yield value is not None, 0 if value is None else value
                continue
            rank = ranks.get(value, _NO_RANK)
            yield True, rank
            if rank == min(ranks.values()):
                return

    def changes(self, stored: Row, given: Row) -> dict[str, Any]:
        """Return the columns of a stored row that a saved row of the same key changes."""
        values = {name: self._merged(name, stored, given) for name in self.rules if name in given}
        return {name: value for name, value in values.items() if value != stored[name]}

    def _merged(self, name: str, stored: Row, given: Row) -> Any:
        match self.rules[name]:
            case Gap():
                takes = self.is_gap(name, stored[name])
            case Larger():
                takes = self.is_newer((name,), given, stored)
            case LatestItems():
                return _latest(stored[name], given[name])
            case NewerRow(by, fills_gaps):
                takes = self.is_newer(by, given, stored) or (
                    fills_gaps and self.is_gap(name, stored[name]) and not self.is_newer(by, stored, given)
                )
        return given[name] if takes else stored[name]


@dataclass(frozen=True, slots=True)
class NotSaved:
    """Rows that are not saved.

    Attributes:
        reason: what brings them back.
    """

    reason: str


def saved(*key: str, **declared: Any) -> dict[str, Any]:
    """Return the table argument that declares how the rows are saved; see `SavedRows`."""
    return {"info": {_DECLARATION: SavedRows(key, **declared)}}


def not_saved(reason: str) -> dict[str, Any]:
    """Return the table argument that declares that the rows are not saved, and what brings them back."""
    return {"info": {_DECLARATION: NotSaved(reason)}}


def declaration_of(table: Table) -> SavedRows | NotSaved:
    """Return what a table declares.

    Raises:
        KeyError: it declares nothing.
    """
    declared: SavedRows | NotSaved = table.info[_DECLARATION]
    return declared


def newer_row(*by: str, columns: tuple[str, ...], fills_gaps: bool = False) -> dict[str, Rule]:
    """Return the rule that these columns follow the newer row."""
    return dict.fromkeys(columns, NewerRow(by, fills_gaps))


def _latest(stored: list[Any] | None, given: list[Any] | None) -> list[Any] | None:
    items, more = stored or [], given or []
    return sorted({*items, *more})[-max(len(items), len(more), 1) :] or stored
