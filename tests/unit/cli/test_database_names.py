"""Databases whose names mean something in URLs and shells, from `--db`, a variable and the settings file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import make_url, text

from cowrieprocessor.db.engine import address, describe, dispose, get_engine, read_transaction
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.jobs.loading.load import load
from tests.postgres_server import PostgresServer
from tests.unit.cli.every_command import CALLED, NAME, SAMPLES, Scene, call, make_scene

POSTGRES_NAME = "we?ird#%41 n'a\"me"
MAINTENANCE = ("db backup", "db restore")
"""Commands that need a file."""

WITHOUT_DB = [name for name in CALLED if not name.startswith("db ") and name != "demo"]
WAYS = ("variable", "old variable", "file", "path in file")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A folder with logs and a database under a trying name."""
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def postgres_name(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a PostgreSQL database with a trying name."""
    made = make_url(request.getfixturevalue("postgres_url"))
    admin = get_engine(made.render_as_string(hide_password=False)).execution_options(isolation_level="AUTOCOMMIT")
    quoted = POSTGRES_NAME.replace('"', '""')
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{quoted}"'))
    yield made.set(database=quote(POSTGRES_NAME, safe="")).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{quoted}"'))
    admin.dispose()


def _events(out: bytes) -> int:
    return int(json.loads(out)["tables"]["raw_events"]["rows"])


@pytest.mark.parametrize(
    ("name", "given"), [*zip(WITHOUT_DB, cycle(WAYS), strict=False), *(("files list", given) for given in WAYS)]
)
def test_every_command_finds_the_database_of_the_settings(scene: Scene, name: str, given: str, tmp_path: Path) -> None:
    """Named by a variable or by the settings file, as by `--db`: the same file, and no other is made."""
    here = scene.copy(tmp_path / "here")
    environment = {"variable": "COWRIEPROC_DB_URL", "old variable": "COWRIEPROC_DB_PATH"}
    settings = {environment[given]: NAME} if given in environment else {}
    if not settings:
        value = NAME if given == "file" else str(here.folder / NAME)
        (here.folder / "sensors.toml").write_text(f"[cowrieprocessor]\ndb_url = {json.dumps(value)}\n")
    before = {path.name for path in here.folder.iterdir()}
    done = call(here.arguments(name, logs=scene.folder, db=None), cwd=here.folder, **settings)

    assert done.returncode == 0, done.stderr
    made = {path.name for path in here.folder.iterdir()} - before
    assert {name.removesuffix("-wal").removesuffix("-shm").removesuffix("-lock") for name in made} <= {NAME}


def test_an_url_of_sqlite_with_a_question_mark_is_refused(tmp_path: Path) -> None:
    """What follows a question mark would be parameters: it is never left out, so that another file is opened."""
    with pytest.raises(ConfigurationError, match="by its path alone"):
        get_engine(f"sqlite:///{tmp_path}/a?b.sqlite")
    with pytest.raises(ConfigurationError, match="give the path alone"):
        get_engine(f"sqlite:///{tmp_path}/a?b=c.sqlite")
    with pytest.raises(ConfigurationError, match="write %3F"):
        get_engine("postgresql://me:secret@host/we?ird")


def test_an_interrupted_load_says_so_in_a_database_with_any_name(tmp_path: Path) -> None:
    """The last word of a job goes to the same database, whatever its name."""
    engine = get_engine(tmp_path / NAME)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(engine, [SAMPLES / "cowrie.json"], on_progress=interrupt)

    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT state FROM jobs WHERE name = 'load'")).scalar() == "stopped"
    dispose(engine)


@pytest.mark.postgres
def test_a_postgresql_database_with_any_name(scene: Scene, postgres_name: str, tmp_path: Path) -> None:
    """Quoted in the URL, as for psql, from all three places; what is printed can be pasted."""
    here = scene.copy(tmp_path / "here")
    engine = get_engine(postgres_name)
    assert get_engine(address(engine)).url.database == POSTGRES_NAME
    assert POSTGRES_NAME not in describe(engine)
    dispose(engine)
    (here.folder / "by-file.toml").write_text(f"[cowrieprocessor]\ndb_url = {json.dumps(postgres_name)}\n")
    by_file = {"COWRIEPROC_CONFIG": "by-file.toml"}

    loaded = call(["load", str(scene.folder / "log.json")], cwd=here.folder, COWRIEPROC_DB_URL=postgres_name)
    status = call(["db", "status", "--json", "--db", postgres_name], cwd=here.folder)
    report = call(["report", "daily"], cwd=here.folder, **by_file)

    assert (loaded.returncode, report.returncode) == (0, 0), loaded.stderr + report.stderr
    assert _events(status.stdout) == len((scene.folder / "log.json").read_text(encoding="utf-8").splitlines())
    for name in CALLED:
        if name in ("demo", "db remove", "db rollback", "dead-letters show", "sensors rename", *MAINTENANCE):
            continue
        done = call(here.arguments(name, logs=scene.folder, db=postgres_name), cwd=here.folder)
        assert (name, done.returncode, b"Traceback" in done.stderr) == (name, 0, False), done.stderr
    printed = call(["report", "daily", "--db", postgres_name], cwd=here.folder).stdout.decode()
    offered = [line.strip() for line in printed.partition("\nNext\n")[2].splitlines() if line.strip()]
    assert len(offered) >= 2
    for line in offered:
        done = call(shlex.split(line)[1:], cwd=here.folder)
        assert (line, done.returncode) == (line, 0), done.stderr
