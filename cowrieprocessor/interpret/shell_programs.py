"""Programs that run what their arguments or their input say: wrappers such as `sudo`, and shells."""

from __future__ import annotations

import re
from collections.abc import Sequence

SHELLS = frozenset({"sh", "bash", "ash", "dash", "ksh", "zsh", "hush", "rbash"})

MAX_WRAPPERS = 5

_WRAPPERS = {
    "busybox": "",
    "toybox": "",
    "sudo": "ugpCThUrtD",
    "doas": "uC",
    "nohup": "",
    "setsid": "",
    "nice": "n",
    "ionice": "cnp",
    "env": "uCS",
    "time": "fo",
    "timeout": "ks",
    "exec": "a",
    "command": "",
    "builtin": "",
    "stdbuf": "ioe",
    "xargs": "IiLnPsdEa",
    "unbuffer": "",
}
"""Programs whose arguments are another command, and the letters of their options that take a value."""

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_DURATION = re.compile(r"\d+(?:\.\d+)?[smhd]?")
_SET_OPTION = re.compile(r"[-+][a-zA-Z]+")


def unwrap(words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the wrappers that a command stands in, from the outside, and the command itself; at least one word."""
    labels: list[str] = []
    rest = list(words)
    while len(labels) < MAX_WRAPPERS:
        name = rest[0].rpartition("/")[2]
        inner = _inner(name, rest[1:]) if name in _WRAPPERS else []
        if not inner:
            break
        labels.append(name)
        rest = inner
    return tuple(labels), rest


def _inner(name: str, arguments: list[str]) -> list[str]:
    """Return the command in the arguments of a wrapper; empty if there is none."""
    with_value = _WRAPPERS[name]
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if word.startswith("-") and len(word) > 1:
            place += 2 if len(word) == 2 and word[1] in with_value else 1
        elif _is_setting(name, word):
            place += 1
        else:
            break
    return arguments[place:]


def _is_setting(name: str, word: str) -> bool:
    """Return whether an argument of a wrapper still belongs to the wrapper: a variable, or a duration."""
    if name == "timeout":
        return _DURATION.fullmatch(word) is not None
    return name in {"env", "sudo", "doas"} and _ASSIGNMENT.fullmatch(word) is not None


def code_argument(name: str, arguments: Sequence[str]) -> tuple[str, str] | None:
    """Return how a command runs the code in its arguments, such as `sh -c`, and that code; None if it does not."""
    if name == "eval" and arguments:
        return "eval", " ".join(arguments)
    if name == "trap" and len(arguments) > 1 and not arguments[0].startswith("-"):
        return "trap", arguments[0]
    if name == "ssh":
        return _remote_code(arguments)
    return _shell_code(name, arguments) if name in SHELLS or name == "su" else None


def _shell_code(name: str, arguments: Sequence[str]) -> tuple[str, str] | None:
    for place, word in enumerate(arguments[:-1]):
        if word == "--command" or (_SET_OPTION.fullmatch(word) and word[0] == "-" and "c" in word):
            return f"{name} -c", arguments[place + 1]
        if not word.startswith(("-", "+")) and name != "su":
            return None  # the script that it runs
    return None


def _remote_code(arguments: Sequence[str]) -> tuple[str, str] | None:
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        place += 2 if len(arguments[place]) == 2 and arguments[place][1] in "bcDEeFIiJLlmOopQRSWw" else 1
    code = " ".join(arguments[place + 1 :])
    return ("ssh", code) if code else None


def reads_code(name: str, arguments: Sequence[str]) -> str | None:
    """Return how a command runs the code on its input, such as `| sh`; None if it does not."""
    if name in SHELLS:
        files = [word for word in arguments if not word.startswith(("-", "+"))]
        is_read = "-s" in arguments or set(files[:1]) <= {"/dev/stdin"}
        return f"| {name}" if is_read and not any(word == "--version" for word in arguments) else None
    if name in {"source", "."} and list(arguments[:1]) == ["/dev/stdin"]:
        return f"| {name}"
    return f"| {name}" if name in {"at", "batch"} else None
