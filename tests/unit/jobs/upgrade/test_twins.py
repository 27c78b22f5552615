"""Logs that v3 stored under two names: `db recount` finds their events, counts each once, and removes rows if asked."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from cowrieprocessor.cli.db_commands.recount import recount as command
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.errors import ConfigurationError, SaveFailed
from cowrieprocessor.jobs.runtime.throttle import Throttle
from cowrieprocessor.jobs.upgrade import remove_twins as removal
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.jobs.upgrade.remove_twins import RemovedTwins, remove_twins
from cowrieprocessor.jobs.upgrade.rollback import roll_back
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.sessions import session_details
from tests import v3_schema
from tests.earlier_revisions import go_back
from tests.unit.jobs.upgraded import opened, rows

PLAIN, PACKED = "/logs/cowrie.json", "/logs/cowrie.json.gz"


def event(second: int, name: str = "login.failed", session: str = "s1", **fields: object) -> dict[str, object]:
    """Return an event at a second of the day's first minute."""
    fields = {"username": "root", "password": "x"} | fields if name.startswith("login") else fields
    return v3_schema.event(f"cowrie.{name}", session, f"2025-01-02T00:00:{second:02d}.000000Z", **fields)


LOG: tuple[dict[str, object], ...] = (
    event(0, "session.connect", src_ip="203.0.113.7", protocol="ssh"),
    event(1),
    event(2),
    event(2),  # an attempt that the honeypot logged twice
    event(3, "login.success"),
    event(4, "command.input", input=None, command=None, input_safe="cd / [AND] ls", message="CMD: cd / && ls"),
    event(5, "session.file_download", shasum="a" * 64, url="http://203.0.113.9/x"),
    event(6, "session.closed"),
)


@pytest.fixture
def v3(engine: Engine) -> Engine:
    """A database that version 3 filled, at version 4 on either dialect, with no events yet."""
    return engine


def store_as_v3(engine: Engine, source: str, events: Sequence[dict[str, object]], first: int = 0) -> None:
    """Add a log as version 3 stored it: its events and their sessions."""
    insert = (
        "INSERT INTO raw_events (source, source_offset, source_inode, payload, payload_hash{columns})"
        " VALUES (:source, :line, :inode, :payload, :hash{values})"
    )
    is_generated = engine.dialect.name == "sqlite"
    names = () if is_generated else ("session_id", "event_type", "event_timestamp")
    statement = text(
        insert.format(columns="".join(f", {name}" for name in names), values="".join(f", :{name}" for name in names))
    )
    with write_transaction(engine) as connection:
        for line, fields in enumerate(events, start=first):
            payload = json.dumps(fields)
            values: dict[str, Any] = {"source": source, "line": line, "inode": source, "payload": payload}
            values["hash"] = f"{hash(payload) & (1 << 60) - 1:064x}"
            if not is_generated:
                values |= dict(zip(names, (fields["session"], fields["eventid"], fields["timestamp"]), strict=True))
            connection.execute(statement, values)
            session = {"session": fields["session"]}
            connection.execute(
                text("INSERT INTO session_summaries (session_id) VALUES (:session) ON CONFLICT DO NOTHING"), session
            )


def counted(engine: Engine) -> dict[str, list[Any]]:
    """Return every number that is counted from events."""
    queries = {
        "sessions": v3_schema.SESSIONS.replace("first_event_at, last_event_at, ", ""),
        "commands": "SELECT session_id, command_normalized, occurrences FROM command_stats ORDER BY 1, 2",
        "logins": "SELECT session_id, username, attempts, successes FROM session_logins ORDER BY 1, 2",
        "files": "SELECT session_id, shasum FROM files ORDER BY 1, 2",
        "hashes": "SELECT sha256, session_count FROM file_hashes ORDER BY 1",
    }
    with read_transaction(engine) as connection:
        return {name: [tuple(row) for row in connection.execute(text(query))] for name, query in queries.items()}


ONCE = {
    "sessions": [("s1", 8, 1, 1, 4)],
    "commands": [("s1", "cd / && ls", 1)],
    "logins": [("s1", "root", 4, 1)],
    "files": [("s1", "a" * 64)],
    "hashes": [("a" * 64, 1)],
}


