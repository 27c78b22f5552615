"""The benchmark cases: each is a function that yields results, which `bench.py` prints."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.generate_logs import LogStream
from benchmarks.inputs import Inputs, copy_code, remove_database
from benchmarks.measure import Command, Pair, Spread, Usage, in_turns, run
from benchmarks.program import Program

MB = 1_000_000
MEMORY_TARGET_BYTES = 200 << 20
EXIT_UNREADABLE = 3

_READ = "import sys; f = open(sys.argv[1], 'rb', 0); b = bytearray(1 << 20)\nwhile f.readinto(b): pass"
_GUNZIP = "import sys; from isal import igzip; f = igzip.open(sys.argv[1])\nwhile f.read(1 << 20): pass"


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of a run.

    Attributes:
        pairs: how often each pair of commands is measured.
        events: events of the log that is loaded and followed.
        form_events: events of the logs of `forms` and `peer`.
        slice_events: events that `growth` loads at a time.
        young_events: rows at which `growth` begins to compare.
        grown_events: rows at which `growth` ends.
        big_bytes: size of the large inputs of `memory`.
        line_bytes: size of its longest line.
        free_bytes: free disk space needed.
        v3_bytes: size of the v3 database.
        virtual_hours: virtual time during which `enrichment` keeps the rate per minute.
        per_day: requests a day that the key of `enrichment` allows.
        asked_files: files that `enrichment` asks about.
        sessions_each: sessions per file, for each comparison with plain requests.
        propagated_sessions: sessions to which a verdict is propagated.
        known_hashes: files in the database in which files are claimed.
        many_logs: logs of one line that `many` loads.
        live_files: logs that `following` follows.
        archives: compressed logs next to them.
        settle_s: seconds after the last event until a follower is idle.
        idle_s: seconds for which an idle follower is measured.
        live_s: seconds for which events are written to all logs.
    """

    pairs: int
    events: int
    form_events: int
    slice_events: int
    young_events: int
    grown_events: int
    big_bytes: int
    line_bytes: int
    free_bytes: int
    v3_bytes: int
    virtual_hours: int
    asked_files: int
    propagated_sessions: int
    known_hashes: int
    many_logs: int
    live_files: int
    archives: int
    idle_s: float
    live_s: float
    per_day: int = 500
    sessions_each: tuple[int, ...] = (2, 0)
    settle_s: float = 8.0


FULL = Scale(
    pairs=3,
    events=1_000_000,
    form_events=200_000,
    slice_events=250_000,
    young_events=1_000_000,
    grown_events=5_000_000,
    big_bytes=2_000 * MB,
    line_bytes=200 * MB,
    free_bytes=45_000 * MB,
    v3_bytes=10_000 * MB,
    virtual_hours=24,
    asked_files=2_000,
    propagated_sessions=200_000,
    known_hashes=1_000_000,
    many_logs=200_000,
    live_files=200,
    archives=5_000,
    idle_s=60.0,
    live_s=60.0,
)
QUICK = Scale(
    pairs=3,
    events=200_000,
    form_events=50_000,
    slice_events=50_000,
    young_events=100_000,
    grown_events=500_000,
    big_bytes=200 * MB,
    line_bytes=50 * MB,
    free_bytes=4_000 * MB,
    v3_bytes=300 * MB,
    virtual_hours=4,
    asked_files=300,
    propagated_sessions=20_000,
    known_hashes=50_000,
    many_logs=20_000,
    live_files=200,
    archives=500,
    idle_s=35.0,
    live_s=15.0,
)


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table.

    Attributes:
        name: the case, as `--only` names it.
        what: what was measured.
        value: the measured value, in `unit`.
        unit: `x` (a ratio), `%`, `MiB`, `s`, `ms` or `min`.
        target: the limit that the design promises; None without a promise.
        at_least: whether the target is a lower limit.
        details: further measured values, by name.
    """

    name: str
    what: str
    value: Spread
    unit: str = "x"
    target: float | None = None
    at_least: bool = False
    details: dict[str, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one."""
        if self.target is None:
            return None
        return self.value.median >= self.target if self.at_least else self.value.median <= self.target


