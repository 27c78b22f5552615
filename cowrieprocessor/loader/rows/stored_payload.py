"""Parses stored events again, for what recomputes facts from them."""

from __future__ import annotations

import orjson

from cowrieprocessor.db.ingest.event_scan import MAX_PAYLOAD_CHARS
from cowrieprocessor.events import Event, Refused, parse_event
from cowrieprocessor.json_text import json_problem, read_json
from cowrieprocessor.wording import plural

REASON_NOT_JSON = "backfill: the stored payload is not JSON"
REASON_TOO_LONG = "backfill: the stored payload is over 2 MiB"


def read_stored(payload: str | None) -> Event | Refused:
    """Return the event in a stored payload, without its hash, or why there is none; None is one over the limit."""
    if payload is None:
        return Refused(REASON_TOO_LONG, f"more than {plural(MAX_PAYLOAD_CHARS, 'character')}")
    raw = payload.encode("utf-8", "surrogatepass")
    try:
        fields = read_json(raw)
    except orjson.JSONDecodeError as error:
        return Refused(REASON_NOT_JSON, json_problem(error))
    return parse_event(raw, fields, hashed=False)
