"""docs/reports.md lists exactly the fields of the JSON and the columns of the CSV."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cowrieprocessor.enrichment.quota.ledger_state import OverruledLimit
from cowrieprocessor.reporting.enrichment_status import EnrichmentStatus, LedgerStatus, SourceStatus
from cowrieprocessor.reporting.queries.activity import DroppedFile, Ranked, Ranking, Totals
from cowrieprocessor.reporting.queries.dead_letters import DeadLetter, ReasonCount
from cowrieprocessor.reporting.queries.enrichment import EnrichJob, FailureKind, PropagationBacklog, QueueCounts
from cowrieprocessor.reporting.queries.file_details import FileDetails, Sightings
from cowrieprocessor.reporting.queries.file_history import FileHistory, SourceVerdict, VerdictChange
from cowrieprocessor.reporting.queries.file_sessions import FileSession
from cowrieprocessor.reporting.queries.files import FileListing
from cowrieprocessor.reporting.queries.reuse import SessionPart
from cowrieprocessor.reporting.queries.sensor_list import SensorList, SensorListing
from cowrieprocessor.reporting.queries.sessions import (
    SessionCommand,
    SessionDetails,
    SessionEvent,
    SessionFile,
    SessionListing,
)
from cowrieprocessor.reporting.queries.verdicts import ChangedVerdict, FoundMalicious
from cowrieprocessor.reporting.render.csv import COLUMNS

STATE = {"complete", "backfilled_share"}
PAGE = (Path(__file__).parents[3] / "docs" / "reports.md").read_text(encoding="utf-8")
DOCUMENTS = {
    "files list": (FileListing,),
    "files show": (FileDetails, SourceVerdict, Sightings),
    "files history": (FileHistory, VerdictChange, SourceVerdict),
    "files sessions": (FileSession,),
    "sessions list": (SessionListing,),
    "sessions show": (SessionDetails, SessionFile, SessionCommand, SessionEvent, SessionPart),
    "sensors list": (SensorList, SensorListing),
    "enrich status": (
        *(EnrichmentStatus, SourceStatus, QueueCounts, LedgerStatus, OverruledLimit),
        *(FailureKind, PropagationBacklog, EnrichJob),
    ),
    "dead-letters list": (DeadLetter, ReasonCount),
    "report …": (DroppedFile, FoundMalicious, ChangedVerdict, Ranking, Ranked, ReasonCount),
}
ENVELOPE = {
    "files list": {"files", "next", *STATE},
    "files show": STATE,
    "files history": STATE,
    "files sessions": {"sha256", "captured_on", "sessions", "next", *STATE},
    "sessions list": {"sessions", "next", *STATE},
    "sessions show": STATE,
    "sensors list": STATE,
    "enrich status": STATE,
    "dead-letters list": {"counts", "dead_letters", "next"},
    "report …": {
        *("period", "kind", "start", "end", "sensor", "totals", "previous", "changes_percent", "files", "urls"),
        *("addresses", "protocols", "usernames", "commands", "sensors", "dead_letters", "left_out"),
        *("found_malicious", "changed_verdicts", *STATE),
    },
}


def _names_in(text: str) -> set[str]:
    return {name for quoted in re.findall(r"`([^`]+)`", text) for name in re.split(r",\s*", quoted)}


@pytest.mark.parametrize("command", DOCUMENTS)
def test_json_fields_are_documented(command: str) -> None:
    """Each command's row names every field of its document, and nothing else."""
    (row,) = re.findall(rf"^\| `{re.escape(command)}` \| (.*) \|$", PAGE, re.MULTILINE)
    actual = {field.name for kind in DOCUMENTS[command] for field in fields(kind)} | ENVELOPE.get(command, set())
    assert actual == _names_in(row)


def test_numbers_are_documented() -> None:
    """The table of numbers names every number of a report, and nothing else."""
    table = PAGE.split("## What the numbers mean")[1].split("`previous`")[0]
    named = {name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in _names_in(row)}
    assert {field.name for field in fields(Totals)} == named


def test_csv_columns_are_documented() -> None:
    """The page lists the columns of the CSV in their order."""
    (columns,) = re.findall(r"^`(period,[^`]*)`", PAGE, re.MULTILINE)
    assert list(COLUMNS) == re.split(r",\s*", columns)
