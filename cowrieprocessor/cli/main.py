"""The program `cowrieprocessor`: its commands, loaded only when they are used."""

from __future__ import annotations

import importlib
import sys

import click

from cowrieprocessor import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "db": ("cowrieprocessor.cli.db:db", "Look after the database: status, check, migrate."),
    "dead-letters": ("cowrieprocessor.cli.dead_letters:dead_letters", "Lines that could not be stored."),
    "demo": ("cowrieprocessor.cli.demo:demo", "Load the samples and show what a report looks like."),
    "files": ("cowrieprocessor.cli.files:files", "What was dropped on the honeypots."),
    "load": ("cowrieprocessor.cli.load:load", "Load Cowrie logs: files or folders, any compression."),
    "report": ("cowrieprocessor.cli.report:report", "What happened in a day, a week or a month."),
    "sessions": ("cowrieprocessor.cli.sessions:sessions", "What attackers did, session by session."),
}
"""Each command: where it is, and its help line (so that `--help` imports none of them)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, importing its module."""
        if cmd_name not in COMMANDS:
            return None
        module_name, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module_name), attribute)
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from their help lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cowrieprocessor")
def cli() -> None:
    """Turn the logs and captured files of Cowrie honeypots into a database that answers questions.

    Data goes to standard output, messages and progress to standard error. Start with `cowrieprocessor demo`.
    """


def main() -> None:
    """Run the command line; every expected error ends in one message and its exit code."""
    from cowrieprocessor.cli.common import run

    sys.exit(run(cli))
