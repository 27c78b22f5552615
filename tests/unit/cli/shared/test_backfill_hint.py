"""Lists of a migrated database print a note with what they lack and the command that adds it."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, insert, select, update

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import Job, SessionSummary
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.backfill_aggregates import FilesSlice, SessionsSlice
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.backfill import (
    ALL_JOBS,
    COMPLETE,
    FILES_JOB,
    SESSIONS_JOB,
    Completeness,
    awaits_backfill,
)
from tests.earlier_revisions import go_back
from tests.unit.reporting.program import Program

NOTE = "that an earlier release stored are not all here yet: cowrieprocessor db backfill --db "
LISTS = ("files", "sessions")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def migrated(v3_file: Path) -> Path:
    """A migrated database that is not backfilled, in a folder with a blank in its name."""
    path = v3_file.parent / "my pots" / "v3.sqlite"
    path.parent.mkdir()
    v3_file.rename(path)
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


@pytest.mark.parametrize("name", LISTS)
def test_a_migrated_database_says_what_lists_lack(migrated: Path, program: Program, name: str) -> None:
    """A line on standard error has the command with the database, ready to paste; also with --json."""
    text = program(name, "list", "--db", str(migrated))
    document = program(name, "list", "--db", str(migrated), "--json")

    assert (text.code, document.code) == (0, 0)
    assert [line for line in text.err.splitlines() if not line.startswith("more:")] == document.err.splitlines()
    (line,) = document.err.splitlines()
    assert line.startswith("note: ")
    assert line.endswith(NOTE + shlex.quote(str(migrated)))
    assert ("may count twice until a recount" in line) == (name == "sessions")
    assert isinstance(json.loads(document.out), dict)


def test_a_report_before_the_backfill_says_both(migrated: Path, program: Program) -> None:
    """Numbers that may be too small and too large at once are said to be both."""
    text = " ".join(program("report", "daily", "--db", migrated).out.split())

    assert "may count twice here: `cowrieprocessor db recount`" in text
    assert "`cowrieprocessor db backfill` adds them" in text


def test_after_the_backfill_sessions_may_count_twice(migrated: Path, program: Program) -> None:
    """After a backfill, what counts events says that version 3 may have doubled them; after the recount no more.

    A recount that was stopped, or was of one session only, has not looked at everything.
    """
    engine = get_engine(migrated)
    backfill(engine)
    with read_transaction(engine) as connection:
        session = connection.scalar(select(func.min(SessionSummary.session_id)))
    recount(engine, session_id=session)
    dispose(engine)
    notes = {
        " ".join(words): [line for line in program(*words, "--db", migrated).err.splitlines() if "note" in line]
        for words in (("files", "list"), ("sessions", "list"), ("report", "daily"), ("sensors", "list"))
    }
    doubled = (
        "note: events that version 3 stored or counted twice may count twice here, until a recount: "
        f"cowrieprocessor db recount --db {shlex.quote(str(migrated))}"
    )
    assert notes == {"files list": [], "sessions list": [doubled], "report daily": [doubled], "sensors list": []}

    in_report = "may count twice here: `cowrieprocessor db recount`"
    assert in_report in " ".join(program("report", "daily", "--db", migrated).out.split())

    assert program(*shlex.split(doubled.partition("recount: cowrieprocessor ")[2])).code == 0
    assert [program(name, "list", "--db", migrated).err for name in LISTS] == ["", ""]
    assert in_report not in " ".join(program("report", "daily", "--db", migrated).out.split())


@pytest.mark.parametrize("state", ["running", "waiting", "paused", "failed", "stopped"])
def test_a_backfill_that_did_not_end_is_no_backfill(migrated: Path, state: str) -> None:
    """Until a job of the backfill is done, the lists that it fills are incomplete."""
    engine, now = get_engine(migrated), dt.datetime.now(dt.UTC)
    with write_transaction(engine) as connection:
        for job in (FILES_JOB, SESSIONS_JOB):
            connection.execute(insert(Job).values(name=job, state="done", started_at=now, updated_at=now))
        connection.execute(update(Job).where(Job.name == SESSIONS_JOB).values(state=state))
    with read_transaction(engine) as connection:
        found = [awaits_backfill(connection, jobs) for jobs in ([FILES_JOB], [SESSIONS_JOB], [FILES_JOB, SESSIONS_JOB])]
    dispose(engine)

    assert found == [False, True, True]


def test_a_database_of_our_own_says_nothing(engine: Engine, db_url: str, program: Program, tmp_path: Path) -> None:
    """A database that version 3 never wrote to, empty or not, has nothing to backfill."""
    assert ["", ""] == [program(name, "list", "--db", db_url).err for name in LISTS]
    log = tmp_path / "cowrie.json"
    log.write_text('{"eventid":"cowrie.session.connect","session":"s","timestamp":"2026-11-21T10:00:00Z"}\n')
    BulkLoader(engine).load([log])
    assert ["", ""] == [program(name, "list", "--db", db_url).err for name in LISTS]


def test_jobs_are_called_as_the_backfill_calls_them() -> None:
    """The names of the jobs are those of the backfill."""
    assert (FILES_JOB, SESSIONS_JOB) == (FilesSlice.job, SessionsSlice.job)


ONE = "11" * 32
EVENTS = "".join(
    json.dumps({"eventid": f"cowrie.{kind}", "session": "s", "timestamp": "2026-11-21T10:00:00Z", **fields}) + "\n"
    for kind, fields in (
        ("session.connect", {"src_ip": "203.0.113.1", "protocol": "ssh"}),
        ("login.success", {"username": "root", "password": "x"}),
        ("session.file_download", {"shasum": ONE, "url": "http://203.0.113.1/x"}),
    )
)


def upgraded(path: Path, revision: str) -> Path:
    """Return a database that version 4 loaded at an earlier revision, migrated since."""
    engine = get_engine(path)
    apply_migrations(engine)
    log = path.with_name("cowrie.json")
    log.write_text(EVENTS)
    BulkLoader(engine).load([log])
    go_back(engine, revision)
    apply_migrations(engine)
    dispose(engine)
    return path


def test_a_note_names_what_is_missing_and_nothing_else(program: Program, tmp_path: Path) -> None:
    """After an upgrade that lacks URLs and names only, answers that have none of these are complete and silent."""
    path = upgraded(tmp_path / "db.sqlite", "0011")
    lacking = (("db", "status"), ("report", "daily"), ("files", "show", ONE), ("files", "list", "--url", "x"))
    whole = (
        ("files", "list"),
        ("files", "history", ONE),
        ("files", "sessions", ONE),
        ("sessions", "list"),
        ("sessions", "show", "s"),
        ("sensors", "list"),
        ("enrich", "status"),
    )
    notes = {command: program(*command, "--db", path).err for command in (*lacking, *whole)}
    states = [json.loads(program(*command, "--json", "--db", path).out) for command in (*lacking, *whole)]
    report = " ".join(program("report", "daily", "--db", path).out.split())
    unknown = program("files", "show", "ff" * 32, "--db", path).err

    note = (
        "note: the backfill of URLs and names of files is at 0%: those that an earlier release stored are not all here "
        f"yet: cowrieprocessor db backfill --db {path}"
    )
    assert [notes[command].splitlines()[-1] for command in lacking] == [note] * len(lacking)
    assert {notes[command] for command in whole} == {""}
    assert [(state["complete"], state["backfilled_share"]) for state in states] == [
        *[(False, 0.0)] * len(lacking),
        *[(True, 1.0)] * len(whole),
    ]
    assert (
        "This report is incomplete: the backfill of URLs and names of files is at 0%. Those that an earlier release "
        "stored are not all here; `cowrieprocessor db backfill` adds them."
    ) in report
    assert "backfill" not in unknown


def test_a_note_names_what_every_waiting_job_brings(program: Program, tmp_path: Path) -> None:
    """Of an older revision the sensors are missing, too, but addresses, user names and commands are not."""
    path = upgraded(tmp_path / "db.sqlite", "0007")

    assert (
        "the backfill of URLs, names of files and sensors of sessions is at 0%"
        in program("db", "status", "--db", path).err
    )
    assert "the backfill of sensors of sessions is at 0%" in program("sessions", "list", "--db", path).err


@pytest.mark.parametrize("job", ALL_JOBS)
def test_every_job_has_its_nouns(job: str) -> None:
    """A note can name what any job brings; a complete answer lacks nothing."""
    assert Completeness(False, 0.5, (job,)).lacks
    assert COMPLETE.lacks == ""
