"""After any sequence of outcomes, crashes, imports and loads, everything that is kept of a hash agrees.

A state machine does what loaders, several enriching processes and an operator do, in any order, and dies anywhere. What
is stored is compared with what was told, and the row of each hash with a computation of its own from history and queue.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, delete, event, update

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.enrichment.claims import DEFERRED_FOR, ask_first, claim, note_skipped, release
from cowrieprocessor.db.enrichment.propagation import propagate_some
from cowrieprocessor.db.enrichment.provider_verdict import COWRIE_VIRUSTOTAL, VERDICTS, VIRUSTOTAL, ProviderVerdict
from cowrieprocessor.db.enrichment.staged_answers import take_staged
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import (
    lock_hashes,
    store_answer,
    store_failure,
    store_refusal,
    store_staged,
)
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import VERDICT_COLUMNS
from tests.enrichment_scene import NO_CACHE, NOW, T, load, rows, sha

POLICY = Policy(("hashlookup", "malwarebazaar", VIRUSTOTAL), frozenset({"known-good", "malicious"}))
EMPTY = hashlib.sha256(b"").hexdigest()
HASHES = [EMPTY, *(sha(number) for number in range(4))]
LEASE_S = 900
TABLES = (
    "files",
    "file_hashes",
    "session_summaries",
    "session_attributes",
    "file_verdicts",
    "enrichment_cache",
    "enrichment_queue",
    "verdict_propagation",
)

hashes = st.sampled_from(HASHES)
providers = st.sampled_from(POLICY.providers)
verdicts = st.sampled_from([(0, 70), (3, 70), (40, 71), None])
Said = tuple[int, int] | None
"""Positives and total; None where the source does not know the file."""


class Killed(Exception):
    """Stands for the end of a process inside a transaction."""


def finding(provider: str, said: Said) -> ProviderVerdict:
    """Return what a source says; hashlookup knows good files, the others bad ones."""
    if said is None:
        return ProviderVerdict("unknown", response={"found": False})
    positives, total = said
    if provider == "hashlookup":
        return ProviderVerdict("known-good" if positives else "clean", description="a file", response={"found": True})
    verdict = "malicious" if positives else "clean"
    return ProviderVerdict(
        verdict, positives=positives, total=total, family=f"family {positives}", response={"found": True}
    )


def holds(said: Said) -> dt.timedelta:
    """Return for how long an answer holds."""
    return dt.timedelta(hours=12) if said is None else dt.timedelta(days=7)


class Enrichment(RuleBasedStateMachine):
    """Loaders, enriching processes and an operator on one database."""

    make_engine: ClassVar[Callable[[], Any]]

    def __init__(self) -> None:
        super().__init__()
        self._open = self.make_engine()
        self.engine: Engine = self._open.__enter__()
        self.now = NOW
        self.leases: dict[tuple[str, str], dt.datetime] = {}
        self.told: dict[tuple[str, str], dict[dt.datetime, ProviderVerdict]] = {}
        self.v3: set[str] = set()
        self.sessions: set[tuple[str, str]] = set()
        self.is_staged = False

    def teardown(self) -> None:
        """Close the database."""
        self._open.__exit__(None, None, None)

    @initialize()
    def begin(self) -> None:
        """Begin with something to ask about."""
        self.load_session(0, [HASHES[1], HASHES[2]], v3=False)

    # What happens

    @rule(number=st.integers(0, 5), dropped=st.lists(hashes, min_size=1, max_size=3), v3=st.booleans())
    def load_session(self, number: int, dropped: list[str], v3: bool) -> None:
        """A loader stores a session, or more of it; v3 may have flagged and enriched it before."""
        name = f"s{number}"
        known = any(session == name for session, _ in self.sessions)
        load(self.engine, [(name, sha256) for sha256 in dropped], at=self.now)
        self.sessions |= {(name, sha256) for sha256 in dropped}
        if v3 and not known:
            self.v3.add(name)
            table = T["session_summaries"]
            with write_transaction(self.engine) as connection:
                values = {"vt_flagged": True, "enrichment": {"vt": 1}}
                connection.execute(update(table).where(table.c.session_id == name).values(**values))

    @rule(minutes=st.sampled_from([1, 16, 120, 24 * 60, 8 * 24 * 60]))
    def pass_time(self, minutes: int) -> None:
        """Time passes: leases end, retries come due, answers hold no longer."""
        self.now += dt.timedelta(minutes=minutes)

    @rule(provider=providers, limit=st.integers(1, 3), waits=st.booleans())
    def claim_some(self, provider: str, limit: int, waits: bool) -> None:
        """A process claims; nobody else may have what it gets."""
        self._claim(provider, limit, waits=waits)

    @rule(choice=st.integers(0, 99), said=verdicts, dies=st.booleans())
    def answer_claimed(self, choice: int, said: Said, dies: bool) -> None:
        """A source answers about a claimed hash, and the process may die before it commits."""
        self._tick()
        if lease := self._lease(choice):
            if dies:
                self._die(lambda: self._store(*lease, said, self.now))
            else:
                self._store(*lease, said, self.now)

    @rule(choice=st.integers(0, 99), minutes=st.sampled_from([1, 90]), dies=st.booleans())
    def fail_claimed(self, choice: int, minutes: int, dies: bool) -> None:
        """No usable answer comes, and the process may die before it has written that down."""
        if lease := self._lease(choice):
            if dies:
                self._die(lambda: self._fail(*lease, minutes))
            else:
                self._fail(*lease, minutes)

    @rule(choice=st.integers(0, 99))
    def refuse_claimed(self, choice: int) -> None:
        """A source refuses to answer about a claimed hash."""
        if lease := self._lease(choice):
            sha256, provider = lease
            with write_transaction(self.engine) as connection:
                store_refusal(connection, sha256, provider, reason="malformed", **self._how())

    @rule(choice=st.integers(0, 99))
    def give_back(self, choice: int) -> None:
        """A process ends orderly and gives back what it did not ask about."""
        if lease := self._lease(choice):
            sha256, provider = lease
            release(self.engine, provider, [sha256])

    @rule(sha256=hashes, said=verdicts, days=st.integers(0, 40), logged=st.booleans(), dies=st.booleans())
    def import_older(self, sha256: str, said: Said, days: int, logged: bool, dies: bool) -> None:
        """An older answer turns up, in the cache of v3 or in a log of Cowrie's."""
        provider = COWRIE_VIRUSTOTAL if logged else VIRUSTOTAL
        self._tick()
        at = self.now - dt.timedelta(days=days, seconds=1)
        if dies:
            self._die(lambda: self._store(sha256, provider, said, at))
        else:
            self._store(sha256, provider, said, at)

    @rule(sha256=hashes, provider=providers)
    def ask_by_hand(self, sha256: str, provider: str) -> None:
        """Somebody wants to know now."""
        with write_transaction(self.engine) as connection:
            ask_first(connection, [sha256], [provider])

    @rule()
    def switch(self) -> None:
        """Somebody stages the change, or does so no longer."""
        self.is_staged = not self.is_staged

    @rule(sha256=hashes, dies=st.booleans())
    def replay_staged(self, sha256: str, dies: bool) -> None:
        """A process that stages nothing replays what is staged about a hash, and may die before it commits."""
        if dies and not self.is_staged:
            self._die(lambda: self._replay(sha256))
        elif not self.is_staged:
            self._replay(sha256)

    @rule(rows_at_once=st.integers(1, 4))
    def spread(self, rows_at_once: int) -> None:
        """One step of spreading verdicts."""
        propagate_some(self.engine, now=self.now, max_rows=rows_at_once)

    @rule()
    def note(self) -> None:
        """A run begins."""
        with write_transaction(self.engine) as connection:
            note_skipped(connection)

    # What is always so

    @invariant()
    def rows_that_differ_are_waited_for(self) -> None:
        """A row of `files` that does not say what its hash says lies behind the cursor of a note."""
        known = {one["sha256"]: one for one in rows(self.engine, "file_hashes")}
        waiting = {one["sha256"]: one["cursor"] for one in rows(self.engine, "verdict_propagation")}
        for one in rows(self.engine, "files"):
            differs = any(one[name] != known[one["shasum"]][name] for name in VERDICT_COLUMNS)
            assert not differs or waiting[one["shasum"]] < one["id"]

    @invariant()
    def hashes_say_what_history_and_queue_amount_to(self) -> None:
        """The row of each hash that was judged is what a computation of its own gives."""
        history, queue = rows(self.engine, "file_verdicts"), rows(self.engine, "enrichment_queue")
        staged = {one["key"] for one in rows(self.engine, "enrichment_cache")}
        for one in rows(self.engine, "file_hashes"):
            if f"staged:{one['sha256']}" in staged:
                continue
            mine = [row for row in history if row["sha256"] == one["sha256"]]
            asked = {row["provider"]: row for row in queue if row["sha256"] == one["sha256"]}
            if mine or any(row["status"] in ("failed", "refused") for row in asked.values()):
                expected = judged(one["sha256"], mine, asked, self.now)
                assert expected == {name: one[name] for name in expected}

    @invariant()
    def history_cache_and_queue_say_what_was_told(self) -> None:
        """Of each source the first and the last answer are in the history, the last in the cache; the queue knows."""
        history = rows(self.engine, "file_verdicts")
        answers = [one for one in rows(self.engine, "enrichment_cache") if not one["key"].startswith("staged:")]
        cache = {(one["key"], one["provider"]): one for one in answers}
        known = {one["sha256"] for one in rows(self.engine, "file_hashes")}
        assert self.told.keys() == cache.keys()
        for (sha256, provider), told in self.told.items():
            kept = cache[sha256, provider]
            assert (kept["fetched_at"], kept["status"]) == (max(told), told[max(told)].verdict)
            spans = sorted(
                (one for one in history if (one["sha256"], one["provider"]) == (sha256, provider)),
                key=lambda one: one["fetched_at"],
            )
            if sha256 not in known or not spans:
                continue
            assert all(one["fetched_at"] <= one["confirmed_at"] for one in spans)
            assert all(one["confirmed_at"] < other["fetched_at"] for one, other in pairwise(spans))
            for one in spans:
                for moment in (one["fetched_at"], one["confirmed_at"]):
                    assert (one["verdict"], one["positives"]) == (told[moment].verdict, told[moment].positives)
        for row in rows(self.engine, "enrichment_queue"):
            if row["status"] == "answered" and not row["priority"]:
                until = cache[row["sha256"], row["provider"]]["expires_at"]
                assert row["next_attempt_at"] == until or until < row["next_attempt_at"] <= self.now + DEFERRED_FOR

    @invariant()
    def nothing_worthless_is_claimed(self) -> None:
        """Nobody was ever asked about the empty file."""
        assert not any(sha256 == EMPTY for sha256, _ in self.leases)

    def finish(self) -> None:
        """Let everything come to its end, and look whether it did."""
        self.leases.clear()
        self.is_staged = False
        for sha256 in HASHES:
            self._replay(sha256)
        assert not [one for one in rows(self.engine, "enrichment_cache") if one["key"].startswith("staged:")]
        self.history_cache_and_queue_say_what_was_told()
        self.now += dt.timedelta(days=1)
        self._answer_all()
        # What another source had settled with an answer that was old by then is looked at again so much later.
        self.now += DEFERRED_FOR
        self._answer_all()
        while propagate_some(self.engine, now=self.now, max_rows=3) is not None:
            pass
        self.hashes_say_what_history_and_queue_amount_to()
        self.everybody_was_asked()
        self.files_and_flags_agree()

    def everybody_was_asked(self) -> None:
        """No hash is lost, stuck or starved: each source has answered or refused, or another one settled the hash."""
        queue = {(one["sha256"], one["provider"]): one for one in rows(self.engine, "enrichment_queue")}
        for one in rows(self.engine, "file_hashes"):
            if one["sha256"] == EMPTY:
                continue
            latest = latest_of([row for row in rows(self.engine, "file_verdicts") if row["sha256"] == one["sha256"]])
            settled = any(row["verdict"] in POLICY.settled_by for row in latest.values())
            for provider in POLICY.providers:
                row = queue.get((one["sha256"], provider))
                done = row is not None and row["status"] in ("answered", "refused")
                assert done or settled
            assert one["enrichment_status"] == "enriched"

    def files_and_flags_agree(self) -> None:
        """Once nothing waits, rows and flags say what the hashes say, and v3's own flags are as they were."""
        assert rows(self.engine, "verdict_propagation") == []
        known = {one["sha256"]: one for one in rows(self.engine, "file_hashes")}
        malicious = set()
        stored = rows(self.engine, "files")
        assert {(one["session_id"], one["shasum"]) for one in stored} == self.sessions
        for one in stored:
            wanted = known[one["shasum"]]
            assert {name: wanted[name] for name in VERDICT_COLUMNS} == {name: one[name] for name in VERDICT_COLUMNS}
            if wanted["vt_malicious"]:
                malicious.add(one["session_id"])
        for one in rows(self.engine, "session_summaries"):
            assert one["vt_flagged"] == (one["session_id"] in malicious | self.v3)

    # How it is done

    def _how(self) -> dict[str, Any]:
        return {"policy": POLICY, "now": self.now, "staged": self.is_staged}

    def _tick(self) -> None:
        """Let a moment pass: no source gives two answers in one."""
        self.now += dt.timedelta(milliseconds=1)

    def _answer_all(self) -> None:
        """Let each source answer about everything that it is to be asked about now."""
        for _ in range(100):
            moved = 0
            for provider in POLICY.providers:
                while claimed := self._claim(provider, 2, waits=True):
                    moved += len(claimed)
                    for sha256 in claimed:
                        self._tick()
                        self._store(sha256, provider, (0, 70), self.now)
                        self.leases.pop((sha256, provider))
            if not moved:
                break

    def _claim(self, provider: str, limit: int, *, waits: bool) -> list[str]:
        earlier = POLICY.outrank(provider) if waits else ()
        claimed = claim(
            self.engine,
            provider,
            limit=limit,
            now=self.now,
            lease_s=LEASE_S,
            policy=POLICY,
            earlier=earlier,
            cache_timing=NO_CACHE,
        )
        for one in claimed:
            assert self.leases.get((one.sha256, provider), self.now) <= self.now
            self.leases[one.sha256, provider] = self.now + dt.timedelta(seconds=LEASE_S)
        return [one.sha256 for one in claimed]

    def _lease(self, choice: int) -> tuple[str, str] | None:
        """Return one of the claims that hold; it ends with what is done now, or with the process."""
        held = sorted(key for key, until in self.leases.items() if until > self.now)
        if not held:
            return None
        lease = held[choice % len(held)]
        self.leases.pop(lease)
        # Whoever dies keeps it: nobody else may claim it before it ends, which `claim` has to see to.
        return lease

    def _store(self, sha256: str, provider: str, said: Said, at: dt.datetime) -> None:
        found = finding(provider, said)
        with write_transaction(self.engine) as connection:
            store_answer(
                connection,
                sha256,
                provider,
                sha256,
                found,
                fetched_at=at,
                expires_at=at + holds(said),
                **self._how(),
            )
        told = self.told.setdefault((sha256, provider), {})
        told[at] = found

    def _replay(self, sha256: str) -> None:
        with write_transaction(self.engine) as connection:
            lock_hashes(connection, [sha256])
            staged = take_staged(connection, sha256, [*POLICY.providers, COWRIE_VIRUSTOTAL], self.now)
            answers = [(one.provider, self.told[sha256, one.provider][one.fetched_at], one) for one in staged or ()]
            assert [found.verdict for _, found, _ in answers] == [one.verdict for _, _, one in answers]
            if staged is not None:
                given = [(provider, found, one.fetched_at) for provider, found, one in answers]
                store_staged(connection, sha256, given, POLICY, self.now)

    def _fail(self, sha256: str, provider: str, minutes: int) -> None:
        with write_transaction(self.engine) as connection:
            store_failure(
                connection,
                sha256,
                provider,
                kind="timeout",
                reason="none came",
                next_attempt_at=self.now + dt.timedelta(minutes=minutes),
                **self._how(),
            )

    def _die(self, work: Callable[[], None]) -> None:
        """Do something in a transaction that is never committed."""
        before = {name: rows(self.engine, name) for name in TABLES}
        told = {key: dict(answers) for key, answers in self.told.items()}
        with pytest.raises(Killed), dying(self.engine):
            work()
        self.told = told
        assert before == {name: rows(self.engine, name) for name in TABLES}


