"""What a file event mentions: every URL and every name, of files and of downloads that brought none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cowrieprocessor.events import Event, parse_event
from cowrieprocessor.json_text import read_json
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates

SHA = "ab" * 32
DOWNLOAD, UPLOAD = "cowrie.session.file_download", "cowrie.session.file_upload"
FAILED = "cowrie.session.file_download.failed"
URL = "http://203.0.113.9/a/x.sh"


def event(eventid: str, at: str = "2026-11-21T01:00:00Z", **fields: Any) -> Event:
    """Return an event of the session `s`."""
    raw = json.dumps({"eventid": eventid, "session": "s", "timestamp": at, **fields}).encode()
    parsed = parse_event(raw, read_json(raw), max_nesting=900)
    assert isinstance(parsed, Event)
    return parsed


def mentioned(*events: Event) -> set[tuple[str, str, str]]:
    """Return (hash, kind, value) of all that events mention."""
    files = FileAggregates()
    for one in events:
        files.add(one)
    return {(row[2], row[3], row[4]) for row in files.mention_rows()}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (event(DOWNLOAD, shasum=SHA, url=URL), {(SHA, "url", URL), (SHA, "name", "x.sh")}),
        (event(DOWNLOAD, shasum=SHA, url=URL, destfile="/tmp/y"), {(SHA, "url", URL), (SHA, "name", "/tmp/y")}),
        (event(DOWNLOAD, shasum=SHA.upper(), destfile="/tmp/y"), {(SHA, "name", "/tmp/y")}),
        (event(DOWNLOAD, shasum=SHA, url="stdin", destfile=""), set()),
        (event(DOWNLOAD, shasum=SHA, url="/tmp/y"), {(SHA, "name", "y")}),
        (event(DOWNLOAD, shasum="", url=URL, outfile=""), {("", "url", URL)}),
        (event(DOWNLOAD, url=URL, destfile="/tmp/y"), {("", "url", URL)}),
        (event(DOWNLOAD, realm="scp", input="x"), set()),
        (event(FAILED, url=URL), {("", "url", URL)}),
        (event(FAILED, url="/tmp/y"), set()),
        (event(FAILED, url=["x"]), set()),
        (event(FAILED, url=URL, shasum=SHA), {("", "url", URL)}),
        (
            event(UPLOAD, shasum=SHA, filename="x", destfile="/root/x", url="/root/x"),
            {(SHA, "name", "x"), (SHA, "name", "/root/x")},
        ),
        (event(UPLOAD, shasum=SHA, filename="x", url=URL), {(SHA, "name", "x")}),
        (event(DOWNLOAD, shasum="zz", url=URL, destfile="/tmp/y"), {("", "url", URL)}),
        (event(FAILED, url=URL, session=""), set()),
        (event(FAILED, url=URL, timestamp="soon"), set()),
        (event("cowrie.log.closed", shasum=SHA, url=URL), set()),
    ],
)
def test_what_an_event_mentions(one: Event, expected: set[tuple[str, str, str]]) -> None:
    """A file has every name that its events give it; a URL counts whether a file came from it or not."""
    assert mentioned(one) == expected


def test_long_and_hostile_values_stay_apart() -> None:
    """Values that differ only after what fits stay different; what no database stores is escaped."""
    long = ["http://203.0.113.9/" + "\U0001f480" * 2000 + str(number) for number in range(2)]
    found = mentioned(
        *(event(FAILED, url=url) for url in long),
        *(event(DOWNLOAD, shasum=SHA, destfile=f"{'n' * 600}{number}") for number in range(2)),
        event(DOWNLOAD, shasum=SHA, destfile="a\x00"),
    )
    assert sorted((kind, len(value)) for _, kind, value in found) == [
        ("name", len("a\\x00")),
        *[("name", 512)] * 2,
        *[("url", 1024)] * 2,
    ]


def test_a_repeated_mention_extends_its_time() -> None:
    """One row for a value in a session, with the first and the last time, in whatever order the events come."""
    files = FileAggregates()
    for hour in (3, 1, 2):
        files.add(event(FAILED, f"2026-11-21T{hour:02}:00:00+01:00", url=URL))
    assert [row[5:] for row in files.mention_rows()] == [["2026-11-21 00:00:00.000000", "2026-11-21 02:00:00.000000"]]
