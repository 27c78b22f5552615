"""The ledger of a key: what it grants, what it records, and when it grants nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine, delete, insert, select, update

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.enrichment.quota import known_ledgers
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import ApiQuota
from cowrieprocessor.enrichment.providers.base import KeyQuota, Limits
from cowrieprocessor.enrichment.quota.ledger import Granted, Ledger, LedgerState, Wait, ledger_states
from tests.stand_ins.clock import START, ManualClock

PUBLIC = Limits(4, 500, 15_500)
NONE = Limits()
NEXT_DAY = dt.datetime(2026, 3, 2, 0, 0, 30, tzinfo=dt.UTC)
NEXT_MONTH = dt.datetime(2026, 4, 1, 0, 0, 30, tzinfo=dt.UTC)

MakeLedger = Callable[..., Ledger]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def shared_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on a database for all tests of this module: once SQLite, once PostgreSQL."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('ledgers') / 'test.sqlite'}"
        else:
            url = stack.enter_context(request.getfixturevalue("postgres_server").new_database())
        made = get_engine(url)
        stack.callback(dispose, made)
        apply_migrations(made)
        yield made


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """An engine on a database without any ledger."""
    with write_transaction(shared_engine) as connection:
        connection.execute(delete(ApiQuota))
    return shared_engine


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still at noon."""
    return ManualClock()


@pytest.fixture
def ledger_of(engine: Engine, clock: ManualClock) -> MakeLedger:
    """Return a function that makes the ledger of a key, as a process that starts does."""

    def make(limits: Limits = PUBLIC, own: Limits = NONE, name: str = "virustotal", key: str = "a" * 16) -> Ledger:
        return Ledger(engine, name, key, limits, own, clock)

    return make


@pytest.fixture
def ledger(ledger_of: MakeLedger) -> Ledger:
    """The ledger of a public key."""
    return ledger_of()


def state(ledger: Ledger, engine: Engine) -> LedgerState:
    """Return the state of a ledger."""
    with read_transaction(engine) as connection:
        return ledger.state(connection)


def stored(engine: Engine, window: str) -> dict[str, object] | None:
    """Return the row of a window, or None."""
    with read_transaction(engine) as connection:
        row = connection.execute(select(*ApiQuota.__table__.columns).where(ApiQuota.window == window)).mappings()
        found = row.one_or_none()
        return None if found is None else dict(found)


def waits(answer: Granted | Wait | None) -> Wait:
    """Return an answer, which must be a wait."""
    assert isinstance(answer, Wait), answer
    return answer


def granted(ledger: Ledger, times: int = 1) -> None:
    """Reserve a number of requests, which must be granted."""
    for _ in range(times):
        answer = ledger.reserve()
        assert isinstance(answer, Granted), answer


def test_granted_request_is_counted_before_it_is_sent(engine: Engine, ledger: Ledger, clock: ManualClock) -> None:
    """When a request is granted, the day, the month and the last requests are in the database."""
    assert Granted(clock.now()) == ledger.reserve()
    day, month, now = stored(engine, "2026-03-01"), stored(engine, "2026-03"), stored(engine, "now")
    assert day is not None
    assert month is not None
    assert now is not None
    assert (1, 500) == (day["used"], day["allowed"])
    assert (1, 15_500) == (month["used"], month["allowed"])
    assert [clock.now().isoformat()] == now["recent"]


def test_burst_and_then_a_wait(ledger: Ledger, clock: ManualClock) -> None:
    """Four requests go at once; the next one waits for a window of a minute and a margin."""
    granted(ledger, 4)
    wait = waits(ledger.reserve())
    assert (START + dt.timedelta(seconds=61.5), "minute") == (wait.until, wait.kind)
    assert "4 requests a minute" in wait.reason
    assert wait == ledger.peek()
    clock.set(wait.until)
    assert None is ledger.peek()
    granted(ledger, 4)
    waits(ledger.reserve())


def test_looking_counts_nothing(engine: Engine, ledger: Ledger) -> None:
    """Peeking at the ledger, or reading its state, writes nothing."""
    assert None is ledger.peek()
    assert 0 == state(ledger, engine).used_day
    assert None is stored(engine, "now")


