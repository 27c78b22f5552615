"""Logs as decompressed bytes: detected by content, whole or cut, never a bomb, never a FIFO."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowrieprocessor.errors import (
    ArchiveCut,
    ArchiveDamaged,
    CompressedDataError,
    InputError,
    InputNotFound,
    InputNotReadable,
    UnsupportedEncoding,
)
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.reading.read_sizes import READ_SIZE

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def log(count: int, seed: int = 1) -> bytes:
    """Return a log with a number of lines."""
    draw = random.Random(seed)
    return b"".join(
        json.dumps({"eventid": "cowrie.command.input", "session": f"{draw.getrandbits(48):012x}", "n": n}).encode()
        + b"\n"
        for n in range(count)
    )


LOG = log(3000)


@pytest.fixture(params=["isal", "zlib"])
def gzip_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Gzip with the fast library, and without it."""
    if request.param == "isal":
        pytest.importorskip("isal", reason="isal has no wheel for this machine")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    return str(request.param)


@pytest.fixture(params=list(PACK))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of compression."""
    return str(request.param)


def unpack(path: Path, content: bytes, **options: float) -> tuple[bytes, InputError | None]:
    """Write a file, read it, and return the decompressed bytes and the error that ends them."""
    path.write_bytes(content)
    found: list[bytes] = []
    with LogStream(path, **options) as stream:  # type: ignore[arg-type]
        try:
            while piece := stream.read():
                assert len(piece) <= READ_SIZE
                found.append(piece)
        except InputError as error:
            return b"".join(found), error
    return b"".join(found), None


def drain(stream: LogStream) -> int:
    """Read a log to its end and return the number of bytes."""
    size = 0
    while piece := stream.read():
        size += len(piece)
    return size


# --- whole files ---


@pytest.mark.parametrize("content", [b"", b"\n", b"{", LOG, b"\x1f", b"\x28\xb5\x2f", b"BZ", b"\x00" * 100])
def test_plain_file_is_read_as_it_is(tmp_path: Path, content: bytes) -> None:
    """A file that is not compressed is read as it is, whatever its name."""
    assert unpack(tmp_path / "cowrie.json.gz", content) == (content, None)


def test_archive_is_detected_by_content(tmp_path: Path, kind: str) -> None:
    """An archive is unpacked whatever its name."""
    path = tmp_path / "cowrie.json"
    path.write_bytes(PACK[kind](LOG))

    with LogStream(path) as stream:
        assert (stream.kind, stream.is_complete) == (kind, True)
    assert unpack(path, PACK[kind](LOG)) == (LOG, None)


def test_plain_file_may_grow(tmp_path: Path) -> None:
    """A plain log may grow: bytes appended while it is open are read."""
    path = tmp_path / "cowrie.json"
    path.write_bytes(b"one\n")
    with LogStream(path) as stream:
        assert (stream.kind, stream.is_complete, stream.read(), stream.read()) == (None, False, b"one\n", b"")
        with path.open("ab") as more:
            more.write(b"two\n")
        assert (stream.read(), stream.position) == (b"two\n", 8)


@pytest.mark.usefixtures("gzip_library")
def test_several_archives_in_a_row_are_one_log(tmp_path: Path, kind: str) -> None:
    """Concatenated archives give their concatenated contents, empty ones included."""
    pack = PACK[kind]
    content = pack(LOG[:1000]) + pack(b"") + pack(LOG[1000:1001]) + pack(LOG[1001:])

    assert unpack(tmp_path / "x", content) == (LOG, None)


@pytest.mark.usefixtures("gzip_library")
def test_empty_archive_is_an_empty_log(tmp_path: Path, kind: str) -> None:
    """An archive of nothing gives nothing."""
    assert unpack(tmp_path / "x", PACK[kind](b"")) == (b"", None)


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize("padding", [1, 3, 512, 65_536, 300_000])
def test_archive_may_be_padded_with_nuls(tmp_path: Path, kind: str, padding: int) -> None:
    """NULs after an archive and between archives are skipped, however many."""
    packed = PACK[kind](LOG)

    assert unpack(tmp_path / "x", packed + bytes(padding)) == (LOG, None)
    assert unpack(tmp_path / "x", packed + bytes(padding) + packed) == (LOG * 2, None)


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize("missing", range(12))
def test_archive_may_end_at_any_edge_of_a_read(tmp_path: Path, missing: int) -> None:
    """A second archive is found even if the first read ends within its magic bytes."""
    first = gzip.compress(b"one\n")
    extra = 65_536 - missing - len(first) - 2
    padded = first[:3] + b"\x04" + first[4:10] + struct.pack("<H", extra) + bytes(extra) + first[10:]
    assert (len(padded), gzip.decompress(padded)) == (65_536 - missing, b"one\n")

    assert unpack(tmp_path / "x", padded + gzip.compress(b"two\n")) == (b"one\ntwo\n", None)


def skippable(number: int, content: bytes) -> bytes:
    """Return a skippable Zstandard frame, as in pzstd and seekable archives."""
    return bytes([0x50 + number]) + b"\x2a\x4d\x18" + struct.pack("<I", len(content)) + content


def test_skippable_frames_are_skipped(tmp_path: Path) -> None:
    """Skippable frames before, between and after other frames are skipped."""
    frame = PACK["zstd"](LOG)

    for number in range(16):
        content = (
            skippable(number, b"size") + frame + skippable(number, bytes(200_000)) + frame + skippable(number, b"")
        )
        assert unpack(tmp_path / "x", content) == (LOG * 2, None)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=5000).map(lambda part: part * 40), max_size=4))
def test_round_trip(tmp_path: Path, kind: str, parts: list[bytes]) -> None:
    """Whatever was packed, in one archive or several, is read back unchanged."""
    content = b"".join(PACK[kind](part) for part in [b"{", *parts])

    assert unpack(tmp_path / "x", content, max_ratio=1e9) == (b"{" + b"".join(parts), None)


# --- cut short, damaged, followed by something ---


@pytest.mark.usefixtures("gzip_library")
def test_archive_cut_anywhere_gives_the_data_before(tmp_path: Path, kind: str) -> None:
    """A cut archive gives all that can be unpacked, then an error that says so."""
    packed = PACK[kind](LOG)
    sizes = []
    for end in [*range(6, 60, 9), *range(60, len(packed), len(packed) // 40), len(packed) - 1]:
        found, error = unpack(tmp_path / "x", packed[:end])

        assert LOG.startswith(found)
        assert type(error) is ArchiveCut
        assert "ends early" in str(error)
        assert f"byte {end} of {end}" in str(error)
        sizes.append(len(found))

    assert sizes == sorted(sizes)


@pytest.mark.usefixtures("gzip_library")
def test_cut_gzip_loses_no_more_than_a_few_bytes(tmp_path: Path) -> None:
    """A cut gzip archive gives all its data except the last few bytes."""
    packed = gzip.compress(LOG)
    for end in range(100, len(packed), len(packed) // 60):
        whole = zlib.decompressobj(31).decompress(packed[:end])
        found, _ = unpack(tmp_path / "x", packed[:end])

        assert whole[: len(found)] == found
        assert len(whole) - len(found) <= 8


def test_cut_archive_after_a_whole_one(tmp_path: Path, kind: str) -> None:
    """Of several archives, the last of which was cut, the whole ones are read."""
    packed = PACK[kind](LOG)
    found, error = unpack(tmp_path / "x", packed + packed[:30])

    assert found.startswith(LOG)
    assert "ends early" in str(error)


@pytest.mark.usefixtures("gzip_library")
def test_damaged_archive_gives_the_data_before(tmp_path: Path, kind: str) -> None:
    """An archive with a hole gives the data well before the hole, then its own kind of error."""
    parts = [log(400, seed) for seed in range(20)]
    packed = [PACK[kind](part) for part in parts]
    for hole in (5, 12, 19):
        damaged = bytearray(packed[hole])
        middle = len(damaged) // 2
        damaged[middle : middle + 24] = bytes(24)
        found, error = unpack(tmp_path / "x", b"".join([*packed[:hole], bytes(damaged), *packed[hole + 1 :]]))

        assert found.startswith(b"".join(parts[:hole]))
        assert len(found) < len(b"".join(parts[: hole + 1])) + READ_SIZE
        assert type(error) is ArchiveDamaged
        assert f"damaged {kind} archive" in str(error)


def test_flipped_bit_is_noticed(tmp_path: Path, kind: str) -> None:
    """An archive with a flipped bit gives its original data, or ends in an error."""
    packed = PACK[kind](LOG)
    draw = random.Random(7)
    for _ in range(25):
        at = draw.randrange(30, len(packed) - 30)
        damaged = packed[:at] + bytes([packed[at] ^ 1 << draw.randrange(8)]) + packed[at + 1 :]
        found, error = unpack(tmp_path / "x", damaged)

        assert found == LOG if error is None else isinstance(error, CompressedDataError)


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize("garbage", [b"x", b"garbage", b"\0\0garbage", b"{}\n" * 50_000])
def test_garbage_after_an_archive_is_an_error(tmp_path: Path, kind: str, garbage: bytes) -> None:
    """Garbage after an archive does not affect the archive, but is an error."""
    found, error = unpack(tmp_path / "x", PACK[kind](LOG) + garbage)

    assert found == LOG
    assert "not compressed" in str(error)


def test_archive_of_another_kind_after_one_is_garbage(tmp_path: Path) -> None:
    """An archive after one of another kind is not part of the log."""
    found, error = unpack(tmp_path / "x", gzip.compress(LOG) + bz2.compress(LOG))

    assert found == LOG
    assert "not compressed" in str(error)


def test_error_is_repeated(tmp_path: Path, kind: str) -> None:
    """Reading after an error raises it again, and never returns data after the damage."""
    path = tmp_path / "x"
    path.write_bytes(PACK[kind](LOG)[:-9])
    with LogStream(path) as stream:
        for _ in range(3):
            with pytest.raises(CompressedDataError):
                drain(stream)


def test_error_names_the_file_inertly(tmp_path: Path) -> None:
    """Control characters in a file name do not reach the terminal through an error."""
    _, error = unpack(tmp_path / "x\x1b[31m\n.gz", gzip.compress(LOG)[:-9])

    assert r"x\x1b[31m\x0a.gz: gzip archive" in str(error)


def test_check_distinguishes_damage_from_an_early_end(tmp_path: Path, kind: str) -> None:
    """Checking the whole archive refuses a damaged one, and accepts one that is whole or cut."""
    packed = PACK[kind](LOG)
    damaged = bytearray(packed)
    damaged[len(packed) // 2 : len(packed) // 2 + 24] = bytes(24)
    path = tmp_path / "x"
    for content in (packed, packed[:-9], packed + b"garbage"):
        path.write_bytes(content)
        with LogStream(path) as stream:
            assert stream.read_exactly(100) == LOG[:100]
            stream.check()
            assert stream.position == 100
            assert stream.read_exactly(len(LOG) // 2) == LOG[100 : 100 + len(LOG) // 2]

    path.write_bytes(bytes(damaged))
    with LogStream(path) as stream, pytest.raises(ArchiveDamaged):
        stream.check()


def test_an_archive_is_checked_once(tmp_path: Path, kind: str) -> None:
    """A second check of the same open archive reads nothing, as it may be gigabytes long."""
    (tmp_path / "x").write_bytes(PACK[kind](LOG))
    with LogStream(tmp_path / "x") as stream:
        stream.check()
        stream.stop = lambda: True
        stream.check()
        assert stream.position == 0


# --- bombs ---


@cache
def bomb(kind: str, size: int) -> bytes:
    """Return an archive of a number of identical bytes."""
    packer = {
        "gzip": lambda: zlib.compressobj(9, zlib.DEFLATED, 31),
        "bzip2": bz2.BZ2Compressor,
        "xz": lambda: lzma.LZMACompressor(preset=0),
        "zstd": lambda: zstandard.ZstdCompressor().compressobj(),
    }[kind]()
    piece = b'{"eventid":"x"}\n' * (1 << 16)
    return b"".join([*(packer.compress(piece) for _ in range(size // len(piece))), packer.flush()])


@pytest.mark.usefixtures("gzip_library")
def test_bomb_is_stopped(tmp_path: Path, kind: str) -> None:
    """An archive that expands beyond the allowed ratio is stopped soon after the grace, in pieces of bounded size."""
    grace = 3 << 20
    found, error = unpack(tmp_path / "x", bomb(kind, 16 << 20), max_ratio=20, grace_bytes=grace)

    assert "decompression bomb" in str(error)
    assert "COWRIEPROC_MAX_RATIO" in str(error)
    assert len(found) <= grace + READ_SIZE
    assert len(found) >= grace - READ_SIZE or kind == "zstd"  # of which a little input gives much at once


def test_bomb_stays_stopped(tmp_path: Path, kind: str) -> None:
    """A stopped bomb gives nothing more, however often it is read."""
    path = tmp_path / "x"
    path.write_bytes(bomb(kind, 16 << 20))
    with LogStream(path, max_ratio=20, grace_bytes=1 << 20) as stream:
        for _ in range(3):
            with pytest.raises(CompressedDataError, match="bomb"):
                drain(stream)


def test_small_archive_of_any_ratio_is_no_bomb(tmp_path: Path, kind: str) -> None:
    """Below the grace any ratio is allowed: a log of identical lines is a log."""
    found, error = unpack(tmp_path / "x", bomb(kind, 4 << 20), max_ratio=2, grace_bytes=8 << 20)

    assert (len(found), error) == (4 << 20, None)


def test_real_ratio_is_no_bomb(tmp_path: Path, kind: str) -> None:
    """A log with the ratio of real logs is not a bomb at any size."""
    found, error = unpack(tmp_path / "x", PACK[kind](LOG), max_ratio=50, grace_bytes=0)

    assert (found, error) == (LOG, None)


def test_zstd_window_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """A Zstandard archive whose window is larger than 64 MiB is refused with a remedy, before it takes the memory."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    found, error = unpack(tmp_path / "x", packer.compress(LOG) + packer.flush())

    assert found == b""
    assert "takes more memory" in str(error)
    assert "unpack it yourself" in str(error)