class Bench:
    """Runs the measured commands from a copy of the code, so that the checkout may be edited during a run.

    Args:
        work: an empty folder for the copy and the databases.
        scale: the sizes of the run.
        program: the program to measure; by default this checkout's.
        inputs: the inputs; by default those in `bench-out/inputs`.
    """

    def __init__(
        self, work: Path, scale: Scale, *, program: Program | None = None, inputs: Inputs | None = None
    ) -> None:
        self.work = copy_code(work)
        self.scale = scale
        self.program = program or Program(self.work)
        self.inputs = inputs or Inputs()
        self._numbers = count()

    def new_database(self) -> Path:
        """Return a path that no database has yet."""
        return self.work / f"{next(self._numbers)}.sqlite"

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Yield an empty folder, and remove it afterwards."""
        folder = self.work / f"{next(self._numbers)}.folder"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def load(self, paths: Sequence[Path], db: Path, *, allowed: Sequence[int] = (0,)) -> Usage:
        """Measure `cowrieprocessor load`."""
        return self.program.run("load", *paths, "--db", db, "--json", allowed=allowed)

    def floor(self, paths: Sequence[Path], db: Path) -> Usage:
        """Measure the floor; it is always that of this checkout."""
        return run([sys.executable, "-m", "benchmarks.floor", *paths, "--db", db], cwd=self.work)

    def sqlite_utils(self, path: Path, db: Path) -> Usage:
        """Measure `sqlite-utils insert`; it adds a column for each new key of the events."""
        command: Command = [sys.executable, "-m", "sqlite_utils", "insert", db, "events", path, "--nl", "--alter"]
        return run(command, cwd=self.work)

    def loading(self, path: Path, *, allowed: Sequence[int] = (0,)) -> Callable[[], Usage]:
        """Return a function that measures a load into a new database."""
        return self.with_new_database(lambda db: self.load([path], db, allowed=allowed))

    def with_new_database(self, measure: Callable[[Path], Usage]) -> Callable[[], Usage]:
        """Return a function that measures with a new database each time and removes it afterwards."""

        def measure_once() -> Usage:
            db = self.new_database()
            try:
                return measure(db)
            finally:
                remove_database(db)

        return measure_once


def floor(bench: Bench) -> Iterator[Result]:
    """Compare a load into an empty database with the floor."""
    log = bench.inputs.log(bench.scale.events)
    pair = in_turns(
        bench.loading(log),
        bench.with_new_database(lambda db: bench.floor([log], db)),
        bench.scale.pairs,
    )
    what = f"load / floor, {bench.scale.events:,} events"
    yield Result("floor", what, pair.wall_ratio(), target=1.5, details=_pair_details(pair, bench.scale.events))
    yield Result("floor", f"{what}, CPU", pair.cpu_ratio())


def peer(bench: Bench) -> Iterator[Result]:
    """Compare a load with `sqlite-utils insert --nl` of the same file."""
    events = bench.scale.form_events
    log = bench.inputs.log(events)
    pair = in_turns(
        bench.loading(log),
        bench.with_new_database(lambda db: bench.sqlite_utils(log, db)),
        bench.scale.pairs,
    )
    what = f"load / sqlite-utils insert, {events:,} events"
    yield Result("peer", what, pair.wall_ratio(), target=1.0, details=_pair_details(pair, events))


def memory(bench: Bench) -> Iterator[Result]:
    """Measure the peak memory of a load on inputs that are hard on memory."""
    big, line = bench.scale.big_bytes, bench.scale.line_bytes
    plain = bench.inputs.log_of_size(big)
    cases: list[tuple[str, Callable[[], Path]]] = [
        (f"a log of {big // MB:,} MB", lambda: plain),
        (f"one line of {line // MB:,} MB", lambda: bench.inputs.one_line(line)),
        (f"gzip of {big // MB:,} MB of NULs", lambda: bench.inputs.bomb(big, zeros=True)),
        (f"gzip of one text of {big // MB:,} MB", lambda: bench.inputs.bomb(big, zeros=False)),
        (f"an array of {big // MB:,} MB on one line", lambda: bench.inputs.array_on_one_line(plain)),
    ]
    for what, make in cases:
        path = make()
        usage = bench.loading(path, allowed=(0, EXIT_UNREADABLE))()
        peak = usage.peak_bytes / (1 << 20)
        details = {"wall_s": usage.wall_s, "cpu_s": usage.cpu_s, "exit_code": float(usage.returncode)}
        yield Result(
            "memory",
            f"peak memory, {what}",
            Spread(peak, peak, peak),
            "MiB",
            MEMORY_TARGET_BYTES / (1 << 20),
            details=details,
        )


def growth(bench: Bench) -> Iterator[Result]:
    """Compare the load rate on a large database with that on a young one; the floor grows in turns with it."""
    scale = bench.scale
    pair = _grow(bench, scale.grown_events // scale.slice_events)
    young = scale.young_events // scale.slice_events
    early, late = slice(max(young - 2, 0), young + 1), slice(-3, None)
    what = f"events/s at {scale.grown_events:,} rows / at {scale.young_events:,}"
    details = {
        "early_events_per_s": scale.slice_events / _median_wall_s(pair.a[early]),
        "late_events_per_s": scale.slice_events / _median_wall_s(pair.a[late]),
    }
    load_s = [usage.wall_s for usage in pair.a]
    ratio = _rate_ratio(load_s[early], load_s[late])
    yield Result("growth", what, ratio, target=0.8, at_least=True, details=details)
    load_cpu_s = [usage.cpu_s for usage in pair.a]
    yield Result("growth", "the same by CPU", _rate_ratio(load_cpu_s[early], load_cpu_s[late]))
    floor_s = [usage.wall_s for usage in pair.b]
    yield Result("growth", "the same of the floor", _rate_ratio(floor_s[early], floor_s[late]))
    in_floors = [a / b for a, b in zip(load_s, floor_s, strict=True)]
    yield Result("growth", "the same in units of the floor", _rate_ratio(in_floors[early], in_floors[late]))


def _grow(bench: Bench, slices: int) -> Pair:
    """Load one sensor's log slice by slice into two databases: with the loader, and with the floor."""
    loaded_db, floor_db = bench.new_database(), bench.new_database()
    stream, pair = LogStream(), Pair([], [])
    for number in range(slices):
        path = bench.work / f"slice-{number:04}.json"
        with path.open("wb") as out:
            stream.write(out, events_until=bench.scale.slice_events * (number + 1))
        pair.a.append(bench.load([path], loaded_db))
        pair.b.append(bench.floor([path], floor_db))
        path.unlink()
    remove_database(loaded_db)
    remove_database(floor_db)
    return pair


