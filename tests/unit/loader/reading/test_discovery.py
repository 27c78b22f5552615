"""Discovery of logs, and the order in which they were written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.errors import InputNotFound, InputNotReadable
from cowrieprocessor.loader.reading import discovery
from cowrieprocessor.loader.reading.discovery import FollowedLogs, find_logs
from cowrieprocessor.loader.reading.log_names import is_log_name


def put(folder: Path, *names: str) -> None:
    """Make files in a folder, with their sub-folders."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")


def found_in(folder: Path) -> list[str]:
    """Return the logs found in a folder, relative to it."""
    return [str(path.relative_to(folder)) for path in find_logs([folder])]


# --- names ---


@pytest.mark.parametrize(
    "name",
    [
        "cowrie.json",
        "cowrie.JSON",
        "cowrie.json.2026-11-21",
        "cowrie.json-20261121.gz",
        "cowrie.json.1",
        "cowrie.json.12.bz2",
        "cowrie.json_old",
        "sensor-1.jsonl",
        "events.ndjson.zst",
        "cowrie-2026-11-21.json.xz",
        "a.b.json",
    ],
)
def test_names_of_logs(name: str) -> None:
    """Cowrie's JSON logs, rotated by date or number and compressed or not, are recognized by name."""
    assert is_log_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "cowrie.log",
        "cowrie.log.2026-11-21",
        "cowrie.json~",
        ".cowrie.json.swp",
        ".hidden.json",
        "json",
        "cowrie.jsonx",
        "cowriejson",
        "cowrie.sqlite",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "",
    ],
)
def test_names_of_other_files(name: str) -> None:
    """Text logs, editors' copies, hidden files and captured files are not logs."""
    assert not is_log_name(name)


# --- order ---

ROTATIONS = {
    "by date": ["cowrie.json.2025-12-31", "cowrie.json.2026-01-09", "cowrie.json.2026-01-10.gz", "cowrie.json"],
    "by short date": ["cowrie.json-20251231.gz", "cowrie.json-20260109.gz", "cowrie.json-20260110", "cowrie.json"],
    "by hour": ["cowrie.json.2026-01-09_09", "cowrie.json.2026-01-09_10", "cowrie.json.2026-01-10_00", "cowrie.json"],
    "by number": ["cowrie.json.10.gz", "cowrie.json.9.gz", "cowrie.json.2.gz", "cowrie.json.1", "cowrie.json"],
    "by date, then number": ["cowrie.json.2026-01-09", "cowrie.json.2.gz", "cowrie.json.1", "cowrie.json"],
    "date inside": ["cowrie-2025-12-31.json", "cowrie-2026-01-09.json.gz", "cowrie-2026-01-10.json"],
    "compressed by turns": ["c.json.4.zst", "c.json.3.xz", "c.json.2.bz2", "c.json.1.zstd", "c.json"],
    "two logs": ["a.json.2", "a.json.1", "a.json", "b.jsonl.2026-01-01", "b.jsonl"],
    "folders": ["one/cowrie.json.1", "one/cowrie.json", "two/cowrie.json.2026-01-01", "two/cowrie.json"],
    "folder and sub-folder": ["cowrie.json.1", "cowrie.json", "old/cowrie.json.2025-01-01"],
}


@pytest.mark.parametrize("kind", ROTATIONS)
def test_rotated_logs_come_before_the_log_that_continues_them(tmp_path: Path, kind: str) -> None:
    """However logs are rotated, the oldest comes first and the live one last, whatever the order in the folder."""
    names = list(ROTATIONS[kind])
    for seed in range(3):
        folder = tmp_path / str(seed)
        put(folder, *random.Random(seed).sample(names, len(names)))

        assert found_in(folder) == names


def test_arguments_keep_their_order(tmp_path: Path) -> None:
    """Files come in the order of the arguments, a folder's logs in its place."""
    put(tmp_path, "z.json", "folder/b.json", "folder/a.json", "a.json")

    found = find_logs([tmp_path / "z.json", tmp_path / "folder", tmp_path / "a.json"])

    assert [str(path.relative_to(tmp_path)) for path in found] == ["z.json", "folder/a.json", "folder/b.json", "a.json"]


def test_a_file_given_twice_is_found_once(tmp_path: Path) -> None:
    """A file that is given twice, or with its folder, is loaded once, at its first place."""
    put(tmp_path, "a.json", "b.json")

    found = list(find_logs([tmp_path / "b.json", tmp_path, tmp_path / "." / "b.json", tmp_path]))

    assert found == [tmp_path / "b.json", tmp_path / "a.json"]


