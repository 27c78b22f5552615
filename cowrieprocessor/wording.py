"""Words that messages are made of: a count with its noun, and what was lost."""

from __future__ import annotations


def plural(count: int, singular: str, plural_form: str | None = None) -> str:
    """Return a count with its noun, or with a noun and its verb: `1 session`, `2,000 sessions`.

    Args:
        count: how many.
        singular: the words for one.
        plural_form: the words for any other number; None for the singular with an `s`.
    """
    return f"{count:,} {singular if count == 1 else plural_form or singular + 's'}"


def destroyed(bytes_lost: int) -> str:
    """Return the text on bytes that `follow` saw but could not read in time."""
    return plural(
        bytes_lost, "byte was destroyed before it could be read", "bytes were destroyed before they could be read"
    )
