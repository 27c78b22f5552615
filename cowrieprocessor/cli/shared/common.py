"""What every command shares: the options `--db` and `--json`, output, and how errors end."""

from __future__ import annotations

import atexit
import errno
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cowrieprocessor.errors import CowrieProcessorError
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from cowrieprocessor.reporting.render.terminal import Screen

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INTERRUPTED = 130

_REMEDIES = {
    errno.EACCES: "give the user who runs this the right to it",
    errno.EPERM: "give the user who runs this the right to it",
    errno.ENOENT: "correct the path",
    errno.ENOSPC: "make room, then repeat the command",
    errno.EDQUOT: "make room within the quota, then repeat the command",
    errno.EROFS: "the disk may not be written to; choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n, or LimitNOFILE of the service)",
}


def db_option(function: F) -> F:
    """Add `--db`, which looking and loading commands can do without."""
    return click.option(
        "--db",
        "db",
        metavar="PATH|URL",
        help="Database: a path or an SQLAlchemy URL. Default: COWRIEPROC_DB_URL, sensors.toml, "
        "then cowrieprocessor.sqlite here.",
    )(function)


def named_db_option(function: F) -> F:
    """Add a `--db` that has to be given: maintenance refuses to guess."""
    return click.option(
        "--db",
        "db",
        metavar="PATH|URL",
        required=True,
        help="Database to work on: a path or an SQLAlchemy URL. Has to be named.",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`: one JSON document on standard output instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts instead of text.")(function)


def database_name(db: str | None) -> str:
    """Return the database to use: the flag, the environment, sensors.toml, or the file in this folder."""
    from cowrieprocessor.settings import DEFAULT_DATABASE, load_settings

    return db or load_settings().db_url or DEFAULT_DATABASE


def open_for_reading(db: str | None) -> Engine:
    """Return a read-only engine on a database that is at our version.

    Raises:
        DatabaseError: there is no such database, or its version is another one; the message names the remedy.
    """
    from cowrieprocessor.db.engine import get_engine
    from cowrieprocessor.db.migrations import require_current

    engine = get_engine(database_name(db), read_only=True)
    require_current(engine)
    return engine


@contextmanager
def reading(db: str | None) -> Iterator[Connection]:
    """Yield a connection that sees one state of a database at our version, and close it afterwards.

    Raises:
        DatabaseError: there is no such database, or its version is another one; the message names the remedy.
    """
    from cowrieprocessor.db.engine import dispose, read_transaction

    engine = open_for_reading(db)
    try:
        with read_transaction(engine) as connection:
            yield connection
    finally:
        dispose(engine)


def say_waiting(seconds: float) -> None:
    """Tell the user that another process holds the database."""
    message(f"waiting for the database: another process has been writing for {seconds:.0f} s")


def message(text: str) -> None:
    """Print one line for people on standard error; control characters are escaped."""
    click.echo("\n".join(terminal_safe(line) for line in text.split("\n")), err=True)


def print_json(document: object) -> None:
    """Print one JSON document on standard output, in ASCII, so that a terminal finds nothing to obey."""
    from cowrieprocessor.reporting.render.json import to_json

    click.echo(to_json(document))


def print_text(text: str) -> None:
    """Print a rendered text on standard output; characters that its encoding lacks become escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False)


def screen() -> Screen:
    """Return what to draw for: the terminal, else 100 columns without colour."""
    from cowrieprocessor.reporting.render.terminal import Screen

    if not sys.stdout.isatty():
        return Screen()
    color = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Screen(shutil.get_terminal_size().columns, color)


def limit_option(default: int, what: str, maximum: int = 10_000) -> Callable[[F], F]:
    """Add `--limit`."""
    return click.option(
        "--limit",
        type=click.IntRange(1, maximum),
        default=default,
        show_default=True,
        metavar="N",
        help=f"How many {what} to show at most (up to {maximum}).",
    )


def after_option(function: F) -> F:
    """Add `--after`, which goes on behind a page."""
    return click.option("--after", metavar="CURSOR", help="Go on behind a page: what its `more` line says.")(function)


def say_more(cursor: str | None) -> None:
    """Tell the user how to get the next page, if there is one."""
    if cursor is not None:
        message(f"more: the same command with --after {shlex.quote(cursor)}")


def run(command: click.Command) -> int:
    """Run a command and return its exit code.

    0 is success, 2 a wrong call or setting, 130 interrupted; errors of ours carry their own code (see
    docs/reference.md). A pipe that the reader closed ends the command quietly.
    """
    try:
        return _run(command)
    finally:
        atexit.register(ignore_late_signals)


def ignore_late_signals() -> None:
    """Ignore signals while the interpreter shuts down: the command has ended, and its exit code is what counts."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _run(command: click.Command) -> int:
    """Run a command; turn every expected error into one message and its exit code."""
    try:
        code = command.main(prog_name="cowrieprocessor", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        message("interrupted: everything committed so far is kept, the same command goes on from there")
        return EXIT_INTERRUPTED
    except SystemExit:
        return 0  # click leaves like this when the reader of a pipe went away (`| head`)
    except CowrieProcessorError as error:
        message(f"error: {error}")
        return error.exit_code
    except OSError as error:
        message(f"error: {_trouble(error)}")
        return 1
    return code if isinstance(code, int) else 0


def _trouble(error: OSError) -> str:
    """Return what went wrong with a file, which one, and what to do; nothing more is printed if it was the output."""
    why = error.strerror or str(error)
    if _is_of_output(error):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer fails, too
        return f"the output cannot be written: {why}; make room, or write it elsewhere"
    is_named = isinstance(error.filename, str | bytes | os.PathLike)
    where = os.fsdecode(error.filename) if is_named else "a file whose name the system does not tell"
    return f"{where}: {why}; {_REMEDIES.get(error.errno or 0, 'look at the system log, then repeat the command')}"


def _is_of_output(error: OSError) -> bool:
    """Return whether standard output failed: then it fails again, for what could not be written is still in it."""
    if error.filename is not None:
        return False
    *_, last = traceback.walk_tb(error.__traceback__)
    if last[0].f_code is click.echo.__code__:
        return True
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False
