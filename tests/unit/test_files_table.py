"""The table `files`: exactly the columns, constraint and indexes that the design and users' queries name."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Engine,
    Integer,
    String,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.types import TypeEngine

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import Files

SHA = "a" * 64
FIRST_SEEN = dt.datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)

COLUMNS: dict[str, tuple[type[TypeEngine[object]], int | None, bool]] = {
    "id": (Integer, None, False),
    "session_id": (String, 64, False),
    "shasum": (String, 64, False),
    "filename": (String, 512, True),
    "file_size": (BigInteger, None, True),
    "download_url": (String, 1024, True),
    "vt_classification": (String, 128, True),
    "vt_description": (Text, None, True),
    "vt_malicious": (Boolean, None, False),
    "vt_first_seen": (DateTime, None, True),
    "vt_last_analysis": (DateTime, None, True),
    "vt_positives": (Integer, None, True),
    "vt_total": (Integer, None, True),
    "vt_scan_date": (DateTime, None, True),
    "first_seen": (DateTime, None, False),
    "last_updated": (DateTime, None, False),
    "enrichment_status": (String, 32, False),
    "origin": (String, 16, False),
}
"""Name: type, length, whether it may be NULL."""

INDEXES = {
    "ix_files_session_id": ["session_id"],
    "ix_files_shasum": ["shasum"],
    "ix_files_vt_malicious": ["vt_malicious"],
    "ix_files_enrichment_status": ["enrichment_status"],
    "ix_files_first_seen": ["first_seen"],
}


def add(engine: Engine, **values: object) -> None:
    """Insert one row with what has to be given, and these values."""
    with write_transaction(engine) as connection:
        connection.execute(insert(Files).values(session_id="s1", shasum=SHA, **values))


def test_columns_are_those_of_the_design(engine: Engine) -> None:
    """The table has exactly the designed columns, in order, with type, length and nullability."""
    with read_transaction(engine) as connection:
        columns = inspect(connection).get_columns("files")
    assert [column["name"] for column in columns] == list(COLUMNS)
    for column in columns:
        kind, length, nullable = COLUMNS[column["name"]]
        assert isinstance(column["type"], kind)
        assert (getattr(column["type"], "length", None), column["nullable"]) == (length, nullable)


@pytest.mark.postgres
def test_times_on_postgres_have_a_zone(postgres_url: str) -> None:
    """On PostgreSQL the times are timestamptz."""
    engine = get_engine(postgres_url)
    apply_migrations(engine)
    with read_transaction(engine) as connection:
        columns = inspect(connection).get_columns("files")
    dispose(engine)
    times = [column["type"].timezone for column in columns if isinstance(column["type"], DateTime)]
    assert times == [True] * 5


def test_one_session_has_a_hash_once(engine: Engine) -> None:
    """(session_id, shasum) is unique, by a constraint of the name that users know."""
    with read_transaction(engine) as connection:
        constraints = inspect(connection).get_unique_constraints("files")
    assert [(c["name"], c["column_names"]) for c in constraints] == [
        ("uq_files_session_hash", ["session_id", "shasum"])
    ]
    add(engine)
    with pytest.raises(IntegrityError):
        add(engine)


def test_indexes_are_those_of_the_design(engine: Engine) -> None:
    """The table has exactly the designed indexes, each declared once."""
    with read_transaction(engine) as connection:
        indexes = inspect(connection).get_indexes("files")
    found = {index["name"]: index["column_names"] for index in indexes if "duplicates_constraint" not in index}
    assert found == INDEXES


def test_model_declares_what_the_database_has() -> None:
    """The model names the same columns and indexes, and the primary key is id."""
    table = Files.__table__
    assert list(table.columns.keys()) == list(COLUMNS)
    assert {str(index.name) for index in table.indexes} == set(INDEXES)  # type: ignore[attr-defined]
    assert [column.name for column in table.primary_key] == ["id"]


def test_defaults_come_from_the_database(engine: Engine) -> None:
    """A row given by session and hash alone, by any tool, is pending, not malicious, downloaded, seen now."""
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    with write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO files (session_id, shasum) VALUES ('s1', :sha)"), {"sha": SHA})
    with read_transaction(engine) as connection:
        row = connection.execute(select(Files.__table__)).mappings().one()
    assert (row["enrichment_status"], row["vt_malicious"], row["origin"]) == ("pending", False, "download")
    for column in ("first_seen", "last_updated"):
        assert before <= row[column] <= dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)


def test_update_moves_last_updated(engine: Engine) -> None:
    """Changing a row through the model sets last_updated and leaves first_seen."""
    long_ago = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    add(engine, first_seen=FIRST_SEEN, last_updated=long_ago)
    with write_transaction(engine) as connection:
        connection.execute(update(Files).values(vt_positives=3))
    with read_transaction(engine) as connection:
        row = connection.execute(select(Files.first_seen, Files.last_updated)).one()
    assert row.first_seen == FIRST_SEEN
    assert row.last_updated > long_ago


def test_times_keep_their_microseconds_and_zone(engine: Engine) -> None:
    """A moment comes back as it went in, in UTC, whatever zone it was given in."""
    kolkata = dt.timezone(dt.timedelta(hours=5, minutes=30))
    add(engine, first_seen=FIRST_SEEN.astimezone(kolkata))
    with read_transaction(engine) as connection:
        found = connection.execute(select(Files.first_seen)).scalar_one()
    assert (found, found.tzinfo) == (FIRST_SEEN, dt.UTC)


def test_time_without_zone_is_refused(engine: Engine) -> None:
    """A moment without a zone is refused instead of guessed."""
    with pytest.raises(StatementError, match="give it a time zone"):
        add(engine, first_seen=FIRST_SEEN.replace(tzinfo=None))


def test_file_larger_than_4_gib_fits(engine: Engine) -> None:
    """file_size holds what does not fit 32 bits."""
    add(engine, file_size=5 * 2**30)
    with read_transaction(engine) as connection:
        assert connection.execute(select(Files.file_size)).scalar_one() == 5 * 2**30
