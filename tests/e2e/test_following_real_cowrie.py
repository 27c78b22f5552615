"""A real Cowrie writes, rotates, and is truncated under its feet while it is followed: every event arrives once."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from cowrieprocessor.analysis.downloads_scan import scan_downloads
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import DeadLetterEvent, Files, LogFile, RawEvent
from cowrieprocessor.loader.bulk import BulkLoader
from tests.command_line import PROGRAM
from tests.e2e.attackers import ONE_OF_EACH, Campaign
from tests.e2e.conftest import cowrie_or_skip
from tests.e2e.cowrie_server import DEFAULT_SENSOR, CowrieServer
from tests.e2e.scene import HOSTS
from tests.logical_digest import EVENT_TABLES, Contents, difference, logical_contents
from tests.postgres_server import PostgresServer

pytestmark = [pytest.mark.cowrie, pytest.mark.postgres, pytest.mark.timeout(300)]

PATIENCE_S = 120.0
DAY_S = 2
NAMES_AT_THE_TIME = ("source", "source_inode", "source_generation", "source_files", "source_offset")


class Janitor(threading.Thread):
    """Treats Cowrie's logs as logrotate is told to in many a configuration: copies, truncates, packs.

    Attributes:
        truncated: how often a log was truncated.
        packed: how many were packed.
        error: what went wrong with it.
    """

    def __init__(self, cowrie: CowrieServer) -> None:
        super().__init__()
        self.truncated = self.packed = 0
        self.error: OSError | None = None
        self._cowrie = cowrie
        self._end = threading.Event()

    def end(self) -> None:
        """Stop, and wait until it has stopped."""
        self._end.set()
        self.join()

    def run(self) -> None:
        """Do one after the other until it is told to end."""
        try:
            while not self._end.wait(0.7):
                self._copy_and_truncate()
                self._pack_one()
        except OSError as error:
            self.error = error

    def _copy_and_truncate(self) -> None:
        """Copy the live log and empty it; Cowrie stands still meanwhile, lest it write something in between."""
        with self._cowrie.paused():
            log = self._cowrie.log
            if log.exists() and log.stat().st_size:
                shutil.copyfile(log, log.with_name(f"cowrie.json-{self.truncated}"))
                os.truncate(log, 0)
                self.truncated += 1

    def _pack_one(self) -> None:
        plain = [log for log in self._cowrie.logs[:-1] if log.suffix != ".gz"]
        if len(plain) > 2:
            with plain[0].open("rb") as log, gzip.open(f"{plain[0]}.gz", "wb") as archive:
                shutil.copyfileobj(log, archive)
            plain[0].unlink()
            self.packed += 1


@dataclass
class Scene:
    """What there was when all was over.

    Attributes:
        cowrie: stopped, its files still there.
        janitor: who rotated.
        engines: the databases that were written meanwhile.
        codes: how the programs ended that wrote them.
        said: what they said.
    """

    cowrie: CowrieServer
    janitor: Janitor
    engines: dict[str, Engine]
    codes: list[int] = field(default_factory=list)
    said: str = ""


def stored(engine: Engine) -> Counter[str]:
    """Return how often each event is in a database."""
    with read_transaction(engine) as connection:
        payloads = connection.execute(select(RawEvent.payload)).scalars()
        return Counter(json.dumps(payload, sort_keys=True) for payload in payloads)


def written(cowrie: CowrieServer) -> Counter[str]:
    """Return how often each event is in the logs."""
    return Counter(json.dumps(event, sort_keys=True) for event in cowrie.events())


def sizes(engine: Engine) -> dict[str, int | None]:
    """Return the size that each captured file has in a database."""
    with read_transaction(engine) as connection:
        return {row.shasum: row.file_size for row in connection.execute(select(Files.shasum, Files.file_size))}


def captured(cowrie: CowrieServer) -> dict[str, int]:
    """Return the size of each captured file, by its hash."""
    return {path.name: path.stat().st_size for path in cowrie.downloads.iterdir() if "redir_" not in path.name}


def wait_until(condition: Callable[[], bool]) -> bool:
    """Return whether something comes to be the case."""
    until = time.monotonic() + PATIENCE_S
    while not (is_so := condition()) and time.monotonic() < until:
        time.sleep(0.2)
    return is_so


def is_complete(engine: Engine, cowrie: CowrieServer) -> bool:
    """Return whether all that Cowrie wrote and captured is in a database."""
    return stored(engine) == written(cowrie) and captured(cowrie).items() <= sizes(engine).items()


@contextmanager
def program(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start the program, which is gone afterwards."""
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Scene]:
    """Play a campaign while two databases are filled, and wait until nothing more comes."""
    cowrie_or_skip()
    folder = tmp_path_factory.mktemp("following")
    with ExitStack() as stack:
        urls = {
            "sqlite": f"sqlite:///{folder / 'pots.sqlite'}",
            "postgresql": stack.enter_context(postgres_server.new_database()),
        }
        engines = {name: get_engine(url) for name, url in urls.items()}
        for engine in engines.values():
            stack.callback(dispose, engine)
            apply_migrations(engine)
        cowrie = stack.enter_context(CowrieServer(hosts=HOSTS, day_s=DAY_S))
        scene = Scene(cowrie, Janitor(cowrie), engines)
        programs = [
            stack.enter_context(program(*arguments, "--db", url))
            for url in urls.values()
            for arguments in (
                ("follow", cowrie.log),
                ("files", "scan", cowrie.downloads, "--sensor", DEFAULT_SENSOR, "--watch"),
            )
        ]
        scene.janitor.start()
        try:
            Campaign(seed=11, sessions=len(ONE_OF_EACH) + 20, at_once=5).run(cowrie)
        finally:
            scene.janitor.end()
        cowrie.stop()
        for engine in engines.values():
            wait_until(partial(is_complete, engine, cowrie))
        for one in programs:
            one.send_signal(signal.SIGTERM)
        scene.said = "".join(one.communicate(timeout=PATIENCE_S)[1] for one in programs)
        scene.codes = [one.returncode for one in programs]
        yield scene


