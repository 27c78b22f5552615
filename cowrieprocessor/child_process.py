"""Start modules of this package as separate processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_IMPORT_ROOT = Path(__file__).parents[1]


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package in another process.

    Args:
        module: dotted name below `cowrieprocessor`, such as `loader.rows.parser_process`.
        arguments: the module's own arguments.
    """
    # -P keeps the current folder, which may contain untrusted files, off the module path.
    return [sys.executable, "-P", "-m", f"{__package__}.{module}", *arguments]


def module_environment(**variables: str) -> dict[str, str]:
    """Return the environment in which `module_command` imports this same package, installed or not.

    Args:
        variables: additional variables to set.
    """
    paths = [str(_IMPORT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(paths)}
