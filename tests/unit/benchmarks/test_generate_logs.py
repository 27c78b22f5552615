"""The logs that the benchmarks are made with."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.generate_logs import LogStream, parse_size, write_log, write_stream

PROJECT = Path(__file__).parents[3]
EVENTS = 30_000
SHARES = {
    "cowrie.command.input": (0.18, 0.32),
    "cowrie.session.params": (0.12, 0.24),
    "cowrie.log.closed": (0.12, 0.24),
    "cowrie.session.connect": (0.05, 0.10),
    "cowrie.session.closed": (0.05, 0.10),
    "cowrie.client.version": (0.04, 0.08),
    "cowrie.client.kex": (0.04, 0.08),
    "cowrie.login.failed": (0.03, 0.08),
    "cowrie.login.success": (0.03, 0.06),
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated log."""
    path = tmp_path_factory.mktemp("log") / "cowrie.json"
    write_log(path, events=EVENTS, seed=1)
    return path


@pytest.fixture(scope="module")
def events(log: Path) -> list[dict[str, Any]]:
    """The events of the generated log."""
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def test_the_same_seed_gives_the_same_bytes(log: Path, tmp_path: Path) -> None:
    """A log is the same for the same seed, in another process too, and another one for another seed."""
    again, other = tmp_path / "again.json", tmp_path / "other.json"
    write_log(other, events=EVENTS, seed=2)

    subprocess.run(
        [sys.executable, "-m", "benchmarks.generate_logs", "--events", str(EVENTS), "--seed", "1", "--out", again],
        cwd=PROJECT,
        check=True,
        stderr=subprocess.DEVNULL,
    )

    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(log.read_bytes()).digest()
    assert other.read_bytes() != again.read_bytes()


def test_every_line_is_an_event(log: Path, events: list[dict[str, Any]]) -> None:
    """Every line is one ASCII JSON object with the keys that all of Cowrie's events have."""
    data = log.read_bytes()

    assert len(events) == EVENTS
    assert data.isascii()
    assert data.endswith(b"\n")
    assert not any(byte < 32 and byte != 10 for byte in data)
    for event in events:
        assert {"eventid", "session", "src_ip", "sensor", "timestamp", "message"} <= event.keys()
        assert len(event["session"]) == 12


def test_only_reserved_addresses_occur(events: list[dict[str, Any]]) -> None:
    """Sources and targets are addresses set aside for benchmarks and documentation, or example names."""
    assert all(event["src_ip"].startswith(("198.18.", "198.19.")) for event in events)
    targets = {event["dst_ip"] for event in events if "dst_ip" in event}
    assert targets == {"203.0.113.5", "ya.example"}


def test_the_mix_is_that_of_real_logs(events: list[dict[str, Any]]) -> None:
    """The common events have their share, and 2 to 5 % of all are about files."""
    counts = Counter(event["eventid"] for event in events)

    for name, (low, high) in SHARES.items():
        assert low <= counts[name] / EVENTS <= high, name
    files = counts["cowrie.session.file_download"] + counts["cowrie.session.file_upload"]
    assert 0.02 <= files / EVENTS <= 0.05
    assert counts["cowrie.session.file_upload"] > 0


