"""What text answers are made of: cells in which nothing of an attacker's text is alive, and tables of them.

Nothing reaches rich as a `str`: markup is off, links are never made, and every text went through `shown`.
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

from cowrieprocessor.sanitize import defang_all

DEFAULT_WIDTH = 100
MIN_WIDTH = 40
MIN_REST_CHARS = 10
SHORT_HASH_CHARS = 12
FULL_HASH_WIDTH = 150
_CUT_MARK = "…"

_MEDIA_TYPES = {"application/octet-stream": "data", "text/plain": "text", "inode/x-empty": "empty"}
VERDICT_STYLES = {"malicious": "bold red", "suspicious": "yellow", "clean": "green", "known-good": "green"}


@dataclass(frozen=True, slots=True)
class Screen:
    """What a text is drawn for: `width` in columns, at least 40; `color` only where a terminal shows it."""

    width: int = DEFAULT_WIDTH
    color: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and whether it holds numbers, may take more lines, or takes the room left.

    A screen that is less than `needs` columns wide goes without it.
    """

    heading: str
    number: bool = False
    wraps: bool = False
    takes_rest: bool = False
    needs: int = 0


def draw(screen: Screen, *parts: RenderableType) -> str:
    """Return the parts as text for a screen, one below the other, without trailing blanks."""
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
    """Return an attacker's text for people: on one line, inert, links defanged, cut where it is too long."""
    if not text:
        return ""
    safe = defang_all(text[: max_chars + 1])
    return safe if len(safe) <= max_chars else safe[: max_chars - 1] + _CUT_MARK


def cell(text: str | None, max_chars: int = 500, style: str = "") -> Text:
    """Return an attacker's text as a cell."""
    return Text(shown(text, max_chars), style=style)


def heading(text: str) -> Text:
    """Return a heading with an empty line above it."""
    return Text(f"\n{shown(text)}", style="bold")


def sentence(text: str, style: str = "") -> Text:
    """Return a line of our own words, in which attackers' texts were made inert before."""
    return Text(text, style=style)


def number(count: int | None) -> Text:
    """Return a count with its thousands apart."""
    return Text("" if count is None else f"{count:,}")


def moment(at: dt.datetime | None) -> Text:
    """Return a moment in UTC to the second."""
    return Text(moment_text(at))


def minute(at: dt.datetime | None) -> Text:
    """Return a moment in UTC to the minute, for lists."""
    return Text(moment_text(at)[:-3])


def moment_text(at: dt.datetime | None) -> str:
    """Return a moment in UTC to the second, empty where there is none."""
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}" if at else ""


def size(size_bytes: int | None) -> Text:
    """Return a size as people write it: 950 B, 1.2 kB, 3.4 MB."""
    return Text(size_text(size_bytes))


def size_text(size_bytes: int | None) -> str:
    """Return a size as people write it; empty where it is not known."""
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


def verdict(name: str, positives: int | None, total: int | None, enrichment_status: str) -> Text:
    """Return a verdict with the engines behind it; `not checked` where nobody was asked yet."""
    if name == "unknown" and enrichment_status == "pending":
        return Text("not checked", style="dim")
    engines = f" {positives}/{total}" if positives is not None and total else ""
    return Text(f"{shown(name)}{engines}", style=VERDICT_STYLES.get(name, ""))


def file_hash(sha256: str, screen: Screen) -> Text:
    """Return a hash: whole where there is room, else the beginning, which every command takes as well."""
    return Text(shown(sha256) if screen.width >= FULL_HASH_WIDTH else shown(sha256)[:SHORT_HASH_CHARS])


def media_type(mime_type: str | None) -> Text:
    """Return a media type without the parts that say nothing: `text/x-shellscript` becomes `shellscript`."""
    if not mime_type or mime_type in _MEDIA_TYPES:
        return Text(_MEDIA_TYPES.get(mime_type or "", ""))
    for prefix in ("application/", "text/"):
        mime_type = mime_type.removeprefix(prefix)
    return cell(mime_type.removeprefix("x-"), 14)


def table(screen: Screen, columns: Sequence[Column], rows: Iterable[Sequence[Text]]) -> Table:
    """Return a table with a heading line and no frame, with the columns that the screen has room for."""
    fits = [column.needs <= screen.width for column in columns]
    columns = list(itertools.compress(columns, fits))
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column in columns:
        drawn.add_column(
            Text(column.heading),
            justify="right" if column.number else "left",
            overflow="fold" if column.wraps else "ellipsis",
            no_wrap=not column.wraps,
            ratio=1 if column.takes_rest else None,
            min_width=MIN_REST_CHARS if column.takes_rest else None,
        )
    drawn.expand = any(column.takes_rest for column in columns)
    for row in rows:
        drawn.add_row(*itertools.compress(row, fits))
    return drawn


def facts(pairs: Iterable[tuple[str, Text]]) -> Table:
    """Return names and values below each other; a value that is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value.plain:
            grid.add_row(Text(name), value)
    return grid


def plural(count: int, singular: str, many: str | None = None) -> str:
    """Return a count with its noun: `1 session`, `2,000 sessions`."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"
