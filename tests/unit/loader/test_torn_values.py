"""A value torn at the end of a log: joined with its rest, found in another copy, or one dead letter, in any order."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.settings import Settings
from tests.loading import LOADERS, contents, database, letters, read_by, stored
from tests.logs import events

LINES = events(8)
WHOLE = sorted(json.dumps(json.loads(line), sort_keys=True) for line in LINES)
HOUR_S = 3600.0

Files = dict[str, bytes]


def text(lines: list[str]) -> bytes:
    """Return lines with their ends."""
    return "".join(f"{line}\n" for line in lines).encode()


def split(at: int, *, day: str = "cowrie.json.2026-03-01", live: str = "cowrie.json") -> Files:
    """Return two files: the fifth line is split between them."""
    line = LINES[4].encode()
    return {day: text(LINES[:4]) + line[:at], live: line[at:] + b"\n" + text(LINES[5:])}


def write(folder: Path, files: Files) -> list[Path]:
    """Write files; return their paths."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def check_every_order(
    tmp_path: Path, files: Files, loader: str, expected: list[str], expected_letters: list[str]
) -> None:
    """Load files in every order, and once more, and compare events and dead letters."""
    paths = write(tmp_path, files)
    first = None
    for number, order in enumerate(itertools.permutations(paths)):
        with database(tmp_path / f"{number}.sqlite") as engine:
            for path in (*order, *reversed(order)):
                read_by(loader, engine, [path])
            assert sorted(stored(engine).elements()) == sorted(expected), order
            assert letters(engine) == sorted(expected_letters), order
            first = first or contents(engine)
            assert contents(engine) == first, order


CUTS = [1, LINES[4].index("timestamp"), LINES[4].index(' "sensor"'), LINES[4].index('"sensor"'), len(LINES[4]) - 1]


@pytest.mark.parametrize("at", CUTS)
@pytest.mark.parametrize("loader", LOADERS)
def test_the_halves_of_an_event_in_two_files_are_joined(tmp_path: Path, loader: str, at: int) -> None:
    """An event that is split between two logs of a pot is stored once, whichever of them is loaded first."""
    check_every_order(tmp_path, split(at), loader, WHOLE, [])


@pytest.mark.parametrize("loader", LOADERS)
def test_halves_in_archives_are_joined(tmp_path: Path, loader: str) -> None:
    """The same where both files are compressed, and with copies of each."""
    halves = split(CUTS[2], live="cowrie.json.2026-03-02")
    files = {f"{name}.gz": gzip.compress(content) for name, content in halves.items()}
    check_every_order(tmp_path, files | halves, loader, WHOLE, [])


@pytest.mark.parametrize("loader", LOADERS)
def test_an_event_that_another_log_has_whole_is_stored_once(tmp_path: Path, loader: str) -> None:
    """Halves in two logs and the whole event in a third one are one event, in every order."""
    files = split(CUTS[2]) | {"backup.json": text(LINES[3:6])}
    check_every_order(tmp_path, files, loader, WHOLE, [])


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "files",
    [
        split(CUTS[2], day="a/cowrie.json.2026-03-01", live="b/cowrie.json"),
        split(CUTS[2], live="other.json"),
        split(CUTS[2]) | {"cowrie.json": LINES[4][CUTS[2] :].encode() + b"\n" + text(events(5, start=2000))},
    ],
    ids=["another folder", "another name", "two days later"],
)
def test_halves_that_do_not_belong_together_are_not_joined(tmp_path: Path, loader: str, files: Files) -> None:
    """Bytes at the end of one log and the beginning of another are joined only if one continues the other."""
    paths = write(tmp_path, files)
    for number, order in enumerate((paths, paths[::-1])):
        with database(tmp_path / f"{number}.sqlite") as engine:
            for path in order:
                read_by(loader, engine, [path])
            assert LINES[4] not in [json.dumps(json.loads(payload)) for payload in stored(engine)]
            assert letters(engine) == [LINES[4][CUTS[2] :].strip()]


