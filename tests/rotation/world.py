"""Everything that happens to a honeypot's files while they are followed.

Each step can follow any other: a step without anything to act on does nothing, so that steps can be dropped from a
sequence that fails. The numbers of a step choose what it acts on and how, modulo the number of choices.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import zstandard

from tests.rotation.disk import LIVE, Disk
from tests.rotation.honeypot import Honeypot, event_line

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
}


class World:
    """A honeypot, its files, and everything that rotates, packs, copies and loses them.

    Attributes:
        disk: the files.
        honeypot: the process that writes the live log.

    Args:
        folder: an empty folder.
        seed: seed of the sequence.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.disk = Disk(folder / "log", folder / "elsewhere")
        self.disk.folder.mkdir()
        self.disk.elsewhere.mkdir()
        self.honeypot = Honeypot(self.disk.live, seed)
        self._preamble = event_line(seed, 0)
        self._packing: dict[str, tuple[bytes, str | None]] = {}

    def close(self) -> None:
        """Close all files."""
        self.honeypot.close()
        self.disk.is_held = lambda _: False
        self.disk.forget_unnamed(None)

    # --- what the honeypot does ---

    def append(self, count: int, mode: int, size: int) -> None:
        """Write some whole lines."""
        self._ensure_open()
        self.honeypot.append(1 + count % 5, twice=mode % 12 == 0, size=size % 900 if mode % 5 == 0 else 0)

    def begin_line(self, cut: int, *_: int) -> None:
        """Write a part of a line."""
        self._ensure_open()
        self.honeypot.begin_line(cut)

    def finish_line(self, *_: int) -> None:
        """Write the rest of the line that was begun."""
        if self.honeypot.waiting:
            self._ensure_open()
            self.honeypot.finish()

    def crash(self, mode: int, appends: int, nuls: int) -> None:
        """The honeypot dies, perhaps in the middle of a line or in a power failure, and starts again."""
        self.honeypot.abandon()
        if self.honeypot.is_open and mode % 3 == 0:
            self.honeypot.write_nuls(1 + nuls % 40)
        self._open(appends)

    def wipe(self, appends: int, alike: int, _: int) -> None:
        """The honeypot starts again and truncates its log, as Cowrie did up to 3.0.12."""
        self.honeypot.abandon()
        if self.disk.live.exists():
            self.disk.was_destroyed = True
            self.disk.truncate(self.disk.live)
        self._open(appends, alike)

    def reopen(self, appends: int, mode: int, alike: int) -> None:
        """The honeypot reopens its live log; a line that was begun is finished before, or split across both files."""
        if mode % 2 and self.honeypot.is_open:
            self.honeypot.finish()
        self._open(appends, alike)

    # --- what rotates logs ---

    def rename(self, kind: int, mode: int, alike: int) -> None:
        """Rename the live log; the honeypot continues to write to it, or begins a new one at once.

        A line that was begun is finished before, torn, or split across both files.
        """
        if not self.disk.live.exists():
            return
        self.disk.live.rename(self.disk.rotated_name(kind))
        if mode % 4 == 0:
            return
        if mode % 4 == 1 and self.honeypot.is_open:
            self.honeypot.finish()
        elif mode % 4 == 2:
            self.honeypot.abandon()
        self._open(kind, alike)

    def copy_and_truncate(self, kind: int, loses: int, grows: int) -> None:
        """Copy the live log, then truncate it; what is written between the two is lost."""
        live = self.disk.live
        if not live.exists():
            return
        before = live.stat().st_size
        self.disk.copy(live, self.disk.rotated_name(kind))
        if loses % 4 == 0 and self._writes_to_live_log():
            self.append(loses, 1, 0)
            self.disk.was_destroyed = True
        self.disk.truncate(live)
        self._grow_again(before, grows)

    def truncate(self, grows: int, alike: int, _: int) -> None:
        """Truncate the live log without a copy."""
        live = self.disk.live
        if not live.exists():
            return
        before = live.stat().st_size
        self.disk.was_destroyed = True
        self.disk.truncate(live)
        self._begin_alike(alike)
        self._grow_again(before, grows)

    def pack(self, which: int, kind: int, mode: int) -> None:
        """Compress a file other than the live log; the archive may be finished later, and the original may stay."""
        found = [path for path in self.disk.rotated() if self.disk.origin(path).packed is None]
        if not found:
            return
        path = found[which % len(found)]
        archive = path.with_name(path.name + list(PACKERS)[kind % len(PACKERS)])
        if archive.exists():
            return
        origin, content = self.disk.origin(path), path.read_bytes()
        packed = PACKERS[archive.suffix](content)
        archive.write_bytes(packed[: len(packed) // 2])
        self.disk.note(archive, replace(origin, packed=content, is_cut=True))
        self._packing[archive.name] = packed, None if mode % 3 == 0 else path.name
        if mode % 4:
            self.finish_packing()

    def finish_packing(self, *_: int) -> None:
        """Finish the archives that are being written, and delete their originals unless these stay."""
        for name, (packed, original) in self._packing.items():
            archive = self.disk.folder / name
            if not archive.exists():
                continue  # moved or deleted meanwhile: it stays cut
            archive.write_bytes(packed)
            self.disk.note(archive, replace(self.disk.origin(archive), is_cut=False))
            if original and (path := self.disk.folder / original).exists():
                is_safe = path.read_bytes() == self.disk.origin(archive).packed and not self._is_written(path)
                was_destroyed = self.disk.was_destroyed or not is_safe
                self._remove(path)
                self.disk.was_destroyed = was_destroyed
        self._packing.clear()

    def copy(self, which: int, mode: int, _: int) -> None:
        """Copy a file, with or without its times, or create a hard link to it."""
        paths = [path for path in self.disk.paths() if not self.disk.origin(path).is_cut]
        if not paths:
            return
        path = paths[which % len(paths)]
        suffix = path.suffix if self.disk.origin(path).packed is not None else ""
        target = self.disk.free_name(f"{LIVE}.copy{suffix}")
        if mode % 5 == 0:
            target.hardlink_to(path)
        else:
            self.disk.copy(path, target, keeps_times=mode % 2 == 0)

    def back_up_part(self, which: int, start: int, count: int) -> None:
        """Save some complete lines of a log, but not the first, to a file of their own, plain or packed."""
        found = [path for path in self.disk.paths() if self.disk.origin(path).packed is None]
        if not found:
            return
        path = found[which % len(found)]
        lines = path.read_bytes().split(b"\n")[:-1]
        whole = [line for line in lines if line.decode(errors="replace") in self.honeypot.written]
        first = 1 + start % max(1, len(whole))
        content = b"".join(line + b"\n" for line in whole[first : first + 1 + count % 8])
        if not content:
            return
        origin, is_packed = replace(self.disk.origin(path), is_part=True), count % 3 == 0
        target = self.disk.free_name(f"{LIVE}.part" + (".gz" if is_packed else ""))
        target.write_bytes(gzip.compress(content) if is_packed else content)
        self.disk.note(target, replace(origin, packed=content) if is_packed else origin)

    # --- what loses logs ---

    def delete(self, which: int, *_: int) -> None:
        """Delete a file; the honeypot may continue to write to it."""
        if paths := self.disk.paths():
            self._remove(paths[which % len(paths)])

    def recreate(self, appends: int, mode: int, alike: int) -> None:
        """Delete the live log and begin a new one under its name, perhaps with the same inode number."""
        if not self.disk.live.exists():
            return
        if mode % 2 and self.honeypot.is_open:
            self.honeypot.finish()
        else:
            self.honeypot.abandon()
        self.honeypot.close()
        self._remove(self.disk.live)
        self._open(appends, alike)

    def move_away(self, which: int, *_: int) -> None:
        """Move a file out of sight; the honeypot may continue to write to it."""
        if paths := self.disk.paths():
            self.disk.move_away(paths[which % len(paths)])

    def bring_back(self, which: int, *_: int) -> None:
        """Bring a file back that was moved out of sight."""
        self.disk.bring_back(which)

    def touch(self, which: int, mode: int, _: int) -> None:
        """Change only a file's times: to now, to what they are, or to long ago."""
        if paths := self.disk.paths():
            path = paths[which % len(paths)]
            status = path.stat()
            times = (None, (status.st_atime_ns, status.st_mtime_ns), (15 * 10**17, 15 * 10**17))[mode % 3]
            os.utime(path) if times is None else os.utime(path, ns=times)

    # --- implementation ---

    def _ensure_open(self) -> None:
        if not self.honeypot.is_open:
            self._open(0)

    def _open(self, appends: int, alike: int = 1) -> None:
        """Let the honeypot open its live log: to append, or to write at its own offset even after a truncation."""
        is_new = not self.disk.live.exists()
        self.honeypot.open(appends=appends % 2 == 0)
        self.disk.forget_unnamed(self.honeypot.inode)
        if is_new:
            self.disk.note_new_log(self.disk.live)
        self._begin_alike(alike)

    def _writes_to_live_log(self) -> bool:
        live = self.disk.live
        return live.exists() and live.stat().st_ino == self.honeypot.inode

    def _begin_alike(self, alike: int) -> None:
        """Perhaps begin a log with the same event as other logs."""
        if alike % 3 == 0 and self._writes_to_live_log() and not self.disk.live.stat().st_size:
            self.honeypot.append(1, line=self._preamble)

    def _grow_again(self, before: int, grows: int) -> None:
        """Perhaps let a truncated log grow at once: to less than before, to the same size, or to more."""
        if not self._writes_to_live_log() or grows % 4 == 0:
            return
        rest = len(self.honeypot.waiting)
        missing = before - self.disk.live.stat().st_size - rest - 1
        if grows % 4 == 1:
            self.append(0, 1, 0)
        elif grows % 4 == 2 and missing > 0:
            self.honeypot.append(1, size=missing)
        else:
            self.append(before // 100, 1, 0)
            while self.disk.live.stat().st_size <= before:
                self.append(4, 1, 0)

    def _remove(self, path: Path) -> None:
        self.disk.remove(path, is_written=self._is_written(path))

    def _is_written(self, path: Path) -> bool:
        return path.stat().st_ino == self.honeypot.inode
