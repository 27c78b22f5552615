"""Clocks that tests control."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from cowrieprocessor.clock import Clock
from tests.stand_ins.clock import START, ManualClock
from tests.stand_ins.virtual_time import VirtualClock, VirtualTimeServer

NEVER = threading.Event()
_PROCESS = """
import sys, threading
from tests.stand_ins.virtual_time import VirtualClock
address, step_s, times = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
clock = VirtualClock(address)
for _ in range(times):
    clock.wait(step_s, threading.Event())
    print(clock.now().isoformat(), flush=True)
clock.close()
"""


def after(seconds: float) -> dt.datetime:
    """Return the time a number of seconds after the start."""
    return START + dt.timedelta(seconds=seconds)


def in_thread(work: Callable[[], None]) -> threading.Thread:
    """Start work in a thread."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def start_process(
    server: VirtualTimeServer, step_s: float, times: int, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start a process that waits a number of times."""
    arguments = [sys.executable, "-c", _PROCESS, server.address, str(step_s), str(times)]
    return subprocess.Popen(arguments, stdout=stdout, text=True)


def test_a_manual_clock_moves_by_being_waited_on() -> None:
    """A wait advances the clock at once and is recorded; a negative one takes no time, a stopped one is ignored."""
    stopped = threading.Event()
    stopped.set()
    clock: Clock = ManualClock()
    assert isinstance(clock, ManualClock)
    clock.wait(90, NEVER)
    clock.wait(-5, NEVER)
    clock.wait(1000, stopped)
    assert [90, -5] == clock.waits
    assert after(90) == clock.now()
    assert after(90 + 3600) == clock.advance(hours=1)
    clock.set(START)
    assert START == clock.now()


def test_a_manual_clock_reaches_the_moment_it_is_waited_until() -> None:
    """Waiting until a moment ends at that moment or after it, whatever the fraction."""
    clock = ManualClock()
    moment = START + dt.timedelta(microseconds=1_234_567)
    clock.wait((moment - clock.now()).total_seconds(), NEVER)
    assert clock.now() >= moment


def test_a_loop_can_be_stopped_from_its_waits() -> None:
    """The callback for waits is called after each wait."""
    stop = threading.Event()
    clock = ManualClock(on_wait=lambda: stop.set() if len(clock.waits) == 3 else None)
    while not stop.is_set():
        clock.wait(10, stop)
    assert after(30) == clock.now()


def test_a_single_client_never_waits_long() -> None:
    """A year passes for a client that is alone."""
    with VirtualTimeServer() as server, VirtualClock(server.address) as clock:
        clock.wait(365 * 86_400, NEVER)
        assert START + dt.timedelta(days=365) == clock.now() == server.now()


def test_time_passes_to_the_earliest_of_all_waits() -> None:
    """Two clients that wait for different times each continue exactly at their own."""
    seen: list[tuple[str, float]] = []

    def work(name: str, clock: VirtualClock, step_s: float, times: int) -> None:
        with clock:
            for _ in range(times):
                clock.wait(step_s, NEVER)
                seen.append((name, (clock.now() - START).total_seconds()))

    with VirtualTimeServer(expected=2) as server:
        clocks = VirtualClock(server.address), VirtualClock(server.address)
        threads = [
            in_thread(lambda: work("slow", clocks[0], 10, 3)),
            in_thread(lambda: work("fast", clocks[1], 4, 7)),
        ]
        for thread in threads:
            thread.join()
    assert [("slow", 10), ("slow", 20), ("slow", 30)] == [row for row in seen if row[0] == "slow"]
    assert [("fast", 4 * number) for number in range(1, 8)] == [row for row in seen if row[0] == "fast"]
    assert [moment for _, moment in seen] == sorted(moment for _, moment in seen)


def test_time_stands_still_while_one_client_works() -> None:
    """As long as a client does not wait, no other continues."""
    with VirtualTimeServer(expected=2) as server, VirtualClock(server.address) as busy:
        waiting = VirtualClock(server.address)
        thread = in_thread(lambda: waiting.wait(5, NEVER))
        assert not server.wait_until(after(1), timeout_s=0.2)
        busy.close()
        thread.join()
        assert after(5) == waiting.now()
        waiting.close()


def test_time_waits_for_those_who_are_expected() -> None:
    """No time passes before the expected number of clients are connected at once."""
    with VirtualTimeServer(expected=2) as server:
        first = VirtualClock(server.address)
        thread = in_thread(lambda: first.wait(5, NEVER))
        assert not server.wait_until(after(1), timeout_s=0.2)
        with VirtualClock(server.address) as second:
            second.wait(5, NEVER)
            thread.join()
            assert after(5) == first.now() == second.now()
        first.close()


def test_a_killed_process_holds_nobody_up() -> None:
    """Time passes without a process that was killed, and can be stopped until its successor is connected."""
    with VirtualTimeServer(expected=2) as server:
        processes = [start_process(server, 10, 1_000_000) for _ in range(2)]
        try:
            assert server.wait_until(after(1000))
            with server.frozen():
                assert server.wait_until_quiet()
                stood_at = server.now()
                processes[0].send_signal(signal.SIGKILL)
                assert server.wait_for_clients(1)
                processes[0].wait()
                processes[0] = start_process(server, 10, 1_000_000)
                assert server.wait_for_clients(2)
                assert stood_at == server.now()
            assert server.wait_until(stood_at + dt.timedelta(hours=1))
            processes[0].send_signal(signal.SIGKILL)
            assert server.wait_until(stood_at + dt.timedelta(hours=3))
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_processes_share_one_time() -> None:
    """Two processes each see their own moments, to the microsecond, and end normally."""
    with VirtualTimeServer(expected=2) as server:
        processes = [start_process(server, step_s, times, subprocess.PIPE) for step_s, times in ((15.0, 40), (7.5, 40))]
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    for step_s, output in zip((15.0, 7.5), outputs, strict=True):
        assert [after(step_s * number).isoformat() for number in range(1, 41)] == output


def test_a_wait_ends_when_told_to_stop() -> None:
    """A client that is told to stop does not wait until the end, and no time passes for it."""
    stop = threading.Event()
    with VirtualTimeServer(expected=2) as server, VirtualClock(server.address), VirtualClock(server.address) as clock:
        thread = in_thread(lambda: clock.wait(1e9, stop))
        stop.set()
        thread.join()
        assert START == clock.now()
        clock.wait(5, stop)
        assert START == clock.now()


@pytest.mark.parametrize("seconds", [float("inf"), 10_000.0])
def test_time_can_have_an_end(seconds: float) -> None:
    """Time stops at `until`, and a test is notified that all clients wait for later."""
    stop = threading.Event()
    with VirtualTimeServer(until=after(3600)) as server, VirtualClock(server.address) as clock:
        clock.wait(3599, NEVER)
        assert not server.ended.is_set()
        thread = in_thread(lambda: clock.wait(seconds, stop))
        assert server.ended.wait(60)
        assert after(3600) == server.now()
        stop.set()
        thread.join()


def test_nothing_here_sleeps() -> None:
    """Ten thousand waits of an hour take far less than an hour."""
    begun = time.monotonic()
    with VirtualTimeServer() as server, VirtualClock(server.address) as clock:
        for _ in range(10_000):
            clock.wait(3600, NEVER)
    assert time.monotonic() - begun < 3600
