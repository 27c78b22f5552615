"""PostgreSQL through psycopg 3: sessions in UTC, advisory locks, and the translation of errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text

from cowrieprocessor.db.dialects.base import OPTIONS_KEY, Dialect, EngineOptions, Storage
from cowrieprocessor.errors import (
    ConfigurationError,
    DatabaseDamaged,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
)

if TYPE_CHECKING:  # each is imported when it is first asked for
    from cowrieprocessor.db.dialects.postgresql.bulk import PostgresqlBulkInsert
    from cowrieprocessor.db.dialects.postgresql.definitions import PostgresqlDefinitions
    from cowrieprocessor.db.dialects.postgresql.pressure import PostgresqlPressure
    from cowrieprocessor.db.dialects.postgresql.scan import PostgresqlTableScan
    from cowrieprocessor.db.dialects.postgresql.sql import PostgresqlExpressions

CONNECT_TIMEOUT_S = 15
MIGRATION_LOCK = 0x636F7772696570  # "cowriep", the key of our advisory lock
SECRET_PARAMETERS = frozenset({"password", "sslpassword", "passfile"})

_BY_STATE: dict[str, tuple[type[DatabaseError], str]] = {
    "08": (DatabaseError, "the connection to the server broke; check that it runs, then repeat the command"),
    "25006": (DatabaseReadOnly, "the server or the connection is read-only; connect to the primary server"),
    "28": (DatabaseError, "the server refused the login; check user and password"),
    "3D000": (DatabaseError, "no such database on the server; create it with createdb"),
    "3F000": (DatabaseError, "no such schema; create it, or correct the user's search_path"),
    "40001": (DatabaseLocked, "another transaction interfered; repeat the command"),
    "40P01": (DatabaseLocked, "two transactions waited for each other; repeat the command"),
    "42501": (
        DatabaseReadOnly,
        "the user lacks a permission; grant it CREATE on the schema and ownership of the tables",
    ),
    "53100": (DatabaseFull, "the server's disk is full; make room, then repeat the command"),
    "53": (DatabaseError, "the server has no connections or memory left; try again later"),
    "55P03": (DatabaseLocked, "another process has locked the table; wait for it, then repeat the command"),
    "57": (DatabaseError, "the server stopped the command; check that it runs, then repeat the command"),
    "58": (DatabaseError, "the server could not read or write its disk; see its log"),
    "XX001": (DatabaseDamaged, "the server found damaged data; restore a backup"),
    "XX002": (DatabaseDamaged, "the server found a damaged index; REINDEX it, or restore a backup"),
}
"""Errors by SQLSTATE or its class. Source: PostgreSQL's documentation, appendix A."""

_NO_CONNECTION = "cannot connect; check the URL, that the server runs, and that the database exists (createdb)"
"""Before there is a connection libpq gives no SQLSTATE, and its message depends on the language."""

_QUOTA_WORDS = os.strerror(errno.EDQUOT)


