"""Who is at work: machines and containers of the same name are told apart, and what ran before a restart is dead."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.jobs.runtime import process_identity as holder

NOW = dt.timedelta()
LONG = dt.timedelta(seconds=holder.SILENT_FOR_S + 1)


@pytest.fixture
def alive() -> dict[str, Any]:
    """A process of this machine that is at work."""
    return holder.this_process() | {"pid": 1, "started": holder._started(1)}


@pytest.fixture(autouse=True)
def _machine_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this machine an identity, wherever the test runs."""
    path = tmp_path / "machine-id"
    path.write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n", encoding="ascii")
    monkeypatch.setattr(holder, "MACHINE_ID", path)


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
def test_who_is_alive(alive: dict[str, Any], differs: dict[str, Any], after_a_moment: bool, after_long: bool) -> None:
    """The system is asked about processes that it counts itself; others are believed as long as they speak."""
    other = alive | differs
    now = dt.datetime.now(dt.UTC)

    assert (after_a_moment, after_long) == (holder.is_alive(other, now - NOW), holder.is_alive(other, now - LONG))


def test_what_an_older_version_wrote(alive: dict[str, Any]) -> None:
    """A row that says no more than host and process is judged by these."""
    older = {name: alive[name] for name in ("host", "pid", "started", "run")}

    assert holder.is_alive(older, dt.datetime.now(dt.UTC) - LONG)
    assert holder.is_same_machine(older, holder.this_process())


def test_where_the_system_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without these files, as in some containers and on other systems, there is the host's name alone."""
    for name in ("MACHINE_ID", "BOOT_ID", "PID_NAMESPACE"):
        monkeypatch.setattr(holder, name, tmp_path / "missing")
    ours = holder.this_process()

    assert (None, None, None) == (ours["machine"], ours["boot"], ours["pids"])
    assert holder.is_alive(ours | {"pid": 1, "started": holder._started(1)}, dt.datetime.now(dt.UTC) - LONG)


@pytest.mark.parametrize(("text", "is_known"), [("", False), ("uninitialized\n", False), ("3d12\n", True)])
def test_the_identity_of_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, is_known: bool) -> None:
    """An identity that is empty, or not made yet, is none; a real one is written nowhere as it is."""
    path = tmp_path / "machine-id"
    path.write_text(text, encoding="ascii")
    monkeypatch.setattr(holder, "MACHINE_ID", path)
    machine = holder.this_process()["machine"]

    assert is_known == (machine is not None)
    assert machine is None or text.strip() not in machine
