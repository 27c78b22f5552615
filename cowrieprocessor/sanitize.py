"""Escape attacker-controlled text: reversibly for storage, safely for display."""

from __future__ import annotations

import re
import shlex
from hashlib import sha256

_UNSAFE = (
    r"\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, DEL
    r"\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # invisible and right-to-left overrides
    r"\u2028\u2029\ufff9-\ufffb"  # line and paragraph separators, interlinear annotation
    r"\U000e0000-\U000e007f"  # tags
    r"\ud800-\udfff"  # lone surrogates
)
_UNSAFE_CHARACTER = re.compile(f"[{_UNSAFE}]")
_UNSAFE_OR_BACKSLASH = re.compile(rf"[\\{_UNSAFE}]")
_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
_CREDENTIALS = re.compile(r"^([a-z][a-z0-9+.-]*:)?//[^/?#]*@", re.IGNORECASE)
_SCHEME_AND_HOST = re.compile(r"^(?:([a-z][a-z0-9+.-]*):)?//([^/?#]*)(.*)$", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?<=:)//(?:[^\s/?#\"'`<>:]|:(?!//))+")
_LINK_SCHEME = re.compile(r"(?:(htt)|(f)t)(?=ps?://)", re.IGNORECASE)
_DEFANGED_SCHEME = re.compile(r"(?:(hxx)|fx)(?=ps?:)", re.IGNORECASE)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "|", "＝", "＋", "－", "＠")
_FORMULA_AFTER_SEMICOLON = re.compile(r";(\s*)(?=[=+\-@|＝＋－＠])")
_CUT_MARK = "…"


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character == "\\":
        return "\\\\"
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescape(match: re.Match[str]) -> str:
    digits = match.group(1) or match.group(2) or match.group(3)
    return chr(int(digits, 16)) if digits else "\\"


def inert(text: str) -> str:
    r"""Return the text with every control, invisible or reordering character escaped.

    ESC becomes `\x1b`, a lone surrogate `\ud800`; a backslash is doubled, so that `restore` returns the original. The
    result is valid Unicode without NUL, so that PostgreSQL can store it.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return _UNSAFE_OR_BACKSLASH.sub(_escape, text)


def restore(text: str) -> str:
    """Return the original of a text that `inert` escaped and that was not truncated."""
    return _ESCAPE.sub(_unescape, text)


def inert_cut(text: str, max_chars: int) -> str:
    """Return the escaped text, truncated to `max_chars` characters.

    A truncated text ends in `…`, never in the middle of an escape.
    """
    return cut_inert(inert(text[: max_chars + 1]), max_chars)


def cut_inert(safe: str, max_chars: int) -> str:
    """Return a text that `inert` escaped, truncated as `inert_cut` does."""
    if len(safe) <= max_chars:
        return safe
    end = max_chars - len(_CUT_MARK)
    for escape in _ESCAPE.finditer(safe):
        if escape.end() > end:
            end = min(end, escape.start())
            break
    return safe[:end] + _CUT_MARK


def inert_key(text: str, max_chars: int) -> str:
    """Return the escaped text as a key of at most `max_chars` characters: different texts stay different.

    A longer one is cut and ends with the first half of its SHA-256.
    """
    safe = inert(text)
    if len(safe) <= max_chars:
        return safe
    digest = f" sha256:{sha256(safe.encode()).hexdigest()[:32]}"
    return inert_cut(text, max_chars - len(digest)) + digest


def visible(text: str) -> str:
    """Return an escaped text as it is shown: each backslash once, escapes as they are.

    `inert` doubles a backslash, so that it can be told from an escape; a reader wants to see what was typed.
    """
    return text.replace("\\\\", "\\")


def terminal_safe(text: str) -> str:
    """Return the text for a terminal or a plain-text report, with control characters escaped.

    Backslashes are left alone, so that the output of `inert` is not escaped twice.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE_CHARACTER.sub(_escape, text)


def csv_safe(text: str) -> str:
    """Return the text for a CSV cell: escaped, and never the start of a spreadsheet formula.

    This includes text after a semicolon, which spreadsheets use as the separator in many locales.
    """
    safe = _FORMULA_AFTER_SEMICOLON.sub(r";\1'", terminal_safe(text))
    return f"'{safe}" if safe.lstrip().startswith(_FORMULA_STARTS) else safe


def mask_credentials(url: str) -> str:
    """Return the URL with `user:password@` replaced by `***@`.

    The FTP URLs of attackers often contain credentials of third-party machines.
    """
    return _CREDENTIALS.sub(lambda match: f"{match.group(1) or ''}//***@", url)


def defang(url: str) -> str:
    """Return the URL in a form that no program turns into a link: `hxxp://198[.]51[.]100[.]7/x`.

    Credentials are masked. In text that is not a URL (a path, a single word) only control characters are escaped.
    """
    safe = terminal_safe(mask_credentials(url))
    match = _SCHEME_AND_HOST.match(safe)
    if not match:
        return safe
    scheme, host, rest = match.groups()
    if scheme:
        scheme = re.sub(r"^http", "hxxp", scheme, flags=re.IGNORECASE)
        scheme = re.sub(r"^(t?)ftp", r"\1fxp", scheme, flags=re.IGNORECASE)
    prefix = f"{scheme}:" if scheme else ""
    return f"{prefix}//{host.replace('.', '[.]')}{defang_all(rest) if rest else ''}"


def defang_all(text: str) -> str:
    """Return the text with every URL in it defanged, such as the command `wget http://198.51.100.7/x`.

    Credentials are masked, control characters escaped. A URL in the path or query of another URL is defanged, too.
    """
    safe = _AUTHORITY.sub(lambda authority: defang(authority.group()), terminal_safe(text))
    return _LINK_SCHEME.sub(lambda scheme: "hxx" if scheme.group(1) else "fx", safe)


def refang(text: str) -> str:
    """Return a URL, or a part of one, as it was before `defang`; masked credentials stay masked."""
    return _DEFANGED_SCHEME.sub(lambda scheme: "htt" if scheme.group(1) else "ft", text.replace("[.]", "."))


def shell_word(text: str) -> str:
    """Return a text as one word of a shell command that means exactly this text and is safe to print.

    Quotes of the form `$'...'` (bash, zsh, ksh) stand where a character is not printed as it is.
    """
    if terminal_safe(text) == text and "\\" not in text:
        return shlex.quote(text)
    plain = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
    return f"$'{plain}'"