def _on_connect(options: EngineOptions, connection: Any, _record: object) -> None:
    """Set up a session: UTC, a lock timeout, and read-only if requested.

    Raises:
        DatabaseError: the database does not store text as UTF-8.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseError(f"the database stores text as {encoding}; create one with createdb --encoding=UTF8")
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(f"SET lock_timeout = {max(1, int(options.lock_timeout_s * 1000))}")  # 0 means no timeout
        if options.read_only:
            cursor.execute("SET default_transaction_read_only = on")
    connection.commit()


class PostgresqlDialect(Dialect):
    """PostgreSQL 13 and later."""

    name: ClassVar[str] = "postgresql"
    is_dedicated: ClassVar[bool] = False
    computes_event_columns: ClassVar[bool] = False

    @cached_property
    def sql(self) -> PostgresqlExpressions:
        """The SQL expressions of PostgreSQL."""
        from cowrieprocessor.db.dialects.postgresql.sql import PostgresqlExpressions

        return PostgresqlExpressions()

    @cached_property
    def bulk(self) -> PostgresqlBulkInsert:
        """Insertion with executemany."""
        from cowrieprocessor.db.dialects.postgresql.bulk import PostgresqlBulkInsert

        return PostgresqlBulkInsert()

    @cached_property
    def definitions(self) -> PostgresqlDefinitions:
        """The catalog, and locks of tables."""
        from cowrieprocessor.db.dialects.postgresql.definitions import PostgresqlDefinitions

        return PostgresqlDefinitions()

    def pressure(self, engine: Engine) -> PostgresqlPressure:
        """Return the write pressure on a server."""
        from cowrieprocessor.db.dialects.postgresql.pressure import PostgresqlPressure

        return PostgresqlPressure(engine)

    @contextmanager
    def scan(self, engine: Engine) -> Iterator[PostgresqlTableScan]:
        """Yield a scan in one transaction."""
        from cowrieprocessor.db.dialects.postgresql.scan import PostgresqlTableScan

        with self.read_transaction(engine) as connection:
            yield PostgresqlTableScan(engine, self.sql, connection)

    @property
    def files(self) -> None:
        """None: the server manages its files."""
        return

    @property
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """The base error class of psycopg."""
        return (_psycopg().Error,)

    def parsed(self, url: URL) -> URL:
        """Return the URL for psycopg, with its database decoded as libpq does.

        SQLAlchemy decodes what is quoted (`%3F`) in every other part.
        """
        return url.set(drivername="postgresql+psycopg", database=unquote(url.database) if url.database else None)

    def create_engine(self, url: URL, options: EngineOptions) -> Engine:
        """Return an engine for a database on a server; no connection is opened yet.

        Raises:
            ConfigurationError: psycopg is not installed.
        """
        _psycopg()
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "cowrieprocessor"},
            hide_parameters=True,
            pool_pre_ping=True,
            execution_options={OPTIONS_KEY: options},
        )
        event.listen(engine, "connect", partial(_on_connect, options))
        return engine

    def install_listeners(self, engine: Engine) -> None:
        """Do nothing: psycopg's own transaction handling is suitable."""

    @contextmanager
    def _snapshot(self, engine: Engine) -> Iterator[Connection]:
        """Yield a connection in a read-only transaction that sees one snapshot of the database."""
        with engine.connect() as connection:
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    def describe(self, url: URL) -> str:
        """Return the URL with every secret in it masked."""
        hidden = dict.fromkeys(SECRET_PARAMETERS & url.query.keys(), "***")
        return _quoted(url).update_query_dict(hidden).render_as_string(hide_password=True)

    def address(self, url: URL) -> str:
        """Return the URL without its secrets: the server's library finds them in PGPASSWORD or ~/.pgpass."""
        bare = (
            _quoted(url)
            ._replace(drivername="postgresql", password=None)
            .difference_update_query(SECRET_PARAMETERS - {"passfile"})
        )
        return bare.render_as_string()

    def explain(self, error: BaseException, url: URL) -> DatabaseError | None:
        """Return our error for the server's SQLSTATE, or for a server that is unreachable."""
        state = getattr(error, "sqlstate", None)
        if state is None:
            if not isinstance(error, _psycopg().OperationalError):
                return None
            kind, remedy = DatabaseError, _NO_CONNECTION
        elif state in _BY_STATE or state[:2] in _BY_STATE:
            is_full = state[:2] == "58" and _QUOTA_WORDS in str(error)  # the server has no SQLSTATE for a full quota
            kind, remedy = _BY_STATE["53100"] if is_full else _BY_STATE.get(state) or _BY_STATE[state[:2]]
        else:
            return None
        return kind(f"{self.describe(url)}: {remedy} (the server says: {_redacted(str(error), url)})")

    def lock_migrations(self, connection: Connection) -> None:
        """Take an advisory lock that ends with the transaction."""
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})

    def table_names(self, connection: Connection) -> Collection[str]:
        """Return the tables and views of the current schema."""
        inspector = inspect(connection)
        return {*inspector.get_table_names(), *inspector.get_view_names()}

    def column_names(self, connection: Connection, table: str) -> Collection[str]:
        """Return the names of a table's columns."""
        return {str(column["name"]) for column in inspect(connection).get_columns(table)}

    def storage(self, connection: Connection) -> Storage:
        """Return the server's version and the size of the whole database."""
        return Storage(
            library=f"PostgreSQL {connection.execute(text('SHOW server_version')).scalar_one()}",
            wal_reset_bug=False,
            journal_mode=None,
            size_bytes=int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()),
            wal_bytes=None,
        )

    def estimated_rows(self, connection: Connection, table: str) -> int:
        """Return the server's own estimate; 0 for a table that it has not analyzed yet."""
        query = text("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass(:name)")
        quoted = connection.dialect.identifier_preparer.quote(table)
        return int(connection.execute(query, {"name": quoted}).scalar_one())

    def exact_rows(self, connection: Connection, table: str) -> int:
        """Count all rows."""
        quoted = connection.dialect.identifier_preparer.quote(table)
        return int(connection.execute(text(f"SELECT count(*) FROM {quoted}")).scalar_one())

    def find_damage(self, connection: Connection, *, full: bool) -> list[str]:
        """Return the invalid indexes; `full` also reads every row of every table without using indexes."""
        invalid = connection.execute(
            text(
                "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
                "WHERE relnamespace = current_schema()::regnamespace AND NOT (indisvalid AND indisready)"
            )
        )
        problems = [f"index {name} is invalid: REINDEX it" for (name,) in invalid]
        if full:
            connection.execute(text("SET LOCAL enable_indexonlyscan = off"))
            for table in sorted(self.table_names(connection)):
                quoted = connection.dialect.identifier_preparer.quote(table)
                connection.execute(text(f"SELECT count({quoted}.*) FROM {quoted}"))
        return problems

    def reusable_bytes(self, connection: Connection) -> int:
        """Return 0: the server's own vacuum manages free space."""
        return 0

    def refresh_statistics(self, connection: Connection) -> None:
        """Run ANALYZE, which samples each table that the user may analyze."""
        connection.execute(text("ANALYZE"))


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ConfigurationError(
            "PostgreSQL needs psycopg; `pip install 'cowrieprocessor[postgres]'`, or use an SQLite file"
        ) from error
    return psycopg


def _quoted(url: URL) -> URL:
    """Return a URL that is the same again when it is rendered and parsed: SQLAlchemy does not quote the database."""
    return url.set(database=quote(url.database, safe="")) if url.database else url


def _redacted(message: str, url: URL) -> str:
    secrets = [url.password, *(url.query.get(name) for name in SECRET_PARAMETERS)]
    for secret in secrets:
        for part in (secret,) if isinstance(secret, str) else secret or ():
            message = message.replace(part, "***") if part else message
    return " ".join(message.split())


POSTGRESQL = PostgresqlDialect()
