"""The schema version: reading it, requiring the current one, and migrating to it.

`schema_state.schema_version` is authoritative. It changes in the same transaction as the tables, so that a database is
always entirely at one version. Alembic's revision stamp is repaired from it.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import address, describe, read_transaction, write_transaction
from cowrieprocessor.db.revisions import HEAD
from cowrieprocessor.db.schema_facts import (
    ALEMBIC_TABLE,
    CURRENT_SCHEMA_VERSION,
    PRE_V4_REVISIONS,
    SCHEMA_REVISION_KEY,
    SCHEMA_VERSION_KEY,
    SchemaFacts,
    current_revision,
    read_facts,
    refuse_unsupported,
)
from cowrieprocessor.db.upgrade.v3_digest import take_record, write_record
from cowrieprocessor.errors import MigrationNeeded, SchemaVersionError
from cowrieprocessor.sanitize import shell_word

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
    """Migrate a database to the current version and return that version; a current database is left unchanged.

    Accepts an empty database, a v3 database, or a v4 database that has only the `files` table of the original plan.
    Only new, empty tables are created, so it takes about a second at any size. It is one transaction: a failed
    migration leaves the database unchanged.

    Raises:
        SchemaVersionError: the schema is too old, too new, or incomplete.
        NotADatabase: the database belongs to another application; it is not written to.
        DatabaseError: see `write_transaction`.
    """
    with read_transaction(engine) as connection:
        facts = read_facts(connection, describe(engine))
        if _is_current(facts):
            return CURRENT_SCHEMA_VERSION
        if current_revision(connection, facts, describe(engine)) in PRE_V4_REVISIONS:
            take_record(connection, facts)  # warms the cache, so that the same reads under the lock are fast
    try:
        _migrate(engine)
    except DBAPIError as error:
        raise SchemaVersionError(
            f"{describe(engine)}: the migration failed and was undone: {error.orig}; "
            "remove or rename the conflicting object, then repeat the command"
        ) from error
    return CURRENT_SCHEMA_VERSION


def schema_version(engine: Engine) -> int | None:
    """Return the schema version of a database; None for an empty database.

    Raises:
        NotADatabase: the database belongs to another application.
        SchemaVersionError: `schema_state` has no valid version.
    """
    with read_transaction(engine) as connection:
        return read_facts(connection, describe(engine)).version


def require_current(engine: Engine) -> None:
    """Check that a database is at the current version; nothing is changed.

    Raises:
        MigrationNeeded: it is a v3 database, or an incomplete v4 database; the message says how to migrate.
        SchemaVersionError: it is empty, of an unsupported version, or lacks tables that no migration adds.
        NotADatabase: the database belongs to another application.
    """
    name = describe(engine)
    with read_transaction(engine) as connection:
        facts = read_facts(connection, name)
        if facts.version == CURRENT_SCHEMA_VERSION:
            current_revision(connection, facts, name)
    word = shell_word(address(engine))
    if facts.version is None:
        raise SchemaVersionError(f"{name}: is empty; `cowrieprocessor load --db {word} LOGS` fills it")
    refuse_unsupported(facts, name)
    if not facts.complete:
        raise MigrationNeeded(
            f"{name}: {_shortfall(facts)}; make a backup first (see "
            f"{MIGRATION_GUIDE}), then run `cowrieprocessor db migrate --db {word}`: it takes about a second"
        )


def _shortfall(facts: SchemaFacts) -> str:
    """Return what a database is, and what is needed instead."""
    if facts.is_v4:
        reached = min(facts.stated_revision or facts.reached_revision, facts.reached_revision)
        return f"is at revision {reached} of schema version {facts.version}, revision {HEAD} is needed"
    state = "incomplete" if facts.version == CURRENT_SCHEMA_VERSION else f"at schema version {facts.version}"
    return f"is {state}, version {CURRENT_SCHEMA_VERSION} is needed"


def _migrate(engine: Engine) -> None:
    """Create missing tables, write the version, and record the state of the v3 tables, in one transaction."""
    with write_transaction(engine) as connection:
        dialect_of(connection).lock_migrations(connection)
        facts = read_facts(connection, describe(engine))
        revision = current_revision(connection, facts, describe(engine))
        record = take_record(connection, facts) if revision in PRE_V4_REVISIONS else None
        _upgrade(connection, revision, is_stamped=ALEMBIC_TABLE in facts.tables)
        _write_version(connection)
        if record is not None:
            write_record(connection, record)


def prepare(engine: Engine) -> None:
    """Prepare a database for writing: create the schema in an empty database, require the current version otherwise.

    Raises:
        MigrationNeeded: it is a v3 database, or an incomplete v4 database; the message says how to migrate.
        SchemaVersionError: it is of an unsupported version.
        NotADatabase: the database belongs to another application.
    """
    if schema_version(engine) is None:
        apply_migrations(engine)
    require_current(engine)


def _is_current(facts: SchemaFacts) -> bool:
    return facts.complete and facts.alembic_revision == HEAD == facts.stated_revision


def _upgrade(connection: Connection, revision: str | None, *, is_stamped: bool) -> None:
    """Run the revisions after `revision` in the connection's transaction, and stamp each with Alembic.

    Args:
        connection: a connection that holds the write lock.
        revision: the revision that the tables correspond to; None for an empty database.
        is_stamped: whether Alembic's table exists; its content is replaced.
    """
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    directory = ScriptDirectory(str(_REVISIONS), version_locations=[str(_REVISIONS)])
    context = MigrationContext.configure(connection)
    if is_stamped:
        connection.execute(text("DELETE FROM alembic_version"))
    if revision is not None:
        context.stamp(directory, revision)
    steps = list(directory.iterate_revisions(HEAD, revision or "base"))
    with Operations.context(context):
        for step in reversed(steps):
            step.module.upgrade()
            context.stamp(directory, step.revision)


def _write_version(connection: Connection) -> None:
    """Write the version and the revision, which move in the transaction that changes the tables."""
    for key, value in ((SCHEMA_VERSION_KEY, str(CURRENT_SCHEMA_VERSION)), (SCHEMA_REVISION_KEY, HEAD)):
        connection.execute(
            text(
                "INSERT INTO schema_state (key, value) VALUES (:key, :value) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
            ),
            {"key": key, "value": value},
        )
