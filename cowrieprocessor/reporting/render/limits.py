"""How many rows a list shows at most: the options of the commands and the texts below the lists agree on it."""

from __future__ import annotations

from cowrieprocessor.wording import plural

MAX_ROWS = 10_000
"""The largest `--limit` of a list."""

MAX_EVENTS = 100_000
"""The largest `--limit` of the events of one session."""


def left_out_text(total: int, shown: int, what: str, maximum: int, *, where: str = "more") -> str | None:
    """Return the line below a list that was cut, with a `--limit` that the command accepts; None if it is whole.

    Args:
        total: rows there are.
        shown: rows shown.
        what: one row, in the singular.
        maximum: the largest limit.
        where: `more`, or `earlier` where the latest rows are shown.
    """
    if total <= shown:
        return None
    left_out = f"and {plural(total - shown, f'{where} {what}')}"
    if total <= maximum:
        return f"{left_out}: --limit {total} shows all"
    if shown < maximum:
        return f"{left_out}: --limit {maximum} shows the most that can be shown at once"
    return f"{left_out}, beyond the largest --limit"
