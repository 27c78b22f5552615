"""zip and tar archives, and logs that are compressed twice: every log in them is loaded like a file of its own."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import LogFile, RawEvent
from cowrieprocessor.errors import HoldsFiles
from cowrieprocessor.loader.bulk import BulkLoader, LoadResult
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.settings import Settings
from tests.command_line import peak_memory_bytes
from tests.documents import CASES
from tests.logs import count, events

Files = dict[str, bytes]

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


def text(lines: list[str]) -> bytes:
    """Return lines as the bytes of a log."""
    return "".join(f"{line}\n" for line in lines).encode()


def zipped(files: Files) -> bytes:
    """Return a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(files: Files, form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


ARCHIVES: dict[str, Callable[[Files], bytes]] = {
    "zip": zipped,
    "tar": tarred,
    "tar, pax": lambda files: tarred(files, tarfile.PAX_FORMAT),
    "tar, ustar": lambda files: tarred(files, tarfile.USTAR_FORMAT),
    "tar.gz": lambda files: gzip.compress(tarred(files)),
    "tar.bz2": lambda files: bz2.compress(tarred(files)),
    "tar.xz": lambda files: lzma.compress(tarred(files)),
    "tar.zst": lambda files: zstandard.compress(tarred(files)),
    "zip in gzip": lambda files: gzip.compress(zipped(files)),
    "tar compressed twice": lambda files: gzip.compress(gzip.compress(tarred(files))),
}


def load(engine: Engine, *paths: Path, batch_size: int = 50) -> LoadResult:
    """Load files."""
    return BulkLoader(engine, settings=Settings(batch_size=batch_size)).load(paths)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_every_log_in_an_archive_is_loaded_once(engine: Engine, tmp_path: Path, kind: str) -> None:
    """Plain and compressed ones, also known from elsewhere; what is not named like a log is left out."""
    days = [events(20, start=20 * number) for number in range(4)]
    long_name = "f" * 90 + "/" + ("é" * 45 if "ustar" not in kind else "g" * 60) + "/cowrie.json.2026-03-04"
    files = {
        "var/log/cowrie.json": text(days[0]),
        "../../etc/cowrie.json.1.gz": gzip.compress(text(days[1])),
        "/cowrie.json.2.xz": lzma.compress(text(days[2])),
        long_name: text(days[3]),
        "readme.txt": b"nothing\n",
        "__MACOSX/._cowrie.json": b"\0\5\x16\7",
        "suricata/eve.json": b'{"event_type": "alert", "timestamp": "x"}\n',
    }
    path = tmp_path / "logs.bin"
    path.write_bytes(ARCHIVES[kind](files))
    other = tmp_path / "cowrie.json"
    other.write_bytes(text(days[1] + days[2]))

    first = load(engine, path)
    again = load(engine, path)
    load(engine, other)

    assert count(engine, RawEvent) == 80
    names = ["var/log/cowrie.json", "etc/cowrie.json.1.gz", "cowrie.json.2.xz", long_name]
    assert [file.path for file in first.files if file.state == "loaded"] == [f"{path}!{name}" for name in names]
    assert [file.state for file in again.files] == ["known"] * 4 + ["foreign"]
    assert first.failed == again.failed == []
    with read_transaction(engine) as connection:
        inodes = set(connection.execute(select(LogFile.source_inode).where(LogFile.source.like("%!%"))).scalars())
    assert inodes == {str(path.stat().st_ino)}


@pytest.mark.parametrize("outer", PACKERS)
@pytest.mark.parametrize("inner", PACKERS)
def test_a_log_that_is_compressed_twice_is_read(engine: Engine, tmp_path: Path, outer: str, inner: str) -> None:
    """In any mixture, thrice as well, and it is the same log as the plain one."""
    lines = events(30)
    path = tmp_path / "cowrie.json.gz"
    path.write_bytes(PACKERS[outer](PACKERS[inner](text(lines))))
    thrice = tmp_path / "cowrie.json.2.gz"
    thrice.write_bytes(gzip.compress(path.read_bytes()))
    plain = tmp_path / "cowrie.json"
    plain.write_bytes(text(lines))

    results = [load(engine, one).files[0] for one in (path, path, thrice, plain)]

    assert [result.state for result in results] == ["loaded", "known", "known", "known"]
    assert count(engine, RawEvent) == 30


def test_the_case_is_loaded(engine: Engine) -> None:
    """A zip with one log."""
    load(engine, CASES / "wrapped" / "z.zip")

    assert count(engine, RawEvent) == 25


def encrypted() -> bytes:
    """Return a zip whose file is marked as encrypted, in both of its headers."""
    data = bytearray(zipped({"cowrie.json": text(events(2))}))
    data[6] |= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1
    return bytes(data)


def damaged() -> bytes:
    """Return a zip whose content does not fit its checksum."""
    data = bytearray(zipped({"cowrie.json": text(events(20))}))
    data[60] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encrypted(), "encrypted"),
        (damaged(), "damaged or incomplete zip"),
        (zipped({"cowrie.json": text(events(20))})[:-30], "damaged or incomplete zip"),
        (zipped({"a.txt": b"x"}), "no logs in this archive"),
        (tarred({"a.txt": b"x"}), "no logs in this archive"),
        (zipped({"cowrie.json.zip": zipped({"cowrie.json": b"{}"})}), "archives in archives"),
        (tarred({"cowrie.json.tar": gzip.compress(tarred({"cowrie.json": b"{}"}))}), "archives in archives"),
        (gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"{}"))))), "archives in archives"),
    ],
    ids=["encrypted", "damaged", "cut", "no log", "no log, tar", "zip in zip", "tar in tar", "five times"],
)
def test_what_cannot_be_unpacked_is_refused_with_the_reason(
    engine: Engine, tmp_path: Path, data: bytes, message: str
) -> None:
    """The message names the file and what to do, nothing is stored, and other files are loaded."""
    path, other = tmp_path / "cowrie.json.1.zip", tmp_path / "cowrie.json"
    path.write_bytes(data)
    other.write_bytes(text(events(3)))

    result = load(engine, path, other)

    (failed,) = result.failed
    assert message in str(failed.error)
    assert path.name in str(failed.error)
    assert count(engine, RawEvent) == 3


