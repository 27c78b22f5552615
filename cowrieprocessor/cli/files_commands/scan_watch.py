"""`cowrieprocessor files scan --watch`: scan continuously and print what each scan stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import notify, print_text
from cowrieprocessor.cli.shared.stopping import stop_aborts_wait, stop_on_signals
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.analysis.downloads_scan import ScanResult
    from cowrieprocessor.jobs.watch.scan_watch import Downloads, WatchResult

_COUNTER_LABELS = (
    ("new", ("new", "new")),
    ("completed", ("completed", "completed")),
    ("leftovers", ("of a redirect that Cowrie forgot to log", "of redirects that Cowrie forgot to log")),
    ("sizes_set", ("size filled in", "sizes filled in")),
    ("artifacts", ("that no log names", "that no log names")),
)


def watch_folders(
    db: str,
    folders: Sequence[Downloads],
    *,
    rehash: bool,
    poll_s: float | None,
    as_json: bool,
    document: Callable[[ScanResult], Mapping[str, object]],
    warn_without_types: Callable[[ScanResult], None],
) -> None:
    """Watch folders until a signal, and print the result of each scan that stored something.

    Args:
        db: path or URL of the database.
        folders: the folders to watch.
        rehash: read every file again in the first scan.
        poll_s: poll at this interval in seconds; None to use the kernel's change notifications.
        as_json: print each result as a JSON line on standard output.
        document: converts a result to a JSON document.
        warn_without_types: called with the first result; warns if file types cannot be determined.
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.watch.scan_watch import LOCK_TIMEOUT_S, has_news, watch_downloads

    stop = threading.Event()
    stop_on_signals(stop, "stopping: what was scanned is committed")
    is_first = True

    def on_scan(result: ScanResult) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            warn_without_types(result)
        if not has_news(result):
            return
        if as_json:
            _print_json_line(document(result))
        else:
            notify(f"{result.sensor}: {result.directory}: {_counts(result.counters())}")

    engine = get_engine(db, lock_timeout_s=LOCK_TIMEOUT_S, on_wait=stop_aborts_wait(stop))
    try:
        result = watch_downloads(
            engine, folders, rehash=rehash, poll_s=poll_s, stop=stop, notify=notify, on_scan=on_scan
        )
    finally:
        dispose(engine)
    if not as_json:
        print_text(_summary(result))


def _summary(result: WatchResult) -> str:
    lines = [f"watched for {result.duration_s:,.0f} s; {plural(result.scans, 'scan')} stored something"]
    lines += [f"  {terminal_safe(folder)}: {_counts(counters)}" for folder, counters in sorted(result.counters.items())]
    return "\n".join(lines) + "\n"


def _counts(counters: Mapping[str, int]) -> str:
    parts = [plural(counters[name], *label) for name, label in _COUNTER_LABELS if counters.get(name)]
    return ", ".join(parts) or "nothing new"


def _print_json_line(document: Mapping[str, object]) -> None:
    import json

    from cowrieprocessor.reporting.render.json import plain

    print_text(json.dumps(plain(document), ensure_ascii=True, allow_nan=False) + "\n")
