"""Finds the commands of shell code, also those in code inside of it. Nothing is run, and the work is bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cowrieprocessor.interpret.shell_output import MAX_PRINTED_BYTES, printed
from cowrieprocessor.interpret.shell_programs import code_argument, reads_code, unwrap
from cowrieprocessor.interpret.shell_tree import HERESTRING, parse, prepare
from cowrieprocessor.interpret.shell_words import Scope, expand, expand_all, expand_one, source

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_COMMANDS = 256
MAX_DEPTH = 5
MAX_NESTED_CHARS = 131_072
MAX_BROKEN_PIECES = 4
"""Pieces that are no valid code are the costly ones."""

CUT_COMMANDS = "more than 256 commands"
CUT_DEPTH = "code nested more than 5 deep"
CUT_NESTED = "more than 131,072 characters of nested code"
CUT_TOKENS = "too many tokens in a statement"
CUT_BROKEN = "too much that is no shell code"

_CRON_LINE = re.compile(
    r"^[ \t]*(?:@\w{1,16}|(?:[\d*/,-]{1,64}[ \t]+){4}[\d*/,a-zA-Z-]{1,64})[ \t]+(?:root[ \t]+)?([^\s#].*)$",
    re.MULTILINE,
)
_SUBSTITUTIONS = {"command_substitution": "$()", "process_substitution": "<()"}
_REDIRECTS = frozenset({"file_redirect"})
_KEYWORDS = frozenset(["if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "esac"])
_LEAVES = frozenset({"comment", "variable_name", "string_content", "word", "number", "raw_string", "ansi_c_string"})
_UNKNOWN_CODE = ("$(", "`")
_BUILTINS = frozenset({"declaration_command", "unset_command"})
_PIPELINE_ENDS = frozenset({"command", "pipeline"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        program: the program as it was typed, without quotes, such as `/bin/wget`; empty for redirects without one.
        arguments: expanded as far as that is certain; the rest as it was typed, such as `$1`.
        redirects: the targets of its redirects, which are files or `/dev/tcp/host/port`.
        nested: what it stands in, from the outside: `sh -c`, `$()`, `busybox`; empty for a command of the line itself.
        text: what it is given as a here-document or a here-string.
    """

    program: str
    arguments: tuple[str, ...] = ()
    redirects: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    text: str = ""

    @property
    def name(self) -> str:
        """The program without its folder."""
        return self.program.rpartition("/")[2]


@dataclass(slots=True)
class _Pipe:
    """The bytes between two commands of a pipeline; None while they are not known."""

    content: bytes | None = None


@dataclass(slots=True)
class _Redirects:
    """The redirects of a command: their targets, the arguments after them, and what it reads instead of its pipe."""

    targets: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    text: str | None = None
    hides_output: bool = False


@dataclass(slots=True)
class _Task:
    """Code that is still to be read: a syntax node, or text that is still to be parsed."""

    code: Node | str
    nested: tuple[str, ...]
    depth: int
    pipe: _Pipe = field(default_factory=_Pipe)
    redirects: _Redirects = field(default_factory=_Redirects)