@pytest.mark.parametrize("fragment", ['{"a":1},"session":"s"}', '{"a": {"b": 1}}}', ' {"a":1}]}, {"b":2}}'])
def test_a_fragment_that_happens_to_be_an_object_is_no_event(tmp_path: Path, fragment: str) -> None:
    """The end of a torn event may begin with an object; neither it nor its identity is that of an event."""
    (tmp_path / "cowrie.json").write_text(f"{fragment}\n" + text(LINES).decode())
    with database(tmp_path / "x.sqlite") as engine:
        read_by("load", engine, [tmp_path / "cowrie.json"])
        assert sorted(stored(engine).elements()) == WHOLE
        assert "".join(letters(engine)).replace(" ", "") == fragment.replace(" ", "")


# --- the end of a finished log ---


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("end", [LINES[7][:100].encode(), b'{"eve', b"junk", b'"password":"1"}'])
def test_the_torn_end_of_an_archive_is_one_dead_letter(tmp_path: Path, loader: str, end: bytes) -> None:
    """An archive that ends within a value has one dead letter for it, and nothing is said at the next load."""
    path = tmp_path / "cowrie.json.2026-03-01.gz"
    path.write_bytes(gzip.compress(text(LINES[:7]) + end))
    with database(tmp_path / "x.sqlite") as engine:
        assert read_by(loader, engine, [path])["dead_letters"] == 1
        assert letters(engine) == [end.decode()]
        again = BulkLoader(engine).load([path])
        assert (again.counters, again.files[0].warnings, again.files[0].bytes_pending) == ({}, [], 0)
        assert letters(engine) == [end.decode()]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("at", [5, 60, 100, len(LINES[6]) - 2])
def test_the_dead_letter_is_withdrawn_when_the_rest_turns_up(tmp_path: Path, loader: str, at: int) -> None:
    """A cut copy and the whole log are the whole log, in every order."""
    files = {
        "cowrie.json.2026-03-01.gz": gzip.compress(text(LINES[:6]) + LINES[6][:at].encode()),
        "again.json.1.gz": gzip.compress(text(LINES[:6]) + LINES[6][:at].encode()),
        "cowrie.json": text(LINES),
    }
    check_every_order(tmp_path, files, loader, WHOLE, [])


def at_night(path: Path, *, hours: float) -> Callable[[], float]:
    """Return a clock by which a file was changed some hours ago."""
    os.utime(path, (1e9, 1e9))
    return lambda: 1e9 + hours * HOUR_S


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("names", "hours", "is_finished"),
    [
        (["cowrie.json.2026-03-01", "cowrie.json"], 1.01, True),
        (["cowrie.json.2026-03-01", "cowrie.json.2026-03-03.gz"], 1.01, True),
        (["cowrie.json.2", "cowrie.json.1"], 1.01, True),
        (["cowrie.json.2026-03-01", "cowrie.json"], 0.99, False),
        (["cowrie.json.2026-03-01"], 100, False),
        (["cowrie.json.2026-03-01", "cowrie.json.2026-02-28"], 100, False),
        (["cowrie.json.2026-03-01", "other.json"], 100, False),
        (["cowrie.json", "cowrie.json.2026-03-01"], 100, False),
    ],
)
def test_a_rotated_log_is_finished_after_an_hour(
    tmp_path: Path, loader: str, names: list[str], hours: float, is_finished: bool
) -> None:
    """It was rotated, a later log exists, and it has not changed for an hour: then its torn end is a dead letter."""
    for name in names[1:]:
        content = text(events(3, start=500))
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    path = tmp_path / names[0]
    path.write_bytes(text(LINES[:7]) + LINES[7][:100].encode())
    clock = at_night(path, hours=hours)
    with database(tmp_path / "x.sqlite") as engine:
        read_by(loader, engine, [path], clock=clock)
        assert letters(engine) == ([LINES[7][:100]] if is_finished else [])
        read_by(loader, engine, [path], clock=clock)
        assert letters(engine) == ([LINES[7][:100]] if is_finished else [])


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_follower_looks_again_after_an_hour(tmp_path: Path, is_restarted: bool) -> None:
    """A log that is rotated with a torn end has its dead letter an hour later, also after a restart."""
    live, rotated = tmp_path / "cowrie.json", tmp_path / "cowrie.json.2026-03-01"
    live.write_bytes(text(LINES[:7]) + LINES[7][:100].encode())
    os.utime(live, (1e9, 1e9))
    hours = 0.0
    timing = FollowTiming(archive_settles_s=0.0)
    with database(tmp_path / "x.sqlite") as engine:

        def started() -> DeltaLoader:
            return DeltaLoader(engine, [live], timing=timing, clock=lambda: 1e9 + hours * HOUR_S)

        follower = started()
        follower.poll()
        live.rename(rotated)
        live.write_bytes(text(events(3, start=500)))
        result = follower.poll()
        assert letters(engine) == []
        assert result.again_in_s is not None
        follower.poll()
        if is_restarted:
            follower.close()
            follower = started()
            follower.poll()
        hours = 1.01
        follower.poll()
        assert letters(engine) == [LINES[7][:100]]
        assert follower.poll().files == []
        follower.close()


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_follower_joins_halves_after_the_rotation(tmp_path: Path, is_closed: bool) -> None:
    """A live log ends with half an event and is rotated; the next one begins with the rest."""
    live, rotated = tmp_path / "cowrie.json", tmp_path / "cowrie.json.2026-03-01"
    files = split(CUTS[3])
    live.write_bytes(files["cowrie.json.2026-03-01"])
    with database(tmp_path / "x.sqlite") as engine:
        follower = DeltaLoader(engine, [live])
        follower.poll()
        if is_closed:
            follower.close()
            follower = DeltaLoader(engine, [live])
        live.rename(rotated)
        live.write_bytes(files["cowrie.json"])
        follower.poll()
        follower.poll()
        follower.close()
        assert sorted(stored(engine).elements()) == WHOLE
        assert letters(engine) == []


