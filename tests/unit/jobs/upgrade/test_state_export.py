"""The export of v4-only state: complete or refused, and merged without losing newer data."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, select, text, update

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.errors import BadSavedFile, InputNotFound, MigrationNeeded
from cowrieprocessor.jobs.upgrade.state_export import export_state, import_state, read_export
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v3_schema
from tests import v4_state_scene as scene
from tests.v4_state_scene import LATER, MOMENT, SHA_A, SHA_B, SHA_C, SHA_D, T

OF_FORMAT_1 = Path(__file__).with_name("state_of_format_1.jsonl")
"""What a rollback saved before tables declared it; made by the code of then, from `v4_state_scene`."""


@pytest.fixture
def known(engine: Engine, tmp_path: Path) -> Engine:
    """A database with all kinds of v4-only state, on SQLite and on PostgreSQL."""
    add_state(engine, tmp_path)
    return engine


def add_state(engine: Engine, folder: Path) -> None:
    """Give a database all kinds of v4-only state."""
    BulkLoader(engine).load([scene.write_log(folder / "cowrie.json")])
    with write_transaction(engine) as connection:
        connection.execute(
            insert(T["file_hashes"]).values(sha256=SHA_B, first_seen=MOMENT, last_seen=MOMENT, session_count=1)
        )
    scene.learn(engine)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of an export, made once."""
    folder = tmp_path_factory.mktemp("saved")
    engine = get_engine(folder / "known.sqlite")
    apply_migrations(engine)
    add_state(engine, folder)
    export_state(engine, folder / "saved")
    engine.dispose()
    return lines_of(folder / "saved")


@pytest.fixture
def saved(known: Engine, tmp_path: Path) -> Path:
    """An export of that database."""
    export_state(known, tmp_path / "saved")
    return tmp_path / "saved"


