"""The documentation as the tests read it: pages, blocks of code, and the commands in them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
CASES = PROJECT.parent / "shared" / "cases"
"""Small inputs that once showed a fault; they lie beside the project."""

NOT_RUN = ("text", "toml", "json", "sql", "ini", "python")
"""Languages of blocks that show something, and are no commands."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, its text, and the number of its first line in the page."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        text: as it is typed.
        line: where it stands in the page.
        expected: what the page says it prints, with `...` for what differs; None where the page does not say.
    """

    text: str
    line: int
    expected: str | None


def pages() -> list[Path]:
    """Return every page for people: those of the project's root, of docs/, and the README of each other folder."""
    return sorted({*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("[!.]*/README.md")})


def table_rows(text: str, *heading: str) -> list[list[str]]:
    """Return the cells of all tables of a page (or a piece of it) that have this heading line."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells == list(heading):
            inside = True
        elif inside and not set(line) <= set("|-: "):
            rows.append(cells)
    return rows


def sections(text: str, level: int) -> dict[str, str]:
    """Return the text below each heading of a level, by the heading."""
    marks = "#" * level
    found: dict[str, str] = {}
    name = None
    for line in _without_code(text).splitlines(keepends=True):
        if match := re.match(r"(#{1,6}) (.+)", line):
            name = match[2].strip() if match[1] == marks else None if len(match[1]) < level else name
            if match[1] == marks and name is not None:
                found[name] = ""
        elif name is not None:
            found[name] += line
    return found


def quoted(text: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def slug(heading: str) -> str:
    """Return the anchor that a heading gets on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _without_code(text: str) -> str:
    """Return the text with the lines of fenced blocks emptied, so that a `#` in them is no heading."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in _FENCE.finditer(text)]


def without_blocks(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def commands(text: str) -> list[Command]:
    """Return the commands of a page's `sh` and `console` blocks, in order.

    Raises:
        ValueError: a block is in a language that is neither run nor known to be shown only.
    """
    found: list[Command] = []
    for block in blocks(text):
        if block.language == "sh":
            found += [Command(line, number, None) for number, line in _typed(block)]
        elif block.language == "console":
            found += _dialogue(block)
        elif block.language not in NOT_RUN:
            raise ValueError(
                f"line {block.line}: a block of {block.language or 'no language'}: say sh, console or text"
            )
    return found


def _typed(block: Block) -> Iterator[tuple[int, str]]:
    """Yield the lines of a `sh` block that are commands; a backslash at the end joins the next."""
    number, text = block.line, ""
    for offset, line in enumerate(block.text.splitlines()):
        if not text:
            number = block.line + offset
        if line.endswith("\\"):
            text += line[:-1]
            continue
        text += line
        if text.strip() and not text.lstrip().startswith("#"):
            yield number, text
        text = ""


def _dialogue(block: Block) -> Iterator[Command]:
    """Yield the commands of a `console` block (behind `$ `) with what the page says they print."""
    command: tuple[int, str] | None = None
    printed: list[str] = []
    for offset, line in enumerate([*block.text.splitlines(), "$ "]):
        if not line.startswith("$ "):
            printed.append(f"{line}\n")
            continue
        if command is not None:
            yield Command(command[1], command[0], "".join(printed) or None)
        elif printed:
            raise ValueError(f"line {block.line}: a console block begins with a command behind `$ `")
        command, printed = (block.line + offset, line[2:]), []


def flattened(document: Any, path: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield path and type of every value in a document; the type is None where a list or object is empty."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from flattened(value, f"{path}.{key}" if path else key)
        if not document:
            yield f"{path}.NAME", None
    elif isinstance(document, list):
        for value in document:
            yield from flattened(value, f"{path}[]")
        if not document:
            yield f"{path}[]", None
    else:
        yield path, _type_of(document)


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, int | float):
        return "number"
    try:
        dt.datetime.fromisoformat(str(value))
    except ValueError:
        return "text"
    return "time"
