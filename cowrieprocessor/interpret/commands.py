"""Attackers' command lines in the form that is counted and compared."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from cowrieprocessor.sanitize import inert, inert_cut

MAX_COMMAND_CHARS = 512
"""Longer than this, an index entry of PostgreSQL could not hold the command with its session."""

_BLANKS = re.compile(r"[ \t\r\n]+")
_HIGH_RISK = re.compile(
    r"""
      \b(?:wget|curl|tftp|ftpget|scp|sftp|lwp-download|aria2c)\b   # fetches something
    | \bchmod\s+(?:-\w+\s+)?(?:\S*[+=]\w*x|[0-7]{0,4}?[1357][0-7]{0,4})\b   # makes it executable
    | (?:^|[;&|\n][ \t\r]*)(?:\./|/tmp/|/var/tmp/|/dev/shm/)\S+    # runs it
    | authorized_keys | \bcrontab\b | /etc/(?:rc\.local|init\.d|cron|ld\.so\.preload|shadow|passwd)  # stays
    | \b(?:useradd|adduser|chpasswd|usermod|passwd)\b
    | \b(?:nc|ncat|socat)\b | /dev/tcp/ | \bbase64\s+(?:-d|--decode)\b | \bpython[23]?\s+-c\b | \bperl\s+-e\b
    | \b(?:iptables|ufw|setenforce|pkill|killall)\b | \bhistory\s+-c\b | \brm\s+-(?=\w*r)\w*f
    """,
    re.VERBOSE,
)


def describe_command(command: str) -> tuple[str, bool]:
    """Return a command line as it is counted, and whether it is of high risk; attackers repeat themselves."""
    if len(command) > MAX_COMMAND_CHARS:
        return normalize_command(command), is_high_risk(command)
    return _describe_short(command)


@lru_cache(maxsize=16384)
def _describe_short(command: str) -> tuple[str, bool]:
    return normalize_command(command), is_high_risk(command)


def normalize_command(command: str) -> str:
    """Return a command line with white space collapsed and control characters escaped, at most 512 characters.

    A longer one is cut and ends in the first half of its SHA-256, so that two long commands stay two.
    """
    line = _BLANKS.sub(" ", command).strip(" ")
    text = inert(line)
    if len(text) <= MAX_COMMAND_CHARS:
        return text
    digest = f" sha256:{sha256(text.encode()).hexdigest()[:32]}"
    return inert_cut(line, MAX_COMMAND_CHARS - len(digest)) + digest


def is_high_risk(command: str) -> bool:
    """Return whether a command fetches, runs, hides or stays: what an operator wants to see first.

    Only the first 4096 characters are looked at.
    """
    return _HIGH_RISK.search(command[:4096]) is not None