# --- files and folders ---


def test_a_given_file_is_a_log_whatever_its_name(tmp_path: Path) -> None:
    """A file that is given itself is a log, even if it is hidden, has no suffix, or is not a regular file."""
    put(tmp_path, ".hidden", "cowrie.log", "no-ending")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    paths = [tmp_path / name for name in (".hidden", "cowrie.log", "no-ending", "fifo", "dangling")]

    assert list(find_logs(paths)) == paths


def test_other_files_of_a_folder_are_ignored(tmp_path: Path) -> None:
    """In a folder, files with other names, hidden ones, FIFOs and dangling links are ignored."""
    put(tmp_path, "cowrie.json", "cowrie.log", ".hidden.json", "tty/20261121.log", "downloads/e3b0c442")
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "dangling.json").symlink_to("nowhere.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "folder.json").mkdir()

    assert found_in(tmp_path) == ["cowrie.json"]


def test_link_to_a_log_is_a_log(tmp_path: Path) -> None:
    """A link to a log, or to a folder of logs, is followed."""
    put(tmp_path, "elsewhere/cowrie.json", "logs/x.json")
    (tmp_path / "logs" / "link.json").symlink_to(tmp_path / "elsewhere" / "cowrie.json")
    (tmp_path / "logs" / "more").symlink_to(tmp_path / "elsewhere")

    assert found_in(tmp_path / "logs") == ["link.json", "x.json", "more/cowrie.json"]


def test_loops_of_folders_end(tmp_path: Path) -> None:
    """A folder reached again through a link is visited once."""
    put(tmp_path, "a/cowrie.json", "a/b/cowrie.json")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(".")

    assert found_in(tmp_path / "a") == ["cowrie.json", "b/cowrie.json"]


def test_deep_folders_are_searched(tmp_path: Path) -> None:
    """Logs are found at any depth."""
    deep = "/".join(["d"] * 200) + "/cowrie.json"
    put(tmp_path, deep)

    assert found_in(tmp_path) == [deep]


def test_names_of_any_bytes_are_found(tmp_path: Path) -> None:
    """A log whose name is not text in any encoding is found."""
    name = os.fsdecode(b"caf\xe9\x1b[31m.json")
    put(tmp_path, name)

    assert list(find_logs([tmp_path])) == [tmp_path / name]


# --- errors ---


@pytest.mark.parametrize("name", ["missing", "missing/cowrie.json", "file/cowrie.json"])
def test_missing_path_is_named(tmp_path: Path, name: str) -> None:
    """A missing path is an error with its name, even if other paths exist."""
    put(tmp_path, "file", "cowrie.json")
    with pytest.raises(InputNotFound, match=f"{name}: no such file or folder; check the spelling"):
        find_logs([tmp_path / "cowrie.json", tmp_path / name])


def test_missing_path_is_named_inertly(tmp_path: Path) -> None:
    """Control characters in a path do not reach the terminal."""
    with pytest.raises(InputNotFound, match=r"/\\x1b\[31m: no such file"):
        find_logs([tmp_path / "\x1b[31m"])


def test_a_path_that_is_too_long_is_an_input_error(tmp_path: Path) -> None:
    """A name longer than file systems allow is refused without a traceback, and without a remedy that does not help."""
    with pytest.raises(InputNotReadable, match=r"File name too long$"):
        find_logs([tmp_path / ("n" * 300)])


def test_folder_without_logs_is_an_error(tmp_path: Path) -> None:
    """A folder without logs is an error that says which names logs have."""
    put(tmp_path, "empty/cowrie.log", "full/cowrie.json")
    with pytest.raises(InputNotFound, match=r"empty: no logs in this folder; .* like cowrie\.json"):
        find_logs([tmp_path / "full", tmp_path / "empty"])


AS_NOBODY = """
import os, sys
from pathlib import Path
from cowrieprocessor.errors import InputError
from cowrieprocessor.loader.reading.discovery import find_logs
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for unreadable in (None, []):
    try:
        print([path.name for path in find_logs([Path(sys.argv[1])], unreadable)])
    except InputError as error:
        print(type(error).__name__, error)
    print(*unreadable or [], sep="\\n")
"""


DENIED = "{path}: Permission denied; give the user who loads it the right to read it"


@pytest.mark.parametrize(
    ("closed", "named", "expected"),
    [
        (".", "logs/cowrie.json", [f"InputNotReadable {DENIED}", "", f"InputNotReadable {DENIED}", ""]),
        ("logs", "logs/cowrie.json", [f"InputNotReadable {DENIED}", "", f"InputNotReadable {DENIED}", ""]),
        ("logs", "logs", [f"InputNotReadable {DENIED}", "", "[]", DENIED]),
        ("logs", ".", [f"InputNotReadable {DENIED}", "", "['link.json']", DENIED]),
        ("logs/cowrie.json", "logs", ["['cowrie.json']", "", "['cowrie.json']", ""]),
    ],
)
def test_permissions(closed: str, named: str, expected: list[str]) -> None:
    """A path without permission is an input error; if the caller collects such errors, the rest is found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put(folder, "logs/cowrie.json")
        (folder / "link.json").symlink_to("logs/cowrie.json")
        folder.chmod(0o755)
        (folder / closed).chmod(0)
        path = folder / named
        found = subprocess.run([sys.executable, "-c", AS_NOBODY, path], capture_output=True, text=True, check=True)
        (folder / closed).chmod(0o755)
    refused = folder / "logs" if named == "." else path

    assert found.stdout.split("\n")[:4] == [line.format(path=refused) for line in expected]


@pytest.fixture
def idle(tmp_path: Path) -> tuple[FollowedLogs, list[float]]:
    """A folder with a live log and two archives, all considered settled, and a clock that the test sets."""
    for name in ("cowrie.json", "cowrie.json.1.gz", "cowrie.json.2.gz"):
        (tmp_path / name).write_bytes(b"{}\n")
    now = [0.0]
    logs = FollowedLogs([tmp_path], clock=lambda: now[0], listing_settles_s=-1.0, packed_settles_s=-1.0)
    return logs, now


def test_without_changes_only_files_that_may_grow_are_checked(
    idle: tuple[FollowedLogs, list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second scan returns the same object, and calls `stat` on the folder and the live log, not on archives."""
    logs, _ = idle
    before = logs.scan()
    asked: list[str] = []
    stat = os.stat

    def asking(path: str, **how: Any) -> os.stat_result:
        asked.append(str(path))
        return stat(path, **how)

    monkeypatch.setattr(discovery.os, "stat", asking)
    assert logs.scan() is before
    assert [str(tmp_path), str(tmp_path / "cowrie.json")] == asked


@pytest.mark.parametrize("change", ["grows", "goes", "comes", "is renamed", "is replaced"])
def test_a_change_is_seen_at_once(idle: tuple[FollowedLogs, list[float]], tmp_path: Path, change: str) -> None:
    """A live log that grows or is replaced, and any file that is added, removed or renamed."""
    logs, _ = idle
    live, archive = tmp_path / "cowrie.json", tmp_path / "cowrie.json.1.gz"
    before = logs.scan()
    if change == "grows":
        live.write_bytes(b"{}\n{}\n")
    elif change == "goes":
        archive.unlink()
    elif change == "comes":
        (tmp_path / "cowrie.json.3.gz").write_bytes(b"")
    elif change == "is renamed":
        archive.rename(tmp_path / "cowrie.json.9.gz")
    else:
        live.unlink()
        live.write_bytes(b"{}\n")
    now = logs.scan()
    assert now is not before
    assert {name: status.st_size for name, status in now.logs} == {
        str(path): path.stat().st_size for path in tmp_path.iterdir()
    }


def test_a_new_target_of_a_dangling_link_is_seen(idle: tuple[FollowedLogs, list[float]], tmp_path: Path) -> None:
    """The folder of the link does not change when the log it points to is created."""
    logs, _ = idle
    target = tmp_path.parent / f"{tmp_path.name}-elsewhere.json"
    (tmp_path / "linked.json").symlink_to(target)
    before = logs.scan()
    assert logs.scan() is before
    target.write_bytes(b"{}\n")
    assert str(tmp_path / "linked.json") in [name for name, _ in logs.scan().logs]


def test_a_rewritten_archive_is_seen_after_a_minute(idle: tuple[FollowedLogs, list[float]], tmp_path: Path) -> None:
    """A finished archive should not change; a change is found within a minute, or at once after `invalidate`."""
    logs, now = idle
    before = logs.scan()
    (tmp_path / "cowrie.json.1.gz").write_bytes(b"another")
    assert logs.scan() is before
    now[0] = discovery.LISTED_FOR_S
    sizes = [status.st_size for _, status in logs.scan().logs]
    assert 7 in sizes
    (tmp_path / "cowrie.json.1.gz").write_bytes(b"a third one")
    logs.invalidate()
    assert 11 in [status.st_size for _, status in logs.scan().logs]
