"""The measurements, each a function that returns results; `bench.py` runs and prints them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks import inputs
from benchmarks.generate_logs import LogStream
from benchmarks.measure import Command, Pair, Spread, Usage, in_turns, run

MB = 1_000_000
MEMORY_TARGET_BYTES = 200 << 20
EXIT_UNREADABLE = 3

_READ = "import sys; f = open(sys.argv[1], 'rb', 0); b = bytearray(1 << 20)\nwhile f.readinto(b): pass"
_GUNZIP = "import sys; from isal import igzip; f = igzip.open(sys.argv[1])\nwhile f.read(1 << 20): pass"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: the numbers of a full or of a quick run."""

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
    spread_sessions: int
    known_hashes: int
    live_files: int
    archives: int
    rest_s: float
    live_s: float


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
    spread_sessions=200_000,
    known_hashes=1_000_000,
    live_files=200,
    archives=5_000,
    rest_s=60.0,
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
    spread_sessions=20_000,
    known_hashes=50_000,
    live_files=200,
    archives=500,
    rest_s=35.0,
    live_s=15.0,
)


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table.

    Attributes:
        name: the measurement, as `--only` names it.
        what: what the value is of.
        value: in `unit`.
        unit: `x` (a ratio), `%`, `MiB`, `s`, `ms` or `min`.
        target: what the design promises; None where it promises nothing.
        at_least: whether the target is a lower limit.
        details: what else was measured, by name.
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
    """The commands that are measured, run from a copy of the code, so that it may be edited meanwhile.

    Args:
        work: an empty folder for the copy and the databases.
        scale: how much is measured.
    """

    def __init__(self, work: Path, scale: Scale) -> None:
        self.work = inputs.copy_of_code(work)
        self.scale = scale
        self._numbers = count()

    def new_database(self) -> Path:
        """Return a name that no database has yet."""
        return self.work / f"{next(self._numbers)}.sqlite"

    def load(self, paths: Sequence[Path], db: Path, *, allowed: Sequence[int] = (0,)) -> Usage:
        """Measure `cowrieprocessor load`."""
        command: Command = [sys.executable, "-m", "cowrieprocessor", "load", *paths, "--db", db, "--json"]
        return run(command, cwd=self.work, allowed=allowed)

    def floor(self, paths: Sequence[Path], db: Path) -> Usage:
        """Measure the floor."""
        return run([sys.executable, "-m", "benchmarks.floor", *paths, "--db", db], cwd=self.work)

    def sqlite_utils(self, path: Path, db: Path) -> Usage:
        """Measure `sqlite-utils insert`; its columns are those of the events, added as they turn up."""
        command: Command = [sys.executable, "-m", "sqlite_utils", "insert", db, "events", path, "--nl", "--alter"]
        return run(command, cwd=self.work)

    def loading(self, path: Path, *, allowed: Sequence[int] = (0,)) -> Callable[[], Usage]:
        """Return the measurement of a load into a new database."""
        return self.afresh(lambda db: self.load([path], db, allowed=allowed))

    def afresh(self, measured: Callable[[Path], Usage]) -> Callable[[], Usage]:
        """Return the measurement with a new database each time, which is removed afterwards."""

        def once() -> Usage:
            db = self.new_database()
            try:
                return measured(db)
            finally:
                inputs.remove_database(db)

        return once


def floor(bench: Bench) -> Iterator[Result]:
    """Compare a load into an empty database with the floor."""
    log = inputs.log(bench.scale.events)
    pair = in_turns(
        bench.loading(log),
        bench.afresh(lambda db: bench.floor([log], db)),
        bench.scale.pairs,
    )
    what = f"load / floor, {bench.scale.events:,} events"
    yield Result("floor", what, pair.wall_ratio(), target=1.5, details=_pair_details(pair, bench.scale.events))
    yield Result("floor", f"{what}, CPU", pair.cpu_ratio())


def peer(bench: Bench) -> Iterator[Result]:
    """Compare a load with `sqlite-utils insert --nl` of the same file."""
    events = bench.scale.form_events
    log = inputs.log(events)
    pair = in_turns(
        bench.loading(log),
        bench.afresh(lambda db: bench.sqlite_utils(log, db)),
        bench.scale.pairs,
    )
    what = f"load / sqlite-utils insert, {events:,} events"
    yield Result("peer", what, pair.wall_ratio(), target=1.0, details=_pair_details(pair, events))


