"""Start one command and measure it; run by `measure.run` as a process of its own.

The kernel counts the memory of the process that starts a command into the command's peak. So it is started from here:
a process with next to nothing imported. A command may use several processes: their memory is looked at every 20 ms
and added up (pages that they share count twice). Call: `python -I -S launcher.py REPORT_FD PROGRAM ARGUMENT...`; the
report is `seconds of clock, of CPU, peak in KiB, exit code`.
"""

# ruff: noqa: PTH123, PTH208 - pathlib would have to be imported

import os
import sys
import threading
import time

SAMPLE_EVERY_S = 0.02
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def tree(pid: int) -> list[int]:
    """Return a process and all that it started and those started, as far as they still run."""
    found = [pid]
    for process in found:  # grows while it is walked
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{task}/children") as children:
                    found += map(int, children.read().split())
        except OSError:
            continue
    return found


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process and its descendants."""
    pages = 0
    for process in tree(pid):
        try:
            with open(f"/proc/{process}/statm") as sizes:
                pages += int(sizes.read().split()[1])
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return pages * PAGE_KIB


class Sampler(threading.Thread):
    """Looks at the memory of a process and its descendants until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.ended = threading.Event()
        self.peak_kib = 0

    def run(self) -> None:
        """Keep the largest value seen."""
        while not self.ended.wait(SAMPLE_EVERY_S):
            self.peak_kib = max(self.peak_kib, resident_kib(self.pid))


def main() -> None:
    """Run the command in the arguments and write the report."""
    report_fd, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(report_fd, False)
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ)
    sampler = Sampler(pid)
    sampler.start()
    _, status, used = os.wait4(pid, 0)
    wall_s = time.perf_counter() - started
    sampler.ended.set()
    sampler.join()
    peak_kib = max(used.ru_maxrss, sampler.peak_kib)
    report = f"{wall_s} {used.ru_utime + used.ru_stime} {peak_kib} {os.waitstatus_to_exitcode(status)}"
    os.write(report_fd, report.encode())


if __name__ == "__main__":
    main()
