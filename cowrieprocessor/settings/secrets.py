"""API keys from the environment, a file or systemd: read when they are used, never shown."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.paths import resolve_path

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Names the folder of systemd's credentials. Source: systemd.exec(5), LoadCredential=."""

_REFERENCE = re.compile(r"(env|file|credential):(.+)", re.DOTALL)
_OTHER_STORE = re.compile(r"(op|vault|aws-sm|sops):.*", re.DOTALL)
"""References of version 3 to stores that are not supported here."""

_KINDS = "env:NAME, file:PATH or credential:NAME"
_KEY = re.compile(r"[\x21\x23-\x26\x28-\x7e]{1,512}")
"""Printable characters but the blank and the two quotation marks."""

_MAX_FILE_BYTES = 4096


class Secret:
    """A key, or a reference to one; always printed as `***`.

    Args:
        value: the key itself, or a reference: `env:NAME`, `file:PATH` or `credential:NAME` (systemd).
        setting: the name of the setting, for messages.
    """

    __slots__ = ("_value", "setting")

    def __init__(self, value: str, setting: str) -> None:
        self._value = value
        self.setting = setting

    def __repr__(self) -> str:
        """Return a placeholder."""
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.setting) == (other._value, other.setting)

    def __hash__(self) -> int:
        return hash((self._value, self.setting))

    def __reduce__(self) -> str:
        raise TypeError("a key must not be serialized")

    @property
    def variable(self) -> str | None:
        """The environment variable that it refers to, if it is such a reference."""
        match = _REFERENCE.fullmatch(self._value)
        return match[2].strip() if match is not None and match[1] == "env" else None

    def is_same(self, other: Secret) -> bool:
        """Return whether both have the same value, whatever settings they belong to."""
        return self._value == other._value

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the key.

        Args:
            environ: the environment; `os.environ` by default.

        Raises:
            ConfigurationError: the reference cannot be resolved, or resolves to something that is not a key.
        """
        environ = os.environ if environ is None else environ
        value = _unquoted(self._value)
        match = _REFERENCE.fullmatch(value)
        if match is None:
            return self._validate(value, "its value")
        kind, name = match[1], match[2].strip()
        if kind == "env":
            if not environ.get(name):
                raise ConfigurationError(f"{self.setting}: the environment variable {name} is not set; set it")
            return self._validate(environ[name], f"the environment variable {name}")
        if kind == "file":
            return self._validate(self._read(resolve_path(name, Path())), name)
        folder = environ.get(CREDENTIALS_VARIABLE)
        if not folder or "/" in name:
            raise ConfigurationError(
                f"{self.setting}: no systemd credential {name!r}; add LoadCredential={name}:PATH to the service"
            )
        return self._validate(self._read(Path(folder) / name), f"the credential {name}")

    def _read(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES)
        except OSError as error:
            raise ConfigurationError(
                f"{self.setting}: {path} cannot be read: {error.strerror}; correct the path or its permissions"
            ) from None
        return content.decode("utf-8-sig", "replace")

    def _validate(self, key: str, where: str) -> str:
        unquoted = _unquoted(key)
        if _KEY.fullmatch(unquoted) is None:
            raise ConfigurationError(
                f"{self.setting}: {where} is not a key; expected one line without blanks and quotation marks"
            )
        return unquoted


def _unquoted(text: str) -> str:
    """Return a text without the blanks and the pair of quotation marks around it, as in files made for a shell."""
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
        return stripped[1:-1].strip()
    return stripped


def is_reference(text: str) -> bool:
    """Return whether a text is a reference to a key instead of a key."""
    return _REFERENCE.fullmatch(text) is not None


def canonical_reference(value: object, folder: Path) -> str:
    """Return a reference in its canonical spelling, with an absolute path.

    Args:
        value: the reference as it was written in a file.
        folder: the folder against which a relative path is resolved.

    Raises:
        ValueError: it is not a reference; the message continues a sentence that starts with the location, and does
            not show the value, because it may be a key.
    """
    text = value.strip() if isinstance(value, str) else ""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        store = _OTHER_STORE.fullmatch(text)
        if store is not None:
            raise ValueError(f"is a reference `{store[1]}:`, which is not supported; write {_KINDS}")
        if not text or re.fullmatch("(env|file|credential):", text):
            raise ValueError(f"is not a reference; expected {_KINDS}")
        raise ValueError(f"is a key itself, or an unknown kind of reference; write where the key is: {_KINDS}")
    kind, name = match[1], match[2].strip()
    return f"{kind}:{resolve_path(name, folder) if kind == 'file' else name}"


def fingerprint(key: str) -> str:
    """Return 16 hexadecimal characters that identify a key without revealing it."""
    return hashlib.sha256(f"cowrieprocessor key {key}".encode()).hexdigest()[:16]
