"""`cowrieprocessor demo`: the whole workflow once, on samples recorded by a real Cowrie."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from cowrieprocessor.cli.shared.common import notify, print_text
from cowrieprocessor.errors import ConfigurationError, InputNotFound
from cowrieprocessor.filesystems import os_error_text

SAMPLES = "samples"
DATABASE = "cowrieprocessor.sqlite"
SENSOR = "honeypot-1"


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    default=Path("demo"),
    help="Folder for the demonstration's database. Default: demo.",
)
def demo(directory: Path) -> None:
    """Load the samples, scan their captured files, and print the report.

    Writes only to the demonstration's folder; running it again shows the same. Ends with 0.

    \b
    Example: cowrieprocessor demo --dir /tmp/demo
    """
    run_demo(directory)


def run_demo(directory: Path, *, samples_name: str = SAMPLES) -> None:
    """Load the samples, scan their captured files, and print the report.

    Args:
        directory: the folder for the database; it is made if it does not exist.
        samples_name: the folder of samples, in the package or next to it.

    Raises:
        InputNotFound: there are no samples.
        ConfigurationError: the folder cannot be made.
        click.exceptions.Exit: a step failed; the exit code is its own.
    """
    from cowrieprocessor.cli.files_commands.scan import scan
    from cowrieprocessor.cli.load import load
    from cowrieprocessor.cli.report import show_report

    samples = find_samples(samples_name)
    _make_folder(directory)
    db = str(directory / DATABASE)
    _run_step("1. cowrieprocessor load", load, str(samples), "--db", db)
    _run_step("2. cowrieprocessor files scan", scan, str(samples / "downloads"), "--sensor", SENSOR, "--db", db)
    notify(f"3. cowrieprocessor report daily --db {shlex.quote(db)}")
    show_report("daily", None, db, None, "text", None)
    print_text(_next_steps(shlex.quote(db)) + "\n")


def find_samples(name: str = SAMPLES) -> Path:
    """Return the folder of samples, in the installed package or in the clone that the program runs from.

    Args:
        name: the folder, in the package or next to it.

    Raises:
        InputNotFound: the installation has no samples.
    """
    package = Path(__file__).parents[1]
    for folder in (package / name, package.parent / name):
        if (folder / "cowrie.json").is_file():
            here = Path.cwd()
            return folder.relative_to(here) if folder.is_relative_to(here) else folder
    raise InputNotFound(
        "this installation has no samples: run it in a clone of the project (make demo), or load your own logs: "
        "cowrieprocessor load /path/to/var/log/cowrie"
    )


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{directory}: cannot be made: {os_error_text(error)}; choose another folder with --dir"
        ) from error


def _run_step(title: str, command: click.Command, *arguments: str) -> None:
    """Announce and run a command; if it fails, end the demonstration with its exit code."""
    notify(f"{title} {shlex.join(arguments)}")
    code = command.main(list(arguments), standalone_mode=False)
    if code:
        raise click.exceptions.Exit(code)


def _next_steps(db: str) -> str:
    return f"""
What to do next
  cowrieprocessor files list --db {db}                      every file that was dropped
  cowrieprocessor sessions list --with-files --db {db}      the sessions that dropped them
  cowrieprocessor report daily --format json --db {db}      the report for scripts
  cowrieprocessor load /path/to/var/log/cowrie              your own logs, into {DATABASE} here
  cowrieprocessor files scan /path/to/downloads             your own captured files"""