def test_process_that_starts_again_finds_its_ledger(ledger_of: MakeLedger) -> None:
    """What one process sent counts in the next; another key has its own ledger."""
    granted(ledger_of(), 4)
    assert "minute" == waits(ledger_of().reserve()).kind
    granted(ledger_of(key="b" * 16))
    granted(ledger_of(name="urlhaus"))


def test_day_is_used_up(engine: Engine, ledger_of: MakeLedger, clock: ManualClock) -> None:
    """After the day's requests the next one waits until the next day in UTC has begun, and the reason says so."""
    ledger = ledger_of(Limits(None, 3, 100))
    granted(ledger, 3)
    wait = waits(ledger.reserve())
    assert (NEXT_DAY, "day") == (wait.until, wait.kind)
    assert "the 3 requests a day are used up; the next day begins 2026-03-02 00:00 UTC" == wait.reason
    shown = state(ledger, engine)
    assert (3, 3, 3, 100) == (shown.used_day, shown.allowed_day, shown.used_month, shown.allowed_month)
    assert (wait.until, wait.reason) == (shown.paused_until, shown.reason)
    clock.set(NEXT_DAY)
    granted(ledger, 3)
    assert 6 == state(ledger, engine).used_month


def test_month_is_used_up(ledger_of: MakeLedger, clock: ManualClock) -> None:
    """After the month's requests the next one waits for the next month, even where the day's are used up, too."""
    ledger = ledger_of(Limits(4, 3, 3))
    granted(ledger, 3)
    wait = waits(ledger.reserve())
    assert (NEXT_MONTH, "month") == (wait.until, wait.kind)
    clock.set(NEXT_DAY)
    assert (NEXT_MONTH, "month") == (waits(ledger.reserve()).until, waits(ledger.peek()).kind)
    clock.set(NEXT_MONTH)
    granted(ledger)


def test_source_without_limits_is_never_held_up(ledger_of: MakeLedger, clock: ManualClock) -> None:
    """Without limits every request is granted, also at midnight, and counted."""
    clock.set(NEXT_DAY - dt.timedelta(seconds=30))
    granted(ledger_of(NONE), 20)


def test_nothing_is_sent_while_the_day_turns(ledger: Ledger, clock: ManualClock) -> None:
    """Around midnight nothing is sent, so that source and ledger count every request on the same day."""
    midnight = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    for seconds in (-30, -1, 0, 29):
        clock.set(midnight + dt.timedelta(seconds=seconds))
        wait = waits(ledger.reserve())
        assert (NEXT_DAY, "minute") == (wait.until, wait.kind)
    for seconds in (-31, 30):
        clock.set(midnight + dt.timedelta(seconds=seconds))
        granted(ledger)


KEYS = [
    (NONE, KeyQuota(), (4, 500, 15_500)),
    (NONE, KeyQuota(60_000, 0, 20_000, 0, 600_000, 0), (1000, 20_000, 600_000)),
    (NONE, KeyQuota(daily_allowed=100), (4, 100, 15_500)),
    (Limits(2, 50, 1000), KeyQuota(), (2, 50, 1000)),
    (Limits(2, 50, 1000), KeyQuota(60_000, 0, 20_000, 0, 600_000, 0), (2, 50, 1000)),
    (Limits(2, 50, 1000), KeyQuota(60, 0, 40, 0, 900, 0), (1, 40, 900)),
    (NONE, KeyQuota(0, 0, 0, 0, 0, 0), (4, 500, 15_500)),
    (NONE, KeyQuota(-1, -1, -1, -1, -1, -1), (4, 500, 15_500)),
    (NONE, KeyQuota(hourly_allowed=30), (1, 500, 15_500)),
    (NONE, KeyQuota(10**18, 0, 10**18, 10**9, 10**18, 0), (100_000, 2**31 - 1, 2**31 - 1)),
]
"""What the user set, what the source reports of the key, and the effective limits."""


def test_limits_that_hold(engine: Engine, ledger_of: MakeLedger) -> None:
    """The key's limits lower the user's own and replace the defaults; 0 or nothing counts as not stated."""
    for number, (own, read, expected) in enumerate(KEYS):
        limits = Limits(own.per_minute or 4, own.per_day or 500, own.per_month or 15_500)
        ledger = ledger_of(limits, own, key=f"key {number}")
        ledger.record_key_quota(read)
        shown = state(ledger, engine)
        assert expected == (shown.per_minute, shown.allowed_day, shown.allowed_month), (own, read)
        granted(ledger)


