"""Unusual events of real databases: hostile file names, and junk, as fixed tables with answers written by hand.

The stored form of each name and URL is written out as the design requires it (control, invisible and reordering
characters escaped, backslashes doubled, truncated with an ellipsis), not computed by the product.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.v3.scripts import EMPTY_SHASUM, NO_SHASUM

DOWNLOAD, UPLOAD = "cowrie.session.file_download", "cowrie.session.file_upload"

BAD_SHASUM = "file: shasum is not 64 hexadecimal characters"
NO_TIME = "file: event without a readable timestamp"
NO_SESSION = "file: event without a session"

MICROSECONDS = 1_000_000
IST_S = 19_800  # +05:30


@dataclass(frozen=True, slots=True)
class HostileFile:
    """A file event whose fields an attacker chose.

    Attributes:
        event_type: the event type.
        fields: its fields other than the hash.
        filename: the file name that has to be stored.
        url: the URL that has to be stored.
    """

    event_type: str
    fields: dict[str, object]
    filename: str | None
    url: str | None


HOSTILE_FILES = (
    HostileFile(DOWNLOAD, {"destfile": "/root/\x1b[31mred\x07"}, "/root/\\x1b[31mred\\x07", None),
    HostileFile(UPLOAD, {"filename": "inv\u202eexe.fdp"}, "inv\\u202eexe.fdp", None),
    HostileFile(DOWNLOAD, {"destfile": "a\x00b\x7f\x9b"}, "a\\x00b\\x7f\\x9b", None),
    HostileFile(DOWNLOAD, {"destfile": "C:\\Windows\\x.exe"}, "C:\\\\Windows\\\\x.exe", None),
    HostileFile(DOWNLOAD, {"destfile": "\\" * 600}, "\\" * 510 + "…", None),
    HostileFile(DOWNLOAD, {"destfile": "tag\U000e0041\ufeff\u200b\u2028"}, "tag\\U000e0041\\ufeff\\u200b\\u2028", None),
    HostileFile(UPLOAD, {"filename": "файл-密码-\U0001f600.sh"}, "файл-密码-\U0001f600.sh", None),
    HostileFile(
        DOWNLOAD,
        {"url": "http://198.18.0.7/" + "a" * 2000, "destfile": ""},
        "a" * 511 + "…",
        "http://198.18.0.7/" + "a" * 1005 + "…",
    ),
    HostileFile(
        DOWNLOAD,
        {"url": "http://198.18.0.7/bin/a%20b%1B.sh?x=1/y#f"},
        "a b\\x1b.sh",
        "http://198.18.0.7/bin/a%20b%1B.sh?x=1/y#f",
    ),
    HostileFile(DOWNLOAD, {"url": "http://198.18.0.7/\n\u202ex/"}, None, "http://198.18.0.7/\\x0a\\u202ex/"),
    HostileFile(DOWNLOAD, {"url": "ftp://user:secret@198.18.0.9/x"}, "x", "ftp://user:secret@198.18.0.9/x"),
    HostileFile(DOWNLOAD, {"url": "198.18.0.9/no-scheme"}, "no-scheme", "198.18.0.9/no-scheme"),
    HostileFile(DOWNLOAD, {"url": "stdin", "destfile": ""}, None, None),
    HostileFile(DOWNLOAD, {"url": "/root/.redirect"}, ".redirect", None),
    HostileFile(UPLOAD, {"filename": "scp.bin", "url": "/root/scp.bin", "destfile": "/root/s"}, "/root/s", None),
    HostileFile(DOWNLOAD, {"destfile": 5, "url": ["no text"]}, None, None),
)
"""File events whose fields attackers chose."""


@dataclass(frozen=True, slots=True)
class Junk:
    """A kind of junk: how it differs from a valid file event, and what has to become of it.

    Attributes:
        name: what is wrong.
        changes: fields that are replaced; `LEFT_OUT` removes a field.
        text: instead of an event, a line that was not JSON, as v3 stored it; "" stands for JSON that was no object.
        refused: the reason of its dead letter.
        without_file: the counter of events that name no file.
        time_form: returns its timestamp for a moment, and the moment as far as the format keeps it.
        sighting: it is a sighting of its hash in its session.
        filename: the name of the sighting.
        login: it is a failed login of the user `early`, this many seconds before its position in the log.
        own_session: its session is a number of its own.
    """

    name: str
    changes: dict[str, object] | None = None
    text: str | None = None
    refused: str | None = None
    without_file: str | None = None
    time_form: Callable[[int], tuple[object, int]] | None = None
    sighting: bool = False
    filename: str | None = None
    login: int | None = None
    own_session: bool = False


LEFT_OUT = object()


def _iso(form: str, moment: int, shift_s: int = 0) -> str:
    return time.strftime(form, time.gmtime(moment // MICROSECONDS + shift_s))


def _with_offset(moment: int) -> tuple[object, int]:
    return f"{_iso('%Y-%m-%dT%H:%M:%S', moment, IST_S)}.{moment % MICROSECONDS:06}+05:30", moment


def _without_zone(moment: int) -> tuple[object, int]:
    return f"{_iso('%Y-%m-%d %H:%M:%S', moment)},{moment % MICROSECONDS // 1000:03}", moment // 1000 * 1000


def _epoch_milliseconds(moment: int) -> tuple[object, int]:
    return moment // 1000, moment // 1000 * 1000


def _epoch_half_seconds(moment: int) -> tuple[object, int]:
    return moment // MICROSECONDS + 0.5, moment // MICROSECONDS * MICROSECONDS + 500_000


def _epoch_text(moment: int) -> tuple[object, int]:
    return str(moment // MICROSECONDS), moment // MICROSECONDS * MICROSECONDS


JUNK = (
    Junk("torn line", text='{"eventid": "cowrie.session.connect", "src_ip": "198.18.0.9", "src_p'),
    Junk("not an object", text=""),
    Junk("a shasum that is no hash", {"shasum": "not a hash"}, refused=BAD_SHASUM),
    Junk("torn line with controls", text='{"eventid": "cowrie.session.file_download", "shasum": "\x00\x1b\u202e'),
    Junk("a lone surrogate", {"destfile": "lone\ud800.sh"}, sighting=True, filename=r"lone\\ud800.sh"),
    Junk("a shasum of 63 characters", {"shasum": "a" * 63}, refused=BAD_SHASUM),
    Junk("a shasum that is a number", {"shasum": 12345}, refused=BAD_SHASUM),
    Junk("a shasum with blanks", {"shasum": " " + "b" * 64}, refused=BAD_SHASUM),
    Junk("no shasum", {"shasum": LEFT_OUT, "realm": "scp", "input": "ls"}, without_file=NO_SHASUM),
    Junk("a shasum of null", {"shasum": None}, without_file=NO_SHASUM),
    Junk("an empty shasum", {"shasum": "", "outfile": ""}, without_file=EMPTY_SHASUM),
    Junk("traceback", text="Traceback (most recent call last):"),
    Junk("no time", {"timestamp": LEFT_OUT}, refused=NO_TIME),
    Junk("a time that is none", {"timestamp": "yesterday"}, refused=NO_TIME),
    Junk("a day that is none", {"timestamp": "2024-02-31T01:02:03.000000Z"}, refused=NO_TIME),
    Junk("an empty time", {"timestamp": ""}, refused=NO_TIME),
    Junk("no session", {"session": LEFT_OUT}, refused=NO_SESSION),
    Junk("a session of null", {"session": None}, refused=NO_SESSION),
    Junk("an empty session", {"session": ""}, refused=NO_SESSION),
    Junk("JSON, not an object", text=""),
    Junk("a time with an offset", {}, time_form=_with_offset, sighting=True),
    Junk("a time without zone", {}, time_form=_without_zone, sighting=True),
    Junk("a time in milliseconds", {}, time_form=_epoch_milliseconds, sighting=True),
    Junk("a time in seconds, as text", {}, time_form=_epoch_text, sighting=True),
    Junk("a time in seconds, with decimals", {}, time_form=_epoch_half_seconds, sighting=True),
    Junk("a failed download with a hash", {"eventid": f"{DOWNLOAD}.failed"}),
    Junk("an unknown event with a hash", {"eventid": "cowrie.session.file_seen"}),
    Junk("an upper-case name", {"eventid": DOWNLOAD.upper()}),
    Junk("a connection without time", {"eventid": "cowrie.session.connect", "timestamp": LEFT_OUT, "src_ip": "::1"}),
    Junk("an unknown event about a login", {"eventid": "cowrie.login.tried", "username": "nobody"}),
    Junk("an early login, late in the log", {"eventid": "cowrie.login.failed", "username": "early"}, login=3600),
    Junk("a command that is blank", {"eventid": "cowrie.command.input", "input": None, "input_safe": ""}),
    Junk("a session that is a number", {}, sighting=True, own_session=True),
    Junk("garbage", text="\ufffd\ufffd\ufffd\ufffd"),
)
"""Kinds of junk, used in turns so that all of them occur."""


def junk_event(kind: Junk, base: dict[str, Any], moment: int, timestamp: str) -> tuple[dict[str, Any], int]:
    """Return the payload of a piece of junk, and the moment of its timestamp.

    Args:
        kind: the kind of junk.
        base: a valid file event of the same session, without a timestamp.
        moment: microseconds since 1970.
        timestamp: the moment as the log writes it.
    """
    if kind.text is not None:
        return ({"malformed": kind.text} if kind.text else {}), moment
    written: object = timestamp
    if kind.time_form is not None:
        written, moment = kind.time_form(moment)
    fields = {**base, "timestamp": written, **(kind.changes or {})}
    return {key: value for key, value in fields.items() if value is not LEFT_OUT}, moment
