"""Messages agree with their numbers, and name no class of the program's own language."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from cowrieprocessor.db.jobs import INTERRUPTED, UNEXPECTED, end_reason
from cowrieprocessor.errors import DatabaseLocked
from cowrieprocessor.json_text import kind_of
from cowrieprocessor.wording import destroyed, plural
from tests.documents import PROJECT

SOURCES = {
    str(path.relative_to(PROJECT)): path.read_text(encoding="utf-8")
    for folder in ("cowrieprocessor", "scripts")
    for path in sorted((PROJECT / folder).rglob("*.py"))
}

NOT_COUNTED = {"is", "was", "has", "of", "this", "its", "malicious", "suspicious", "redirects", "sensors", "as"}
"""Words with an `s` at their end that agree with any number, or whose number is in the sentence already."""

CONTINUOUS = ("seconds", "MINUTE_S", "HOUR_S", "duration", "_ms", "CURRENT_SCHEMA_VERSION")
"""Numbers that are no counts, beside constants: durations from two of their unit on, and a version."""


def uncounted(source: str) -> Iterator[str]:
    """Yield each number of a message that is followed by a plural which stays one, whatever the number."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
                continue
            name = ast.unparse(value.value)
            is_number = value.format_spec is not None or re.match(r"len\(|.*(count|total|bytes|size)\w*$", name)
            words = re.match(r" (?:[a-z-]+ ){0,2}?([a-z]+s)\b(?!/)", str(text.value))
            if (
                is_number
                and not name.isupper()
                and words
                and not str(text.value).startswith((" not ", " of the "))
                and words[1] not in NOT_COUNTED
                and not any(part in name for part in CONTINUOUS)
            ):
                yield f"{{{name}}}{text.value}"


def test_no_message_has_a_number_with_a_fixed_plural() -> None:
    """A count stands with its noun by `plural`, in every module: never `1 files`."""
    found = {module: sorted(uncounted(source)) for module, source in SOURCES.items()}
    at_least_two = {"cowrieprocessor/reporting/render/limits.py": ["{total} shows all"]}

    assert {module: texts for module, texts in found.items() if texts} == at_least_two


def test_a_fixed_plural_is_found() -> None:
    """The search sees plain and grouped numbers, and does not take a verb for a noun."""
    source = 'f"{n:,} new files"; f"{len(x)} tables"; f"{a.rows_total} dead letters"; f"{n:,} is"; f"{n:,} rows/s"'

    assert list(uncounted(source)) == ["{n} new files", "{len(x)} tables", "{a.rows_total} dead letters"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (plural(0, "session"), "0 sessions"),
        (plural(1, "session"), "1 session"),
        (plural(2000, "entry", "entries"), "2,000 entries"),
        (plural(1, "file has", "files have"), "1 file has"),
        (destroyed(1), "1 byte was destroyed before it could be read"),
        (destroyed(1234), "1,234 bytes were destroyed before they could be read"),
    ],
)
def test_counts_agree_with_their_words(text: str, expected: str) -> None:
    """One is singular, everything else is plural, with thousands separators."""
    assert text == expected


def test_no_message_names_a_class() -> None:
    """No message is made of the name of a class, except those about mistakes of a programmer."""
    named = {module for module, source in SOURCES.items() if ").__name__" in source or "__class__" in source}

    assert named == {"cowrieprocessor/reporting/render/json.py"}


def test_json_values_are_named_in_words() -> None:
    """Each kind of JSON value has its name."""
    assert [kind_of(value) for value in (None, True, "x", [], {}, 5, 0.5)] == [
        "null",
        "true or false",
        "text",
        "a list",
        "an object",
        "a number",
        "a number",
    ]


def test_a_job_never_ends_with_the_name_of_a_class() -> None:
    """`db status` says that a job was interrupted, what the error says, or that it ended unexpectedly."""
    assert [end_reason(error) for error in (KeyboardInterrupt(), DatabaseLocked("locked"), KeyError("x"), None)] == [
        INTERRUPTED,
        "locked",
        UNEXPECTED,
        UNEXPECTED,
    ]