def test_a_whole_last_line_without_its_end_is_stored(tmp_path: Path) -> None:
    """The last line is complete though no newline follows: it is stored, and nothing is called unfinished."""
    path = tmp_path / "cowrie.json"
    path.write_bytes(text(LINES)[:-1])
    with database(tmp_path / "x.sqlite") as engine:
        result = BulkLoader(engine).load([path])
        assert (result.counters["events"], result.files[0].warnings, result.files[0].bytes_pending) == (8, [], 0)
        path.write_bytes(text(LINES) + text(events(2, start=100)))
        assert BulkLoader(engine).load([path]).counters["events"] == 2


# --- a log that is still being copied ---

UPLOAD = 3
"""The line with a file, whose name can be cut within."""


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("number", "cut", "partial"),
    [
        (4, LINES[4].index("and.input"), LINES[4].index("mmand.input")),
        (4, LINES[4].index("and.input"), LINES[4].index("owrie.command") - 40),
        (UPLOAD, LINES[UPLOAD].index("003"), LINES[UPLOAD].index("003") - 30),
    ],
    ids=["another name", "no event", "another file"],
)
def test_what_half_a_copy_was_joined_to_is_taken_back(
    engine: Engine, tmp_path: Path, loader: str, number: int, cut: int, partial: int
) -> None:
    """A log that is copied in pieces ends within a value by chance; with the next log's beginning that is no event."""
    line, live = LINES[number].encode(), tmp_path / "cowrie.json"
    live.write_bytes(line[cut:] + b"\n" + text(LINES[number + 1 :]))
    day = tmp_path / "cowrie.json.2026-03-01"
    read_by(loader, engine, [live])
    for at in (partial, partial + 1, cut):
        day.write_bytes(text(LINES[:number]) + line[:at])
        read_by(loader, engine, [day])
    assert sorted(stored(engine).elements()) == WHOLE
    assert letters(engine) == []
    found = contents(engine)
    with database(tmp_path / "x.sqlite") as at_once:
        read_by("load", at_once, [day, live])
        assert contents(at_once) == found


@pytest.mark.parametrize("loader", LOADERS)
def test_what_was_joined_is_taken_back_when_the_log_goes_on(engine: Engine, tmp_path: Path, loader: str) -> None:
    """The log with the first half is whole in the end: the other half is a dead letter again."""
    cut, partial = LINES[4].index("and.input"), LINES[4].index("mmand.input")
    live, day = tmp_path / "cowrie.json", tmp_path / "cowrie.json.2026-03-01"
    live.write_bytes(LINES[4][cut:].encode() + b"\n" + text(LINES[5:]))
    day.write_bytes(text(LINES[:4]) + LINES[4][:partial].encode())
    read_by(loader, engine, [day])
    read_by(loader, engine, [live])
    assert ("cowrie.coand.input" in "".join(stored(engine)), letters(engine)) == (True, [])
    day.write_bytes(text(LINES[:5]))
    counters = read_by(loader, engine, [day])

    assert (sorted(stored(engine).elements()), letters(engine)) == (WHOLE, [LINES[4][cut:]])
    assert (counters["events_taken_back"], counters["events"], counters["dead_letters"]) == (1, 1, 1)
    assert read_by(loader, engine, [day, live]) == {}


