"""Opening a database: what is created, what is refused, and the error messages."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import IntegrityError

from cowrieprocessor import filesystems
from cowrieprocessor.db.dialects.postgresql.dialect import POSTGRESQL
from cowrieprocessor.db.engine import (
    describe,
    dispose,
    get_engine,
    read_transaction,
    translate_errors,
    write_transaction,
)
from cowrieprocessor.errors import (
    ConfigurationError,
    DatabaseDamaged,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
    NotADatabase,
)
from cowrieprocessor.filesystems import file_system_type
from tests.other_connections import sqlite3
from tests.postgres_server import PostgresServer

SECRET = "s3cr3t-pass"
OPENER = Callable[..., Engine]


@pytest.fixture
def opened() -> Iterator[OPENER]:
    """Return get_engine, whose engines are closed after the test."""
    engines: list[Engine] = []

    def open_(*args: object, **options: object) -> Engine:
        engines.append(get_engine(*args, **options))  # type: ignore[arg-type]
        return engines[-1]

    yield open_
    for engine in engines:
        dispose(engine)


def touch(engine: Engine) -> None:
    """Write to the database."""
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY, y TEXT)"))


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_new_file_is_private(tmp_path: Path, opened: OPENER) -> None:
    """A new database, its log and its shared memory are readable by their owner only, whatever the umask."""
    path = tmp_path / "new.sqlite"
    before = os.umask(0)
    try:
        touch(opened(path))
        modes = {file.name: mode(file) for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"new.sqlite", "new.sqlite-wal", "new.sqlite-shm"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_existing_file_keeps_its_mode(tmp_path: Path, opened: OPENER) -> None:
    """The permissions of an existing database are not changed."""
    path = tmp_path / "shared.sqlite"
    path.touch()
    path.chmod(0o640)
    touch(opened(path))
    assert mode(path) == 0o640


def test_nothing_is_opened_before_the_first_use(tmp_path: Path, opened: OPENER) -> None:
    """Creating an engine creates no file."""
    opened(tmp_path / "later.sqlite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plain.sqlite", "with blank.sqlite", "50%20.sqlite", "what?mode=ro#x", "ünï.db"])
def test_path_is_taken_literally(tmp_path: Path, opened: OPENER, name: str) -> None:
    """A path names exactly one file, whatever characters it contains."""
    touch(opened(str(tmp_path / name)))
    assert (tmp_path / name).is_file()


def test_url_and_path_name_the_same_file(tmp_path: Path, opened: OPENER) -> None:
    """An SQLAlchemy URL opens the same file as the path."""
    path = tmp_path / "same.sqlite"
    touch(opened(path))
    engine = opened(f"sqlite:///{path}")
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0
    assert describe(engine) == str(path)


@pytest.mark.parametrize("variable", ["COWRIEPROC_DB_URL", "COWRIEPROC_DB_PATH"])
def test_bare_call_takes_the_environment(
    tmp_path: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Without arguments, the environment names the database."""
    monkeypatch.setenv(variable, str(tmp_path / "env.sqlite"))
    touch(opened())
    assert (tmp_path / "env.sqlite").exists()


