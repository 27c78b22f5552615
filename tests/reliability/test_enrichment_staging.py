"""A site that was switched between USE_NEW_ENRICHMENT=0 and 1 at random, and killed meanwhile, ends like any other."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.enrichment.skipped_hashes import EMPTY_FILE_SHA256
from cowrieprocessor.db.enrichment.staged_answers import replayable_count
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.enrichment.file_enrichment import FileEnrichment
from cowrieprocessor.enrichment.lookup import Lookup
from cowrieprocessor.jobs.enrichment.answer_writer import AnswerWriter
from cowrieprocessor.jobs.enrichment.run import EnrichOptions, enrich
from tests.enrichment_scene import rows
from tests.stand_ins.behaviours import HTML_502
from tests.stand_ins.scene import Services, download, load, services, sha256_of
from tests.stand_ins.server import answering
from tests.stand_ins.virustotal import ERRORS, error
from tests.torture import rounds

FILES = tuple(sha256_of(number) for number in range(9))
STEPS = 7
IGNORED = {"id", "created_at", "updated_at", "last_updated", "source_files"}
"""Columns that tell in which order, when and from where a row was written."""

TABLES = (
    "file_verdicts",
    "file_hashes",
    "files",
    "session_summaries",
    "enrichment_cache",
    "enrichment_queue",
    "verdict_propagation",
    "api_quota",
)


class Killed(BaseException):
    """Stands for the end of a process."""


@dataclass
class Step:
    """What happens in one step, on every site alike, but for `staged` and `dies_in_replay`.

    Attributes:
        hours: how much time passes before it.
        change: what the services or the logs have new.
        options: what the run is told.
        sends: how many requests the run sends before it ends as `end` says; None if it goes to its end.
        end: `kill`, `interrupt` or `stop`.
        staged: whether the run stages its verdicts.
        dies_in_replay: after how many transactions of the replay a process is killed, before the run; None if none is.
    """

    hours: float
    change: Callable[[Site], None]
    options: EnrichOptions
    sends: int | None
    end: str
    staged: bool
    dies_in_replay: int | None


@dataclass
class Site:
    """A database, and the services that it asks; `waited` counts the answers that waited in the cache after each step."""

    engine: Engine
    folder: Path
    here: Services
    logs: int = 0
    waited: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def log(self, events: Sequence[dict[str, Any]]) -> None:
        """Load another log."""
        self.logs += 1
        load(self.engine, self.folder, events, f"cowrie.{self.logs}.json")

    def run(self, step: Step, *, switches: bool) -> None:
        """Let one step happen; a site that does not switch is never staged."""
        self.here.clock.advance(hours=step.hours)
        step.change(self)
        staged = step.staged and switches
        if switches and step.dies_in_replay is not None:
            with pytest.raises(Killed), dying_in_replay(step.dies_in_replay):
                self._enrich(EnrichOptions(), staged=staged)
        self.stop.clear()
        with contextlib.suppress(Killed, KeyboardInterrupt), ending(self.stop, step):
            self._enrich(step.options, staged=staged)
        with read_transaction(self.engine) as connection:
            self.waited += replayable_count(connection)

    def finish(self) -> None:
        """Run at 1 until nothing is left to do: for failures an hour passes."""
        self.stop.clear()
        for hours in (0, 1, 7, 0):
            self.here.clock.advance(hours=hours)
            self._enrich(EnrichOptions(), staged=False)

    def dump(self) -> dict[str, list[dict[str, Any]]]:
        """Return what is stored and is not an accident of the order of writing."""
        return {
            table: sorted(
                (
                    {name: value for name, value in row.items() if name not in IGNORED}
                    for row in rows(self.engine, table)
                ),
                key=str,
            )
            for table in TABLES
        }

    def _enrich(self, options: EnrichOptions, *, staged: bool) -> None:
        settings = self.here.settings(use_new_enrichment=not staged)
        enrich(self.engine, settings, options, clock=self.here.clock, stop=self.stop)


@contextlib.contextmanager
def ending(stop: threading.Event, step: Step) -> Iterator[None]:
    """End a run once it has sent its last request: its answer is lost unless the run is only stopped."""
    sent = 0
    original = Lookup.send

    def send(self: Lookup, *arguments: Any) -> Any:
        nonlocal sent
        reply = original(self, *arguments)
        sent += reply is not None
        if sent == step.sends:
            if step.end == "kill":
                raise Killed
            if step.end == "interrupt":
                raise KeyboardInterrupt
            stop.set()
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lookup, "send", send)
        if step.end == "kill":
            patch.setattr("cowrieprocessor.jobs.enrichment.run._Run._abort", lambda *_: None)
        yield


@contextlib.contextmanager
def dying_in_replay(after: int) -> Iterator[None]:
    """Kill a run in its replay, in the transaction after so many, or at the latest before it sends anything."""
    left = after
    original = AnswerWriter.store_staged

    def store(self: AnswerWriter, turn: Any, hashes: Sequence[str], readers: Any) -> int:
        nonlocal left
        count = original(self, turn, hashes[:2], readers)
        if not left:
            raise Killed
        left -= 1
        return count

    def start(_self: FileEnrichment) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerWriter, "store_staged", store)
        patch.setattr(FileEnrichment, "start", start)
        yield


def scanned(number: int, chance: random.Random, site: Site) -> dict[str, Any]:
    """Return what Cowrie's own plug-in logs about a file."""
    return {
        "eventid": "cowrie.virustotal.scanfile",
        "session": f"s{number}",
        "timestamp": site.here.clock.now().isoformat(),
        "sensor": "hive",
        "sha256": FILES[number],
        "is_new": "false",
        "positives": chance.choice((0, 4)),
        "total": 70,
    }


