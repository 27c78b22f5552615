"""Start one command and measure it; run by `measure.run` as a process of its own.

The kernel counts the memory of the process that starts a command into the command's peak. So it is started from here:
a process with nothing imported. Call: `python -I -S launcher.py REPORT_FD PROGRAM ARGUMENT...`; the report is
`seconds of clock, of CPU, peak in KiB, exit code`.
"""

import os
import sys
import time


def main() -> None:
    """Run the command in the arguments and write the report."""
    report_fd, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(report_fd, False)
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, used = os.wait4(pid, 0)
    wall_s = time.perf_counter() - started
    report = f"{wall_s} {used.ru_utime + used.ru_stime} {used.ru_maxrss} {os.waitstatus_to_exitcode(status)}"
    os.write(report_fd, report.encode())


if __name__ == "__main__":
    main()
