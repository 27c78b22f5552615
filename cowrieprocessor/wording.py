"""Words that messages are made of: a count with its noun, what was lost; and how an encoding shows them."""

from __future__ import annotations

_PLAIN = str.maketrans({"─": "-", "…": "...", "→": "->"})
"""For encodings without them, the characters that tables and sentences are drawn with."""


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


def in_encoding(text: str, encoding: str) -> str:
    """Return a text with the characters that an encoding does not have as escapes, and lines and arrows in ASCII."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text
