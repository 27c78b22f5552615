"""The check with which every script begins: is it run by a Python that has cowrieprocessor?"""

import importlib.util
import sys

EXIT_WRONG_CALL = 2


def require_package() -> None:
    """End the script with one message where its Python is too old, or has no cowrieprocessor."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it is run by whatever `python` is
        _refuse(f"Python 3.11 or later is needed; {sys.executable} is {sys.version.split()[0]}")
    if importlib.util.find_spec("cowrieprocessor") is None:
        _refuse(
            f"{sys.executable} has no cowrieprocessor: activate the environment into which it is installed, or in a "
            f"clone after `make demo` run .venv/bin/python {sys.argv[0]}"
        )


def _refuse(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(EXIT_WRONG_CALL)
