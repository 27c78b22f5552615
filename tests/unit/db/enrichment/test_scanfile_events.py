"""The events in which Cowrie logged its VirusTotal lookups."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.enrichment.scanfile_events import SCANFILE, scanfile_events
from cowrieprocessor.loader.bulk import BulkLoader
from tests.enrichment_scene import sha


def test_events_are_read_in_order_and_complete(engine: Engine, tmp_path: Path) -> None:
    """Only events of this type, by id, with the stored JSON, page by page."""
    log = tmp_path / "cowrie.json"
    lines = [
        {"eventid": name, "session": "s1", "timestamp": f"2026-03-01T12:00:{number:02d}.000000Z", "sha256": sha(number)}
        for number, name in enumerate(["cowrie.session.connect", SCANFILE, "cowrie.virustotal.scanurl", SCANFILE])
    ]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    BulkLoader(engine).load([log])

    with read_transaction(engine) as connection:
        first = list(scanfile_events(connection, 0, 1))
        second = list(scanfile_events(connection, first[-1].id, 10))
        rest = list(scanfile_events(connection, second[-1].id, 10))

    payloads = [json.loads(event.payload or "") for event in [*first, *second]]
    assert [payload["sha256"] for payload in payloads] == [sha(1), sha(3)]
    assert rest == []
