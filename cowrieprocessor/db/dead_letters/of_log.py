"""The dead letters of one log."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.dead_letters.positions import inodes_of_batch
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.db.models import DeadLetterEvent, LogFile

_LETTER = DeadLetterEvent.__table__
_LOG = LogFile.__table__


def letters_of(connection: Connection, log: SourceKey) -> list[int]:
    """Return the ids of the dead letters of a log.

    A dead letter has no inode. Where logs of the same name and generation differ only in that, it belongs to the log
    whose events were stored in the same transaction; it is not returned if there are none, or of several logs.
    """
    query = select(_LETTER.c.id, _LETTER.c.metadata_json).where(_LETTER.c.source == log.source).order_by(_LETTER.c.id)
    letters = [
        letter_id
        for letter_id, metadata in connection.execute(query)
        if (metadata or {}).get("generation") == log.source_generation
    ]
    namesakes = select(_LOG.c.identity).where(
        _LOG.c.source == log.source,
        _LOG.c.source_generation == log.source_generation,
        _LOG.c.source_inode != log.source_inode,
    )
    if not letters or connection.execute(namesakes.limit(1)).first() is None:
        return letters
    return [letter for letter in letters if inodes_of_batch(connection, letter) == {log.source_inode}]


def offsets_of(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Return the offsets of dead letters."""
    offsets: set[int] = set()
    for part in chunks(ids):
        query = select(_LETTER.c.source_offset).where(_LETTER.c.id.in_(part))
        offsets.update(int(offset) for (offset,) in connection.execute(query))
    return offsets


def delete_letters(connection: Connection, ids: Sequence[int]) -> None:
    """Delete dead letters."""
    for part in chunks(ids):
        connection.execute(delete(DeadLetterEvent).where(_LETTER.c.id.in_(part)))
