"""What state a database is in: for `db status` and `db check`. Nothing here writes."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import Storage
from cowrieprocessor.db.engine import describe, read_transaction
from cowrieprocessor.db.ingest.followed_files import Losses, losses
from cowrieprocessor.db.models import Base, Job, LogFile
from cowrieprocessor.db.schema_facts import OUR_TABLES, SchemaFacts, can_be_migrated, read_facts
from cowrieprocessor.errors import DatabaseDamaged

COUNTED_ROWS = 100_000
"""Up to here rows are counted; of more the database's own estimate is taken, so that status answers at once."""

SHOWN_DAMAGES = 10


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows a table has; exactly, or about."""

    rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class JobState:
    """A long job as it last reported."""

    name: str
    state: str
    started_at: dt.datetime
    updated_at: dt.datetime
    finished_at: dt.datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """What a database is, how large, and which jobs work on it.

    Attributes:
        database: its name, without any password.
        schema_version: None for an empty database.
        needs_migration: whether `db migrate` would change it.
        storage: where and how it is kept.
        tables: our tables that are there, by name.
        jobs: the jobs that ever ran, the latest report first.
        losses: what was destroyed of followed logs before it could be read.
    """

    database: str
    schema_version: int | None
    needs_migration: bool
    storage: Storage
    tables: dict[str, RowCount]
    jobs: list[JobState]
    losses: Losses


def database_status(engine: Engine) -> DatabaseStatus:
    """Return the state of a database, of whatever schema version, at once however large it is.

    Raises:
        NotADatabase: the database is another application's.
        DatabaseError: it is not there, or cannot be read.
    """
    with read_transaction(engine) as connection:
        facts = read_facts(connection, describe(engine))
        return DatabaseStatus(
            database=describe(engine),
            schema_version=facts.version,
            needs_migration=can_be_migrated(facts),
            storage=dialect_of(engine).storage(connection),
            tables={table: count_rows(connection, table) for table in sorted(OUR_TABLES & facts.tables)},
            jobs=_jobs(connection, facts),
            losses=losses(connection) if LogFile.__tablename__ in facts.tables else Losses(),
        )


def check_database(engine: Engine, *, full: bool = False) -> Storage:
    """Make sure that a database is not damaged, and return where and how it is kept.

    Args:
        engine: the database, which may be in use.
        full: read all of it, and compare tables with their indexes; takes about as long as copying it.

    Raises:
        DatabaseDamaged: the message names the first damages.
    """
    with read_transaction(engine) as connection:
        dialect = dialect_of(engine)
        damages = dialect.damages(connection, full=full)
        if damages:
            more = f"; and {len(damages) - SHOWN_DAMAGES} more" if len(damages) > SHOWN_DAMAGES else ""
            raise DatabaseDamaged(
                f"{describe(engine)}: is damaged; restore a backup: {'; '.join(damages[:SHOWN_DAMAGES])}{more}"
            )
        return dialect.storage(connection)


def count_rows(connection: Connection, table: str) -> RowCount:
    """Return how many rows one of our tables has: counted up to COUNTED_ROWS, estimated beyond."""
    rows = select(text("1")).select_from(Base.metadata.tables[table]).limit(COUNTED_ROWS + 1).subquery()
    counted = connection.execute(select(text("count(*)")).select_from(rows)).scalar_one()
    if counted <= COUNTED_ROWS:
        return RowCount(counted, exact=True)
    return RowCount(max(counted, dialect_of(connection).estimated_rows(connection, table)), exact=False)


def _jobs(connection: Connection, facts: SchemaFacts) -> list[JobState]:
    if Job.__tablename__ not in facts.tables:
        return []
    columns = (Job.name, Job.state, Job.started_at, Job.updated_at, Job.finished_at, Job.reason)
    return [JobState(*row) for row in connection.execute(select(*columns).order_by(Job.updated_at.desc(), Job.name))]
