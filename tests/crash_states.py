"""What a disk may hold after a power failure: the file operations of a program, recorded, and every state they allow.

A write reaches the disk at the latest with an fsync of its file, a creation, link, rename or unlink with one of its
folder. Until then each may be there or not, in any order; only operations on the same name keep theirs.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.torture import TORTURE

Files = dict[str, bytes]
"""The content of a folder, by name."""

CALLS = (
    "openat,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,copy_file_range,sendfile,"
    "unlink,unlinkat,rename,renameat,renameat2,link,linkat,fsync,fdatasync,close"
)
MAX_SUBSETS = 256
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_DESCRIPTOR = re.compile(r"^(\d+)<(.*?)>(?:, |$)")


@dataclass(frozen=True)
class Change:
    """A change of the folder: names that appear (with their file) or disappear, at once.

    Attributes:
        names: for each name the number of its file, or None.
    """

    names: Mapping[str, int | None]


@dataclass(frozen=True)
class Write:
    """Bytes of a file; without bytes, its length."""

    file: int
    offset: int
    data: bytes | None


@dataclass(frozen=True)
class Sync:
    """An fsync of a file; of the folder if it is None."""

    file: int | None


Operation = Change | Write | Sync


@dataclass
class Recording:
    """The files before a program ran, and what it did to them.

    Attributes:
        before: the folder, all of it on the disk.
        operations: in their order.
    """

    before: Files
    operations: list[Operation] = field(default_factory=list)


def record(folder: Path, command: Sequence[str]) -> Recording:
    """Run a program and return what it does to the files of one folder, which has no folders in it.

    Raises:
        AssertionError: the program failed.
    """
    strace = shutil.which("strace")
    if strace is None:
        (pytest.fail if TORTURE else pytest.skip)("no strace: install Debian's package strace")
    recording = Recording({path.name: path.read_bytes() for path in folder.iterdir()})
    trace = folder.parent / f"{folder.name}.trace"
    options = ["-f", "-qq", "-y", "-s", "100000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    done = subprocess.run([strace, *options, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reader = _TraceReader(folder, recording)
    for line in whole_lines(trace.read_text(encoding="ascii").splitlines()):
        reader.take(line)
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = _Disk(recording)
    for operation in recording.operations:
        made.take(operation)
    assert without_shm(made.files(made.changes, made.writes)) == without_shm(left), "the recording is not complete"
    return recording


def without_shm(files: Files) -> Files:
    """Leave out shared memory, which is written without calls and never read after a crash."""
    return {name: content for name, content in files.items() if not name.endswith("-shm")}


def whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """Put the calls of processes that ran at the same time together again."""
    begun: dict[str, str] = {}
    for line in lines:
        if unfinished := _UNFINISHED.match(line):
            begun[unfinished[1]] = unfinished[2]
        elif resumed := _RESUMED.match(line):
            yield f"{resumed[1]} {begun.pop(resumed[1])}{resumed[2]}"
        else:
            yield line


class _TraceReader:
    """Turns the lines of strace into operations."""

    def __init__(self, folder: Path, recording: Recording) -> None:
        self._folder = str(folder)
        self._operations = recording.operations
        self._names: dict[str, int] = {name: number for number, name in enumerate(recording.before)}
        self._next = itertools.count(len(self._names))
        self._positions: dict[tuple[str, str], int] = {}

    def take(self, line: str) -> None:
        """Take one line; calls that failed or concern other folders are passed over."""
        found = _LINE.match(line)
        if found is None or int(found[4]) < 0:
            return
        pid, call, arguments, result = found[1], found[2], found[3], int(found[4])
        if call in ("openat", "creat"):
            self._open(pid, str(result), _strings(arguments)[0], arguments)
        elif call.startswith(("unlink", "rename", "link")):
            self._rename(call, [self._name(path) for path in _strings(arguments)])
        elif (descriptor := _DESCRIPTOR.match(arguments)) is not None:
            self._use(pid, call, descriptor, arguments[descriptor.end() :], result)

    def _name(self, path: str) -> str | None:
        """Return the name of a path in the folder; None for another folder."""
        parent, _, name = path.rpartition("/")
        return name if parent == self._folder else None

    def _open(self, pid: str, descriptor: str, path: str, arguments: str) -> None:
        name = self._name(path)
        if name is None:
            return
        if name not in self._names:
            self._names[name] = next(self._next)
            self._operations.append(Change({name: self._names[name]}))
        elif "O_TRUNC" in arguments:
            self._operations.append(Write(self._names[name], 0, None))
        self._positions[pid, descriptor] = 0

    def _rename(self, call: str, names: list[str | None]) -> None:
        if call.startswith("unlink"):
            if names[0] is not None:
                del self._names[names[0]]
                self._operations.append(Change({names[0]: None}))
            return
        old, new = names
        if old is None and new is None:
            return
        assert old is not None
        assert new is not None
        changed: dict[str, int | None] = {new: self._names[old]}
        self._names[new] = self._names[old]
        if call.startswith("rename"):
            del self._names[old]
            changed[old] = None
        self._operations.append(Change(changed))

    def _use(self, pid: str, call: str, descriptor: re.Match[str], rest: str, result: int) -> None:
        """Take a call on a descriptor."""
        path = ast.literal_eval(f'b"{descriptor[2]}"').decode("latin-1")
        if path == self._folder and call in ("fsync", "fdatasync"):
            self._operations.append(Sync(None))
        name = self._name(path)
        file = self._names.get(name) if name is not None else None
        if file is None or call == "close":
            return
        key = pid, descriptor[1]
        if call in ("fsync", "fdatasync"):
            self._operations.append(Sync(file))
        elif call == "lseek":
            self._positions[key] = result
        elif call == "ftruncate":
            self._operations.append(Write(file, int(rest), None))
        elif call in ("write", "pwrite64"):
            text = _STRING.search(rest)
            assert text is not None
            data = ast.literal_eval(f"b{text[0]}")[:result]
            at = int(rest.rsplit(", ", 1)[1]) if call == "pwrite64" else self._positions[key]
            if call == "write":
                self._positions[key] = at + result
            self._operations.append(Write(file, at, data))
        else:
            raise AssertionError(f"{call} is not understood")


def _strings(arguments: str) -> list[str]:
    return [ast.literal_eval(f"b{text}").decode("latin-1") for text in _STRING.findall(arguments)]


class _Disk:
    """A folder on a disk, and what was not yet synced."""

    def __init__(self, recording: Recording) -> None:
        self.names: dict[str, int] = {name: number for number, name in enumerate(recording.before)}
        self.contents: dict[int, bytes] = dict(enumerate(recording.before.values()))
        self.changes: list[Change] = []
        self.writes: list[Write] = []

    def take(self, operation: Operation) -> None:
        """Take an operation; what it syncs is on the disk from now on."""
        if isinstance(operation, Change):
            self.changes.append(operation)
        elif isinstance(operation, Write):
            self.writes.append(operation)
        elif operation.file is None:
            self.names = _renamed(self.names, self.changes)
            self.changes = []
        else:
            synced = [write for write in self.writes if write.file == operation.file]
            self.contents[operation.file] = _written(self.contents.get(operation.file, b""), synced)
            self.writes = [write for write in self.writes if write.file != operation.file]

    def files(self, changes: Sequence[Change], writes: Sequence[Write]) -> Files:
        """Return the folder if these of the changes and writes that were not synced reached the disk."""
        files = {}
        for name, file in _renamed(self.names, changes).items():
            files[name] = _written(self.contents.get(file, b""), [write for write in writes if write.file == file])
        return files


def _renamed(names: Mapping[str, int], changes: Iterable[Change]) -> dict[str, int]:
    result = dict(names)
    for change in changes:
        for name, file in change.names.items():
            if file is None:
                result.pop(name, None)
            else:
                result[name] = file
    return result


def _written(content: bytes, writes: Sequence[Write]) -> bytes:
    if not writes:
        return content
    result = bytearray(content)
    for write in writes:
        end = write.offset + len(write.data or b"")
        if len(result) < end:
            result.extend(bytes(end - len(result)))
        if write.data is None:
            del result[write.offset :]
        else:
            result[write.offset : end] = write.data
    return bytes(result)


def crash_states(recording: Recording, *, samples: int, seed: int = 0) -> Iterator[Files]:
    """Yield the states in which a power failure can leave the folder, each once.

    A failure just before each sync, and after the end, covers those at all other moments. Each subset of the changes of
    names is taken (up to MAX_SUBSETS at a moment) with all writes and with none of them; in between, prefixes, single
    writes that are missing, and random subsets with torn writes.

    Args:
        recording: what the program did.
        samples: how many further choices of writes to take at each moment.
        seed: of the random choices.
    """
    random_ = random.Random(seed)
    disk = _Disk(recording)
    seen: set[int] = set()
    for operation in [*recording.operations, Sync(None)]:
        if isinstance(operation, Sync):
            for files in _states(disk, random_, samples):
                key = hash(frozenset(without_shm(files).items()) | {name for name in files if name.endswith("-shm")})
                if key not in seen:
                    seen.add(key)
                    yield files
        disk.take(operation)


def kill_states(recording: Recording) -> Iterator[Files]:
    """Yield the states that a kill after each operation leaves, each once: everything before it is there."""
    disk = _Disk(recording)
    seen: set[int] = set()
    for operation in [Sync(None), *recording.operations]:
        if not isinstance(operation, Sync):
            disk.take(operation)
        files = disk.files(disk.changes, disk.writes)
        key = hash(frozenset(files.items()))
        if key not in seen:
            seen.add(key)
            yield files


def _states(disk: _Disk, random_: random.Random, samples: int) -> Iterator[Files]:
    subsets = list(_subsets(disk.changes, random_))
    for changes in subsets:
        yield disk.files(changes, disk.writes)
        yield disk.files(changes, [])
    for _ in range(samples if disk.writes else 0):
        yield disk.files(random_.choice(subsets), _some(disk.writes, random_))


def _some(writes: Sequence[Write], random_: random.Random) -> list[Write]:
    """Return a prefix, all but one, or a random subset of writes, the last one perhaps torn."""
    kind = random_.randrange(3)
    if kind == 0:
        chosen = list(writes[: random_.randrange(len(writes) + 1)])
    elif kind == 1:
        left_out = random_.randrange(len(writes))
        chosen = [write for number, write in enumerate(writes) if number != left_out]
    else:
        share = random_.random()
        chosen = [write for write in writes if random_.random() < share]
    if chosen and (data := chosen[-1].data) and random_.random() < 0.5:
        cut = random_.randrange(0, len(data), 512) if len(data) > 512 else len(data)
        chosen[-1] = Write(chosen[-1].file, chosen[-1].offset, data[:cut])
    return chosen


def _subsets(changes: Sequence[Change], random_: random.Random) -> Iterator[list[Change]]:
    """Yield the subsets in which no change is there without an earlier one of the same name; prefixes come first."""
    for length in range(len(changes) + 1):
        yield list(changes[:length])
    if 2 ** len(changes) <= MAX_SUBSETS:
        choices: Iterable[tuple[bool, ...]] = itertools.product((True, False), repeat=len(changes))
    else:
        choices = (tuple(random_.random() < 0.5 for _ in changes) for _ in range(MAX_SUBSETS))
    for choice in choices:
        yield _closed(changes, choice)


def _closed(changes: Sequence[Change], choice: Sequence[bool]) -> list[Change]:
    missing: set[str] = set()
    chosen = []
    for change, is_there in zip(changes, choice, strict=True):
        if is_there and missing.isdisjoint(change.names):
            chosen.append(change)
        else:
            missing |= change.names.keys()
    return chosen


def write_files(files: Files, folder: Path) -> None:
    """Write a state into a new folder; shared memory has zeros."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(bytes(len(content)) if name.endswith("-shm") else content)
