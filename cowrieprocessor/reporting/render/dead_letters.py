"""One dead letter as text: its fields, and its bytes made safe for a terminal."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from cowrieprocessor.reporting.queries.dead_letters import DeadLetterDetails
from cowrieprocessor.reporting.render.terminal import Screen, cell, draw, facts, moment, number
from cowrieprocessor.sanitize import defang_all

_DETAIL_CHARS = 2_000


def dead_letter_text(letter: DeadLetterDetails, screen: Screen) -> str:
    """Return one dead letter as text: its fields, then its stored bytes line by line."""
    details = letter.details or {}
    pairs = [
        ("dead letter", number(letter.id)),
        ("reason", cell(letter.reason, 128)),
        ("detail", cell(_as_text(details.get("detail")), _DETAIL_CHARS)),
        ("log", cell(letter.source, 512)),
        ("line", number(letter.line)),
        ("bytes", cell(_byte_range(details))),
        ("stored event", cell(_as_text(details.get("raw_event_id")))),
        ("stored (UTC)", moment(letter.created_at)),
        ("load", cell(letter.ingest_id, 64)),
        ("resolved (UTC)", moment(letter.resolved_at) if letter.resolved else Text("no")),
        ("replayed", cell(_as_text(details.get("replayed")), _DETAIL_CHARS)),
        ("kept", cell(_truncation_text(letter.payload))),
    ]
    return draw(screen, facts(pairs)) + "\n" + _payload_text(letter.payload)


def _byte_range(details: Mapping[str, Any]) -> str:
    start, end = details.get("byte_start"), details.get("byte_end")
    return f"{start} to {end} of the decompressed log" if start is not None and end is not None else ""


def _truncation_text(payload: Any) -> str:
    """Return how much of the payload is stored; empty if all of it is."""
    if not isinstance(payload, dict) or "sha256" not in payload:
        return ""
    return f"the first 64 KiB of {payload.get('length')} bytes with the SHA-256 {payload['sha256']}"


def _payload_text(payload: Any) -> str:
    """Return the stored bytes as safe lines; bytes that are not UTF-8 become escapes."""
    text = None
    if isinstance(payload, dict):
        texts = [payload[key] for key in ("text", "malformed") if isinstance(payload.get(key), str)]
        text = texts[0] if texts else _decode_base64(payload.get("base64"))
    if text is None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
    return "".join(f"{defang_all(line)}\n" for line in text.split("\n"))


def _decode_base64(encoded: object) -> str | None:
    """Return the decoded text; None if this is not Base64."""
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode("utf-8", "backslashreplace")
    except binascii.Error:
        return None


def _as_text(value: object) -> str | None:
    """Return a text as it is, None as None, and any other value as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True)
