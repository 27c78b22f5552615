"""An event is stored as often as in the log that has most of it, whatever the logs, their order and loader."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import SessionSummary
from cowrieprocessor.settings import Settings
from tests.loading import LOADERS, database, read_by, stored
from tests.logs import events
from tests.torture import rounds

MAX_BATCH = 7


def counted(engine: Engine) -> dict[str, int]:
    """Return the number of events of each session as its counters say."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(SessionSummary.session_id, SessionSummary.event_count))
        return {str(session_id): int(count) for session_id, count in rows}


def expected(logs: Sequence[Sequence[str]]) -> Counter[str]:
    """Return the multiplicity of each event: its largest count in any one log."""
    most: Counter[str] = Counter()
    for log in logs:
        most |= Counter(json.dumps(json.loads(line), sort_keys=True) for line in log)
    return most


def check(engine: Engine, logs: Sequence[Sequence[str]], story: object) -> None:
    """Compare events and counters with what the logs hold."""
    wanted = expected(logs)
    assert stored(engine) == wanted, story
    sessions: Counter[str] = Counter()
    for payload, count in wanted.items():
        sessions[json.loads(payload)["session"]] += count
    assert counted(engine) == sessions, story


ONE, TWO, THREE = events(3)
TWIN = {"part": [TWO], "day": [ONE, TWO, THREE], "day grown": [ONE, TWO, THREE, TWO]}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("order", [*itertools.permutations(TWIN)], ids=", ".join)
def test_a_growing_log_repeats_what_another_log_has(tmp_path: Path, order: tuple[str, ...], loader: str) -> None:
    """The second of two equal lines is stored though the first was credited to another log, in every order."""
    with database(tmp_path / "x.sqlite") as engine:
        for name in order:
            path = tmp_path / ("part.json" if name == "part" else "day.json")
            path.write_text("".join(f"{line}\n" for line in TWIN[name]))
            read_by(loader, engine, [path], Settings())
        check(engine, list(TWIN.values()), order)


def some_logs(random_: random.Random) -> list[list[str]]:
    """Return logs that share events: parts of one stream, in blocks, some of them repeated."""
    stream = events(random_.randrange(4, 40))
    stream += [random_.choice(stream) for _ in range(random_.randrange(4))]
    logs = []
    for _ in range(random_.randrange(2, 5)):
        log: list[str] = []
        for _ in range(random_.randrange(1, 4)):
            start = random_.randrange(len(stream))
            log += stream[start : start + random_.randrange(1, 20)] * random_.choice((1, 1, 1, 2))
        logs.append(log)
    return logs


def run_round(seed: int, folder: Path, engine: Engine) -> None:
    """Let some logs grow and be read in any order, and compare the end with what they hold."""
    random_ = random.Random(seed)
    logs = some_logs(random_)
    paths = [folder / f"{number}.json" for number in range(len(logs))]
    written = [0] * len(logs)
    story: list[object] = [seed]
    while written != [len(log) for log in logs]:
        number = random_.choice([n for n, log in enumerate(logs) if written[n] < len(log)])
        until = random_.randrange(written[number] + 1, len(logs[number]) + 1)
        with paths[number].open("a") as file:
            file.write("".join(f"{line}\n" for line in logs[number][written[number] : until]))
        written[number] = until
        if random_.random() < 0.7:
            chosen = random_.sample([path for path in paths if path.exists()], 1)
            loader = random_.choice(LOADERS)
            story.append((loader, chosen[0].name, list(written)))
            read_by(loader, engine, chosen, Settings(batch_size=random_.randrange(1, MAX_BATCH)))
    order = random_.sample(paths, len(paths))
    story.append(order)
    for path in order:
        read_by(random_.choice(LOADERS), engine, [path], Settings(batch_size=random_.randrange(1, MAX_BATCH)))
    check(engine, logs, story)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_any_logs_that_grow_in_any_order(tmp_path: Path) -> None:
    """Logs that overlap, grow and repeat blocks give each event as often as the log that has most of it."""
    for seed in range(rounds(10_000, 50)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with database(folder / "x.sqlite") as engine:
            run_round(seed, folder, engine)


@pytest.mark.postgres
@pytest.mark.torture
@pytest.mark.parametrize("seed", range(rounds(200, 4)))
def test_postgresql_counts_the_same(postgres_url: str, tmp_path: Path, seed: int) -> None:
    """PostgreSQL gives the same."""
    with database(postgres_url) as engine:
        run_round(seed, tmp_path, engine)
