"""One object for each kind of database: how it is found, what it offers, and what it does not import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.bulk import BulkInsert
from cowrieprocessor.db.dialects.definitions import Definitions
from cowrieprocessor.db.dialects.pressure import Pressure
from cowrieprocessor.db.dialects.scan import TableScan
from cowrieprocessor.db.dialects.sql import SqlExpressions
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import ConfigurationError
from tests.documents import PROJECT

OUR_DIALECTS = "cowrieprocessor.db.dialects."
USE = f"""
import json, sys
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import get_engine
dialect = dialect_of(get_engine(sys.argv[1]))
print(json.dumps(sorted(name for name in sys.modules if name.startswith(("psycopg", {OUR_DIALECTS!r})))))
"""
ASKS_FOR_THE_NAME = re.compile(r"\bdialect\.name\b|\bget_backend_name\b|\bget_dialect\b")


def test_one_object_for_engine_connection_and_url(engine: Engine) -> None:
    """An engine, its connections, and its URL have the same dialect object."""
    with engine.connect() as connection:
        found = {id(dialect_of(database)) for database in (engine, connection, engine.url)}
    assert found == {id(dialect_of(engine))}


def test_parts_are_made_once(engine: Engine) -> None:
    """The dialect has each part, and gives the same expressions, definitions and bulk insertion every time."""
    dialect = dialect_of(engine)
    with dialect.scan(engine) as scan:
        assert isinstance(scan, TableScan)
        assert scan.sql is dialect.sql
    assert isinstance(dialect.pressure(engine), Pressure)
    assert isinstance(dialect.sql, SqlExpressions)
    assert isinstance(dialect.definitions, Definitions)
    assert isinstance(dialect.bulk, BulkInsert)
    assert (dialect.sql, dialect.definitions, dialect.bulk) == (dialect.sql, dialect.definitions, dialect.bulk)


@pytest.mark.parametrize("url", ["mysql://server/name", "postgresql+asyncpg://server/name"])
def test_other_databases_are_refused(url: str) -> None:
    """A URL of another database or driver is refused, with what is supported."""
    with pytest.raises(ConfigurationError, match="not supported; give an SQLite file or a postgresql:// URL"):
        dialect_of(make_url(url))


def test_an_engine_of_sqlalchemy_has_a_dialect(tmp_path: Path) -> None:
    """An engine that was created with SQLAlchemy directly has the dialect of its database."""
    engine = create_engine(f"sqlite:///{tmp_path / 'x.sqlite'}")
    assert dialect_of(engine).name == "sqlite"
    engine.dispose()


def test_rows_are_inserted_in_bulk_in_their_order(engine: Engine) -> None:
    """Bulk insertion stores each row once, in order, a per cent sign and a question mark included; none is no error."""
    rows = [(f"name {number} 100% ?", None if number % 2 else f"name {number + 1}") for number in range(250)]
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE t (name TEXT, other TEXT)"))
        cursor = connection.connection.cursor()
        dialect_of(connection).bulk.insert(cursor, "t", ("name", "other"), rows)
        dialect_of(connection).bulk.insert(cursor, "t", ("name", "other"), [])
        cursor.close()
    with read_transaction(engine) as connection:
        assert [tuple(row) for row in connection.execute(text("SELECT name, other FROM t"))] == rows


def imported_for(db: str) -> set[str]:
    """Return which modules of our dialects and of psycopg a process imports to get the dialect of a database."""
    done = subprocess.run([sys.executable, "-c", USE, db], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_only_the_dialect_in_use_is_imported(tmp_path: Path) -> None:
    """For SQLite neither psycopg nor our PostgreSQL is imported, and for a server not our SQLite; parts come later."""
    sqlite, server = imported_for(str(tmp_path / "x.sqlite")), imported_for("postgresql://server/name")

    assert not [name for name in sqlite if name.startswith(("psycopg", f"{OUR_DIALECTS}postgresql"))]
    assert not [name for name in server if name.startswith(f"{OUR_DIALECTS}sqlite")]
    assert {"psycopg", f"{OUR_DIALECTS}postgresql.dialect"} <= server
    parts = {"sql", "bulk", "definitions", "pressure", "scan"}
    assert not [name for name in sqlite | server if name.rpartition(".")[2] in parts and "psycopg" not in name]


def test_no_module_asks_which_database_it_is() -> None:
    """Outside `db/dialects` no module asks for the name of a dialect."""
    package = PROJECT / "cowrieprocessor"
    asking = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if ASKS_FOR_THE_NAME.search(path.read_text(encoding="utf-8"))
    }
    assert asking == {"db/dialects/__init__.py"}
