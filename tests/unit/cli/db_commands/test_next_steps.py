"""`db migrate` and `db backfill` end with the commands that the database needs, in the order of the runbook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from cowrieprocessor.cli.db import db
from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.backfill import steps_left
from tests import v3_schema
from tests.documents import PROJECT
from tests.earlier_revisions import go_back
from tests.logs import events

GUIDE = PROJECT / "docs" / "files_table_migration.md"


def steps(name: str, path: str | Path, *more: str) -> list[str]:
    """Run a command of `db`, and return the names of the commands that it says follow."""
    ended = CliRunner().invoke(db, [name, "--db", str(path), "--yes", *more])
    assert ended.exit_code == 0, ended.output
    return re.findall(r"^(?:next|then): cowrieprocessor db (\w+) --db \S+$", ended.output, re.M)


def database_of_v3(path: Path) -> Path:
    """Make a v3 file with some events."""
    return v3_schema.create(path, payloads=[json.loads(line) for line in events(100)])


def loaded(url: str | Path, log: Path, revision: str) -> None:
    """Load a log at an earlier revision of version 4."""
    log.write_text("".join(f"{line}\n" for line in events(100)))
    engine = get_engine(url)
    apply_migrations(engine)
    BulkLoader(engine).load([log])
    go_back(engine, revision)
    dispose(engine)


def test_a_database_of_version_3_has_the_steps_of_the_runbook(tmp_path: Path) -> None:
    """Each command names what is left of the order that the guide gives, until nothing is."""
    path = database_of_v3(tmp_path / "v3.sqlite")
    order = re.search(r"It has one order: \*\*(.+)\*\*", GUIDE.read_text(encoding="utf-8"))
    assert order is not None
    after_migrate = [step for step in order[1].split(" → ") if step in ("backfill", "validate", "recount")]

    assert steps("migrate", path) == after_migrate == ["backfill", "validate", "recount"]
    assert steps("backfill", path) == ["validate", "recount"]
    assert CliRunner().invoke(db, ["recount", "--db", str(path), "--yes"]).exit_code == 0
    assert steps("backfill", path) == ["validate"]


@pytest.mark.parametrize("revision", ["0006", "0011"])
def test_a_database_of_an_earlier_revision_needs_no_recount_of_its_own(
    db_url: str, tmp_path: Path, revision: str
) -> None:
    """The backfill that fills new tables ends with the recount that is due; then a validation follows."""
    loaded(db_url, tmp_path / "cowrie.json", revision)

    assert steps("migrate", db_url) == ["backfill", "validate"]
    assert steps("backfill", db_url) == ["validate"]


def test_where_nothing_is_to_backfill_the_recount_comes_first(engine: Engine, tmp_path: Path) -> None:
    """A recount that is due, with no backfill to end with it, is the next step: a validation would find differences."""
    loaded(engine.url.render_as_string(hide_password=False), tmp_path / "cowrie.json", "0006")
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE jobs SET state = 'done' WHERE name LIKE 'backfill-%'"))
        assert steps_left(connection) == ("recount", "validate")


@pytest.mark.parametrize(
    ("revision", "left"),
    [("0011", ["backfill", "validate", "recount"]), ("0010", ["backfill", "validate"])],
)
def test_a_database_that_version_3_filled_and_an_earlier_revision_backfilled(
    tmp_path: Path, revision: str, left: list[str]
) -> None:
    """Where no recount is due by a revision, and none has looked for what version 3 stored twice, it comes last."""
    path = database_of_v3(tmp_path / "v3.sqlite")
    steps("migrate", path)
    steps("backfill", path)
    engine = get_engine(path)
    go_back(engine, revision)
    dispose(engine)

    assert steps("migrate", path) == left
    assert steps("backfill", path) == left[1:]
