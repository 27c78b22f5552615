"""The logs that a v3 database was filled from, written anew from its rows: what lies on the honeypot's disk."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.other_connections import sqlite3

UNDEFANGED = {"[URL]": "http://", " [SC] ": ";", " [AND] ": "&&", " [PIPE] ": "|"}


@dataclass
class V3SourceLog:
    """One log that v3 read, and where it lies now."""

    source: str
    inode: str | None
    generation: int
    path: Path
    line_count: int


def original(payload: dict[str, Any]) -> dict[str, Any]:
    """Return an event as the honeypot wrote it, before v3 rewrote its command."""
    if "input_safe" not in payload:
        return payload
    text = payload["input_safe"]
    for safe, command in UNDEFANGED.items():
        text = text.replace(safe, command)
    kept = {key: value for key, value in payload.items() if key not in {"input_safe", "input_hash", "command"}}
    return kept | {"input": text}


def line_of(payload: dict[str, Any]) -> bytes:
    """Return the line that v3 made a payload of."""
    if set(payload) == {"malformed"}:
        text = payload["malformed"]
        return b"\xff" * len(text) if set(text) == {"\ufffd"} else text.encode("utf-8", "surrogatepass")
    return json.dumps(original(payload)).encode() if payload else b"17"


def write_logs(database: Path, folder: Path) -> list[V3SourceLog]:
    """Write each log of a v3 database, and return them.

    Of a path that v3 followed through several generations the last is there under its name, the others are rotated.
    """
    logs = []
    with closing(sqlite3.connect(database)) as connection:
        keys = connection.execute(
            "SELECT source, source_inode, source_generation, max(source_offset) FROM raw_events GROUP BY 1, 2, 3"
            " ORDER BY 1, 3, 2"
        ).fetchall()
        last = {source: max(key[2] for key in keys if key[0] == source) for source, *_ in keys}
        for source, inode, generation, highest in keys:
            name = Path(source).name if generation == last[source] else f"{Path(source).name}.{generation}"
            path = folder / Path(source).parent.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = connection.execute(
                "SELECT source_offset, payload FROM raw_events WHERE source = ? AND source_inode IS ?"
                " AND source_generation = ?",
                (source, inode, generation),
            )
            path.write_bytes(_text({offset: json.loads(payload) for offset, payload in rows}))
            logs.append(V3SourceLog(source, inode, generation, path, highest + 1))
    return logs


def _text(payloads: dict[int, dict[str, Any]]) -> bytes:
    """Return a log whose values start on the lines that v3 counted."""
    lines: list[bytes] = []
    following = [*sorted(payloads)[1:], max(payloads) + 1]
    for offset, until in zip(sorted(payloads), following, strict=True):
        one = [line_of(payloads[offset])]
        if until - offset > 1 and set(payloads[offset]) - {"malformed"}:
            pretty = json.dumps(original(payloads[offset]), indent=1).encode().split(b"\n")
            one = pretty if len(pretty) <= until - offset else one
        lines += one + [b""] * (until - offset - len(one))
    return b"\n".join(lines) + b"\n"
