"""Three processes on one key, one database and one time, killed at random: counted where the requests arrive."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import ApiQuota, FileHash, Files, FileVerdict
from cowrieprocessor.loader.bulk import BulkLoader
from tests.stand_ins.clock import Timepiece
from tests.stand_ins.enrich_process import start
from tests.stand_ins.virtual_time import VirtualTimeServer
from tests.stand_ins.virustotal import KeyLimits, VirusTotal
from tests.torture import rounds

pytestmark = pytest.mark.torture

PROCESSES = 3
SESSIONS_PER_FILE = 4
PATIENCE_S = 120.0
KILLS = rounds(40, 4)
START = dt.datetime(2026, 3, 2, 3, 0, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)


class Delayed:
    """A time that is up to a second behind another's: requests take that long on their way."""

    def __init__(self, time_: Timepiece, chance: random.Random) -> None:
        self._time = time_
        self._chance = chance

    def now(self) -> dt.datetime:
        """Return when a request that was sent now arrives."""
        return self._time.now() + dt.timedelta(seconds=self._chance.random())


def load(engine: Engine, folder: Path, count: int) -> list[str]:
    """Load sessions that dropped so many files, each file in several sessions; return the files."""
    files = [f"{number + 1:064x}" for number in range(count)]
    lines = []
    for number in range(count * SESSIONS_PER_FILE):
        base = {"session": f"{number:012x}", "sensor": "hp1", "src_ip": "198.51.100.7"}
        stamp = f"2026-03-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"
        lines.append({**base, "eventid": "cowrie.session.connect", "timestamp": stamp, "protocol": "ssh"})
        dropped = {"eventid": "cowrie.session.file_download", "shasum": files[number % count], "url": "http://x/y"}
        lines.append({**base, **dropped, "timestamp": stamp})
    log = folder / "cowrie.json"
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    BulkLoader(engine).load([log])
    return files


class Crew:
    """Processes that enrich, each of which can be killed and replaced."""

    def __init__(self, db_url: str, server: VirtualTimeServer, virustotal: VirusTotal) -> None:
        self._db_url = db_url
        self._server = server
        self._virustotal = virustotal
        self.processes: list[subprocess.Popen[str]] = []

    def _start(self) -> subprocess.Popen[str]:
        return start(self._db_url, self._server.address, self._virustotal.url)

    def begin(self) -> None:
        """Start them all."""
        self.processes = [self._start() for _ in range(PROCESSES)]

    def kill(self, number: int) -> None:
        """Kill one as if the power went, and start another in its place."""
        process = self.processes[number]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert -signal.SIGKILL == process.returncode, "it had ended by itself"
        self.processes[number] = self._start()

    def end(self) -> list[int]:
        """Tell all to stop; return their exit codes, and show what those that failed printed."""
        assert self._server.wait_for_clients(PROCESSES), "one did not start"
        with self._server.frozen():
            for process in self.processes:
                process.send_signal(signal.SIGTERM)
            outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in self.processes]
        codes = [process.returncode for process in self.processes]
        assert "" == "".join(outputs)
        return codes

    def abandon(self) -> None:
        """End what is still running after a test that failed."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                print(process.communicate()[0])

    def wait_for_requests(self, count: int, or_until: Callable[[], bool] = lambda: False) -> None:
        """Return when so many requests arrived in all, or something else is the case."""
        self.wait_until(lambda: len(self._virustotal.log) >= count or or_until())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when something is the case."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "it does not come to an end"
            for process in self.processes:
                if process.poll() is not None:
                    pytest.fail(f"a process ended by itself: {process.communicate()[0]}")
            time.sleep(0.02)


@contextlib.contextmanager
def crew(db_url: str, server: VirtualTimeServer, virustotal: VirusTotal) -> Iterator[Crew]:
    """Three processes at work."""
    made = Crew(db_url, server, virustotal)
    try:
        made.begin()
        yield made
    finally:
        made.abandon()


def answered(engine: Engine) -> int:
    """Return how many files have an answer."""
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count(FileVerdict.sha256.distinct()))).scalar_one()


def in_ledger(engine: Engine, months: bool = False) -> Counter[str]:
    """Return how many requests the ledger has by day, or by month."""
    query = select(ApiQuota.window, ApiQuota.used).where(ApiQuota.provider == "virustotal")
    with read_transaction(engine) as connection:
        rows = {row.window: row.used for row in connection.execute(query)}
    length = len("2026-03") if months else len("2026-03-02")
    return Counter({window: used for window, used in rows.items() if window[:2] == "20" and len(window) == length})


def arrived(virustotal: VirusTotal, months: bool = False) -> Counter[str]:
    """Return how many requests arrived by day, or by month."""
    return Counter(received.at.strftime("%Y-%m" if months else "%Y-%m-%d") for received in virustotal.log)


def share_of_rate(virustotal: VirusTotal, per_minute: int, count: int) -> float:
    """Return the share of the allowed rate that was used until so many requests had been sent.

    Requests come in bursts: that of the last one is left out, since the minute it begins is as well.
    """
    times = [received.at for received in virustotal.log[:count]]
    return sum(moment < times[-1] for moment in times) / (per_minute * ((times[-1] - times[0]) / MINUTE))


def assert_all_known(engine: Engine, files: list[str]) -> None:
    """Every file, and each of its rows, has VirusTotal's verdict."""
    with read_transaction(engine) as connection:
        hashes = connection.execute(select(FileHash.sha256, FileHash.enrichment_status, FileHash.vt_positives)).all()
        rows = connection.execute(select(Files.enrichment_status, Files.vt_positives, Files.vt_malicious)).all()
    assert [(sha256, "enriched", 12) for sha256 in files] == sorted(hashes)
    assert [("enriched", 12, True)] * len(files) * SESSIONS_PER_FILE == [tuple(row) for row in rows]


