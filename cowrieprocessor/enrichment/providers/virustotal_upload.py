"""Uploads to VirusTotal of files that it does not know: only where a site has said so, and each file once."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.response_cache import cached_answers, store_in_cache
from cowrieprocessor.enrichment.providers.base import Failed, Provider, RateLimited, Refused, Reply, Request, Sample
from cowrieprocessor.enrichment.providers.virustotal import (
    SMALL_UPLOAD_BYTES,
    UploadAddress,
    Uploaded,
    VirusTotal,
)
from cowrieprocessor.settings import Settings

LEDGER_OF_UPLOADS = "virustotal-upload"
"""Under this name the cache remembers what was uploaded, so that it is done once."""

MAX_UPLOAD_BYTES = 64 << 20
"""A larger file is not uploaded: it is held in memory as a whole."""

UPLOAD_TRIES = 3
"""How often one file is tried to be uploaded before it waits until it is asked about again."""

REMEMBERED = dt.timedelta(days=30)
ANALYSED_AFTER = dt.timedelta(minutes=15)
"""How long after an upload its report is asked for."""

Send = Callable[[Request], Reply | Failed | None]
"""Sends a request within quota; None where the quota does not allow it now."""


class Uploads:
    """Uploads captured files.

    Args:
        engine: the database.
        folder: the captured files, each under its SHA-256.
        provider: where to.
        clock: the time.
        say: told what was uploaded and what could not be.
    """

    def __init__(
        self, engine: Engine, folder: Path, provider: VirusTotal, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._provider = provider
        self._clock = clock
        self._say = say

    @classmethod
    def of(
        cls, engine: Engine, settings: Settings, provider: Provider, clock: Clock, say: Callable[[str], None]
    ) -> Uploads | None:
        """Return what uploads to a source; None if it takes none or the settings name no folder."""
        if settings.virustotal_upload_from is None or not isinstance(provider, VirusTotal):
            return None
        return cls(engine, Path(settings.virustotal_upload_from).expanduser(), provider, clock, say)

    def has(self, sample: Sample) -> bool:
        """Return whether there is such a file that was not uploaded lately."""
        path = self._folder / sample.sha256
        return path.is_file() and not path.is_symlink() and not self._was_uploaded(sample.sha256)

    def upload(self, sample: Sample, send: Send) -> Uploaded | RateLimited | Refused | Failed | None:
        """Upload a file.

        Returns:
            What came of it; None if there was nothing to send, or the quota does not allow it now.
        """
        content = self._content(self._folder / sample.sha256, sample.sha256)
        if content is None:
            return None
        outcome = self._send(sample.sha256, content, send)
        if isinstance(outcome, Uploaded):
            self._remember(sample.sha256, outcome.analysis_id)
            self._say(f"{sample.sha256}: uploaded to VirusTotal")
        elif outcome is not None:
            self._say(f"{sample.sha256}: not uploaded: {outcome.reason}")
        return outcome

    def _send(self, name: str, content: bytes, send: Send) -> Uploaded | RateLimited | Refused | Failed | None:
        request = self._provider.upload_request(name, content)
        if len(content) >= SMALL_UPLOAD_BYTES:
            reply = send(self._provider.upload_address_request())
            if not isinstance(reply, Reply):
                return reply
            address = self._provider.upload_address(reply)
            if not isinstance(address, UploadAddress):
                return address
            request = self._provider.upload_to(address, name, content)
        reply = send(request)
        return self._provider.uploaded(reply) if isinstance(reply, Reply) else reply

    def _content(self, path: Path, sha256: str) -> bytes | None:
        """Return the file's content if it is what its name says; a symbolic link is not followed."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_UPLOAD_BYTES:
                    return None
                content = file.read(MAX_UPLOAD_BYTES + 1)
        except OSError as error:
            self._say(f"{path}: not uploaded: {error.strerror}")
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            self._say(f"{path}: not uploaded: its content is not what its name says")
            return None
        return content

    def _was_uploaded(self, sha256: str) -> bool:
        with read_transaction(self._engine) as connection:
            before = cached_answers(connection, LEDGER_OF_UPLOADS, [sha256]).get(sha256)
        return before is not None and before.expires_at > self._clock.now()

    def _remember(self, sha256: str, analysis_id: str) -> None:
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            store_in_cache(
                connection, LEDGER_OF_UPLOADS, sha256, "uploaded", {"analysis": analysis_id}, now, now + REMEMBERED
            )
