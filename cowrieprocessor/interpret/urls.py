"""URLs and hosts in text, and one form for every spelling of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import unquote

from cowrieprocessor.interpret.addresses import any_ipv4, canonical_address

MAX_URL_CHARS = 2048
MAX_HOST_CHARS = 253

DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21, "ftps": 990, "tftp": 69, "ssh": 22, "scp": 22, "sftp": 22}

_URL = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\"'`<>|;\\^{}()\x00-\x1f\x7f]{1,2048}")
_PARTS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]{1,20})://(?:([^/?#@]*(?:@[^/?#@]*)*)@)?(\[[^\]/?#]*\]|[^:/?#]*)(?::(\d{0,5}))?([/?#].*)?",
    re.DOTALL,
)
_NAME = re.compile(r"(?!-)[\w-]{1,63}(?:\.[\w-]{1,63})*\.?")
_SOCKET = re.compile(r"/dev/(tcp|udp)/([^\s/\"';|&<>]{1,253})/(\d{1,5})(?!\d)")
_ADDRESS = re.compile(r"(?<![\w.:/-])(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5}))?(?![\w.:/-])", re.ASCII)
_SCHEME_AND_HOST = re.compile(r"^(?:([a-z][a-z0-9+.-]*):)?//([^/?#]*)(.*)$", re.IGNORECASE | re.DOTALL)
_TRAILING = ".,!?)]}"


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in its one form.

    Attributes:
        text: scheme and host in lower case, an IPv4 address in dotted decimals, without the scheme's own port and
            without a fragment; the path as it was given, at least `/`; with credentials if it has them.
        scheme: such as `http`.
        host: a name or an address.
        port: that of the URL or of its scheme; None if neither is known.
        path: with the query.
    """

    text: str
    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def file_name(self) -> str | None:
        """The last segment of the path; None if that ends in `/`."""
        return last_path_segment(self.text)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host, and the port on it if one is given."""

    host: str
    port: int | None = None


def parse_url(text: str, scheme: str | None = None) -> Url | None:
    """Return a URL in its one form; None if the text is none.

    Args:
        text: the URL and nothing else.
        scheme: the scheme of a text that names none, such as `198.51.100.7/x` for `wget`; None refuses it.
    """
    text = text.strip()[:MAX_URL_CHARS]
    if "://" not in text.split("?", 1)[0]:
        if scheme is None:
            return None
        text = f"{scheme}://{text.removeprefix('//')}"
    match = _PARTS.fullmatch(text)
    if match is None:
        return None
    name, credentials, given, digits, rest = match.groups()
    host, port = canonical_host(given), parse_port(digits)
    if host is None or (digits and port is None):
        return None
    name = name.lower()
    rest = (rest or "").partition("#")[0]
    path = rest if rest.startswith("/") else f"/{rest}"
    own = DEFAULT_PORTS.get(name)
    shown = (f"{credentials}@" if credentials else "") + (f"[{host}]" if ":" in host else host)
    shown += f":{port}" if port is not None and port != own else ""
    return Url(f"{name}://{shown}{path}", name, host, own if port is None else port, path)


def urls_in(text: str) -> list[Url]:
    """Return the URLs with a scheme in a text, in order, each once."""
    if "://" not in text:
        return []
    found = (parse_url(_without_trailing(match.group())) for match in _URL.finditer(text))
    return list(dict.fromkeys(url for url in found if url is not None))


def _without_trailing(text: str) -> str:
    """Return a URL without the punctuation of the sentence that it stands in."""
    stripped = text.rstrip(_TRAILING)
    return text if text[len(stripped) :].startswith("]") and "[" in stripped else stripped


def endpoints_in(text: str) -> list[Endpoint]:
    """Return the hosts that a text names as `/dev/tcp/host/port` or as a dotted IPv4 address with or without a port."""
    found = [endpoint(match[2], match[3]) for match in _SOCKET.finditer(text)]
    found += [endpoint(match[1], match[2]) for match in _ADDRESS.finditer(text)]
    return list(dict.fromkeys(one for one in found if one is not None))


def endpoint(host: str, port: str | None = None) -> Endpoint | None:
    """Return a host with a port as texts name them; None if the host is none. A port that is none does not count."""
    name = canonical_host(host)
    return None if name is None else Endpoint(name, parse_port(port))


def parse_port(text: str | None) -> int | None:
    """Return a port; None if the text is none between 1 and 65535."""
    number = int(text) if text and text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if 0 < number < 65_536 else None


def canonical_host(text: str) -> str | None:
    """Return the one form of a host: a name in lower case, or an address; None if the text is neither.

    An IPv4 address may be spelled in any way that `inet_aton` reads: `0x7f.1`, `3221226219`.
    """
    if text.startswith("[") or ":" in text:
        try:
            return canonical_address(str(IPv6Address(text.strip("[]").partition("%")[0])))
        except AddressValueError:
            return None
    address = any_ipv4(text)
    if address is not None:
        return address
    name = text.lower().rstrip(".")
    is_name = _NAME.fullmatch(name) is not None and len(name) <= MAX_HOST_CHARS
    return name if is_name and not name.rpartition(".")[2].isdigit() else None


def last_path_segment(url: str) -> str | None:
    """Return the last segment of a URL's path, percent-decoded, or None if the path ends in `/`."""
    path = url.split("?", 1)[0].split("#", 1)[0]
    match = _SCHEME_AND_HOST.match(path)
    if match:
        path = match.group(3)
    name = unquote(path.rsplit("/", 1)[-1], errors="replace")
    return name or None
