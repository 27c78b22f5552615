"""`cowrieprocessor files scan`: take up the captured files in Cowrie's downloads folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.common import (
    database_name,
    db_option,
    json_option,
    message,
    print_json,
    print_text,
    say_waiting,
)
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.loader.downloads import ScanResult

EXIT_UNREADABLE = 3
LINE_EVERY_S = 10.0

_REASONS = {
    "symlink": "symbolic links",
    "folder": "folders",
    "fifo": "FIFOs",
    "socket": "sockets",
    "device": "devices",
    "temporary": "temporary files of Cowrie",
    "other_name": "files under other names",
    "vanished": "files that went away meanwhile",
    "changing": "files that changed while they were read (left for the next scan)",
    "mismatch": "files whose content is not what their name says",
    "unreadable": "files that could not be read",
}


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@db_option
@click.option("--sensor", metavar="NAME", help="The sensor whose folder it is. Default: unknown.")
@click.option("--rehash", is_flag=True, help="Read every file again, also those that the database knows.")
@json_option
def scan(directory: str, db: str | None, sensor: str | None, rehash: bool, as_json: bool) -> None:
    """Take up the captured files in Cowrie's downloads folder DIR.

    Reads each file once and stores its SHA-256, SHA-1, MD5, size and type. Sizes come from here only:
    Cowrie's logs have none. Files that no log names are listed under the session artifact:NAME; so is what
    a redirect wrote and Cowrie forgot (redir_...), an hour after the last write. Nothing is executed, fetched,
    or followed through a symbolic link; a file whose content is not what its name says is reported and not
    stored.

    Again is a no-op. Ends with 3 if a file could not be read.
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.loader.downloads import scan_downloads

    engine = get_engine(database_name(db), on_wait=say_waiting)
    with _ProgressLine() as line:
        result = scan_downloads(engine, directory, sensor=sensor, rehash=rehash, on_progress=line.update)
    dispose(engine)
    _warn(result)
    if as_json:
        print_json(_document(result))
    else:
        _print_summary(result)
    if result.left_alone["unreadable"]:
        raise click.exceptions.Exit(EXIT_UNREADABLE)


class _ProgressLine:
    """Files, bytes, rate and time to go on standard error: a bar on a terminal, a line now and then elsewhere."""

    def __enter__(self) -> _ProgressLine:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("scan"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[read]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._progress.start()
        self._task = self._progress.add_task("scan", total=None, read="")
        self._started = self._said = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def update(self, result: ScanResult, entries_total: int) -> None:
        """Show how far the scan is."""
        now = time.monotonic()
        elapsed_s = now - self._started
        read = size_text(result.bytes_read)
        if elapsed_s > 0.5:
            read += f", {size_text(result.bytes_read / elapsed_s)}/s"
        if not self._progress.disable:
            self._progress.update(self._task, total=entries_total, completed=result.entries, read=read)
        elif now - self._said >= LINE_EVERY_S:
            self._said = now
            share = result.entries / max(entries_total, result.entries)
            eta_s = elapsed_s / share - elapsed_s
            message(f"scan: {result.entries:,} of {entries_total:,} entries, {read}, ETA {eta_s:.0f} s")


def size_text(size_bytes: float) -> str:
    """Return a number of bytes for people: `812 B`, `3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _warn(result: ScanResult) -> None:
    if not result.types_known:
        message("note: file types are not told: libmagic is missing (pip install 'cowrieprocessor[analysis]')")
    for names, reason in (
        (result.mismatched, "mismatch"),
        (result.unreadable, "unreadable"),
    ):
        count = result.left_alone[reason]
        if count:
            message(f"warning: {count} {_REASONS[reason]}:")
            for name in names:
                message(f"  {name}")
            if count > len(names):
                message(f"  and {count - len(names)} more")


def _print_summary(result: ScanResult) -> None:
    lines = [
        f"{terminal_safe(result.directory)}: {result.entries:,} entries",
        f"  {result.new:>8,} new",
        f"  {result.completed:>8,} completed",
        f"  {result.unchanged:>8,} known already",
        f"  {result.leftovers:>8,} of these redirects that Cowrie forgot to log",
        f"  {result.sizes_set:>8,} sizes filled in",
        f"  {result.artifacts:>8,} files that no log names",
        *(f"  {n:>8,} left alone: {_REASONS[reason]}" for reason, n in sorted(result.left_alone.items())),
        f"  {size_text(result.bytes_read):>8} read",
    ]
    print_text("\n".join(lines) + "\n")


def _document(result: ScanResult) -> dict[str, object]:
    document: dict[str, object] = {"directory": result.directory, "sensor": result.sensor}
    document |= {name: n for name, n in result.counters().items() if not name.startswith("left_alone_")}
    document["left_alone"] = dict(sorted(result.left_alone.items()))
    document["mismatched"] = result.mismatched
    document["unreadable"] = result.unreadable
    document["types_known"] = result.types_known
    return document
