"""Process identities: machines and containers with the same name are distinguished; a reboot ends every process."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.jobs.runtime.process_identity import (
    SILENT_FOR_S,
    SystemFiles,
    _started,
    is_alive,
    is_same_machine,
    this_process,
)

NOW = dt.timedelta()
LONG = dt.timedelta(seconds=SILENT_FOR_S + 1)


@pytest.fixture
def files(tmp_path: Path) -> SystemFiles:
    """The files of the system, with a machine ID wherever the test runs."""
    path = tmp_path / "machine-id"
    path.write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n", encoding="ascii")
    return SystemFiles(machine_id=path)


@pytest.fixture
def alive(files: SystemFiles) -> dict[str, Any]:
    """A running process of this machine."""
    return this_process(files) | {"pid": 1, "started": _started(1)}


@pytest.mark.parametrize(
    ("differs", "after_a_moment", "after_long"),
    [
        ({}, True, True),
        ({"pid": 2**22 + 1}, False, False),
        ({"started": "1"}, False, False),
        ({"host": "another"}, True, False),
        ({"machine": "another", "pid": 2**22 + 1}, True, False),
        ({"pids": "pid:[1]", "pid": 2**22 + 1}, True, False),
        ({"boot": "another"}, False, False),
        ({"boot": "another", "machine": None}, True, False),
        ({"boot": "another", "machine": "another"}, True, False),
        ({"machine": None, "boot": None, "pids": None}, True, True),
        ({"machine": None, "boot": None, "pids": None, "pid": 2**22 + 1}, False, False),
    ],
)
def test_which_processes_are_alive(
    files: SystemFiles, alive: dict[str, Any], differs: dict[str, Any], after_a_moment: bool, after_long: bool
) -> None:
    """The system is asked about processes that it can see; others are alive while they update their job."""
    other = alive | differs
    now = dt.datetime.now(dt.UTC)

    assert (after_a_moment, after_long) == (is_alive(other, now - NOW, files), is_alive(other, now - LONG, files))


def test_an_identity_of_an_older_version(files: SystemFiles, alive: dict[str, Any]) -> None:
    """Of a row with only host and process, these are compared."""
    older = {name: alive[name] for name in ("host", "pid", "started", "run")}

    assert is_alive(older, dt.datetime.now(dt.UTC) - LONG, files)
    assert is_same_machine(older, this_process(files))


def test_a_system_without_identities(tmp_path: Path) -> None:
    """Without these files, as in some containers and on other systems, only the host name is known."""
    missing = tmp_path / "missing"
    files = SystemFiles(machine_id=missing, boot_id=missing, pid_namespace=missing)
    ours = this_process(files)

    assert (None, None, None) == (ours["machine"], ours["boot"], ours["pids"])
    assert is_alive(ours | {"pid": 1, "started": _started(1)}, dt.datetime.now(dt.UTC) - LONG, files)


@pytest.mark.parametrize(("text", "is_known"), [("", False), ("uninitialized\n", False), ("3d12\n", True)])
def test_the_machine_id(tmp_path: Path, text: str, is_known: bool) -> None:
    """An empty or uninitialized machine ID is none; a real one is never stored as it is."""
    path = tmp_path / "machine-id"
    path.write_text(text, encoding="ascii")
    machine = this_process(SystemFiles(machine_id=path))["machine"]

    assert is_known == (machine is not None)
    assert machine is None or text.strip() not in machine
