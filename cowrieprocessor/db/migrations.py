"""The schema's version: what it is, whether we can work with it, and how it becomes ours.

`schema_state.schema_version` is authoritative. It moves in the same transaction as the tables, so that a
database is wholly at one version or wholly at the other. Alembic's note of the revision is repaired from it.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import describe, read_transaction, write_transaction
from cowrieprocessor.db.schema_facts import (
    ALEMBIC_TABLE,
    BEFORE_OURS,
    CURRENT_SCHEMA_VERSION,
    HEAD,
    SCHEMA_VERSION_KEY,
    SchemaFacts,
    read_facts,
    refuse_unsupported,
    standing_revision,
)
from cowrieprocessor.db.upgrade.v3_digest import take_record, write_record
from cowrieprocessor.errors import MigrationNeeded, SchemaVersionError

__all__ = [
    "CURRENT_SCHEMA_VERSION",
    "SCHEMA_VERSION_KEY",
    "apply_migrations",
    "prepare",
    "require_current",
    "schema_version",
]

MIGRATION_GUIDE = "docs/files_table_migration.md"
_REVISIONS = Path(__file__).with_name("revisions")


def apply_migrations(engine: Engine) -> int:
    """Bring a database to our version and return it; a database that is there already is left alone.

    Takes an empty database, one of v3, or one of v4 that has only the planned `files` table. Only new, empty
    tables are made, so it takes about a second at any size. It is one transaction: after a failure half-way
    the database is what it was.

    Raises:
        SchemaVersionError: the version is too old, too new, or half-made.
        NotADatabase: the database is another application's; it is not written to.
        DatabaseError: see `write_transaction`.
    """
    with read_transaction(engine) as connection:
        facts = read_facts(connection, describe(engine))
        if _is_current(facts):
            return CURRENT_SCHEMA_VERSION
        if standing_revision(connection, facts, describe(engine)) in BEFORE_OURS:
            take_record(connection, facts)  # the same pages again under the lock come from memory, while others wait
    try:
        _migrate(engine)
    except DBAPIError as error:
        raise SchemaVersionError(
            f"{describe(engine)}: the migration failed and was undone: {error.orig}; "
            "remove or rename what stands in its way, then repeat the command"
        ) from error
    return CURRENT_SCHEMA_VERSION


def schema_version(engine: Engine) -> int | None:
    """Return the version of a database's schema; None for an empty database.

    Raises:
        NotADatabase: the database is another application's.
        SchemaVersionError: `schema_state` holds no version.
    """
    with read_transaction(engine) as connection:
        return read_facts(connection, describe(engine)).version


def require_current(engine: Engine) -> None:
    """Make sure that a database is at our version; nothing is changed.

    Raises:
        MigrationNeeded: it is a v3 database, or one of v4 without all tables; the message says how.
        SchemaVersionError: it is empty, or of a version that cannot be used.
        NotADatabase: the database is another application's.
    """
    name = describe(engine)
    with read_transaction(engine) as connection:
        facts = read_facts(connection, name)
    if facts.version is None:
        raise SchemaVersionError(f"{name}: is empty; `cowrieprocessor load --db {name} LOGS` fills it")
    refuse_unsupported(facts.version, name)
    if not facts.complete:
        state = "incomplete" if facts.version == CURRENT_SCHEMA_VERSION else f"at schema version {facts.version}"
        raise MigrationNeeded(
            f"{name}: is {state}, version {CURRENT_SCHEMA_VERSION} is needed; make a backup first (see "
            f"{MIGRATION_GUIDE}), then run `cowrieprocessor db migrate --db {name}`: it takes about a second"
        )


def _migrate(engine: Engine) -> None:
    """Make what is missing, write the version, and keep what v3's tables were, in one transaction."""
    with write_transaction(engine) as connection:
        dialect_of(connection).hold_migration_lock(connection)
        facts = read_facts(connection, describe(engine))
        standing = standing_revision(connection, facts, describe(engine))
        record = take_record(connection, facts) if standing in BEFORE_OURS else None
        _upgrade(connection, standing, noted=ALEMBIC_TABLE in facts.tables)
        _write_version(connection)
        if record is not None:
            write_record(connection, record)


def prepare(engine: Engine) -> None:
    """Make a database ready for writing: an empty one becomes ours, any other has to be ours already.

    Raises:
        MigrationNeeded: it is a v3 database, or one of v4 without all tables; the message says how.
        SchemaVersionError: it is of a version that cannot be used.
        NotADatabase: the database is another application's.
    """
    if schema_version(engine) is None:
        apply_migrations(engine)
    require_current(engine)


def _is_current(facts: SchemaFacts) -> bool:
    return facts.complete and facts.revision == HEAD


def _upgrade(connection: Connection, standing: str | None, *, noted: bool) -> None:
    """Run the revisions after `standing` in the connection's transaction; note each with Alembic.

    Args:
        connection: holds the write lock.
        standing: the revision that the tables correspond to.
        noted: whether Alembic's table is there; what it says is replaced by what is.
    """
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    directory = ScriptDirectory(str(_REVISIONS), version_locations=[str(_REVISIONS)])
    context = MigrationContext.configure(connection)
    if noted:
        connection.execute(text("DELETE FROM alembic_version"))
    if standing is not None:
        context.stamp(directory, standing)
    steps = list(directory.iterate_revisions(HEAD, standing or "base"))
    with Operations.context(context):
        for step in reversed(steps):
            step.module.upgrade()
            context.stamp(directory, step.revision)


def _write_version(connection: Connection) -> None:
    connection.execute(
        text(
            "INSERT INTO schema_state (key, value) VALUES (:key, :value) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        ),
        {"key": SCHEMA_VERSION_KEY, "value": str(CURRENT_SCHEMA_VERSION)},
    )
