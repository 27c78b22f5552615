"""The sensors of the file of settings: which honeypots there are, and where their logs and captured files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.config_file import (
    GLOBAL_SENSOR_KEYS,
    GLOBAL_TABLE,
    RETIRED_KEYS,
    SENSOR_TABLE,
    ConfigFile,
    file_value,
    find_config,
    read_config,
    unknown_key,
)
from cowrieprocessor.settings.reference import SETTINGS_REFERENCE
from cowrieprocessor.settings.secrets import Secret

SENSOR_KEYS = ("name", "logpath", "downloads", "vtapi", "urlhausapi", "email")
"""What a [[sensor]] may say of itself."""

KEY_SETTINGS = {"vtapi": "virustotal_key", "urlhausapi": "abusech_key"}
"""Which settings the keys of sensors are, if they are one for all."""

MAX_NAME_CHARS = 64

ONLY_SENSOR = "default"
"""How the honeypot is called whose logpath stands in [global]."""

_RETIRED = RETIRED_KEYS | {"report_dir"}
_BY_NAME = {setting.name: setting for setting in SETTINGS_REFERENCE}


@dataclass(frozen=True, slots=True)
class Sensor:
    """One configured honeypot.

    Attributes:
        name: tells it from the others; 1 to 64 printable characters.
        logpath: its live log, which stands for the rotated ones beside it, too, or the folder of its logs; absolute.
        downloads: the folder of its captured files, if one is named; absolute.
        email: who is told about it, if somebody is: an address, or where one is.
        virustotal_key: where the key for VirusTotal is, if it names one; the same serves the whole database.
        abusech_key: the same for the Auth-Key of abuse.ch.
    """

    name: str
    logpath: Path
    downloads: Path | None = None
    email: Secret | None = None
    virustotal_key: Secret | None = None
    abusech_key: Secret | None = None


def load_sensors(
    *, environ: Mapping[str, str] | None = None, toml_path: str | Path | None = None
) -> tuple[Sensor, ...]:
    """Return the sensors of the file of settings, in its order; none if there is no file or it names none.

    Where there is no [[sensor]], a `logpath` in [global] is the one sensor, called `default`.

    No path is looked at: a log or folder may come later.

    Args:
        environ: the environment; `os.environ` by default.
        toml_path: the file; by default what COWRIEPROC_CONFIG names, else `sensors.toml` in the current folder.

    Raises:
        ConfigurationError: a named file cannot be read, or a sensor of it cannot be used; the message says where.
    """
    path = find_config(os.environ if environ is None else environ, toml_path)
    return file_sensors(read_config(path)) if path else ()


def no_sensors(key: str, example: str) -> ConfigurationError:
    """Return the error for a command that was given no path and finds none in the file of settings.

    Args:
        key: what it looks for in [[sensor]]: `logpath` or `downloads`.
        example: a path of this kind.
    """
    lines = ["[[sensor]]", 'name = "pot-1"', f'{key} = "{example}"']
    if key != "logpath":
        lines.insert(2, 'logpath = "/srv/cowrie/var/log/cowrie/cowrie.json"')
    return ConfigurationError(
        f"no path given, and no [[sensor]] with a {key} in sensors.toml here (or in the file that COWRIEPROC_CONFIG "
        "names); give a path, or write there:\n" + "\n".join(lines)
    )


def file_sensors(file: ConfigFile) -> tuple[Sensor, ...]:
    """Return the sensors of a file.

    Raises:
        ConfigurationError: one of them cannot be used, or two are at odds.
    """
    tables = file.document.get(SENSOR_TABLE, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(f"{file.path}: `{SENSOR_TABLE}` is no list of tables; write [[sensor]] above each one")
    sensors = tuple(_sensor(file, number, table) for number, table in enumerate(tables, 1)) or _only_sensor(file)
    names: set[str] = set()
    folders: dict[str, str] = {}
    for sensor in sensors:
        if sensor.name in names:
            raise ConfigurationError(f"{file.path}: two [[sensor]] are called {sensor.name!r}; give each its own name")
        names.add(sensor.name)
        if sensor.downloads is None:
            continue
        first = folders.setdefault(os.path.normpath(sensor.downloads), sensor.name)
        if first != sensor.name:
            raise ConfigurationError(
                f"{file.path}: [[sensor]] {first!r} and {sensor.name!r} have the same downloads; "
                "captured files are one sensor's: correct one of them"
            )
    if tables:
        _refuse_sensor_in_global(file)
    return sensors


def shared_keys(file: ConfigFile, sensors: tuple[Sensor, ...], given: Mapping[str, object]) -> dict[str, Secret]:
    """Return the settings that the sensors' keys are: one key serves a whole database.

    Args:
        file: the file, for messages.
        sensors: its sensors.
        given: the settings in its other tables.

    Raises:
        ConfigurationError: sensors name different keys, or another one than the tables for all.
    """
    found: dict[str, Secret] = {}
    for key, name in KEY_SETTINGS.items():
        of_sensors = [(sensor.name, secret) for sensor in sensors if (secret := getattr(sensor, name)) is not None]
        if not of_sensors:
            continue
        first_name, first = of_sensors[0]
        others = [other for other, secret in of_sensors if not secret.is_same(first)]
        if others:
            named = ", ".join(repr(one) for one in (first_name, *others))
            raise ConfigurationError(
                f"{file.path}: [[sensor]] {named}: different keys as {key}; a database has one key for all its "
                f"files: write one {key} in [global] and none in [[sensor]]"
            )
        for_all = given.get(name)
        if isinstance(for_all, Secret) and not for_all.is_same(first):
            raise ConfigurationError(
                f"{file.path}: [[sensor]] {first_name!r}: {key} is another key than the one for all sensors; "
                "a database has one key for all its files: remove one of them"
            )
        if for_all is None:
            found[name] = first
    return found


def _only_sensor(file: ConfigFile) -> tuple[Sensor, ...]:
    """Return the sensor that [global] describes, if it does, where there is no [[sensor]]."""
    table = file.document.get(GLOBAL_TABLE, {})
    if not isinstance(table, dict):
        return ()  # whoever reads the settings says so
    where = f"[{GLOBAL_TABLE}]"
    if "logpath" not in table:
        if "downloads" in table:
            raise ConfigurationError(f"{file.path}: {where} has downloads and no logpath; write where the log is, too")
        return ()
    downloads = _path(file, table, "downloads", where) if "downloads" in table else None
    return (Sensor(ONLY_SENSOR, _path(file, table, "logpath", where), downloads),)


def _refuse_sensor_in_global(file: ConfigFile) -> None:
    table = file.document.get(GLOBAL_TABLE, {})
    for key in GLOBAL_SENSOR_KEYS:
        if isinstance(table, dict) and key in table:
            raise ConfigurationError(
                f"{file.path}: [{GLOBAL_TABLE}] holds `{key}` beside [[sensor]]; remove it from [{GLOBAL_TABLE}], "
                "and if none of the [[sensor]] has it, write it there, or in another [[sensor]] with a name of its own"
            )


def _sensor(file: ConfigFile, number: int, table: Mapping[str, object]) -> Sensor:
    """Return one sensor."""
    name = table.get("name")
    where = f"[[sensor]] {name!r}" if isinstance(name, str) and name else f"[[sensor]] number {number}"
    for key in table:
        if key not in SENSOR_KEYS and key not in _RETIRED:
            raise unknown_key(f"{file.path}: {where}: unknown key {key!r}", key, SENSOR_KEYS)
    if "name" not in table:
        raise ConfigurationError(f'{file.path}: {where} has no name; write name = "pot-1"')
    if not _is_name(name):
        raise ConfigurationError(
            f"{file.path}: {where}: name is {name!r}; expected 1 to {MAX_NAME_CHARS} printable characters without "
            "blanks around them"
        )
    if "logpath" not in table:
        raise ConfigurationError(f"{file.path}: {where} has no logpath; write where its log, or the folder of it, is")
    return Sensor(
        name=str(name),
        logpath=_path(file, table, "logpath", where),
        downloads=_path(file, table, "downloads", where) if "downloads" in table else None,
        email=_secret(file, table, "email", "report_email", where),
        virustotal_key=_secret(file, table, "vtapi", "virustotal_key", where),
        abusech_key=_secret(file, table, "urlhausapi", "abusech_key", where),
    )


def _is_name(name: object) -> bool:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
        return False
    return name.isprintable() and name == name.strip()


def _path(file: ConfigFile, table: Mapping[str, object], key: str, where: str) -> Path:
    value = table[key]
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigurationError(f"{file.path}: {where}: {key} is {value!r}; expected a path")
    return Path(file.located(value))


def _secret(file: ConfigFile, table: Mapping[str, object], key: str, setting: str, where: str) -> Secret | None:
    if key not in table:
        return None
    read = file_value(file, _BY_NAME[setting], table[key], f"{where}: {key}")
    return read if isinstance(read, Secret) else None
