"""Settings in environment variables, and variables that are misspelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cowrieprocessor.settings.config_file import CONFIG_VARIABLE, unknown_key
from cowrieprocessor.settings.reference import SETTINGS_REFERENCE
from cowrieprocessor.settings.secrets import Secret

PREFIX = "COWRIEPROC_"

PROJECT_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        *("COWRIE_PYTHON", "COWRIE_VENV", "E2E_DAY_S", "E2E_HOSTS"),
        *("KILLS", "KILLS_SEED", "ROTATION_SEED", "ROTATION_SEQUENCES"),
        *("REQUIRE_COWRIE", "REQUIRE_POSTGRES", "TORTURE"),
    )
)
"""Variables of the Makefile and of the tests, which set nothing here."""


def environment_settings(environ: Mapping[str, str]) -> dict[str, object]:
    """Return the settings in the environment by name, converted to their types. An empty variable counts as not set.

    Raises:
        ConfigurationError: a value is invalid.
    """
    values: dict[str, object] = {}
    for setting in SETTINGS_REFERENCE:
        for variable in (setting.variable, *setting.aliases):
            value = environ.get(variable)
            if value:
                values[setting.name] = setting.value(value, variable)
                break
    return values


def refuse_unknown_variables(environ: Mapping[str, str], values: Iterable[object]) -> None:
    """Refuse a variable with our prefix that sets nothing.

    Args:
        environ: the environment.
        values: all settings in the file and in the environment, also those that others overrule; a variable that one
            of them refers to (`env:NAME`) may have any name.

    Raises:
        ConfigurationError: there is such a variable; the message has the closest known one.
    """
    known = {variable for setting in SETTINGS_REFERENCE for variable in (setting.variable, *setting.aliases)}
    known.add(CONFIG_VARIABLE)
    referred = {_referred(value) for value in values}
    for name in sorted(environ):
        if name.startswith(PREFIX) and environ[name] and name not in known | PROJECT_VARIABLES | referred:
            message = f"{name}: unknown setting in the environment, and no setting in use names it"
            raise unknown_key(message, name, known)


def _referred(value: object) -> str | None:
    if isinstance(value, Secret):
        return value.variable
    return value.removeprefix("env:").strip() if isinstance(value, str) and value.startswith("env:") else None
