"""Uploads: only if a site enabled them, only files that VirusTotal does not know, each once and unchanged."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.enrichment.providers.virustotal_upload import UPLOAD_TRIES, Uploads
from tests.stand_ins.scene import Services, download, load, services
from tests.stand_ins.server import answering
from tests.stand_ins.virustotal import KEY, USER, error, limited, report
from tests.unit.enrichment.one_source import enrichment_by, steps_until_done

CONTENT = b"#!/bin/sh\necho dropped\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ONLY = ("virustotal",)


@pytest.fixture
def here() -> Iterator[Services]:
    """Every service."""
    with services() as all_of_them:
        yield all_of_them


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Path:
    """The captured files, and a database that knows the session of one of them."""
    made = tmp_path / "downloads"
    made.mkdir()
    (made / SHA256).write_bytes(CONTENT)
    load(engine, tmp_path, [download(1, SHA256)])
    return made


def test_nothing_is_uploaded_unless_a_folder_is_named(engine: Engine, folder: Path, here: Services) -> None:
    """Without the setting no file leaves the machine."""
    here.enrich(engine, enrichment_providers=ONLY)
    assert folder.is_dir()
    assert {SHA256: 1, "overall_quotas": 1} == here.virustotal.asked()
    assert [] == here.virustotal.uploads


def test_an_unknown_file_is_uploaded_once_and_asked_about_again(engine: Engine, folder: Path, here: Services) -> None:
    """A file that VirusTotal does not know is uploaded; a quarter of an hour later its report is asked for."""
    upload = {"enrichment_providers": ONLY, "virustotal_upload_from": str(folder)}
    result = here.enrich(engine, **upload)
    assert [(SHA256, CONTENT)] == here.virustotal.uploads
    assert 1 == result.counters["virustotal"]["uploaded"]
    here.enrich(engine, **upload)
    assert 1 == here.virustotal.asked()[SHA256]
    here.virustotal.files[SHA256] = report(SHA256, malicious=4, total=61)
    here.clock.advance(minutes=16)
    here.enrich(engine, **upload)
    assert 2 == here.virustotal.asked()[SHA256]
    assert 1 == len(here.virustotal.uploads)
    with read_transaction(engine) as connection:
        assert 4 == connection.scalar(text("SELECT vt_positives FROM files"))


def test_a_file_still_unknown_is_not_uploaded_again(engine: Engine, folder: Path, here: Services) -> None:
    """As long as its upload is recorded, a file that is still unknown is only asked about."""
    upload = {"enrichment_providers": ONLY, "virustotal_upload_from": str(folder)}
    for days in (0, 1, 3, 6):
        here.clock.advance(days=days)
        here.enrich(engine, **upload)
    assert 4 == here.virustotal.asked()[SHA256]
    assert 1 == len(here.virustotal.uploads)


def test_uploads_wait_for_the_quota_like_questions(
    engine: Engine, folder: Path, tmp_path: Path, here: Services
) -> None:
    """Many unknown files at four requests a minute are uploaded in turn, and no limit is exceeded."""
    others = [CONTENT + bytes([number]) for number in range(6)]
    hashes = [hashlib.sha256(content).hexdigest() for content in others]
    for sha256, content in zip(hashes, others, strict=True):
        (folder / sha256).write_bytes(content)
    load(engine, tmp_path, [download(f"other{number}", sha256) for number, sha256 in enumerate(hashes)], "other.json")
    here.enrich(engine, enrichment_providers=ONLY, virustotal_upload_from=str(folder))
    assert {SHA256, *hashes} == {name for name, _ in here.virustotal.uploads}
    assert 7 == len(here.virustotal.uploads)
    assert [] == here.virustotal.violations


def test_what_is_not_what_its_name_says_stays_here(engine: Engine, folder: Path, here: Services) -> None:
    """A file with another content, a symbolic link, an empty file and a known file are not uploaded."""
    upload = {"enrichment_providers": ONLY, "virustotal_upload_from": str(folder)}
    (folder / SHA256).write_bytes(CONTENT + b"more")
    here.enrich(engine, **upload)
    (folder / SHA256).unlink()
    (folder / "elsewhere").write_bytes(CONTENT)
    (folder / SHA256).symlink_to(folder / "elsewhere")
    here.clock.advance(days=1)
    here.enrich(engine, **upload)
    (folder / SHA256).unlink()
    (folder / SHA256).write_bytes(CONTENT)
    here.virustotal.add(SHA256)
    here.clock.advance(days=3)
    here.enrich(engine, **upload)
    assert 3 == here.virustotal.asked()[SHA256]
    assert [] == here.virustotal.uploads


def test_an_upload_that_is_refused_is_said_and_tried_again_another_time(
    engine: Engine, folder: Path, here: Services
) -> None:
    """A failed upload loses nothing: the file stays unknown, and is uploaded when it is asked about again."""
    upload = {"enrichment_providers": ONLY, "virustotal_upload_from": str(folder)}
    here.virustotal.script("upload", [answering("busy", error(503, "TransientError"))] * UPLOAD_TRIES)
    here.enrich(engine, **upload)
    assert [] == here.virustotal.uploads
    assert UPLOAD_TRIES == here.virustotal.asked()["upload"]
    here.clock.advance(dt.timedelta(days=1).total_seconds())
    here.enrich(engine, **upload)
    assert 1 == len(here.virustotal.uploads)


def test_an_upload_that_is_told_to_wait_waits(engine: Engine, folder: Path, here: Services) -> None:
    """A 429 to an upload pauses the source as long as it says, and the upload is made afterwards."""
    here.virustotal.script("upload", [limited("60")])
    here.enrich(engine, enrichment_providers=ONLY, virustotal_upload_from=str(folder))
    assert [(SHA256, CONTENT)] == here.virustotal.uploads
    assert 2 == here.virustotal.asked()["upload"]
    assert [] == here.virustotal.violations


def test_a_large_file_goes_to_an_address_of_its_own(engine: Engine, folder: Path, here: Services) -> None:
    """From 32 MB on the address is requested first; each of the requests is in the ledger."""
    provider = VirusTotal(here.virustotal.url, KEY, user=USER)
    uploads = Uploads(engine, folder, provider, here.clock, print, small_bytes=10)
    with HttpClient(10.0, here.clock) as client:
        steps_until_done(enrichment_by(provider, engine, client, here.clock, uploads=uploads), here.clock)
    assert [(SHA256, CONTENT)] == here.virustotal.uploads
    assert any("big_upload" in received.path for received in here.virustotal.log)
    with read_transaction(engine) as connection:
        used = connection.scalar(text("SELECT used FROM api_quota WHERE \"window\" = '2026-03-01'"))
    assert len(here.virustotal.log) == used == 4
