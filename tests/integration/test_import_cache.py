"""v3's cache folder is taken in: three layouts, ages, what is no answer; again is a no-op."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.errors import InputNotFound
from cowrieprocessor.jobs.enrichment.run import import_v3_cache
from cowrieprocessor.settings import Settings
from tests.enrichment_scene import dump_other_tables
from tests.stand_ins.clock import START, ManualClock
from tests.stand_ins.scene import download, load, services, sha256_of
from tests.stand_ins.virustotal import report

PLAIN, PREFIXED, KEYED, GONE = (sha256_of(name) for name in ("plain", "prefixed", "keyed", "gone"))


def write(path: Path, content: bytes | dict[str, Any], *, days_old: float) -> None:
    """Write a file of the cache, with an age."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    moment = (START - dt.timedelta(days=days_old)).timestamp()
    os.utime(path, (moment, moment))


def answer(sha256: str, **how: Any) -> dict[str, Any]:
    """Return what v3 kept of VirusTotal's answer about a file."""
    return {"data": {"type": "file", "id": sha256, "attributes": report(sha256, **how)}}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with each layout, and what else lies in such folders."""
    folder = tmp_path / "cache"
    write(folder / PLAIN, answer(PLAIN, malicious=12, total=70), days_old=3)
    write(folder / f"vt_{PREFIXED}.json", answer(PREFIXED, malicious=0, total=66, label=None), days_old=20)
    keyed = sha256_of("the key of an entry")
    write(folder / "virustotal" / keyed[:2] / f"{keyed}.json", answer(KEYED, malicious=3, total=60), days_old=1)
    write(folder / GONE, {"error": {"code": "NotFoundError", "message": "not found"}}, days_old=0.1)
    nameless = sha256_of("nameless")
    write(folder / "virustotal" / nameless[:2] / f"{nameless}.json", {"error": {"code": "NotFoundError"}}, days_old=1)
    write(folder / sha256_of("cut"), b'{"data": {"id": "', days_old=1)
    write(folder / sha256_of("empty"), b"", days_old=1)
    write(folder / "dshield" / "198.51.100.1.json", {"ip": {}}, days_old=1)
    (folder / sha256_of("link")).symlink_to(folder / PLAIN)
    return folder


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    """Return what a query returns."""
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_every_layout_is_taken_in(engine: Engine, tmp_path: Path, cache: Path) -> None:
    """Verdicts come with the age of their files; what is no answer is listed with its path and why."""
    load(engine, tmp_path, [download(name[:8], name) for name in (PLAIN, PREFIXED, KEYED, GONE)])
    result = import_v3_cache(engine, cache, Settings(), clock=ManualClock())
    assert (8, 3, 1, 1) == (result.files, result.found, result.unknown, result.passed_over)
    assert result.expired == 1
    assert {"cut", "empty", "nameless", "link"} == {
        name
        for name in ("cut", "empty", "nameless", "link")
        for path, _ in result.unreadable
        if sha256_of(name) in path
    }
    assert len(result.unreadable) == 4
    assert all(why for _, why in result.unreadable)
    assert {(PLAIN, 12, "malicious"), (PREFIXED, 0, "clean"), (KEYED, 3, "malicious"), (GONE, None, "unknown")} == set(
        rows(
            engine, "SELECT f.shasum, f.vt_positives, h.verdict FROM files f JOIN file_hashes h ON f.shasum = h.sha256"
        )
    )
    (asked,) = rows(engine, f"SELECT vt_scan_date FROM file_hashes WHERE sha256 = '{PLAIN}'")
    assert str((START - dt.timedelta(days=3)).date()) in str(asked[0])
    assert [] == rows(engine, "SELECT * FROM verdict_propagation")


def test_again_changes_nothing(engine: Engine, tmp_path: Path, cache: Path) -> None:
    """A second import writes nothing new."""
    load(engine, tmp_path, [download(name[:8], name) for name in (PLAIN, GONE)])
    clock = ManualClock()
    import_v3_cache(engine, cache, Settings(), clock=clock)
    before = dump_other_tables(engine), rows(engine, "SELECT * FROM enrichment_cache ORDER BY key")
    import_v3_cache(engine, cache, Settings(), clock=clock)
    assert before == (dump_other_tables(engine), rows(engine, "SELECT * FROM enrichment_cache ORDER BY key"))


def test_what_was_paid_for_is_not_asked_again(engine: Engine, tmp_path: Path, cache: Path) -> None:
    """After the import only the answer that is too old is asked for, also where the file is loaded afterwards."""
    import_v3_cache(engine, cache, Settings(), clock=ManualClock())
    load(engine, tmp_path, [download(name[:8], name) for name in (PLAIN, PREFIXED, KEYED, GONE)])
    with services() as here:
        here.enrich(engine, enrichment_providers=("virustotal",))
        assert {PREFIXED, "overall_quotas"} == set(here.virustotal.asked())
    assert [(12,)] == rows(engine, f"SELECT vt_positives FROM files WHERE shasum = '{PLAIN}'")


def test_staged_only_the_cache_is_written(engine: Engine, tmp_path: Path, cache: Path) -> None:
    """With USE_NEW_ENRICHMENT=0 the import fills cache and queue and changes nothing else."""
    load(engine, tmp_path, [download(1, PLAIN)])
    before = dump_other_tables(engine)
    import_v3_cache(engine, cache, Settings(use_new_enrichment=False), clock=ManualClock())
    assert before == dump_other_tables(engine)
    assert 4 == len(rows(engine, "SELECT * FROM enrichment_cache WHERE key NOT LIKE 'staged:%'"))


def test_no_such_folder(engine: Engine, tmp_path: Path) -> None:
    """A folder that is not there is said so."""
    with pytest.raises(InputNotFound, match="no such folder"):
        import_v3_cache(engine, tmp_path / "nowhere", Settings())