def test_one_request_for_each_file(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Files in many sessions cost one request each, the ledger has exactly those, and the rate is used."""
    files = load(engine, tmp_path, 68)
    with VirtualTimeServer(START, expected=PROCESSES) as server, VirusTotal(server) as virustotal:
        for sha256 in files:
            virustotal.add(sha256, malicious=12)
        with crew(db_url, server, virustotal) as at_work:
            at_work.wait_until(lambda: answered(engine) == len(files))
            assert [0] * PROCESSES == at_work.end()
    assert [] == virustotal.violations
    assert [1] * len(files) == [virustotal.asked()[sha256] for sha256 in files]
    assert len(virustotal.log) - len(files) <= PROCESSES, "beside files, each process may ask for its quota once"
    assert arrived(virustotal) == in_ledger(engine)
    assert arrived(virustotal, months=True) == in_ledger(engine, months=True)
    # The last files may be in the hands of a process that waits for its turn, while there is nothing for the others.
    assert share_of_rate(virustotal, 4, 56) >= 0.95
    assert_all_known(engine, files)


@pytest.mark.parametrize("seed", range(rounds(5, 1)))
def test_killed_processes_pass_no_limit(engine: Engine, db_url: str, tmp_path: Path, seed: int) -> None:
    """Whoever is killed when: no limit is passed, each request is in the ledger, and no file is lost."""
    chance = random.Random(seed)
    files = load(engine, tmp_path, rounds(200, 44))
    with (
        VirtualTimeServer(START, expected=PROCESSES) as server,
        VirusTotal(Delayed(server, random.Random(seed))) as virustotal,
    ):
        for sha256 in files:
            virustotal.add(sha256, malicious=12)
        with crew(db_url, server, virustotal) as at_work:
            for _ in range(KILLS):
                wanted = len(virustotal.log) + chance.randrange(1, 9)
                at_work.wait_for_requests(wanted, or_until=lambda: answered(engine) == len(files))
                time.sleep(chance.random() * 0.02)
                at_work.kill(chance.randrange(PROCESSES))
            at_work.wait_until(lambda: answered(engine) == len(files))
            assert [0] * PROCESSES == at_work.end()
    assert [] == virustotal.violations
    asked = virustotal.asked()
    assert set(files) <= asked.keys()
    assert sum(asked[sha256] for sha256 in files) - len(files) <= KILLS, "a kill costs one answer at most"
    ledger = in_ledger(engine)
    assert not arrived(virustotal) - ledger, "more arrived than the ledger has"
    assert (ledger - arrived(virustotal)).total() <= KILLS
    assert_all_known(engine, files)


def test_days_and_months_are_used_and_not_passed(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Over the end of a month each day's and each month's requests are used, none more, with kills on the way."""
    chance = random.Random(1)
    files = load(engine, tmp_path, 40)
    limits = KeyLimits(per_minute=8, per_day=20, per_month=30)
    begin = dt.datetime(2026, 2, 27, 23, 40, tzinfo=dt.UTC)
    kills = (15, 26, 38)
    with VirtualTimeServer(begin, expected=PROCESSES) as server, VirusTotal(server, limits=limits) as virustotal:
        for sha256 in files:
            virustotal.add(sha256, malicious=12)
        with crew(db_url, server, virustotal) as at_work:
            for count in kills:
                at_work.wait_for_requests(count)
                at_work.kill(chance.randrange(PROCESSES))
            at_work.wait_until(lambda: answered(engine) == len(files))
            assert [0] * PROCESSES == at_work.end()
    assert [] == virustotal.violations
    ledger = in_ledger(engine)
    assert {"2026-02-27": 20, "2026-02-28": 10, "2026-03-01": ledger["2026-03-01"]} == dict(ledger)
    assert 30 == in_ledger(engine, months=True)["2026-02"]
    assert not arrived(virustotal) - ledger, "more arrived than the ledger has"
    assert (ledger - arrived(virustotal)).total() <= len(kills)
    assert_all_known(engine, files)


def test_a_process_that_keeps_no_ledger_is_seen(tmp_path: Path) -> None:
    """Requests as fast as they can be made pass the limits: the check above can fail."""
    import httpx

    from tests.stand_ins.virustotal import KEY

    with VirtualTimeServer(START) as server, VirusTotal(server) as virustotal, httpx.Client() as client:
        for number in range(6):
            client.get(f"{virustotal.url}/files/{number:064x}", headers={"x-apikey": KEY})
    assert ["minute", "minute"] == [violation.window for violation in virustotal.violations]
