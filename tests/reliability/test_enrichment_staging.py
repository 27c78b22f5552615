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
from sqlalchemy import Engine, delete, insert, select

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.enrichment.skipped_hashes import EMPTY_FILE_SHA256
from cowrieprocessor.db.enrichment.staged_answers import replayable_count
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.enrichment.file_enrichment import FileEnrichment
from cowrieprocessor.enrichment.lookup import Lookup
from cowrieprocessor.jobs.enrichment.answer_writer import AnswerWriter
from cowrieprocessor.jobs.enrichment.run import EnrichOptions, enrich
from cowrieprocessor.reporting.queries.files import FileFilter, list_files
from tests.enrichment_scene import T, rows
from tests.stand_ins.behaviours import HTML_502
from tests.stand_ins.clock import START
from tests.stand_ins.scene import Services, download, load, services, sha256_of
from tests.stand_ins.server import answering
from tests.stand_ins.virustotal import ERRORS, KeyLimits, error
from tests.torture import rounds

FILES = tuple(sha256_of(number) for number in range(9))
STEPS = 6
IGNORED = {"id", "created_at", "updated_at", "last_updated", "source_files", "next_check_at"}
"""Columns that tell in which order, when and from where a row was written. `next_check_at` shows the queue at that
time: when a claim defers a lookup that another verdict made unnecessary, it follows with the next outcome alone."""

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
        settings: what differs from the settings of other runs.
        options: what the run is told.
        sends: how many requests the run sends before it ends as `end` says; None if it goes to its end.
        end: `kill`, `interrupt` or `stop`.
        staged: whether the run stages its verdicts.
        dies_in_replay: after how many transactions of the replay a process is killed, before the run; None if none is.
    """

    hours: float
    change: Callable[[Site], None]
    settings: dict[str, Any]
    options: EnrichOptions
    sends: int | None
    end: str
    staged: bool
    dies_in_replay: int | None


@dataclass
class Site:
    """A database, and the services that it asks; `waited` counts the answers that waited in the cache."""

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
                self._enrich(EnrichOptions(), staged=staged, **step.settings)
        self.stop.clear()
        with contextlib.suppress(Killed, KeyboardInterrupt), ending(self.stop, step):
            self._enrich(step.options, staged=staged, **step.settings)
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

    def _enrich(self, options: EnrichOptions, *, staged: bool, **changes: Any) -> None:
        captured = self.folder / "downloads"
        settings = self.here.settings(use_new_enrichment=not staged, virustotal_upload_from=captured, **changes)
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
    """Kill a run during its replay, after `after` transactions, or else before its first request."""
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
    """Return random steps after one in which every answer is staged."""
    first = Step(0, lambda _site: None, {}, EnrichOptions(), None, "stop", staged=True, dies_in_replay=None)
    return [
        first,
        *(
            Step(
                hours=chance.choice((0, 0.5, 3, 24, 24 * 9, 24 * 35)),
                change=changes(chance),
                settings=chance.choice(
                    (
                        {},
                        {},
                        {"settled_by": ()},
                        {"settled_by": ("malicious", "clean", "suspicious")},
                        {"enrichment_providers": ("virustotal", "urlhaus-url")},
                    )
                ),
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
        ),
    ]


def site_after(engine: Engine, folder: Path, steps: Sequence[Step], *, switches: bool) -> tuple[Any, Any, int]:
    """Return what a site has stored in the end, what it has sent, and how many answers waited in its cache."""
    (folder / "downloads").mkdir(parents=True)
    for number in range(3, 6):
        (folder / "downloads" / FILES[number]).write_text(str(number))
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


@pytest.mark.torture
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


def test_processes_at_0_and_at_1_share_the_work(engine: Engine, tmp_path: Path) -> None:
    """Two at 0 and one at 1 ask about each file once; the next run at 1 has every verdict, without a request."""
    files = [sha256_of(f"shared {number}") for number in range(30)]
    only: dict[str, Any] = {"enrichment_providers": ("hashlookup", "virustotal"), "virustotal_per_minute": 6000}
    with services(KeyLimits(None, 500, 15_500)) as here:
        load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(files)])
        for sha256 in files[:10]:
            here.hashlookup.add(sha256, trust=90)
        start = threading.Barrier(3)

        def work(staged: bool) -> None:
            own = get_engine(engine.url.render_as_string(hide_password=False))
            try:
                start.wait(60)
                here.enrich(own, use_new_enrichment=not staged, **only)
            finally:
                dispose(own)

        threads = [threading.Thread(target=work, args=[staged]) for staged in (True, True, False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        asked = here.requests()
        here.enrich(engine, **only)

        assert dict.fromkeys(files, 1) == {sha256: here.hashlookup.asked()[sha256] for sha256 in files}
        assert dict.fromkeys(files[10:], 1) == {
            subject: count for subject, count in here.virustotal.asked().items() if subject in files
        }
        assert asked == here.requests()
    history = {(row["sha256"], row["provider"]) for row in rows(engine, "file_verdicts")}
    assert history == {(sha256, "hashlookup") for sha256 in files} | {(sha256, "virustotal") for sha256 in files[10:]}
    assert {"enriched"} == {row["enrichment_status"] for row in rows(engine, "files")}


def test_what_an_earlier_release_staged_is_kept(engine: Engine, tmp_path: Path) -> None:
    """Answers that an earlier release staged cost no request, at 0 or at 1; its claims are removed when first met."""
    only: dict[str, Any] = {"enrichment_providers": ("virustotal", "urlhaus-url"), "settled_by": ()}
    with services() as here:
        load(engine, tmp_path, [download(number, FILES[number]) for number in range(3)])
        here.virustotal.add(FILES[0], malicious=9, total=70)
        here.enrich(engine, EnrichOptions(only=FILES[:2]), use_new_enrichment=False, **only)
        leave_as_earlier_release(engine)
        asked = here.requests()
        with read_transaction(engine) as connection:
            listed = {row.sha256: row.verdict for row in list_files(connection, FileFilter()).rows}
        assert listed == {FILES[0]: "staged", FILES[1]: "staged", FILES[2]: "not-asked"}

        here.enrich(engine, EnrichOptions(limit=0), use_new_enrichment=False, **only)
        assert asked == here.requests()
        assert not [row for row in rows(engine, "enrichment_cache") if row["key"].startswith("claim:")]
        assert [] == rows(engine, "file_verdicts")
        here.enrich(engine, EnrichOptions(limit=0), **only)
        assert asked == here.requests()
        here.enrich(engine, **only)
        assert {1} == {here.virustotal.asked()[sha256] for sha256 in FILES[:3]}
        assert {1} == {count for address, count in here.urlhaus.asked().items() if "://" in address}
    verdicts = {(row["sha256"], row["provider"]): row["verdict"] for row in rows(engine, "file_verdicts")}
    assert 6 == len(verdicts)
    assert "malicious" == verdicts[FILES[0], "virustotal"]


def leave_as_earlier_release(engine: Engine) -> None:
    """Turn what is staged into what an earlier release left: answers, and claims in place of the queue."""
    cache, queue = T["enrichment_cache"], T["enrichment_queue"]
    with write_transaction(engine) as connection:
        connection.execute(delete(cache).where(cache.c.key.startswith("staged:")))
        for row in connection.execute(select(queue)).mappings().all():
            status = "answered" if row["provider"] == "virustotal" else "answered:other"
            times = {"fetched_at": START, "expires_at": row["next_attempt_at"]}
            claim = {"provider": row["provider"], "key": f"claim:{row['sha256']}", "status": status, **times}
            connection.execute(insert(cache).values(response={"attempts": 0}, **claim))
        connection.execute(delete(queue))
