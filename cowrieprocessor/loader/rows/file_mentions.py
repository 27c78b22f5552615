"""The URLs and names that a batch's events mention with files, whether a file was fetched or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cowrieprocessor.events import FILE_DOWNLOAD_FAILED, Event
from cowrieprocessor.interpret.file_events import (
    MAX_FILENAME_CHARS,
    MAX_URL_CHARS,
    ORIGINS,
    names_of,
    source_url,
    url_field,
)
from cowrieprocessor.sanitize import inert_key

URL, NAME = "url", "name"
"""What a file can be mentioned with: the values of `kind`."""

FILE_EVENTS = frozenset({*ORIGINS, FILE_DOWNLOAD_FAILED})
"""The events that mention URLs or names of files."""

NO_FILE = ""
"""The hash of a download without a file in `files`: it failed, was empty, or its hash is malformed."""

_DIGEST_CHARS = 32


@dataclass(slots=True)
class FileMentions:
    """All mentions in the file events of a batch; adding an event again changes nothing."""

    _times: dict[tuple[str, str, str, str], tuple[str, str]] = field(default_factory=dict)

    def add(self, event: Event, file_hash: str) -> None:
        """Add what a file event mentions; nothing if it has no session or no readable time.

        Args:
            event: one of `FILE_EVENTS`.
            file_hash: the SHA-256 of its file in lower case, or `NO_FILE`; then its names are those of no file.
        """
        moment = event.moment
        if not event.session_id or moment is None:
            return
        for kind, value in _mentioned(event, has_file=file_hash != NO_FILE):
            key = (event.session_id, file_hash, kind, value)
            first, last = self._times.get(key, (moment, moment))
            self._times[key] = (min(first, moment), max(last, moment))

    def merge(self, other: FileMentions) -> None:
        """Add the mentions of other events."""
        for key, (first, last) in other._times.items():
            known = self._times.get(key, (first, last))
            self._times[key] = (min(first, known[0]), max(last, known[1]))

    def rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_mentions`, sorted by key."""
        return sorted(
            [session_id, _digest(kind, file_hash, value), file_hash, kind, value, *times]
            for (session_id, file_hash, kind, value), times in self._times.items()
        )


def _mentioned(event: Event, *, has_file: bool) -> Iterator[tuple[str, str]]:
    """Yield kind and value of each mention; of a value that is too long, its beginning and its SHA-256."""
    fields = event.fields
    url = url_field(fields)
    source = source_url(event.event_type, url)
    if source is not None:
        yield URL, inert_key(source, MAX_URL_CHARS)
    if has_file:
        for name in names_of(fields, url):
            yield NAME, inert_key(name, MAX_FILENAME_CHARS)


def _digest(kind: str, file_hash: str, value: str) -> str:
    return sha256(f"{kind}\0{file_hash}\0{value}".encode()).hexdigest()[:_DIGEST_CHARS]
