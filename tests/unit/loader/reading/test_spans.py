"""Members and elements of JSON are found byte for byte, however deep and odd they are."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.loader.reading.wrappers.spans import elements, member, members

TEXT = st.text(alphabet='a"\\{}[],: é\n', max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=20,
)
SPACED = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", "\t: ")])


def nested(depth: int) -> Any:
    """Return a list in a list in a list, with siblings."""
    value: Any = 1
    for number in range(depth):
        value = [value, {"a": number}]
    return value


@given(document=st.dictionaries(TEXT, VALUES | st.builds(nested, st.integers(0, 12)), max_size=4), spacing=SPACED)
def test_members_are_found(document: dict[str, Any], spacing: tuple[str, str]) -> None:
    """Key and value of each member of an object, and where the member begins."""
    raw = json.dumps(document, separators=spacing).encode()

    found = list(members(raw))

    assert {key: json.loads(raw[slice(*value)]) for key, _, value in found} == document
    assert all(json.loads(b"{%b}" % raw[slice(*whole)]) == {key: document[key]} for key, whole, _ in found)


@given(document=st.lists(VALUES | st.builds(nested, st.integers(0, 12)), max_size=4), spacing=SPACED)
def test_elements_are_found(document: list[Any], spacing: tuple[str, str]) -> None:
    """Each element of an array that stands within other text."""
    array = json.dumps(document, separators=spacing).encode()
    raw = b'{"x": ' + array + b', "y": 1}'

    assert [json.loads(raw[slice(*span)]) for span in elements(raw, 6, 6 + len(array))] == document


def test_the_last_of_equal_keys_counts() -> None:
    """It is the one that decoding gives."""
    raw = b'{"a": 1, "b": 2, "a": {"c": 3}}'

    assert json.loads(raw[slice(*member(raw, "a"))]) == json.loads(raw)["a"] == {"c": 3}
