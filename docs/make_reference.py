"""Write the commands of docs/reference.md again from their `--help`; `make docs` calls it.

The page is written by hand but for what stands between the two marks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from cowrieprocessor.cli.main import cli

PAGE = Path(__file__).resolve().with_name("reference.md")
BEGIN = "<!-- The commands, from their --help, by `make docs`. -->\n"
END = "<!-- End of the commands. -->\n"
PROGRAM = "cowrieprocessor"
WIDTH = 100


def walk(command: click.Command = cli, context: click.Context | None = None) -> Iterator[click.Context]:
    """Yield the context of a command and of all commands below it, in the order in which help lists them."""
    if context is None:
        settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
        context = click.Context(command, info_name=PROGRAM, **settings)
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from walk(below, click.Context(below, info_name=name, parent=context))


def commands_text() -> str:
    """Return every command with its help."""
    return "\n".join(
        f"### {context.command_path}\n\n```text\n{context.command.get_help(context).rstrip()}\n```\n"
        for context in walk()
    )


def with_commands(page: str) -> str:
    """Return the page with the commands as they are now.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name}: the lines {BEGIN.strip()} and {END.strip()} have to be in it")
    return f"{before}{begin}\n{commands_text()}\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_commands(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