def test_limit_that_was_read_holds_on_later_days(engine: Engine, ledger_of: MakeLedger, clock: ManualClock) -> None:
    """The reported limits of the key also apply on later days and months, and in later processes."""
    ledger_of().record_key_quota(KeyQuota(600, 0, 2000, 0, 40_000, 0))
    clock.advance(days=40)
    shown = state(ledger_of(), engine)
    assert (10, 2000, 40_000) == (shown.per_minute, shown.allowed_day, shown.allowed_month)
    assert START == shown.read_at


def test_requests_of_others_count(engine: Engine, ledger: Ledger) -> None:
    """Of the source's count and ours the higher one counts."""
    granted(ledger, 2)
    ledger.record_key_quota(KeyQuota(240, 1, 500, 1, 15_500, 7))
    assert (2, 7) == (state(ledger, engine).used_day, state(ledger, engine).used_month)
    ledger.record_key_quota(KeyQuota(240, 1, 500, 500, 15_500, 507))
    assert "day" == waits(ledger.reserve()).kind
    assert (500, 507) == (state(ledger, engine).used_day, state(ledger, engine).used_month)


def test_quota_is_read_when_it_is_old(ledger: Ledger, clock: ManualClock) -> None:
    """The source is asked first, and again when its report is old, even if it reported nothing."""
    assert ledger.quota_is_stale(3600)
    ledger.record_key_quota(KeyQuota())
    assert not ledger.quota_is_stale(3600)
    clock.advance(3599)
    assert not ledger.quota_is_stale(3600)
    clock.advance(1)
    assert ledger.quota_is_stale(3600)


RATE_LIMITS = [
    (None, None, START + dt.timedelta(seconds=60), "paused"),
    (None, 300, START + dt.timedelta(seconds=300), "paused"),
    (None, -5, START + dt.timedelta(seconds=60), "paused"),
    (None, 10**8, START + dt.timedelta(days=31), "paused"),
    (KeyQuota(240, 9, 500, 9, 15_500, 9), None, START + dt.timedelta(seconds=60), "paused"),
    (KeyQuota(240, 9, 500, 500, 15_500, 600), None, NEXT_DAY, "day"),
    (KeyQuota(240, 9, 500, 500, 15_500, 15_500), None, NEXT_MONTH, "month"),
    (KeyQuota(240, 9, 500, 9, 15_500, 15_501), None, NEXT_MONTH, "month"),
]
"""What the source reports of the key, its Retry-After in seconds, and the end and kind of the pause."""


def test_rate_limited(ledger_of: MakeLedger, clock: ManualClock) -> None:
    """After a 429 the pause lasts as long as the source asks for, or until the exhausted limit is reset."""
    for number, (quota, retry_after_s, until, kind) in enumerate(RATE_LIMITS):
        clock.set(START)
        ledger = ledger_of(key=f"key {number}")
        granted(ledger)
        retry_at = None if retry_after_s is None else START + dt.timedelta(seconds=retry_after_s)
        wait = ledger.record_rate_limited(quota, retry_at)
        assert (until, kind) == (wait.until, wait.kind), (quota, retry_after_s)
        assert wait.reason
        assert wait.until == waits(ledger.peek()).until == waits(ledger.reserve()).until
        clock.set(until)
        granted(ledger)


def test_rate_limited_at_our_own_limit(ledger_of: MakeLedger) -> None:
    """If our own count has used up the day, a 429 without Retry-After pauses until the next day."""
    ledger = ledger_of(Limits(4, 2, 100))
    granted(ledger, 2)
    assert NEXT_DAY == ledger.record_rate_limited(None, None).until


def test_rate_limits_in_a_row_double_the_pause(ledger: Ledger, clock: ManualClock) -> None:
    """Each further 429 doubles the pause, up to an hour; an answer resets it to a minute."""
    pauses = []
    for _ in range(9):
        granted(ledger)
        wait = ledger.record_rate_limited(None, None)
        pauses.append((wait.until - clock.now()).total_seconds())
        clock.set(wait.until)
    assert [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600] == pauses
    granted(ledger)
    ledger.record_success()
    granted(ledger)
    assert 60 == (ledger.record_rate_limited(None, None).until - clock.now()).total_seconds()


