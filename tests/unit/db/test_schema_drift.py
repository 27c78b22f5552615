"""A fresh database, a migrated database and the models have the same schema; the v3 tables are those of v3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import V3_TABLES, Base
from tests import v3_schema
from tests.other_connections import sqlite3
from tests.schema_shape import Shape, normalised, postgres_shape, sqlite_shape

REDUNDANT_INDEX = "uq_raw_events_source_gen"
DDL_AFTER_3_31 = re.compile(r"\b(STRICT|STORED|RETURNING|DROP\s+COLUMN|->>?)\b|->", re.IGNORECASE)


def fresh(path: Path) -> Path:
    """Return the path of an SQLite file after applying all migrations; it is created if missing."""
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


def created_by_models(path: Path) -> Path:
    """Return the path of an SQLite file that was created from the models."""
    engine = get_engine(path)
    with write_transaction(engine) as connection:
        Base.metadata.create_all(connection)
    dispose(engine)
    return path


def without(shape: Shape, *tables: str) -> Shape:
    """Return the shape without the given tables, Alembic's table and v3's redundant index."""
    kept = {name: dict(table) for name, table in shape.items() if name not in ("alembic_version", *tables)}
    for table in kept.values():
        indexes = table["indexes"]
        if isinstance(indexes, dict):
            table["indexes"] = {name: index for name, index in indexes.items() if name != REDUNDANT_INDEX}
    return kept


def test_fresh_equals_models_on_sqlite(tmp_path: Path) -> None:
    """The revisions create exactly the tables that the models declare."""
    revisions = without(sqlite_shape(fresh(tmp_path / "fresh")))
    models = without(sqlite_shape(created_by_models(tmp_path / "models")))
    assert models == revisions


def test_migrated_equals_fresh_on_sqlite(v3_file: Path, tmp_path: Path) -> None:
    """A migrated v3 file has the schema of a fresh database, except for v3's redundant index."""
    assert without(sqlite_shape(fresh(v3_file))) == without(sqlite_shape(fresh(tmp_path / "fresh")))


def test_migrated_corpus_equals_fresh_on_sqlite(corpus_v3_file: Path, tmp_path: Path) -> None:
    """The genuine v3 file, migrated, has the schema of a fresh database, except for v3's redundant index."""
    assert without(sqlite_shape(fresh(corpus_v3_file))) == without(sqlite_shape(fresh(tmp_path / "fresh")))


def test_completed_equals_fresh_on_sqlite(tmp_path: Path) -> None:
    """A database with the planned files table, migrated, has the schema of a fresh database."""
    planned = v3_schema.create(tmp_path / "planned", version="4", planned_files=True)
    assert without(sqlite_shape(fresh(planned))) == without(sqlite_shape(fresh(tmp_path / "fresh")))


def test_v3_builder_equals_genuine_v3(v3_file: Path, corpus_v3_file: Path) -> None:
    """The v3 database that tests build has the schema of the genuine v3 file."""
    assert sqlite_shape(v3_file) == sqlite_shape(corpus_v3_file)


def test_comparison_detects_a_changed_generated_column(tmp_path: Path) -> None:
    """The comparison detects a generated column with another expression, so it is not vacuous."""
    path = fresh(tmp_path / "fresh")
    before = sqlite_shape(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, '$.session', '$.sessions')")
    assert sqlite_shape(path) != before


def test_generated_columns_are_those_of_v3(tmp_path: Path) -> None:
    """raw_events has exactly the definition of v3, including generated columns."""
    ours = sqlite_shape(fresh(tmp_path / "fresh"))["raw_events"]["sql"]
    assert ours == normalised(v3_schema.TABLES["raw_events"].replace("{extra_constraint}", ""))


def test_ddl_is_understood_by_sqlite_3_31(tmp_path: Path) -> None:
    """No definition uses a feature newer than SQLite 3.31, so that the readers of v3 can open the file."""
    with closing(sqlite3.connect(fresh(tmp_path / "fresh"))) as connection:
        statements = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    assert [sql for sql in statements if DDL_AFTER_3_31.search(sql)] == []


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    """An engine for an empty PostgreSQL database."""
    engine = get_engine(postgres_url)
    yield engine
    dispose(engine)


@pytest.mark.postgres
def test_fresh_equals_models_on_postgres(postgres_engine: Engine) -> None:
    """The revisions create exactly the tables, indexes and constraints that the models declare."""
    apply_migrations(postgres_engine)
    revisions = without(postgres_shape(postgres_engine))
    with write_transaction(postgres_engine) as connection:
        Base.metadata.drop_all(connection)
        Base.metadata.create_all(connection)
    assert without(postgres_shape(postgres_engine)) == revisions


@pytest.mark.postgres
def test_migrated_equals_models_on_postgres(postgres_engine: Engine) -> None:
    """A version-3 schema on PostgreSQL, migrated, equals the models."""
    with write_transaction(postgres_engine) as connection:
        Base.metadata.create_all(connection, tables=[Base.metadata.tables[name] for name in V3_TABLES])
        connection.execute(text("INSERT INTO schema_state VALUES ('schema_version', '3')"))
    apply_migrations(postgres_engine)
    migrated = without(postgres_shape(postgres_engine))
    with write_transaction(postgres_engine) as connection:
        Base.metadata.drop_all(connection)
        Base.metadata.create_all(connection)
    assert without(postgres_shape(postgres_engine)) == migrated


@pytest.mark.postgres
def test_event_columns_are_ordinary_on_postgres(postgres_engine: Engine) -> None:
    """On PostgreSQL the writer fills the columns that SQLite computes, and payload is json."""
    apply_migrations(postgres_engine)
    columns = {row[1]: row for row in postgres_shape(postgres_engine)["raw_events"]["columns"]}  # type: ignore[attr-defined]
    generated = [columns[name][-1] for name in ("session_id", "event_type", "event_timestamp")]
    assert (generated, columns["payload"][2]) == (["NEVER"] * 3, "json")
