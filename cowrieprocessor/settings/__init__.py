"""All configuration: flags > environment `COWRIEPROC_*` > `sensors.toml` > defaults.

`SETTINGS_REFERENCE` describes every setting once; a test compares it with docs/settings.md.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.reference import SETTINGS_REFERENCE, SettingReference, Settings
from cowrieprocessor.settings.secrets import Secret, fingerprint, is_reference

__all__ = [
    "CONFIG_VARIABLE",
    "SETTINGS_REFERENCE",
    "Secret",
    "SettingReference",
    "Settings",
    "fingerprint",
    "load_settings",
    "setting_names",
]

CONFIG_VARIABLE = "COWRIEPROC_CONFIG"
"""Environment variable that names the file of settings; without it `sensors.toml` in the current folder."""

DEFAULT_CONFIG = "sensors.toml"
TABLE = "cowrieprocessor"
"""The table of the file that is ours; other tables (sensors) belong to others and are not read here."""

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
        if _BY_NAME[key].is_secret and not is_reference(str(table[key])):
            raise ConfigurationError(
                f"{path}: {key} is a key itself; write where it is: env:NAME, file:PATH or credential:NAME"
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
        read = setting.read(value)
        return Secret(str(read), setting.variable) if setting.is_secret else read
    except ValueError as error:
        shown = "(not shown)" if setting.name == "db_url" or setting.is_secret else repr(value)
        raise ConfigurationError(f"{where} is {shown}; expected {error}") from error


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, as the fields of `Settings` declare them."""
    return tuple(field.name for field in fields(Settings))
