"""The command line program, called in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a call."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output parsed as JSON."""
        return json.loads(self.out)


class Program:
    """Calls `cowrieprocessor` with arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        """Call the program and return its exit code and output."""
        from cowrieprocessor.cli.main import cli
        from cowrieprocessor.cli.shared.common import run

        self._monkeypatch.setattr("sys.argv", ["cowrieprocessor", *map(str, arguments)])
        self._capsys.readouterr()
        code = run(cli)
        printed = self._capsys.readouterr()
        return Outcome(code, printed.out, printed.err)