def test_xz_dictionary_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """An xz archive whose dictionary is larger than we allow is refused with a remedy, before it takes the memory."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 128 << 20}]
    packed = bytearray(lzma.compress(LOG, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    assert unpack(tmp_path / "x", bytes(packed)) == (LOG, None)

    found, error = unpack(tmp_path / "x", lzma.compress(LOG, filters=filters))

    assert found == b""
    assert "takes more memory" in str(error)


def test_strongest_usual_packing_is_read(tmp_path: Path) -> None:
    """Archives made by `xz -9e` and `zstd -19` are read."""
    assert unpack(tmp_path / "x", lzma.compress(LOG, preset=9 | lzma.PRESET_EXTREME)) == (LOG, None)
    assert unpack(tmp_path / "x", zstandard.ZstdCompressor(level=19).compress(LOG)) == (LOG, None)


# --- what is not read at all ---


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf16_is_refused_with_the_remedy(tmp_path: Path, encoding: str) -> None:
    """UTF-16 text with a byte-order mark is refused before anything is read, with the command that converts it."""
    path = tmp_path / "x"
    path.write_bytes("\ufeff{}\n".encode(encoding))
    with pytest.raises(UnsupportedEncoding, match="iconv -f UTF-16 -t UTF-8"):
        LogStream(path)


def test_packed_utf16_is_refused(tmp_path: Path, kind: str) -> None:
    """UTF-16 text in an archive is refused, too."""
    found, error = unpack(tmp_path / "x", PACK[kind]("\ufeff{}\n".encode("utf-16-le")))

    assert found == b""
    assert isinstance(error, UnsupportedEncoding)


def make_fifo(path: Path) -> None:
    """Make a FIFO that nobody writes to."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [(make_fifo, "a FIFO"), (make_socket, "a socket"), (Path.mkdir, "a folder")],
)
def test_irregular_files_are_refused(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    """A FIFO, a socket or a folder is refused at once with its type; nothing can block the load."""
    path = tmp_path / "x"
    make(path)
    with pytest.raises(InputNotReadable, match=f"x is {what}: only regular files are loaded"):
        LogStream(path)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_device_is_refused(device: str) -> None:
    """A device is refused, even an endless one."""
    with pytest.raises(InputNotReadable, match=f"{device} is a device"):
        LogStream(Path(device))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file, or one below a file, is an error with its name."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("missing", "missing/too", "file/x", "dangling"):
        with pytest.raises(InputNotFound, match=f"{name}: no such file"):
            LogStream(tmp_path / name)


def test_loop_of_links_is_refused_without_a_wrong_remedy(tmp_path: Path) -> None:
    """A link to itself is refused, without a remedy about permissions."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputNotReadable, match=r"Too many levels of symbolic links$"):
        LogStream(tmp_path / "loop")


def test_link_to_a_log_is_followed(tmp_path: Path) -> None:
    """A link to a log is read like the log."""
    (tmp_path / "log").write_bytes(LOG)
    (tmp_path / "link").symlink_to("log")
    with LogStream(tmp_path / "link") as stream:
        assert stream.read_exactly(len(LOG)) == LOG


AS_NOBODY = """
import os, sys
from pathlib import Path
from cowrieprocessor.errors import InputNotReadable
from cowrieprocessor.loader.reading.log_stream import LogStream
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    LogStream(Path(sys.argv[1]))
except InputNotReadable as error:
    print(error)
"""


@pytest.mark.parametrize("closed", ["log", "folder"])
def test_permissions_are_named_with_the_remedy(closed: str) -> None:
    """A file or folder without permission is refused, with the remedy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(LOG)
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", AS_NOBODY, path]
        before = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (path if closed == "log" else path.parent).chmod(0)
        after = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        Path(folder).chmod(0o755)

    assert before == ""
    assert after == f"{path}: Permission denied; give the user who loads it the right to read it\n"


CLOSED_AFTERWARDS = """
import os, sys
from pathlib import Path
from cowrieprocessor.loader.reading import log_stream
from cowrieprocessor.loader.reading.log_stream import LogStream
log_stream.new_member("gzip"), log_stream.member_errors()  # who is nobody may not import
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
stream = LogStream(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
stream.check()
print(sum(iter(lambda: len(stream.read()), 0)))
stream.rewind()
print(stream.skip(1000))
again = LogStream(Path(sys.argv[1]), descriptor=os.dup(stream.descriptor))
print(sum(iter(lambda: len(again.read()), 0)), len(stream.read()) > 0)
"""


def test_a_log_that_is_open_needs_no_permission_again() -> None:
    """If the permission is removed, as by logrotate's `create`, an open log is still checked and read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(gzip.compress(LOG))
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", CLOSED_AFTERWARDS, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "open\n"
            path.chmod(0)
            out, _ = reader.communicate("\n")

    assert (out, reader.returncode) == (f"{len(LOG)}\n1000\n{len(LOG)} True\n", 0)


# --- what fails under way ---


def failing(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Let a system call fail for one file, as on a network share after another machine deleted it."""
    called = getattr(os, name)

    def fail(descriptor: int, *rest: object) -> object:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == path:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return called(descriptor, *rest)

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(
    ("call", "step"),
    [
        ("pread", LogStream.read),
        ("pread", lambda stream: drain(stream) and stream.read()),
        ("pread", LogStream.rewind),
        ("pread", LogStream.content_digest),
        ("fstat", lambda stream: stream.skip(10)),
        ("dup", LogStream.check),
    ],
)
def test_a_disk_or_share_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, step: Callable[[LogStream], object]
) -> None:
    """Whichever call fails on an open log, the error has its name and the remedy."""
    path = tmp_path / "x\x1b"
    path.write_bytes(LOG * 2)
    with LogStream(path) as stream:
        stream.read()
        failing(monkeypatch, call, path)
        with pytest.raises(InputNotReadable) as raised:
            step(stream)
        assert str(raised.value).startswith(rf"{tmp_path}/x\x1b: Stale file handle at byte ")
        assert str(raised.value).endswith("; check the disk or the network share it is on")


