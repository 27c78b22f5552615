"""Building blocks of text output: cells that are safe to print whatever an attacker wrote, and tables of them.

Nothing reaches rich as a `str`: markup is off, links are never made, and every stored text passes through
`shown`.
"""

from __future__ import annotations

import datetime as dt
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
from cowrieprocessor.db.enrichment.shown_verdict import SHOWN_VERDICTS
from cowrieprocessor.events import utc_text
from cowrieprocessor.sanitize import defang_all

DEFAULT_WIDTH = 100
MIN_WIDTH = 40
MIN_REST_CHARS = 10
SHORT_HASH_CHARS = 12
FULL_HASH_WIDTH = 150
_CUT_MARK = "…"

_MEDIA_TYPES = {"application/octet-stream": "data", "text/plain": "text", "inode/x-empty": "empty"}
NO_ANSWER = frozenset(SHOWN_VERDICTS) - frozenset(VERDICTS)
"""The shown verdicts of files that no source has answered about."""

VERDICT_STYLES = {"malicious": "bold red", "suspicious": "yellow", "clean": "green", "known-good": "green"}


@dataclass(frozen=True, slots=True)
class Screen:
    """The output device: its width in columns (less than 40 counts as 40), and whether it shows colour."""

    width: int = DEFAULT_WIDTH
    color: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        number: right-aligned.
        wraps: long cells continue on the next line instead of being cut.
        takes_rest: takes the width that the other columns leave.
        needs: minimum width of the screen; narrower screens omit the column.
        at_most: the largest width of the column; None for as wide as its cells.
    """

    heading: str
    number: bool = False
    wraps: bool = False
    takes_rest: bool = False
    needs: int = 0
    at_most: int | None = None


def draw(screen: Screen, *parts: RenderableType) -> str:
    """Return the parts, one below the other, as text for a screen; without colour also without trailing blanks."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(screen.width, MIN_WIDTH),
        force_terminal=screen.color,
        color_system="standard" if screen.color else None,
        no_color=not screen.color,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
    console.print(Group(*parts))
    text = out.getvalue()
    return text if screen.color else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def shown(text: str | None, max_chars: int = 500) -> str:
    """Return a stored text that is safe to print: on one line, inert, links defanged, cut to `max_chars`."""
    if not text:
        return ""
    safe = defang_all(text[: max_chars + 1])
    return safe if len(safe) <= max_chars else safe[: max_chars - 1] + _CUT_MARK


def cell(text: str | None, max_chars: int = 500, style: str = "") -> Text:
    """Return a stored text as a cell that is safe to print."""
    return Text(shown(text, max_chars), style=style)


def heading(text: str) -> Text:
    """Return a heading with an empty line above it."""
    return Text(f"\n{shown(text)}", style="bold")


def sentence(text: str, style: str = "") -> Text:
    """Return a line of trusted text: stored texts in it must have passed through `shown`."""
    return Text(text, style=style)


def number(count: int | None) -> Text:
    """Return a count with thousands separators; empty for None."""
    return Text("" if count is None else f"{count:,}")


def moment(at: dt.datetime | None) -> Text:
    """Return a time in UTC to the second; empty for None."""
    return Text(moment_text(at))


def minute(at: dt.datetime | None) -> Text:
    """Return a time in UTC to the minute, for lists; empty for None."""
    return Text(moment_text(at)[:-3])


def moment_text(at: dt.datetime | None) -> str:
    """Return a time in UTC to the second; empty for None."""
    return utc_text(at).partition(".")[0] if at else ""


def size(size_bytes: int | None) -> Text:
    """Return a size in decimal units: 950 B, 1.2 kB, 3.4 MB; empty for None."""
    return Text(size_text(size_bytes))


def size_text(size_bytes: int | None) -> str:
    """Return a size in decimal units: 950 B, 1.2 kB, 3.4 MB; empty for None."""
    if size_bytes is None:
        return ""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    amount = size_bytes / 1000
    for unit in ("kB", "MB", "GB"):
        if amount < 999.95 or unit == "GB":
            return f"{amount:,.1f} {unit}"
        amount /= 1000
    return ""


def verdict(name: str, positives: int | None, total: int | None) -> Text:
    """Return a shown verdict with its engine counts; what no source has answered is dim."""
    if name in NO_ANSWER:
        return Text(name, style="dim")
    engines = f" {positives}/{total}" if positives is not None and total else ""
    return Text(f"{shown(name)}{engines}", style=VERDICT_STYLES.get(name, ""))


def file_hash(sha256: str, screen: Screen) -> Text:
    """Return a hash: whole on a wide screen, else its prefix, which every command accepts."""
    return Text(shown(sha256) if screen.width >= FULL_HASH_WIDTH else shown(sha256)[:SHORT_HASH_CHARS])


def media_type(mime_type: str | None) -> Text:
    """Return a media type without uninformative parts: `text/x-shellscript` becomes `shellscript`."""
    if not mime_type or mime_type in _MEDIA_TYPES:
        return Text(_MEDIA_TYPES.get(mime_type or "", ""))
    for prefix in ("application/", "text/"):
        mime_type = mime_type.removeprefix(prefix)
    return cell(mime_type.removeprefix("x-"), 14)


def table(screen: Screen, columns: Sequence[Column], rows: Iterable[Sequence[Text]]) -> Table:
    """Return a table with a heading line and no frame, with the columns that fit on the screen."""
    fits = [column.needs <= screen.width for column in columns]
    columns = list(itertools.compress(columns, fits))
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column in columns:
        result.add_column(
            Text(column.heading),
            justify="right" if column.number else "left",
            overflow="fold" if column.wraps else "ellipsis",
            no_wrap=not column.wraps,
            ratio=1 if column.takes_rest else None,
            min_width=MIN_REST_CHARS if column.takes_rest else None,
            max_width=column.at_most,
        )
    result.expand = any(column.takes_rest for column in columns)
    for row in rows:
        result.add_row(*itertools.compress(row, fits))
    return result


def facts(pairs: Iterable[tuple[str, Text]]) -> Table:
    """Return a two-column list of names and values, without empty values."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value.plain:
            grid.add_row(Text(name), value)
    return grid
