"""Whatever happens to a honeypot's files while they are followed: the database says what could be read, once.

A sequence that fails is printed with its steps, as few as fail still, and repeated with
`COWRIEPROC_ROTATION_SEED=… python -m pytest tests/reliability/test_rotation.py -k sqlite`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import dispose, get_engine
from tests.postgres_server import PostgresServer
from tests.rotation.lines import read_lines
from tests.rotation.sabotage import FURTHER, REQUIRED, Sabotage
from tests.rotation.sequence import Step, random_steps, run_on_sqlite, run_steps, shrink
from tests.torture import TORTURE, rounds

pytestmark = pytest.mark.torture

SHORT_RUN = range(120)
SEQUENCES = int(os.environ.get("COWRIEPROC_ROTATION_SEQUENCES", rounds(10_000, len(SHORT_RUN))))
ONE_SEED = os.environ.get("COWRIEPROC_ROTATION_SEED")
SEEDS = [int(ONE_SEED)] if ONE_SEED else range(SEQUENCES)
BLOCK = 500
SEEDS_ON_POSTGRESQL = range(rounds(200, 4))


def explain(seed: int, template: Path, folder: Path) -> str:
    """Return a sequence that fails in as few steps as do, what it leads to, and how to repeat it."""
    steps = shrink(lambda fewer: bool(run_on_sqlite(seed, fewer, template, folder)), random_steps(seed))
    differences = run_on_sqlite(seed, steps, template, folder) or ["… which did not come again: it is a matter of time"]
    return "\n".join(
        [
            f"sequence {seed}:",
            *(f"    {step.name}({step.a}, {step.b}, {step.c})" for step in steps),
            *(f"  {line[:500]}" for line in differences),
            f"again: COWRIEPROC_ROTATION_SEED={seed} python -m pytest tests/reliability/test_rotation.py -k sqlite",
        ]
    )


@pytest.mark.timeout(7200 if TORTURE else 300)
@pytest.mark.parametrize(
    "seeds", [SEEDS[at : at + BLOCK] for at in range(0, len(SEEDS), BLOCK)], ids=lambda seeds: f"from {seeds[0]}"
)
def test_sqlite_says_what_could_be_read(seeds: Iterable[int], sqlite_template: Path, tmp_path: Path) -> None:
    """After any sequence each event that was readable is stored once, what is torn is a dead letter, the rest a gap."""
    failed = [seed for seed in seeds if run_on_sqlite(seed, random_steps(seed), sqlite_template, tmp_path)]

    assert [] == failed, explain(failed[0], sqlite_template, tmp_path)


@pytest.mark.postgres
@pytest.mark.timeout(7200 if TORTURE else 300)
def test_postgresql_says_what_could_be_read(
    postgres_server: PostgresServer, postgres_template: str, sqlite_template: Path, tmp_path: Path
) -> None:
    """The same on PostgreSQL."""
    for seed in SEEDS_ON_POSTGRESQL:
        room = tmp_path / str(seed)
        room.mkdir()
        with postgres_server.new_copy(postgres_template) as url:
            engine = get_engine(url)
            try:
                assert [] == run_steps(seed, random_steps(seed), engine, room, sqlite_template), seed
            finally:
                dispose(engine)


@pytest.mark.parametrize(
    "sabotage", [*REQUIRED, *(FURTHER if TORTURE else ())], ids=lambda sabotage: str(sabotage.__name__)
)
def test_a_mistake_is_found(sabotage: Sabotage, sqlite_template: Path, tmp_path: Path) -> None:
    """A loader that makes one mistake differs from the model within a short run: the tests above can fail."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        sabotage(monkeypatch)
        seeds = SHORT_RUN if sabotage in REQUIRED else range(1000)
        found = next(
            (seed for seed in seeds if run_on_sqlite(seed, random_steps(seed), sqlite_template, tmp_path)), None
        )

    assert found is not None
    assert [] == run_on_sqlite(found, random_steps(found), sqlite_template, tmp_path), (
        "it fails without the mistake, too"
    )


def test_steps_can_be_left_out() -> None:
    """Shrinking leaves the steps that a failure needs, in their order."""
    steps = [Step("append", number) for number in range(40)]

    shrunk = shrink(lambda fewer: {7, 23} <= {step.a for step in fewer}, steps)

    assert [7, 23] == [step.a for step in shrunk]


@pytest.mark.parametrize(
    ("content", "events", "torn", "extent"),
    [
        (b"", 0, [], 0),
        (b'{"eventid": "a"}', 1, [], 16),
        (b'{"eventid": "a"}\n', 1, [], 17),
        (b'{"eventid": "a"}\n{"event', 1, [], 17),
        (b'x"}\n{"eventid": "a"}\n', 1, [b'x"}'], 21),
        (b'\0\0\0x"}\n{"eventid": "a"}\n', 1, [b'x"}'], 24),
        (b'{"eventid": "a"}\n{"eventid": "b{"eventid": "c"}\n', 2, [b'{"eventid": "b'], 48),
        (b'{"eventid": "a"}\n{"eventid": {"eventid": "c"}\n', 1, [], 17),
        (b'{"eventid": "a"}\n{"eventid": {"eventid": "c"}\n{', 2, [b'{"eventid":'], 46),
        (b'{"eventid": "a"}\n{"even\0\0', 1, [b'{"even'], 25),
        (b'x"}\n', 0, [], 0),
    ],
)
def test_the_model_reads_lines(content: bytes, events: int, torn: list[bytes], extent: int) -> None:
    """The model's own reader tells complete lines, torn ones, and where something unfinished begins."""
    reading = read_lines(content, is_finished=False)

    assert (events, torn, extent) == (reading.events.total(), list(reading.torn), reading.extent)
