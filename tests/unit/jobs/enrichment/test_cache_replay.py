"""Answers that cost no request are stored in short transactions, continue after a stop, and are not stored twice."""

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
from cowrieprocessor.jobs.enrichment.answer_writer import Answer, AnswerWriter
from cowrieprocessor.jobs.enrichment.cache_import import import_cache
from cowrieprocessor.jobs.enrichment.cache_replay import COWRIE_JOB, ROWS_AT_ONCE, import_cowrie_verdicts, replay_cache
from cowrieprocessor.jobs.runtime.throttle import TimedTransaction
from cowrieprocessor.loader.bulk import BulkLoader
from tests.enrichment_scene import DAY, NOW, POLICY, VT, load, row, rows, sha
from tests.stand_ins.clock import ManualClock
from tests.stand_ins.virustotal import report
from tests.unit.jobs.ticking import LOOKS_ALONE, ticking

COWRIE = "cowrie-virustotal"
FULL = LOOKS_ALONE + 1
"""Answers that one transaction stores by the ticking clock; it stores at least one."""

VIRUSTOTAL = VirusTotal("http://127.0.0.1:9/api/v3", None, Limits())


class Writer(AnswerWriter):
    """Records how many answers each transaction stored; can stop or fail after one of them."""

    def __init__(self, *, staged: bool = False) -> None:
        super().__init__(POLICY, Ttl(1e6, 1e5, 1e4, 1e6), ManualClock(NOW + DAY), staged=staged)
        self.sizes: list[int] = []
        self.stop = threading.Event()
        self.stop_after: int | None = None
        self.fail_in: int | None = None

    def store(self, turn: TimedTransaction, answers: Sequence[Answer]) -> list[dt.datetime]:
        """Store answers and record how many; then fail before the commit or request a stop, as the test wants."""
        until = super().store(turn, answers)
        self.sizes.append(len(until))
        if len(self.sizes) == self.fail_in:
            raise KeyboardInterrupt
        if len(self.sizes) == self.stop_after:
            self.stop.set()
        return until


