"""One dead letter as text: what is known of it, and its bytes with nothing alive in them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from cowrieprocessor.reporting.queries.dead_letters import WholeDeadLetter
from cowrieprocessor.reporting.render.terminal import Screen, cell, draw, facts, moment, number
from cowrieprocessor.sanitize import defang_all

_SHOWN_CHARS = 2_000


def dead_letter_text(letter: WholeDeadLetter, screen: Screen) -> str:
    """Return one dead letter as text: its facts, and all of its bytes that are kept, line by line."""
    details = letter.details or {}
    pairs = [
        ("dead letter", number(letter.id)),
        ("reason", cell(letter.reason, 128)),
        ("detail", cell(_text(details.get("detail")), _SHOWN_CHARS)),
        ("log", cell(letter.source, 512)),
        ("line", number(None if letter.source_offset is None else letter.source_offset + 1)),
        ("bytes", cell(_range(details))),
        ("stored event", cell(_text(details.get("raw_event_id")))),
        ("stored (UTC)", moment(letter.created_at)),
        ("load", cell(letter.ingest_id, 64)),
        ("resolved (UTC)", moment(letter.resolved_at) if letter.resolved else Text("no")),
        ("replayed", cell(_text(details.get("replayed")), _SHOWN_CHARS)),
        ("kept", cell(_kept(letter.payload))),
    ]
    return draw(screen, facts(pairs)) + "\n" + _body(letter.payload)


def _range(details: Mapping[str, Any]) -> str:
    start, end = details.get("byte_start"), details.get("byte_end")
    return f"{start} to {end} of the decompressed log" if start is not None and end is not None else ""


def _kept(payload: Any) -> str:
    """Return how much of it is kept, where that is not all."""
    if not isinstance(payload, dict) or "sha256" not in payload:
        return ""
    return f"the first 64 KiB of {payload.get('length')} bytes with the SHA-256 {payload['sha256']}"


def _body(payload: Any) -> str:
    """Return the bytes that are kept as inert lines; what is no text with its bytes as escapes."""
    text = None
    if isinstance(payload, dict):
        kept = [payload[key] for key in ("text", "malformed") if isinstance(payload.get(key), str)]
        text = kept[0] if kept else _decoded(payload.get("base64"))
    if text is None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
    return "".join(f"{defang_all(line)}\n" for line in text.split("\n"))


def _decoded(kept: object) -> str | None:
    if not isinstance(kept, str):
        return None
    try:
        return base64.b64decode(kept, validate=True).decode("utf-8", "backslashreplace")
    except binascii.Error:
        return None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True)
