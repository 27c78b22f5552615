"""Engines and transactions: the only access to a database.

Every transaction is either for reading or for writing: `read_transaction` sees one snapshot and cannot write;
`write_transaction` holds the write lock from its first statement. Both translate driver errors to ours.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import EngineOptions, options_of
from cowrieprocessor.errors import ConfigurationError, DatabaseReadOnly
from cowrieprocessor.settings import DEFAULT_DATABASE, load_settings

__all__ = [
    "address",
    "describe",
    "dispose",
    "get_engine",
    "read_transaction",
    "second_engine",
    "translate_errors",
    "write_transaction",
]


def get_engine(
    db: str | Path | None = None,
    *,
    read_only: bool = False,
    lock_timeout_s: float | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Engine:
    """Return an engine for a database; nothing is opened or created before its first use.

    Args:
        db: a path, or an SQLAlchemy URL of SQLite or PostgreSQL. By default, as for the commands: COWRIEPROC_DB_URL,
            COWRIEPROC_DB_PATH, the settings file, then `cowrieprocessor.sqlite` in the current folder.
        read_only: change no row, and require the database to exist. On SQLite a transaction that a killed writer left
            unfinished is rolled back first.
        lock_timeout_s: seconds to wait for another writer; the setting `lock_timeout_s` by default.
        on_wait: called about every five seconds while waiting, with the seconds waited so far (SQLite).

    Raises:
        ConfigurationError: the path or URL is invalid.
    """
    settings = load_settings(overrides={"db_url": db, "lock_timeout_s": lock_timeout_s})
    url = _parse(settings.db_url or DEFAULT_DATABASE)
    options = EngineOptions(
        read_only=read_only,
        lock_timeout_s=settings.lock_timeout_s,
        on_wait=on_wait,
        driver=settings.sqlite_driver,
    )
    return dialect_of(url).create_engine(url, options)


def second_engine(engine: Engine, *, lock_timeout_s: float) -> Engine:
    """Return another engine for the database of an engine, with connections of its own.

    Args:
        engine: the first engine.
        lock_timeout_s: seconds to wait for another writer.
    """
    options = EngineOptions(lock_timeout_s=lock_timeout_s, driver=options_of(engine).driver)
    return dialect_of(engine).create_engine(engine.url, options)


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """Yield a connection that holds the write lock; commit at the end, roll back on any error.

    On SQLite the transaction starts with BEGIN IMMEDIATE, after waiting for other writers.

    Raises:
        DatabaseReadOnly: the engine is read-only, or the file is not writable.
        DatabaseLocked: another process kept writing for longer than `lock_timeout_s`.
        DatabaseFull, DatabaseDamaged, NotADatabase, DatabaseError: see `cowrieprocessor.errors`.
    """
    if options_of(engine).read_only:
        raise DatabaseReadOnly(f"{describe(engine)}: opened for reading only; open it for writing")
    dialect_of(engine).install_listeners(engine)
    with translate_errors(engine), engine.begin() as connection:
        yield connection


def read_transaction(engine: Engine) -> AbstractContextManager[Connection]:
    """Return a transaction that sees one snapshot of the database and cannot write; it begins when it is entered.

    Raises:
        DatabaseError: the database does not exist or cannot be read; the message names the remedy.
    """
    return dialect_of(engine).read_transaction(engine)


def translate_errors(engine: Engine) -> AbstractContextManager[None]:
    """Return a context that translates the errors of the database drivers; see `Dialect.translate_errors`."""
    return dialect_of(engine).translate_errors(engine)


def describe(engine: Engine) -> str:
    """Return the display name of an engine's database: the path, or the URL without its password."""
    return dialect_of(engine).describe(engine.url)


def address(db: str | Engine) -> str:
    """Return what `--db` takes to name a database, without any password: a path, or a URL.

    Args:
        db: an engine, or a path or URL.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    if isinstance(db, Engine):
        return dialect_of(db).address(db.url)
    url = _parse(db)
    return dialect_of(url).address(url)


def dispose(engine: Engine) -> None:
    """Close the idle connections of an engine; SIGINT and SIGTERM wait until they are closed."""
    with translate_errors(engine), _signals_held():
        engine.dispose()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back: the pool would report what their handlers raise as a failure to close a connection.

    Blocking them would not do: another thread of the process may receive them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread
        return
    held: list[int] = []

    def note(number: int, _frame: object) -> None:
        held.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for received in held:
            signal.raise_signal(received)


def _parse(name: str) -> URL:
    """Return the URL of a database that is given as a path or a URL; a path is that of an SQLite file."""
    if "://" not in name:
        return URL.create("sqlite", database=name)
    try:
        url = make_url(name)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"{_redacted(name)}: not a database URL; write postgresql://user@host/name") from None
    _, _, parameters = name.partition("?")
    if not all("=" in parameter for parameter in parameters.split("&") if parameter):
        raise ConfigurationError(
            f"{_redacted(name)}: what follows `?` in the URL is no parameter; if it belongs to the name, give an "
            "SQLite file by its path alone, and write %3F in the URL of a PostgreSQL database"
        )
    return dialect_of(url).parsed(url)


def _redacted(name: str) -> str:
    """Return a URL that could not be parsed, without the part that may be its password."""
    return re.sub(r"(//)[^/]*@", r"\1***@", name.split("?", 1)[0])