def shown(engine: Engine, session: str = "s1") -> tuple[int, int, int]:
    """Return how many events `sessions show` lists, how many it counts, and how many its parts have."""
    with read_transaction(engine) as connection:
        details = session_details(connection, session)
    return len(details.events), details.events_total, sum(part.events for part in details.parts)


def marked(engine: Engine) -> list[tuple[str, int]]:
    """Return source and line of the events that are marked as twins."""
    query = "SELECT source, source_offset FROM twin_events JOIN raw_events ON id = event_id ORDER BY 1, 2"
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(query))]  # type: ignore[misc]


@pytest.mark.parametrize("order", [("backfill", "recount"), ("recount", "backfill")], ids=" first, then ".join)
def test_a_log_under_two_names_counts_once(v3: Engine, order: tuple[str, str]) -> None:
    """Every counter, report and timeline has each event once, in either order of backfill and recount; it is valid."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    for step in (*order, "recount"):
        result = recount(v3) if step == "recount" else backfill(v3)

    assert counted(v3) == ONCE
    assert shown(v3) == (8, 8, 8)
    assert marked(v3) == [(PACKED, line) for line in range(8)]
    assert (result.twins, result.changed) == (8, 0)  # type: ignore[union-attr]
    report = validate(v3, all_counters=True)
    assert (report.valid, report.first_differences, report.counters.wrong) == (True, [], 0)


@pytest.mark.parametrize(
    ("change", "differs", "described"),
    [
        (
            "INSERT INTO twin_events SELECT min(id) FROM raw_events",
            "extra in twin_events",
            "extra in twin_events, session s1: event",
        ),
        ("INSERT INTO twin_events VALUES (4711)", "orphan in twin_events", "orphan in twin_events: event 4711"),
        (
            "DELETE FROM twin_events WHERE event_id = (SELECT max(event_id) FROM twin_events)",
            "missing in twin_events",
            "missing in twin_events, session s1: event",
        ),
    ],
)
def test_a_wrong_mark_is_not_valid(v3: Engine, change: str, differs: str, described: str) -> None:
    """An event that is marked and no twin, a mark without its event, and a twin without a mark are differences."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    backfill(v3)
    recount(v3)
    with write_transaction(v3) as connection:
        connection.execute(text(change))

    report = validate(v3)

    assert (report.valid, report.differences[differs]) == (False, 1)
    (difference,) = (found for found in report.first_differences if found.table == "twin_events")
    assert difference.describe().startswith(described)


def test_twins_that_no_recount_has_looked_for_are_no_difference(v3: Engine) -> None:
    """Before the recount nothing is marked: that is said in lists and reports, and is valid."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    backfill(v3)

    report = validate(v3)

    assert (report.valid, report.differences, "twin_events" in report.compared) == (True, {}, False)


def test_a_recount_while_the_backfill_works_doubles_nothing(v3: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that a recount marks between the backfill's reading and its writing are left out of what it writes."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    wait = Throttle.wait
    waited: list[Throttle] = []

    def recount_before(throttle: Throttle, notify: Any) -> None:
        waited.append(throttle)
        if len(waited) == 2:  # first for the file events, then for the sessions
            recount(v3)
        wait(throttle, notify)

    monkeypatch.setattr(Throttle, "wait", recount_before)
    backfill(v3)
    monkeypatch.undo()

    assert len(waited) > 2
    assert recount(v3, dry_run=True).changed == 0
    assert counted(v3) == ONCE
    assert validate(v3, all_counters=True).valid


@pytest.mark.parametrize(
    ("first", "second", "twins"),
    [
        (LOG[:5], LOG, [(PLAIN, line) for line in range(5)]),
        (LOG, LOG[:5], [(PACKED, line) for line in range(5)]),
        (LOG[:5], LOG[3:], [(PACKED, 0), (PACKED, 1)]),
        (LOG[:3], LOG[2:], [(PLAIN, 2)]),
        (LOG[:4], LOG[4:], []),
    ],
    ids=["the second is longer", "the first is longer", "they overlap", "they overlap in one of two equal", "apart"],
)
def test_logs_that_share_a_part_count_it_once(
    v3: Engine, first: Sequence[dict[str, object]], second: Sequence[dict[str, object]], twins: list[tuple[str, int]]
) -> None:
    """An event occurred as often as in the log that has most of it; two equal lines of one log are two events."""
    store_as_v3(v3, PLAIN, first)
    store_as_v3(v3, PACKED, second)
    backfill(v3)
    recount(v3)

    assert counted(v3) == ONCE
    assert marked(v3) == twins
    assert validate(v3, all_counters=True).valid


def test_events_of_our_loaders_are_never_twins(v3: Engine, tmp_path: Path) -> None:
    """The log that version 3 stored twice is loaded again by us: nothing is added; what is new in it is, once."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    backfill(v3)
    recount(v3)
    log = tmp_path / "cowrie.json"
    originals = [{**fields, "input": "cd / && ls"} if "input_safe" in fields else fields for fields in LOG]
    lines = [{k: v for k, v in line.items() if k not in ("input_safe", "command")} for line in originals]
    lines.append(event(30, "command.input", input="cd / && ls", message="CMD: cd / && ls"))
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    BulkLoader(v3).load([log])

    assert counted(v3)["commands"] == [("s1", "cd / && ls", 2)]
    assert counted(v3)["sessions"] == [("s1", 9, 2, 1, 4)]
    assert recount(v3).changed == 0
    assert validate(v3, all_counters=True).valid