@pytest.mark.parametrize("call", ["fstat", "pread"])
def test_a_share_that_fails_at_once_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A log that cannot be read right after opening is named, and its descriptor closed."""
    path = tmp_path / "x"
    path.write_bytes(LOG)
    failing(monkeypatch, call, path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for descriptor in (None, lambda: os.open(path, os.O_RDONLY)):
        with pytest.raises(InputNotReadable, match="x: Stale file handle"):
            LogStream(path, descriptor=descriptor and descriptor())

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_share_that_fails_while_it_is_closed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything was read, so that an error of `close` does not matter."""
    (tmp_path / "x").write_bytes(LOG)
    stream = LogStream(tmp_path / "x")
    descriptor = stream.descriptor
    with monkeypatch.context() as patch:
        failing(patch, "close", tmp_path / "x")
        stream.close()
    assert stream.descriptor == -1
    os.close(descriptor)


# --- being asked to stop ---


@pytest.mark.parametrize("name", ["plain", *PACK])
@pytest.mark.parametrize("step", [LogStream.read, lambda stream: drain(stream), LogStream.content_digest])
def test_reading_stops_on_request(tmp_path: Path, name: str, step: Callable[[LogStream], object]) -> None:
    """Every method that reads checks `stop` before each piece; afterwards reading can continue."""
    path = tmp_path / "x"
    path.write_bytes(PACK[name](LOG) if name in PACK else LOG)
    with LogStream(path) as stream:
        stream.stop = lambda: True
        with pytest.raises(ReadingStopped):
            step(stream)
        stream.stop = lambda: False
        stream.rewind()
        assert stream.read_exactly(len(LOG) + 1) == LOG