def test_a_joined_event_stays_if_the_log_has_it(engine: Engine, tmp_path: Path) -> None:
    """The log goes on with the very event that was joined: nothing changes."""
    live, day = (tmp_path / name for name in ("cowrie.json", "cowrie.json.2026-03-01"))
    files = split(CUTS[2])
    live.write_bytes(files[live.name])
    day.write_bytes(files[day.name])
    read_by("load", engine, [day, live])
    day.write_bytes(text(LINES[:5]))
    counters = read_by("load", engine, [day])
    assert (counters["events_taken_back"], sorted(stored(engine).elements()), letters(engine)) == (0, WHOLE, [])


@pytest.mark.parametrize("loader", LOADERS)
def test_a_torn_end_is_found_in_an_indented_copy(tmp_path: Path, loader: str) -> None:
    """White space does not matter: the event of a torn end is found in a copy that is indented, and the reverse."""
    indented = "".join(json.dumps(json.loads(line), indent=2) + "\n" for line in LINES)
    torn = indented[: indented.index("login.success")]
    files = {
        "a/cowrie.json.2026-03-01.gz": gzip.compress(text(LINES[:6]) + LINES[6][:100].encode()),
        "b/cowrie.json.2026-03-01.gz": gzip.compress(torn.encode()),
        "c/cowrie.json": indented.encode(),
    }
    check_every_order(tmp_path, files, loader, WHOLE, [])


@pytest.mark.parametrize("loader", LOADERS)
def test_halves_are_joined_event_by_event(engine: Engine, tmp_path: Path, loader: str) -> None:
    """A batch may hold nothing but the second half: the time of the next event is noted when that comes."""
    files = split(CUTS[2])
    paths = write(tmp_path, files)
    for path in reversed(paths):
        read_by(loader, engine, [path], Settings(batch_size=1))
    assert (sorted(stored(engine).elements()), letters(engine)) == (WHOLE, [])


# --- which dead letters are one ---


@pytest.mark.parametrize("loader", LOADERS)
def test_copies_of_a_log_share_its_dead_letters(tmp_path: Path, loader: str) -> None:
    """The same damage at the same place of copies, in any form, is one dead letter; twice in one log it is two."""
    damaged = [*LINES[:3], "torn {", "torn {", *LINES[3:]]
    files = {
        "cowrie.json.2026-03-01": text(damaged),
        "copy.json.gz": gzip.compress(text(damaged)),
        "part.json": text(damaged[1:4]),
        "pretty.json": b"".join(
            (json.dumps(json.loads(line), indent=1) if line in LINES else line).encode() + b"\n" for line in damaged
        ),
    }
    check_every_order(tmp_path, files, loader, WHOLE, ["torn {", "torn {"])


@pytest.mark.parametrize("loader", LOADERS)
def test_two_logs_that_begin_alike_keep_one_dead_letter_each(tmp_path: Path, loader: str) -> None:
    """Two different logs may begin with the same event, and hold the same damage at the same line."""
    files = {
        "a.json": text([*LINES[:1], LINES[1], "torn {", LINES[2]]),
        "b.json": text([*LINES[:1], LINES[5], "torn {", LINES[6]]),
    }
    expected = [WHOLE_OF[line] for line in (LINES[0], LINES[1], LINES[2], LINES[5], LINES[6])]
    check_every_order(tmp_path, files, loader, expected, ["torn {", "torn {"])


WHOLE_OF = {line: json.dumps(json.loads(line), sort_keys=True) for line in LINES}


@pytest.mark.postgres
@pytest.mark.parametrize("is_reversed", [False, True])
def test_postgresql_joins_and_withdraws(postgres_url: str, tmp_path: Path, is_reversed: bool) -> None:
    """The same on PostgreSQL."""
    files = split(CUTS[2]) | {"cut.json.1.gz": gzip.compress(text(LINES[:6]) + LINES[6][:100].encode())}
    paths = write(tmp_path, files)
    with database(postgres_url) as engine:
        for path in reversed(paths) if is_reversed else paths:
            read_by("load", engine, [path])
        assert sorted(stored(engine).elements()) == WHOLE
        assert letters(engine) == []
