"""Shell code as syntax trees: cut into pieces that tree-sitter reads in bounded time and memory.

tree-sitter-bash needs time and memory that grow with the square of the tokens of some texts: for 64 KiB of `a|a|a|` a
minute and a half and 13 GB. A piece has at most MAX_PIECE_TOKENS tokens and takes some milliseconds at worst; nearly
every line is one piece. Here-documents are taken out before, which the grammar reads wrongly where something follows
their marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Node

MAX_PIECE_TOKENS = 512
HEREDOC = "__HEREDOC_{}__"
"""The file that stands in a piece for a here-document."""
HERESTRING = "__HERESTRING__"
"""What begins the name of the file that stands for a here-string; the grammar does not read one after a redirect."""

_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_LIGHT_CHARS = MAX_PIECE_TOKENS
_TOKEN = re.compile(
    r"""
      (?P<quoted>\\.|'[^']*+'|"(?:[^"\\]|\\.)*+")
    | (?P<heredoc><<-?[ \t]*+(?:'[^'\n]{1,64}'|"[^"\n]{1,64}"|\\?[A-Za-z_][\w.-]{0,63})(?![\w.-]))
    | (?P<herestring><<<[ \t]*+)
    | (?P<end>\n|;|&&|\|\||&(?!>|\d))
    | [\w./:@%+=,~-]++
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING = frozenset({"if", "for", "while", "until", "case", "{", "("})
_CLOSING = frozenset({"fi", "done", "esac", "}", ")"})
_COSTLY_IN_QUOTES = re.compile(r"[$`(]")


@dataclass(slots=True)
class Code:
    """Shell code that is ready to be parsed.

    Attributes:
        pieces: texts with at most MAX_PIECE_TOKENS tokens each, in order.
        heredocs: the here-documents by the name of the file that stands for each, and whether it is expanded.
        is_cut: whether something was left out because it has too many tokens without a separator.
    """

    pieces: list[str] = field(default_factory=list)
    heredocs: dict[str, tuple[str, bool]] = field(default_factory=dict)
    is_cut: bool = False


def prepare(text: str, first_heredoc: int = 0) -> Code:
    """Return shell code in pieces, without its here-documents.

    Args:
        text: the code; NUL characters, which a shell drops, do not count.
        first_heredoc: the number of the first here-document, so that names stay distinct.
    """
    text = _UNREADABLE.sub(lambda found: "" if found.group() == "\0" else "\ufffd", text).replace("\r\n", "\n")
    if len(text) <= _LIGHT_CHARS and "<<" not in text:
        return Code([text])
    code = Code()
    piece: list[str] = []
    tokens = separator = at_separator = 0
    skips = False
    depth = 0
    for part, weight, ends in _tokens(text, code, first_heredoc):
        if skips:
            skips = not ends
            continue
        piece.append(part)
        tokens += weight
        depth = _depth(depth, part)
        if ends and (depth == 0 or not separator):
            separator, at_separator = len(piece), tokens
        if tokens >= MAX_PIECE_TOKENS:
            if not separator:
                code.is_cut = skips = True
                separator, at_separator = len(piece), tokens
            ends_open = piece[separator - 1] in {"&&", "||"}
            code.pieces.append("".join(piece[: separator - ends_open]))
            piece, tokens, separator = piece[separator:], tokens - at_separator, 0
            depth = reduce(_depth, piece, 0)
    code.pieces.append("".join(piece))
    return code


def _depth(depth: int, token: str) -> int:
    """Return how many loops and the like are open after a token."""
    return depth + 1 if token in _OPENING else depth - 1 if token in _CLOSING and depth else depth


def _tokens(text: str, code: Code, first_heredoc: int) -> Iterator[tuple[str, int, bool]]:
    """Yield each token, how many it counts for, and whether it ends a statement; collect here-documents."""
    waiting: list[tuple[str, str]] = []
    position = 0
    while match := _TOKEN.match(text, position):
        part, position = match.group(), match.end()
        if match["heredoc"]:
            name = HEREDOC.format(first_heredoc + len(code.heredocs))
            code.heredocs[name] = ("", False)
            waiting.append((name, part))
            yield f"<{name}", 2, False
        elif match["herestring"]:
            yield f"<{HERESTRING}", 2, False
        elif match["quoted"]:
            yield part, 1 + (len(_COSTLY_IN_QUOTES.findall(part)) if part[0] == '"' else 0), False
        else:
            yield part, 1, match["end"] is not None
        if part == "\n" and waiting:
            for name, marker in waiting:
                code.heredocs[name], position = _heredoc(text, position, marker)
            waiting.clear()


def _heredoc(text: str, start: int, marker: str) -> tuple[tuple[str, bool], int]:
    """Return a here-document with whether it is expanded, and where the code goes on; without an end it is the rest."""
    word = marker.lstrip("<-").strip(" \t")
    delimiter = word.strip("'\"\\")
    tabs = r"\t*" if marker.startswith("<<-") else ""
    end = re.compile(rf"^{tabs}{re.escape(delimiter)}[ \t]*$", re.MULTILINE).search(text, start)
    body = text[start : end.start() if end else len(text)]
    if tabs:
        body = re.sub(r"^\t+", "", body, flags=re.MULTILINE)
    return (body, word == delimiter), end.end() if end else len(text)


def parse(piece: str) -> Node:
    """Return the syntax tree of a piece of shell code: its root."""
    from tree_sitter import Parser  # here, since most commands of the program parse nothing

    return Parser(_language()).parse(piece.encode("utf-8", "replace")).root_node


@lru_cache(maxsize=1)
def _language() -> Language:
    import tree_sitter_bash
    from tree_sitter import Language

    return Language(tree_sitter_bash.language())
