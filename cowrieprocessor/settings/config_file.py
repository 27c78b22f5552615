"""The settings file: its location, its tables, and error messages that point at the mistake.

`[cowrieprocessor]` and `[global]` contain general settings, `[work]` the schedules of tasks, each `[[sensor]]` one
honeypot. Other tables belong to other programs. `[global]` and `[[sensor]]` come from version 3: its keys are
supported, or listed here as retired.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.paths import resolve_path
from cowrieprocessor.settings.reference import SETTINGS_REFERENCE, SettingReference
from cowrieprocessor.settings.secrets import Secret, canonical_reference

CONFIG_VARIABLE = "COWRIEPROC_CONFIG"
"""Environment variable that names the settings file; without it `sensors.toml` in the current folder."""

DEFAULT_CONFIG = "sensors.toml"
OWN_TABLE, GLOBAL_TABLE, SENSOR_TABLE = "cowrieprocessor", "global", "sensor"
WORK_TABLE = "work"
"""A table that is the value of the setting of the same name."""

TABLES = (OWN_TABLE, GLOBAL_TABLE, SENSOR_TABLE, WORK_TABLE)

GLOBAL_KEYS = {
    "db": "db_url",
    "vtapi": "virustotal_key",
    "urlhausapi": "abusech_key",
    "email": "report_email",
}
"""The keys of version 3 in [global], with the settings that they set."""

GLOBAL_SENSOR_KEYS = ("logpath", "downloads")
"""Keys in [global] that describe the only honeypot of a file without [[sensor]]."""

RETIRED_KEYS = frozenset(
    {"summarizedays", "staging_base", "spurapi", "dbxapi", "dbxkey", "dbxsecret", "dbxrefreshtoken", "cache"}
)
"""Keys of version 3 without a meaning here: they are accepted and ignored."""

_SQLITE_URL = re.compile(r"(sqlite(?:\+\w+)?:///)([^/:?][^?]*)(\?.*)?", re.DOTALL)
_SENSOR_HEADER = re.compile(rf"""\s*\[\[\s*["']?{SENSOR_TABLE}["']?\s*\]\]""")
_BY_NAME = {setting.name: setting for setting in SETTINGS_REFERENCE}
_BY_KEY = {
    OWN_TABLE: _BY_NAME,
    GLOBAL_TABLE: _BY_NAME | {key: _BY_NAME[name] for key, name in GLOBAL_KEYS.items()},
}
"""The settings by table and key."""

_IGNORED_KEYS = {OWN_TABLE: frozenset[str](), GLOBAL_TABLE: RETIRED_KEYS.union(GLOBAL_SENSOR_KEYS)}
"""Keys by table that do not set anything, or that `sensors.py` reads."""

_MIN_TABLE_SIMILARITY = 0.75
_MIN_KEY_SIMILARITY = 0.6


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A parsed settings file.

    Attributes:
        path: the path as it was given, for messages.
        folder: the absolute folder against which relative paths in the file are resolved.
        document: its tables.
        text: its text, for the numbers of lines.
    """

    path: Path
    folder: Path
    document: Mapping[str, object]
    text: str = ""

    def line_of_sensor(self, number: int, key: str) -> int | None:
        """Return the line of a key in a [[sensor]] table; both are counted from 1. None if it is spelled unusually."""
        tables = 0
        for line, text in enumerate(self.text.splitlines(), 1):
            if _SENSOR_HEADER.match(text):
                tables += 1
            elif tables == number and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", text):
                return line
        return None

    def resolve(self, path: str) -> str:
        """Return a path from the file as an absolute path, with `~` expanded."""
        return str(resolve_path(path, self.folder))

    def resolve_database(self, name: str) -> str:
        """Return a database path or URL; the path of an SQLite file becomes absolute."""
        if "://" not in name:
            return name if name == ":memory:" else self.resolve(name)
        match = _SQLITE_URL.fullmatch(name)
        return f"{match[1]}{self.resolve(match[2])}{match[3] or ''}" if match else name


def find_config(environ: Mapping[str, str], toml_path: str | Path | None) -> Path | None:
    """Return the path of the settings file, or None if there is none.

    Args:
        environ: the environment.
        toml_path: the file that was given explicitly, if any; it takes precedence.

    Raises:
        ConfigurationError: a file was named but does not exist, or its folder cannot be searched.
    """
    name = toml_path or environ.get(CONFIG_VARIABLE)
    if not name:
        default = Path(DEFAULT_CONFIG)
        return default if _is_file(default) else None
    path = resolve_path(str(name), Path())
    if not _is_file(path):
        origin = "" if toml_path else f" ({CONFIG_VARIABLE})"
        raise ConfigurationError(f"{path}{origin}: no such settings file; correct the name or leave it out")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigurationError(
            f"{path.absolute()}: cannot be looked for: {error.strerror}; correct the permissions of its folder, or "
            "call the program in another one"
        ) from error


def read_config(path: Path) -> ConfigFile:
    """Read and parse a settings file.

    Raises:
        ConfigurationError: the file cannot be read, is not TOML (the message gives line and column), or has a table
            whose name is a likely misspelling of a known table.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        raise ConfigurationError(
            f"{path}: not readable as TOML: not UTF-8 text (at line {line}, column {column}); save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not readable as TOML: {error}; correct the file") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; correct its permissions") from error
    for name in document:
        if name not in TABLES and (near := closest_match(name, TABLES, _MIN_TABLE_SIMILARITY)):
            raise ConfigurationError(f"{path}: unknown table {name!r}; did you mean {near!r}?")
    return ConfigFile(path, path.absolute().parent, document, text)


def file_settings(file: ConfigFile) -> dict[str, object]:
    """Return the settings in [cowrieprocessor], [global] and [work], by name and converted to their types.

    Raises:
        ConfigurationError: a key is unknown, a value is invalid, or one setting has two different values.
    """
    settings: dict[str, tuple[object, str]] = {}
    for setting, value, where in _given(file):
        parsed = file_value(file, setting, value, where)
        if setting.name in settings and not _is_same(settings[setting.name][0], parsed):
            raise ConfigurationError(
                f"{file.path}: {settings[setting.name][1]} and {where} set different values; keep one of them"
            )
        settings[setting.name] = parsed, where
    return {name: value for name, (value, _) in settings.items()}


def _given(file: ConfigFile) -> Iterator[tuple[SettingReference, object, str]]:
    """Yield each setting in the file with its value, and where that is."""
    for table in (OWN_TABLE, GLOBAL_TABLE):
        for key, value in _table(file, table).items():
            if key not in _IGNORED_KEYS[table]:
                yield _setting(file, table, key), value, f"[{table}] {key}"
    if WORK_TABLE in file.document:
        yield _BY_NAME[WORK_TABLE], _table(file, WORK_TABLE), f"[{WORK_TABLE}]"


def _table(file: ConfigFile, name: str) -> Mapping[str, object]:
    table = file.document.get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{file.path}: `{name}` is not a table; write [{name}] above its settings")
    return table


def _setting(file: ConfigFile, table: str, key: str) -> SettingReference:
    setting = _BY_KEY[table].get(key)
    if setting is None:
        known = {*_BY_KEY[table], *(_IGNORED_KEYS[table] - RETIRED_KEYS)}
        raise unknown_key(f"{file.path}: unknown setting {key!r} in [{table}]", key, known)
    return setting


def _is_same(left: object, right: object) -> bool:
    return left.is_same(right) if isinstance(left, Secret) and isinstance(right, Secret) else left == right


def file_value(file: ConfigFile, setting: SettingReference, value: object, where: str) -> object:
    """Return a value from the file, converted to the type of its setting.

    Args:
        file: the file.
        setting: the setting.
        value: the value in the file.
        where: the table and the key, for messages.

    Raises:
        ConfigurationError: the value is invalid, or is an actual key where only a reference to one is allowed.
    """
    location = f"{file.path}: {where}"
    if setting.is_secret or (setting.may_refer and looks_like_reference(value)):
        try:
            value = canonical_reference(value, file.folder)
        except ValueError as error:
            raise ConfigurationError(f"{location} {error}") from None
    parsed = setting.value(value, location)
    if not isinstance(parsed, str) or not setting.is_path:
        return parsed
    return file.resolve_database(parsed) if setting.name == "db_url" else file.resolve(parsed)


def looks_like_reference(value: object) -> bool:
    """Return whether a text starts with the name of a store and a colon, as no e-mail address does."""
    return isinstance(value, str) and re.match(r"\s*[a-z][a-z0-9+-]*:", value) is not None


def unknown_key(message: str, key: str, known: Collection[str]) -> ConfigurationError:
    """Return the error for an unknown key, with the closest known key, if any, and all known keys.

    Args:
        message: the beginning of the message: where, and which key.
        key: the unknown key.
        known: the keys that are allowed there.
    """
    near = closest_match(key, known, _MIN_KEY_SIMILARITY)
    suggestion = f"did you mean {near!r}? " if near else ""
    return ConfigurationError(f"{message}; {suggestion}known are {', '.join(sorted(known))}")


def closest_match(name: str, known: Collection[str], min_similarity: float) -> str | None:
    """Return the known name that is most similar to `name`, or None if none reaches `min_similarity` (0 to 1)."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    matches = difflib.get_close_matches(name.lower(), list(by_lower), 1, min_similarity)
    return by_lower[matches[0]] if matches else None
