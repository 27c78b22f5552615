"""The program as a user calls it, in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Outcome:
    """How a call ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What was printed, as JSON."""
        return json.loads(self.out)


class Program:
    """Calls `cowrieprocessor` with arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Outcome:
        """Call the program and return how it ended."""
        from cowrieprocessor.cli.main import cli
        from cowrieprocessor.cli.shared.common import run

        self._monkeypatch.setattr("sys.argv", ["cowrieprocessor", *arguments])
        self._capsys.readouterr()
        code = run(cli)
        printed = self._capsys.readouterr()
        return Outcome(code, printed.out, printed.err)