def test_bare_call_uses_the_file_in_the_current_folder(
    tmp_path: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments and environment, the database is `cowrieprocessor.sqlite` in the current folder."""
    monkeypatch.chdir(tmp_path)
    touch(opened())
    assert (tmp_path / "cowrieprocessor.sqlite").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mysql://root@localhost/x", "mysql: not supported"),
        (f"postgresql://u:{SECRET}@host:notaport/x", "not a database URL"),
        (f"nonsense://u:{SECRET}@/x", "nonsense: not supported"),
        ("sqlite:///x.db?mode=ro", "no parameters"),
    ],
)
def test_unusable_url_is_refused_without_its_password(name: str, message: str) -> None:
    """An invalid URL is refused, and the message does not contain its password."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        get_engine(name)
    assert SECRET not in str(caught.value)


def test_missing_folder_is_reported(tmp_path: Path, opened: OPENER) -> None:
    """A database in a folder that does not exist is refused, naming the folder; it is not created."""
    with pytest.raises(DatabaseError, match="no-such-folder does not exist; create it"):
        touch(opened(tmp_path / "no-such-folder" / "x.sqlite"))
    assert list(tmp_path.iterdir()) == []


def test_read_only_engine_creates_nothing(tmp_path: Path, opened: OPENER) -> None:
    """Reading a missing database fails with a hint on how to create it, and creates nothing."""
    path = tmp_path / "missing.sqlite"
    with (
        pytest.raises(DatabaseError, match=rf"{path}: no such database; `cowrieprocessor load"),
        read_transaction(opened(path, read_only=True)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [True, False])
def test_other_file_is_no_database(tmp_path: Path, opened: OPENER, read_only: bool) -> None:
    """A file that is not a database is refused and not changed."""
    path = tmp_path / "cowrie.json"
    content = b'{"eventid": "cowrie.session.connect"}\n' * 200
    path.write_bytes(content)
    with pytest.raises(NotADatabase, match=r"cowrie\.json"), read_transaction(opened(path, read_only=read_only)) as c:
        c.execute(text("SELECT * FROM sqlite_master"))
    assert path.read_bytes() == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("read_only", [True, False])
def test_folder_or_fifo_is_no_database(
    tmp_path: Path, opened: OPENER, make: Callable[[Path], None], read_only: bool
) -> None:
    """A folder or a FIFO is refused immediately, without waiting for a writer."""
    make(tmp_path / "thing")
    with (
        pytest.raises(NotADatabase, match="not a regular file"),
        read_transaction(opened(tmp_path / "thing", read_only=read_only)),
    ):
        pass


def test_read_only_engine_refuses_to_write(db_url: str, opened: OPENER) -> None:
    """A read-only engine refuses a write transaction, and the database refuses a write that bypasses it."""
    touch(opened(db_url))
    engine = opened(db_url, read_only=True)
    with pytest.raises(DatabaseReadOnly), write_transaction(engine):
        pass
    with pytest.raises(DatabaseReadOnly), translate_errors(engine), engine.begin() as connection:
        connection.execute(text("INSERT INTO t (y) VALUES ('x')"))


def test_read_transaction_cannot_write(db_url: str, opened: OPENER) -> None:
    """A read transaction of a writable engine refuses to write; the next write transaction does not."""
    engine = opened(db_url)
    touch(engine)
    insert = text("INSERT INTO t (x, y) VALUES (1, 'x')")
    with pytest.raises(DatabaseReadOnly), read_transaction(engine) as connection:
        connection.execute(insert)
    with write_transaction(engine) as connection:
        connection.execute(insert)
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 1


def test_a_write_in_a_read_transaction_is_undone(tmp_path: Path, opened: OPENER) -> None:
    """Whatever a read transaction writes, a table included, is gone, and the same connection can write afterwards."""
    engine = opened(tmp_path / "t.sqlite")
    touch(engine)
    writes = "CREATE TABLE u (x INTEGER)", "INSERT INTO t (x, y) VALUES (1, 'x')"
    with pytest.raises(DatabaseReadOnly), read_transaction(engine) as connection:
        list(map(connection.exec_driver_sql, writes))
    with write_transaction(engine) as connection:
        assert connection.execute(text("SELECT name FROM sqlite_master")).scalars().all() == ["t"]
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0


def test_read_transactions_keep_the_prepared_statements(tmp_path: Path, opened: OPENER) -> None:
    """A read transaction changes no setting: SQLite would prepare every statement of the connection anew."""
    engine = opened(tmp_path / "t.sqlite")
    touch(engine)
    statements: list[str] = []
    with engine.connect() as connection:
        connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
    with read_transaction(engine) as connection:
        connection.execute(text("SELECT count(*) FROM t"))
    assert [text for text in statements if "PRAGMA" in text] == []
    assert [text.split()[0] for text in statements][-3:] == ["BEGIN", "SELECT", "ROLLBACK"]


def test_values_that_the_driver_has_to_adapt(tmp_path: Path, opened: OPENER) -> None:
    """None and truth values are stored as SQLite has them, NULL and integers."""
    engine = opened(tmp_path / "t.sqlite")
    touch(engine)
    with write_transaction(engine) as connection:
        cursor = connection.connection.cursor()
        cursor.execute("SELECT ?, typeof(?), ?, typeof(?)", (None, None, True, True))
        assert cursor.fetchall() == [(None, "null", 1, "integer")]


def test_read_transaction_sees_one_snapshot(db_url: str, opened: OPENER) -> None:
    """A commit of another connection during a read transaction is visible only to the next read transaction."""
    writer, reader = opened(db_url), opened(db_url, read_only=True)
    touch(writer)
    count = text("SELECT count(*) FROM t")
    with read_transaction(reader) as connection:
        seen = [connection.execute(count).scalar()]
        with write_transaction(writer) as writing:
            writing.execute(text("INSERT INTO t (x, y) VALUES (1, 'x')"))
        seen.append(connection.execute(count).scalar())
    with read_transaction(reader) as connection:
        seen.append(connection.execute(count).scalar())
    assert seen == [0, 0, 1]


def test_failed_write_transaction_leaves_nothing(db_url: str, opened: OPENER) -> None:
    """An error rolls back the whole transaction, including its new tables."""
    engine = opened(db_url)
    touch(engine)

    def fail_half_way() -> None:
        with write_transaction(engine) as connection:
            connection.execute(text("CREATE TABLE other (x INTEGER)"))
            connection.execute(text("INSERT INTO t (x, y) VALUES (1, 'x')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE other (x INTEGER)"))
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0


def test_violated_constraint_is_not_translated(db_url: str, opened: OPENER) -> None:
    """A violated constraint is a bug of the caller, not a state of the database: the error is not translated."""
    engine = opened(db_url)
    touch(engine)
    with pytest.raises(IntegrityError), write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO t (x, y) VALUES (1, 'x'), (1, 'x')"))


def test_full_disk_is_reported(tmp_path: Path, opened: OPENER) -> None:
    """When the file cannot grow, the error says that the disk is full, and the transaction is rolled back."""
    engine = opened(tmp_path / "full.sqlite")
    touch(engine)
    with read_transaction(engine) as connection:  # the setting stays with the connection
        connection.exec_driver_sql("PRAGMA max_page_count=3")
    with pytest.raises(DatabaseFull, match="make room"), write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO t (y) VALUES (:y)"), {"y": "x" * 100_000})
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0


def test_a_full_quota_of_a_server_is_called_full() -> None:
    """PostgreSQL has no SQLSTATE for a quota; its message tells that it is full."""
    error = psycopg.errors.IoError('could not extend file "base/1/2": Disk quota exceeded')
    explained = POSTGRESQL.explain(error, make_url("postgresql://server/name"))
    assert isinstance(explained, DatabaseFull)
    assert "disk is full" in str(explained)
    other = POSTGRESQL.explain(psycopg.errors.IoError("could not read"), make_url("postgresql://server/name"))
    assert not isinstance(other, DatabaseFull)


def test_damaged_page_is_reported(tmp_path: Path, opened: OPENER) -> None:
    """A page that cannot be read is reported as damage, with the remedy."""
    path = tmp_path / "damaged.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT)")
        connection.executemany("INSERT INTO t (y) VALUES (?)", [("y" * 500,)] * 200)
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 6] = b"\xa5" * (4096 * 4)
    path.write_bytes(content)
    with pytest.raises(DatabaseDamaged, match="restore a backup"), read_transaction(opened(path)) as connection:
        connection.execute(text("SELECT sum(length(y)) FROM t")).scalar()


MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/nas rw,relatime - nfs4 nas:/export rw
31 30 8:2 / /mnt/nas/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/with\040blank rw shared:9 master:2 - cifs //win/share rw
33 22 0:42 / /mnt/ssh rw - fuse.sshfs me@host: rw
34 22 8:3 / /srv rw - ext4 /dev/sdc1 rw
35 34 8:4 / /srv rw - btrfs /dev/sdd1 rw
""".strip().splitlines()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/x.sqlite", "ext4"),
        ("/mnt/nas/x.sqlite", "nfs4"),
        ("/mnt/nas/local/x.sqlite", "xfs"),
        ("/mnt/nasty/x.sqlite", "ext4"),
        ("/mnt/with blank/x.sqlite", "cifs"),
        ("/mnt/ssh/deep/er/x.sqlite", "fuse.sshfs"),
        ("/srv/x.sqlite", "btrfs"),
    ],
)
def test_file_system_is_that_of_the_deepest_and_latest_mount(path: str, expected: str) -> None:
    """A path is on the deepest mount above it; of two mounts on one path, on the later."""
    assert file_system_type(Path(path), MOUNTINFO) == expected


@pytest.mark.parametrize("kind", ["nfs", "cifs", "fuse.sshfs", "9p"])
def test_network_file_system_is_refused(
    tmp_path: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On a network file system nothing is opened or created; the message names the alternatives."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {tmp_path} rw - {kind} x rw\n")
    monkeypatch.setattr(filesystems, "MOUNTINFO", mounts)
    with pytest.raises(DatabaseError, match=f"network file system .{kind}.*PostgreSQL"):
        touch(opened(tmp_path / "x.sqlite"))
    assert not (tmp_path / "x.sqlite").exists()


@pytest.mark.postgres
@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_spelling_of_a_postgres_url_is_accepted(postgres_url: str, opened: OPENER, scheme: str) -> None:
    """URLs for other drivers work with psycopg 3."""
    touch(opened(postgres_url.replace("postgresql+psycopg", scheme)))


@pytest.mark.postgres
def test_postgres_session_is_in_utc(postgres_url: str, opened: OPENER) -> None:
    """The time zone of a session is UTC, whatever the time zone of the server."""
    with read_transaction(opened(postgres_url)) as connection:
        assert connection.execute(text("SHOW timezone")).scalar() == "UTC"


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("name", "message"), [("nosuchdb", "cannot connect"), ("postgres&port=1", "that the server runs")]
)
def test_postgres_password_is_in_no_message(
    postgres_server: PostgresServer, opened: OPENER, name: str, message: str
) -> None:
    """Errors of a server name the URL without the password, wherever in the URL it is."""
    database, _, parameters = name.partition("&")
    in_userinfo = f"postgresql://tester:{SECRET}@/{database}?host={postgres_server.folder}&{parameters}"
    in_query = f"postgresql://tester@/{database}?host={postgres_server.folder}&password={SECRET}&{parameters}"
    for url in (in_userinfo, in_query):
        engine = opened(url)
        with pytest.raises(DatabaseError, match=message) as caught, read_transaction(engine):
            pass
        assert SECRET not in str(caught.value)
        assert SECRET not in describe(engine)


@pytest.mark.postgres
def test_postgres_that_is_not_utf8_is_refused(postgres_server: PostgresServer, opened: OPENER) -> None:
    """A server's database that does not store UTF-8 is refused: it could not store the text of attackers."""
    statement = (
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    with psycopg.connect(
        user="tester", dbname="postgres", host=str(postgres_server.folder), autocommit=True
    ) as connection:
        connection.execute(statement)
    with pytest.raises(DatabaseError, match=r"LATIN1.*UTF8"), read_transaction(opened(postgres_server.url("latin"))):
        pass


def test_a_signal_waits_until_the_connections_are_closed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGTERM in the middle of closing ends the command afterwards; the pool has no failure to report."""
    do_close = engine.dialect.do_close

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def terminate_and_close(connection: DBAPIConnection) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        do_close(connection)

    with read_transaction(engine) as connection:
        connection.execute(text("SELECT 1"))
    before = signal.signal(signal.SIGTERM, interrupt)
    monkeypatch.setattr(engine.dialect, "do_close", terminate_and_close)
    try:
        with pytest.raises(KeyboardInterrupt):
            dispose(engine)
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGTERM, before)

    assert caplog.records == []