def test_rate_limits_of_requests_under_way_count_once(ledger_of: MakeLedger, clock: ManualClock) -> None:
    """Three processes with requests in flight at once cause one pause of a minute, not one of four."""
    processes = [ledger_of() for _ in range(3)]
    for process in processes:
        granted(process)
    untils = {process.record_rate_limited(None, None).until for process in processes}
    assert {START + dt.timedelta(seconds=60)} == untils


def test_answer_under_way_does_not_end_a_pause(ledger_of: MakeLedger) -> None:
    """An answer to a request that was sent before a 429 does not lift the pause that the 429 began."""
    first, other = ledger_of(), ledger_of()
    granted(first)
    granted(other)
    first.record_rate_limited(None, START + dt.timedelta(seconds=300))
    other.record_success()
    assert START + dt.timedelta(seconds=300) == waits(other.reserve()).until


def test_pause_is_never_shortened(ledger: Ledger, clock: ManualClock) -> None:
    """A pause that lasts longer than a new one stays, with its reason."""
    ledger.pause(START + dt.timedelta(hours=2), "the operator wants it")
    ledger.pause(START + dt.timedelta(hours=1), "another one")
    wait = waits(ledger.reserve())
    assert (START + dt.timedelta(hours=2), "the operator wants it", "paused") == (wait.until, wait.reason, wait.kind)


def test_failures_open_the_breaker(engine: Engine, ledger: Ledger, clock: ManualClock) -> None:
    """After five failures in a row nothing is sent for a minute; then single requests probe the source."""
    for _ in range(4):
        granted(ledger)
        ledger.record_failure("timeout: no answer within 30 seconds")
        clock.advance(100)
    granted(ledger)
    ledger.record_failure("timeout: no answer within 30 seconds")
    wait = waits(ledger.reserve())
    assert (clock.now() + dt.timedelta(seconds=60), "failures") == (wait.until, wait.kind)
    assert "5 failures in a row, the last one: timeout: no answer within 30 seconds" == wait.reason
    assert 5 == state(ledger, engine).failures
    clock.advance(60)
    assert None is ledger.peek()
    granted(ledger)
    assert "failures" == waits(ledger.reserve()).kind


def test_breaker_stays_open_longer_each_time(ledger: Ledger, clock: ManualClock) -> None:
    """Each failed probe doubles the pause, up to an hour; an answer closes the breaker."""
    pauses = []
    for _ in range(13):
        granted(ledger)
        ledger.record_failure("connection: refused")
        wait = ledger.peek()
        if wait is not None and wait.kind == "failures":
            pauses.append((wait.until - clock.now()).total_seconds())
        clock.advance(3700)
    assert [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600] == pauses
    granted(ledger)
    ledger.record_success()
    granted(ledger, 3)


def test_trial_that_was_killed_is_followed_by_another(ledger_of: MakeLedger, clock: ManualClock) -> None:
    """If the process that sent the probe dies, another process may send one after the same pause."""
    first = ledger_of()
    for _ in range(5):
        granted(first)
        first.record_failure("connection: reset")
        clock.advance(61)
    granted(first)
    other = ledger_of()
    wait = waits(other.reserve())
    assert "failures" == wait.kind
    clock.set(wait.until)
    granted(other)


def test_failures_under_way_count_once(engine: Engine, ledger_of: MakeLedger, clock: ManualClock) -> None:
    """A failure of a request that was sent before the breaker opened does not make the pause longer."""
    first, other = ledger_of(Limits(600)), ledger_of(Limits(600))
    for _ in range(5):
        granted(first)
        clock.advance(10)
    granted(other)
    for _ in range(5):
        first.record_failure("server-error: 503")
    other.record_failure("server-error: 503")
    assert 5 == state(first, engine).failures


def test_answer_ends_a_row_of_failures(engine: Engine, ledger_of: MakeLedger, clock: ManualClock) -> None:
    """Failures in a row are counted over all processes: an answer to any of them resets the count."""
    for _ in range(6):
        for _ in range(4):
            failing = ledger_of()
            granted(failing)
            failing.record_failure("server-error: 503")
            clock.advance(61.5)
        other = ledger_of()
        granted(other)
        other.record_success()
        clock.advance(61.5)
    assert 0 == state(ledger_of(), engine).failures


