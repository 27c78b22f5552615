"""All configuration: flags > environment `COWRIEPROC_*` > `sensors.toml` > defaults.

`SETTINGS_REFERENCE` describes every setting once; a test compares it with docs/settings.md.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError

CONFIG_VARIABLE = "COWRIEPROC_CONFIG"
"""Environment variable that names the file of settings; without it `sensors.toml` in the current folder."""

DEFAULT_CONFIG = "sensors.toml"
TABLE = "cowrieprocessor"
"""The table of the file that is ours; other tables (sensors) belong to others and are not read here."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
SQLITE_JSON_DEPTH = 1000
"""SQLite's JSON functions refuse deeper nesting. Source: sqlite.org/json1.html, section 3."""

_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB)?", re.IGNORECASE)
_FACTOR = {"": 1, "kib": KIB, "mib": MIB, "gib": GIB}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run; each is described in `SETTINGS_REFERENCE`."""

    db_url: str | None = None
    batch_size: int = 10000
    max_value_bytes: int = 2 * MIB
    max_ratio: int = 250
    max_ratio_grace_bytes: int = 64 * MIB
    max_nesting: int = SQLITE_JSON_DEPTH
    lock_timeout_s: float = 600.0
    sqlite_driver: str = "auto"


@dataclass(frozen=True, slots=True)
class SettingReference:
    """One setting: where it can be given, what it means, and how its value is read.

    Attributes:
        name: the field of `Settings` and the key in the file of settings.
        variable: the environment variable.
        default: the default as people write it.
        meaning: one sentence for people, with the unit.
        read: turns a given value into the setting's type; raises ValueError saying what is expected.
        aliases: other environment variables, in falling precedence, that set the same.
    """

    name: str
    variable: str
    default: str
    meaning: str
    read: Callable[[object], object]
    aliases: tuple[str, ...] = ()


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def _choice(*allowed: str) -> Callable[[object], object]:
    def read(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return str(value)

    return read


def _whole_number(low: int, high: int | None = None) -> Callable[[object], object]:
    expected = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def read(value: object) -> int:
        number = _as_int(value, expected)
        if number < low or (high is not None and number > high):
            raise ValueError(expected)
        return number

    return read


def _as_int(value: object, expected: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    raise ValueError(expected)


def _size(low: int) -> Callable[[object], object]:
    expected = f"a number of bytes of at least {low}, such as {low} or 4MiB"

    def read(value: object) -> int:
        match = _SIZE.fullmatch(str(value).strip()) if not isinstance(value, (bool, float)) else None
        if match is None:
            raise ValueError(expected)
        size = int(match[1]) * _FACTOR[(match[2] or "").lower()]
        if size < low:
            raise ValueError(expected)
        return size

    return read


def _seconds(value: object) -> float:
    text = "" if isinstance(value, bool) else str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ValueError("a number of seconds, 0 or more")
    return float(text)


SETTINGS_REFERENCE: tuple[SettingReference, ...] = (
    SettingReference(
        "db_url",
        "COWRIEPROC_DB_URL",
        "none: looking and loading use `cowrieprocessor.sqlite` in the current folder",
        "The database: the path of an SQLite file, or an SQLAlchemy URL (`sqlite:///…`, `postgresql://…`). "
        "`COWRIEPROC_DB_PATH` gives a path and serves where `COWRIEPROC_DB_URL` is not set.",
        _text,
        aliases=("COWRIEPROC_DB_PATH",),
    ),
    SettingReference(
        "batch_size",
        "COWRIEPROC_BATCH_SIZE",
        "10000",
        "Events in one transaction of the loader.",
        _whole_number(1),
    ),
    SettingReference(
        "max_value_bytes",
        "COWRIEPROC_MAX_VALUE_BYTES",
        "2MiB",
        "The largest JSON value in bytes that is kept as an event; a larger one becomes a dead letter.",
        _size(KIB),
    ),
    SettingReference(
        "max_ratio",
        "COWRIEPROC_MAX_RATIO",
        "250",
        "How many times larger than itself a compressed log may become; beyond that it is refused as a bomb.",
        _whole_number(1),
    ),
    SettingReference(
        "max_ratio_grace_bytes",
        "COWRIEPROC_MAX_RATIO_GRACE_BYTES",
        "64MiB",
        "Decompressed bytes after which `max_ratio` begins to be checked.",
        _size(0),
    ),
    SettingReference(
        "max_nesting",
        "COWRIEPROC_MAX_NESTING",
        str(SQLITE_JSON_DEPTH),
        "How deep a JSON value may nest; SQLite reads no deeper than 1000, so this cannot be more.",
        _whole_number(1, SQLITE_JSON_DEPTH),
    ),
    SettingReference(
        "lock_timeout_s",
        "COWRIEPROC_LOCK_TIMEOUT_S",
        "600",
        "How many seconds to wait for another process that is writing, before giving up.",
        _seconds,
    ),
    SettingReference(
        "sqlite_driver",
        "COWRIEPROC_SQLITE_DRIVER",
        "auto",
        "Which SQLite library to use: `pysqlite3` (needs its wheel), `stdlib` (Python's own), or `auto`: "
        "pysqlite3 where it is installed.",
        _choice("auto", "pysqlite3", "stdlib"),
    ),
)
"""Every setting, once. A field of `Settings` that is missing here fails a test."""

_BY_NAME = {setting.name: setting for setting in SETTINGS_REFERENCE}


def load_settings(
    *,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    toml_path: str | Path | None = None,
) -> Settings:
    """Return the settings from flags, environment, file of settings and defaults, in this precedence.

    Args:
        overrides: what flags gave, by field name; None stands for a flag that was not given.
        environ: the environment; `os.environ` by default. An empty variable counts as not set.
        toml_path: the file of settings; by default what COWRIEPROC_CONFIG names, else `sensors.toml` in the
            current folder if there is one.

    Raises:
        ConfigurationError: a value cannot be used, a key is unknown, or a named file cannot be read; the
            message says where the value stands and what is expected.
    """
    environ = os.environ if environ is None else environ
    values = _from_toml(_config_file(environ, toml_path))
    values.update(_from_environment(environ))
    values.update(_from_overrides(overrides or {}))
    return Settings(**values)  # type: ignore[arg-type]


def _config_file(environ: Mapping[str, str], toml_path: str | Path | None) -> Path | None:
    """Return the file of settings, or None; one that was named has to exist."""
    named = toml_path or environ.get(CONFIG_VARIABLE)
    if not named:
        default = Path(DEFAULT_CONFIG)
        return default if default.is_file() else None
    path = Path(named).expanduser()
    if not path.is_file():
        origin = "" if toml_path else f" ({CONFIG_VARIABLE})"
        raise ConfigurationError(f"{path}{origin}: no such file of settings; correct the name or leave it out")
    return path


def _from_toml(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not readable as TOML: {error}; correct the file") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; correct its permissions") from error
    table = document.get(TABLE, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: `{TABLE}` is not a table; write [{TABLE}] above its settings")
    for key in table:
        if key not in _BY_NAME:
            raise ConfigurationError(
                f"{path}: unknown setting {key!r} in [{TABLE}]; known are {', '.join(sorted(_BY_NAME))}"
            )
    return {key: _read(_BY_NAME[key], value, f"{path}: {key}") for key, value in table.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for setting in SETTINGS_REFERENCE:
        for variable in (setting.variable, *setting.aliases):
            given = environ.get(variable)
            if given:
                values[setting.name] = _read(setting, given, variable)
                break
    return values


def _from_overrides(overrides: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, given in overrides.items():
        if name not in _BY_NAME:
            raise ConfigurationError(f"unknown setting {name!r}; known are {', '.join(sorted(_BY_NAME))}")
        if given is not None:
            values[name] = _read(_BY_NAME[name], given, f"--{name.replace('_', '-')}")
    return values


def _read(setting: SettingReference, value: object, where: str) -> object:
    """Return the value in the setting's type, or say where it stands and what is expected there."""
    try:
        return setting.read(value)
    except ValueError as error:
        shown = "(not shown)" if setting.name == "db_url" else repr(value)
        raise ConfigurationError(f"{where} is {shown}; expected {error}") from error


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, as the fields of `Settings` declare them."""
    return tuple(field.name for field in fields(Settings))