def test_a_cut_archive_gives_what_came_before(engine: Engine, tmp_path: Path) -> None:
    """Whole logs and the beginning of the one that was cut; the load fails, and the whole archive adds the rest."""
    first = events(30)
    second = [json.dumps(json.loads(line) | {"x": os.urandom(300).hex()}) for line in events(200, start=30)]
    whole = gzip.compress(tarred({"cowrie.json.1": text(first), "cowrie.json": text(second)}))
    path = tmp_path / "cowrie.json.tar.gz"
    path.write_bytes(whole[: len(whole) // 2])

    cut = load(engine, path)
    stored = count(engine, RawEvent)
    path.write_bytes(whole)
    load(engine, path)

    assert 30 < stored < 230
    assert "ends early" in str(cut.failed[0].error)
    assert count(engine, RawEvent) == 230


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: zipped({"cowrie.json": data}),
        lambda data: gzip.compress(gzip.compress(data)),
        lambda data: gzip.compress(tarred({"cowrie.json": data})),
        lambda data: zipped({"cowrie.json.gz": gzip.compress(data)}),
    ],
    ids=["zip", "twice", "tar", "gzip in zip"],
)
def test_bombs_are_refused(engine: Engine, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """The ratio of the whole counts, whatever the layers, and the disk is not filled."""
    path = tmp_path / "cowrie.json.zip"
    path.write_bytes(pack(b"\n" * (8 << 20)))

    result = BulkLoader(engine, settings=Settings(max_ratio_grace_bytes=1 << 20)).load([path])

    assert "decompression bomb" in str(result.failed[0].error)


def test_follow_reads_an_archive_when_it_is_finished(engine: Engine, tmp_path: Path) -> None:
    """Once, and again when it has changed; logs of other programs in it are named."""
    path = tmp_path / "cowrie.json.2026-03.zip"
    path.write_bytes(zipped({"cowrie.json": text(events(20)), "eve.json": b'{"event_type": "x", "timestamp": "y"}\n'}))
    timing = FollowTiming(archive_settles_s=0.0, fine_time_settles_s=0.0, coarse_time_settles_s=0.0)
    with DeltaLoader(engine, [tmp_path], timing=timing) as follower:
        first, second = follower.poll(), follower.poll()
        path.write_bytes(zipped({"cowrie.json": text(events(25))}))
        third = follower.poll()
    with DeltaLoader(engine, [tmp_path], timing=timing) as follower:
        fourth = follower.poll()

    assert [poll.counters["events"] for poll in (first, second, third, fourth)] == [20, 0, 5, 0]
    assert "eve.json" in first.files[0].warnings[0]
    assert [gap for poll in (first, second, third, fourth) for gap in poll.gaps] == []


def test_an_archive_just_written_is_deferred(engine: Engine, tmp_path: Path) -> None:
    """A zip grows while it is written, as a compressed log does."""
    (tmp_path / "cowrie.json.zip").write_bytes(zipped({"cowrie.json": text(events(20))}))
    with DeltaLoader(engine, [tmp_path], timing=FollowTiming(archive_settles_s=60.0)) as follower:
        result = follower.poll()

    assert (result.deferred, count(engine, RawEvent)) == (1, 0)


def test_a_stream_says_what_a_file_holds(tmp_path: Path) -> None:
    """Reading an archive as a log names its kind, however small the pieces are."""
    path = tmp_path / "x"
    for data, kind in ((zipped({"a": b""}), "zip"), (gzip.compress(tarred({"a": b"x"})), "tar")):
        path.write_bytes(data)
        with LogStream(path, sizes=ReadSizes(piece_bytes=7, feed_bytes=700)) as stream:
            assert stream.is_complete
            with pytest.raises(HoldsFiles) as raised:
                stream.read()
        assert raised.value.kind == kind


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A large log in a zip, in a tar and compressed twice takes no more memory than a plain one."""
    data = text([json.dumps(json.loads(line) | {"x": os.urandom(50).hex()}) for line in events(9000)]) * 10
    plain = tmp_path / "cowrie.json"
    plain.write_bytes(data)
    packed = {
        "a.zip": zipped({"cowrie.json": data}),
        "b.tar": tarred({"cowrie.json": data}),
        "c.gz": gzip.compress(gzip.compress(data, 1), 1),
    }
    paths = [tmp_path / name for name in packed]
    for path in paths:
        path.write_bytes(packed[path.name])
    for path in [plain, *paths]:
        code, peak_bytes = peak_memory_bytes("load", path, "--db", tmp_path / f"{path.name}.sqlite")
        assert (code, peak_bytes < 200 * 2**20) == (0, True)
