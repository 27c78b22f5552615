"""The sensors in the settings file: the honeypots, and where their logs and captured files are."""

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
from cowrieprocessor.settings.paths import is_followed
from cowrieprocessor.settings.reference import SETTINGS_REFERENCE
from cowrieprocessor.settings.secrets import Secret

SENSOR_KEYS = ("name", "logpath", "downloads", "vtapi", "urlhausapi", "email")
"""The keys that a [[sensor]] may have."""

KEY_SETTINGS = {"vtapi": "virustotal_key", "urlhausapi": "abusech_key"}
"""The API keys that a sensor may name, with the settings that they become; see `shared_keys`."""

MAX_NAME_CHARS = 64

GLOBAL_SENSOR_NAME = "default"
"""Name of the honeypot whose logpath is in [global]."""

_RETIRED = RETIRED_KEYS | {"report_dir"}
_BY_NAME = {setting.name: setting for setting in SETTINGS_REFERENCE}


@dataclass(frozen=True, slots=True)
class Sensor:
    """One configured honeypot.

    Attributes:
        name: its unique name; 1 to 64 printable characters.
        logpath: the absolute path of its live log, which includes the rotated logs next to it, or of its log folder.
        downloads: the absolute path of the folder of its captured files, if any.
        email: the recipient of its reports, if any: an address or a reference to one.
        virustotal_key: the reference to its VirusTotal key, if any; a database has one key for all its sensors.
        abusech_key: the same for the Auth-Key of abuse.ch.
        is_named: whether the file names it, so that its logs get the name; it does not name the one in [global].
    """

    name: str
    logpath: Path
    downloads: Path | None = None
    email: Secret | None = None
    virustotal_key: Secret | None = None
    abusech_key: Secret | None = None
    is_named: bool = True


def load_sensors(
    *, environ: Mapping[str, str] | None = None, toml_path: str | Path | None = None
) -> tuple[Sensor, ...]:
    """Return the sensors in the settings file, in file order; empty if there is no file or it has no sensors.

    Without [[sensor]], a `logpath` in [global] is the only sensor, named `default`. Paths are not checked: a log or
    folder may be created later.

    Args:
        environ: the environment; `os.environ` by default.
        toml_path: the file; by default the one that COWRIEPROC_CONFIG names, else `sensors.toml` in the current folder.

    Raises:
        ConfigurationError: a named file cannot be read, or a sensor is invalid; the message says where.
    """
    path = find_config(os.environ if environ is None else environ, toml_path)
    return file_sensors(read_config(path)) if path else ()


def configured_logs() -> tuple[Path, ...]:
    """Return the logs of every configured sensor; nothing need be there yet.

    Raises:
        ConfigurationError: no sensor is configured; the message shows how to configure one.
    """
    logs = tuple(sensor.logpath for sensor in load_sensors())
    if not logs:
        raise no_sensors("logpath")
    return logs


def no_sensors(key: str) -> ConfigurationError:
    """Return the error for a command that has no path, neither as an argument nor in the settings file.

    Args:
        key: the key that the command needs from a [[sensor]]: `logpath` or `downloads`.
    """
    lines = ["[[sensor]]", 'name = "pot-1"', 'logpath = "/srv/cowrie/var/log/cowrie/cowrie.json"']
    if key != "logpath":
        lines.append(f'{key} = "/srv/cowrie/var/lib/cowrie/downloads"')
    return ConfigurationError(
        f"no path given, and no [[sensor]] with a {key} in sensors.toml here (or in the file that COWRIEPROC_CONFIG "
        "names); give a path, or write there:\n" + "\n".join(lines)
    )


