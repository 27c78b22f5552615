"""The differences between SQLite and PostgreSQL: one object each, selected by the engine, connection or URL."""

from __future__ import annotations

from functools import cache

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.engine.interfaces import Compiled

from cowrieprocessor.db.dialects.base import Dialect
from cowrieprocessor.errors import ConfigurationError

_SQLITE_NAMES = frozenset({"sqlite", "sqlite+pysqlite", "sqlite+pysqlite3"})
_POSTGRESQL_NAMES = frozenset({"postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"})
"""SQLAlchemy's names of the dialects, and the schemes of URLs that select them."""


def dialect_of(database: Engine | Connection | Compiled | URL) -> Dialect:
    """Return the dialect of a database; only this dialect is imported.

    Args:
        database: an engine or connection, the compiler of a statement for one, or a URL as the user wrote it.

    Raises:
        ConfigurationError: the database is neither SQLite nor PostgreSQL.
    """
    return _named(database.drivername if isinstance(database, URL) else database.dialect.name)


@cache
def _named(name: str) -> Dialect:
    if name in _SQLITE_NAMES:
        from cowrieprocessor.db.dialects.sqlite.dialect import SQLITE

        return SQLITE
    if name in _POSTGRESQL_NAMES:
        from cowrieprocessor.db.dialects.postgresql.dialect import POSTGRESQL

        return POSTGRESQL
    raise ConfigurationError(f"{name}: not supported; give an SQLite file or a postgresql:// URL")