@contextmanager
def dying(engine: Engine) -> Iterator[None]:
    """Make each commit fail, as the end of the process before it would."""

    def kill(_connection: object) -> None:
        raise Killed

    event.listen(engine, "commit", kill)
    try:
        yield
    finally:
        event.remove(engine, "commit", kill)


def latest_of(history: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the latest row of each source."""
    return {one["provider"]: one for one in sorted(history, key=lambda one: one["fetched_at"])}


def judged(
    sha256: str, history: list[dict[str, Any]], queue: dict[str, dict[str, Any]], now: dt.datetime
) -> dict[str, Any]:
    """Return what the row of a hash has to say, computed in another way than the program does."""
    latest = latest_of(history)
    said = {one["verdict"] for one in latest.values()}
    own, logged = latest.get(VIRUSTOTAL), latest.get(COWRIE_VIRUSTOTAL)
    shown = own if own and own["total"] is not None else logged if logged and logged["total"] is not None else None
    looked = shown or own or logged
    expected = {
        "verdict": next((verdict for verdict in VERDICTS if verdict in said), "unknown"),
        "vt_malicious": bool(shown and shown["positives"]),
        "vt_positives": shown["positives"] if shown else None,
        "vt_total": shown["total"] if shown else None,
        "vt_scan_date": looked["confirmed_at"] if looked else None,
    }
    if sha256 != EMPTY and not any(row["status"] == "leased" or row["priority"] for row in queue.values()):
        expected["enrichment_status"] = status_of(said, queue)
    return expected


def status_of(said: set[str], queue: dict[str, dict[str, Any]]) -> str:
    """Return the status of a hash that nobody is being asked about."""
    if said & POLICY.settled_by:
        return "enriched"
    standing = [queue[name]["status"] if name in queue else "never" for name in POLICY.providers]
    if "failed" in standing:
        return "failed"
    return "pending" if "never" in standing else "enriched"


def check(machine: type[Enrichment], *, examples: int, steps: int) -> None:
    """Run a machine, each run to its end."""

    class Finished(machine):  # type: ignore[valid-type, misc]
        def teardown(self) -> None:
            try:
                self.finish()
            finally:
                super().teardown()

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Finished,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_everything_agrees_on_sqlite(tmp_path: Path) -> None:
    """On SQLite, each run in a database of its own."""
    template = tmp_path / "template.sqlite"
    made = get_engine(template)
    apply_migrations(made)
    dispose(made)

    @contextmanager
    def new() -> Iterator[Engine]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            path = Path(folder) / "test.sqlite"
            shutil.copyfile(template, path)
            engine = get_engine(path)
            try:
                yield engine
            finally:
                dispose(engine)

    class OnSqlite(Enrichment):
        make_engine = staticmethod(new)

    check(OnSqlite, examples=12, steps=30)


@pytest.mark.postgres
def test_everything_agrees_on_postgresql(postgres_url: str) -> None:
    """On PostgreSQL, fewer and shorter runs."""
    engine = get_engine(postgres_url)
    apply_migrations(engine)

    @contextmanager
    def emptied() -> Iterator[Engine]:
        with write_transaction(engine) as connection:
            for name in TABLES:
                connection.execute(delete(T[name]))
        yield engine

    class OnPostgresql(Enrichment):
        make_engine = staticmethod(emptied)

    try:
        check(OnPostgresql, examples=3, steps=25)
    finally:
        dispose(engine)
