"""What costs no request is stored in short transactions, goes on where it was, and is not stored twice."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.response_cache import store_in_cache
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.providers.base import Limits
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.jobs.enrichment import cache_replay as enrich_replay
from cowrieprocessor.jobs.enrichment.answer_writer import Answer, AnswerWriter
from cowrieprocessor.jobs.enrichment.cache_import import import_cache
from cowrieprocessor.jobs.enrichment.cache_replay import COWRIE_JOB, replay_cache, take_cowries_own
from cowrieprocessor.jobs.runtime.throttle import TimedTransaction
from cowrieprocessor.loader.bulk import BulkLoader
from tests.enrichment_scene import DAY, NOW, POLICY, VT, load, row, rows, sha
from tests.stand_ins.clock import ManualClock
from tests.stand_ins.virustotal import report
from tests.unit.jobs.ticking import LOOKS_ALONE, ticking

COWRIE = "cowrie-virustotal"
FULL = LOOKS_ALONE + 1
"""Answers that one transaction stores by the ticking clock: the first in any case."""

VIRUSTOTAL = VirusTotal("http://127.0.0.1:9/api/v3", None, Limits())


class Writer(AnswerWriter):
    """Keeps how many answers each transaction stored, and does something after some of them."""

    def __init__(self, *, staged: bool = False) -> None:
        super().__init__(POLICY, Ttl(1e6, 1e5, 1e4, 1e6), ManualClock(NOW + DAY), staged=staged)
        self.sizes: list[int] = []
        self.stop = threading.Event()
        self.stop_after: int | None = None
        self.fail_in: int | None = None

    def store(self, turn: TimedTransaction, answers: Sequence[Answer]) -> list[dt.datetime]:
        """Store, note how many, and fail before the commit or have it stopped, as the test wants."""
        until = super().store(turn, answers)
        self.sizes.append(len(until))
        if len(self.sizes) == self.fail_in:
            raise KeyboardInterrupt
        if len(self.sizes) == self.stop_after:
            self.stop.set()
        return until


def say(folder: Path, engine: Engine, said: Sequence[tuple[int, int, int]], name: str = "cowrie.json") -> None:
    """Load what Cowrie logged: of which file, in which second, and how many engines found something."""
    lines = [
        {
            "eventid": "cowrie.virustotal.scanfile",
            "session": f"s{of}",
            "timestamp": (NOW + dt.timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "sha256": sha(of),
            "is_new": "false",
            "positives": positives,
            "total": 70,
        }
        for of, second, positives in said
    ]
    path = folder / name
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    BulkLoader(engine).load([path])


def files(engine: Engine, count: int) -> None:
    """Load so many files, each in a session."""
    load(engine, [(f"s{number}", sha(number)) for number in range(count)])


def take(engine: Engine, writer: Writer, malicious_at: int = 1) -> dict[str, int]:
    """Take Cowrie's own."""
    return take_cowries_own(engine, malicious_at, writer, ticking(engine), stop=writer.stop)


def replay(engine: Engine, writer: Writer) -> dict[str, int]:
    """Replay the cache."""
    return replay_cache(engine, [VIRUSTOTAL], 1, writer, ticking(engine), stop=writer.stop)


def cache(engine: Engine, count: int) -> None:
    """Put an answer about each file into the cache."""
    response = VIRUSTOTAL_RESPONSE
    with write_transaction(engine) as connection:
        for number in range(count):
            store_in_cache(connection, VT, sha(number), "malicious", response, NOW, NOW + 30 * DAY)


VIRUSTOTAL_RESPONSE: dict[str, Any] = {"last_analysis_stats": {"malicious": 9, "undetected": 61}}


def test_cowries_own_is_stored_in_short_transactions(engine: Engine, tmp_path: Path) -> None:
    """A transaction ends when it has lasted long enough; all are stored, and the place is behind the last."""
    files(engine, 30)
    say(tmp_path, engine, [(number, number, 9) for number in range(30)])
    writer = Writer()

    assert take(engine, writer) == {COWRIE: 30}

    assert writer.sizes == [FULL, FULL, 30 - 2 * FULL]
    assert len(rows(engine, "file_verdicts", provider=COWRIE)) == 30
    assert row(engine, "jobs", name=COWRIE_JOB)["cursor"] == {"last_id": rows(engine, "raw_events")[-1]["id"]}


def test_what_was_taken_in_is_not_stored_again(engine: Engine, tmp_path: Path) -> None:
    """The last ids are looked at again, and nothing is written; also by another count of engines."""
    files(engine, 5)
    say(tmp_path, engine, [(number, second, 9) for second in range(3) for number in range(5)])
    take(engine, Writer())
    tables = ("file_verdicts", "enrichment_cache", "file_hashes", "enrichment_queue", "jobs")
    before = [rows(engine, table) for table in tables]
    again = Writer()

    assert take(engine, again, malicious_at=20) == {}

    assert again.sizes == []
    assert before == [rows(engine, table) for table in tables]


def test_a_late_event_is_taken_in(engine: Engine, tmp_path: Path) -> None:
    """An event that is older than what is known, or lies behind the place, still adds to the history."""
    files(engine, 1)
    say(tmp_path, engine, [(0, 10, 9), (0, 30, 9)])
    take(engine, Writer())
    say(tmp_path, engine, [(0, 20, 4), (0, 5, 2)], "older.json")
    last_id = rows(engine, "raw_events")[-1]["id"]
    with write_transaction(engine) as connection:  # as if another loader had committed beyond them before
        connection.exec_driver_sql(
            f"""UPDATE jobs SET cursor = '{{"last_id": {last_id}}}' WHERE name = '{COWRIE_JOB}'"""
        )
    late = Writer()

    assert take(engine, late) == {}

    assert late.sizes == [2]
    said = [(one["fetched_at"].second, one["positives"]) for one in rows(engine, "file_verdicts")]
    assert sorted(said) == [(5, 2), (10, 9), (20, 4), (30, 9)]
    again = Writer()
    take(engine, again)
    assert again.sizes == []


