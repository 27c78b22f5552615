"""New answers of sources in a window: every number and row equals a recount of the history."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.reporting.queries.verdicts import (
    changed_verdicts,
    count_changes,
    count_found_malicious,
    found_malicious,
)
from cowrieprocessor.reporting.queries.window import Window
from tests.unit.reporting.scene import add_file, add_hash, add_session, add_verdict, at, sha

DAY = Window(at(0), at(24))
TICK = dt.timedelta(microseconds=1)
MOMENTS = (at(0) - TICK, at(0), at(1), at(1), at(23), at(24) - TICK, at(24), at(-30), at(40))


@dataclass(frozen=True)
class Answer:
    """A row of the history; `number` is the order in which the rows are stored."""

    number: int
    sha256: str
    provider: str
    at: dt.datetime
    verdict: str
    positives: int | None

    @property
    def order(self) -> tuple[dt.datetime, int]:
        """The sort key of the history."""
        return self.at, self.number


def _fill(engine: Engine, seed: int) -> list[Answer]:
    """Store random answers around the edges of the day, in random order of time, and return them."""
    rng = random.Random(seed)
    answers = [
        Answer(
            number,
            sha(rng.randrange(12)),
            rng.choice(("virustotal", "hashlookup")),
            rng.choice(MOMENTS),
            rng.choice(("malicious", "malicious", "unknown", "clean")),
            rng.choice((None, 1, 2)),
        )
        for number in range(70)
    ]
    with write_transaction(engine) as connection:
        for number in range(11):
            add_hash(connection, sha(number), at(-99), at(2), session_count=number % 3, verdict="clean")
        for number in range(6):
            add_session(connection, f"s{number}", at(-99), sensor=("lab", "office")[number % 2])
            add_file(connection, f"s{number}", sha(number), at(-99), filename=f"n{number}")
        for answer in answers:
            add_verdict(connection, answer.sha256, answer.provider, answer.at, answer.verdict, answer.positives, 70)
    return answers


def _first_malicious(answers: list[Answer]) -> dict[str, Answer]:
    """Return each file's first answer `malicious`, if it lies in the day."""
    first: dict[str, Answer] = {}
    for answer in sorted(answers, key=lambda answer: answer.order):
        if answer.verdict == "malicious":
            first.setdefault(answer.sha256, answer)
    return {sha256: answer for sha256, answer in first.items() if at(0) <= answer.at < at(24)}


def _changes(answers: list[Answer]) -> list[tuple[Answer, Answer]]:
    """Return each answer of the day that has a predecessor, as a pair of the same source's previous answer and it."""
    pairs = []
    for answer in answers:
        earlier = [
            other
            for other in answers
            if (other.sha256, other.provider) == (answer.sha256, answer.provider) and other.order < answer.order
        ]
        if earlier and at(0) <= answer.at < at(24):
            pairs.append((max(earlier, key=lambda other: other.order), answer))
    return pairs


