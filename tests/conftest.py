"""What all tests share: real databases, the real logs, and v3 files."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import Engine

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
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: once SQLite, once PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite'}"
    url = request.getfixturevalue("postgres_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def engine(db_url: str) -> Iterator[Engine]:
    """An engine on a database at our version: once SQLite, once PostgreSQL."""
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.db.migrations import apply_migrations

    made = get_engine(db_url)
    try:
        apply_migrations(made)
        yield made
    finally:
        dispose(made)


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
