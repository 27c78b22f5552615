"""The delta loader: each event once, whatever happens to the files, and losses with their size."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update

from cowrieprocessor.db.engine import get_engine, read_transaction, write_transaction
from cowrieprocessor.db.ingest import followed_files
from cowrieprocessor.db.ingest.followed_files import losses
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import DeadLetterEvent, FollowedFile, LogFile, RawEvent
from cowrieprocessor.errors import InputNotReadable
from cowrieprocessor.loader import log_loading
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow.file_state import settles_in_s
from cowrieprocessor.loader.follow.tail_reader import TailReader
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.log_loading import FAILED, LoadProgress
from cowrieprocessor.loader.reading import discovery, log_stream
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.loader.rows.batching import LogEnd
from cowrieprocessor.settings import Settings
from tests.logs import events

LINES = events(60)


SETTLED = FollowTiming(archive_settles_s=0.0)
"""Archives count as finished at once."""

FINE_TIMES = replace(SETTLED, fine_time_settles_s=0.0)
"""Likewise, and times in nanoseconds reveal every change."""

STILL_WRITTEN = FollowTiming(archive_settles_s=1e6)
"""Archives count as still being written."""

NEVER_RACY = FollowTiming(archive_settles_s=0.0, coarse_time_settles_s=0.0, fine_time_settles_s=0.0)
"""Size and times of a file reveal every change."""


class Following:
    """A folder with a live log, and the loader that follows it."""

    def __init__(self, engine: Engine, folder: Path, *paths: Path, timing: FollowTiming = SETTLED) -> None:
        self.engine = engine
        self.folder = folder
        self.log = folder / "cowrie.json"
        self.paths = paths or (folder,)
        self.timing = timing
        self.loader = self.new_loader()
        self.gaps: list[tuple[str, int]] = []
        self.errors: list[str] = []

    def new_loader(self, **options: Any) -> DeltaLoader:
        """Return another loader for the same paths."""
        options = {"settings": Settings(batch_size=7), "timing": self.timing, **options}
        return DeltaLoader(self.engine, self.paths, **options)

    def restart(self, timing: FollowTiming | None = None) -> None:
        """Close the loader and start another, with the same timing unless another is given."""
        self.timing = timing or self.timing
        self.loader.close()
        self.loader = self.new_loader()

    def poll_all(self) -> int:
        """Poll until nothing is new; return how many events were stored."""
        stored = 0
        for _ in range(4):
            result = self.loader.poll()
            stored += result.counters["events"]
            self.gaps += [(Path(gap.path).name, gap.bytes_lost) for gap in result.gaps]
            self.errors += [file.error for file in result.files if file.error]
        return stored

    def write(self, start: int, end: int, path: Path | None = None) -> None:
        """Append lines to the log."""
        with (path or self.log).open("a") as file:
            file.write("".join(f"{line}\n" for line in LINES[start:end]))

    def stored(self) -> int:
        """Return how many events are stored, each once."""
        with read_transaction(self.engine) as connection:
            rows = connection.execute(
                select(func.count(), func.count(RawEvent.payload_hash.distinct())).select_from(RawEvent)
            ).one()
        assert rows[0] == rows[1], "an event is stored twice"
        return int(rows[0])

    def lost(self) -> int:
        """Return how many bytes are recorded as lost."""
        with read_transaction(self.engine) as connection:
            return losses(connection).bytes_lost


@pytest.fixture
def following(engine: Engine, tmp_path: Path) -> Iterator[Following]:
    """A folder that is followed; archives count as finished at once."""
    folder = tmp_path / "log"
    folder.mkdir()
    following = Following(engine, folder)
    yield following
    following.loader.close()


def test_what_is_appended_is_loaded_once(following: Following) -> None:
    """Each poll stores what was appended since the last one."""
    following.write(0, 20)
    assert following.poll_all() == 20
    following.write(20, 30)
    assert following.poll_all() == 10
    following.restart()
    assert following.poll_all() == 0
    assert following.stored() == 30


def test_a_partial_line_waits_over_a_restart(following: Following) -> None:
    """The last line waits for its newline, also if it ends inside a character."""
    whole = (LINES[5] + "\n").replace("Cowrie", "Cowrié").encode()
    cut = whole.find(b"\xc3") + 1 or 40
    following.write(0, 5)
    with following.log.open("ab") as file:
        file.write(whole[:cut])
    assert following.poll_all() == 5
    following.restart()
    assert following.poll_all() == 0
    with following.log.open("ab") as file:
        file.write(whole[cut:])
    assert following.poll_all() == 1
    assert following.lost() == 0


@pytest.mark.parametrize("restarts", [False, True])
def test_renamed_with_an_unread_tail_and_created_again(following: Following, restarts: bool) -> None:
    """The tail of a log that was rotated by renaming is loaded, and the new log from its beginning."""
    following.write(0, 10)
    following.poll_all()
    following.write(10, 15)
    following.log.rename(following.folder / "cowrie.json.2026-11-21")
    following.write(15, 20)
    if restarts:
        following.restart()
    assert following.poll_all() == 10
    assert (following.stored(), following.lost()) == (20, 0)


@pytest.mark.parametrize("regrown", [3, 10, 25])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("restarts", [False, True])
def test_copytruncate(following: Following, regrown: int, copied: bool, restarts: bool) -> None:
    """Truncated in place and written anew, smaller or larger: what was not read is in the copy, or is a gap."""
    following.write(0, 10)
    with following.log.open("a") as file:
        file.write(LINES[10][:50])
    following.poll_all()
    if copied:
        shutil.copy(following.log, following.folder / "cowrie.json.1")
    following.log.write_bytes(b"")
    following.write(20, 20 + regrown)
    if restarts:
        following.restart()
    assert following.poll_all() == regrown
    assert following.lost() == (0 if copied else 50)
    assert [] == following.errors
    assert following.gaps == ([] if copied else [("cowrie.json", 50)])


def test_a_copy_that_turns_up_later_closes_the_gap(following: Following) -> None:
    """A gap is closed when a copy of what was lost turns up, and the rest of it is loaded."""
    following.write(0, 10)
    with following.log.open("a") as file:
        file.write(LINES[10][:50])
    following.poll_all()
    copy = following.folder.parent / "copy"
    copy.write_bytes(following.log.read_bytes() + LINES[10][50:].encode() + b"\n")
    following.log.write_bytes(b"")
    following.poll_all()
    assert following.lost() == 50
    copy.rename(following.folder / "cowrie.json.1")
    assert following.poll_all() == 1
    assert following.lost() == 0


def test_nuls_before_a_log_that_began_anew_are_no_loss(following: Following) -> None:
    """A writer that continues at its old position leaves NULs; they stand for no loss, whatever their number."""
    following.write(0, 10)
    following.poll_all()
    unseen = "".join(f"{line}\n" for line in LINES[10:13]).encode()
    size = following.log.stat().st_size + len(unseen)
    following.log.write_bytes(b"\0" * size)
    following.write(20, 25)
    assert following.poll_all() == 5
    assert (following.lost(), following.gaps) == (0, [])


def test_deleted_while_it_is_followed(following: Following) -> None:
    """What is appended to a log before and after it is deleted is read as long as the log is open."""
    following.write(0, 10)
    following.poll_all()
    with following.log.open("a") as writer:
        writer.write("".join(f"{line}\n" for line in LINES[10:14]))
        writer.flush()
        following.log.unlink()
        assert following.poll_all() == 4
        writer.write("".join(f"{line}\n" for line in LINES[14:16]))
        writer.flush()
        following.write(20, 25)
        assert following.poll_all() == 7
    assert (following.stored(), following.lost()) == (21, 0)


def test_deleted_between_two_runs(following: Following) -> None:
    """What a run had seen and not read when the log was deleted is a gap for the next run."""
    following.write(0, 10)
    with following.log.open("a") as file:
        file.write(LINES[10][:33])
    following.poll_all()
    following.loader.close()
    following.log.unlink()
    following.restart()
    following.poll_all()
    assert following.gaps == [("cowrie.json", 33)]
    assert following.lost() == 33


def test_a_first_line_that_was_never_finished(following: Following) -> None:
    """A file that is destroyed before its first object is complete is a gap; a renamed and finished one is not."""
    following.log.write_text(LINES[0][:40])
    following.poll_all()
    following.log.rename(following.folder / "cowrie.json.1")
    following.poll_all()
    assert following.lost() == 0
    with (following.folder / "cowrie.json.1").open("a") as file:
        file.write(LINES[0][40:] + "\n")
    assert following.poll_all() == 1
    following.log.write_text(LINES[35][:40])
    following.poll_all()
    following.log.write_text("")
    following.poll_all()
    assert following.lost() == 40


@pytest.mark.parametrize("read_before", [True, False])
def test_compressed_after_or_before_it_was_read(following: Following, read_before: bool) -> None:
    """A rotated log that is compressed is the same log, whether its tail was read before or not."""
    following.write(0, 10)
    following.poll_all()
    following.write(10, 15)
    rotated = following.folder / "cowrie.json.1"
    following.log.rename(rotated)
    if read_before:
        following.poll_all()
    (following.folder / "cowrie.json.1.gz").write_bytes(gzip.compress(rotated.read_bytes()))
    rotated.unlink()
    following.restart()
    following.write(15, 20)
    assert following.poll_all() == (5 if read_before else 10)
    assert (following.stored(), following.lost()) == (20, 0)


def test_a_file_includes_those_rotated_from_it(engine: Engine, tmp_path: Path) -> None:
    """Following a file includes the files rotated from it, and nothing else in its folder."""
    other = tmp_path / "other.json"
    following = Following(engine, tmp_path, tmp_path / "cowrie.json")
    other.write_text(LINES[50] + "\n")
    assert following.poll_all() == 0
    following.write(0, 5)
    following.poll_all()
    following.write(5, 8)
    following.log.rename(tmp_path / "cowrie.json.2026-11-21")
    following.write(8, 10)
    assert following.poll_all() == 5
    assert following.stored() == 10
    following.loader.close()


def test_polling_files_with_nothing_new_opens_none(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has not changed costs one stat, also in the next process."""
    following.restart(NEVER_RACY)
    following.write(0, 10)
    long_ago = following.log.stat().st_mtime - 7200
    os.utime(following.log, (long_ago, long_ago))
    following.poll_all()
    following.restart()
    opened: list[Path] = []
    monkeypatch.setattr(TailReader, "open", lambda self, path: opened.append(path))
    following.poll_all()
    assert [] == opened
    following.write(10, 11)
    with pytest.raises(TypeError):
        following.poll_all()
    assert [following.log] == opened


