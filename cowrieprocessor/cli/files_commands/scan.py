"""`cowrieprocessor files scan`: record the captured files in Cowrie's downloads folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.backfill_hint import print_hint, with_completeness
from cowrieprocessor.cli.shared.common import (
    database_name,
    db_option,
    json_option,
    notify,
    print_json,
    print_text,
    read_connection,
    report_waiting,
)
from cowrieprocessor.errors import ConfigurationError, InputError
from cowrieprocessor.sanitize import inert, terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.analysis.downloads_scan import ScanResult
    from cowrieprocessor.jobs.watch.scan_watch import Downloads

EXIT_UNREADABLE = 3
LINE_EVERY_S = 10.0

_REASONS = {
    "symlink": ("symbolic link", "symbolic links"),
    "folder": ("folder", "folders"),
    "fifo": ("FIFO", "FIFOs"),
    "socket": ("socket", "sockets"),
    "device": ("device", "devices"),
    "temporary": ("temporary file of Cowrie", "temporary files of Cowrie"),
    "other_name": ("file under another name", "files under other names"),
    "vanished": ("file that vanished during the scan", "files that vanished during the scan"),
    "changing": (
        "file that changed while it was read (left for the next scan)",
        "files that changed while they were read (left for the next scan)",
    ),
    "mismatch": ("file whose content is not what its name says", "files whose content is not what their name says"),
    "unreadable": ("file that could not be read", "files that could not be read"),
}


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(readable=False))
@db_option
@click.option(
    "--sensor",
    metavar="NAME",
    help="The sensor that DIR belongs to; without DIR, scan only this sensor's folder. Default: the sensor with this "
    "folder in sensors.toml, else unknown.",
)
@click.option("--rehash", is_flag=True, help="Read every file again, including known ones.")
@click.option("--watch", is_flag=True, help="Keep running: record new files within a few seconds.")
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="With --watch: poll at this interval instead of using the kernel's change notifications.",
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
    """Record the captured files in Cowrie's downloads folder DIR, or in the folders of all sensors in sensors.toml.

    Reads each file once and stores its SHA-256, SHA-1, MD5, size and type. This is the only source of sizes: Cowrie's
    logs have none. Files that no log names are listed under the session artifact:NAME, and so are files written by a
    redirect that Cowrie did not log (redir_...), an hour after the last write. Nothing is executed or fetched, and no
    symbolic link is followed; a file whose content does not match the hash in its name is reported and not stored.
    Scanning again is a no-op.

    With --watch it runs until SIGTERM or Ctrl-C, alongside a follower and enrichment; while the database is locked,
    full or unreachable, it waits and says so. With --json each scan that stored something is then one line of JSON.

    Ends with 0; with 2 for a wrong call or setting; 3 if a folder or a file could not be read (the others are
    stored); 4 if the database refused; 5 if it has to be migrated first; 6 if another process on this machine
    watches one of the folders.

    \b
    Example: cowrieprocessor files scan /srv/cowrie/var/lib/cowrie/downloads --sensor pot-1
             cowrieprocessor files scan --watch
    """
    from cowrieprocessor.reporting.queries.backfill import FILES_JOB, completeness

    if poll_s is not None and not watch:
        raise click.UsageError("--poll SECONDS goes with --watch")
    folders = _folders(directory, sensor)
    db_name = database_name(db)
    if watch:
        from cowrieprocessor.cli.files_commands.scan_watch import watch_folders

        watch_folders(
            db_name,
            folders,
            rehash=rehash,
            poll_s=poll_s,
            as_json=as_json,
            document=_document,
            warn_without_types=_warn_without_types,
        )
        return
    results, failed = _scan_once(db_name, folders, rehash=rehash, skip_unreadable=directory is None)
    with read_connection(db_name) as connection:
        state = completeness(connection, [FILES_JOB])
    if as_json:
        single = directory is not None
        document = _document(results[0]) if single else {"folders": [*map(_document, results)], "failed": failed}
        print_json(with_completeness(document, state))
    else:
        for result in results:
            _print_summary(result)
    print_hint(state)
    if failed or any(result.left_alone["unreadable"] for result in results):
        raise click.exceptions.Exit(EXIT_UNREADABLE)


def _folders(directory: str | None, sensor: str | None) -> list[Downloads]:
    """Return the folders to scan, each with its sensor if that is known.

    Args:
        directory: the folder to scan; None for those of the configured sensors.
        sensor: the sensor that `directory` belongs to, or the only sensor to scan; None for all.

    Raises:
        ConfigurationError: no folder is given or configured, or none for this sensor.
    """
    from cowrieprocessor.jobs.watch.scan_watch import Downloads
    from cowrieprocessor.settings import load_sensors

    configured = [Downloads(entry.downloads, entry.name) for entry in load_sensors() if entry.downloads is not None]
    if directory is None:
        return _folders_of_sensor(configured, sensor)
    path = Path(directory)
    return [Downloads(path, sensor or _sensor_of_folder(configured, path))]


def _sensor_of_folder(configured: Sequence[Downloads], path: Path) -> str | None:
    """Return the first sensor with this downloads folder, None if there is none; symbolic links are resolved."""
    real_path = os.path.realpath(path)
    return next((folder.sensor for folder in configured if os.path.realpath(folder.path) == real_path), None)


def _folders_of_sensor(configured: Sequence[Downloads], sensor: str | None) -> list[Downloads]:
    """Return the configured folders of a sensor, or of all sensors.

    Raises:
        ConfigurationError: there are none.
    """
    from cowrieprocessor.settings import no_sensors

    if not configured:
        raise no_sensors("downloads")
    chosen = [folder for folder in configured if sensor in (None, folder.sensor)]
    if not chosen:
        raise ConfigurationError(
            f"no [[sensor]] {sensor!r} with downloads in the settings file; there are "
            f"{', '.join(repr(folder.sensor) for folder in configured)}"
        )
    return chosen


def _scan_once(
    db_name: str, folders: Sequence[Downloads], *, rehash: bool, skip_unreadable: bool
) -> tuple[list[ScanResult], list[dict[str, object]]]:
    """Scan folders one after the other.

    Args:
        db_name: path or URL of the database.
        folders: the folders to scan.
        rehash: read every file again.
        skip_unreadable: report a folder that cannot be opened, and scan the others.

    Returns:
        The result of each scan, and a JSON document for each folder that could not be opened.

    Raises:
        InputError: a folder cannot be opened, and `skip_unreadable` is not set.
    """
    from cowrieprocessor.analysis.downloads_scan import scan_downloads
    from cowrieprocessor.db.engine import dispose, get_engine

    results: list[ScanResult] = []
    failed: list[dict[str, object]] = []
    engine = get_engine(db_name, on_wait=report_waiting)
    try:
        for folder in folders:
            try:
                with _ProgressLine() as line:
                    result = scan_downloads(
                        engine, folder.path, sensor=folder.sensor, rehash=rehash, on_progress=line.update
                    )
            except InputError as error:
                if not skip_unreadable:
                    raise
                notify(f"error: sensor {folder.sensor}: {error}")
                failed.append({"directory": inert(str(folder.path)), "sensor": folder.sensor, "error": str(error)})
                continue
            if not results:
                _warn_without_types(result)
            results.append(result)
            _warn_about_files(result)
    finally:
        dispose(engine)
    return results, failed


class _ProgressLine:
    """Shows entries, bytes, rate and remaining time on standard error: a bar on a terminal, otherwise lines."""

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
        self._started_at = self._line_at = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def update(self, result: ScanResult, entries_total: int) -> None:
        """Show the progress of the scan."""
        from cowrieprocessor.reporting.render.terminal import size_text

        now = time.monotonic()
        elapsed_s = now - self._started_at
        read = size_text(result.bytes_read)
        if elapsed_s > 0.5:
            read += f", {size_text(round(result.bytes_read / elapsed_s))}/s"
        if not self._progress.disable:
            self._progress.update(self._task, total=entries_total, completed=result.entries, read=read)
        elif now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            share = result.entries / max(entries_total, result.entries)
            eta_s = elapsed_s / share - elapsed_s
            notify(
                f"scan: {result.entries:,} of {plural(entries_total, 'entry', 'entries')}, {read}, ETA {eta_s:.0f} s"
            )


def _warn_without_types(result: ScanResult) -> None:
    if not result.types_known:
        notify("note: file types are unknown: libmagic is missing (pip install 'cowrieprocessor[analysis]')")


def _warn_about_files(result: ScanResult) -> None:
    for names, reason in (
        (result.mismatched, "mismatch"),
        (result.unreadable, "unreadable"),
    ):
        count = result.left_alone[reason]
        if count:
            notify(f"warning: {plural(count, *_REASONS[reason])}:")
            for name in names:
                notify(f"  {name}")
            if count > len(names):
                notify(f"  and {count - len(names):,} more")


def _print_summary(result: ScanResult) -> None:
    from cowrieprocessor.reporting.render.terminal import size_text

    lines = [
        f"{terminal_safe(result.directory)}: {plural(result.entries, 'entry', 'entries')}",
        f"  {result.new:>8,} new",
        f"  {result.completed:>8,} completed",
        f"  {result.unchanged:>8,} known already",
        f"  {result.leftovers:>8,} of these redirects that Cowrie forgot to log",
        _counted(result.sizes_set, "size filled in", "sizes filled in"),
        _counted(result.artifacts, "file that no log names", "files that no log names"),
        *(_counted(count, *_left_alone(reason)) for reason, count in sorted(result.left_alone.items())),
        f"  {size_text(result.bytes_read):>8} read",
    ]
    print_text("\n".join(lines) + "\n")


def _counted(count: int, singular: str, plural_form: str) -> str:
    """Return a line of the summary, its number aligned with those of the others."""
    digits, _, words = plural(count, singular, plural_form).partition(" ")
    return f"  {digits:>8} {words}"


def _left_alone(reason: str) -> tuple[str, str]:
    one, several = _REASONS[reason]
    return f"left alone: {one}", f"left alone: {several}"


def _document(result: ScanResult) -> dict[str, object]:
    document: dict[str, object] = {"directory": result.directory, "sensor": result.sensor}
    document |= {name: count for name, count in result.counters().items() if not name.startswith("left_alone_")}
    document["left_alone"] = dict(sorted(result.left_alone.items()))
    document["mismatched"] = result.mismatched
    document["unreadable"] = result.unreadable
    document["types_known"] = result.types_known
    return document
