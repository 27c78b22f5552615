"""Who works on a job: so that two do not, and so that one that was killed does not keep others out."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import socket
import uuid
from pathlib import Path
from typing import Any

SILENT_FOR_S = 300.0
"""A job elsewhere that has said nothing for so long is taken to be dead."""


MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> dict[str, Any]:
    """Return what tells this run of this process from all others, as plain JSON.

    Host names are not enough: machines may have the same one, and so may containers, each with its own process 1.
    """
    pid = os.getpid()
    return _here() | {"pid": pid, "started": _started(pid), "run": uuid.uuid4().hex}


def is_same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two holders see the same files under the same paths, as far as is known.

    Args:
        one: what `this_process` said there.
        other: what it said elsewhere, perhaps in an older version, which knew no more than the host's name.
    """
    return one.get("host") == other.get("host") and not are_different_machines(one, other)


def are_different_machines(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two holders are known to be on different machines, whatever these are called."""
    return _differ(one, other, "machine")


def is_alive(holder: dict[str, Any], updated_at: dt.datetime) -> bool:
    """Return whether a holder may still be at work.

    Of this machine the system is asked. One elsewhere (another machine, also one of the same name; a container, whose
    processes are counted by themselves) is believed for as long as it says something, and so is one whose beginning
    the system hides from us (`hidepid` of /proc). What ran on this machine before it was started anew is dead.

    Args:
        holder: what `this_process` said there.
        updated_at: when its job last said something; a job at work says something each minute.
    """
    says_something = (dt.datetime.now(dt.UTC) - updated_at).total_seconds() < SILENT_FOR_S
    ours = _here()
    if not is_same_machine(holder, ours):
        return says_something
    if _differ(holder, ours, "boot"):
        return says_something and not (holder.get("machine") and ours["machine"])
    if _differ(holder, ours, "pids"):
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


def _here() -> dict[str, Any]:
    """Return where this process runs."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "boot": _text(BOOT_ID),
        "pids": _pid_namespace(),
    }


def _differ(one: dict[str, Any], other: dict[str, Any], name: str) -> bool:
    """Return whether both say something and not the same."""
    return bool(one.get(name) and other.get(name)) and one[name] != other[name]


def _machine() -> str | None:
    """Return what tells this machine from others; None where it has no identity, as in many containers.

    Source: machine-id(5): the identity itself is not to be shown to others, a hash made from it may be.
    """
    identity = _text(MACHINE_ID)
    if identity == "uninitialized":
        return None
    return hashlib.sha256(f"cowrieprocessor {identity}".encode()).hexdigest()[:16] if identity else None


def _pid_namespace() -> str | None:
    """Return within which set of processes ours has its number. Source: namespaces(7), /proc/pid/ns."""
    try:
        return str(PID_NAMESPACE.readlink())
    except OSError:
        return None


def _text(path: Path) -> str | None:
    """Return what a file of the system says; None where there is no such file, or nothing in it."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None


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
