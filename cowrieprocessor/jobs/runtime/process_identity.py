"""Identifies the process that runs a job, so that no second one does, and a killed one does not block others."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import socket
import uuid
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

SILENT_FOR_S = 300.0
"""A job on another machine that has not updated its row for this long is considered dead."""


@dataclass(frozen=True, slots=True)
class SystemFiles:
    """The files in which Linux identifies machine, boot and PID namespace; any may be missing."""

    machine_id: Path = Path("/etc/machine-id")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")
    pid_namespace: Path = Path("/proc/self/ns/pid")


_SYSTEM_FILES = SystemFiles()

_OWN_RUNS: set[str] = set()
"""The jobs that this process runs now, by `run` of their identities."""


def begin_run(identity: dict[str, Any]) -> None:
    """Note that this process runs a job under an identity, so that no other thread of it does."""
    _OWN_RUNS.add(identity["run"])


def end_run(identity: dict[str, Any]) -> None:
    """Note that the job of an identity has ended."""
    _OWN_RUNS.discard(identity["run"])


def this_process(files: SystemFiles = _SYSTEM_FILES) -> dict[str, Any]:
    """Return an identity that distinguishes this run of this process from all others, as plain JSON.

    Host names are not sufficient: several machines may have the same, and so may containers, each with a process 1.
    """
    pid = os.getpid()
    return _environment(files) | {"pid": pid, "started": _started(pid), "run": uuid.uuid4().hex}


def is_same_machine(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two processes see the same files under the same paths, as far as is known.

    Args:
        first: a result of `this_process`.
        second: another one, perhaps of an older version, which recorded only the host name.
    """
    return first.get("host") == second.get("host") and not are_different_machines(first, second)


def are_different_machines(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two processes are known to run on different machines, regardless of host names."""
    return _differ(first, second, "machine")


class Liveness(Enum):
    """What this process can tell of another one."""

    THERE = "there"
    GONE = "gone"
    UNKNOWN = "unknown"


def is_alive(identity: dict[str, Any], updated_at: dt.datetime, files: SystemFiles = _SYSTEM_FILES) -> bool:
    """Return whether a process may still be running.

    One that this process cannot ask about counts as alive while it updates its job.

    Args:
        identity: what `this_process` returned there.
        updated_at: when its job was last updated; a running job does so every minute.
        files: where the system identifies itself.
    """
    found = liveness(identity, files)
    return found is Liveness.THERE or (found is Liveness.UNKNOWN and not is_silent(updated_at))


def is_silent(updated_at: dt.datetime) -> bool:
    """Return whether a job has said nothing for so long that its process is considered dead."""
    return (dt.datetime.now(dt.UTC) - updated_at).total_seconds() >= SILENT_FOR_S


def liveness(identity: dict[str, Any], files: SystemFiles = _SYSTEM_FILES) -> Liveness:
    """Return whether a process is there. The system is asked about one that this process can see.

    Any other is unknown: on another machine, even one of the same name; in a container with its own PID namespace; or
    with a start time that the system hides (`hidepid` of /proc). A process from before the last boot of this machine
    is gone.

    Args:
        identity: what `this_process` returned there.
        files: where the system identifies itself.
    """
    if identity.get("run") in _OWN_RUNS:
        return Liveness.THERE
    ours = _environment(files)
    if not is_same_machine(identity, ours):
        return Liveness.UNKNOWN
    if _differ(identity, ours, "boot"):
        return Liveness.GONE if identity.get("machine") and ours["machine"] else Liveness.UNKNOWN
    if _differ(identity, ours, "pids"):
        return Liveness.UNKNOWN
    return _liveness_here(int(identity.get("pid") or 0), identity.get("started"))


def _liveness_here(pid: int, started: object) -> Liveness:
    """Return whether a process other than this one has this PID and start time; unknown if that is hidden."""
    if pid <= 0 or pid == os.getpid():
        return Liveness.GONE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Liveness.GONE
    except PermissionError:
        pass
    started_now = _started(pid)
    if started_now is None:
        return Liveness.UNKNOWN
    return Liveness.THERE if started_now == started else Liveness.GONE


def describe(identity: dict[str, Any]) -> str:
    """Return process and host as text for people."""
    return f"process {identity.get('pid')} on {identity.get('host')}"


def _environment(files: SystemFiles) -> dict[str, Any]:
    """Return the host, machine, boot and PID namespace of this process."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(files.machine_id),
        "boot": _text(files.boot_id),
        "pids": _link_target(files.pid_namespace),
    }


def _differ(first: dict[str, Any], second: dict[str, Any], name: str) -> bool:
    """Return whether both have a value, and not the same."""
    return bool(first.get(name) and second.get(name)) and first[name] != second[name]


def _machine(path: Path) -> str | None:
    """Return a fingerprint of this machine; None if it has no machine ID, as many containers.

    Source: machine-id(5): the ID itself is confidential; a hash derived from it may be published.
    """
    machine_id = _text(path)
    if machine_id == "uninitialized":
        return None
    return hashlib.sha256(f"cowrieprocessor {machine_id}".encode()).hexdigest()[:16] if machine_id else None


def _link_target(path: Path) -> str | None:
    """Return the target of a link, such as the identity of a namespace. Source: namespaces(7), /proc/pid/ns."""
    try:
        return str(path.readlink())
    except OSError:
        return None


def _text(path: Path) -> str | None:
    """Return the content of a system file; None if it is missing or empty."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot, which distinguishes processes with a reused PID.

    A zombie counts as ended. Source: proc(5), /proc/pid/stat, fields 3 and 22; the command name before them may
    contain spaces.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
