"""Restore: a verified copy replaces the database as a whole, and the old database is kept."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations, schema_version
from cowrieprocessor.errors import (
    ConfigurationError,
    CopyRefused,
    DatabaseDamaged,
    DatabaseError,
    DatabaseFull,
    DatabaseInUse,
    NotADatabase,
    SchemaVersionError,
)
from cowrieprocessor.jobs.maintenance import atomic_file
from cowrieprocessor.jobs.maintenance import restore as restore_module
from cowrieprocessor.jobs.maintenance.backup import STEPS, backup
from cowrieprocessor.jobs.maintenance.restore import plan_restore, restore
from cowrieprocessor.jobs.runtime.progress import JobProgress
from tests import v3_schema
from tests.other_connections import OtherProcess, sqlite3
from tests.sqlite_dump import dump, files_in
from tests.step_writer import StepWriter


@pytest.fixture
def saved(v3_file: Path, tmp_path: Path) -> Path:
    """A backup of the v3 file, in its own folder."""
    engine = get_engine(v3_file, read_only=True)
    (tmp_path / "saved").mkdir()
    backup(engine, tmp_path / "saved" / "b.sqlite")
    dispose(engine)
    return tmp_path / "saved" / "b.sqlite"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A database to be replaced: of our version, closed."""
    (tmp_path / "live").mkdir()
    path = tmp_path / "live" / "cowrie.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


@pytest.fixture
def target(live: Path) -> Iterator[Engine]:
    """An engine on the database to replace."""
    engine = get_engine(live, lock_timeout_s=0)
    yield engine
    dispose(engine)


