"""The schema of a database, as read from the database itself; unknown schemas are refused.

Nothing here writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, inspect, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import V3_TABLES, Base
from cowrieprocessor.db.revisions import HEAD, REVISIONS, Revision
from cowrieprocessor.errors import NotADatabase, SchemaVersionError

CURRENT_SCHEMA_VERSION = 4
SCHEMA_VERSION_KEY = "schema_version"
SCHEMA_REVISION_KEY = "schema_revision"
"""Key of `schema_state`: the newest revision of version 4 that the database has; v3 and early v4 databases lack it."""

OLDEST_VERSION = 3
"""The oldest version that can be migrated; versions 1 and 2 existed for a few days only."""

BASE_REVISION = "0001"
PLANNED_FILES_REVISION = "0002"
FILES_REVISION = "0003"
PRE_V4_REVISIONS = frozenset({BASE_REVISION, PLANNED_FILES_REVISION, FILES_REVISION})
"""Revisions of databases that another program created: v3, with or without a `files` table."""

FIRST_V4_REVISION = "0004"
"""From here on a database at version 4 can only lack the tables of later revisions."""

ALEMBIC_TABLE = "alembic_version"
OUR_TABLES = frozenset(Base.metadata.tables)
_OTHER_V4_TABLES = OUR_TABLES - set(V3_TABLES) - {"files"}
_NUMBERS = tuple(revision.number for revision in REVISIONS)
_PLANNED_COLUMNS = frozenset(Base.metadata.tables["files"].columns.keys()) - {"origin"}


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """The version and tables of a database.

    Attributes:
        version: the version in `schema_state`; None if there is no such table.
        tables: the names of all tables, including those of other applications.
        alembic_revision: Alembic's revision stamp, if any.
        stated_revision: the revision of version 4 in `schema_state`, if any.
    """

    version: int | None
    tables: frozenset[str]
    alembic_revision: str | None
    stated_revision: str | None = None

    @property
    def is_v4(self) -> bool:
        """Whether this is version 4 at any of its revisions, not only with the `files` table of the original plan."""
        return self.version == CURRENT_SCHEMA_VERSION and self.tables >= tables_until(FIRST_V4_REVISION)

    @property
    def reached_revision(self) -> str:
        """The newest revision of which all tables, and those of all before it, are there.

        Of version 4, one without tables of its own is reached if it, or a later one, is stated.
        """
        return max((revision.number for revision in REVISIONS if self._has_reached(revision)), default="")

    def _has_reached(self, revision: Revision) -> bool:
        if not self.tables >= tables_until(revision.number):
            return False
        is_stated = (self.stated_revision or "") >= revision.number
        return bool(revision.tables) or revision.number in PRE_V4_REVISIONS or is_stated

    @property
    def complete(self) -> bool:
        """Whether this is the newest revision of the current version, with all of its tables."""
        return self.version == CURRENT_SCHEMA_VERSION and self.tables >= OUR_TABLES and self.stated_revision == HEAD


def tables_until(revision: str) -> frozenset[str]:
    """Return the tables that a database has at a revision."""
    return frozenset(name for number, tables in REVISIONS if number <= revision for name in tables)


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
    return SchemaFacts(
        _version(connection, database),
        tables,
        _alembic_revision(connection, tables),
        _state(connection, SCHEMA_REVISION_KEY),
    )


def current_revision(connection: Connection, facts: SchemaFacts, database: str) -> str | None:
    """Return the revision that the tables correspond to; None for an empty database.

    A database at version 4 that has only the `files` table of the original plan is at the revision of that table.

    Raises:
        SchemaVersionError: the version cannot be migrated, or tables are missing or incomplete.
    """
    if facts.version is None:
        return None
    refuse_unsupported(facts, database)
    if facts.complete:
        return HEAD
    if missing := set(V3_TABLES) - facts.tables:
        raise _half_made(database, f"the tables {', '.join(sorted(missing))} are missing")
    if facts.is_v4:
        return _revision_of_v4(facts, database)
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


def refuse_unsupported(facts: SchemaFacts, database: str) -> None:
    """Refuse the versions and revisions that can neither be used nor migrated; an empty database is accepted.

    Raises:
        SchemaVersionError: the version is older than v3, or version or revision are newer than the current ones.
    """
    version, revision = facts.version, facts.stated_revision
    if version is None:
        return
    if version > CURRENT_SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{database}: is at schema version {version}, this program knows up to {CURRENT_SCHEMA_VERSION}; "
            "use the newer release of cowrieprocessor that wrote it"
        )
    if version == CURRENT_SCHEMA_VERSION and revision is not None and revision not in _NUMBERS:
        raise SchemaVersionError(
            f"{database}: is at revision {revision} of schema version {version}, this program knows up to {HEAD}; "
            "use the newer release of cowrieprocessor that wrote it"
        )
    if version < OLDEST_VERSION:
        raise SchemaVersionError(
            f"{database}: is at schema version {version}, which cannot be migrated; load its logs into a new "
            "database with `load`, or upgrade it to version 3 with the release that wrote it"
        )


def _revision_of_v4(facts: SchemaFacts, database: str) -> str:
    """Return the newest revision whose tables, and those of all before it, are there; nothing of a later one may be."""
    reached = facts.reached_revision
    if later := (OUR_TABLES - tables_until(reached)) & facts.tables:
        raise _half_made(database, f"it has only some of the tables of a later revision ({', '.join(sorted(later))})")
    if facts.stated_revision is not None and facts.stated_revision > reached:
        missing = tables_until(facts.stated_revision) - facts.tables
        raise _half_made(database, f"the tables {', '.join(sorted(missing))} are missing")
    return reached


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


def _state(connection: Connection, key: str) -> str | None:
    """Return a value of `schema_state`."""
    value = connection.execute(text("SELECT value FROM schema_state WHERE key = :key"), {"key": key}).scalar()
    return None if value is None else str(value)


def _version(connection: Connection, database: str) -> int:
    value = _state(connection, SCHEMA_VERSION_KEY)
    try:
        return int(str(value))
    except ValueError:
        raise SchemaVersionError(
            f"{database}: schema_state has {value!r} instead of a schema version; restore a backup"
        ) from None


def _alembic_revision(connection: Connection, tables: frozenset[str]) -> str | None:
    if ALEMBIC_TABLE not in tables:
        return None
    revisions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return str(revisions[0]) if len(revisions) == 1 else None