def memory(bench: Bench) -> Iterator[Result]:
    """Find the peak of memory of a load, on inputs made to drive it up."""
    big, line = bench.scale.big_bytes, bench.scale.line_bytes
    plain = inputs.log_of_size(big)
    hard: list[tuple[str, Callable[[], Path]]] = [
        (f"a log of {big // MB:,} MB", lambda: plain),
        (f"one line of {line // MB:,} MB", lambda: inputs.one_line(line)),
        (f"gzip of {big // MB:,} MB of NULs", lambda: inputs.bomb(big, zeros=True)),
        (f"gzip of one text of {big // MB:,} MB", lambda: inputs.bomb(big, zeros=False)),
        (f"an array of {big // MB:,} MB on one line", lambda: inputs.array_on_one_line(plain)),
    ]
    for what, make in hard:
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
    """Compare the rate on a grown database with that at a million rows; the floor is grown beside it."""
    scale = bench.scale
    pair = _grow(bench, scale.grown_events // scale.slice_events)
    young = scale.young_events // scale.slice_events
    early, late = slice(max(young - 2, 0), young + 1), slice(-3, None)
    what = f"events/s at {scale.grown_events:,} rows / at {scale.young_events:,}"
    details = {
        "early_events_per_s": scale.slice_events / Spread.of([one.wall_s for one in pair.a[early]]).median,
        "late_events_per_s": scale.slice_events / Spread.of([one.wall_s for one in pair.a[late]]).median,
    }
    ratio = _rate_ratio([one.wall_s for one in pair.a[early]], [one.wall_s for one in pair.a[late]])
    yield Result("growth", what, ratio, target=0.8, at_least=True, details=details)
    ratio = _rate_ratio([one.cpu_s for one in pair.a[early]], [one.cpu_s for one in pair.a[late]])
    yield Result("growth", "the same by CPU", ratio)
    ratio = _rate_ratio([one.wall_s for one in pair.b[early]], [one.wall_s for one in pair.b[late]])
    yield Result("growth", "the same of the floor", ratio)
    by_floor = [one.wall_s / other.wall_s for one, other in zip(pair.a, pair.b, strict=True)]
    yield Result("growth", "the same in units of the floor", _rate_ratio(by_floor[early], by_floor[late]))


def _grow(bench: Bench, slices: int) -> Pair:
    """Load one sensor's log slice by slice into two databases, by the loader and by the floor."""
    ours, floors = bench.new_database(), bench.new_database()
    stream, pair = LogStream(), Pair([], [])
    for number in range(slices):
        path = bench.work / f"slice-{number:04}.json"
        with path.open("wb") as out:
            stream.write(out, events_until=bench.scale.slice_events * (number + 1))
        pair.a.append(bench.load([path], ours))
        pair.b.append(bench.floor([path], floors))
        path.unlink()
    inputs.remove_database(ours)
    inputs.remove_database(floors)
    return pair


def again(bench: Bench) -> Iterator[Result]:
    """Compare loading a log that is stored already with reading or unpacking it to its end.

    What the program takes to start is not counted: it is that of loading again a log of a few events.
    """
    plain = inputs.log(bench.scale.events)
    start_s = Spread.of([one.wall_s for one in _known_again(bench, inputs.log(10), None).a]).median
    for path, code, doing in (
        (plain, _READ, "reading it"),
        (inputs.compressed(plain, "gz"), _GUNZIP, "unpacking it"),
    ):
        pair = _known_again(bench, path, [sys.executable, "-c", code, path])
        ratios = [max(a.wall_s - start_s, 0.0) / b.wall_s for a, b in zip(pair.a, pair.b, strict=True)]
        what = f"load again / {doing}, {path.suffix} of {path.stat().st_size // MB:,} MB"
        details = _pair_details(pair, bench.scale.events) | {"start_s": start_s}
        yield Result("again", what, Spread.of(ratios), details=details)


def _known_again(bench: Bench, path: Path, reading: Command | None) -> Pair:
    db = bench.new_database()
    try:
        bench.load([path], db)
        return in_turns(
            lambda: bench.load([path], db),
            lambda: run(reading or [sys.executable, "-c", ""], cwd=bench.work),
            bench.scale.pairs,
        )
    finally:
        inputs.remove_database(db)


def start(bench: Bench) -> Iterator[Result]:
    """Find the CPU that `--help` takes."""
    command = [sys.executable, "-m", "cowrieprocessor", "--help"]
    run(command, cwd=bench.work)
    seconds = [run(command, cwd=bench.work).cpu_s for _ in range(7)]
    yield Result("start", "CPU of cowrieprocessor --help", Spread.of(seconds), "s", 0.25)


def forms(bench: Bench) -> Iterator[Result]:
    """Compare the load of the other forms of a log with that of the plain one."""
    plain = inputs.log(bench.scale.form_events)
    made: Iterable[tuple[str, Path]] = [
        *((form, inputs.compressed(plain, form)) for form in ("gz", "xz", "zst")),
        ("pretty-printed", inputs.pretty(plain)),
        ("array on one line", inputs.array_on_one_line(plain)),
    ]
    for form, path in made:
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
    a, b = Spread.of([one.wall_s for one in pair.a]), Spread.of([one.wall_s for one in pair.b])
    return {
        "a_wall_s": a.median,
        "b_wall_s": b.median,
        "a_cpu_s": Spread.of([one.cpu_s for one in pair.a]).median,
        "b_cpu_s": Spread.of([one.cpu_s for one in pair.b]).median,
        "a_events_per_s": events / a.median,
        "b_events_per_s": events / b.median,
        "a_peak_mib": max(one.peak_bytes for one in pair.a) / (1 << 20),
        "b_peak_mib": max(one.peak_bytes for one in pair.b) / (1 << 20),
    }


def _rate_ratio(early_s: Sequence[float], late_s: Sequence[float]) -> Spread:
    """Return the late rate over the early one, of slices with the same number of events."""
    early, late = Spread.of(early_s), Spread.of(late_s)
    return Spread(early.median / late.median, early.low / late.high, early.high / late.low)