def test_refused_key(engine: Engine, ledger_of: MakeLedger, clock: ManualClock) -> None:
    """A rejected key is not used for a day in any process; a process that starts may try it once."""
    ledger = ledger_of()
    granted(ledger)
    ledger.record_rejected_key("401 WrongCredentialsError")
    for process in (ledger, ledger_of()):
        wait = waits(process.reserve())
        assert (START + dt.timedelta(hours=24), "paused") == (wait.until, wait.kind)
        assert "WrongCredentialsError" in wait.reason
    granted(ledger_of(key="c" * 16))
    started = ledger_of()
    started.allow_one_try()
    granted(started)
    started.record_rejected_key("401 WrongCredentialsError")
    assert "paused" == waits(started.reserve()).kind
    clock.advance(hours=24)
    granted(started)
    started.record_success()
    assert None is state(started, engine).paused_until


def test_starting_lifts_no_other_pause(ledger: Ledger, clock: ManualClock) -> None:
    """A process that starts does not end a pause that the source asked for."""
    granted(ledger)
    ledger.record_rate_limited(None, START + dt.timedelta(hours=3))
    ledger.allow_one_try()
    assert START + dt.timedelta(hours=3) == waits(ledger.reserve()).until


def test_pause_of_a_wrong_clock_does_not_last(ledger: Ledger, clock: ManualClock) -> None:
    """A pause that a clock years ahead wrote no longer counts once the clock is right."""
    clock.set(START + dt.timedelta(days=5000))
    granted(ledger)
    ledger.record_rejected_key("401")
    ledger.record_rate_limited(None, clock.now() + dt.timedelta(hours=1))
    clock.set(START)
    assert None is ledger.peek()
    granted(ledger)


def test_clock_that_is_set_back_holds_nothing_up_for_long(ledger: Ledger, clock: ManualClock) -> None:
    """After the clock was set back by hours requests continue after one window, and the day's count stays."""
    clock.set(START + dt.timedelta(hours=5))
    granted(ledger, 4)
    clock.set(START)
    assert None is ledger.peek()
    wait = waits(ledger.reserve())
    assert START + dt.timedelta(seconds=61.5) == wait.until
    assert wait == ledger.peek()
    clock.set(wait.until)
    granted(ledger, 4)


def test_reasons_are_stored_whatever_they_hold(ledger: Ledger) -> None:
    """A reason with a NUL, a lone surrogate or a million characters is stored, bounded."""
    ledger.record_rejected_key("a\x00b\ud800c" + "d" * 1_000_000)
    reason = waits(ledger.reserve()).reason
    assert reason.startswith("a\N{REPLACEMENT CHARACTER}b?cd")
    assert 500 == len(reason)


def test_rows_that_make_no_sense_hold_nothing_up(engine: Engine, ledger: Ledger) -> None:
    """Invalid times in the list of last requests are ignored."""
    with write_transaction(engine) as connection:
        row = {"provider": "virustotal", "key_fingerprint": "a" * 16, "window": "now", "used": 0}
        connection.execute(insert(ApiQuota).values(row | {"recent": ["yesterday", 7, None, "2026-03-01T11:59:59"]}))
    granted(ledger, 3)
    assert "minute" == waits(ledger.reserve()).kind


def test_all_ledgers_are_listed(engine: Engine, ledger_of: MakeLedger, clock: ManualClock) -> None:
    """Every ledger in the database is listed, including those of keys that the settings do not give."""
    granted(ledger_of(), 2)
    ledger_of(key="b" * 16).record_rejected_key("401")
    granted(ledger_of(Limits(60), name="urlhaus"))
    with read_transaction(engine) as connection:
        assert [("urlhaus", "a" * 16), ("virustotal", "a" * 16), ("virustotal", "b" * 16)] == known_ledgers(connection)
        shown = ledger_states(connection, clock.now(), {"virustotal": (PUBLIC, NONE)})
    assert [("urlhaus", 1, None), ("virustotal", 2, 500), ("virustotal", 0, 500)] == [
        (entry.provider, entry.used_day, entry.allowed_day) for entry in shown
    ]
    assert [None, None, "401"] == [entry.reason for entry in shown]


def test_healthy_source_costs_no_further_transaction(engine: Engine, ledger: Ledger) -> None:
    """Recording a success writes only if a failure is recorded."""
    granted(ledger)
    with write_transaction(engine) as connection:
        connection.execute(update(ApiQuota).where(ApiQuota.window == "now").values(reason="left alone"))
    ledger.record_success()
    now = stored(engine, "now")
    assert now is not None
    assert "left alone" == now["reason"]
