"""The record of a job as a file beside the database, where the database cannot hold it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.jobs import DONE, FAILED, PAUSED, RUNNING, STOPPED
from cowrieprocessor.errors import JobStopped, JobTaken, MigrationNeeded
from cowrieprocessor.jobs.maintenance.backup import backup
from cowrieprocessor.jobs.runtime import job_file, job_list
from cowrieprocessor.jobs.runtime.job import READS_ONLY, run_job
from cowrieprocessor.jobs.runtime.job_file import JobFile, file_jobs, path_of
from cowrieprocessor.jobs.runtime.job_list import DIED, listed_jobs
from cowrieprocessor.jobs.runtime.progress import JobProgress
from tests.command_line import run

KILLED = """
import os, signal, sys
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.jobs.runtime.job import READS_ONLY, run_job
from cowrieprocessor.jobs.runtime.job_file import JobFile
engine = get_engine(sys.argv[1], read_only=True)
with run_job(engine, "look", kept_in=JobFile(engine, "look"), limits=READS_ONLY) as job:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def reader(v3_file: Path) -> Iterator[Engine]:
    """Yield a read-only engine on a v3 database, which has no table of jobs."""
    engine = get_engine(v3_file, read_only=True)
    yield engine
    dispose(engine)


def look(
    engine: Engine,
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
    *,
    looks_always: bool = False,
) -> None:
    """Run a job that only reads; it may look for requests without a second in between."""
    ticks = count()
    options: dict[str, Any] = {"clock": lambda: float(next(ticks))} if looks_always else {}
    options |= {"kept_in": JobFile(engine, "look"), "limits": READS_ONLY, "goes_on": False}
    with run_job(engine, "look", stop=stop, on_progress=on_progress, **options) as job:
        for done in range(3):
            job.progress(done, 3, "things")
            job.wait()


def states(engine: Engine) -> dict[str, tuple[str, str | None]]:
    """Return state and reason of each job, as they are listed."""
    return {job.name: (job.state, job.reason) for job in listed_jobs(file_jobs(engine))}


def test_the_file_says_who_runs_it_and_how_it_ended(reader: Engine, v3_file: Path) -> None:
    """It is private, there from the start, and says done at the end; the database does not change."""
    before = v3_file.read_bytes()
    with run_job(reader, "look", kept_in=JobFile(reader, "look"), limits=READS_ONLY) as job:
        path = path_of(reader, "look")
        assert path is not None
        document = json.loads(path.read_text())
        assert (document["state"], document["owner"]["pid"], path.stat().st_mode & 0o777) == (
            RUNNING,
            os.getpid(),
            0o600,
        )
        job.progress(1, 3, "things")
        with pytest.raises(JobTaken, match="is running it"):
            look(reader)
    assert states(reader) == {"look": (DONE, None)}
    assert v3_file.read_bytes() == before


def test_status_and_requests_of_other_processes(reader: Engine, v3_file: Path) -> None:
    """`db status` lists it; `jobs pause`, `resume` and `stop` reach it although version 3 has no table of jobs."""
    seen: list[str] = []

    def on_progress(now: JobProgress) -> None:
        seen.append(now.state)
        if now.done == 1 and now.state == RUNNING and PAUSED not in seen:
            assert run("jobs", "pause", "look", "--db", v3_file).returncode == 0
        elif now.state == PAUSED:
            listed = json.loads(run("db", "status", "--json", "--db", v3_file).stdout)["jobs"]
            assert [(job["name"], job["state"]) for job in listed] == [("look", PAUSED)]
            assert run("jobs", "resume", "look", "--db", v3_file).returncode == 0
        elif PAUSED in seen and now.done == 2:
            assert run("jobs", "stop", "look", "--db", v3_file).returncode == 0

    with pytest.raises(JobStopped, match="nothing of it is kept"):
        look(reader, on_progress=on_progress, looks_always=True)
    assert PAUSED in seen
    assert states(reader)["look"][0] == STOPPED


def test_a_killed_job_has_died(reader: Engine, v3_file: Path) -> None:
    """A process that is gone without a last word is shown as such, and the next run begins anew."""
    subprocess.run([sys.executable, "-c", KILLED, str(v3_file)], check=False)
    assert states(reader)["look"][0] == DIED
    look(reader)
    assert states(reader) == {"look": (DONE, None)}


def test_how_it_failed(reader: Engine) -> None:
    """An error is the reason; a stop says that nothing is kept."""
    stopped = Event()
    stopped.set()
    with pytest.raises(JobStopped):
        look(reader, stop=stopped)
    assert states(reader)["look"] == (STOPPED, "asked to stop; nothing of it is kept, the same command begins anew")
    with (
        pytest.raises(OSError, match="gone"),
        run_job(reader, "look", kept_in=JobFile(reader, "look"), limits=READS_ONLY),
    ):
        raise OSError("gone")
    assert states(reader)["look"] == (FAILED, "gone")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 1}', b'{"started_at": "x"}', b"\xff", b"null"])
def test_a_file_that_is_no_record_is_replaced(reader: Engine, content: bytes) -> None:
    """What a killed process left half written, or another program made, is no record and in nobody's way."""
    path = path_of(reader, "look")
    assert path is not None
    path.write_bytes(content)
    assert file_jobs(reader) == []
    with pytest.raises(MigrationNeeded):
        job_list.stop(reader, ["look"])
    look(reader)
    assert states(reader) == {"look": (DONE, None)}


def test_without_a_place_for_the_file_the_job_runs(reader: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that may not be written to, and on a server, there is no record."""
    monkeypatch.setattr(job_file, "_open", lambda _path, *, create: None)
    look(reader)
    assert (file_jobs(reader), job_file.load(reader, "look")) == ([], None)


def test_a_server_has_no_file(postgres_url: str) -> None:
    """A database that is not a file has no file beside it."""
    engine = get_engine(postgres_url)
    assert (path_of(engine, "look"), file_jobs(engine)) == (None, [])
    dispose(engine)


def test_a_backup_leaves_its_record(reader: Engine, tmp_path: Path) -> None:
    """A backup of version 3 is recorded beside the database, with its last progress."""
    backup(reader, tmp_path / "b.sqlite")
    (job,) = listed_jobs(file_jobs(reader))
    assert (job.name, job.state, job.finished_at is not None) == ("backup", DONE, True)
    assert job.progress is not None
