"""What all tests share: real databases, the real logs, and v3 files."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import Engine, make_url

from tests import v3_schema
from tests.postgres_server import PostgresServer, binaries

PROJECT = Path(__file__).parents[1]
CORPUS = PROJECT.parent / "shared" / "corpus"
REQUIRED = ("CI", "COWRIEPROC_REQUIRE_POSTGRES")
KEPT = ("COWRIEPROC_REQUIRE_POSTGRES", "COWRIEPROC_SQLITE_DRIVER")
"""Variables that choose what the tests run with."""

# A machine that is busy is no failure: examples take as long as they take.
hypothesis.settings.register_profile("cowrieprocessor", deadline=None)
hypothesis.settings.load_profile("cowrieprocessor")


def _is_setting(name: str) -> bool:
    return (name.startswith("COWRIEPROC_") and name not in KEPT) or name == "USE_NEW_ENRICHMENT"


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in [name for name in os.environ if _is_setting(name)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole run; without one its tests are skipped, or fail where it is required."""
    folder = binaries()
    if folder is None:
        message = "no PostgreSQL: install Debian's package postgresql, or put initdb on the PATH"
        if any(os.environ.get(name) for name in REQUIRED):
            pytest.fail(message)
        pytest.skip(message)
    with PostgresServer(folder) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of this test's own."""
    with postgres_server.new_database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once SQLite, once PostgreSQL; without a table but where `engine` is used, too."""
    is_at_our_version = "engine" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "test.sqlite"
        if is_at_our_version:
            shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    elif is_at_our_version:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        with server.new_copy(request.getfixturevalue("postgres_template")) as url:
            yield url
    else:
        yield request.getfixturevalue("postgres_url")


@pytest.fixture
def engine(db_url: str) -> Iterator[Engine]:
    """An engine on `db_url`, which is at the current version then."""
    from cowrieprocessor.db.engine import dispose, get_engine

    made = get_engine(db_url)
    try:
        yield made
    finally:
        dispose(made)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database at the current version: a copy takes a hundredth of what making it takes."""
    path = tmp_path_factory.mktemp("template") / "template.sqlite"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of an empty PostgreSQL database at the current version, to be copied."""
    with postgres_server.new_database() as url:
        _migrate(url)
        yield str(make_url(url).database)


def _migrate(url: str) -> None:
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.db.migrations import apply_migrations

    engine = get_engine(url)
    try:
        apply_migrations(engine)
    finally:
        dispose(engine)


@pytest.fixture
def corpus() -> Path:
    """The folder of real logs, where it is."""
    if not CORPUS.is_dir():
        pytest.skip("no corpus of real logs beside the project (../shared/corpus)")
    return CORPUS


@pytest.fixture
def v3_file(tmp_path: Path) -> Path:
    """A v3 database with every habit that v3 data has."""
    return v3_schema.create(tmp_path / "v3.sqlite")


@pytest.fixture
def corpus_v3_file(corpus: Path, tmp_path: Path) -> Path:
    """A copy of a genuine v3 database, written by v3 itself."""
    path = tmp_path / "corpus-v3.sqlite"
    with gzip.open(corpus / "v3" / "v3.sqlite.gz") as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    return path
