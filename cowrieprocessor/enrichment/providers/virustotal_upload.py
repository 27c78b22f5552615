"""Uploads files that VirusTotal does not know: only if a site has enabled it, and each file once."""

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

UPLOADS_IN_CACHE = "virustotal-upload"
"""The name under which the cache records uploads, so that each file is uploaded once."""

MAX_UPLOAD_BYTES = 64 << 20
"""The largest file that is uploaded: its whole content is in memory."""

UPLOAD_TRIES = 3
"""How often the upload of a file is tried before it waits until the source is asked about the file again."""

UPLOAD_VALID = dt.timedelta(days=30)
"""How long an upload is recorded."""

ANALYSIS_TIME = dt.timedelta(minutes=15)
"""How long after an upload its report is asked for."""

Send = Callable[[Request], Reply | Failed | None]
"""Sends a request within quota; returns None if the quota does not allow it now."""


class Uploads:
    """Uploads captured files.

    Args:
        engine: the database.
        folder: the captured files, each named by its SHA-256.
        provider: builds the requests and interprets the replies.
        clock: the current time.
        notify: called with one line for each file that was uploaded or could not be.
        small_bytes: files of this size or larger are uploaded to an address that is requested first.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        provider: VirusTotal,
        clock: Clock,
        notify: Callable[[str], None],
        *,
        small_bytes: int = SMALL_UPLOAD_BYTES,
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._provider = provider
        self._clock = clock
        self._notify = notify
        self._small_bytes = small_bytes

    @classmethod
    def of(
        cls, engine: Engine, settings: Settings, provider: Provider, clock: Clock, notify: Callable[[str], None]
    ) -> Uploads | None:
        """Return the uploads to a source; None if it takes no uploads or the settings name no folder."""
        if settings.virustotal_upload_from is None or not isinstance(provider, VirusTotal):
            return None
        return cls(engine, Path(settings.virustotal_upload_from).expanduser(), provider, clock, notify)

    def has(self, sample: Sample) -> bool:
        """Return whether the folder contains the file and it was not uploaded within the last 30 days."""
        path = self._folder / sample.sha256
        return path.is_file() and not path.is_symlink() and not self._was_uploaded(sample.sha256)

    def upload(self, sample: Sample, send: Send) -> Uploaded | RateLimited | Refused | Failed | None:
        """Upload a file.

        Args:
            sample: the file.
            send: sends one request within quota.

        Returns:
            The outcome; None if there is nothing to send, or the quota does not allow it now.
        """
        content = self._content(self._folder / sample.sha256, sample.sha256)
        if content is None:
            return None
        outcome = self._send(sample.sha256, content, send)
        if isinstance(outcome, Uploaded):
            self._record(sample.sha256, outcome.analysis_id)
            self._notify(f"{sample.sha256}: uploaded to VirusTotal")
        elif outcome is not None:
            self._notify(f"{sample.sha256}: not uploaded: {outcome.reason}")
        return outcome

    def _send(self, name: str, content: bytes, send: Send) -> Uploaded | RateLimited | Refused | Failed | None:
        request = self._provider.upload_request(name, content)
        if len(content) >= self._small_bytes:
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
        """Return the file's content if its name is its SHA-256; a symbolic link is not followed."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_UPLOAD_BYTES:
                    return None
                content = file.read(MAX_UPLOAD_BYTES + 1)
        except OSError as error:
            self._notify(f"{path}: not uploaded: {error.strerror}")
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            self._notify(f"{path}: not uploaded: its content is not what its name says")
            return None
        return content

    def _was_uploaded(self, sha256: str) -> bool:
        with read_transaction(self._engine) as connection:
            upload = cached_answers(connection, UPLOADS_IN_CACHE, [sha256]).get(sha256)
        return upload is not None and upload.expires_at > self._clock.now()

    def _record(self, sha256: str, analysis_id: str) -> None:
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            analysis = {"analysis": analysis_id}
            until = now + UPLOAD_VALID
            store_in_cache(connection, UPLOADS_IN_CACHE, sha256, "uploaded", analysis, now, until, now=now)