def file_sensors(file: ConfigFile) -> tuple[Sensor, ...]:
    """Return the sensors of a file.

    Raises:
        ConfigurationError: a sensor is invalid, or two of them conflict.
    """
    tables = file.document.get(SENSOR_TABLE, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(
            f"{file.path}: `{SENSOR_TABLE}` is not a list of tables; write [[sensor]] above each sensor"
        )
    sensors = tuple(_read_sensor(file, number, table) for number, table in enumerate(tables, 1)) or _global_sensor(file)
    names: set[str] = set()
    folders: dict[str, str] = {}
    for sensor in sensors:
        _require_unique_name(file, sensor, names)
        _require_own_downloads(file, sensor, folders)
    _require_own_logs(file, sensors)
    if tables:
        _refuse_sensor_in_global(file)
    return sensors


def _require_unique_name(file: ConfigFile, sensor: Sensor, names: set[str]) -> None:
    """Add a sensor's name to the names of the sensors before it, which must not include it."""
    if sensor.name in names:
        raise ConfigurationError(
            f"{file.path}: two [[sensor]] tables are named {sensor.name!r}; give each its own name"
        )
    names.add(sensor.name)


def _require_own_downloads(file: ConfigFile, sensor: Sensor, folders: dict[str, str]) -> None:
    """Add a sensor's downloads folder to those of the sensors before it, which must not include it.

    Args:
        file: the file, for messages.
        sensor: the sensor.
        folders: names of sensors by their normalized downloads folder.
    """
    if sensor.downloads is None:
        return
    first = folders.setdefault(os.path.normpath(sensor.downloads), sensor.name)
    if first != sensor.name:
        raise ConfigurationError(
            f"{file.path}: [[sensor]] {first!r} and {sensor.name!r} have the same downloads folder; "
            "captured files belong to one sensor: correct one of them"
        )


def _require_own_logs(file: ConfigFile, sensors: tuple[Sensor, ...]) -> None:
    """Check that no log lies under the logpath of two sensors: it would have two names."""
    for number, sensor in enumerate(sensors, 1):
        for earlier_number, earlier in enumerate(sensors[: number - 1], 1):
            paths = os.path.normpath(earlier.logpath), os.path.normpath(sensor.logpath)
            if is_followed(*paths) or is_followed(*reversed(paths)):
                raise ConfigurationError(
                    f"{file.path}: [[sensor]] {earlier.name!r}{_on_line(file, earlier_number)} and {sensor.name!r}"
                    f"{_on_line(file, number)}: logpath {earlier.logpath} and {sensor.logpath} overlap; a log belongs "
                    "to one sensor: correct one of them"
                )


def _on_line(file: ConfigFile, number: int) -> str:
    line = file.line_of_sensor(number, "logpath")
    return f" (line {line})" if line else ""


def shared_keys(file: ConfigFile, sensors: tuple[Sensor, ...], given: Mapping[str, object]) -> dict[str, Secret]:
    """Return the settings that the keys of the sensors set: a database has one key for all its sensors.

    Args:
        file: the file, for messages.
        sensors: its sensors.
        given: the settings in its other tables; they are not repeated in the result.

    Raises:
        ConfigurationError: sensors name different keys, or a key that differs from the one in the other tables.
    """
    shared: dict[str, Secret] = {}
    for key, name in KEY_SETTINGS.items():
        secrets = {sensor.name: secret for sensor in sensors if (secret := getattr(sensor, name)) is not None}
        if not secrets:
            continue
        secret = _shared_key(file, key, secrets, given.get(name))
        if name not in given:
            shared[name] = secret
    return shared


def _shared_key(file: ConfigFile, key: str, secrets: Mapping[str, Secret], global_key: object) -> Secret:
    """Return the key that all sensors agree on.

    Args:
        file: the file, for messages.
        key: the name of the key in [[sensor]].
        secrets: the keys by sensor; not empty.
        global_key: the key for all sensors, if one is set.
    """
    (first_name, first), *others = secrets.items()
    different = [name for name, secret in others if not secret.is_same(first)]
    if different:
        names = ", ".join(repr(name) for name in (first_name, *different))
        raise ConfigurationError(
            f"{file.path}: [[sensor]] {names}: different keys in {key}; a database has one key for all its "
            f"files: set {key} in [global] and remove it from [[sensor]]"
        )
    if isinstance(global_key, Secret) and not global_key.is_same(first):
        raise ConfigurationError(
            f"{file.path}: [[sensor]] {first_name!r}: {key} differs from the key for all sensors; "
            "a database has one key for all its files: remove one of them"
        )
    return first


def _global_sensor(file: ConfigFile) -> tuple[Sensor, ...]:
    """Return the sensor that [global] describes, if any, for a file without [[sensor]]."""
    table = file.document.get(GLOBAL_TABLE, {})
    if not isinstance(table, dict):
        return ()  # `file_settings` reports it
    where = f"[{GLOBAL_TABLE}]"
    if "logpath" not in table:
        if "downloads" in table:
            raise ConfigurationError(f"{file.path}: {where} has downloads but no logpath; add the path of the log")
        return ()
    downloads = _path(file, table, "downloads", where) if "downloads" in table else None
    return (Sensor(GLOBAL_SENSOR_NAME, _path(file, table, "logpath", where), downloads, is_named=False),)


def _refuse_sensor_in_global(file: ConfigFile) -> None:
    table = file.document.get(GLOBAL_TABLE, {})
    for key in GLOBAL_SENSOR_KEYS:
        if isinstance(table, dict) and key in table:
            raise ConfigurationError(
                f"{file.path}: [{GLOBAL_TABLE}] has `{key}` in addition to [[sensor]]; remove it from "
                f"[{GLOBAL_TABLE}], and if no [[sensor]] has it, add it there, or to a new [[sensor]] with its own name"
            )


def _read_sensor(file: ConfigFile, number: int, table: Mapping[str, object]) -> Sensor:
    """Return the sensor that a [[sensor]] table describes; `number` counts the tables from 1."""
    name = table.get("name")
    where = f"[[sensor]] {name!r}" if isinstance(name, str) and name else f"[[sensor]] number {number}"
    for key in table:
        if key not in SENSOR_KEYS and key not in _RETIRED:
            raise unknown_key(f"{file.path}: {where}: unknown key {key!r}", key, SENSOR_KEYS)
    if "name" not in table:
        raise ConfigurationError(f'{file.path}: {where} has no name; write name = "pot-1"')
    require_name(name, f"{file.path}: {where}: name")
    if "logpath" not in table:
        raise ConfigurationError(f"{file.path}: {where} has no logpath; add the path of its log or log folder")
    return Sensor(
        name=str(name),
        logpath=_path(file, table, "logpath", where),
        downloads=_path(file, table, "downloads", where) if "downloads" in table else None,
        email=_secret(file, table, "email", "report_email", where),
        virustotal_key=_secret(file, table, "vtapi", "virustotal_key", where),
        abusech_key=_secret(file, table, "urlhausapi", "abusech_key", where),
    )


def require_name(name: object, where: str) -> str:
    """Return the name of a sensor if it is one.

    Raises:
        ConfigurationError: it is none; the message begins with `where`.
    """
    is_text = isinstance(name, str) and 1 <= len(name) <= MAX_NAME_CHARS
    if not isinstance(name, str) or not is_text or not name.isprintable() or name != name.strip():
        raise ConfigurationError(
            f"{where} is {name!r}; expected 1 to {MAX_NAME_CHARS} printable characters without "
            "leading or trailing blanks"
        )
    return name


def _path(file: ConfigFile, table: Mapping[str, object], key: str, where: str) -> Path:
    value = table[key]
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigurationError(f"{file.path}: {where}: {key} is {value!r}; expected a path")
    return Path(file.resolve(value))


def _secret(file: ConfigFile, table: Mapping[str, object], key: str, setting: str, where: str) -> Secret | None:
    if key not in table:
        return None
    value = file_value(file, _BY_NAME[setting], table[key], f"{where}: {key}")
    return value if isinstance(value, Secret) else None
