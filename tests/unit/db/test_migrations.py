"""Migrations from an empty database, v3 and the planned v4; everything else is refused; a migration is atomic."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3 as standard_library
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import (
    CURRENT_SCHEMA_VERSION,
    SCHEMA_VERSION_KEY,
    apply_migrations,
    require_current,
    schema_version,
)
from cowrieprocessor.db.models import V3_TABLES, Base
from cowrieprocessor.db.revisions import HEAD
from cowrieprocessor.errors import DatabaseError, MigrationNeeded, NotADatabase, SchemaVersionError
from tests import v3_schema
from tests.earlier_revisions import go_back
from tests.other_connections import sqlite3

OPENER = Callable[[Path | str], Engine]


@pytest.fixture
def opened() -> Iterator[OPENER]:
    """Return a function that opens an engine, which is closed after the test."""
    engines: list[Engine] = []

    def open_(db: Path | str) -> Engine:
        engines.append(get_engine(db))
        return engines[-1]

    yield open_
    for engine in engines:
        dispose(engine)


def digest_of_v3(path: Path) -> dict[str, tuple[object, ...]]:
    """Return definition, number of rows and a digest of all rows of each v3 table except schema_state."""
    digests: dict[str, tuple[object, ...]] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for table in V3_TABLES:
            if table == "schema_state":
                continue
            sql = connection.execute("SELECT sql, rootpage FROM sqlite_master WHERE tbl_name = ?", (table,)).fetchall()
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            digests[table] = (sql, len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())
    return digests


def all_tables(path: Path) -> set[str]:
    """Return the names of the tables in an SQLite file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_version_is_4() -> None:
    """The current version is 4, stored under the key of v3."""
    assert (CURRENT_SCHEMA_VERSION, SCHEMA_VERSION_KEY) == (4, "schema_version")


def test_empty_database_is_migrated(db_url: str, opened: OPENER) -> None:
    """An empty database gets every table of the models and the current version; a second migration changes nothing."""
    engine = opened(db_url)
    assert schema_version(engine) is None
    assert [apply_migrations(engine), apply_migrations(engine)] == [4, 4]
    require_current(engine)
    with read_transaction(engine) as connection:
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_engine_of_sqlalchemy_itself_is_accepted(tmp_path: Path) -> None:
    """An engine that was created with SQLAlchemy directly is migrated, too."""
    engine = create_engine(f"sqlite:///{tmp_path / 'plain.sqlite'}")
    assert apply_migrations(engine) == 4
    assert schema_version(engine) == 4
    engine.dispose()


def test_memory_database_is_accepted(opened: OPENER) -> None:
    """An in-memory database is migrated and keeps its tables for the lifetime of the engine."""
    engine = opened("sqlite://")
    apply_migrations(engine)
    require_current(engine)


@pytest.mark.parametrize("from_v1", [False, True])
def test_v3_is_migrated_and_its_tables_stay(tmp_path: Path, opened: OPENER, from_v1: bool) -> None:
    """A v3 file, upgraded from v1 or not, gets the new, empty tables; its own tables and rows are unchanged."""
    path = v3_schema.create(tmp_path / "v3.sqlite", from_v1=from_v1)
    before = digest_of_v3(path)
    engine = opened(path)
    assert schema_version(engine) == 3
    assert apply_migrations(engine) == 4
    assert digest_of_v3(path) == before
    with read_transaction(engine) as connection:
        for table in set(Base.metadata.tables) - {*V3_TABLES, "jobs"}:
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
        assert connection.execute(text("SELECT name, state FROM jobs")).all() == [("migrate", "done")]


def test_corpus_v3_is_migrated_and_its_tables_stay(corpus_v3_file: Path, opened: OPENER) -> None:
    """The genuine v3 file keeps the definitions and rows of its tables."""
    before = digest_of_v3(corpus_v3_file)
    apply_migrations(opened(corpus_v3_file))
    assert digest_of_v3(corpus_v3_file) == before