def test_an_unreadable_file_is_reported_once_and_stops_no_other(following: Following) -> None:
    """A damaged archive is reported once; the other files are loaded."""
    damaged = bytearray(gzip.compress("".join(f"{line}\n" for line in LINES[:20]).encode()))
    damaged[-6] ^= 0xFF
    (following.folder / "cowrie.json.1.gz").write_bytes(damaged)
    following.write(20, 30)
    result = following.loader.poll()
    assert [FAILED] == [file.state for file in result.files if file.error]
    assert result.counters["events"] == 10
    assert [] == [file for file in following.loader.poll().files if file.error]


def test_what_bulk_loaded_is_not_loaded_again(following: Following) -> None:
    """The bulk and the delta loader share the checkpoint."""
    following.write(0, 10)
    BulkLoader(following.engine).load([following.folder])
    following.write(10, 12)
    assert following.poll_all() == 2
    following.write(12, 15)
    assert BulkLoader(following.engine).load([following.folder]).counters["events"] == 3
    assert following.poll_all() == 0


def test_nothing_is_left_of_files_that_were_removed_after_reading(following: Following) -> None:
    """Old logs that are removed after they were read leave no row and no gap."""
    for number in range(4):
        following.write(number * 5, number * 5 + 5)
        following.poll_all()
        following.log.rename(following.folder / f"cowrie.json.2026-11-0{number + 1}")
    following.poll_all()
    for path in following.folder.iterdir():
        path.unlink()
    following.restart()
    following.poll_all()
    with read_transaction(following.engine) as connection:
        assert 0 == connection.scalar(select(func.count()).select_from(FollowedFile))
        assert 4 == connection.scalar(select(func.count()).select_from(LogFile))
    assert (following.stored(), following.lost()) == (20, 0)


