"""`cowrieprocessor files scan --watch`: what is shown of a scan that goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import message, print_text
from cowrieprocessor.cli.shared.stopping import stop_on_signals, stop_waiting
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.analysis.downloads_scan import ScanResult
    from cowrieprocessor.jobs.watch.scan_watch import Downloads, WatchResult

_COUNTED = (
    ("new", "new"),
    ("completed", "completed"),
    ("leftovers", "of redirects that Cowrie forgot to log"),
    ("sizes_set", "sizes filled in"),
    ("artifacts", "that no log names"),
)


def watch_folders(
    db: str,
    folders: Sequence[Downloads],
    *,
    rehash: bool,
    poll_s: float | None,
    as_json: bool,
    document: Callable[[ScanResult], Mapping[str, object]],
    note_types: Callable[[ScanResult], None],
) -> None:
    """Watch folders until a signal says stop, and show what comes.

    Args:
        db: the database.
        folders: what to watch.
        rehash: read every file again in the first scan.
        poll_s: look every so many seconds instead of being told.
        as_json: one JSON line on standard output for each scan that stored something.
        document: a scan as JSON.
        note_types: says, if it is so, that types of files cannot be told; called for the first scan.
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.watch.scan_watch import LOCK_TIMEOUT_S, has_news, watch_downloads

    stop = threading.Event()
    stop_on_signals(stop, "stopping: what was scanned is committed")
    noted: list[bool] = []

    def on_scan(result: ScanResult) -> None:
        if not noted:
            noted.append(True)
            note_types(result)
        if not has_news(result):
            return
        if as_json:
            _print_line(document(result))
        else:
            message(f"{result.sensor}: {result.directory}: {_numbers(result.counters())}")

    engine = get_engine(db, lock_timeout_s=LOCK_TIMEOUT_S, on_wait=stop_waiting(stop))
    try:
        result = watch_downloads(
            engine, folders, rehash=rehash, poll_s=poll_s, stop=stop, notify=message, on_scan=on_scan
        )
    finally:
        dispose(engine)
    if not as_json:
        print_text(_summary(result))


def _summary(result: WatchResult) -> str:
    lines = [f"watched for {result.duration_s:,.0f} s; {result.scans:,} scans stored something"]
    lines += [
        f"  {terminal_safe(folder)}: {_numbers(counters)}" for folder, counters in sorted(result.counters.items())
    ]
    return "\n".join(lines) + "\n"


def _numbers(counters: Mapping[str, int]) -> str:
    told = [f"{counters[name]:,} {what}" for name, what in _COUNTED if counters.get(name)]
    return ", ".join(told) or "nothing new"


def _print_line(document: Mapping[str, object]) -> None:
    import json

    from cowrieprocessor.reporting.render.json import plain

    print_text(json.dumps(plain(document), ensure_ascii=True, allow_nan=False) + "\n")