def test_migrating_changes_few_old_pages(corpus_v3_file: Path, opened: OPENER, tmp_path: Path) -> None:
    """Of the existing pages only those of the catalog and schema_state change, so that size does not matter."""
    old = shutil.copy(corpus_v3_file, tmp_path / "old.sqlite")
    engine = opened(corpus_v3_file)
    apply_migrations(engine)
    dispose(engine)
    before, after = Path(old).read_bytes(), corpus_v3_file.read_bytes()
    size = 4096
    changed = [at // size for at in range(0, len(before), size) if before[at : at + size] != after[at : at + size]]
    assert len(before) // size > 1000
    assert len(changed) < 12


def test_migrated_file_works_in_the_standard_library(v3_file: Path, opened: OPENER) -> None:
    """Python's own sqlite3, which the tools of v3 use, reads and writes the migrated file."""
    engine = opened(v3_file)
    apply_migrations(engine)
    dispose(engine)
    with closing(standard_library.connect(v3_file)) as connection, connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        v3_schema.insert_events(connection, v3_schema.habits()[:1], source="/another.json")
        query = "SELECT count(*) FROM raw_events WHERE event_type = 'cowrie.session.connect'"
        assert connection.execute(query).fetchone() == (3,)


def test_existing_v4_tables_are_not_touched(engine: Engine) -> None:
    """Migrating a database that is at the current version keeps its rows."""
    with write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO files (session_id, shasum) VALUES ('s1', 'x')"))
    apply_migrations(engine)
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT session_id, shasum, origin FROM files")).all() == [
            ("s1", "x", "download")
        ]


@pytest.mark.parametrize("version", ["3", "4"])
def test_plan_with_only_files_is_completed(tmp_path: Path, opened: OPENER, version: str) -> None:
    """A database with only the planned files table gets the other tables; its rows are kept with origin download."""
    path = v3_schema.create(tmp_path / "planned.sqlite", version=version, planned_files=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO files (session_id, shasum) VALUES ('s1', 'x')")
        connection.execute("DROP INDEX ix_files_first_seen")
    engine = opened(path)
    with pytest.raises(MigrationNeeded, match="db migrate"):
        require_current(engine)
    assert apply_migrations(engine) == 4
    require_current(engine)
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT shasum, origin FROM files")).all() == [("x", "download")]
        assert {index["name"] for index in inspect(connection).get_indexes("files")} >= {"ix_files_first_seen"}


def test_plan_with_origin_is_completed(tmp_path: Path, opened: OPENER) -> None:
    """A database whose files table already has the column origin is completed, too."""
    path = v3_schema.create(tmp_path / "planned.sqlite", version="4", planned_files=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE files ADD COLUMN origin VARCHAR(16) NOT NULL DEFAULT 'download'")
    assert apply_migrations(opened(path)) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DROP TABLE session_summaries", "session_summaries"),
        ("CREATE TABLE jobs (name TEXT)", "some of the tables of version 4"),
        ("CREATE TABLE files (id INTEGER PRIMARY KEY, shasum TEXT)", "lacks the columns"),
        (v3_schema.PLANNED_FILES[0].replace("UNIQUE (session_id, shasum)", "CHECK (1)"), "not unique"),
        ("DELETE FROM schema_state", "None"),
        ("UPDATE schema_state SET value = 'three'", "three"),
    ],
)
def test_incomplete_database_is_refused(v3_file: Path, opened: OPENER, damage: str, message: str) -> None:
    """A v3 file with missing tables, or with some tables of another version, is refused and not changed."""
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        connection.execute(damage)
    before = all_tables(v3_file)
    with pytest.raises(SchemaVersionError, match=message):
        apply_migrations(opened(v3_file))
    assert all_tables(v3_file) == before


@pytest.mark.parametrize(("version", "remedy"), [("1", "load"), ("2", "load"), ("5", "newer"), ("99", "newer")])
def test_other_versions_are_refused(tmp_path: Path, opened: OPENER, version: str, remedy: str) -> None:
    """Versions 1 and 2 and later versions than the current one are refused with the remedy; nothing is changed."""
    path = v3_schema.create(tmp_path / "other.sqlite", version=version)
    before = path.read_bytes()
    engine = opened(path)
    for refused in (apply_migrations, require_current):
        with pytest.raises(SchemaVersionError, match=remedy) as caught:
            refused(engine)
        assert not isinstance(caught.value, MigrationNeeded)
    dispose(engine)
    assert path.read_bytes() == before


def test_v3_where_v4_is_needed_says_how_to_migrate(v3_file: Path, opened: OPENER) -> None:
    """If version 4 is required, the message for a v3 database says to make a backup and to migrate."""
    with pytest.raises(MigrationNeeded, match=r"backup first .*`cowrieprocessor db migrate --db "):
        require_current(opened(v3_file))


def test_empty_database_is_not_current(db_url: str, opened: OPENER) -> None:
    """If version 4 is required, the message for an empty database says to load logs."""
    with pytest.raises(SchemaVersionError, match="cowrieprocessor load"):
        require_current(opened(db_url))


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_another_applications_file_is_never_written(tmp_path: Path, opened: OPENER, journal: str) -> None:
    """A file with tables of another application is refused and stays byte for byte the same."""
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("CREATE TABLE moz_places (id INTEGER PRIMARY KEY)")
    before = path.read_bytes()
    engine = opened(path)
    for refused in (apply_migrations, require_current, schema_version):
        with pytest.raises(NotADatabase, match="moz_places"):
            refused(engine)
    dispose(engine)
    assert path.read_bytes() == before