def test_a_dry_run_marks_nothing(v3: Engine) -> None:
    """A dry run counts the twins, and marks and removes none."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)

    assert recount(v3, dry_run=True).twins == 8
    assert marked(v3) == []


def test_twins_that_version_3_adds_later_are_found_by_the_next_recount(v3: Engine) -> None:
    """A third name that an old loader brings after the recount is found, too."""
    store_as_v3(v3, PLAIN, LOG)
    backfill(v3)
    recount(v3)
    store_as_v3(v3, PACKED, LOG)
    backfill(v3)
    assert counted(v3) != ONCE
    result = recount(v3, session_id="s1")

    assert (result.twins, result.changed) == (8, 1)
    assert counted(v3) == ONCE


def read_saved(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of removed twins."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_twins_are_saved_before_they_are_removed(v3: Engine, tmp_path: Path) -> None:
    """The file has the rows whole, is private and never replaced; the rest counts as before, and is valid."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    store_as_v3(v3, PLAIN, [event(9, session="s2")], first=8)
    backfill(v3)
    recount(v3)
    before = counted(v3)
    path = tmp_path / "twins.jsonl.gz"
    result = remove_twins(v3, path, rows=3)

    head, *saved = read_saved(path)
    assert result == RemovedTwins(8, str(path))
    assert (head["format"], head["table"]) == (removal.FORMAT, "raw_events")
    assert [(row["source"], row["source_offset"]) for row in saved] == [(PACKED, line) for line in range(8)]
    assert [json.loads(row["payload"]) for row in saved] == list(LOG)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with read_transaction(v3) as connection:
        left = connection.execute(text("SELECT DISTINCT source FROM raw_events")).scalars().all()
    assert (left, marked(v3)) == ([PLAIN], [])
    assert counted(v3) == before
    assert (recount(v3).changed, recount(v3).twins) == (0, 0)
    assert validate(v3, all_counters=True).valid
    store_as_v3(v3, PACKED, LOG)
    store_as_v3(v3, PLAIN, [event(10, session="s2")], first=9)
    recount(v3)
    with pytest.raises(ConfigurationError, match="exists"):
        remove_twins(v3, path)


