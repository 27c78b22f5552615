"""The file that a Cowrie event names, for programs that call it: a path that stays."""

from __future__ import annotations

from collections.abc import Mapping

from cowrieprocessor.events import parse_timestamp
from cowrieprocessor.interpret.file_events import file_sighting

__all__ = ["process_file_download_event"]


def process_file_download_event(payload: Mapping[str, object], session_id: str) -> dict[str, object] | None:
    """Return the file that an event names as a plain dictionary, or None if it names none.

    Args:
        payload: a decoded log line.
        session_id: the session the event belongs to.

    Returns:
        session_id, shasum (lower case), filename, file_size (always None: no Cowrie event carries a size),
        download_url, and first_seen (an aware datetime in UTC, or None).

    Raises:
        InvalidShasum: the shasum is present but is not 64 hexadecimal characters.
    """
    sighting = file_sighting(payload, session_id)
    if sighting is None:
        return None
    return {
        "session_id": sighting.session_id,
        "shasum": sighting.sha256,
        "filename": sighting.filename,
        "file_size": None,
        "download_url": sighting.download_url,
        "first_seen": parse_timestamp(payload["timestamp"]) if sighting.first_seen else None,
    }
