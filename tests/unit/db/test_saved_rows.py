"""What tables declare about their rows across a rollback: every table does, and the rules do what they say."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, UniqueConstraint

from cowrieprocessor.db.models import Base
from cowrieprocessor.db.saved_rows import (
    Gap,
    Larger,
    LatestItems,
    NewerRow,
    NotSaved,
    SavedRows,
    declaration_of,
    newer_row,
    saved,
)

TABLES = list(Base.metadata.tables.values())
EARLY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LATE = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)


def problems(table: Table) -> list[str]:
    """Return what is wrong with the declaration of a table."""
    try:
        declared = declaration_of(table)
    except KeyError:
        return ["declares nothing about its rows across a rollback"]
    if isinstance(declared, NotSaved):
        return [] if declared.reason else ["has no reason not to be saved"]
    named = {*declared.key, *declared.rules, *declared.rebuilt, *declared.ranks}
    named |= {column for rule in declared.rules.values() if isinstance(rule, NewerRow) for column in rule.by}
    return [
        *(f"has no column {name}" for name in sorted(named - set(table.columns.keys()))),
        *(f"both computes {name} again and merges it" for name in sorted(declared.rebuilt & declared.rules.keys())),
        *(
            f"leaves {column.name} out, which needs a value"
            for column in set(table.columns) - set(declared.columns(table))
            if not (column.primary_key or column.nullable or column.server_default is not None)
        ),
        *(f"refers to {name} by another key" for name in declared.not_in if not _has(name, declared.key)),
    ]


def _has(name: str, key: tuple[str, ...]) -> bool:
    return set(key) <= set(Base.metadata.tables[name].columns.keys())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_says_what_a_rollback_does_with_its_rows(table: Table) -> None:
    """Each table is saved by its natural key and merged by the rules of its columns, or says why it is not saved."""
    assert problems(table) == []


def test_a_table_without_a_declaration_is_found() -> None:
    """The test above can fail: for a table that declares nothing, and for one that declares what it has not."""
    silent = Table("silent", MetaData(), Column("id", Integer, primary_key=True))
    columns = (Column("id", Integer, primary_key=True), Column("number", Integer, nullable=False))
    wrong = Table("wrong", MetaData(), *columns, **saved("id", "name", rebuilt=frozenset({"number"})))

    assert problems(silent) == ["declares nothing about its rows across a rollback"]
    assert problems(wrong) == ["has no column name", "leaves number out, which needs a value"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_natural_keys_are_unique(table: Table) -> None:
    """A natural key is the primary key or a unique constraint; only spans of verdicts are kept apart by their merge."""
    declared = declaration_of(table)
    if not isinstance(declared, SavedRows) or table.name == "file_verdicts":
        return
    constraints = [constraint for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    unique = [{column.name for column in constraint.columns} for constraint in constraints]
    assert set(declared.key) in [*unique, {column.name for column in table.primary_key.columns}]


def test_surrogate_ids_are_assigned_anew() -> None:
    """Ids outside of the natural key are not saved, nor is what is computed again."""
    saved_columns = {
        table.name: {column.name for column in declared.columns(table)}
        for table in TABLES
        if isinstance(declared := declaration_of(table), SavedRows)
    }
    assert {name for name, columns in saved_columns.items() if "id" in columns} == set()
    assert "session_count" not in saved_columns["file_hashes"]
    assert "cursor" not in saved_columns["verdict_propagation"]


NEWER = SavedRows(("key",), newer_row("at", columns=("at", "text")))
FILLING = SavedRows(("key",), newer_row("at", columns=("at", "text"), fills_gaps=True), ranks={"text": {"unknown": -1}})
RANKED = SavedRows(
    ("key",), newer_row("text", "at", columns=("text", "at")), ranks={"text": {"limited": -2, "due": -1, "done": 1}}
)


@pytest.mark.parametrize(
    ("declared", "stored", "given", "changes"),
    [
        (SavedRows(("key",)), {"text": "a"}, {"text": "b"}, {}),
        (SavedRows(("key",), {"text": Gap()}), {"text": None}, {"text": "b"}, {"text": "b"}),
        (SavedRows(("key",), {"text": Gap()}), {"text": "a"}, {"text": "b"}, {}),
        (SavedRows(("key",), {"number": Larger()}), {"number": 1}, {"number": 2}, {"number": 2}),
        (SavedRows(("key",), {"number": Larger()}), {"number": 2}, {"number": 1}, {}),
        (SavedRows(("key",), {"at": Larger()}), {"at": None}, {"at": EARLY}, {"at": EARLY}),
        (SavedRows(("key",), {"at": Larger()}), {"at": LATE}, {"at": None}, {}),
        (SavedRows(("key",), {"list": LatestItems()}), {"list": ["1", "3"]}, {"list": ["2"]}, {"list": ["2", "3"]}),
        (SavedRows(("key",), {"list": LatestItems()}), {"list": None}, {"list": None}, {}),
        (SavedRows(("key",), {"list": LatestItems()}), {"list": ["1"]}, {}, {}),
        (NEWER, {"at": EARLY, "text": "a"}, {"at": LATE, "text": None}, {"at": LATE, "text": None}),
        (NEWER, {"at": LATE, "text": None}, {"at": EARLY, "text": "b"}, {}),
        (NEWER, {"at": LATE, "text": None}, {"at": LATE, "text": "b"}, {}),
        (FILLING, {"at": LATE, "text": None}, {"at": LATE, "text": "b"}, {"text": "b"}),
        (FILLING, {"at": LATE, "text": "unknown"}, {"at": LATE, "text": "b"}, {"text": "b"}),
        (FILLING, {"at": LATE, "text": "unknown"}, {"at": EARLY, "text": "b"}, {}),
        (RANKED, {"text": "due", "at": LATE}, {"text": "other", "at": EARLY}, {"text": "other", "at": EARLY}),
        (RANKED, {"text": "done", "at": EARLY}, {"text": "other", "at": LATE}, {}),
        (RANKED, {"text": "done", "at": EARLY}, {"text": "done", "at": LATE}, {"at": LATE}),
        (RANKED, {"text": "limited", "at": EARLY}, {"text": "limited", "at": LATE}, {}),
    ],
)
def test_stored_values_change_by_their_rules(
    declared: SavedRows, stored: dict[str, Any], given: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Each rule changes a stored value where it says so; merging once more changes nothing."""
    assert declared.changes(stored, given) == changes
    assert declared.changes(stored | changes, given) == {}