def again(bench: Bench) -> Iterator[Result]:
    """Compare loading a log that is already stored with reading or decompressing it to the end.

    The start-up time is subtracted; it is that of loading a log of ten events again.
    """
    plain = bench.inputs.log(bench.scale.events)
    start_s = _median_wall_s(_load_again(bench, bench.inputs.log(10), None).a)
    for path, code, compared in (
        (plain, _READ, "reading it"),
        (bench.inputs.compressed(plain, "gz"), _GUNZIP, "unpacking it"),
    ):
        pair = _load_again(bench, path, [sys.executable, "-c", code, path])
        ratios = [max(a.wall_s - start_s, 0.0) / b.wall_s for a, b in zip(pair.a, pair.b, strict=True)]
        what = f"load again / {compared}, {path.suffix} of {path.stat().st_size // MB:,} MB"
        details = _pair_details(pair, bench.scale.events) | {"start_s": start_s}
        yield Result("again", what, Spread.of(ratios), details=details)


def _load_again(bench: Bench, path: Path, reading: Command | None) -> Pair:
    """Measure loading a log again in turns with reading it; without `reading`, with starting Python."""
    db = bench.new_database()
    try:
        bench.load([path], db)
        return in_turns(
            lambda: bench.load([path], db),
            lambda: run(reading or [sys.executable, "-c", ""], cwd=bench.work),
            bench.scale.pairs,
        )
    finally:
        remove_database(db)


def start(bench: Bench) -> Iterator[Result]:
    """Measure the CPU time of `--help`."""
    bench.program.run("--help")
    seconds = [bench.program.run("--help").cpu_s for _ in range(7)]
    yield Result("start", "CPU of cowrieprocessor --help", Spread.of(seconds), "s", 0.25)


def forms(bench: Bench) -> Iterator[Result]:
    """Compare loading other forms of a log with loading the plain one."""
    plain = bench.inputs.log(bench.scale.form_events)
    logs: Iterable[tuple[str, Path]] = [
        *((form, bench.inputs.compressed(plain, form)) for form in ("gz", "xz", "zst")),
        ("pretty-printed", bench.inputs.pretty(plain)),
        ("array on one line", bench.inputs.array_on_one_line(plain)),
    ]
    for form, path in logs:
        pair = in_turns(bench.loading(path), bench.loading(plain), bench.scale.pairs)
        what = f"load {form} / plain, {bench.scale.form_events:,} events"
        yield Result("forms", what, pair.wall_ratio(), details=_pair_details(pair, bench.scale.form_events))


CASES: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "start": start,
    "floor": floor,
    "peer": peer,
    "again": again,
    "forms": forms,
    "memory": memory,
    "growth": growth,
}


def _pair_details(pair: Pair, events: int) -> dict[str, float]:
    a_wall_s, b_wall_s = _median_wall_s(pair.a), _median_wall_s(pair.b)
    return {
        "a_wall_s": a_wall_s,
        "b_wall_s": b_wall_s,
        "a_cpu_s": Spread.of([usage.cpu_s for usage in pair.a]).median,
        "b_cpu_s": Spread.of([usage.cpu_s for usage in pair.b]).median,
        "a_events_per_s": events / a_wall_s,
        "b_events_per_s": events / b_wall_s,
        "a_peak_mib": max(usage.peak_bytes for usage in pair.a) / (1 << 20),
        "b_peak_mib": max(usage.peak_bytes for usage in pair.b) / (1 << 20),
    }


def _median_wall_s(usages: Sequence[Usage]) -> float:
    return Spread.of([usage.wall_s for usage in usages]).median


def _rate_ratio(early_s: Sequence[float], late_s: Sequence[float]) -> Spread:
    """Return the late rate over the early rate, given the seconds of slices with equally many events."""
    early, late = Spread.of(early_s), Spread.of(late_s)
    return Spread(early.median / late.median, early.low / late.high, early.high / late.low)
