"""Who works on a job: so that two do not, and so that one that was killed does not keep others out."""

from __future__ import annotations

import datetime as dt
import os
import socket
import uuid
from pathlib import Path
from typing import Any

SILENT_FOR_S = 300.0
"""A job elsewhere that has said nothing for so long is taken to be dead."""


def this_process() -> dict[str, Any]:
    """Return what tells this run of this process from all others, as plain JSON."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "run": uuid.uuid4().hex}


def is_alive(holder: dict[str, Any], updated_at: dt.datetime) -> bool:
    """Return whether a holder may still be at work.

    Of this machine the system is asked. One elsewhere (a container that has another name each time) is believed for as
    long as it says something, and so is one whose beginning the system hides from us (`hidepid` of /proc).

    Args:
        holder: what `this_process` said there.
        updated_at: when its job last said something; a job at work says something each minute.
    """
    says_something = (dt.datetime.now(dt.UTC) - updated_at).total_seconds() < SILENT_FOR_S
    if holder.get("host") != socket.gethostname():
        return says_something
    pid = int(holder.get("pid") or 0)
    if pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return says_something if started is None else started == holder.get("started")


def describe(holder: dict[str, Any]) -> str:
    """Return the holder for people."""
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _started(pid: int) -> str | None:
    """Return when a process started, in the kernel's clock ticks: a number that is used again has another one.

    One that has ended and was not waited for yet has not started. Source: proc(5), /proc/pid/stat, fields 3 and 22;
    the command's name before them may hold spaces.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