def test_an_idle_log_is_kept_open_by_the_next_process_too(following: Following) -> None:
    """What was appended just before a log was deleted is read, also by a process that had not read the log before."""
    following.write(0, 10)
    following.poll_all()
    following.restart()
    following.poll_all()
    following.write(10, 13)
    following.log.unlink()
    assert following.poll_all() == 3
    assert (following.stored(), following.lost()) == (13, 0)


def test_a_torn_line_of_a_shorter_copy_is_one_dead_letter(following: Following) -> None:
    """A copy that is seen while it is being made adds no dead letter."""
    following.log.write_text('{"torn": "\n')
    following.write(0, 20)
    assert following.poll_all() == 20
    content = following.log.read_bytes()
    (following.folder / "cowrie.json.1").write_bytes(content[: len(content) // 2])
    assert following.poll_all() == 0
    with read_transaction(following.engine) as connection:
        assert 1 == connection.scalar(select(func.count()).select_from(DeadLetterEvent))


def test_nothing_is_stored_twice_by_two_that_follow_the_same_logs(following: Following) -> None:
    """Two loaders that follow the same logs independently store each event once."""
    other = DeltaLoader(following.engine, following.paths)
    for number in range(4):
        following.write(number * 5, number * 5 + 5)
        (other if number % 2 else following.loader).poll()
    following.poll_all()
    other.poll()
    other.close()
    assert following.stored() == 20


def test_a_log_that_was_truncated_twice(following: Following) -> None:
    """Of a log that was truncated twice between two polls, copy and log are read; their NULs stand for no loss."""
    following.write(0, 10)
    following.poll_all()
    offset = following.log.stat().st_size
    middle = b"\0" * offset + "".join(f"{line}\n" for line in LINES[10:13]).encode()
    (following.folder / "cowrie.json.1").write_bytes(middle)
    following.log.write_bytes(b"\0" * (len(middle) + 77) + f"{LINES[20]}\n".encode())
    assert following.poll_all() == 4
    assert (following.lost(), following.gaps) == (0, [])


def test_an_older_log_with_nuls_tells_nothing_about_one_that_was_emptied(following: Following) -> None:
    """Logs that begin with NULs, rotated or emptied and written again, are no loss of one another."""
    following.restart(FINE_TIMES)
    following.log.write_bytes(b"\0" * 2000)
    following.write(0, 10)
    following.poll_all()
    rotated = following.folder / "cowrie.json.1"
    following.log.rename(rotated)
    following.write(10, 12)
    following.poll_all()
    os.utime(rotated)
    following.log.write_bytes(b"\0" * (rotated.stat().st_size + 500) + f"{LINES[20]}\n".encode())
    assert following.poll_all() == 1
    assert (following.lost(), following.gaps) == (0, [])


def test_a_log_that_was_truncated_and_regrew_while_archives_were_waited_for(following: Following) -> None:
    """Empty at one poll, with NULs at the next, then a new process: all that was there is stored, and nothing lost."""
    following.restart(STILL_WRITTEN)
    following.write(0, 10)
    following.poll_all()
    size = following.log.stat().st_size
    (following.folder / "cowrie.json.1.gz").write_bytes(gzip.compress(f"{LINES[30]}\n".encode()))
    following.log.write_bytes(b"")
    following.poll_all()
    following.log.write_bytes(b"\0" * (size + 300) + f"{LINES[20]}\n".encode())
    assert following.poll_all() == 1
    following.restart(SETTLED)
    assert following.poll_all() == 1
    assert (following.lost(), following.gaps) == (0, [])


def test_a_finished_first_line_is_found_though_an_archive_is_waited_for(following: Following) -> None:
    """The beginning of a first line is found in its log at once: nothing of it is lost when that is truncated later."""
    following.restart(STILL_WRITTEN)
    following.log.write_text(LINES[0][:-20])
    following.poll_all()
    archive = following.folder / "cowrie.json.1.gz"
    archive.write_bytes(gzip.compress(f"{LINES[30]}\n".encode()))
    with following.log.open("a") as file:
        file.write(f"{LINES[0][-20:]}\n")
    assert following.poll_all() == 1
    future = time.time() + 1000
    os.utime(archive, (future, future))  # by a clock that is ahead: not a sign that it is still being written
    following.log.write_bytes(b"")
    following.write(1, 5)
    assert following.poll_all() == 5
    assert (following.stored(), following.lost(), following.gaps) == (6, 0, [])


def test_a_damaged_archive_on_a_disk_with_another_number_is_read_once(following: Following) -> None:
    """Devices get other numbers when a machine starts: an unreadable file is not taken for a replaced one."""
    archive = bytearray(gzip.compress("".join(f"{line}\n" for line in LINES[:20]).encode()))
    archive[-6] ^= 0xFF
    (following.folder / "cowrie.json.1.gz").write_bytes(archive)
    following.poll_all()
    following.loader.close()
    with write_transaction(following.engine) as connection:
        connection.execute(update(FollowedFile).values(device="1"))
    following.restart()
    assert following.loader.poll().is_whole
    assert following.loader.poll().is_whole


def test_a_file_that_is_replaced_between_listing_and_reading_is_no_loss(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, then deleted and begun anew before it is opened: what was there is searched before it counts as lost."""
    following.log.write_text(LINES[0][:-20])
    following.loader.poll()
    with following.log.open("a") as file:
        file.write(f"{LINES[0][-20:]}\n")
    there = discovery.FollowedLogs.scan
    calls: list[bool] = []

    def replacing(self: discovery.FollowedLogs) -> discovery.FoundLogs:
        found = there(self)
        calls.append(True)
        if len(calls) == 2:
            following.log.unlink()
            following.log.write_bytes(b"")
        return found

    monkeypatch.setattr(discovery.FollowedLogs, "scan", replacing)
    assert following.poll_all() == 1
    assert len(calls) > 2
    assert (following.stored(), following.lost(), following.gaps) == (1, 0, [])


def test_a_log_that_changed_after_it_was_opened_is_polled_again() -> None:
    """Whether its times reveal the next change depends on the moment before it was read, however long that took."""
    changed_ns = 1_800_000_000_123_456_789
    assert settles_in_s((1, changed_ns, changed_ns), changed_ns / 1e9 + 0.01, FollowTiming()) is not None
    assert settles_in_s((1, changed_ns, changed_ns), changed_ns / 1e9 + 5.0, FollowTiming()) is None


def test_a_growing_log_after_a_hole_is_not_read_from_its_beginning(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that begins with gigabytes of NULs costs no more than any other when it grows."""
    following.restart(NEVER_RACY)
    following.log.write_bytes(b"\0" * (3 << 20))
    following.write(0, 10)
    following.poll_all()
    pieces: list[int] = []
    read = os.pread

    def counting(descriptor: int, size: int, start: int) -> bytes:
        data = read(descriptor, size, start)
        pieces.append(len(data))
        return data

    following.write(10, 11)
    monkeypatch.setattr(log_stream.os, "pread", counting)
    assert following.loader.poll().counters["events"] == 1
    assert 0 < sum(pieces) < 1 << 20


def test_an_archive_that_is_written_anew_while_all_are_idle_is_read(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of which the kernel notifies is polled, though everything was idle before; afterwards it is idle again."""
    following.restart(
        FollowTiming(
            archive_settles_s=0.0,
            coarse_time_settles_s=-1.0,
            fine_time_settles_s=-1.0,
            listing_settles_s=-1.0,
            packed_settles_s=-1.0,
        )
    )
    archive = following.folder / "cowrie.json.1.gz"
    archive.write_bytes(gzip.compress(f"{LINES[0]}\n".encode()))
    following.write(10, 11)
    assert following.poll_all() == 2
    archive.write_bytes(gzip.compress(f"{LINES[0]}\n{LINES[1]}\n".encode()))
    assert following.loader.poll([archive]).counters["events"] == 1
    opened: list[Path] = []
    monkeypatch.setattr(TailReader, "open", lambda self, path: opened.append(path))
    assert following.poll_all() == 0
    assert [] == opened


def test_files_that_only_changed_their_names_are_not_opened(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbered archives that are renamed to the next number, as by logrotate each day, are not unpacked again."""
    following.restart(FINE_TIMES)
    names = [following.folder / f"cowrie.json.{number}.gz" for number in range(1, 5)]
    for number, name in enumerate(names[:3]):
        name.write_bytes(gzip.compress("".join(f"{line}\n" for line in LINES[number * 5 : number * 5 + 5]).encode()))
    assert following.poll_all() == 15
    for old, new in zip(names[2::-1], names[3:0:-1], strict=True):
        old.rename(new)
    following.restart()
    opened: list[Path] = []
    monkeypatch.setattr(TailReader, "open", lambda self, path: opened.append(path))
    following.poll_all()
    assert [] == opened
    assert following.lost() == 0


def test_copies_that_replace_each_other_do_not_pile_up(following: Following) -> None:
    """A log that is replaced by copies again and again, as by rsync, leaves no descriptors of old copies open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    copy = following.folder / ".cowrie.json.part"
    for number in range(12):
        copy.write_text("".join(f"{line}\n" for line in LINES[: number + 1]))
        copy.rename(following.log)
        assert following.poll_all() == 1
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 6
    assert (following.stored(), following.lost()) == (12, 0)


def test_a_file_without_objects_is_searched_once(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text file among the logs costs only what is added to it; when it is deleted, nothing counts as lost."""
    other = following.folder / "app.json.log"
    other.write_bytes(b"some words, no JSON\n" * 100_000)
    following.poll_all()
    pieces: list[int] = []
    pread = os.pread
    monkeypatch.setattr(log_stream.os, "pread", lambda d, n, o: pieces.append(len(x := pread(d, n, o))) or x)
    with other.open("ab") as file:
        file.write(b"and another line\n")
    following.loader.poll()
    monkeypatch.undo()
    assert 0 < sum(pieces) < 300_000
    other.unlink()
    following.poll_all()
    following.restart()
    following.poll_all()
    assert following.lost() == 0


@pytest.mark.parametrize("has_other_core", [False, True])
def test_other_live_logs_have_their_turn_while_much_is_read_of_one(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_other_core: bool
) -> None:
    """While the backlog of one log is loaded, what is written to another is stored; only one uses another core."""
    sizes = ReadSizes(other_core_bytes=0 if has_other_core else 1 << 40)
    running: list[bool] = []
    most: list[int] = []
    process = log_loading.batches_from_process

    def counted(*arguments: Any) -> Iterator[BatchRows | LogEnd]:
        running.append(True)
        most.append(len(running))
        try:
            yield from process(*arguments)
        finally:
            running.pop()

    monkeypatch.setattr(log_loading, "batches_from_process", counted)
    live, backlog = tmp_path / "live.json", tmp_path / "backlog.json"
    live.write_text(f"{LINES[0]}\n")
    backlog.write_text("".join(f"{line}\n" for line in events(400, start=1000)))
    order: list[str] = []

    def on_progress(progress: LoadProgress) -> None:
        order.append(Path(progress.path).name)
        if order.count("backlog.json") == 10:
            with live.open("a") as file:
                file.write(f"{LINES[1]}\n")

    options: dict[str, Any] = {"settings": Settings(batch_size=7), "sizes": sizes}
    with DeltaLoader(engine, [live], **options) as first:
        first.poll()
    timing = FollowTiming(interleave_every_s=0.0)
    with DeltaLoader(engine, [tmp_path], on_progress=on_progress, timing=timing, **options) as loader:
        loader.poll()
    assert "live.json" in order[: order.index("backlog.json") + 30]
    assert order.index("live.json") > order.index("backlog.json")
    assert set(most) == ({1} if has_other_core else set())


@pytest.mark.postgres
def test_two_hosts_with_the_same_path(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one server, another host's file of the same path is another file: nothing of it counts as lost here."""
    engine = get_engine(postgres_url)
    apply_migrations(engine)
    log = tmp_path / "cowrie.json"
    log.write_text(f"{LINES[0]}\n{LINES[1][:40]}")
    monkeypatch.setattr(followed_files.socket, "gethostname", lambda: "pot-1")
    with DeltaLoader(engine, [log]) as first:
        first.poll()
    other_disk = log.rename(tmp_path / "elsewhere")
    log.write_text(f"{LINES[2]}\n")
    monkeypatch.setattr(followed_files.socket, "gethostname", lambda: "pot-2")
    with DeltaLoader(engine, [log]) as second:
        assert [] == second.poll().gaps
        assert [] == second.poll().gaps
    other_disk.rename(log)
    monkeypatch.setattr(followed_files.socket, "gethostname", lambda: "pot-1")
    with log.open("a") as file:
        file.write(LINES[1][40:] + "\n")
    with DeltaLoader(engine, [log]) as first:
        assert 1 == first.poll().counters["events"]
    engine.dispose()


def test_a_log_that_ends_alike_is_another_one(following: Following) -> None:
    """Truncated and written anew with the same size and the same last 512 bytes: the first line distinguishes them."""
    fill = "x" * 600
    lines = [
        line[:-1] + f', "fill": "{fill}"}}' for line in (LINES[0], LINES[0].replace("198.51.100.7", "198.51.100.9"))
    ]
    assert len({len(line) for line in lines}) == 1
    following.log.write_text(f"{lines[0]}\n")
    assert following.poll_all() == 1
    following.log.write_text(f"{lines[1]}\n")
    assert following.poll_all() == 1


def test_a_batch_without_values_moves_the_checkpoint_for_others_too(following: Following) -> None:
    """Of two loaders of a log, the first skips only a newline: the other does not count it again."""
    following.log.write_text(LINES[0] + LINES[1])
    other = DeltaLoader(following.engine, following.paths, settings=Settings(batch_size=1))
    following.loader = DeltaLoader(following.engine, following.paths, settings=Settings(batch_size=1))
    following.poll_all()
    with following.log.open("a") as file:
        file.write("\n")
    other.poll()
    following.write(2, 3)
    following.poll_all()
    other.close()
    with read_transaction(following.engine) as connection:
        log = connection.execute(select(LogFile.bytes_stored, LogFile.byte_pos)).one()
    assert (log.bytes_stored, log.byte_pos) == (following.log.stat().st_size,) * 2


def test_a_renamed_log_is_kept_open_until_it_was_read_under_its_new_name(following: Following) -> None:
    """Renamed, seen by polls that were stopped, then deleted: what was appended before that is still read."""
    stopped = False
    following.loader = DeltaLoader(following.engine, following.paths, stop=lambda: stopped)
    following.write(0, 5)
    following.poll_all()
    following.write(5, 8)
    following.log.rename(following.folder / "cowrie.json.1")
    stopped = True
    for _ in range(3):
        following.loader.poll()
    (following.folder / "cowrie.json.1").unlink()
    stopped = False
    assert following.poll_all() == 3
    assert (following.stored(), following.lost()) == (8, 0)


def test_a_log_that_grows_while_it_is_read_gets_another_core(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little was left when the poll began, much was written since: the rest is parsed by another process, once."""
    started: list[bool] = []
    process = log_loading.batches_from_process
    monkeypatch.setattr(
        log_loading, "batches_from_process", lambda *arguments: started.append(True) or process(*arguments)
    )

    def more(_: object) -> None:
        if following.log.stat().st_size < 8000:
            following.write(20, 60)
            following.write(20, 60)

    following.loader = DeltaLoader(
        following.engine,
        following.paths,
        settings=Settings(batch_size=7),
        on_progress=more,
        sizes=ReadSizes(other_core_bytes=8000),
    )
    following.write(0, 20)
    assert following.loader.poll().counters["events"] == 100
    assert [True] == started


def test_a_renamed_log_that_may_not_be_read_any_more_is_read_by_its_descriptor(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed and made unreadable, then deleted: what was appended is read from the file that is kept open."""
    following.write(0, 5)
    following.poll_all()
    following.write(5, 8)
    renamed = following.folder / "cowrie.json.1"
    following.log.rename(renamed)
    opening = TailReader.open

    def refusing(reading: TailReader, path: Path) -> LogStream:
        if path == renamed:
            raise InputNotReadable(f"{path}: Permission denied")
        return opening(reading, path)

    monkeypatch.setattr(TailReader, "open", refusing)
    assert following.poll_all() == 0
    renamed.unlink()
    assert following.poll_all() == 3
    assert (following.stored(), following.lost()) == (8, 0)


def test_a_first_line_is_finished_in_a_file_without_a_path(following: Following) -> None:
    """A log without an object yet is deleted and begun anew: what is written to the old file is read, too."""
    with following.log.open("a") as writer:
        writer.write(LINES[0][:40])
        writer.flush()
        following.poll_all()
        following.log.unlink()
        following.log.write_text(LINES[35][:90])
        following.poll_all()
        writer.write(LINES[0][40:] + "\n")
        writer.flush()
        assert following.poll_all() == 1
    assert following.lost() == 0