def test_nothing_is_removed_that_could_not_be_saved(
    v3: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file cannot be written, the rows stay."""
    store_as_v3(v3, PACKED, LOG)
    store_as_v3(v3, PLAIN, LOG)
    recount(v3)
    before = marked(v3)
    with pytest.raises(SaveFailed, match="cannot be written"):
        remove_twins(v3, tmp_path / "no such folder" / "twins.gz")

    assert marked(v3) == before


class Killed(Exception):
    """Simulates the end of the process."""


def test_a_killed_removal_goes_on(v3: Engine, tmp_path: Path) -> None:
    """Killed after its first transaction, the rest is saved to another file; both files together have all rows."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    store_as_v3(v3, PLAIN, [event(9, session="s2")], first=8)
    recount(v3)

    def kill(_: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        remove_twins(v3, tmp_path / "1.gz", on_progress=kill, rows=3)
    remove_twins(v3, tmp_path / "2.gz", rows=3)

    saved = {row["source_offset"] for name in ("1.gz", "2.gz") for row in read_saved(tmp_path / name)[1:]}
    assert saved == set(range(8))
    assert marked(v3) == []


def test_the_newest_row_stays(v3: Engine, tmp_path: Path) -> None:
    """SQLite gives the id of a deleted newest row to the next event, which would then pass for one of version 3."""
    store_as_v3(v3, PLAIN, LOG)
    store_as_v3(v3, PACKED, LOG)
    recount(v3)

    assert remove_twins(v3, tmp_path / "1.gz").events == 7
    assert marked(v3) == [(PACKED, 7)]
    assert shown(v3) == (8, 8, 8)


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """A version 3 file with one log under two names, migrated and backfilled."""
    path = v3_schema.create(tmp_path / "v3.sqlite", payloads=[])
    with opened(path) as engine:
        store_as_v3(engine, PLAIN, LOG)
        store_as_v3(engine, PACKED, LOG)
        store_as_v3(engine, PLAIN, [event(9, session="s2")], first=8)
        apply_migrations(engine)
        backfill(engine)
    return path


def call(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command_removes_only_when_asked_to(twice: Path) -> None:
    """`--remove-twins` needs --yes without a terminal, saves next to the database, and leaves a valid database."""
    plain = call("--db", twice)
    refused = call("--db", twice, "--remove-twins")
    dry = call("--db", twice, "--remove-twins", "--dry-run")
    before = rows(twice, "SELECT count(*) FROM raw_events")
    done = call("--db", twice, "--remove-twins", "--yes", "--json")
    document = json.loads(done.stdout)

    assert "8 stored events are there twice" in plain.stdout
    assert isinstance(refused.exception, ConfigurationError)
    assert "--yes" in str(refused.exception)
    assert "would be saved and removed: 8" in dry.stdout
    assert before == [(17,)]
    assert document["removed"]["events"] == 8
    assert len(read_saved(Path(document["removed"]["saved_to"]))) == 9
    assert Path(document["removed"]["saved_to"]).parent == twice.parent
    assert rows(twice, "SELECT count(*) FROM raw_events") == [(9,)]
    with opened(twice, read_only=True) as engine:
        report = validate(engine, all_counters=True)
    assert (report.valid, report.first_differences) == (True, [])
    assert "second rows removed: 0" in call("--db", twice, "--remove-twins", "--yes").stdout


@pytest.mark.parametrize(
    "flags", [("--save", "x"), ("--remove-twins", "--session", "s1"), ("--remove-twins", "--dry-run", "--save", "x")]
)
def test_options_that_contradict_each_other_are_refused(twice: Path, flags: tuple[str, ...]) -> None:
    """A file without a removal, a removal of one session, and a file of a dry run are wrong calls."""
    assert call("--db", twice, *flags).exit_code == 2


def test_a_rollback_keeps_all_rows_of_version_3(twice: Path) -> None:
    """Marks are version 4's own: a rollback keeps every row of version 3, and a recount finds the twins again."""
    with opened(twice) as engine:
        recount(engine)
        roll_back(engine)
        assert rows(twice, "SELECT count(*) FROM raw_events") == [(17,)]
        apply_migrations(engine)
        backfill(engine)
        assert recount(engine).twins == 8


def test_an_earlier_revision_is_recounted(twice: Path) -> None:
    """Where an earlier release counted commands as version 3 had rewritten them, the migration asks for a recount."""
    with opened(twice) as engine:
        with write_transaction(engine) as connection:
            connection.execute(text("UPDATE command_stats SET command_normalized = 'cd / [AND] ls'"))
        go_back(engine, "0010")
        apply_migrations(engine)
        due = validate(engine)
        recount(engine)
        found = counted(engine)
        backfill(engine)  # of URLs and names, which that release did not store
        after = validate(engine)

    assert (due.valid, due.not_backfilled["recount"]) == (False, None)
    assert found["commands"] == [("s1", "cd / && ls", 1)]
    assert after.valid
