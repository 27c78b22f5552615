"""Start one command and measure it; `measure.run` runs this module as a separate process.

The kernel includes the memory of the starting process in the peak of the command, so a process with few imports starts
it. A command may use several processes: their memory is sampled every 20 ms and added up (shared pages count twice).
Usage: `python -I -S launcher.py REPORT_FD PROGRAM ARGUMENT...`; the report is
`wall seconds, CPU seconds, peak in KiB, exit code`.
"""

# ruff: noqa: PTH123, PTH208 - importing pathlib would add memory

import os
import sys
import threading
import time

SAMPLE_EVERY_S = 0.02
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def tree(pid: int) -> list[int]:
    """Return a process and its descendants that still run."""
    pids = [pid]
    for process in pids:  # grows during the iteration
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{task}/children") as children:
                    pids += map(int, children.read().split())
        except OSError:
            continue
    return pids


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process and its descendants, in KiB."""
    pages = 0
    for process in tree(pid):
        try:
            with open(f"/proc/{process}/statm") as sizes:
                pages += int(sizes.read().split()[1])
        except (OSError, IndexError):
            continue  # the process has ended
    return pages * PAGE_KIB


class Sampler(threading.Thread):
    """Samples the memory of a process and its descendants until `ended` is set.

    Args:
        pid: the process.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.ended = threading.Event()
        self.peak_kib = 0

    def run(self) -> None:
        """Keep the largest sample in `peak_kib`."""
        while not self.ended.wait(SAMPLE_EVERY_S):
            self.peak_kib = max(self.peak_kib, resident_kib(self.pid))


def main() -> None:
    """Run the command that the arguments give, and write the report."""
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
