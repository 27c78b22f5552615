"""What every command shares: common options, output, the confirmation prompt, and exit codes for errors."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cowrieprocessor.cli.shared.streams import discard_output, prepare_streams, reach
from cowrieprocessor.errors import CowrieProcessorError
from cowrieprocessor.filesystems import os_error_text
from cowrieprocessor.reporting.render.limits import MAX_ROWS
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    import datetime as dt

    from sqlalchemy import Connection, Engine

    from cowrieprocessor.reporting.render.terminal import Screen

F = TypeVar("F", bound=Callable[..., Any])

EXIT_DECLINED = 1
EXIT_INTERRUPTED = 130

_REMEDIES = {
    errno.EACCES: "give the user who runs this the right to it",
    errno.EPERM: "give the user who runs this the right to it",
    errno.ENOENT: "correct the path",
    errno.ENOSPC: "make room, then repeat the command",
    errno.EDQUOT: "make room within the quota, then repeat the command",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n, or LimitNOFILE of the service)",
}


def db_option(function: F) -> F:
    """Add an optional `--db`, for commands that read or load."""
    return click.option(
        "--db",
        "db",
        metavar="PATH|URL",
        help="Database: a path or an SQLAlchemy URL. Default: COWRIEPROC_DB_URL, sensors.toml, "
        "then cowrieprocessor.sqlite here.",
    )(function)


def named_db_option(function: F) -> F:
    """Add a required `--db`: maintenance commands never guess the database."""
    return click.option(
        "--db",
        "db",
        metavar="PATH|URL",
        required=True,
        help="Database to work on: a path or an SQLAlchemy URL. Required.",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`: one JSON document on standard output instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts instead of text.")(function)


def database_name(db: str | None) -> str:
    """Return the database to use: from `--db`, the environment, sensors.toml, or the file in the current folder."""
    from cowrieprocessor.settings import DEFAULT_DATABASE, load_settings

    return db or load_settings().db_url or DEFAULT_DATABASE


def db_argument(db: str | None) -> str:
    """Return ` --db NAME` for a command that is offered to be pasted; empty where the settings name the database."""
    from cowrieprocessor.db.engine import address
    from cowrieprocessor.sanitize import shell_word

    return "" if db is None else f" --db {shell_word(address(db))}"


def session_gap() -> dt.timedelta:
    """Return the pause after which the id of a session counts as used again, as it is configured."""
    import datetime as dt

    from cowrieprocessor.settings import load_settings

    return dt.timedelta(seconds=load_settings().session_gap_s)


def open_read_only(db: str | None) -> Engine:
    """Return a read-only engine on a database at the current schema version.

    Raises:
        DatabaseError: the database does not exist or has another schema version; the message names the remedy.
    """
    from cowrieprocessor.db.engine import get_engine
    from cowrieprocessor.db.migrations import require_current

    engine = get_engine(database_name(db), read_only=True)
    require_current(engine)
    return engine


def open_for_writing(db: str | None) -> Engine:
    """Return an engine on an existing database at the current schema version.

    Raises:
        DatabaseError: the database does not exist or has another schema version; the message names the remedy.
    """
    from cowrieprocessor.db.engine import dispose, get_engine

    dispose(open_read_only(db))
    return get_engine(database_name(db), on_wait=report_waiting)


@contextmanager
def read_connection(db: str | None) -> Iterator[Connection]:
    """Yield a connection in one read transaction on a database at the current schema version.

    Raises:
        DatabaseError: the database does not exist or has another schema version; the message names the remedy.
    """
    from cowrieprocessor.db.engine import dispose, read_transaction

    engine = open_read_only(db)
    try:
        with read_transaction(engine) as connection:
            yield connection
    finally:
        dispose(engine)


def report_waiting(seconds: float) -> None:
    """Tell the user that another process has the database locked."""
    notify(f"waiting for the database: another process has been writing for {seconds:.0f} s")


def notify(text: str) -> None:
    """Print a message to the user on standard error, with control characters escaped."""
    click.echo(reach(sys.stderr, "\n".join(terminal_safe(line) for line in text.split("\n"))), err=True)


def print_json(document: object) -> None:
    """Print one JSON document on standard output, in ASCII: it holds no terminal control sequences."""
    from cowrieprocessor.reporting.render.json import to_json

    _print(f"{to_json(document)}\n")


def print_text(text: str) -> None:
    """Print rendered text on standard output; characters outside its encoding become escapes."""
    _print(reach(sys.stdout, text))


def _print(text: str) -> None:
    """Print a text; if its reader has gone (`| head`), the command goes on to its end, because of its exit code."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        discard_output()