def test_lines_are_as_long_as_real_ones(log: Path) -> None:
    """Half of the lines are about 300 bytes, one in a hundred some thousand, the longest about 11 kB."""
    lengths = sorted(map(len, log.read_bytes().splitlines(keepends=True)))

    assert 270 <= lengths[EVENTS // 2] <= 370
    assert 1500 <= lengths[EVENTS * 99 // 100] <= 4000
    assert lengths[-1] <= 12_000


def test_sessions_overlap_and_times_rise(events: list[dict[str, Any]]) -> None:
    """Events come in the order of their timestamps, sessions between one another, each opened before it is closed."""
    times = [event["timestamp"] for event in events]
    open_sessions: set[str] = set()
    at_once = []
    for event in events:
        if event["eventid"] == "cowrie.session.connect":
            open_sessions.add(event["session"])
        elif event["eventid"] == "cowrie.session.closed":
            open_sessions.remove(event["session"])
        at_once.append(len(open_sessions))

    assert times == sorted(times)
    assert max(at_once) > 3


def test_hashes_repeat_as_real_ones_do(events: list[dict[str, Any]]) -> None:
    """One hash is in a third of the file events, some are seen once; empty and missing ones occur too."""
    about_files = [event for event in events if event["eventid"].startswith("cowrie.session.file_")]
    hashes = Counter(event["shasum"] for event in about_files if event.get("shasum"))
    (top, top_count), *_ = hashes.most_common(1)

    assert top_count / hashes.total() > 0.2
    assert sum(count == 1 for count in hashes.values()) > 20
    assert any(event.get("shasum") == "" for event in about_files)
    assert any("shasum" not in event for event in about_files)
    assert len({event["session"] for event in about_files if event.get("shasum") == top}) > 50


def test_what_attackers_type_is_hostile(log: Path) -> None:
    """Escape sequences, NUL, right-to-left overrides and characters beyond 16 bits occur, escaped as Cowrie does."""
    data = log.read_bytes()

    for escaped in (rb"\u001b", rb"\u0000", rb"\u202e", rb"\ud83d\ude00"):
        assert escaped in data


def test_a_size_is_kept_to_within_a_line(tmp_path: Path) -> None:
    """A log of a given size ends with the first line that reaches it."""
    summary = write_log(tmp_path / "log.json", size=1_000_000)

    assert 1_000_000 <= summary.bytes < 1_012_000
    assert (tmp_path / "log.json").stat().st_size == summary.bytes


def test_rotated_files_are_one_log_in_pieces(tmp_path: Path) -> None:
    """Several files together are byte for byte the log that one file would be, under Cowrie's names."""
    whole = tmp_path / "whole.json"
    write_log(whole, events=3000)

    summary = write_log(tmp_path / "cowrie.json", events=3000, files=3)

    assert [path.name for path in summary.paths] == ["cowrie.json.2026-01-01", "cowrie.json.2026-01-02", "cowrie.json"]
    assert b"".join(path.read_bytes() for path in summary.paths) == whole.read_bytes()
    assert [len(path.read_bytes().splitlines()) for path in summary.paths] == [1000, 1000, 1000]


def test_junk_is_rare_and_counted(tmp_path: Path) -> None:
    """With junk a few lines are no events; the events are the same as without."""
    path = tmp_path / "junk.json"
    summary = write_log(path, events=200_000, junk=True)
    valid = invalid = 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            valid += isinstance(json.loads(line), dict)
        except ValueError:
            invalid += 1

    assert (valid, invalid) == (200_000, summary.junk_lines)
    assert 0 < invalid < 30


def test_a_stream_is_the_same_as_a_file(log: Path) -> None:
    """Writing to an open file gives the same bytes, in one piece or in many."""
    out, pieces = io.BytesIO(), io.BytesIO()
    write_stream(out, events=EVENTS, seed=1)
    stream = LogStream(seed=1)
    for until in range(1000, EVENTS + 1, 1000):
        stream.write(pieces, events_until=until)

    assert out.getvalue() == log.read_bytes()
    assert pieces.getvalue() == log.read_bytes()


def test_sizes_are_read_as_people_write_them() -> None:
    """Sizes are in powers of 1000; what is no size is refused."""
    assert [parse_size(text) for text in ("17", "17B", "2k", "500MB", "1.5 G")] == [
        17, 17, 2000, 500_000_000, 1_500_000_000,
    ]  # fmt: skip
    for text in ("", "big", "-1", "1PB"):
        with pytest.raises(ValueError, match="no size"):
            parse_size(text)


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    """Neither or both of events and size, or no files at all, is an error before anything is written."""
    for wrong in ({}, {"events": 1, "size": 1}, {"events": 1, "files": 0}):
        with pytest.raises(ValueError, match=r"events or size|at least 1"):
            write_log(tmp_path / "never.json", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    """`--out` may name a log in a folder that does not exist yet."""
    log = tmp_path / "made" / "for it" / "cowrie.json"
    command = [sys.executable, "-m", "benchmarks.generate_logs", "--events", "5", "--out", str(log)]
    subprocess.run(command, check=True, cwd=PROJECT, capture_output=True)

    assert 5 == len(log.read_bytes().splitlines())
