"""The program `cowrieprocessor`, whose commands are imported only when they are used."""

from __future__ import annotations

import sys

import click

from cowrieprocessor import __version__
from cowrieprocessor.cli.shared.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "db": ("cowrieprocessor.cli.db:db", "Maintain a database: status, backup, migrate, check."),
    "dead-letters": ("cowrieprocessor.cli.dead_letters:dead_letters", "Lines that could not be stored."),
    "demo": ("cowrieprocessor.cli.demo:demo", "Load the samples and show what a report looks like."),
    "enrich": ("cowrieprocessor.cli.enrich:enrich", "Ask VirusTotal and others about the files, within quota."),
    "files": ("cowrieprocessor.cli.files_commands.files:files", "What was dropped on the honeypots."),
    "follow": ("cowrieprocessor.cli.follow:follow", "Follow growing logs: new events at once, each stored once."),
    "jobs": ("cowrieprocessor.cli.jobs:jobs", "Long jobs: how far they are; pause, resume and stop them."),
    "load": ("cowrieprocessor.cli.load:load", "Load Cowrie logs: files or folders, any compression."),
    "report": ("cowrieprocessor.cli.report:report", "What happened in a day, a week or a month."),
    "sensors": ("cowrieprocessor.cli.sensors:sensors", "The honeypots, by name; rename one."),
    "sessions": ("cowrieprocessor.cli.sessions:sessions", "What attackers did, session by session."),
    "work": ("cowrieprocessor.cli.work:work", "Run what is due: enrichment, propagation, derived facts."),
}
"""For each command, its location and help line (so that `--help` imports none of them)."""


@click.group(cls=LazyGroup, lazy_commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cowrieprocessor")
def cli() -> None:
    """Turn the logs and captured files of Cowrie honeypots into a database that answers questions.

    Data goes to standard output, messages and progress to standard error. Start with `cowrieprocessor demo`.
    """


def main() -> None:
    """Run the command line; an expected error ends in one message and its exit code."""
    from cowrieprocessor.cli.shared.common import ignore_late_signals, run

    code = run(cli)
    ignore_late_signals()
    sys.exit(code)