def load_scans(folder: Path, engine: Engine, scans: Sequence[tuple[int, int, int]], name: str = "cowrie.json") -> None:
    """Load scan events of Cowrie: the file's number, the second, and how many engines detected it."""
    lines = [
        {
            "eventid": "cowrie.virustotal.scanfile",
            "session": f"s{number}",
            "timestamp": (NOW + dt.timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "sha256": sha(number),
            "is_new": "false",
            "positives": positives,
            "total": 70,
        }
        for number, second, positives in scans
    ]
    path = folder / name
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    BulkLoader(engine).load([path])


def load_files(engine: Engine, count: int) -> None:
    """Load a number of files, each in its own session."""
    load(engine, [(f"s{number}", sha(number)) for number in range(count)])


def import_events(engine: Engine, writer: Writer, malicious_at: int = 1) -> dict[str, int]:
    """Import Cowrie's own verdicts."""
    return import_cowrie_verdicts(engine, malicious_at, writer, ticking(engine), stop=writer.stop)


def replay(engine: Engine, writer: Writer, rows_at_once: int = ROWS_AT_ONCE) -> dict[str, int]:
    """Replay the cache."""
    return replay_cache(engine, [VIRUSTOTAL], 1, writer, ticking(engine), stop=writer.stop, rows_at_once=rows_at_once)


def fill_cache(engine: Engine, count: int) -> None:
    """Store an answer about each file in the cache."""
    response = VIRUSTOTAL_RESPONSE
    with write_transaction(engine) as connection:
        for number in range(count):
            store_in_cache(connection, VT, sha(number), "malicious", response, NOW, NOW + 30 * DAY, now=NOW)


VIRUSTOTAL_RESPONSE: dict[str, Any] = {"last_analysis_stats": {"malicious": 9, "undetected": 61}}


def test_cowries_own_is_stored_in_short_transactions(engine: Engine, tmp_path: Path) -> None:
    """A transaction ends when it has lasted long enough; all events are stored, and the checkpoint is the last one."""
    load_files(engine, 30)
    load_scans(tmp_path, engine, [(number, number, 9) for number in range(30)])
    writer = Writer()

    assert import_events(engine, writer) == {COWRIE: 30}

    assert writer.sizes == [FULL, FULL, 30 - 2 * FULL]
    assert len(rows(engine, "file_verdicts", provider=COWRIE)) == 30
    assert row(engine, "jobs", name=COWRIE_JOB)["cursor"] == {"last_id": rows(engine, "raw_events")[-1]["id"]}


def test_what_was_taken_in_is_not_stored_again(engine: Engine, tmp_path: Path) -> None:
    """The last ids are read again and nothing is written, even with another threshold of engines."""
    load_files(engine, 5)
    load_scans(tmp_path, engine, [(number, second, 9) for second in range(3) for number in range(5)])
    import_events(engine, Writer())
    tables = ("file_verdicts", "enrichment_cache", "file_hashes", "enrichment_queue", "jobs")
    before = [rows(engine, table) for table in tables]
    again = Writer()

    assert import_events(engine, again, malicious_at=20) == {}

    assert again.sizes == []
    assert before == [rows(engine, table) for table in tables]


def test_a_late_event_is_taken_in(engine: Engine, tmp_path: Path) -> None:
    """An event that is older than the stored ones, or before the checkpoint, is still added to the history."""
    load_files(engine, 1)
    load_scans(tmp_path, engine, [(0, 10, 9), (0, 30, 9)])
    import_events(engine, Writer())
    load_scans(tmp_path, engine, [(0, 20, 4), (0, 5, 2)], "older.json")
    last_id = rows(engine, "raw_events")[-1]["id"]
    with write_transaction(engine) as connection:  # as if another loader had committed later ids before
        connection.exec_driver_sql(
            f"""UPDATE jobs SET cursor = '{{"last_id": {last_id}}}' WHERE name = '{COWRIE_JOB}'"""
        )
    late = Writer()

    assert import_events(engine, late) == {}

    assert late.sizes == [2]
    said = [(verdict["fetched_at"].second, verdict["positives"]) for verdict in rows(engine, "file_verdicts")]
    assert sorted(said) == [(5, 2), (10, 9), (20, 4), (30, 9)]
    again = Writer()
    import_events(engine, again)
    assert again.sizes == []


def test_staged_only_later_events_are_stored(engine: Engine, tmp_path: Path) -> None:
    """If only the cache is written, an event is skipped if the cache has it or a later one."""
    load_files(engine, 2)
    load_scans(tmp_path, engine, [(0, 10, 9), (1, 10, 9), (0, 20, 4)])
    writer = Writer(staged=True)

    assert import_events(engine, writer) == {COWRIE: 3} == import_events(engine, writer)

    assert writer.sizes == [3]
    assert rows(engine, "file_verdicts") == [] == rows(engine, "jobs", name=COWRIE_JOB)


def test_what_was_staged_is_whole_in_the_end(engine: Engine, tmp_path: Path) -> None:
    """After a time of writing only the cache, older events come from the log and the latest ones from the cache."""
    load_files(engine, 2)
    load_scans(tmp_path, engine, [(0, 10, 9), (1, 10, 9), (0, 20, 4)])
    import_events(engine, Writer(staged=True))
    writer = Writer()

    assert import_events(engine, writer) == {COWRIE: 3}
    assert writer.sizes == [1]
    assert replay(engine, writer) == {"cache": 2}

    said = [
        (verdict["sha256"], verdict["fetched_at"].second, verdict["positives"])
        for verdict in rows(engine, "file_verdicts")
    ]
    assert sorted(said) == sorted([(sha(0), 10, 9), (sha(0), 20, 4), (sha(1), 10, 9)])


def test_stopped_it_goes_on_behind_what_was_stored(engine: Engine, tmp_path: Path) -> None:
    """After a stop between two transactions the next run stores the rest, and counts each event once."""
    load_files(engine, 30)
    load_scans(tmp_path, engine, [(number, number, 9) for number in range(30)])
    first, second = Writer(), Writer()
    first.stop_after = 1

    counted = [import_events(engine, first), import_events(engine, second)]

    assert counted == [{COWRIE: FULL}, {COWRIE: 30 - FULL}]
    assert (first.sizes, second.sizes) == ([FULL], [FULL, 30 - 2 * FULL])


def test_interrupted_nothing_is_lost(engine: Engine, tmp_path: Path) -> None:
    """Ctrl-C rolls back only the current transaction; the checkpoint is that of the one before."""
    load_files(engine, 30)
    load_scans(tmp_path, engine, [(number, number, 9) for number in range(30)])
    first, second = Writer(), Writer()
    first.fail_in = 2
    with pytest.raises(KeyboardInterrupt):
        import_events(engine, first)
    assert len(rows(engine, "file_verdicts")) == FULL

    assert import_events(engine, second) == {COWRIE: 30 - FULL}
    assert len(rows(engine, "file_verdicts")) == 30


def test_an_unreadable_event_is_counted_and_passed(engine: Engine, tmp_path: Path) -> None:
    """An unreadable event is counted once, and the checkpoint moves past it."""
    load_files(engine, 1)
    load_scans(tmp_path, engine, [(0, 1, 9)])
    path = tmp_path / "bad.json"
    path.write_text('{"eventid": "cowrie.virustotal.scanfile", "session": "s1", "sha256": "no hash"}\n', "utf-8")
    BulkLoader(engine).load([path])

    assert import_events(engine, Writer()) == {COWRIE: 1, f"{COWRIE} unreadable": 1}
    assert import_events(engine, Writer()) == {}


def test_the_cache_is_replayed_in_short_transactions(engine: Engine) -> None:
    """Each answer that the history lacks is stored once, in short transactions."""
    load_files(engine, 30)
    fill_cache(engine, 30)
    writer = Writer()

    assert replay(engine, writer) == {"cache": 30}

    assert writer.sizes == [FULL, FULL, 30 - 2 * FULL]
    assert {entry["vt_positives"] for entry in rows(engine, "file_hashes")} == {9}
    assert replay(engine, writer) == {}


def test_an_interrupted_replay_goes_on(engine: Engine) -> None:
    """After Ctrl-C or a stop the next replay stores the rest and no more."""
    load_files(engine, 30)
    fill_cache(engine, 30)
    first, second, third = Writer(), Writer(), Writer()
    first.fail_in = 2
    with pytest.raises(KeyboardInterrupt):
        replay(engine, first, rows_at_once=15)
    second.stop_after = 1

    assert replay(engine, second, rows_at_once=15) == {"cache": FULL}
    assert replay(engine, third, rows_at_once=15) == {"cache": 30 - 2 * FULL}
    assert len(rows(engine, "file_verdicts")) == 30


def test_a_folder_is_imported_in_short_transactions(engine: Engine, tmp_path: Path) -> None:
    """v3's cache is stored in short transactions; after Ctrl-C another import stores the rest."""
    load_files(engine, 30)
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
