"""Every command of the program, as click knows them, and for each a call that succeeds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from cowrieprocessor.cli.main import cli
from tests.command_line import PROGRAM
from tests.documents import PROJECT
from tests.reliability.fork_server import CAPTURED, NOTHING, run_forked

SAMPLES = PROJECT / "samples"
TIMEOUT_S = 120
NAME = "a?b#c%20d e'f\"g.sqlite"
"""A file name with what means something in URLs and shells."""


def walk(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command and group with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from walk(below, (*path, name))


ALL = {" ".join(path): command for path, command in walk()}
LEAVES = {name: command for name, command in ALL.items() if not isinstance(command, click.Group)}
CALLED = sorted(
    name for name, command in ALL.items() if not isinstance(command, click.Group) or command.invoke_without_command
)
"""The commands that do something: also a group that is called alone."""


_CALLS: Mapping[str, tuple[str, ...]] = {
    "db backfill": ("--yes",),
    "db backup": ("another.sqlite",),
    "db migrate": ("--yes",),
    "db optimize": ("--yes",),
    "db recount": ("--yes",),
    "db remove": ("--log", "{folder}/bad.json", "--yes"),
    "db restore": ("backup.sqlite", "--yes"),
    "db rollback": ("--to", "3", "--yes"),
    "dead-letters purge": ("--all", "--yes"),
    "dead-letters show": ("1",),
    "demo": ("--dir", "demo"),
    "enrich import-cache": ("cache",),
    "files history": ("{file}",),
    "files scan": (str(SAMPLES / "downloads"), "--sensor", "pot"),
    "files sessions": ("{file}",),
    "files show": ("{file}",),
    "follow": ("--once", "{folder}/log.json"),
    "jobs pause": ("recount",),
    "jobs resume": ("recount",),
    "jobs stop": ("recount",),
    "load": ("{folder}/log.json",),
    "sensors rename": ("p€t", "pötchen", "--yes"),
    "sessions show": ("€uro",),
    "work": ("--once",),
}


@dataclass(frozen=True)
class Scene:
    """A folder with logs, a database of them under a trying name, and its backup.

    Attributes:
        folder: the folder; calls are made in it.
        file: the hash of a file in the database.
    """

    folder: Path
    file: str

    def copy(self, folder: Path) -> Scene:
        """Return a copy of the scene in which a command may change everything. The logs stay where they are."""
        shutil.copytree(self.folder, folder)
        return Scene(folder, self.file)

    def arguments(self, name: str, *, logs: Path, db: str | None = NAME) -> list[str]:
        """Return the words that call a command with success.

        Args:
            name: the command.
            logs: the folder in which the scene was made.
            db: the value of `--db`; None to leave it out.
        """
        words = [word.format(folder=logs, file=self.file) for word in _CALLS.get(name, ())]
        named = [] if name == "demo" or db is None else ["--db", db]
        return [*name.split(), *words, *named]


def make_scene(folder: Path) -> Scene:
    """Make the scene in an existing, empty folder."""
    (folder / "cache").mkdir()
    (folder / "bad.json").write_text('{"eventid":"x","session":"s"}\nnot JSON: €é\n', encoding="utf-8")
    (folder / "log.json").write_text(
        (SAMPLES / "cowrie.json").read_text(encoding="utf-8")
        + '{"eventid":"cowrie.session.connect","session":"€uro","timestamp":"2026-11-22T00:00:00Z",'
        '"src_ip":"203.0.113.9","protocol":"ssh","sensor":"p€t"}\n'
        '{"eventid":"cowrie.command.input","session":"€uro","timestamp":"2026-11-22T00:00:01Z","input":"echo €é中"}\n',
        encoding="utf-8",
    )
    for words in (
        ["load", "log.json", "bad.json", "--db", NAME],
        ["db", "recount", "--db", NAME],
        ["db", "backup", "backup.sqlite", "--db", NAME],
    ):
        run_forked(words, cwd=folder).check_returncode()
    with closing(sqlite3.connect(folder / NAME)) as connection:
        (file,) = connection.execute("SELECT min(shasum) FROM files").fetchone()
    return Scene(folder, file)


def call(
    words: list[str],
    *,
    cwd: Path,
    stdin: str = NOTHING,
    stdout: str = CAPTURED,
    stderr: str = CAPTURED,
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run the program, with streams as for `run_forked`; no source of verdicts is asked."""
    env = {**os.environ, "COWRIEPROC_ENRICHMENT_PROVIDERS": "none", **environment}
    return run_forked(words, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr)


def call_by_shell(
    words: list[str], *, cwd: Path, script: str = 'exec "$@"', **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the program as users do, from a shell, which sets up its streams."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *PROGRAM, *words],
        cwd=cwd,
        env={**os.environ, "COWRIEPROC_ENRICHMENT_PROVIDERS": "none", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
