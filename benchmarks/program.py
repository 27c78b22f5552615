"""The program under measurement: a copy of a checkout's package, run through its command line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Usage, run

PACKAGE = "cowrieprocessor"


class NotACheckout(Exception):
    """A folder does not contain the package."""


@dataclass(frozen=True, slots=True)
class Program:
    """A copy of the package and the interpreter that runs it.

    Nothing is imported from the copy, so that its modules may differ from those of this checkout.

    Attributes:
        folder: the folder with the copy, and the working directory of its commands.
        python: the interpreter.
    """

    folder: Path
    python: Path = Path(sys.executable)

    @classmethod
    def of_checkout(cls, checkout: Path, folder: Path) -> Program:
        """Copy the package of a checkout, so that the checkout may be edited during the measurement.

        The interpreter is that of the checkout's virtual environment, `.venv`, or this one where there is none.

        Args:
            checkout: the top folder of the checkout.
            folder: the folder for the copy; it does not exist yet.

        Raises:
            NotACheckout: the folder does not contain the package.
        """
        if not (checkout / PACKAGE / "__main__.py").is_file():
            raise NotACheckout(f"{checkout}: no checkout of {PACKAGE}: there is no {PACKAGE}/__main__.py")
        shutil.copytree(checkout / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        python = checkout.absolute() / ".venv" / "bin" / "python"
        return cls(folder, python) if python.exists() else cls(folder)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which Python finds the copy before any installed package."""
        return {"PYTHONPATH": str(self.folder)}

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """Return the command line that calls the program."""
        return [self.python, "-m", PACKAGE, *arguments]

    def run(
        self, *arguments: str | Path, allowed: Sequence[int] = (0,), settings: Mapping[str, str] | None = None
    ) -> Usage:
        """Run the program to its end and measure it.

        Args:
            arguments: its arguments.
            allowed: exit codes that are no failure.
            settings: environment variables to add.

        Raises:
            CommandFailed: it ended with another exit code.
        """
        variables = {**self.variables, **(settings or {})}
        return run(self.command(*arguments), cwd=self.folder, allowed=allowed, variables=variables)
