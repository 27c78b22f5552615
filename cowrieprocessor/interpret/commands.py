"""Reads attackers' command lines from events, normalizes and rates them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from cowrieprocessor.sanitize import inert_key

MAX_COMMAND_CHARS = 512
"""The most that fits into a PostgreSQL index entry together with the session."""

REWRITTEN = "[rewritten by version 3] "
"""Marks a command whose typed form is lost: version 3 kept it only as it had rewritten it."""

_BLANKS = re.compile(r"[ \t]+")
_MESSAGE = re.compile(r"(?:CMD|Command found|Command not found): (.*)", re.DOTALL)
_OPERATORS = (("&&", "[AND]"), (";", "[SC]"), ("|", "[PIPE]"))
_SCHEMES = ("http://", "https://")
_HIGH_RISK = re.compile(
    r"""
      \b(?:wget|curl|tftp|ftpget|scp|sftp|lwp-download|aria2c)\b   # downloads something
    | \bchmod\s+(?:-\w+\s+)?(?:\S*[+=]\w*x|[0-7]{0,4}?[1357][0-7]{0,4})\b   # makes it executable
    | (?:^|[;&|\n][ \t\r]*)(?:\./|/tmp/|/var/tmp/|/dev/shm/)\S+    # executes it
    | authorized_keys | \bcrontab\b | /etc/(?:rc\.local|init\.d|cron|ld\.so\.preload|shadow|passwd)  # persists
    | \b(?:useradd|adduser|chpasswd|usermod|passwd)\b
    | \b(?:nc|ncat|socat)\b | /dev/tcp/ | \bbase64\s+(?:-d|--decode)\b | \bpython[23]?\s+-c\b | \bperl\s+-e\b
    | \b(?:iptables|ufw|setenforce|pkill|killall)\b | \bhistory\s+-c\b | \brm\s+-(?=\w*r)\w*f
    """,
    re.VERBOSE,
)


def command_of(fields: Mapping[str, Any]) -> str | None:
    """Return the command line of an event as it was typed, or as version 3 rewrote it, marked; None without one.

    Version 3 emptied `input` and kept `input_safe`, in which operators and the schemes of URLs are words, and
    `input_hash`, the BLAKE2b-256 of what was typed. The typed command stands in Cowrie's `message`, or can be put
    together again: what agrees with the hash is proven. So is a message that version 3 would have rewritten alike.

    Args:
        fields: an event of a command, as it is stored.
    """
    typed, safe = fields.get("input"), fields.get("input_safe")
    if type(typed) is str or type(safe) is not str:
        return typed if type(typed) is str else None
    message = fields.get("message")
    match = _MESSAGE.fullmatch(message) if type(message) is str else None
    said = None if match is None else match[1]
    digest = fields.get("input_hash")
    if type(digest) is str:
        for candidate in (said or "", safe, *_undone(safe)):
            if blake2b(candidate.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest() == digest:
                return candidate
    if said is not None and _rewrite(said) == safe:
        return said
    return f"{REWRITTEN}{safe}" if safe else None


def _rewrite(command: str) -> str:
    """Return a command as version 3 rewrote it."""
    for operator, word in _OPERATORS:
        command = command.replace(operator, f" {word} ")
    for scheme in _SCHEMES:
        command = command.replace(scheme, "[URL]")
    return " ".join(command.split())


def _undone(safe: str) -> Iterator[str]:
    """Yield commands that version 3 would have rewritten to the same text; the most frequent spellings only."""
    for scheme in _SCHEMES if "[URL]" in safe else ("",):
        command = safe.replace("[URL]", scheme)
        for spelling in ("{}", " {} ", "{} "):
            undone = command
            for operator, word in _OPERATORS:
                undone = undone.replace(f" {word} ", spelling.format(operator))
            yield undone
            yield f"{undone} "


def describe_command(command: str) -> tuple[str, bool]:
    """Return the normalized command line, and whether it is high-risk. Short ones are cached: attackers repeat them."""
    if len(command) > MAX_COMMAND_CHARS:
        return normalize_command(command), is_high_risk(command)
    return _describe_short(command)


@lru_cache(maxsize=16384)
def _describe_short(command: str) -> tuple[str, bool]:
    return normalize_command(command), is_high_risk(command)


def normalize_command(command: str) -> str:
    r"""Collapse blanks and escape control characters; the result has at most 512 characters.

    A line end inside a command separates commands, so it stays, as `\x0a`; white space around the whole command goes.
    A typed backslash is two here, so that a typed `\x0a` is another command; `sanitize.visible` shows it as one.
    A longer command is cut and ends with the first half of its SHA-256, so that different long commands stay distinct.
    """
    return inert_key(_BLANKS.sub(" ", command).strip(" \r\n"), MAX_COMMAND_CHARS)


def is_high_risk(command: str) -> bool:
    """Return whether a command downloads, executes, hides or persists something: what an operator wants to see first.

    Only the first 4096 characters are examined.
    """
    return _HIGH_RISK.search(shell_form(command[:4096])) is not None


def shell_form(command: str) -> str:
    """Return a command as a shell reads it: one that version 3 rewrote with operators and the scheme `http` again."""
    return next(_undone(command.removeprefix(REWRITTEN))) if command.startswith(REWRITTEN) else command
