"""All configuration: flags > environment `COWRIEPROC_*` > `sensors.toml` > defaults.

`SETTINGS_REFERENCE` describes every setting once; a test compares it with docs/settings.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.config_file import CONFIG_VARIABLE, file_settings, find_config, read_config
from cowrieprocessor.settings.environment import environment_settings, refuse_unknown_variables
from cowrieprocessor.settings.reference import DEFAULT_DATABASE, SETTINGS_REFERENCE, SettingReference, Settings
from cowrieprocessor.settings.secrets import Secret, fingerprint
from cowrieprocessor.settings.sensors import (
    Sensor,
    configured_logs,
    file_sensors,
    load_sensors,
    no_sensors,
    shared_keys,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_DATABASE",
    "SETTINGS_REFERENCE",
    "Secret",
    "Sensor",
    "SettingReference",
    "Settings",
    "configured_logs",
    "fingerprint",
    "load_sensors",
    "load_settings",
    "no_sensors",
    "setting_names",
]

_BY_NAME = {setting.name: setting for setting in SETTINGS_REFERENCE}


def load_settings(
    *,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    toml_path: str | Path | None = None,
) -> Settings:
    """Return the settings from flags, environment, settings file and defaults, in this order of precedence.

    Args:
        overrides: the values of flags by field name; None for a flag that was not given.
        environ: the environment; `os.environ` by default. An empty variable counts as not set.
        toml_path: the settings file; by default the file that COWRIEPROC_CONFIG names, else `sensors.toml` in the
            current folder if it exists.

    Raises:
        ConfigurationError: a value is invalid, a key or a variable COWRIEPROC_… is unknown, or a named file cannot be
            read; the message gives the location of the value and what is expected.
    """
    environ = os.environ if environ is None else environ
    values = _from_file(find_config(environ, toml_path))
    from_environment = environment_settings(environ)
    refuse_unknown_variables(environ, [*values.values(), *from_environment.values()])
    values.update(from_environment)
    values.update(_from_overrides(overrides or {}))
    return Settings(**values)  # type: ignore[arg-type]


def _from_file(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    file = read_config(path)
    values = file_settings(file)
    return values | shared_keys(file, file_sensors(file), values)


def _from_overrides(overrides: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in overrides.items():
        if name not in _BY_NAME:
            raise ConfigurationError(f"unknown setting {name!r}; known are {', '.join(sorted(_BY_NAME))}")
        if value is not None:
            values[name] = _BY_NAME[name].value(value, f"--{name.replace('_', '-')}")
    return values


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, in the order of the fields of `Settings`."""
    return tuple(field.name for field in fields(Settings))