class ShellReader:
    """Reads code without recursion: what is still to be read lies on a stack.

    Attributes:
        cut: why something was not read; `CUT_…` texts.
        is_broken: whether something is no valid code, so that commands may be missing.
    """

    def __init__(self) -> None:
        self.cut: list[str] = []
        self._broken = 0
        self._stack: list[_Task] = []
        self._scope = Scope(self._output)
        self._heredocs: dict[str, tuple[str, bool]] = {}
        self._nested_chars = 0
        self._output_depth = 0

    @property
    def is_broken(self) -> bool:
        """Whether something is no valid code."""
        return self._broken > 0

    def commands(self, text: str) -> Iterator[Command]:
        """Yield the commands of code in the order in which they stand, each before what is nested in it."""
        self._add_code(text, (), 0)
        count = 0
        while self._stack:
            task = self._stack.pop()
            for command in self._read(task):
                if count == MAX_COMMANDS:
                    self._note(CUT_COMMANDS)
                    return
                count += 1
                yield command

    def _note(self, reason: str) -> None:
        if reason not in self.cut:
            self.cut.append(reason)

    def _add_code(self, text: str, nested: tuple[str, ...], depth: int) -> None:
        """Put code on the stack, in the order of its pieces."""
        if depth > MAX_DEPTH:
            self._note(CUT_DEPTH)
            return
        self._nested_chars += len(text) if depth else 0
        if self._nested_chars > MAX_NESTED_CHARS:
            self._note(CUT_NESTED)
            return
        code = prepare(text, len(self._heredocs))
        self._heredocs |= code.heredocs
        if code.is_cut:
            self._note(CUT_TOKENS)
        self._stack += [_Task(piece, nested, depth) for piece in reversed(code.pieces)]

    def _parsed(self, piece: str) -> Node | None:
        """Return the tree of a piece; None if too many before it were no valid code."""
        if self._broken >= MAX_BROKEN_PIECES:
            self._note(CUT_BROKEN)
            return None
        root = parse(piece)
        for quote in "\"'":
            if root.has_error and piece.count(quote) % 2:
                closed = parse(f"{piece}{quote}")  # a line that ends inside of quotes
                root = root if closed.has_error else closed
        self._broken += root.has_error
        return root

    def _read(self, task: _Task) -> Iterator[Command]:
        """Yield the commands that a task names itself; put on the stack what is inside of it."""
        code = self._parsed(task.code) if isinstance(task.code, str) else task.code
        if code is None:
            return
        kind = code.type
        if kind == "command" or kind in _BUILTINS:
            yield from self._read_command(code, task)
        elif kind == "pipeline":
            self._add_stages(code, task)
        elif kind == "redirected_statement":
            yield from self._read_redirected(code, task)
        elif kind == "variable_assignment":
            self._assign(code)
            self._add_substitutions(code, task)
        elif kind in _SUBSTITUTIONS:
            self._add_inside(code, task)
        else:
            task.pipe.content = None
            if code.is_error:
                yield from self._read_error(code, task)
            elif kind == "for_statement":
                self._bind_loop(code)
            children = [child for child in reversed(code.named_children) if child.type not in _LEAVES]
            self._stack += [_Task(child, task.nested, task.depth) for child in children]

    def _add_inside(self, code: Node, task: _Task) -> None:
        """Put what is in a substitution on the stack."""
        if task.depth >= MAX_DEPTH:
            self._note(CUT_DEPTH)
            return
        nested = (*task.nested, _SUBSTITUTIONS[code.type])
        self._stack += [_Task(child, nested, task.depth + 1) for child in reversed(code.named_children)]

    def _add_stages(self, code: Node, task: _Task) -> None:
        """Put the commands of a pipeline on the stack; each leaves what it prints to the next one."""
        pipe = _Pipe(task.pipe.content)
        stages = [_Task(child, task.nested, task.depth, pipe) for child in code.named_children]
        if stages:
            stages[-1].redirects = task.redirects
        self._stack += reversed(stages)

    def _read_redirected(self, code: Node, task: _Task) -> Iterator[Command]:
        redirects = task.redirects
        bodies: list[Node] = []
        for child in code.named_children:
            if child.type in _REDIRECTS:
                self._redirect(child, redirects)
            else:
                bodies.append(child)
        if redirects.targets and not any(body.type in _PIPELINE_ENDS for body in bodies):
            yield Command("", (), tuple(redirects.targets), task.nested)
        self._stack += [_Task(body, task.nested, task.depth, task.pipe, redirects) for body in reversed(bodies)]
        self._add_substitutions(code, task, _REDIRECTS)

    def _redirect(self, node: Node, redirects: _Redirects) -> None:
        """Add a redirect."""
        words = [child for child in node.named_children if child.type not in {"file_descriptor", "ERROR"}]
        if not words:
            return
        operator = next((child.type for child in node.children if not child.is_named), "")
        target = expand_one(words[0], self._scope)
        given = self._given_text(target)
        if given is not None:
            redirects.text = given
        elif target and not (target.isdigit() and operator.endswith("&")):
            redirects.targets.append(target)
        redirects.words += [word for word in expand_all(words[1:], self._scope) if not word.isdigit()]
        number = next((source(child) for child in node.children if child.type == "file_descriptor"), "1")
        redirects.hides_output |= number == "1" and ">" in operator

    def _given_text(self, target: str) -> str | None:
        """Return the here-document or here-string for which the target of a redirect stands; None if for neither."""
        if target.startswith(HERESTRING):
            return target.removeprefix(HERESTRING) + "\n"
        if target not in self._heredocs:
            return None
        text, is_expanded = self._heredocs[target]
        return self._scope.expand_text(text) if is_expanded else text

    def _read_command(self, code: Node, task: _Task) -> Iterator[Command]:
        """Yield a command, and put the code that it runs on the stack."""
        redirects = task.redirects
        words = self._words(code, redirects)
        while words and words[0] in _KEYWORDS:  # a piece that begins in the middle of a loop
            del words[0]
        nested_before = len(self._stack)
        self._add_substitutions(code, task)
        substitutions = self._stack[nested_before:]
        del self._stack[nested_before:]
        if words:
            yield self._run(words, redirects, task)
        elif redirects.targets:
            yield Command("", (), tuple(redirects.targets), task.nested)
        self._stack += substitutions

    def _words(self, code: Node, redirects: _Redirects) -> list[str]:
        """Return the words of a command; add its redirects, take over its variables."""
        parts: list[Node] = []
        words: list[str] = []
        for child in code.children:
            if child.type in _REDIRECTS:
                self._redirect(child, redirects)
            elif child.type == "command_name":
                parts += child.children
            elif child.type != "variable_assignment":
                parts.append(child)
            else:
                self._assign(child)
                words += [source(child)] if code.type in _BUILTINS else []
        words[:0] = expand_all(parts, self._scope)
        return words + redirects.words

    def _run(self, words: Sequence[str], redirects: _Redirects, task: _Task) -> Command:
        """Return a command from its words; put the code that it runs on the stack, leave to its pipe what it prints."""
        stdin = task.pipe.content if redirects.text is None else redirects.text.encode("utf-8", "surrogatepass")
        wrappers, inner = unwrap(words)
        if "xargs" in wrappers and stdin is not None:
            inner += stdin[:MAX_PRINTED_BYTES].decode("utf-8", "replace").split()[:64]
        nested = (*task.nested, *wrappers)
        command = Command(inner[0], tuple(inner[1:]), tuple(redirects.targets), nested, redirects.text or "")
        output = printed(command.name, command.arguments, stdin)
        self._add_run_code(command, stdin, output, task.depth)
        task.pipe.content = None if redirects.hides_output else output
        return command

    def _add_run_code(self, command: Command, stdin: bytes | None, output: bytes | None, depth: int) -> None:
        """Put the code that a command runs on the stack: in its arguments, on its input, or written for cron."""
        argument = code_argument(command.name, command.arguments)
        if argument is not None and argument[1].startswith(_UNKNOWN_CODE):
            return  # the substitution itself is read where it stands
        if argument is not None:
            self._add_code(argument[1], (*command.nested, argument[0]), depth + 1)
        elif stdin is not None and (label := reads_code(command.name, command.arguments)) is not None:
            self._add_code(stdin.decode("utf-8", "replace"), (*command.nested, label), depth + 1)
        elif output is not None and (lines := _CRON_LINE.findall(output.decode("utf-8", "replace"))):
            self._add_code("\n".join(lines), (*command.nested, "cron"), depth + 1)

    def _read_error(self, code: Node, task: _Task) -> Iterator[Command]:
        """Yield the command that the words in a part that cannot be parsed look like."""
        leaves = [child for child in code.children if child.type in _LEAVES and child.type != "comment"]
        words = [word for leaf in leaves for word in expand(leaf, self._scope)]
        while words and words[0] in _KEYWORDS:
            del words[0]
        if len(words) > 1:
            yield self._run(words, _Redirects(), task)

    def _bind_loop(self, code: Node) -> None:
        """Take the first value of a `for` loop as that of its variable."""
        children = [child for child in code.named_children if child.type not in {"do_group", "compound_statement"}]
        if len(children) > 1 and children[0].type == "variable_name":
            self._scope.assign(source(children[0]), expand_one(children[1], self._scope))

    def _assign(self, code: Node) -> None:
        names = [child for child in code.named_children if child.type == "variable_name"]
        values = [child for child in code.named_children if child.type != "variable_name"]
        if names and all(value.type != "array" for value in values):
            name = source(names[0])
            before = self._scope.variables.get(name, "") if any(child.type == "+=" for child in code.children) else ""
            self._scope.assign(name, before + (expand_one(values[0], self._scope) if values else ""))

    def _add_substitutions(self, code: Node, task: _Task, only_in: frozenset[str] = frozenset()) -> None:
        """Put the outermost substitutions in the words of a command on the stack."""
        found: list[_Task] = []
        search = [child for child in code.children if not only_in or child.type in only_in]
        while search:
            node = search.pop()
            if node.type in _SUBSTITUTIONS:
                found.append(_Task(node, task.nested, task.depth))
            elif node.child_count and node.type not in _LEAVES:
                search += node.children
        self._stack += found

    def _output(self, node: Node) -> bytes | None:
        """Return what a command substitution prints; None if that is not certain."""
        if self._output_depth >= MAX_DEPTH or len(node.named_children) != 1:
            return None
        self._output_depth += 1
        try:
            (inner,) = node.named_children
            stages = inner.named_children if inner.type == "pipeline" else [inner]
            content: bytes | None = None
            for stage in stages:
                content = self._stage_output(stage, content)
                if content is None:
                    return None
            return content
        finally:
            self._output_depth -= 1

    def _stage_output(self, stage: Node, stdin: bytes | None) -> bytes | None:
        """Return what one command of a pipeline prints; None if that is not certain."""
        if stage.type != "command":
            return None
        redirects = _Redirects()
        words = self._words(stage, redirects)
        if not words or redirects.hides_output:
            return None
        if redirects.text is not None:
            stdin = redirects.text.encode("utf-8", "surrogatepass")
        _, inner = unwrap(words)
        return printed(inner[0].rpartition("/")[2], inner[1:], stdin)
