"""Verdicts that Cowrie's own VirusTotal plug-in logged, without a request."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.enrichment.providers.cowrie_log import CowrieLog, Scan
from tests.unit.enrichment.asking import SHA256, assert_storable

LOG = CowrieLog()
KNOWN: dict[str, Any] = {
    "eventid": "cowrie.virustotal.scanfile",
    "session": "a1b2c3d4e5f6",
    "src_ip": "192.0.2.7",
    "protocol": "ssh",
    "sha256": SHA256,
    "is_new": "false",
    "positives": 12,
    "total": 76,
    "scan_date": 1_772_184_600,
    "scans": {
        "ClamAV": {"detected": "true", "result": "Unix.Trojan.Mirai"},
        "Sophos": {"detected": "false", "result": None},
    },
    "timestamp": "2026-03-01T02:03:04.567890Z",
}


def scan(**changes: object) -> Scan | None:
    """Return the content of the event with changes; a field set to `...` is left out."""
    event = {name: value for name, value in {**KNOWN, **changes}.items() if value is not ...}
    found = LOG.scan(event)
    assert LOG.scan(json.dumps(event)) == LOG.scan(json.dumps(event).encode()) == found
    if found is not None:
        assert_storable(found.verdict)
        assert LOG.verdict(json.loads(json.dumps(found.verdict.response))) == found.verdict
    return found


def test_an_event_is_read() -> None:
    """File, engines, date and time of the request are read; engines without a detection are dropped."""
    found = scan()

    assert found is not None
    assert found.sha256 == SHA256
    assert found.scanned_at == dt.datetime(2026, 3, 1, 2, 3, 4, 567890, tzinfo=dt.UTC)
    assert found.verdict == ProviderVerdict(
        "malicious",
        positives=12,
        total=76,
        last_analysis=dt.datetime(2026, 2, 27, 9, 30, tzinfo=dt.UTC),
        response={
            "sha256": SHA256,
            "is_new": "false",
            "positives": 12,
            "total": 76,
            "scan_date": 1_772_184_600,
            "detected": {"ClamAV": "Unix.Trojan.Mirai"},
        },
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"positives": 0}, ("clean", 0, 76)),
        ({"positives": 1}, ("malicious", 1, 76)),
        ({"positives": 0, "total": 0}, ("unknown", 0, 0)),
        ({"is_new": "true", "positives": ..., "total": ..., "scans": ..., "scan_date": ...}, ("unknown", None, None)),
        ({"positives": ..., "total": ...}, ("unknown", None, None)),
        ({"positives": 80}, ("unknown", None, None)),
        ({"positives": "12"}, ("unknown", None, None)),
        ({"positives": True}, ("unknown", None, None)),
        ({"positives": -1}, ("unknown", None, None)),
        ({"total": ...}, ("unknown", None, None)),
        ({"is_new": ...}, ("malicious", 12, 76)),
        ({"scans": None}, ("malicious", 12, 76)),
        ({"scans": [1]}, ("malicious", 12, 76)),
    ],
)
def test_verdicts(changes: dict[str, object], expected: tuple[str, int | None, int | None]) -> None:
    """A file that was new to VirusTotal is unknown; figures that contradict each other count as missing."""
    found = scan(**changes)

    assert found is not None
    assert expected == (found.verdict.verdict, found.verdict.positives, found.verdict.total)


def test_the_threshold_is_that_of_virustotal() -> None:
    """Fewer detections than the setting requires make a file suspicious."""
    found = CowrieLog(malicious_at=13).scan(KNOWN)

    assert found is not None
    assert found.verdict.verdict == "suspicious"


@pytest.mark.parametrize(
    ("scan_date", "expected"),
    [
        ("unknown", None),
        (None, None),
        (0, None),
        ("2026-02-27 09:30:00", dt.datetime(2026, 2, 27, 9, 30, tzinfo=dt.UTC)),
    ],
)
def test_scan_dates(scan_date: object, expected: dt.datetime | None) -> None:
    """The date is a number, a string, or the word unknown."""
    found = scan(scan_date=scan_date)

    assert found is not None
    assert expected == found.verdict.last_analysis


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": ...},
        {"sha256": SHA256[:40]},
        {"sha256": None},
        {"eventid": "cowrie.virustotal.scanurl"},
        {"eventid": "cowrie.session.file_download"},
        {"timestamp": ...},
        {"timestamp": "yesterday"},
        {"timestamp": "0001-01-01T00:00:00Z"},
        {"is_new": ..., "positives": ..., "total": ...},
        {"is_new": "perhaps", "positives": ...},
    ],
)
def test_events_that_say_nothing(changes: dict[str, object]) -> None:
    """Without a file, a time, or any answer of VirusTotal there is no verdict."""
    assert scan(**changes) is None


@pytest.mark.parametrize("payload", ["", "null", "[]", "7", "{", b"\xff", "[" * 100_000])
def test_payloads_that_are_no_events(payload: str | bytes) -> None:
    """A payload that is not an object has no content."""
    assert LOG.scan(payload) is None


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(sorted(KNOWN)),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2),
    )
)
def test_whatever_an_event_holds_nothing_is_raised(changes: dict[str, object]) -> None:
    """Any type in any field gives a storable verdict, or none at all."""
    found = LOG.scan({**KNOWN, **changes})

    if found is not None:
        assert_storable(found.verdict)
        assert found.sha256 == {**KNOWN, **changes}["sha256"].lower()
