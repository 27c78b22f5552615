"""What sources came to say in a window: every number and row equals a recount of the history."""

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
from cowrieprocessor.reporting.queries import verdicts
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
    """One row that was put in."""

    place: int
    sha256: str
    provider: str
    at: dt.datetime
    verdict: str
    positives: int | None

    @property
    def order(self) -> tuple[dt.datetime, int]:
        """Before and after of two answers."""
        return self.at, self.place


def _fill(engine: Engine, seed: int) -> list[Answer]:
    """Put random answers around the edges of the day into the database, in any order, and return them."""
    rng = random.Random(seed)
    answers = [
        Answer(
            place,
            sha(rng.randrange(12)),
            rng.choice(("virustotal", "hashlookup")),
            rng.choice(MOMENTS),
            rng.choice(("malicious", "malicious", "unknown", "clean")),
            rng.choice((None, 1, 2)),
        )
        for place in range(70)
    ]
    with write_transaction(engine) as connection:
        for number in range(11):
            add_hash(connection, sha(number), at(-99), at(2), session_count=number % 3, verdict="clean")
        for number in range(6):
            add_session(connection, f"s{number}", at(-99), sensor=("lab", "office")[number % 2])
            add_file(connection, f"s{number}", sha(number), at(-99), filename=f"n{number}")
        for one in answers:
            add_verdict(connection, one.sha256, one.provider, one.at, one.verdict, one.positives, 70)
    return answers


def _found(answers: list[Answer]) -> dict[str, Answer]:
    """Return the first answer `malicious` about each file, where it lies in the day."""
    first: dict[str, Answer] = {}
    for one in sorted(answers, key=lambda one: one.order):
        if one.verdict == "malicious":
            first.setdefault(one.sha256, one)
    return {sha256: one for sha256, one in first.items() if at(0) <= one.at < at(24)}


def _changed(answers: list[Answer]) -> list[tuple[Answer, Answer]]:
    """Return each answer of the day beside the same source's before."""
    pairs = []
    for one in answers:
        same = [
            other
            for other in answers
            if (other.sha256, other.provider) == (one.sha256, one.provider) and other.order < one.order
        ]
        if same and at(0) <= one.at < at(24):
            pairs.append((max(same, key=lambda other: other.order), one))
    return pairs


@pytest.mark.parametrize("many_answers", [20_000, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_number_and_row_equals_a_recount(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, seed: int, many_answers: int
) -> None:
    """Files found malicious and changed answers are those of plain Python, whichever way they are looked for."""
    monkeypatch.setattr(verdicts, "MANY_ANSWERS", many_answers)
    answers = _fill(engine, seed)
    found, changed = _found(answers), _changed(answers)
    with read_transaction(engine) as connection:
        counts = count_found_malicious(connection, DAY), *count_changes(connection, DAY)
        listed = found_malicious(connection, DAY, 100)
        rows = changed_verdicts(connection, DAY, 100)
        first_rows = found_malicious(connection, DAY, 2), changed_verdicts(connection, DAY, 2)
    assert (len(found), len(changed), sum(old.verdict != new.verdict for old, new in changed)) == counts
    assert found
    assert changed
    sessions = {sha(number): number % 3 for number in range(11)}
    assert sorted(found, key=lambda one: (-sessions.get(one, 0), one)) == [file.sha256 for file in listed]
    for file in listed:
        one = found[file.sha256]
        assert (one.provider, one.at, one.positives) == (file.provider, file.found_at, file.positives)
        assert ("unknown" if file.first_seen is None else "clean") == file.verdict
        assert (f"n{int(file.sha256[:6], 16)}" if file.sha256 < sha(6) else None) == file.name
    assert _texts([(old.verdict, old.positives, new.verdict, new.positives, new.at) for old, new in changed]) == _texts(
        [(row.previous_verdict, row.previous_positives, row.verdict, row.positives, row.changed_at) for row in rows]
    )
    ranks = [(_rank(row), -row.changed_at.timestamp()) for row in rows]
    assert sorted(ranks) == ranks
    assert (listed[:2], rows[:2]) == first_rows


def _texts(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(str, rows))


def _rank(row: Any) -> int:
    if row.verdict == row.previous_verdict:
        return 2
    return 0 if "malicious" in (row.verdict, row.previous_verdict) else 1


@pytest.mark.parametrize("many_answers", [20_000, 0])
def test_a_sensor_sees_its_own_files(engine: Engine, monkeypatch: pytest.MonkeyPatch, many_answers: int) -> None:
    """With a sensor only files count that it ever saw, in sessions or captured, each once."""
    monkeypatch.setattr(verdicts, "MANY_ANSWERS", many_answers)
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
        assert (2, (2, 2)) == (count_found_malicious(connection, lab), count_changes(connection, lab))
        assert [sha(1), sha(3)] == [file.sha256 for file in found_malicious(connection, lab, 9)]
        assert [sha(1), sha(3)] == [change.sha256 for change in changed_verdicts(connection, lab, 9)]
        assert 0 == count_found_malicious(connection, Window(at(0), at(24), "nowhere"))


def test_a_file_is_found_malicious_once(engine: Engine) -> None:
    """Another source that says so later, a change away from it and back, are no second finding."""
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
    """Collect the steps of the plans of what is asked meanwhile (SQLite)."""
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
def test_very_many_answers_are_read_from_the_index_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many_answers: int
) -> None:
    """Few answers are found by their time; of many, the index on the file tells which are a source's second."""
    monkeypatch.setattr(verdicts, "MANY_ANSWERS", many_answers)
    engine = get_engine(str(tmp_path / "plans.sqlite"))
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        add_verdict(connection, sha(1), "virustotal", at(1))
    with _steps(engine) as steps, read_transaction(engine) as connection:
        count_changes(connection, DAY)
    dispose(engine)
    by_time = [step for step in steps if "new_verdict USING INDEX ix_file_verdicts_fetched_at" in step]
    by_file = [step for step in steps if "SCAN file_verdicts USING COVERING INDEX ix_file_verdicts_sha256" in step]
    assert (bool(by_time), bool(by_file)) == ((True, False) if many_answers else (False, True)), steps
