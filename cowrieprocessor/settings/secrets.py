"""Keys: given by the environment, a file or systemd, read when they are used, and never shown."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.paths import located

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Where systemd puts credentials. Source: systemd.exec(5), LoadCredential=."""

_REFERENCE = re.compile(r"(env|file|credential):(.+)", re.DOTALL)
_OTHER_STORE = re.compile(r"(op|vault|aws-sm|sops):.*", re.DOTALL)
"""How version 3 refers to stores that are not understood here."""

_KINDS = "env:NAME, file:PATH or credential:NAME"
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_MAX_FILE_BYTES = 4096


class Secret:
    """A key, or where it is to be found. Whatever prints it prints `***`.

    Args:
        given: the key itself, or a reference: `env:NAME`, `file:PATH` or `credential:NAME` (systemd).
        setting: the name of the setting, for messages.
    """

    __slots__ = ("_given", "setting")

    def __init__(self, given: str, setting: str) -> None:
        self._given = given
        self.setting = setting

    def __repr__(self) -> str:
        """Return a text that gives nothing away."""
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._given, self.setting) == (other._given, other.setting)

    def __hash__(self) -> int:
        return hash((self._given, self.setting))

    def __reduce__(self) -> str:
        raise TypeError("a key is not to be written anywhere")

    def is_same(self, other: Secret) -> bool:
        """Return whether both were given alike, wherever each stands."""
        return self._given == other._given

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the key.

        Args:
            environ: the environment; `os.environ` by default.

        Raises:
            ConfigurationError: the reference leads nowhere, or to something that is no key.
        """
        environ = os.environ if environ is None else environ
        match = _REFERENCE.fullmatch(self._given)
        if match is None:
            return self._checked(self._given, "its value")
        kind, name = match[1], match[2].strip()
        if kind == "env":
            if not environ.get(name):
                raise ConfigurationError(f"{self.setting}: the environment variable {name} is not set; set it")
            return self._checked(environ[name], f"the environment variable {name}")
        if kind == "file":
            return self._checked(self._read(located(name, Path())), name)
        folder = environ.get(CREDENTIALS_VARIABLE)
        if not folder or "/" in name:
            raise ConfigurationError(
                f"{self.setting}: no systemd credential {name!r}; add LoadCredential={name}:PATH to the service"
            )
        return self._checked(self._read(Path(folder) / name), f"the credential {name}")

    def _read(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES)
        except OSError as error:
            raise ConfigurationError(
                f"{self.setting}: {path} cannot be read: {error.strerror}; correct the path or its permissions"
            ) from None
        return content.decode("utf-8", "replace")

    def _checked(self, key: str, where: str) -> str:
        stripped = key.strip()
        if _KEY.fullmatch(stripped) is None:
            raise ConfigurationError(f"{self.setting}: {where} is no key: one line without blanks is expected")
        return stripped


def is_reference(given: str) -> bool:
    """Return whether a text says where a key is, and is none itself."""
    return _REFERENCE.fullmatch(given) is not None


def canonical_reference(given: object, folder: Path) -> str:
    """Return a reference that stands in a file, in one spelling: a path in it is absolute.

    Args:
        given: the reference.
        folder: what a relative path is relative to.

    Raises:
        ValueError: it is none; the message goes on behind its place, and does not show it, because it may be a key.
    """
    text = given.strip() if isinstance(given, str) else ""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        store = _OTHER_STORE.fullmatch(text)
        if store is not None:
            raise ValueError(f"is a reference `{store[1]}:`, which is not understood; write {_KINDS}")
        if not text or re.fullmatch("(env|file|credential):", text):
            raise ValueError(f"says nothing; expected {_KINDS}")
        raise ValueError(f"is a key itself, or a reference of another kind; write where the key is: {_KINDS}")
    kind, name = match[1], match[2].strip()
    return f"{kind}:{located(name, folder) if kind == 'file' else name}"


def fingerprint(key: str) -> str:
    """Return 16 hexadecimal characters that tell keys apart and do not lead back to them."""
    return hashlib.sha256(f"cowrieprocessor key {key}".encode()).hexdigest()[:16]