def test_restored_database_is_the_backup(live: Path, target: Engine, saved: Path) -> None:
    """The database equals the backup row for row, private, in WAL mode again; the old database is next to it."""
    old = dump(live)
    result = restore(target, saved)
    assert result.kept is not None
    assert (dump(live), dump(Path(result.kept))) == (dump(saved), old)
    assert stat.S_IMODE(live.stat().st_mode) == 0o600
    assert files_in(live.parent) == {live.name, Path(result.kept).name}
    with closing(sqlite3.connect(live)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (result.schema_version, schema_version(get_engine(live, read_only=True))) == (3, 3)


def test_restored_database_is_migrated_again(live: Path, target: Engine, saved: Path) -> None:
    """The restored database can be migrated like the original."""
    restore(target, saved)
    dispose(target)
    assert apply_migrations(target) == 4


def test_missing_database_is_created(saved: Path, tmp_path: Path) -> None:
    """Without a database the backup becomes it, and nothing is kept."""
    engine = get_engine(tmp_path / "saved" / "new.sqlite")
    result = restore(engine, saved)
    assert (result.kept, dump(tmp_path / "saved" / "new.sqlite")) == (None, dump(saved))
    assert files_in(saved.parent) == {"b.sqlite", "new.sqlite"}


def test_log_without_its_database_is_not_applied_to_the_new_one(saved: Path, live: Path, target: Engine) -> None:
    """A log whose database is gone is renamed, so that SQLite does not apply it to the restored database."""
    with StepWriter(live) as writer:
        writer.kill()
    live.unlink()
    restore(target, saved)
    assert dump(live) == dump(saved)
    with closing(sqlite3.connect(live)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'pair_left'").fetchone() == (0,)
    assert any(".before-restore-" in name and "-wal" in name for name in files_in(live.parent))


def test_log_of_the_old_database_is_kept_with_it(saved: Path, live: Path, target: Engine) -> None:
    """What a killed writer had only in the log is in the kept database, and not in the restored one."""
    with StepWriter(live) as writer:
        writer.commit()
        writer.kill()
    result = restore(target, saved)
    assert result.kept is not None
    with closing(sqlite3.connect(result.kept)) as connection:
        assert connection.execute("SELECT count(*) FROM pair_left").fetchone() == (2,)
    assert dump(live) == dump(saved)


def test_damaged_database_is_replaced_and_kept(saved: Path, live: Path, target: Engine) -> None:
    """A database that cannot be opened is kept unchanged, with its log."""
    with StepWriter(live):
        pass
    with StepWriter(live) as writer:
        writer.kill()
    rest = live.read_bytes()[4096:]
    live.write_bytes(b"\xa5" * 4096 + rest)
    log = live.with_name(f"{live.name}-wal").read_bytes()
    result = restore(target, saved)
    assert result.kept is not None
    assert Path(result.kept).read_bytes() == b"\xa5" * 4096 + rest
    assert Path(f"{result.kept}-wal").read_bytes() == log
    assert dump(live) == dump(saved)


@pytest.mark.parametrize("statements", [(), ("BEGIN", "SELECT * FROM schema_state"), ("BEGIN IMMEDIATE",)])
def test_open_database_is_not_replaced(saved: Path, live: Path, target: Engine, statements: tuple[str, ...]) -> None:
    """While another process has the database open, even idle, it is refused with the id of that process."""
    before = dump(live)
    refused = pytest.raises(DatabaseInUse, match=r"process \d+ \(python")
    with OtherProcess(live, "SELECT 1 FROM schema_state", *statements), refused:
        restore(target, saved)
    assert dump(live) == before
    assert not [name for name in files_in(live.parent) if "part" in name or "before" in name]


def test_sqlite_locks_detect_processes_that_the_system_does_not_report(
    saved: Path, live: Path, target: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the system does not report who has a file open, SQLite's locks do; nothing is replaced."""
    monkeypatch.setattr(restore_module, "holders_of", lambda _: None)
    before = dump(live)
    with OtherProcess(live, "SELECT 1 FROM schema_state"), pytest.raises(DatabaseInUse):
        restore(target, saved)
    assert dump(live) == before


def test_database_opened_at_the_last_moment_keeps_its_name(
    saved: Path, live: Path, target: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a process opens the old database just before the replacement, the old database keeps its name."""
    before = dump(live)
    opened: list[OtherProcess] = []
    refuse_holders = restore_module._refuse_holders

    def refuse_then_open(path: Path) -> None:
        refuse_holders(path)
        if ".before-restore-" in path.name:
            opened.append(OtherProcess(live, "SELECT 1 FROM schema_state").__enter__())

    monkeypatch.setattr(restore_module, "_refuse_holders", refuse_then_open)
    with pytest.raises(DatabaseInUse, match="at this moment"):
        restore(target, saved)
    opened[0].end()
    assert dump(live) == before
    assert not [name for name in files_in(live.parent) if "part" in name or "before" in name]


def test_damaged_backup_replaces_nothing(saved: Path, live: Path, target: Engine) -> None:
    """A backup with a damaged page, or a truncated one, is refused before anything is replaced."""
    before, content = dump(live), saved.read_bytes()
    with closing(sqlite3.connect(saved)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'command_stats'").fetchone()[0]
    with_damaged_page = content[: (page - 1) * 4096] + b"\xa5" * 4096 + content[page * 4096 :]
    for damaged in (with_damaged_page, content[: len(content) // 2]):
        saved.write_bytes(damaged)
        with pytest.raises(DatabaseDamaged):
            restore(target, saved)
    assert (dump(live), files_in(live.parent)) == (before, {live.name})


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.write_bytes(b"Dear reader, " * 100), NotADatabase),
        (lambda path: path.touch(), SchemaVersionError),
        (lambda path: path.mkdir(), NotADatabase),
        (lambda _: None, DatabaseError),
        (lambda path: v3_schema.create(path, version="2"), SchemaVersionError),
        (lambda path: v3_schema.create(path, version="5"), SchemaVersionError),
    ],
    ids=["text", "empty", "folder", "missing", "v2", "v5"],
)
def test_what_is_no_backup_replaces_nothing(live: Path, target: Engine, tmp_path: Path, make, kind) -> None:  # type: ignore[no-untyped-def]
    """A file that is not a database, empty, missing or of another version is refused by name."""
    before = dump(live)
    make(tmp_path / "other")
    with pytest.raises(kind, match="other"):
        restore(target, tmp_path / "other")
    assert (dump(live), files_in(live.parent)) == (before, {live.name})


def test_another_applications_database_is_not_replaced(saved: Path, tmp_path: Path) -> None:
    """A file with another application's tables is refused, and so is the backup itself as the database."""
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE moz_places (id INTEGER PRIMARY KEY)")
    before = path.read_bytes()
    with pytest.raises(NotADatabase, match="moz_places"):
        restore(get_engine(path), saved)
    with pytest.raises(CopyRefused, match="the database itself"):
        restore(get_engine(saved), saved)
    assert path.read_bytes() == before


def test_a_full_disk_is_reported_before(
    saved: Path, live: Path, target: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With less free space than the backup needs nothing is written."""
    monkeypatch.setattr(atomic_file, "free_bytes", lambda _: atomic_file.SPARE_BYTES + 1000)
    with pytest.raises(DatabaseFull, match="make room"):
        restore(target, saved)
    assert files_in(live.parent) == {live.name}


@pytest.mark.parametrize("step", ["checking", "counting", "copying"])
def test_interrupted_restore_leaves_the_old_database(saved: Path, live: Path, target: Engine, step: str) -> None:
    """Ctrl-C in any step leaves only the old database, and the next run succeeds."""
    before = dump(live)

    def on_progress(now: JobProgress) -> None:
        if now.step == STEPS[step][0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(target, saved, on_progress=on_progress)
    assert (dump(live), files_in(live.parent)) == (before, {live.name})
    restore(target, saved)
    assert dump(live) == dump(saved)


def test_second_name_of_a_killed_run_is_removed(saved: Path, live: Path, target: Engine) -> None:
    """A second name that a killed run gave the old database is removed; other kept databases stay."""
    live.with_name(f"{live.name}.before-restore-20250101T000000Z").hardlink_to(live)
    older = live.with_name(f"{live.name}.before-restore-20240101T000000Z")
    older.write_bytes(b"older")
    result = restore(target, saved)
    assert result.kept is not None
    assert files_in(live.parent) == {live.name, older.name, Path(result.kept).name}
    assert older.read_bytes() == b"older"


def test_plan_reports_what_is_replaced(saved: Path, live: Path, target: Engine) -> None:
    """The plan has the version of the backup and both sizes."""
    plan = plan_restore(target, saved)
    assert (plan.schema_version, plan.size_bytes) == (3, saved.stat().st_size)
    assert plan.replaced_bytes == live.stat().st_size


@pytest.mark.postgres
def test_postgresql_is_restored_by_its_own_tool(postgres_url: str, saved: Path) -> None:
    """For PostgreSQL the message names pg_restore."""
    with pytest.raises(ConfigurationError, match="pg_restore"):
        restore(get_engine(postgres_url), saved)


def test_a_missing_backup_is_a_backup_that_is_missing(target: Engine, tmp_path: Path) -> None:
    """The message speaks of a backup, not of a database that a load would create."""
    with pytest.raises(CopyRefused, match=r"no\.sqlite: no such file; name a backup"):
        plan_restore(target, tmp_path / "no.sqlite")
