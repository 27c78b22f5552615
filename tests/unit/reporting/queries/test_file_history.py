"""The history of one file: every change of every source in order, and each source's current state."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import NotFound
from cowrieprocessor.reporting.queries.file_details import file_details
from cowrieprocessor.reporting.queries.file_history import file_history
from tests.unit.reporting.scene import add_hash, add_queued, add_verdict, at, sha


def test_changes_are_in_order_of_time_over_all_sources(engine: Engine) -> None:
    """Each change has the same source's previous answer, regardless of other sources and files."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(0), verdict="malicious", family="mirai", next_check_at=at(99))
        add_verdict(connection, sha(1), "virustotal", at(1), "unknown", confirmed_at=at(5))
        add_verdict(connection, sha(1), "hashlookup", at(2), "unknown")
        add_verdict(connection, sha(2), "virustotal", at(3), "clean", 0, 70)
        add_verdict(connection, sha(1), "virustotal", at(9), "malicious", 40, 71, classification="trojan.b")
        add_verdict(
            connection,
            *(sha(1), "virustotal", at(6), "malicious", 12, 70),
            classification="trojan.a",
            first_seen=at(-99),
            last_analysis=at(4),
        )
    with read_transaction(engine) as connection:
        history = file_history(connection, sha(1))
        latest = file_history(connection, sha(1), limit=2)
    assert [
        (1, "virustotal", "unknown", None, None, None, None),
        (2, "hashlookup", "unknown", None, None, None, None),
        (6, "virustotal", "malicious", 12, "unknown", None, "trojan.a"),
        (9, "virustotal", "malicious", 40, "malicious", 12, "trojan.b"),
    ] == [
        (
            round((change.fetched_at - at(0)).total_seconds() / 3600),
            change.provider,
            change.verdict,
            change.positives,
            change.previous_verdict,
            change.previous_positives,
            change.classification,
        )
        for change in history.changes
    ]
    assert (at(5), at(-99), at(4)) == (
        history.changes[0].confirmed_at,
        history.changes[2].first_seen,
        history.changes[2].last_analysis,
    )
    assert ("malicious", "mirai", at(99), 4) == (
        history.verdict,
        history.family,
        history.next_check_at,
        history.changes_total,
    )
    assert (history.changes[-2:], 4) == (latest.changes, latest.changes_total)


def test_sources_without_an_answer_have_the_reason(engine: Engine) -> None:
    """Sources come from history and queue: each has its latest answer, or the reason why there is none."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(0))
        add_verdict(connection, sha(1), "virustotal", at(1), "clean", 0, 70)
        add_verdict(connection, sha(1), "virustotal", at(2), "malicious", 3, 70, confirmed_at=at(7))
        add_verdict(connection, sha(1), "cowrie-virustotal", at(3), "malicious", 5, 90)
        add_queued(connection, sha(1), "virustotal", "answered", next_attempt_at=at(50))
        add_queued(connection, sha(1), "urlhaus", "refused", attempts=1, last_error="illegal_hash")
        add_queued(
            connection,
            *(sha(1), "malwarebazaar", "failed"),
            attempts=3,
            next_attempt_at=at(9),
            last_error="timeout: no answer within 30 s",
        )
        add_queued(connection, sha(2), "hashlookup", "failed")
    with read_transaction(engine) as connection:
        sources = file_history(connection, sha(1)).sources
        assert sources == file_details(connection, sha(1)).sources
    assert [
        ("cowrie-virustotal", "malicious", 5, at(3), None, 0, None, None),
        ("malwarebazaar", "failed", None, None, "failed", 3, at(9), "timeout: no answer within 30 s"),
        ("urlhaus", "refused", None, None, "refused", 1, None, "illegal_hash"),
        ("virustotal", "malicious", 3, at(7), "answered", 0, at(50), None),
    ] == [
        (
            *(source.provider, source.verdict, source.positives, source.confirmed_at),
            *(source.status, source.attempts, source.next_attempt_at, source.last_error),
        )
        for source in sources
    ]


@pytest.mark.parametrize("seed", range(3))
def test_every_change_follows_its_sources_previous_one(engine: Engine, seed: int) -> None:
    """Whatever the order of insertion, and with equal times, the changes of each source form a chain."""
    rng = random.Random(seed)
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(0))
        for _ in range(40):
            provider = rng.choice(("a", "b", "c"))
            add_verdict(connection, sha(1), provider, at(rng.randrange(12)), "malicious", rng.randrange(9), 70)
    with read_transaction(engine) as connection:
        history = file_history(connection, sha(1))
        cut = file_history(connection, sha(1), limit=7)
    assert (history.changes[-7:], 40) == (cut.changes, len(history.changes))
    assert sorted(change.fetched_at for change in history.changes) == [change.fetched_at for change in history.changes]
    for provider in "abc":
        chain = [change for change in history.changes if change.provider == provider]
        assert chain[0].previous_verdict is None
        assert all(before.positives == after.previous_positives for before, after in pairwise(chain))
        (source,) = [source for source in history.sources if source.provider == provider]
        assert (chain[-1].positives, chain[-1].fetched_at) == (source.positives, source.fetched_at)


def test_a_file_without_history_and_an_unknown_hash(engine: Engine) -> None:
    """A file that was never sent to a source has an empty history; an unknown hash is an error."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(0))
        add_verdict(connection, sha(2), "virustotal", at(1))
    with read_transaction(engine) as connection:
        history = file_history(connection, sha(1))
        with pytest.raises(NotFound, match="files list"):
            file_history(connection, sha(2))
    assert ((), 0, (), "not-asked", "pending") == (
        *(history.changes, history.changes_total, history.sources),
        *(history.verdict, history.enrichment_status),
    )
