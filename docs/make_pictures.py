"""Draw docs/images/report.svg: what `cowrieprocessor report daily` says about the samples, as a terminal shows it.

`make docs` calls it. The picture refers to no font or file elsewhere, so it looks the same wherever it is shown.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from cowrieprocessor.analysis.downloads_scan import scan_downloads
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.periods import PeriodKind
from cowrieprocessor.reporting.render.terminal import Screen
from cowrieprocessor.reporting.render.text import report_text
from cowrieprocessor.reporting.reports import make_report, newest_period

DOCS = Path(__file__).resolve().parent
SAMPLES = DOCS.parent / "samples"
PICTURE = DOCS / "images" / "report.svg"
SENSOR = "honeypot-1"
WIDTH = 100
MARGIN = 2
TOP_FILES = 8
TOP_VALUES = 4

_FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_FONTS = '"DejaVu Sans Mono", Menlo, Consolas, monospace'
_THEME = TerminalTheme(
    (24, 26, 31),
    (225, 228, 232),
    [
        (24, 26, 31),
        (240, 92, 92),
        (126, 200, 120),
        (229, 192, 98),
        (97, 160, 240),
        (200, 130, 230),
        (90, 190, 200),
        (225, 228, 232),
    ],
)


def report() -> str:
    """Return the daily report of the samples with colours, its lists shortened so that it fits a picture."""
    with tempfile.TemporaryDirectory() as folder:
        engine = get_engine(Path(folder) / "samples.sqlite")
        try:
            BulkLoader(engine).load([SAMPLES])
            scan_downloads(engine, SAMPLES / "downloads", sensor=SENSOR)
            with read_transaction(engine) as connection:
                period = newest_period(connection, PeriodKind.DAILY, dt.datetime.now(dt.UTC))
                if period is None:
                    raise SystemExit("the samples hold no session; make them with `make samples`")
                made = make_report(connection, period, top_files=TOP_FILES, top_values=TOP_VALUES)
        finally:
            dispose(engine)
    return report_text(made, Screen(WIDTH, color=True))


def picture(text: str) -> str:
    """Return a picture (SVG) of a text with ANSI colours."""
    console = Console(
        record=True, width=WIDTH + MARGIN, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.from_ansi(text.rstrip()), no_wrap=True)
    svg = console.export_svg(title="cowrieprocessor report daily", theme=_THEME, unique_id="report")
    svg = _FONT_FACES.sub("", svg).replace("Fira Code, monospace", _FONTS).replace("arial", "sans-serif")
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


if __name__ == "__main__":
    PICTURE.write_text(picture(report()), encoding="utf-8")
