"""`cowrieprocessor demo`: the whole way once, with samples that a real Cowrie made."""

from __future__ import annotations

from pathlib import Path

import click

from cowrieprocessor.cli.common import message
from cowrieprocessor.errors import InputNotFound

SAMPLES = "samples"
DATABASE = "cowrieprocessor.sqlite"
SENSOR = "honeypot-1"


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    help="Folder for the demonstration's database. Default: demo.",
)
def demo(directory: Path) -> None:
    """Load the samples, take up their captured files, and print the report.

    Nothing but the folder of the demonstration is written; again shows the same. Ends with 0.
    """
    from cowrieprocessor.cli.files_scan import scan
    from cowrieprocessor.cli.load import load
    from cowrieprocessor.cli.report import show_report

    samples = find_samples()
    directory.mkdir(parents=True, exist_ok=True)
    db = str(directory / DATABASE)
    message(f"1. cowrieprocessor load {samples} --db {db}")
    load.main([str(samples), "--db", db], standalone_mode=False)
    message(f"2. cowrieprocessor files scan {samples / 'downloads'} --sensor {SENSOR} --db {db}")
    scan.main([str(samples / "downloads"), "--sensor", SENSOR, "--db", db], standalone_mode=False)
    message(f"3. cowrieprocessor report daily --db {db}")
    show_report("daily", None, db, None, "text", None)
    click.echo(_next_steps(db))


def find_samples() -> Path:
    """Return the folder of samples: here, or in the clone that the program runs from.

    Raises:
        InputNotFound: there is none; an installed package has no samples.
    """
    here = Path(SAMPLES)
    beside = Path(__file__).parents[2] / SAMPLES
    for folder in (here, beside):
        if (folder / "cowrie.json").is_file():
            return folder
    raise InputNotFound(
        "no samples here: run it in a clone of the project (make demo), or load logs of your own: "
        "cowrieprocessor load /path/to/var/log/cowrie"
    )


def _next_steps(db: str) -> str:
    return f"""
What to do next
  cowrieprocessor files list --db {db}                      every file that was dropped
  cowrieprocessor sessions list --with-files --db {db}      the sessions that dropped them
  cowrieprocessor report daily --format json --db {db}      the report for scripts
  cowrieprocessor load /path/to/var/log/cowrie              your own logs, into {DATABASE} here
  cowrieprocessor files scan /path/to/downloads             your own captured files"""
