"""The state of a database, for `db status` and `db check`. Nothing here writes."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import Storage
from cowrieprocessor.db.engine import describe, read_transaction
from cowrieprocessor.db.ingest.followed_files import Losses, losses
from cowrieprocessor.db.jobs import JobRecord, all_jobs
from cowrieprocessor.db.models import Base, Job, LogFile
from cowrieprocessor.db.schema_facts import OUR_TABLES, SchemaFacts, can_be_migrated, current_revision, read_facts
from cowrieprocessor.errors import DatabaseDamaged, SchemaVersionError

COUNTED_ROWS = 100_000
"""Tables with more rows are estimated instead of counted, so that status answers at once."""

SHOWN_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class RowCount:
    """The number of rows of a table, exact or estimated."""

    rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """Version, size, tables and jobs of a database.

    Attributes:
        database: its name, without any password.
        schema_version: None for an empty database.
        schema_revision: the newest revision of version 4 that it states; None in databases of before there were any.
        needs_migration: whether `db migrate` would change it.
        problem: why it can neither be used nor migrated; None if it can.
        storage: where and how it is stored.
        tables: the row counts of our tables that exist, by name.
        jobs: the rows of `jobs`, the most recently updated first.
        losses: data in followed logs that was destroyed before it could be read.
    """

    database: str
    schema_version: int | None
    schema_revision: str | None
    needs_migration: bool
    problem: str | None
    storage: Storage
    tables: dict[str, RowCount]
    jobs: list[JobRecord]
    losses: Losses


def database_status(engine: Engine, *, counted_rows: int = COUNTED_ROWS) -> DatabaseStatus:
    """Return the state of a database of any schema version, quickly at any size.

    Args:
        engine: the database.
        counted_rows: the most rows to count in a table; larger tables are estimated.

    Raises:
        NotADatabase: the database belongs to another application.
        DatabaseError: it does not exist, or cannot be read.
    """
    with read_transaction(engine) as connection:
        facts = read_facts(connection, describe(engine))
        problem = _problem(connection, facts, describe(engine))
        return DatabaseStatus(
            database=describe(engine),
            schema_version=facts.version,
            schema_revision=facts.stated_revision,
            needs_migration=problem is None and can_be_migrated(facts),
            problem=problem,
            storage=dialect_of(engine).storage(connection),
            tables={table: count_rows(connection, table, counted_rows) for table in sorted(OUR_TABLES & facts.tables)},
            jobs=_jobs(connection, facts),
            losses=losses(connection) if LogFile.__tablename__ in facts.tables else Losses(),
        )


def _problem(connection: Connection, facts: SchemaFacts, database: str) -> str | None:
    try:
        current_revision(connection, facts, database)
    except SchemaVersionError as error:
        return str(error)
    return None


def check_database(engine: Engine, *, full: bool = False) -> Storage:
    """Check that a database is not damaged, and return where and how it is stored.

    Args:
        engine: the database, which may be in use.
        full: read all of it, and compare tables with their indexes; takes about as long as copying it.

    Raises:
        DatabaseDamaged: the message quotes the first problems.
    """
    with read_transaction(engine) as connection:
        dialect = dialect_of(engine)
        problems = dialect.find_damage(connection, full=full)
        if problems:
            more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
            raise DatabaseDamaged(
                f"{describe(engine)}: is damaged; restore a backup: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}"
            )
        return dialect.storage(connection)


def count_rows(connection: Connection, table: str, counted_rows: int = COUNTED_ROWS) -> RowCount:
    """Return the number of rows of one of our tables: counted up to `counted_rows`, estimated beyond."""
    rows = select(text("1")).select_from(Base.metadata.tables[table]).limit(counted_rows + 1).subquery()
    counted = connection.execute(select(text("count(*)")).select_from(rows)).scalar_one()
    if counted <= counted_rows:
        return RowCount(counted, exact=True)
    return RowCount(max(counted, dialect_of(connection).estimated_rows(connection, table)), exact=False)


def _jobs(connection: Connection, facts: SchemaFacts) -> list[JobRecord]:
    if Job.__tablename__ not in facts.tables:
        return []
    return sorted(all_jobs(connection), key=lambda job: (-job.updated_at.timestamp(), job.name))