def lines_of(path: Path) -> list[bytes]:
    """Return the lines of an export."""
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def write(path: Path, lines: list[bytes], *, seal: bool = False) -> None:
    """Write an export with these lines; with `seal` its end line has the right digest."""
    if seal:
        end = json.loads(lines[-1])
        end["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
        lines = [*lines[:-1], json.dumps(end, sort_keys=True, separators=(",", ":")).encode() + b"\n"]
    path.write_bytes(gzip.compress(b"".join(lines)))


def test_summary_counts_rows(known: Engine, tmp_path: Path) -> None:
    """The summary counts rows by table, in one line."""
    done = export_state(known, tmp_path / "saved")
    assert done.rows == {
        "file_hashes": 4,
        "files": 1,
        "file_verdicts": 2,
        "enrichment_cache": 1,
        "enrichment_queue": 1,
        "api_quota": 1,
        "verdict_propagation": 1,
        "log_files": 1,
        "jobs": 2,
    }
    assert "4 of file_hashes, 1 of files" in done.summary()
    assert done == read_export(tmp_path / "saved")


def test_hashes_known_from_events_are_not_exported(engine: Engine, tmp_path: Path) -> None:
    """A hash with nothing but the data of its events is not exported."""
    BulkLoader(engine).load([scene.write_log(tmp_path / "cowrie.json")])
    assert export_state(engine, tmp_path / "saved").rows == {"log_files": 1, "jobs": 1}


DAMAGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "no end": lambda lines: lines[:-1],
    "half a line": lambda lines: [*lines[:-1], lines[-1][:20]],
    "a row is gone": lambda lines: [lines[0], *lines[2:]],
    "a row is twice": lambda lines: [*lines[:2], *lines[1:]],
    "a field is another": lambda lines: [line.replace(b'"used":123', b'"used":0') for line in lines],
    "header is another": lambda lines: [lines[0].replace(b'"schema_version":4', b'"schema_version":5'), *lines[1:]],
    "more after the end": lambda lines: [*lines, lines[1]],
    "nothing": lambda lines: [],
    "something else": lambda lines: [b'{"eventid": "cowrie.session.connect"}\n'],
    "no JSON": lambda lines: [b"\x00\xff\n"],
    "deep": lambda lines: [lines[0], b"[" * 100_000 + b"\n"],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_altered_files_are_refused(whole_file: list[bytes], tmp_path: Path, damage: str) -> None:
    """A file with missing, repeated, altered or added lines is refused; the intact file is not."""
    write(tmp_path / "saved", whole_file)
    assert read_export(tmp_path / "saved").rows["api_quota"] == 1
    write(tmp_path / "saved", DAMAGES[damage](whole_file))
    with pytest.raises(BadSavedFile, match="the file is not trusted"):
        read_export(tmp_path / "saved")


FORGERIES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "another version": lambda lines: [lines[0].replace(b'"format_version":2', b'"format_version":3'), *lines[1:]],
    "no moment": lambda lines: [lines[0].replace(b'"saved_at":"2', b'"saved_at":"x'), *lines[1:]],
    "another table": lambda lines: [line.replace(b'["api_quota"', b'["raw_events"') for line in lines],
    "another column": lambda lines: [line.replace(b'"used":', b'"more":') for line in lines],
    "text for a number": lambda lines: [line.replace(b'"used":123', b'"used":"123"') for line in lines],
    "a number too large": lambda lines: [line.replace(b'"used":123', b'"used":%d' % 2**63) for line in lines],
    "a flag for a number": lambda lines: [line.replace(b'"used":123', b'"used":true') for line in lines],
    "nothing for a number": lambda lines: [line.replace(b'"used":123', b'"used":null') for line in lines],
    "no time": lambda lines: [line.replace(b'"fetched_at":"20', b'"fetched_at":"xx') for line in lines],
    "no zone": lambda lines: [line.replace(b"+00:00", b"") for line in lines],
    "no row": lambda lines: [lines[0], b"[1]\n", *lines[1:]],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_invalid_rows_are_refused(whole_file: list[bytes], tmp_path: Path, forgery: str) -> None:
    """A file with the right digest but invalid rows is refused, too; sealed without forgery it is not."""
    write(tmp_path / "saved", whole_file, seal=True)
    assert read_export(tmp_path / "saved").rows["api_quota"] == 1
    write(tmp_path / "saved", FORGERIES[forgery](whole_file), seal=True)
    with pytest.raises(BadSavedFile, match="the file is not trusted"):
        read_export(tmp_path / "saved")


def test_nothing_is_written_from_a_bad_file(saved: Path, engine: Engine) -> None:
    """A file with only a wrong last line is refused before its first row is written."""
    write(saved, [*lines_of(saved)[:-1], b"{}\n"])
    with write_transaction(engine) as connection:
        for table in ("api_quota", "file_verdicts", "enrichment_cache"):
            connection.execute(delete(T[table]))
    before = scene.contents(engine)
    with pytest.raises(BadSavedFile):
        import_state(engine, saved)
    assert before == scene.contents(engine)


def test_truncated_files_are_refused(whole_file: list[bytes], tmp_path: Path) -> None:
    """A file truncated by a full disk or a kill is refused, wherever it ends."""
    saved = tmp_path / "saved"
    write(saved, whole_file)
    content = saved.read_bytes()
    for length in (*range(0, len(content), 97), len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(BadSavedFile):
            read_export(saved)


def test_missing_and_special_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder and a FIFO are refused without blocking."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputNotFound, match="no such file"):
        read_export(tmp_path / "missing")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(BadSavedFile):
            read_export(path)


def test_version_3_imports_nothing(whole_file: list[bytes], tmp_path: Path, v3_file: Path) -> None:
    """A database has to be migrated first."""
    write(tmp_path / "saved", whole_file)
    engine = get_engine(v3_file)
    with pytest.raises(MigrationNeeded, match="db migrate"):
        import_state(engine, tmp_path / "saved")
    engine.dispose()


def columns_of(engine: Engine, table: str, *columns: str, **key: object) -> tuple[Any, ...]:
    """Return columns of the only row with a key."""
    query = select(*(T[table].c[column] for column in columns))
    for column, value in key.items():
        query = query.where(T[table].c[column] == value)
    with read_transaction(engine) as connection:
        return tuple(connection.execute(query).one())


def test_newer_data_is_kept(saved: Path, known: Engine) -> None:
    """Newer answers, verdicts, counts, attempts and cursors than the file's are kept."""
    newer = LATER.replace(day=20)
    with write_transaction(known) as connection:
        connection.execute(update(T["enrichment_cache"]).values(fetched_at=newer, status="newer"))
        connection.execute(update(T["api_quota"]).values(used=400, allowed=1000))
        connection.execute(update(T["enrichment_queue"]).values(attempts=9))
        connection.execute(update(T["log_files"]).values(values_done=77))
        connection.execute(update(T["file_hashes"]).values(vt_scan_date=newer, vt_positives=50, family="newer"))
        connection.execute(update(T["file_verdicts"]).values(confirmed_at=newer))
    before = scene.contents(known)
    imported = import_state(known, saved)
    assert imported.files_updated > 0
    assert before["file_hashes"] == scene.contents(known)["file_hashes"]
    assert (50, "newer") == columns_of(known, "file_hashes", "vt_positives", "family", sha256=SHA_A)
    assert {0} == {result.added + result.updated for result in imported.tables.values()}


def test_older_data_is_replaced(saved: Path, known: Engine) -> None:
    """Older answers, verdicts and counts than the file's are replaced, and reach every row of files."""
    older = MOMENT.replace(year=2024)
    expected = scene.contents(known)
    with write_transaction(known) as connection:
        connection.execute(update(T["enrichment_cache"]).values(fetched_at=older, status="older"))
        connection.execute(update(T["api_quota"]).values(used=1, allowed=None))
        connection.execute(update(T["enrichment_queue"]).values(attempts=0, status="pending", last_error=None))
        connection.execute(
            update(T["file_hashes"])
            .where(T["file_hashes"].c.sha256 == SHA_A)
            .values(vt_scan_date=older, vt_positives=1, vt_malicious=False, verdict="clean", reputation=None)
        )
        connection.execute(update(T["files"]).values(vt_positives=1, vt_malicious=False, file_size=None))
        connection.execute(update(T["file_verdicts"]).values(confirmed_at=older))
        connection.execute(update(T["session_summaries"]).values(vt_flagged=False))
    import_state(known, saved)
    assert [] == scene.difference(expected, scene.contents(known))


def test_only_missing_scan_results_are_filled_in(saved: Path, known: Engine) -> None:
    """Facts about a file's content do not change; those missing after a new scan are filled in."""
    with write_transaction(known) as connection:
        connection.execute(update(T["file_hashes"]).values(mime_type=None, md5="6" * 32))
    import_state(known, saved)
    assert ("text/x-sh", "6" * 32) == columns_of(known, "file_hashes", "mime_type", "md5", sha256=SHA_D)


def test_a_file_named_by_a_log_is_no_artifact(saved: Path, known: Engine) -> None:
    """A captured file that a log has named since the export is not added as an artifact."""
    with write_transaction(known) as connection:
        connection.execute(
            update(T["files"]).where(T["files"].c.shasum == SHA_C).values(session_id="s9", origin="upload")
        )
    import_state(known, saved)
    assert ("s9", "upload") == columns_of(known, "files", "session_id", "origin", shasum=SHA_C)


def test_a_file_of_the_first_format_is_read(engine: Engine, tmp_path: Path) -> None:
    """What a rollback of release 0.4.0 saved before tables declared it is imported completely, and once."""
    lines = OF_FORMAT_1.read_bytes().splitlines(keepends=True)
    write(tmp_path / "saved", lines)
    rows = [json.loads(line) for line in lines[1:-1]]
    log = next(row for name, row in rows if name == "log_files")
    with write_transaction(engine) as connection:
        event = {name: log[name] for name in ("source", "source_inode", "source_generation")}
        event |= {"source_offset": log["next_offset"] - 1, "payload_hash": log["last_value_hash"], "payload": {}}
        connection.execute(insert(T["raw_events"]).values(event))

    first = import_state(engine, tmp_path / "saved").tables
    again = import_state(engine, tmp_path / "saved").tables

    given = Counter(name for name, _ in rows)
    not_taken = {"jobs": 4}  # they describe the database that was rolled back
    assert {name: count - not_taken.get(name, 0) for name, count in given.items()} == {
        name: merged.added for name, merged in first.items()
    }
    assert {0} == {merged.added + merged.updated for merged in again.values()}
    assert (40, "malicious") == columns_of(engine, "file_hashes", "vt_positives", "verdict", sha256=SHA_A)
    assert (0,) == columns_of(engine, "verdict_propagation", "cursor", sha256=SHA_B)
    assert (log["byte_pos"],) == columns_of(engine, "log_files", "byte_pos")


def test_jobs_of_one_database_are_not_imported(whole_file: list[bytes], tmp_path: Path) -> None:
    """Jobs of backfill and migration are not imported; jobs that had not ended are stopped."""
    saved = tmp_path / "saved"
    lines = [line.replace(b'"name":"scan"', b'"name":"backfill-files"') for line in whole_file]
    write(saved, [line.replace(b'"state":"done"', b'"state":"running"') for line in lines], seal=True)
    engine = get_engine(v3_schema.create(tmp_path / "v3.sqlite"))
    apply_migrations(engine)
    import_state(engine, saved)
    with read_transaction(engine) as connection:
        jobs = connection.execute(text("SELECT name, state FROM jobs ORDER BY name")).all()
    assert jobs == [("load", "stopped"), ("migrate", "done")]
    engine.dispose()


def test_rows_of_files_are_changed_in_parts(saved: Path, known: Engine) -> None:
    """The rows of a popular hash get its verdict in transactions of bounded size."""
    with write_transaction(known) as connection:
        rows = [{"session_id": f"p{number}", "shasum": SHA_A, "first_seen": MOMENT} for number in range(40)]
        connection.execute(insert(T["files"]), rows)
    assert import_state(known, saved, propagated_at_once=7).files_updated == 40
    with read_transaction(known) as connection:
        assert 41 == connection.execute(text("SELECT count(*) FROM files WHERE vt_positives = 40")).scalar()


def test_an_interrupted_import_is_completed_by_the_next(whole_file: list[bytes], tmp_path: Path) -> None:
    """An import interrupted after any transaction and repeated ends with the same rows."""
    saved = tmp_path / "saved"
    write(saved, whole_file)
    whole, parts = (get_engine(tmp_path / name) for name in ("whole.sqlite", "parts.sqlite"))
    for engine in (whole, parts):
        apply_migrations(engine)
    import_state(whole, saved)
    for limit in range(1, 9):
        seen: list[object] = []

        def stop(merged: object, seen: list[object] = seen, limit: int = limit) -> None:
            seen.append(merged)
            if len(seen) == limit:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_state(parts, saved, on_progress=stop)
    import_state(parts, saved)
    assert [] == scene.difference(scene.contents(whole), scene.contents(parts))
    for engine in (whole, parts):
        engine.dispose()


@pytest.mark.postgres
def test_exports_are_independent_of_the_dialect(tmp_path: Path, postgres_url: str) -> None:
    """An export of either database can be imported into the other: the file is independent of the dialect."""
    first, second, third = (get_engine(db) for db in (tmp_path / "1.sqlite", postgres_url, tmp_path / "3.sqlite"))
    for engine in (first, second, third):
        apply_migrations(engine)
    scene.learn(first)
    for source, target in ((first, second), (second, third)):
        export_state(source, tmp_path / f"saved-{target.name}")
        import_state(target, tmp_path / f"saved-{target.name}")
    assert [] == scene.difference(scene.contents(first), scene.contents(second))
    assert [] == scene.difference(scene.contents(second), scene.contents(third))
    for engine in (first, second, third):
        engine.dispose()


def test_a_checkpoint_without_its_events_is_not_imported(tmp_path: Path) -> None:
    """After a backup was restored, an exported checkpoint would hide events forever, so the log is loaded again."""
    path, log = tmp_path / "x.sqlite", scene.write_log(tmp_path / "cowrie.json")
    made = get_engine(path)
    apply_migrations(made)
    BulkLoader(made).load([log])
    with read_transaction(made) as connection:
        events = connection.execute(text("SELECT count(*) FROM raw_events")).scalar_one()
    export_state(made, tmp_path / "saved")
    dispose(made)
    restored = get_engine(tmp_path / "restored.sqlite")
    apply_migrations(restored)
    import_state(restored, tmp_path / "saved")
    BulkLoader(restored).load([log])
    with read_transaction(restored) as connection:
        found = connection.execute(text("SELECT count(*) FROM raw_events")).scalar_one()
    dispose(restored)

    assert events == found > 0
