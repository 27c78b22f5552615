"""What a command's arguments refer to: URLs, hosts with ports, and files; by program where its arguments say so.

Nothing is asked: a name that only looks like a host counts where the program takes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cowrieprocessor.interpret.urls import (
    Endpoint,
    Url,
    canonical_host,
    endpoint,
    endpoints_in,
    last_path_segment,
    parse_port,
    parse_url,
    urls_in,
)

_SCAN_CHARS = 16_384
_PATH = re.compile(r"(?:/|\.{1,2}/|~[\w-]*/)[^\x00-\x1f<>|;&\"'`$*?(){}]{0,1024}")
_NO_FILES = re.compile(r"/dev/(?:null|zero|u?random|std\w+|tty\w*|fd/\d+|(?:tcp|udp)/.*)|/|\.{1,2}/?|.*://.*")
_CODE_OPTION = re.compile(r"-[a-zA-Z]*[cesr]")
_PLAIN_FILE = re.compile(r"[^\x00-\x1f<>|;&\"'`$*?(){}=]{1,1024}")
_URL_ALONE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\"'<>]+")
_REMOTE = re.compile(r"(?:([^@:/\s]+)@)?(\[[^\]]+\]|[^@:/\s]+):(.*)", re.DOTALL)
_SOCAT = re.compile(r"(?:(?:TCP|UDP|SCTP)[46]?(?:-CONNECT)?|OPENSSL|SSL):([^:,]+|\[[^\]]+\]):(\d{1,5})", re.IGNORECASE)
_SMALLEST_NUMBER = 1 << 24
_WGET_VALUES = frozenset({"--output-document", "--user-agent", "--header", "--post-data", "--directory-prefix"})
_CURL_VALUES = frozenset(
    {"--output", "--user-agent", "--header", "--data", "--data-binary", "--request", "--user", "--proxy", "--referer"}
    | {"--max-time", "--connect-timeout", "--retry", "--form", "--upload-file", "--cookie", "--url"}
)
"""Options in whole words whose value is the next argument."""


@dataclass(slots=True)
class References:
    """What a command refers to, each thing once, in order.

    Attributes:
        urls: those with a scheme, and those that a program completes: `wget 198.51.100.7/x`.
        endpoints: hosts, with the port where one is given: those of the URLs, too.
        ports: ports without a host, on which something listens.
        files: names and paths as they stand in the arguments, and names under which a fetched file is stored.
    """

    urls: dict[Url, None] = field(default_factory=dict)
    endpoints: dict[Endpoint, None] = field(default_factory=dict)
    ports: dict[int, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)

    def add_url(self, url: Url | None) -> None:
        """Add a URL and its host."""
        if url is not None:
            self.urls[url] = None
            self.endpoints[Endpoint(url.host, url.port)] = None

    def add_endpoint(self, host: str, port: str | None = None) -> None:
        """Add a host if the text is one; a short number is none, though `inet_aton` reads it."""
        if host.isdigit() and int(host[:20]) < _SMALLEST_NUMBER:
            return
        found = endpoint(host, port)
        if found is not None:
            self.endpoints[found] = None

    def add_file(self, name: str | None) -> None:
        """Add the name of a file, unless it is a device or no name."""
        if name and name != "-" and _PLAIN_FILE.fullmatch(name) and not _NO_FILES.fullmatch(name):
            self.files[name] = None

    def add(self, other: References) -> None:
        """Add what another command refers to."""
        self.urls |= other.urls
        self.endpoints |= other.endpoints
        self.ports |= other.ports
        self.files |= other.files

    def add_text(self, text: str) -> None:
        """Add the URLs and addresses that stand in a text."""
        text = text[:_SCAN_CHARS]
        for url in urls_in(text):
            self.add_url(url)
        for found in endpoints_in(text):
            self.endpoints[found] = None

    def distinct_endpoints(self) -> tuple[Endpoint, ...]:
        """Return the hosts with their ports; without a port only those of which no port is known."""
        with_port = {found.host for found in self.endpoints if found.port is not None}
        return tuple(found for found in self.endpoints if found.port is not None or found.host not in with_port)


def references(program: str, arguments: Sequence[str], redirects: Sequence[str], text: str = "") -> References:
    """Return what a command refers to.

    Args:
        program: the program as it was typed; a path is a file.
        arguments: expanded.
        redirects: the targets of its redirects.
        text: what it is given as a here-document.
    """
    found = References()
    name = program.rpartition("/")[2]
    if "/" in program:
        found.add_file(program)
    reader = _READERS.get(name)
    if reader is not None:
        reader(found, arguments)
    for word in (program, *arguments, *redirects):
        if _URL_ALONE.fullmatch(word):
            found.add_url(parse_url(word))
        else:
            found.add_text(word)
        if _PATH.fullmatch(word):
            found.add_file(word)
    found.add_text(text)
    for target in redirects:
        found.add_file(target)
    return found


def _positionals(arguments: Sequence[str], with_values: str, long_with_values: Iterable[str] = ()) -> list[str]:
    """Return the arguments that are no options, nor values of options.

    Args:
        arguments: all of them.
        with_values: the letters of options that take a value.
        long_with_values: likewise, such as `--output`, where the value is the next argument.
    """
    found: list[str] = []
    values = 0
    for argument in arguments:
        if values:
            values -= 1
        elif argument.startswith("--"):
            values = argument in long_with_values
        elif argument.startswith("-") and len(argument) > 1:
            letter = next((place for place, one in enumerate(argument[1:], 1) if one in with_values), None)
            values = letter == len(argument) - 1
        else:
            found.append(argument)
    return found


def _option(arguments: Sequence[str], letter: str, *names: str) -> str | None:
    """Return the value of an option: `-O f`, `-Of`, `-qO f`, `--name f` or `--name=f`; None without it."""
    for place, argument in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else None
        if argument in names:
            return following
        name, equals, value = argument.partition("=")
        if equals and name in names:
            return value
        if argument.startswith("-") and not argument.startswith("--") and letter in argument:
            return argument.partition(letter)[2] or following
    return None


def _fetch(found: References, urls: Iterable[str], output: str | None, *, keeps_name: bool) -> None:
    """Add what a program fetches, and the file that it writes."""
    for text in urls:
        url = _completed(text)
        found.add_url(url)
        if url is not None and output is None and keeps_name:
            found.add_file(url.file_name)
    found.add_file(output)


def _completed(text: str) -> Url | None:
    """Return the URL that a program makes of an argument: with `http` where it has no scheme."""
    host = re.split(r"[/:?]", text, maxsplit=1)[0]
    is_likely = "." in host or "/" in text or (host.isdigit() and int(host[:20]) >= _SMALLEST_NUMBER)
    if "://" not in text and (text[:1] in "/.~-" or not is_likely):
        return None
    return parse_url(text, "http")


def _wget(found: References, arguments: Sequence[str]) -> None:
    urls = _positionals(arguments, "OoaPUtTiBlQARDXeY", _WGET_VALUES)
    _fetch(found, urls, _option(arguments, "O", "--output-document"), keeps_name=True)


def _curl(found: References, arguments: Sequence[str]) -> None:
    urls = _positionals(arguments, "oAHdXuxeTFbcKCErtUwyYzQm", _CURL_VALUES)
    named = _option(arguments, "\0", "--url")
    options = [word for word in arguments if word.startswith("-")]
    keeps_name = any(word == "--remote-name" or (word[1:2] != "-" and "O" in word) for word in options)
    output = _option([word for word in arguments if not word.startswith("-O")], "o", "--output")
    _fetch(found, [*urls, *([named] if named else [])], output, keeps_name=keeps_name)
    found.add_file(_option(arguments, "T", "--upload-file"))
    for letter, name in (("d", "--data"), ("\0", "--data-binary"), ("F", "--form")):
        value = _option(arguments, letter, name) or ""
        if "@" in value:
            found.add_file(value.partition("@")[2].partition(";")[0])


def _downloader(found: References, arguments: Sequence[str]) -> None:
    _fetch(found, _positionals(arguments, "onUHd"), _option(arguments, "o", "--out", "--output"), keeps_name=True)


def _ftpget(found: References, arguments: Sequence[str]) -> None:
    """`ftpget [-u user -p password -P port] host [local] remote`. Source: BusyBox."""
    words = _positionals(arguments, "upP")
    port = _option(arguments, "P", "--port")
    if len(words) > 1:
        authority = words[0] + (f":{port}" if parse_port(port) else "")
        found.add_url(parse_url(f"ftp://{authority}/{words[-1].lstrip('/')}"))
        found.add_file(words[1] if len(words) > 2 else last_path_segment(words[-1]))
    elif words:
        found.add_endpoint(words[0], port)


def _tftp(found: References, arguments: Sequence[str]) -> None:
    """`tftp -g -r remote [-l local] host [port]`, and `tftp host -c get remote`. Source: BusyBox; tftp-hpa."""
    remote, local = _option(arguments, "r"), _option(arguments, "l")
    words = _positionals(arguments, "rlbm")
    if "get" in words or "put" in words:
        verb = words.index("get" if "get" in words else "put")
        remote = words[verb + 1] if verb + 1 < len(words) else None
        words = words[:verb] or words[verb + 2 :]
    if not words:
        return
    port = words[1] if len(words) > 1 else None
    if remote is None:
        found.add_endpoint(words[0], port)
        return
    authority = words[0] + (f":{port}" if parse_port(port) else "")
    found.add_url(parse_url(f"tftp://{authority}/{remote.lstrip('/')}"))
    found.add_file(local or last_path_segment(remote))


def _scp(found: References, arguments: Sequence[str]) -> None:
    port = _option(arguments, "P")
    for word in _positionals(arguments, "PiloFcJS"):
        match = _REMOTE.fullmatch(word) if "://" not in word else None
        host = canonical_host(match[2]) if match else None
        if match is None or host is None:
            found.add_file(word)
        else:
            user = f"{match[1]}@" if match[1] else ""
            shown = f"[{host}]" if ":" in host else host
            authority = shown + (f":{port}" if parse_port(port) else "")
            found.add_url(parse_url(f"scp://{user}{authority}/{match[3].lstrip('/')}"))


def _ssh(found: References, arguments: Sequence[str]) -> None:
    words = _positionals(arguments, "bcDEeFIiJLlmOopQRSWw")
    if words and "://" not in words[0]:
        found.add_endpoint(words[0].rpartition("@")[2], _option(arguments, "p") or "22")


def _netcat(found: References, arguments: Sequence[str]) -> None:
    words = _positionals(arguments, "ecgGiopqswWxX")
    options = "".join(word[1:] for word in arguments if word.startswith("-") and not word.startswith("--"))
    if "l" in options:
        port = parse_port(_option(arguments, "p") or next((word for word in words if word.isdigit()), None))
        if port is not None:
            found.ports[port] = None
    elif words:
        found.add_endpoint(words[0], words[1] if len(words) > 1 else None)


def _socat(found: References, arguments: Sequence[str]) -> None:
    for word in arguments:
        for match in _SOCAT.finditer(word[:1024]):
            found.add_endpoint(match[1], match[2])


def _host_only(found: References, arguments: Sequence[str]) -> None:
    """A program whose last argument is a host, such as `ping`."""
    words = _positionals(arguments, "cWwiIsStmpq")
    if words and "/" not in words[-1]:
        found.add_endpoint(words[-1])


def _lookup(found: References, arguments: Sequence[str]) -> None:
    for word in _positionals(arguments, "tpx"):
        if "." in word:
            found.add_endpoint(word.removeprefix("@"))


def _files(found: References, arguments: Sequence[str]) -> None:
    for word in _positionals(arguments, ""):
        found.add_file(word)


def _lines_of_files(found: References, arguments: Sequence[str]) -> None:
    """`head -n 1 file`, `tail -c 10 file`."""
    for word in _positionals(arguments, "nc"):
        found.add_file(word)


def _first_file(found: References, arguments: Sequence[str]) -> None:
    """An interpreter: its first argument is a file, unless the code stands in the arguments."""
    if not any(_CODE_OPTION.fullmatch(word) for word in arguments):
        found.add_file(next(iter(_positionals(arguments, "oO")), None))


def _files_after_mode(found: References, arguments: Sequence[str]) -> None:
    """`chmod mode file…`, `chown owner file…`; a mode may begin with a minus sign."""
    options = {"-R", "-v", "-f", "-c", "-h"}
    for word in [word for word in arguments if word not in options and not word.startswith("--")][1:]:
        found.add_file(word)


_Reader = Callable[[References, Sequence[str]], None]
_READERS: dict[str, _Reader] = {
    "wget": _wget,
    "curl": _curl,
    "ftpget": _ftpget,
    "ftpput": _ftpget,
    "tftp": _tftp,
    "scp": _scp,
    "rsync": _scp,
    "sftp": _ssh,
    "ssh": _ssh,
    "socat": _socat,
    **dict.fromkeys(("nc", "ncat", "netcat", "telnet"), _netcat),
    **dict.fromkeys(("aria2c", "axel", "fetch", "lwp-download", "lynx"), _downloader),
    **dict.fromkeys(("ping", "ping6", "traceroute", "tracepath"), _host_only),
    **dict.fromkeys(("head", "tail"), _lines_of_files),
    **dict.fromkeys(("nslookup", "dig", "host"), _lookup),
    **dict.fromkeys(("chmod", "chown", "chattr", "chgrp"), _files_after_mode),
    **dict.fromkeys(
        ("rm", "cp", "mv", "touch", "mkdir", "cat", "unlink", "rmdir", "insmod", "shred", "ln", "tee"), _files
    ),
    **dict.fromkeys(
        ("sh", "bash", "ash", "dash", "ksh", "zsh", "python", "python2", "python3", "perl", "php", "source", "."),
        _first_file,
    ),
}
"""How the arguments of a program are read; those of all others are searched for URLs, addresses and paths."""