def test_staged_only_later_events_are_stored(engine: Engine, tmp_path: Path) -> None:
    """Where the cache alone is written, an event that it already has, or a later one of, is passed over."""
    files(engine, 2)
    say(tmp_path, engine, [(0, 10, 9), (1, 10, 9), (0, 20, 4)])
    writer = Writer(staged=True)

    assert take(engine, writer) == {COWRIE: 3} == take(engine, writer)

    assert writer.sizes == [3]
    assert rows(engine, "file_verdicts") == [] == rows(engine, "jobs", name=COWRIE_JOB)


def test_what_was_staged_is_whole_in_the_end(engine: Engine, tmp_path: Path) -> None:
    """Back from the cache alone, older events come from the log and the latest ones from the cache."""
    files(engine, 2)
    say(tmp_path, engine, [(0, 10, 9), (1, 10, 9), (0, 20, 4)])
    take(engine, Writer(staged=True))
    writer = Writer()

    assert take(engine, writer) == {COWRIE: 3}
    assert writer.sizes == [1]
    assert replay(engine, writer) == {"cache": 2}

    said = [(one["sha256"], one["fetched_at"].second, one["positives"]) for one in rows(engine, "file_verdicts")]
    assert sorted(said) == sorted([(sha(0), 10, 9), (sha(0), 20, 4), (sha(1), 10, 9)])


def test_stopped_it_goes_on_behind_what_was_stored(engine: Engine, tmp_path: Path) -> None:
    """After a stop between two transactions the next run stores the rest, and each event is counted once."""
    files(engine, 30)
    say(tmp_path, engine, [(number, number, 9) for number in range(30)])
    first, second = Writer(), Writer()
    first.stop_after = 1

    counted = [take(engine, first), take(engine, second)]

    assert counted == [{COWRIE: FULL}, {COWRIE: 30 - FULL}]
    assert (first.sizes, second.sizes) == ([FULL], [FULL, 30 - 2 * FULL])


def test_interrupted_nothing_is_lost(engine: Engine, tmp_path: Path) -> None:
    """Ctrl-C in a transaction takes back that one alone; the place is behind the one before it."""
    files(engine, 30)
    say(tmp_path, engine, [(number, number, 9) for number in range(30)])
    first, second = Writer(), Writer()
    first.fail_in = 2
    with pytest.raises(KeyboardInterrupt):
        take(engine, first)
    assert len(rows(engine, "file_verdicts")) == FULL

    assert take(engine, second) == {COWRIE: 30 - FULL}
    assert len(rows(engine, "file_verdicts")) == 30


def test_an_unreadable_event_is_counted_and_passed(engine: Engine, tmp_path: Path) -> None:
    """What says nothing is counted once, and the place moves behind it."""
    files(engine, 1)
    say(tmp_path, engine, [(0, 1, 9)])
    path = tmp_path / "bad.json"
    path.write_text('{"eventid": "cowrie.virustotal.scanfile", "session": "s1", "sha256": "no hash"}\n', "utf-8")
    BulkLoader(engine).load([path])

    assert take(engine, Writer()) == {COWRIE: 1, f"{COWRIE} unreadable": 1}
    assert take(engine, Writer()) == {}


def test_the_cache_is_replayed_in_short_transactions(engine: Engine) -> None:
    """Each answer that the history lacks is stored once, a moment's worth at a time."""
    files(engine, 30)
    cache(engine, 30)
    writer = Writer()

    assert replay(engine, writer) == {"cache": 30}

    assert writer.sizes == [FULL, FULL, 30 - 2 * FULL]
    assert {one["vt_positives"] for one in rows(engine, "file_hashes")} == {9}
    assert replay(engine, writer) == {}


def test_an_interrupted_replay_goes_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C, or a stop, the next replay takes what is left and no more."""
    monkeypatch.setattr(enrich_replay, "ROWS_AT_ONCE", 15)
    files(engine, 30)
    cache(engine, 30)
    first, second, third = Writer(), Writer(), Writer()
    first.fail_in = 2
    with pytest.raises(KeyboardInterrupt):
        replay(engine, first)
    second.stop_after = 1

    assert replay(engine, second) == {"cache": FULL}
    assert replay(engine, third) == {"cache": 30 - 2 * FULL}
    assert len(rows(engine, "file_verdicts")) == 30


def test_a_folder_is_imported_in_short_transactions(engine: Engine, tmp_path: Path) -> None:
    """v3's cache is stored a moment's worth at a time; what was committed before Ctrl-C stays, again does the rest."""
    files(engine, 30)
    folder = tmp_path / "cache"
    folder.mkdir()
    for number in range(30):
        attributes = report(sha(number), malicious=12, total=70)
        answer = {"data": {"type": "file", "id": sha(number), "attributes": attributes}}
        (folder / sha(number)).write_text(json.dumps(answer), encoding="utf-8")
    first, second = Writer(), Writer()
    first.fail_in = 2
    with pytest.raises(KeyboardInterrupt):
        import_cache(folder, VIRUSTOTAL, first, ticking(engine))
    assert len(rows(engine, "file_verdicts")) == FULL

    result = import_cache(folder, VIRUSTOTAL, second, ticking(engine))

    assert (result.files, result.found, result.unknown, result.unreadable) == (30, 30, 0, [])
    assert second.sizes == [FULL, FULL, 30 - 2 * FULL]
    assert len(rows(engine, "file_verdicts")) == 30