def test_a_long_skip_and_a_long_check_stop_on_request(tmp_path: Path, kind: str) -> None:
    """Reading an archive before there is anything to store can be stopped."""
    content = LOG * (4 * READ_SIZE // len(LOG) + 1)
    (tmp_path / "x").write_bytes(PACK[kind](content))
    for step in (lambda stream: stream.skip(len(content)), LogStream.check):
        asked = []
        with LogStream(tmp_path / "x") as stream:

            def stop() -> bool:
                asked.append(stream.position)  # noqa: B023 - called at once
                return len(asked) > 2  # noqa: B023 - called at once

            stream.stop = stop
            with pytest.raises(ReadingStopped):
                step(stream)
            assert len(asked) == 3
            stream.stop = lambda: False
            stream.rewind()
            stream.check()
            assert stream.skip(len(content) + 1) == len(content)


# --- positions ---


@pytest.mark.parametrize("name", ["plain", *PACK])
def test_position_counts_the_bytes_returned(tmp_path: Path, name: str) -> None:
    """The position is the number of bytes returned; the position in the file ends at its size."""
    path = tmp_path / "x"
    path.write_bytes(PACK[name](LOG) if name in PACK else LOG)
    with LogStream(path) as stream:
        assert (stream.position, stream.size) == (0, path.stat().st_size)
        assert stream.inode == str(path.stat().st_ino)
        given_out = 0
        while piece := stream.read():
            given_out += len(piece)
            assert stream.position == given_out
        assert (given_out, stream.file_position) == (len(LOG), stream.size)


@pytest.mark.parametrize("name", ["plain", *PACK])
@pytest.mark.parametrize("start", [0, 1, 65_535, 65_536, 65_537, len(LOG) - 1, len(LOG)])
def test_skip_goes_ahead(tmp_path: Path, name: str, start: int) -> None:
    """After a skip, reading continues there, wherever it started."""
    path = tmp_path / "x"
    path.write_bytes(PACK[name](LOG) if name in PACK else LOG)
    for first in (0, min(start, 10)):
        with LogStream(path) as stream:
            assert stream.read_exactly(first) == LOG[:first]
            assert stream.skip(start - first) == start - first
            assert stream.position == start
            assert stream.read_exactly(300) == LOG[start : start + 300]
            assert stream.position == min(start + 300, len(LOG))


@pytest.mark.parametrize("name", ["plain", *PACK])
def test_skip_ends_at_the_end(tmp_path: Path, name: str) -> None:
    """A skip beyond the end returns the number of bytes skipped."""
    path = tmp_path / "x"
    path.write_bytes(PACK[name](LOG) if name in PACK else LOG)
    with LogStream(path) as stream:
        assert stream.skip(len(LOG) + 1000) == len(LOG)
        assert (stream.read(), stream.position) == (b"", len(LOG))
        assert stream.skip(1) == 0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(["read", "skip", "exactly"]), st.integers(0, 100_000)), max_size=8))
