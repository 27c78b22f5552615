"""The tools of the benchmarks: processes measured from outside, and the floor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from benchmarks import bench
from benchmarks.cases import CASES, Result
from benchmarks.floor import load_floor
from benchmarks.generate_logs import write_log
from benchmarks.measure import CommandFailed, Spread, Usage, in_turns, run
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.db.models import RawEvent

MIB = 1 << 20


def python(code: str) -> list[str]:
    """Return the command that runs some Python."""
    return [sys.executable, "-I", "-S", "-c", code]


def test_a_process_is_measured_from_outside(tmp_path: Path) -> None:
    """Clock, CPU and peak memory are those of the process, and its output is kept."""
    waiting = run(python("import time; time.sleep(0.5); print('done')"), cwd=tmp_path)
    large = run(python("b = bytearray(100 << 20); b[::4096] = b'x' * len(b[::4096])"), cwd=tmp_path)

    assert waiting.output == "done\n"
    assert 0.5 <= waiting.wall_s < 20
    assert waiting.cpu_s < waiting.wall_s
    assert waiting.peak_bytes < 60 * MIB
    assert 100 * MIB <= large.peak_bytes < 160 * MIB


def test_our_own_memory_is_not_counted(tmp_path: Path) -> None:
    """The peak of a small process stays small although the one that measures it is large."""
    ballast = bytearray(200 * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])

    assert run(python("pass"), cwd=tmp_path).peak_bytes < 60 * MIB
    assert len(ballast) == 200 * MIB


def test_memory_of_all_processes_counts(tmp_path: Path) -> None:
    """A command that starts another one is measured with it: memory held at once is added up, CPU too."""
    child = "import time; b = bytearray(80 << 20); b[::4096] = b'x' * len(b[::4096]); time.sleep(0.5)"
    parent = f"import os, sys; p = os.posix_spawn(sys.executable, [sys.executable, '-I', '-S', '-c', {child!r}], {{}})"
    usage = run(
        python(f"{parent}; b = bytearray(80 << 20); b[::4096] = b'x' * len(b[::4096]); os.wait()"), cwd=tmp_path
    )

    assert 160 * MIB <= usage.peak_bytes < 240 * MIB


def test_a_failing_command_is_an_error(tmp_path: Path) -> None:
    """An exit code that was not expected ends the measurement and shows the end of standard error."""
    command = python("import sys; sys.exit('out of luck')")

    with pytest.raises(CommandFailed, match="out of luck"):
        run(command, cwd=tmp_path)
    assert run(command, cwd=tmp_path, allowed=(0, 1)).returncode == 1


def test_pairs_are_run_in_turns() -> None:
    """Two measurements alternate, and ratios are taken from pair to pair."""
    order: list[str] = []

    def measured(name: str, wall_s: float) -> Usage:
        order.append(name)
        return Usage(wall_s * len(order), wall_s, 1, 0, "")

    pair = in_turns(lambda: measured("a", 2.0), lambda: measured("b", 1.0), 3)

    assert order == ["a", "b", "a", "b", "a", "b"]
    assert pair.wall_ratio() == Spread(1.5, 1.0, 10 / 6)
    assert pair.cpu_ratio() == Spread(2.0, 2.0, 2.0)


def test_targets_are_upper_or_lower_limits() -> None:
    """A result says whether it meets its target, and nothing where there is none."""
    value = Spread(0.9, 0.5, 2.0)

    assert Result("x", "x", value, target=1.0).met is True
    assert Result("x", "x", value, target=0.8).met is False
    assert Result("x", "x", value, target=0.8, at_least=True).met is True
    assert Result("x", "x", value).met is None


def test_the_floor_stores_every_line_as_it_came(tmp_path: Path) -> None:
    """The floor puts the text of each event and the number of its line into raw_events."""
    log = tmp_path / "cowrie.json"
    write_log(log, events=700, junk=False)
    with log.open("ab") as out:
        out.write(b"no event\n[1]\n")
    engine = get_engine(tmp_path / "floor.sqlite")
    prepare(engine)

    assert load_floor(engine, log, batch_size=300) == 700

    lines = log.read_bytes().splitlines()[:700]
    columns = (RawEvent.source_offset, RawEvent.payload, RawEvent.session_id)
    with read_transaction(engine) as connection:
        rows = connection.execute(select(*columns).order_by(RawEvent.source_offset)).all()
    dispose(engine)
    assert [row.source_offset for row in rows] == list(range(700))
    assert [row.payload for row in rows] == [json.loads(line) for line in lines]
    assert rows[0].session_id == json.loads(lines[0])["session"]


def test_every_measurement_is_described() -> None:
    """benchmarks/README.md has a row for each case that `--only` accepts."""
    readme = Path(bench.__file__).with_name("README.md").read_text()

    assert [name for name in CASES if f"| `{name}` |" not in readme] == []
