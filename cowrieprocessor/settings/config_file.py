"""The file of settings: where it is, what its tables hold, and where in it a mistake stands.

`[cowrieprocessor]` and `[global]` hold settings for everything, `[[sensor]]` holds one honeypot. Other tables belong to
other programs. Version 3 wrote `[global]` and `[[sensor]]`; the keys it knew are understood, or named here as retired.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.paths import located
from cowrieprocessor.settings.reference import SETTINGS_REFERENCE, SettingReference
from cowrieprocessor.settings.secrets import Secret, canonical_reference

CONFIG_VARIABLE = "COWRIEPROC_CONFIG"
"""Environment variable that names the file of settings; without it `sensors.toml` in the current folder."""

DEFAULT_CONFIG = "sensors.toml"
OWN_TABLE, GLOBAL_TABLE, SENSOR_TABLE = "cowrieprocessor", "global", "sensor"
TABLES = (OWN_TABLE, GLOBAL_TABLE, SENSOR_TABLE)

GLOBAL_KEYS = {
    "db": "db_url",
    "vtapi": "virustotal_key",
    "urlhausapi": "abusech_key",
    "email": "report_email",
}
"""How version 3 calls settings of ours in [global]."""

GLOBAL_SENSOR_KEYS = ("logpath", "downloads")
"""What [global] may say of the one honeypot of a file that has no [[sensor]]."""

RETIRED_KEYS = frozenset(
    {"summarizedays", "staging_base", "spurapi", "dbxapi", "dbxkey", "dbxsecret", "dbxrefreshtoken", "cache"}
)
"""Keys that version 3 reads and that say nothing here: they may stay where they are."""

_SQLITE_URL = re.compile(r"(sqlite(?:\+\w+)?:///)([^/:?][^?]*)(\?.*)?", re.DOTALL)
_BY_NAME = {setting.name: setting for setting in SETTINGS_REFERENCE}
_NEAR_ENOUGH_TABLE = 0.75
_NEAR_ENOUGH_KEY = 0.6


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file of settings that could be parsed.

    Attributes:
        path: as it was named, for messages.
        folder: what relative paths in it are relative to; absolute.
        document: its tables.
    """

    path: Path
    folder: Path
    document: Mapping[str, object]

    def located(self, path: str) -> str:
        """Return a path of the file as an absolute one, with `~` as the home folder."""
        return str(located(path, self.folder))

    def located_database(self, name: str) -> str:
        """Return the name of a database with its path, if it is one, as an absolute one."""
        if "://" not in name:
            return name if name == ":memory:" else self.located(name)
        match = _SQLITE_URL.fullmatch(name)
        return f"{match[1]}{self.located(match[2])}{match[3] or ''}" if match else name


def find_config(environ: Mapping[str, str], toml_path: str | Path | None) -> Path | None:
    """Return where the file of settings is, or None if there is none.

    Raises:
        ConfigurationError: a file was named and is not there.
    """
    named = toml_path or environ.get(CONFIG_VARIABLE)
    if not named:
        default = Path(DEFAULT_CONFIG)
        return default if default.is_file() else None
    path = located(str(named), Path())
    if not path.is_file():
        origin = "" if toml_path else f" ({CONFIG_VARIABLE})"
        raise ConfigurationError(f"{path}{origin}: no such file of settings; correct the name or leave it out")
    return path


def read_config(path: Path) -> ConfigFile:
    """Return a file of settings, parsed.

    Raises:
        ConfigurationError: it cannot be read, is no TOML (the message says line and column), or a table of it is
            nearly called as one of ours.
    """
    try:
        content = path.read_bytes()
        document = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        raise ConfigurationError(
            f"{path}: not readable as TOML: no UTF-8 text (at line {line}, column {column}); save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not readable as TOML: {error}; correct the file") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; correct its permissions") from error
    for name in document:
        if name not in TABLES and (near := near_match(name, TABLES, _NEAR_ENOUGH_TABLE)):
            raise ConfigurationError(f"{path}: unknown table {name!r}; did you mean {near!r}?")
    return ConfigFile(path, path.absolute().parent, document)


def file_settings(file: ConfigFile) -> dict[str, object]:
    """Return the settings that stand in [cowrieprocessor] and [global], by name and in their types.

    Raises:
        ConfigurationError: a key is unknown, a value cannot be used, or one setting is given twice, differently.
    """
    found: dict[str, tuple[object, str]] = {}
    for table, spellings, others in ((OWN_TABLE, {}, ()), (GLOBAL_TABLE, GLOBAL_KEYS, GLOBAL_SENSOR_KEYS)):
        given = file.document.get(table, {})
        if not isinstance(given, dict):
            raise ConfigurationError(f"{file.path}: `{table}` is not a table; write [{table}] above its settings")
        for key, value in given.items():
            if table == GLOBAL_TABLE and (key in RETIRED_KEYS or key in GLOBAL_SENSOR_KEYS):
                continue
            name = spellings.get(key, key)
            if name not in _BY_NAME:
                known = {*spellings, *others, *_BY_NAME}
                raise unknown_key(f"{file.path}: unknown setting {key!r} in [{table}]", key, known)
            where = f"[{table}] {key}"
            read = file_value(file, _BY_NAME[name], value, where)
            if name in found and not _is_same(found[name][0], read):
                raise ConfigurationError(
                    f"{file.path}: {found[name][1]} and {where} set the same, differently; keep one of them"
                )
            found[name] = read, where
    return {name: value for name, (value, _) in found.items()}


def _is_same(one: object, other: object) -> bool:
    return one.is_same(other) if isinstance(one, Secret) and isinstance(other, Secret) else one == other


def file_value(file: ConfigFile, setting: SettingReference, value: object, where: str) -> object:
    """Return the value that a setting has in the file, in its type.

    Args:
        file: the file.
        setting: what is set.
        value: as it stands in the file.
        where: the table and the key, for messages.

    Raises:
        ConfigurationError: it cannot be used, or is a key itself where only a reference to it may stand.
    """
    place = f"{file.path}: {where}"
    if setting.is_secret or (setting.may_refer and is_like_a_reference(value)):
        try:
            value = canonical_reference(value, file.folder)
        except ValueError as error:
            raise ConfigurationError(f"{place} {error}") from None
    read = setting.value(value, place)
    if not isinstance(read, str) or not setting.is_path:
        return read
    return file.located_database(read) if setting.name == "db_url" else file.located(read)


def is_like_a_reference(value: object) -> bool:
    """Return whether a text begins with the name of a store and a colon, as no address does."""
    return isinstance(value, str) and re.match(r"\s*[a-z][a-z0-9+-]*:", value) is not None


def unknown_key(message: str, key: str, known: Collection[str]) -> ConfigurationError:
    """Return the error about a key that nobody knows: with the one that was meant, if one is near, and all."""
    near = near_match(key, known, _NEAR_ENOUGH_KEY)
    meant = f"did you mean {near!r}? " if near else ""
    return ConfigurationError(f"{message}; {meant}known are {', '.join(sorted(known))}")


def near_match(name: str, known: Collection[str], near_enough: float) -> str | None:
    """Return the known name that is most like this one, if one is near enough (0 to 1)."""
    found = difflib.get_close_matches(name.lower(), sorted(known), 1, near_enough)
    return found[0] if found else None