def screen() -> Screen:
    """Return the width and colour support of standard output; 100 columns without colour if it is no terminal."""
    from cowrieprocessor.reporting.render.terminal import Screen

    if not sys.stdout.isatty():
        return Screen()
    color = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Screen(shutil.get_terminal_size().columns, color)


def limit_option(default: int, what: str, maximum: int = MAX_ROWS) -> Callable[[F], F]:
    """Add `--limit`.

    Args:
        default: rows shown without the option.
        what: what is limited, in the plural.
        maximum: the largest limit accepted.
    """
    return click.option(
        "--limit",
        type=click.IntRange(1, maximum),
        default=default,
        show_default=True,
        metavar="N",
        help=f"How many {what} to show at most (up to {maximum}).",
    )


def after_option(function: F) -> F:
    """Add `--after`, which continues a paged list."""
    return click.option("--after", metavar="CURSOR", help="Continue after a page: the cursor in its `more` line.")(
        function
    )


def report_next_page(cursor: str | None) -> None:
    """Tell the user how to get the next page; do nothing without a cursor."""
    if cursor is not None:
        notify(f"more: the same command with --after {shlex.quote(cursor)}")


def confirm_or_exit(*, yes: bool, destroys: str | None = None) -> None:
    """Ask on a terminal whether to go on; without a terminal, go on, unless something is destroyed.

    Args:
        yes: do not ask.
        destroys: what cannot be had again from the database alone, as a sentence without its end; None if nothing.

    Raises:
        click.UsageError: there is no terminal to ask on, and something is destroyed.
        click.exceptions.Exit: the user declined; the exit code is `EXIT_DECLINED`.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        if destroys is not None:
            raise click.UsageError(f"{destroys}, and there is no terminal to ask on; give --yes if that is meant")
        return
    if click.confirm("Go on?", err=True):
        return
    notify("nothing was changed")
    raise click.exceptions.Exit(EXIT_DECLINED)


def run(command: click.Command) -> int:
    """Run a command and return its exit code.

    0 is success, 2 a wrong call or setting, 130 an interrupt; a `CowrieProcessorError` carries its own code (see
    docs/reference.md). A closed output pipe ends the command quietly.
    """
    prepare_streams()
    _print_notes()
    atexit.register(ignore_late_signals)
    try:
        return _run(command)
    except KeyboardInterrupt:  # the signal came between the last step of the command and its end
        return EXIT_INTERRUPTED


def ignore_late_signals() -> None:
    """Ignore signals during interpreter shutdown: the command has ended, and its exit code must not change."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Notes(logging.Handler):
    """Prints what the library reports without ending: a recovery of the database."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record as a note on standard error."""
        notify(f"note: {record.getMessage()}")


def _print_notes() -> None:
    """Print the warnings of the library as notes."""
    logger = logging.getLogger("cowrieprocessor")
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes(logging.WARNING))


def _run(command: click.Command) -> int:
    """Run a command; turn every expected error into one message and an exit code."""
    try:
        code = command.main(prog_name="cowrieprocessor", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        _report_wrong_call(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        notify("interrupted: everything committed so far is kept, the same command goes on from there")
        return EXIT_INTERRUPTED
    except SystemExit:
        return 0  # click exits like this when the reader closed the pipe (`| head`)
    except CowrieProcessorError as error:
        notify(f"error: {error}")
        return error.exit_code
    except OSError as error:
        notify(f"error: {_describe_os_error(error)}")
        return 1
    return code if isinstance(code, int) else 0


def _report_wrong_call(error: click.ClickException) -> None:
    """Print what is wrong with a call, below the usage of the command; a group called alone prints its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        notify(error.ctx.get_usage())
        notify(f"`{error.ctx.command_path} --help` explains it")
    notify(f"error: {error.format_message()}")


def _describe_os_error(error: OSError) -> str:
    """Return path, cause and remedy of an OS error; if standard output failed, redirect it to /dev/null."""
    why = os_error_text(error)
    if _is_output_error(error):
        discard_output()  # flushing the rest of the buffer would fail, too
        if error.errno == errno.EBADF:
            return "the output cannot be written: standard output is closed; open it, or send it to /dev/null"
        return f"the output cannot be written: {why}; make room, or write it elsewhere"
    if _current_folder_is_gone():
        return "the current folder has been deleted; change to another one, then repeat the command"
    has_path = isinstance(error.filename, str | bytes | os.PathLike)
    path = os.fsdecode(error.filename) if has_path else "a file whose name the system does not report"
    return f"{path}: {why}; {_REMEDIES.get(error.errno or 0, 'check the system log, then repeat the command')}"


def _current_folder_is_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _is_output_error(error: OSError) -> bool:
    """Return whether standard output failed; its unwritten buffer then fails again when flushed."""
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