@pytest.mark.parametrize("name", ["plain", *PACK])
def test_steps_of_any_kind_give_the_bytes_in_order(tmp_path: Path, name: str, steps: list[tuple[str, int]]) -> None:
    """Reads, skips and exact reads in any order return the bytes at the reported position."""
    path = tmp_path / "x"
    path.write_bytes(PACK[name](LOG) if name in PACK else LOG)
    with LogStream(path) as stream:
        for step, count in steps:
            at = stream.position
            if step == "skip":
                assert stream.skip(count) == stream.position - at == min(count, len(LOG) - at)
            elif step == "exactly":
                assert stream.read_exactly(count) == LOG[at : at + count]
                assert stream.position == min(at + count, len(LOG))
            else:
                piece = stream.read()
                assert piece == LOG[at : at + len(piece)]
                assert bool(piece) == (at < len(LOG))
                assert stream.position == at + len(piece)


def test_streams_do_not_share_a_file_offset(tmp_path: Path, kind: str) -> None:
    """Streams on one descriptor, or on duplicates of it, have their own positions."""
    (tmp_path / "packed").write_bytes(PACK[kind](LOG))
    (tmp_path / "plain").write_bytes(LOG)
    for name in ("packed", "plain"):
        with LogStream(tmp_path / name) as one, LogStream(one.path, descriptor=os.dup(one.descriptor)) as other:
            at_one = one.read_exactly(70_000)
            os.lseek(one.descriptor, 5, os.SEEK_SET)
            at_other = other.read_exactly(100)
            assert (at_one, at_other) == (LOG[:70_000], LOG[:100])
            assert one.read_exactly(len(LOG)) == LOG[70_000:]
            assert other.read_exactly(len(LOG)) == LOG[100:]
            assert os.lseek(one.descriptor, 0, os.SEEK_CUR) == 5


def test_rewind_starts_over(tmp_path: Path, kind: str) -> None:
    """After a rewind the log is read from its start, even if its name now refers to another file."""
    path = tmp_path / "x"
    path.write_bytes(PACK[kind](LOG))
    with LogStream(path) as stream:
        assert stream.skip(1000) == 1000
        path.unlink()
        stream.rewind()
        assert (stream.position, stream.read_exactly(len(LOG))) == (0, LOG)


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    """A log can be closed twice, and its descriptor is released."""
    (tmp_path / "x").write_bytes(LOG)
    with LogStream(tmp_path / "x") as stream:
        descriptor = stream.descriptor
        stream.close()
    stream.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_refused_file_is_not_left_open(tmp_path: Path) -> None:
    """A file that is refused for its encoding or its type leaves no descriptor open."""
    (tmp_path / "x").write_bytes("\ufeff{}".encode("utf-16-le"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path / "x", tmp_path):
        with pytest.raises(InputError):
            LogStream(path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