@pytest.fixture(params=["sqlite", "postgresql"])
def followed(scene: Scene, request: pytest.FixtureRequest) -> Engine:
    """Each of the databases that were filled."""
    return scene.engines[request.param]


def contents(engine: Engine) -> Contents:
    """Return what a database says, but for the names that logs had when they were seen first."""
    return logical_contents(engine, tables=EVENT_TABLES, without=NAMES_AT_THE_TIME)


def test_logs_were_rotated_in_every_way(scene: Scene) -> None:
    """Cowrie rotated by itself, its log was truncated under it so that NUL bytes came, and rotated ones were packed."""
    names = [log.name for log in scene.cowrie.logs]
    assert scene.janitor.error is None
    assert scene.janitor.truncated >= 2
    assert scene.janitor.packed >= 1
    assert [name for name in names if name.startswith("cowrie.json.2026-")]
    assert [log for log in scene.cowrie.logs if log.suffix != ".gz" and log.read_bytes()[:1] == b"\0"]


def test_every_event_is_stored_once(scene: Scene, followed: Engine) -> None:
    """What is in the files at the end is in the database, each event as often as Cowrie wrote it; nothing was lost."""
    expected, found = written(scene.cowrie), stored(followed)
    assert expected.total() > 500
    assert ([], []) == (list(expected - found), list(found - expected))
    with read_transaction(followed) as connection:
        assert (0, 0) == (
            connection.execute(select(func.count()).select_from(DeadLetterEvent)).scalar_one(),
            connection.execute(select(func.sum(LogFile.bytes_gap))).scalar_one(),
        )


def test_every_captured_file_has_its_size(scene: Scene, followed: Engine) -> None:
    """`files scan --watch` beside the follower took up what was dropped."""
    expected = captured(scene.cowrie)
    assert len(expected) > 10
    assert expected.items() <= sizes(followed).items()


def test_it_equals_a_load_afterwards(scene: Scene, followed: Engine, tmp_path: Path) -> None:
    """Every table says what a load and a scan of the files say when all is over."""
    clean = get_engine(tmp_path / "clean.sqlite")
    BulkLoader(clean).load([scene.cowrie.log.parent])
    scan_downloads(clean, scene.cowrie.downloads, sensor=DEFAULT_SENSOR)
    assert [] == difference(contents(clean), contents(followed))
    dispose(clean)


def test_nobody_complained(scene: Scene) -> None:
    """Followers and scans ended with 0 when they were told to, and said nothing of locks, losses or errors."""
    assert [0, 0, 0, 0] == scene.codes
    assert [] == [line for line in scene.said.splitlines() if line.startswith(("error", "lost", "waiting", "note"))]
