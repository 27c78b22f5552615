"""The file that a Cowrie event names, if any: the same rules for loaders and backfill.

Source: Cowrie docs/OUTPUT.rst, cowrie.session.file_download and cowrie.session.file_upload, and every shape of file
event in 482,000 real lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cowrieprocessor.errors import InvalidShasum
from cowrieprocessor.events import FILE_DOWNLOAD, FILE_UPLOAD, moment_or_none
from cowrieprocessor.interpret.urls import last_path_segment
from cowrieprocessor.json_text import kind_of
from cowrieprocessor.sanitize import inert_cut

ORIGINS = {FILE_DOWNLOAD: "download", FILE_UPLOAD: "upload"}
"""The events that name files, and the origin of the file for each."""

MAX_FILENAME_CHARS = 512
MAX_URL_CHARS = 1024

SKIPPED_EMPTY_SHASUM = "file_event_empty_shasum"
SKIPPED_NO_SHASUM = "file_event_no_shasum"

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_NAME_KEYS = ("destfile", "filename")


@dataclass(frozen=True, slots=True)
class FileSighting:
    """A file seen in a session.

    Attributes:
        session_id: the session.
        sha256: 64 lower-case hexadecimal characters.
        filename: the name the attacker used, inert, at most 512 characters.
        download_url: where it came from, inert, at most 1024 characters; None for uploads and redirects.
        origin: download or upload.
        first_seen: the event's moment in UTC as `YYYY-MM-DD HH:MM:SS.ffffff`; None where it has no readable time.
    """

    session_id: str
    sha256: str
    filename: str | None
    download_url: str | None
    origin: str
    first_seen: str | None


def file_sighting(event: Mapping[str, object], session_id: str) -> FileSighting | None:
    """Return the file that a Cowrie event names, or None if it names none.

    Args:
        event: a decoded log line; `shasum` may be in any case.
        session_id: the session the event belongs to.

    Raises:
        InvalidShasum: a file event whose shasum is present but is not 64 hexadecimal characters.

    Source: Cowrie docs/OUTPUT.rst, cowrie.session.file_download and file_upload. Before Cowrie 1.9.7 a redirect's
    `url` was a path, and that of standard input was `stdin`.
    """
    origin = ORIGINS.get(_text(event.get("eventid")) or "")
    shasum = event.get("shasum")
    if origin is None or shasum is None or shasum == "":
        return None
    if not isinstance(shasum, str) or not _SHA256.fullmatch(shasum):
        shown = repr(shasum[:80]) if isinstance(shasum, str) else f"(it is {kind_of(shasum)})"
        raise InvalidShasum(f"shasum {shown} of session {session_id!r} is not 64 hexadecimal characters")
    url = url_field(event)
    return FileSighting(
        session_id=session_id,
        sha256=shasum.lower(),
        filename=_cut(next(iter(names_of(event, url)), None), MAX_FILENAME_CHARS),
        download_url=_cut(source_url(_text(event.get("eventid")), url), MAX_URL_CHARS),
        origin=origin,
        first_seen=moment_or_none(event.get("timestamp")),
    )


def url_field(event: Mapping[str, object]) -> str | None:
    """Return the `url` of a file event, which may be a path; None for standard input."""
    url = _text(event.get("url"))
    return None if url == "stdin" else url


def names_of(event: Mapping[str, object], url: str | None) -> list[str]:
    """Return the names of an event's file: as the event has them, or else the last segment of its URL."""
    names = [name for key in _NAME_KEYS if (name := event.get(key)) and isinstance(name, str)]
    segment = last_path_segment(url) if url and not names else None
    return [segment] if segment else names


def source_url(event_type: str | None, url: str | None) -> str | None:
    """Return where a download came from; None for uploads, and for a redirect, whose `url` was a path."""
    return None if not url or event_type == FILE_UPLOAD or url.startswith("/") else url


def _cut(text: str | None, max_chars: int) -> str | None:
    return None if text is None else inert_cut(text, max_chars)


def reason_without_file(event: Mapping[str, object]) -> str:
    """Return the counter for a file event for which `file_sighting` returns None."""
    return SKIPPED_EMPTY_SHASUM if event.get("shasum") == "" else SKIPPED_NO_SHASUM


def smallest(first: str | None, second: str | None) -> str | None:
    """Return the smaller text in binary order, where None is larger than any text.

    Which of several observations wins is arbitrary, but does not depend on their order.
    """
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