@pytest.mark.parametrize("many_answers", [20_000, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_number_and_row_equals_a_recount(engine: Engine, seed: int, many_answers: int) -> None:
    """Files found malicious and changed answers equal those counted in plain Python, with either query plan."""
    answers = _fill(engine, seed)
    malicious, changes = _first_malicious(answers), _changes(answers)
    with read_transaction(engine) as connection:
        counts = (
            count_found_malicious(connection, DAY),
            *count_changes(connection, DAY, many_answers=many_answers),
        )
        files = found_malicious(connection, DAY, 100)
        rows = changed_verdicts(connection, DAY, 100, many_answers=many_answers)
        first_rows = (
            found_malicious(connection, DAY, 2),
            changed_verdicts(connection, DAY, 2, many_answers=many_answers),
        )
    assert (len(malicious), len(changes), sum(old.verdict != new.verdict for old, new in changes)) == counts
    assert malicious
    assert changes
    sessions = {sha(number): number % 3 for number in range(11)}
    assert sorted(malicious, key=lambda sha256: (-sessions.get(sha256, 0), sha256)) == [file.sha256 for file in files]
    for file in files:
        answer = malicious[file.sha256]
        assert (answer.provider, answer.at, answer.positives) == (file.provider, file.found_at, file.positives)
        assert ("malicious" if file.first_seen is None else "clean") == file.verdict
        assert (f"n{int(file.sha256[:6], 16)}" if file.sha256 < sha(6) else None) == file.name
    assert _texts([(old.verdict, old.positives, new.verdict, new.positives, new.at) for old, new in changes]) == _texts(
        [(row.previous_verdict, row.previous_positives, row.verdict, row.positives, row.changed_at) for row in rows]
    )
    ranks = [(_rank(row), -row.changed_at.timestamp()) for row in rows]
    assert sorted(ranks) == ranks
    assert (files[:2], rows[:2]) == first_rows


def _texts(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(str, rows))


def _rank(row: Any) -> int:
    if row.verdict == row.previous_verdict:
        return 2
    return 0 if "malicious" in (row.verdict, row.previous_verdict) else 1


@pytest.mark.parametrize("many_answers", [20_000, 0])
def test_a_sensor_sees_its_own_files(engine: Engine, many_answers: int) -> None:
    """With a sensor, only files that it ever saw count, in sessions or captured, each once."""
    with write_transaction(engine) as connection:
        for name, sensor in (("a", "lab"), ("b", "lab"), ("c", "office")):
            add_session(connection, name, at(-50), sensor=sensor)
        for session, number in (("a", 1), ("b", 1), ("c", 2), ("artifact:lab", 3), ("c", 3)):
            add_file(connection, session, sha(number), at(-50), origin="artifact" if ":" in session else "download")
        for number in (1, 2, 3):
            add_verdict(connection, sha(number), "virustotal", at(-1), "unknown")
            add_verdict(connection, sha(number), "virustotal", at(1), "malicious")
    lab = Window(at(0), at(24), "lab")
    with read_transaction(engine) as connection:
        assert (2, (2, 2)) == (
            count_found_malicious(connection, lab),
            count_changes(connection, lab, many_answers=many_answers),
        )
        assert [sha(1), sha(3)] == [file.sha256 for file in found_malicious(connection, lab, 9)]
        assert [sha(1), sha(3)] == [
            change.sha256 for change in changed_verdicts(connection, lab, 9, many_answers=many_answers)
        ]
        assert 0 == count_found_malicious(connection, Window(at(0), at(24), "nowhere"))


def test_a_file_is_found_malicious_once(engine: Engine) -> None:
    """A later answer of another source, or a change to clean and back, does not count a second time."""
    with write_transaction(engine) as connection:
        add_verdict(connection, sha(1), "virustotal", at(-1), "malicious")
        add_verdict(connection, sha(1), "malwarebazaar", at(1), "malicious")
        add_verdict(connection, sha(1), "virustotal", at(2), "clean")
        add_verdict(connection, sha(1), "virustotal", at(3), "malicious")
    with read_transaction(engine) as connection:
        assert (0, (2, 2)) == (count_found_malicious(connection, DAY), count_changes(connection, DAY))
        before = Window(at(-24), at(0))
        assert (1, (0, 0)) == (count_found_malicious(connection, before), count_changes(connection, before))


@contextmanager
def _steps(engine: Engine) -> Iterator[list[str]]:
    """Yield a list that collects the plan steps of all queries in the block (SQLite)."""
    steps: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        raw = connection.connection.driver_connection
        steps.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield steps
    finally:
        event.remove(engine, "before_cursor_execute", explain)


@pytest.mark.parametrize("many_answers", [20_000, 0])
def test_very_many_answers_are_read_from_the_index_on_the_file(tmp_path: Path, many_answers: int) -> None:
    """Few answers are found by their time; among many, the index on the file finds a source's repeated answers."""
    engine = get_engine(str(tmp_path / "plans.sqlite"))
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        add_verdict(connection, sha(1), "virustotal", at(1))
    with _steps(engine) as steps, read_transaction(engine) as connection:
        count_changes(connection, DAY, many_answers=many_answers)
    dispose(engine)
    by_time = [step for step in steps if "new_verdict USING INDEX ix_file_verdicts_fetched_at" in step]
    by_file = [step for step in steps if "SCAN file_verdicts USING COVERING INDEX ix_file_verdicts_sha256" in step]
    assert (bool(by_time), bool(by_file)) == ((True, False) if many_answers else (False, True)), steps
