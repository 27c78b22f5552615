"""The differences between SQLite and PostgreSQL: one class each, selected by the engine."""

from __future__ import annotations

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.base import Dialect
from cowrieprocessor.errors import ConfigurationError


def dialect_of(database: Engine | Connection) -> Dialect:
    """Return the dialect of an engine or connection.

    Raises:
        ConfigurationError: the database is neither SQLite nor PostgreSQL.
    """
    return dialect_named(database.dialect.name)


def dialect_named(name: str) -> Dialect:
    """Return the dialect with SQLAlchemy's name `name`; only this dialect is imported.

    Raises:
        ConfigurationError: the name is neither sqlite nor postgresql.
    """
    if name == "sqlite":
        from cowrieprocessor.db.dialects.sqlite.dialect import SQLITE

        return SQLITE
    if name == "postgresql":
        from cowrieprocessor.db.dialects.postgresql import POSTGRESQL

        return POSTGRESQL
    raise ConfigurationError(f"{name}: not supported; give an SQLite file or a postgresql:// URL")
