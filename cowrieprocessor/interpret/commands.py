"""Normalizes and rates attackers' command lines."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from cowrieprocessor.sanitize import inert, inert_cut

MAX_COMMAND_CHARS = 512
"""The most that fits into a PostgreSQL index entry together with the session."""

_BLANKS = re.compile(r"[ \t\r\n]+")
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
    """Collapse white space and escape control characters; the result has at most 512 characters.

    A longer command is cut and ends with the first half of its SHA-256, so that different long commands stay distinct.
    """
    line = _BLANKS.sub(" ", command).strip(" ")
    text = inert(line)
    if len(text) <= MAX_COMMAND_CHARS:
        return text
    digest = f" sha256:{sha256(text.encode()).hexdigest()[:32]}"
    return inert_cut(line, MAX_COMMAND_CHARS - len(digest)) + digest


def is_high_risk(command: str) -> bool:
    """Return whether a command downloads, executes, hides or persists something: what an operator wants to see first.

    Only the first 4096 characters are examined.
    """
    return _HIGH_RISK.search(command[:4096]) is not None
