"""An archive that was cut short, and stays so: said once with a failure, then with a note, and nothing is lost."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import Job, RawEvent
from cowrieprocessor.jobs.loading.load import load
from cowrieprocessor.loader.bulk import FAILED, KNOWN, LOADED, BulkLoader
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from tests.command_line import run
from tests.logs import FORMS, count, events, write

PACKED = FORMS | {"bzip2": lambda lines: bz2.compress(FORMS["lines"](lines), 1)}  # in small blocks


def cut_log(folder: Path, form: str = "gzip") -> Path:
    """Write an archive of a log that lacks its last bytes."""
    path = folder / "cowrie.json.1.gz"
    path.write_bytes(PACKED[form](events(2000))[:-200])
    return path


def states(engine: Engine, *paths: Path) -> list[str]:
    """Load and return what became of each file."""
    return [one.state for one in BulkLoader(engine).load(paths).files]


def job_state(engine: Engine) -> str:
    """Return how the last load ended."""
    with read_transaction(engine) as connection:
        return str(connection.scalar(select(Job.state).where(Job.name == "load")))


@pytest.mark.parametrize(
    ("form", "another_core"),
    [("gzip", False), ("gzip", True), ("bzip2", False), ("xz", False), ("zstd", False), ("gzipped array", False)],
)
def test_a_cut_archive_fails_one_load(engine: Engine, tmp_path: Path, form: str, another_core: bool) -> None:
    """The load that stores what an archive holds before the cut fails; the same load again only notes it."""
    sizes = ReadSizes(other_core_bytes=0) if another_core else ReadSizes()
    path = cut_log(tmp_path, form)

    first = load(engine, [path], sizes=sizes)
    stored, first_state = count(engine, RawEvent), job_state(engine)
    again = load(engine, [path], sizes=sizes)

    assert ([FAILED], "failed") == ([one.state for one in first.files], first_state)
    assert ([KNOWN], "done") == ([one.state for one in again.files], job_state(engine))
    assert again.files[0].error is None
    assert "ends early" in again.files[0].warnings[0]
    assert 0 < stored == count(engine, RawEvent)
    assert first.files[0].bytes_pending == again.files[0].bytes_pending


def test_what_follows_an_archive_fails_one_load(engine: Engine, tmp_path: Path) -> None:
    """Likewise an archive that something else was written behind."""
    path = tmp_path / "cowrie.json.1.gz"
    path.write_bytes(FORMS["gzip"](events(50)) + b"something else\n")

    assert [FAILED] == states(engine, path)
    assert [KNOWN] == states(engine, path)
    assert 50 == count(engine, RawEvent)


def test_an_archive_that_is_still_being_copied_fails_as_long_as_it_grows(engine: Engine, tmp_path: Path) -> None:
    """Each load that finds more before the cut fails, one that finds no more notes it, and the whole one is loaded."""
    whole = gzip.compress(FORMS["lines"](events(4000)))
    path = tmp_path / "cowrie.json.1.gz"
    found = []
    for size in (len(whole) // 3, len(whole) // 2, len(whole) // 2, len(whole) - 100, len(whole)):
        path.write_bytes(whole[:size])
        found += states(engine, path)

    assert [FAILED, FAILED, KNOWN, FAILED, LOADED] == found
    assert 4000 == count(engine, RawEvent)


@pytest.mark.parametrize("form", ["lines", "pretty"])
def test_a_cut_copy_of_a_log_that_is_stored_adds_nothing(engine: Engine, tmp_path: Path, form: str) -> None:
    """An archive that was cut before the place reached in the log that it is a copy of is a shorter copy."""
    lines = events(400)
    BulkLoader(engine).load([write(tmp_path / "cowrie.json", lines, form)])
    path = tmp_path / "cowrie.json.1.gz"
    path.write_bytes(gzip.compress(FORMS["lines"](lines))[:-200])

    assert [FAILED] == states(engine, path)
    assert [KNOWN] == states(engine, path)
    assert 400 == count(engine, RawEvent)


def test_other_failures_stay_failures(engine: Engine, tmp_path: Path) -> None:
    """An archive that is damaged, or that holds no event before the cut, fails every load: nothing of it is stored."""
    data = bytearray(gzip.compress(FORMS["lines"](events(2000))))
    data[len(data) // 2] ^= 0xFF
    damaged, empty = tmp_path / "a.json.gz", tmp_path / "b.json.gz"
    damaged.write_bytes(data)
    empty.write_bytes(gzip.compress(FORMS["lines"](events(2000)))[:40])

    for _ in range(3):
        assert [FAILED, FAILED] == states(engine, damaged, empty)
    assert 0 == count(engine, RawEvent)


def test_the_command_ends_with_3_once(tmp_path: Path) -> None:
    """`load` of a folder with a cut archive ends with 3, then with 0 and a note that names it and the remedy."""
    logs = tmp_path / "logs"
    logs.mkdir()
    cut_log(logs)
    write(logs / "cowrie.json", events(5, start=9000))

    first = run("load", logs, "--db", tmp_path / "x.sqlite")
    again = run("load", logs, "--db", tmp_path / "x.sqlite")

    assert (3, 0) == (first.returncode, again.returncode)
    assert "error: " in first.stderr
    assert "error: " not in again.stderr
    for words in ("note: ", "cowrie.json.1.gz", "ends early", "copy the file again", "An earlier load stored all"):
        assert words in again.stderr
    assert "2 files: 0 loaded, 2 with nothing new, 0 failed" in again.stdout
