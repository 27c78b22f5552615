"""The schema of a database, as read from the database itself; unknown schemas are refused.

Nothing here writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, inspect, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import V3_TABLES, Base
from cowrieprocessor.errors import NotADatabase, SchemaVersionError

CURRENT_SCHEMA_VERSION = 4
SCHEMA_VERSION_KEY = "schema_version"
OLDEST_VERSION = 3
"""The oldest version that can be migrated; versions 1 and 2 existed for a few days only."""

BASE_REVISION = "0001"
PLANNED_FILES_REVISION = "0002"
FILES_REVISION = "0003"
PRE_V4_REVISIONS = frozenset({BASE_REVISION, PLANNED_FILES_REVISION, FILES_REVISION})
"""Revisions of databases that another program created: v3, with or without a `files` table."""

VERDICTS_REVISION = "0004"
HEAD = "0005"
"""The newest revision, which a complete database at CURRENT_SCHEMA_VERSION has."""

ALEMBIC_TABLE = "alembic_version"
OUR_TABLES = frozenset(Base.metadata.tables)
_OTHER_V4_TABLES = OUR_TABLES - set(V3_TABLES) - {"files"}
_LATER_TABLES = frozenset({"followed_files"})
"""The tables that HEAD adds to VERDICTS_REVISION."""

_PLANNED_COLUMNS = frozenset(Base.metadata.tables["files"].columns.keys()) - {"origin"}


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """The version and tables of a database.

    Attributes:
        version: the version in `schema_state`; None if there is no such table.
        tables: the names of all tables, including those of other applications.
        revision: Alembic's revision stamp, if any.
    """

    version: int | None
    tables: frozenset[str]
    revision: str | None

    @property
    def complete(self) -> bool:
        """Whether this is the current version with all of its tables."""
        return self.version == CURRENT_SCHEMA_VERSION and self.tables >= OUR_TABLES


def read_facts(connection: Connection, database: str) -> SchemaFacts:
    """Return the version and tables of a database.

    Args:
        connection: a connection in a transaction.
        database: the name of the database, for messages.

    Raises:
        NotADatabase: the tables belong to another application.
        SchemaVersionError: `schema_state` has no valid version.
    """
    dialect = dialect_of(connection)
    tables = frozenset(dialect.table_names(connection))
    if not _has_schema_state(connection, tables):
        foreign = tables if dialect.is_dedicated else tables & OUR_TABLES
        if foreign:
            raise NotADatabase(
                f"{database}: contains tables of another application ({', '.join(sorted(foreign)[:5])}); "
                "nothing was changed; name another database with --db"
            )
        return SchemaFacts(None, tables, None)
    return SchemaFacts(_version(connection, database), tables, _revision(connection, tables))


def current_revision(connection: Connection, facts: SchemaFacts, database: str) -> str | None:
    """Return the revision that the tables correspond to; None for an empty database.

    A database at version 4 that has only the `files` table of the original plan is at the revision of that table.

    Raises:
        SchemaVersionError: the version cannot be migrated, or tables are missing or incomplete.
    """
    if facts.version is None:
        return None
    refuse_unsupported(facts.version, database)
    if facts.complete:
        return HEAD
    if missing := set(V3_TABLES) - facts.tables:
        raise _half_made(database, f"the tables {', '.join(sorted(missing))} are missing")
    if facts.version == CURRENT_SCHEMA_VERSION and facts.tables >= OUR_TABLES - _LATER_TABLES:
        return VERDICTS_REVISION
    if extra := _OTHER_V4_TABLES & facts.tables:
        raise _half_made(database, f"it has only some of the tables of version 4 ({', '.join(sorted(extra))})")
    if "files" not in facts.tables:
        if facts.version == CURRENT_SCHEMA_VERSION:
            raise _half_made(database, "the table files is missing")
        return BASE_REVISION
    return _revision_of_files(connection, database)


def can_be_migrated(facts: SchemaFacts) -> bool:
    """Return whether a migration would change the database, judging by its version."""
    if facts.complete:
        return False
    return facts.version is None or OLDEST_VERSION <= facts.version <= CURRENT_SCHEMA_VERSION


def refuse_unsupported(version: int, database: str) -> None:
    """Refuse the versions that can neither be used nor migrated.

    Raises:
        SchemaVersionError: the version is older than v3, or newer than the current version.
    """
    if version > CURRENT_SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{database}: is at schema version {version}, this program knows up to {CURRENT_SCHEMA_VERSION}; "
            "use the newer release of cowrieprocessor that wrote it"
        )
    if version < OLDEST_VERSION:
        raise SchemaVersionError(
            f"{database}: is at schema version {version}, which cannot be migrated; load its logs into a new "
            "database with `cowrieprocessor load`, or upgrade it to version 3 with the release that wrote it"
        )


def _revision_of_files(connection: Connection, database: str) -> str:
    """Return the revision of the `files` table, which must have the planned columns and unique constraint."""
    columns = set(dialect_of(connection).column_names(connection, "files"))
    if missing := _PLANNED_COLUMNS - columns:
        raise _half_made(database, f"its table files lacks the columns {', '.join(sorted(missing))}")
    inspector = inspect(connection)
    uniques = [
        *(constraint["column_names"] for constraint in inspector.get_unique_constraints("files")),
        *(index["column_names"] for index in inspector.get_indexes("files") if index["unique"]),
    ]
    if ["session_id", "shasum"] not in uniques:
        raise _half_made(database, "its table files is not unique in (session_id, shasum)")
    return FILES_REVISION if "origin" in columns else PLANNED_FILES_REVISION


def _has_schema_state(connection: Connection, tables: frozenset[str]) -> bool:
    if "schema_state" not in tables:
        return False
    return {"key", "value"} <= set(dialect_of(connection).column_names(connection, "schema_state"))


def _half_made(database: str, what: str) -> SchemaVersionError:
    return SchemaVersionError(f"{database}: {what}; nothing was changed; restore a backup, then migrate again")


def _version(connection: Connection, database: str) -> int:
    query = text("SELECT value FROM schema_state WHERE key = :key")
    value = connection.execute(query, {"key": SCHEMA_VERSION_KEY}).scalar()
    try:
        return int(str(value))
    except ValueError:
        raise SchemaVersionError(
            f"{database}: schema_state has {value!r} instead of a schema version; restore a backup"
        ) from None


def _revision(connection: Connection, tables: frozenset[str]) -> str | None:
    if ALEMBIC_TABLE not in tables:
        return None
    revisions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return str(revisions[0]) if len(revisions) == 1 else None