def changes(chance: random.Random) -> Callable[[Site], None]:
    """Return something new that happens to a site."""
    number, seed = chance.randrange(len(FILES)), chance.randrange(2**32)
    url = chance.choice((None, "http://203.0.113.9/shared"))
    kind = chance.choice(
        ("load", "load", "log", "virustotal", "malwarebazaar", "hashlookup", "fail", "refuse", "limit")
    )

    def change(site: Site) -> None:
        sha256, dice, here = FILES[number], random.Random(seed), site.here
        match kind:
            case "load":
                day = 1 + dice.randrange(20)
                site.log([download(f"{seed}{more}", FILES[(number + more) % 9], url=url, day=day) for more in range(3)])
            case "log":
                site.log([scanned(number, dice, site)])
            case "virustotal":
                here.virustotal.add(sha256, malicious=dice.choice((0, 3, 40)), total=70)
            case "malwarebazaar":
                here.malwarebazaar.add(sha256)
            case "hashlookup":
                here.hashlookup.add(sha256, trust=90)
            case "fail":
                dice.choice((here.virustotal, here.malwarebazaar, here.hashlookup)).script(sha256, [HTML_502] * 2)
            case "refuse":
                here.virustotal.script(sha256, [answering("400", error(400, "BadRequestError"))])
            case "limit":
                here.virustotal.script(sha256, [ERRORS["QuotaExceededError"]])

    return change


def steps_of(chance: random.Random) -> list[Step]:
    """Return random steps."""
    return [
        Step(
            hours=chance.choice((0, 0.5, 3, 24, 24 * 9, 24 * 35)),
            change=changes(chance),
            options=EnrichOptions(
                limit=chance.choice((None, None, None, 3)),
                only=tuple(chance.sample(FILES, 2)) if chance.random() < 0.2 else None,
            ),
            sends=chance.choice((None, 1, 2, 5)),
            end=chance.choice(("kill", "interrupt", "stop")),
            staged=chance.random() < 0.6,
            dies_in_replay=chance.choice((None, 0, 1, 2)),
        )
        for _ in range(STEPS)
    ]


def site_after(engine: Engine, folder: Path, steps: Sequence[Step], *, switches: bool) -> tuple[Any, Any, int]:
    """Return what a site has stored in the end, what it has sent, and how many answers waited in the cache meanwhile."""
    folder.mkdir()
    with services() as here:
        site = Site(engine, folder, here)
        here.virustotal.add(FILES[0], malicious=9, total=70)
        here.urlhaus.add_address("http://203.0.113.9/shared")
        here.malwarebazaar.add(FILES[1])
        here.hashlookup.add(FILES[2], trust=90)
        site.log([download(number, sha256) for number, sha256 in enumerate((*FILES[:4], EMPTY_FILE_SHA256))])
        for step in steps:
            site.run(step, switches=switches)
        site.finish()
        sent = [(received.subject, received.at) for received in here.virustotal.log + here.malwarebazaar.log]
        sent += [(received.subject, received.at) for received in here.hashlookup.log + here.urlhaus.log]
        return site.dump(), sent, site.waited


@pytest.mark.parametrize("seed", range(rounds(20, 3)))
def test_switching_at_random_changes_nothing_in_the_end(engine: Engine, tmp_path: Path, seed: int) -> None:
    """Requests, ledgers, history, hashes, files, flags, cache and queue equal those of a site that was never at 0."""
    steps = steps_of(random.Random(seed))
    other = get_engine(tmp_path / "never.sqlite")
    apply_migrations(other)
    try:
        expected, expected_requests, none = site_after(other, tmp_path / "never", steps, switches=False)
    finally:
        dispose(other)
    stored, requests, waiting = site_after(engine, tmp_path / "switched", steps, switches=True)
    assert (none, waiting > 0) == (0, True)
    assert requests == expected_requests
    for table in TABLES:
        assert len(stored[table]) == len(expected[table])
        for row, other_row in zip(stored[table], expected[table], strict=True):
            assert (table, row) == (table, row | other_row)
