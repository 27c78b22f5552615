"""Normalizes and rates attackers' command lines."""

from __future__ import annotations

import re
from functools import lru_cache

from cowrieprocessor.sanitize import inert_key

MAX_COMMAND_CHARS = 512
"""The most that fits into a PostgreSQL index entry together with the session."""

_BLANKS = re.compile(r"[ \t]+")
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
    return _HIGH_RISK.search(command[:4096]) is not None
