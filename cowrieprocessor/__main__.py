"""Run the command line with `python -m cowrieprocessor`."""

import sys

EXIT_WRONG_CALL = 2


def _refuse(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(EXIT_WRONG_CALL)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - it is run by whatever `python` is
        _refuse(f"Python 3.11 or later is needed; {sys.executable} is {sys.version.split()[0]}")
    try:
        from cowrieprocessor.cli.main import main
    except ModuleNotFoundError as error:
        _refuse(
            f"{sys.executable} has no package {error.name!r}: activate the environment into which cowrieprocessor is "
            "installed; in a clone after `make demo`: . .venv/bin/activate"
        )
    main()
