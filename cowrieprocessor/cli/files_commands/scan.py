"""`cowrieprocessor files scan`: take up the captured files in Cowrie's downloads folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import (
    database_name,
    db_option,
    json_option,
    message,
    print_json,
    print_text,
    say_waiting,
)
from cowrieprocessor.errors import ConfigurationError, InputError
from cowrieprocessor.sanitize import inert, terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.analysis.downloads_scan import ScanResult
    from cowrieprocessor.jobs.watch.scan_watch import Downloads

EXIT_UNREADABLE = 3
LINE_EVERY_S = 10.0
EXAMPLE_FOLDER = "/srv/cowrie/var/lib/cowrie/downloads"

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
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path())
@db_option
@click.option(
    "--sensor",
    metavar="NAME",
    help="The sensor whose folder DIR is; without DIR, scan only this sensor's. Default: as sensors.toml says, else "
    "unknown.",
)
@click.option("--rehash", is_flag=True, help="Read every file again, also those that the database knows.")
@click.option("--watch", is_flag=True, help="Go on: take up what comes, a few seconds after it came.")
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="With --watch: look so often, instead of being told of changes by the kernel.",
)
@json_option
def scan(
    directory: str | None,
    db: str | None,
    sensor: str | None,
    rehash: bool,
    watch: bool,
    poll_s: float | None,
    as_json: bool,
) -> None:
    """Take up the captured files in Cowrie's downloads folder DIR, or in those of all sensors of sensors.toml.

    Reads each file once and stores its SHA-256, SHA-1, MD5, size and type. Sizes come from here only:
    Cowrie's logs have none. Files that no log names are listed under the session artifact:NAME; so is what
    a redirect wrote and Cowrie forgot (redir_...), an hour after the last write. Nothing is executed, fetched,
    or followed through a symbolic link; a file whose content is not what its name says is reported and not
    stored. Again is a no-op.

    With --watch it goes on until SIGTERM or Ctrl-C, beside a follower and enrichment; while the database is
    locked or full, or its server away, it waits and says so. With --json each scan that stored something is
    then one line of JSON.

    Ends with 0; with 2 for a wrong call or setting; 3 if a folder or a file could not be read (the others are
    stored); 4 if the database refused; 5 if it has to be migrated first; 6 if another process of this machine
    watches one of the folders.

    \b
    Example: cowrieprocessor files scan /srv/cowrie/var/lib/cowrie/downloads --sensor pot-1
             cowrieprocessor files scan --watch
    """
    if poll_s is not None and not watch:
        raise click.UsageError("--poll SECONDS goes with --watch")
    folders = _folders(directory, sensor)
    name = database_name(db)
    if watch:
        from cowrieprocessor.cli.files_commands.scan_watch import watch_folders

        watch_folders(
            name, folders, rehash=rehash, poll_s=poll_s, as_json=as_json, document=_document, note_types=_note_types
        )
        return
    results, failed = _scan_once(name, folders, rehash=rehash, goes_on=directory is None)
    if not as_json:
        for result in results:
            _print_summary(result)
    elif directory is not None:
        print_json(_document(results[0]))
    else:
        print_json({"folders": [_document(result) for result in results], "failed": failed})
    if failed or any(result.left_alone["unreadable"] for result in results):
        raise click.exceptions.Exit(EXIT_UNREADABLE)


def _folders(directory: str | None, sensor: str | None) -> list[Downloads]:
    """Return the folders to scan, each with its sensor, if that is known.

    Raises:
        ConfigurationError: none is named, neither here nor in the file of settings, or not for this sensor.
    """
    from cowrieprocessor.jobs.watch.scan_watch import Downloads
    from cowrieprocessor.settings import load_sensors, no_sensors

    configured = [Downloads(one.downloads, one.name) for one in load_sensors() if one.downloads is not None]
    if directory is not None:
        path = Path(directory)
        same = [one.sensor for one in configured if os.path.realpath(one.path) == os.path.realpath(path)]
        return [Downloads(path, sensor or (same[0] if same else None))]
    chosen = [one for one in configured if sensor in (None, one.sensor)]
    if configured and not chosen:
        raise ConfigurationError(
            f"no [[sensor]] {sensor!r} with downloads in the file of settings; there are "
            f"{', '.join(repr(one.sensor) for one in configured)}"
        )
    if not chosen:
        raise no_sensors("downloads", EXAMPLE_FOLDER)
    return chosen


def _scan_once(
    name: str, folders: Sequence[Downloads], *, rehash: bool, goes_on: bool
) -> tuple[list[ScanResult], list[dict[str, object]]]:
    """Scan folders one after the other; return what came of each, and those that could not be opened.

    Args:
        name: the database.
        folders: where.
        rehash: read every file again.
        goes_on: a folder that cannot be opened does not keep the others from being scanned.

    Raises:
        InputError: a folder cannot be opened, and `goes_on` is not set.
    """
    from cowrieprocessor.analysis.downloads_scan import scan_downloads
    from cowrieprocessor.db.engine import dispose, get_engine

    results: list[ScanResult] = []
    failed: list[dict[str, object]] = []
    engine = get_engine(name, on_wait=say_waiting)
    try:
        for folder in folders:
            try:
                with _ProgressLine() as line:
                    result = scan_downloads(
                        engine, folder.path, sensor=folder.sensor, rehash=rehash, on_progress=line.update
                    )
            except InputError as error:
                if not goes_on:
                    raise
                message(f"error: sensor {folder.sensor}: {error}")
                failed.append({"directory": inert(str(folder.path)), "sensor": folder.sensor, "error": str(error)})
                continue
            if not results:
                _note_types(result)
            results.append(result)
            _warn(result)
    finally:
        dispose(engine)
    return results, failed


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


def _note_types(result: ScanResult) -> None:
    if not result.types_known:
        message("note: file types are not told: libmagic is missing (pip install 'cowrieprocessor[analysis]')")


def _warn(result: ScanResult) -> None:
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