def test_another_applications_schema_state_is_not_ours(tmp_path: Path, opened: OPENER) -> None:
    """A table named schema_state with other columns belongs to another application."""
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE schema_state (state TEXT)")
    with pytest.raises(NotADatabase):
        apply_migrations(opened(path))


@pytest.mark.postgres
def test_shared_postgres_database_is_accepted(postgres_url: str, opened: OPENER) -> None:
    """On a server, a database may also have tables of other applications."""
    engine = opened(postgres_url)
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE moz_places (id INTEGER PRIMARY KEY)"))
    assert apply_migrations(engine) == 4


@pytest.mark.postgres
def test_foreign_table_of_our_name_is_refused(postgres_url: str, opened: OPENER) -> None:
    """A server's database that has a table with one of our names but no version belongs to another application."""
    engine = opened(postgres_url)
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE jobs (id INTEGER PRIMARY KEY)"))
    with pytest.raises(NotADatabase, match="jobs"):
        apply_migrations(engine)


def test_failed_migration_leaves_the_old_version(db_url: str, opened: OPENER) -> None:
    """When a late step fails, no new table and no new version remains, and the next attempt succeeds."""
    engine = opened(db_url)
    with write_transaction(engine) as connection:
        Base.metadata.create_all(connection, tables=[Base.metadata.tables[name] for name in V3_TABLES])
        connection.execute(text("INSERT INTO schema_state VALUES ('schema_version', '3')"))
        connection.execute(text("CREATE INDEX ix_enrichment_queue_due ON raw_events (source)"))
    with pytest.raises(SchemaVersionError, match=r"failed and was undone.*ix_enrichment_queue_due"):
        apply_migrations(engine)
    with read_transaction(engine) as connection:
        assert set(inspect(connection).get_table_names()) == set(V3_TABLES)
    assert schema_version(engine) == 3
    with write_transaction(engine) as connection:
        connection.execute(text("DROP INDEX ix_enrichment_queue_due"))
    assert apply_migrations(engine) == 4


def test_alembics_stamp_is_repaired_from_the_version(engine: Engine) -> None:
    """Whatever Alembic's own table contains, the version decides and the stamp is corrected."""
    for statement in ("UPDATE alembic_version SET version_num = '0001'", "DELETE FROM alembic_version"):
        with write_transaction(engine) as connection:
            connection.execute(text(statement))
        apply_migrations(engine)
        with read_transaction(engine) as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [(HEAD,)]


def test_a_database_from_before_the_follower_is_completed(engine: Engine) -> None:
    """A database of version 4 without `followed_files` gets it; nothing else changes, and no v3 record is written."""
    go_back(engine, "0004")
    with pytest.raises(MigrationNeeded, match=f"is at revision 0004 of schema version 4, revision {HEAD} is needed"):
        require_current(engine)
    apply_migrations(engine)
    require_current(engine)
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [(HEAD,)]
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0


def test_alembics_stamp_of_a_v3_file_is_ignored(v3_file: Path, opened: OPENER) -> None:
    """A v3 file with an unknown Alembic revision is migrated by its version."""
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('c0ffee')")
    assert apply_migrations(opened(v3_file)) == 4


def test_two_migrations_at_once_both_succeed(db_url: str, opened: OPENER) -> None:
    """Of two migrations that start at the same time the first does the work, the second finds it done."""
    results: list[int | DatabaseError] = []
    barrier = threading.Barrier(2)

    def migrate(engine: Engine) -> None:
        barrier.wait()
        try:
            results.append(apply_migrations(engine))
        except DatabaseError as error:
            results.append(error)

    threads = [threading.Thread(target=migrate, args=(opened(db_url),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [4, 4]


def test_times_given_by_the_database_are_utc(engine: Engine) -> None:
    """A timestamp that the database itself generates is in UTC, whatever the time zone of the server."""
    with write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO ingest_cursors (source) VALUES ('x')"))
        value = connection.execute(text("SELECT CAST(last_ingest_at AS VARCHAR(40)) FROM ingest_cursors")).scalar()
        now = connection.execute(text("SELECT CAST(CURRENT_TIMESTAMP AS VARCHAR(40))")).scalar()
    assert str(value)[:13] == str(now)[:13]
    assert not str(value).endswith("+05:30")
