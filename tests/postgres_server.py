"""A real PostgreSQL for the tests, in a temporary folder, on a private socket, gone afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

USER = "tester"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
SERVER_OPTIONS: Mapping[str, str] = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "timezone": "Asia/Kolkata",  # not UTC: code that relies on the server's zone shall fail
}


KEPT_TABLES = ("alembic_version", "schema_state")
"""What they hold belongs to the shape of a database."""

_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
_USED_SEQUENCES = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL"
_SHAPE = """
    SELECT 'schema', nspname::text, '' FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT 'relation', relname::text, concat_ws(' ', relkind, relpersistence, reloptions) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'column', concat(attrelid::regclass, '.', attname),
        concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attcollation)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace
        AND relkind <> 'i'
    UNION ALL SELECT 'default', adrelid::regclass::text, concat(adnum, pg_get_expr(adbin, adrelid)) FROM pg_attrdef
    UNION ALL SELECT 'index', indexrelid::regclass::text, concat(pg_get_indexdef(indexrelid), indisvalid) FROM pg_index
        JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'constraint', conname::text, pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger', tgname::text, concat(pg_get_triggerdef(oid), tgenabled) FROM pg_trigger
        WHERE NOT tgisinternal
    UNION ALL SELECT 'function', proname::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'statistics', starelid::regclass::text, '' FROM pg_statistic
        JOIN pg_class ON pg_class.oid = starelid WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'setting', array_to_string(setconfig, ' '), '' FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY 1, 2, 3
"""


def binaries() -> Path | None:
    """Return the folder of the newest installed initdb and postgres, or None."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda folder: float(folder.parent.name) if folder.parent.name.replace(".", "").isdigit() else 0,
        reverse=True,
    )
    on_path = shutil.which("initdb")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    return next(
        (folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()),
        None,
    )


class PostgresServer:
    """A server that runs as long as the `with` block; each `new_database` is empty and private to its test.

    PostgreSQL refuses to run as root; then Debian's user `postgres` runs it, or `nobody`.
    """

    def __init__(self, folder_of_binaries: Path) -> None:
        self._binaries = folder_of_binaries
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._version = 0
        self._free_copies: dict[str, list[str]] = {}
        self._shapes: dict[str, list[tuple[object, ...]]] = {}
        self._account = _account()
        self.folder = Path(tempfile.mkdtemp(prefix="cowrieproc-pg-"))

    def __enter__(self) -> PostgresServer:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database of this server."""
        return f"postgresql+psycopg://{USER}@/{database}?host={self.folder}"

    @contextlib.contextmanager
    def new_database(self) -> Iterator[str]:
        """Yield the URL of an empty database that nobody else uses.

        Making a database takes PostgreSQL a second, emptying one takes none: it is emptied and used again.
        """
        name = self._free.pop() if self._free else self._create()
        try:
            yield self.url(name)
        finally:
            self._empty(name)
            self._free.append(name)

    @contextlib.contextmanager
    def new_copy(self, template: str) -> Iterator[str]:
        """Yield the URL of a copy of a database, that nobody else uses; nobody may be connected to the original.

        What only rows were put into is emptied and used again: copying takes five times as long.
        """
        free = self._free_copies.setdefault(template, [])
        name = free.pop() if free else self._copy(template)
        try:
            yield self.url(name)
        finally:
            if self._is_as_it_was(name, template):
                free.append(name)
            else:
                self._admin(f"DROP DATABASE {name} WITH (FORCE)")

    def _copy(self, template: str) -> str:
        if template not in self._shapes:
            with self._connected(template) as connection:
                self._shapes[template] = _shape(connection)
        name = f"copy_{next(self._numbers)}"
        copying = " STRATEGY FILE_COPY" if self._version >= 150_000 else ""  # before that there was no other way
        self._admin(f"CREATE DATABASE {name} TEMPLATE {template}{copying}")
        return name

    def _is_as_it_was(self, name: str, template: str) -> bool:
        """Empty what a test has filled, whoever is still connected; return whether nothing else was changed."""
        self._admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        with self._connected(name) as connection:
            tables = [name for (name,) in connection.execute(_TABLES).fetchall() if name not in KEPT_TABLES]
            asked = " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT FROM \"{name}\")" for name in tables)
            filled = [f'"{name}"' for (name,) in connection.execute(asked.encode()).fetchall()] if tables else []
            if filled:
                connection.execute(f"TRUNCATE {', '.join(filled)} CASCADE".encode())
            for (sequence,) in connection.execute(_USED_SEQUENCES).fetchall():
                connection.execute(f'ALTER SEQUENCE "{sequence}" RESTART'.encode())
            return _shape(connection) == self._shapes[template]

    def _create(self) -> str:
        name = f"test_{next(self._numbers)}"
        self._admin(f"CREATE DATABASE {name}")
        return name

    def _empty(self, name: str) -> None:
        """Remove all that a test made, whoever is still connected."""
        self._admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        others = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        with self._connected(name) as connection:
            for (schema,) in connection.execute(others.encode()).fetchall():
                connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
            connection.execute(b"CREATE SCHEMA public")
            connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())

    def _connected(self, name: str) -> psycopg.Connection:
        return psycopg.connect(user=USER, dbname=name, host=str(self.folder), autocommit=True)

    def _admin(self, statement: str) -> None:
        with self._connected("postgres") as connection:
            self._version = connection.info.server_version
            connection.execute(statement.encode())

    def _start(self) -> None:
        if self._account:
            os.chown(self.folder, self._account["user"], self._account["group"])
        self._init_database()
        options = [part for name, value in SERVER_OPTIONS.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                **self._account,
            )
        self._wait_until_ready()

    def _init_database(self) -> None:
        """Make the data folder; text sorts as people do, so that binary order has to be asked for."""
        command = [
            self._binaries / "initdb",
            "-D",
            self.folder / "data",
            "-U",
            USER,
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
        ]
        icu = ["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]
        for locale in (icu, ["--locale=C"]):
            done = subprocess.run(
                [*command, *locale], capture_output=True, cwd=self.folder, check=False, **self._account
            )
            if done.returncode == 0:
                return
        raise RuntimeError(f"initdb failed: {done.stderr.decode(errors='replace')}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._admin("SELECT 1")
            except psycopg.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL did not start: {log}") from None
                time.sleep(0.05)
            else:
                return

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # nothing of it is wanted any more
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _shape(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Return all that a database at the current version consists of but rows, and what says which version it is."""
    shape = connection.execute(_SHAPE).fetchall()
    there = [name for kind, name, _ in shape if kind == "relation" and name in KEPT_TABLES]
    return [*shape, *(row for name in there for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1".encode()))]


def _account() -> dict[str, Any]:
    """Return the arguments of Popen that run a program as another user, when we are root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")
