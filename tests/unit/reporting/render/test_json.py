"""JSON: exact, and harmless on a terminal."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.queries.activity import Ranked
from cowrieprocessor.reporting.render.json import MAX_DEPTH, plain, report_json, to_json
from cowrieprocessor.reporting.reports import make_report
from tests.unit.reporting.scene import DAY, add_file, add_hash, add_session, at, sha


@given(st.text(st.characters(codec=None)))
def test_any_text_round_trips_in_ascii(text: str) -> None:
    """A JSON parser returns every text unchanged, lone surrogates and control characters included."""
    document = to_json({"text": text})
    assert document.isascii()
    assert not any(ord(character) < 32 and character != "\n" for character in document)
    assert {"text": text} == json.loads(document)


def test_what_is_nested_too_deep_is_abbreviated() -> None:
    """An event may be nested a thousand levels deep, which is no reason for an error."""
    value: object = "x"
    for _ in range(999):
        value = [value]
    document = to_json({"fields": {"deep": value}})
    assert document.count("[") == MAX_DEPTH - 2
    assert "nested deeper" in document
    value = "x"
    for _ in range(MAX_DEPTH - 2):
        value = [value]
    assert "nested deeper" not in to_json({"fields": {"deep": value}})


def test_values_become_json_types() -> None:
    """Dataclasses become objects, times ISO 8601 with Z, tuples arrays, NaN and infinity null."""
    moment = dt.datetime(2026, 11, 21, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    document = {"at": moment, "rows": (Ranked("a", 1, 2),), 5: [True, None, 1.5, float("nan"), float("inf")]}
    expected = {
        "at": "2026-11-21T00:00:00Z",
        "rows": [{"value": "a", "sessions": 1, "times": 2}],
        "5": [True, None, 1.5, None, None],
    }
    assert expected == plain(document)


def test_a_type_without_a_json_equivalent_is_an_error() -> None:
    """A value of a type that JSON lacks is an error instead of its repr."""
    with pytest.raises(TypeError, match="set"):
        to_json({"a": set()})


def test_report_has_its_documented_fields(engine: Engine) -> None:
    """The report's JSON names its period, totals, changes, files and rankings, with texts as stored."""
    url = "ftp://user:secret@198.51.100.7/x"
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1), commands={"wget http://198.51.100.7/x": 2})
        add_session(connection, "b", at(1, days=-1))
        add_session(connection, "c", at(2, days=-1))
        add_hash(connection, sha(1), at(1))
        add_file(connection, "a", sha(1), at(1), download_url=url, filename="=x")
    with read_transaction(engine) as connection:
        document = json.loads(report_json(make_report(connection, period_of(PeriodKind.DAILY, DAY))))
    assert document["period"] == {
        "kind": "daily",
        "name": "2026-11-21",
        "start": "2026-11-21T00:00:00Z",
        "end": "2026-11-22T00:00:00Z",
    }
    assert {
        "period",
        "sensor",
        "totals",
        "previous",
        "changes_percent",
        "files",
        "found_malicious",
        "changed_verdicts",
        "urls",
        "addresses",
        "left_out",
        "protocols",
        "usernames",
        "commands",
        "sensors",
        "dead_letters",
        "complete",
        "backfilled_share",
    } == set(document)
    assert (
        document["totals"]["sessions"],
        document["previous"]["sessions"],
        document["changes_percent"]["sessions"],
    ) == (1, 2, -50.0)
    assert (url, "=x") == (document["urls"]["top"][0]["value"], document["files"][0]["name"])
    assert document["commands"]["top"][0]["value"] == "wget http://198.51.100.7/x"
