"""A better copy of a damaged log adds what was missing, and takes its dead letters back, in any order."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest

from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings
from tests.loading import LOADERS, contents, database, letters, read_by, stored
from tests.logs import events

LINES = events(30)
FULL = "".join(f"{line}\n" for line in LINES).encode()
WHOLE = sorted(json.dumps(json.loads(line), sort_keys=True) for line in LINES)


def damaged(*numbers: int, by: bytes = b"{") -> bytes:
    """Return the log with bytes of some lines overwritten; no position changes."""
    lines = [line.encode() for line in LINES]
    for number in numbers:
        lines[number] = lines[number][:10] + by * 10 + lines[number][20:]
    return b"".join(line + b"\n" for line in lines)


def without(*numbers: int) -> bytes:
    """Return the log with some lines, and half a line, replaced by NULs."""
    lines = [line.encode() for line in LINES]
    for number in numbers:
        lines[number] = b"\0" * len(lines[number])
    return b"".join(line + b"\n" for line in lines)


def check(tmp_path: Path, files: dict[str, bytes], loader: str, expected_letters: int) -> None:
    """Load copies in every order, in small batches, and once more."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in files]
    first = None
    for number, order in enumerate(itertools.permutations(paths)):
        with database(tmp_path / f"{number}.sqlite") as engine:
            for path in (*order, *order):
                read_by(loader, engine, [path], Settings(batch_size=1 + 3 * number))
            assert sorted(stored(engine).elements()) == WHOLE, order
            assert len(letters(engine)) == expected_letters, order
            first = first or contents(engine)
            assert contents(engine) == first, order
            again = BulkLoader(engine).load(paths)
            assert (again.counters, [file.state for file in again.files]) == ({}, ["known"] * len(paths))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "copies",
    [
        [damaged(12)],
        [damaged(3, 12, 29)],
        [without(12)],
        [without(5, 6, 7, 20)],
        [damaged(12), damaged(20)],
        [damaged(12), damaged(12, by=b"x")],
        [without(12), damaged(20)],
    ],
    ids=["torn", "torn thrice", "NULs", "long NULs", "two copies", "the same place", "NULs and torn"],
)
def test_a_better_copy_adds_what_was_missing(tmp_path: Path, copies: list[bytes], loader: str) -> None:
    """All events of the undamaged copy are stored, and no dead letter of what it has whole is left."""
    check(tmp_path, {"full.json": FULL} | {f"copy{n}.json": copy for n, copy in enumerate(copies)}, loader, 0)


@pytest.mark.parametrize("loader", LOADERS)
def test_two_damaged_copies_make_one_whole_log(tmp_path: Path, loader: str) -> None:
    """Copies that are damaged in different places give all events; they need not be plain files."""
    check(tmp_path, {"a.json": damaged(12), "b.json": damaged(20)}, loader, 0)
    check(tmp_path, {"a.json.1.gz": gzip.compress(damaged(12)), "b.json": without(20, 21)}, loader, 0)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_longer_better_copy(tmp_path: Path, loader: str) -> None:
    """The better copy may go further, and the damaged one may be a part of it."""
    part = damaged(12)[: sum(len(line) + 1 for line in LINES[:17])]
    check(tmp_path, {"part.json": part, "full.json": FULL}, loader, 0)


def test_a_damaged_log_that_is_known_is_not_read_again(tmp_path: Path) -> None:
    """The same damaged file, and a copy of it, are known: nothing is looked up, no further log is stored."""
    (tmp_path / "a.json").write_bytes(damaged(12) + without(20))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(damaged(12) + without(20)))
    with database(tmp_path / "x.sqlite") as engine:
        for path in (tmp_path / "a.json", tmp_path / "b.json.gz", tmp_path / "a.json"):
            read_by("load", engine, [path])
        assert len(letters(engine)) == 1
        found = contents(engine)
        read_by("load", engine, [tmp_path / "a.json", tmp_path / "b.json.gz"])
        assert contents(engine) == found
