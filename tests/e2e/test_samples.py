"""The samples that the project ships are whole, harmless, and say nothing of the machine they were made on."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter

import pytest

from tests.e2e.make_samples import PROJECT, SAMPLES
from tests.e2e.scene import DOWNLOAD, SSH_KEY, UPLOAD

Event = dict[str, object]


@pytest.fixture(scope="module")
def logs() -> bytes:
    """Both logs of the samples, the older one first."""
    return gzip.decompress((SAMPLES / "cowrie.json.1.gz").read_bytes()) + (SAMPLES / "cowrie.json").read_bytes()


@pytest.fixture(scope="module")
def events(logs: bytes) -> list[Event]:
    """Every event of the samples."""
    return [json.loads(line) for line in logs.splitlines()]


def test_every_session_is_whole(events: list[Event]) -> None:
    """Each session begins and ends in the samples, and the README says how many there are."""
    opened = [event["session"] for event in events if event["eventid"] == "cowrie.session.connect"]
    closed = [event["session"] for event in events if event["eventid"] == "cowrie.session.closed"]
    assert sorted(map(str, opened)) == sorted(map(str, closed))
    assert f"{len(opened)} sessions" in (SAMPLES / "README.md").read_text()


def test_files_are_as_rare_as_in_life(events: list[Event]) -> None:
    """Two to five of a hundred sessions leave a file, and one key is in more of them than anything else."""
    files = {(e["session"], e["shasum"]) for e in events if e["eventid"] in (DOWNLOAD, UPLOAD) and e["shasum"]}
    share = len({session for session, _ in files}) / len({event["session"] for event in events})
    assert 0.02 <= share <= 0.05
    ((commonest, sessions),) = Counter(sha256 for _, sha256 in files).most_common(1)
    assert commonest == hashlib.sha256(SSH_KEY + b"\n").hexdigest()
    assert f"left in {sessions} of them" in (SAMPLES / "README.md").read_text().replace("\n  ", " ")


def test_every_file_is_there_and_hashes_to_its_name(events: list[Event]) -> None:
    """The captured files are those that the logs name, and one that Cowrie forgot under a temporary name."""
    hashes = {event["shasum"] for event in events if event["eventid"] in (DOWNLOAD, UPLOAD)} - {""}
    captured = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SAMPLES.glob("downloads/*")}
    forgotten = [name for name in captured if name.startswith("redir_")]
    assert len(forgotten) == 1
    assert {name: sha256 for name, sha256 in captured.items() if name not in forgotten} == {
        str(sha256): sha256 for sha256 in hashes
    }


def test_every_file_is_harmless() -> None:
    """Each captured file is one of ours: it says so, or is the key, or holds next to nothing."""
    for path in SAMPLES.glob("downloads/*"):
        content = path.read_bytes()
        assert b"harmless" in content or content in (b"", b"\n", b"one\ntwo\n", SSH_KEY + b"\n")


def test_they_name_no_machine(logs: bytes) -> None:
    """The logs hold no path of a machine, and no address but those that are nobody's."""
    assert str(PROJECT).encode() not in logs
    assert not re.search(rb"/var/tmp|/home/|/tmp/cowrieprocessor", logs)
    addresses = set(re.findall(rb"(?<![\d.-])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])", logs))
    nobodys = (b"192.0.2.", b"198.18.", b"198.19.", b"198.51.100.", b"203.0.113.", b"127.")
    assert {address for address in addresses if not address.startswith(nobodys)} == set()


def test_they_are_small() -> None:
    """All of them together are less than 1.4 MB."""
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*")) < 1_400_000
