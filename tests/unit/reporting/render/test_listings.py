"""Lists and details as text."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.reporting.queries.dead_letters import EXCERPT_CHARS, DeadLetter, ReasonCount
from cowrieprocessor.reporting.queries.paging import Page
from cowrieprocessor.reporting.render.listings import dead_letters_text, excerpt_text
from cowrieprocessor.reporting.render.terminal import Screen, media_type, shown


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(0, 120), st.booleans())
def test_the_line_of_a_dead_letter_is_shown_as_far_as_it_was_read(line: str, cut: int, ascii_: bool) -> None:
    """A stored line is shown decoded, and its beginning if the excerpt ends inside it."""
    stored = json.dumps({"malformed": line}, ensure_ascii=ascii_)
    excerpt = stored[:cut]
    text = excerpt_text(excerpt)
    if cut >= len(stored):
        assert line == text
    else:
        assert text == excerpt or line.encode(errors="surrogatepass").startswith(
            text.rstrip("\ud83d").encode(errors="surrogatepass")[:-3]
        )


@pytest.mark.parametrize("payload", [{}, [], "text", None, {"other": 1}, {"malformed": None}, {"malformed": {"a": 1}}])
def test_any_other_payload_is_shown_as_stored(payload: object) -> None:
    """A dead letter without a line in it is shown as the JSON that is stored."""
    assert json.dumps(payload) == excerpt_text(json.dumps(payload))


def test_an_excerpt_of_escapes_is_quick() -> None:
    """An excerpt of nothing but backslashes or escaped quotes is parsed without backtracking."""
    for body in ("\\" * EXCERPT_CHARS, '\\"' * EXCERPT_CHARS):
        assert excerpt_text(('{"malformed": "' + body)[:EXCERPT_CHARS])


@pytest.mark.parametrize(
    ("mime_type", "text"),
    [
        (None, ""),
        ("application/x-executable", "executable"),
        ("application/x-pie-executable", "pie-executable"),
        ("application/octet-stream", "data"),
        ("text/plain", "text"),
        ("text/x-shellscript", "shellscript"),
        ("image/png", "image/png"),
        ("application/vnd.microsoft.portable-executable", "vnd.microsoft…"),
    ],
)
def test_media_types_are_shortened(mime_type: str | None, text: str) -> None:
    """A media type loses its uninformative parts, and is cut if it is long."""
    assert text == media_type(mime_type).plain


@pytest.mark.parametrize(("width", "log_chars"), [(80, 24), (100, 40), (150, 90)])
def test_a_long_reason_leaves_room_for_the_log(width: int, log_chars: int) -> None:
    """However long the reason of a dead letter is, its log and value have at least 24 columns, more on wide screens."""
    reason = "file: shasum is not 64 hexadecimal characters, and more that an earlier release had to say of it"
    at = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    source = "/" + "x" * 150
    row = DeadLetter(1234, reason, source, 5, 6, at, False, None, {}, "", 2)
    text = dead_letters_text(Page((row,), None), (ReasonCount(reason, 1),), Screen(width))
    assert max(line.count("x") for line in text.splitlines() if "xxx" in line) >= log_chars


def test_long_text_is_cut_with_a_mark() -> None:
    """A text beyond its limit is cut there and ends in a mark; a shorter text is unchanged."""
    assert (shown("abcd", 3), shown("abc", 3), shown(None)) == ("ab…", "abc", "")
    assert len(shown("\x1b" * 100, 10)) == 10
