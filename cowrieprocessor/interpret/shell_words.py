"""Words of shell code as the shell would pass them on: without quotes, with variables and substitutions that are known.

What is not known without running something stays as it was typed: `$(curl …)`, `$1`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cowrieprocessor.interpret.shell_output import decode_escapes

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_WORD_CHARS = 65_536
MAX_VALUE_CHARS = 4_096

_MAX_IN_TEXT = 64
"""The most variables that are expanded in a here-document."""

_SPLIT = "\0"
_BLANKS = re.compile(r"[ \t\n]+")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r"\\([$`\"\\\n])")
_VARIABLE = re.compile(r"(?<!\\)\$(?:\{(\w{1,64})\}|([A-Za-z_]\w{0,63}))", re.ASCII)
_DEFAULT = re.compile(r"\$\{\w+:?[-=]([^${}`\"'\\]*)\}", re.ASCII)


@dataclass(slots=True)
class Scope:
    """What is known while words are expanded.

    Attributes:
        variables: values by name.
        output: returns what a command substitution prints, None where that is not known.
    """

    output: Callable[[Node], bytes | None]
    variables: dict[str, str] = field(default_factory=lambda: {"IFS": " \t\n"})

    def assign(self, name: str, value: str) -> None:
        """Note a variable's value; of a long one, no value is known any more."""
        if len(value) <= MAX_VALUE_CHARS:
            self.variables[name] = value
        else:
            self.variables.pop(name, None)

    def expand_text(self, text: str) -> str:
        """Return a here-document with its variables expanded."""
        return _VARIABLE.sub(lambda name: self.variables.get(name[1] or name[2], name.group()), text, _MAX_IN_TEXT)


def source(node: Node) -> str:
    """Return the text of a node as it was typed."""
    return (node.text or b"").decode("utf-8", "replace")


def expand(node: Node, scope: Scope) -> list[str]:
    """Return the words that a word becomes: several where an unquoted variable holds blanks, such as `${IFS}`."""
    parts = node.children if node.type == "concatenation" else (node,)
    text = "".join(_part(part, scope) for part in parts)[:MAX_WORD_CHARS]
    return [text] if _SPLIT not in text else [word for word in text.split(_SPLIT) if word]


def expand_all(nodes: Sequence[Node], scope: Scope) -> list[str]:
    """Return the words that nodes become; nodes without a blank between them are one word."""
    words: list[str] = []
    end = -1
    for node in nodes:
        if node.is_missing:
            continue
        expanded = expand(node, scope)
        if node.start_byte == end and words and expanded:
            words[-1] = scope.expand_text(words[-1] + expanded.pop(0))
        words += expanded
        end = node.end_byte
    return words


def expand_one(node: Node, scope: Scope) -> str:
    """Return a word that is not split, such as the value of a variable or the target of a redirect."""
    return " ".join(expand(node, scope))


def _part(node: Node, scope: Scope) -> str:
    kind, text = node.type, source(node)
    if kind in {"word", "number"}:
        return _ESCAPED.sub(lambda found: "" if found[1] == "\n" else found[1], text) if "\\" in text else text
    if kind == "raw_string":
        return text[1:-1]
    if kind == "ansi_c_string":
        return decode_escapes(text[2:-1]).decode("utf-8", "replace").replace("\0", "")
    if kind in {"string", "translated_string"}:
        return _string(node, scope)
    value = _value(node, scope)
    return text if value is None else _BLANKS.sub(_SPLIT, value)


def _string(node: Node, scope: Scope) -> str:
    """Return the content of a string in double quotes."""
    if node.type == "translated_string":
        return "".join(_string(child, scope) for child in node.children if child.type == "string")
    raw = node.text or b""
    start = node.start_byte
    end = len(raw) - raw.endswith(b'"') if len(raw) > 1 else len(raw)
    position = 1
    parts: list[str] = []
    for child in node.children:
        if child.is_named and child.type != "string_content":
            parts.append(_unquoted(raw[position : child.start_byte - start]))
            value = _value(child, scope)
            parts.append(source(child) if value is None else value)
            position = child.end_byte - start
    parts.append(_unquoted(raw[position:end]))
    return "".join(parts)


def _unquoted(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    return _ESCAPED_IN_QUOTES.sub(lambda found: found[1].strip("\n"), text) if "\\" in text else text


def _value(node: Node, scope: Scope) -> str | None:
    """Return the value of an expansion or substitution; None if it is not known, or the node is neither."""
    if node.type == "command_substitution":
        output = scope.output(node)
        return None if output is None else output.decode("utf-8", "replace").replace("\0", "").rstrip("\n")
    if node.type not in {"simple_expansion", "expansion"}:
        return None
    text = source(node)
    match = _VARIABLE.fullmatch(text)
    if match is not None:
        return scope.variables.get(match[1] or match[2])
    default = _DEFAULT.fullmatch(text)
    return None if default is None else default[1]
