"""The sources in the order of asking: cheap and certain ones first.

A new source is a module, one entry in `SOURCES`, its settings, and a line in docs/enrichment.md.
"""

from __future__ import annotations

from collections.abc import Callable

from cowrieprocessor.enrichment.providers.abusech import MalwareBazaar, Urlhaus, UrlhausUrl
from cowrieprocessor.enrichment.providers.base import Limits, Provider
from cowrieprocessor.enrichment.providers.hashlookup import Hashlookup
from cowrieprocessor.enrichment.providers.virustotal import PUBLIC_LIMITS, VirusTotal
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings import SETTINGS_REFERENCE, Secret, Settings

_VARIABLES = {setting.name: setting.variable for setting in SETTINGS_REFERENCE}


def _hashlookup(settings: Settings, key: str | None) -> Provider:
    return Hashlookup(settings.hashlookup_url, key, Limits(per_minute=settings.hashlookup_per_minute))


def _malwarebazaar(settings: Settings, key: str | None) -> Provider:
    return MalwareBazaar(settings.malwarebazaar_url, key, Limits(per_minute=settings.malwarebazaar_per_minute))


def _urlhaus(settings: Settings, key: str | None) -> Provider:
    return Urlhaus(settings.urlhaus_url, key, Limits(per_minute=settings.urlhaus_per_minute))


def _urlhaus_url(settings: Settings, key: str | None) -> Provider:
    return UrlhausUrl(settings.urlhaus_url, key, Limits(per_minute=settings.urlhaus_per_minute))


def _virustotal(settings: Settings, key: str | None) -> Provider:
    own = Limits(settings.virustotal_per_minute, settings.virustotal_per_day, settings.virustotal_per_month)
    limits = Limits(
        own.per_minute or PUBLIC_LIMITS.per_minute,
        own.per_day or PUBLIC_LIMITS.per_day,
        own.per_month or PUBLIC_LIMITS.per_month,
    )
    return VirusTotal(
        settings.virustotal_url,
        key,
        limits,
        own,
        malicious_at=settings.virustotal_malicious_at,
        user=settings.virustotal_user,
    )


SOURCES: dict[str, tuple[str | None, Callable[[Settings, str | None], Provider]]] = {
    Hashlookup.name: (None, _hashlookup),
    MalwareBazaar.name: ("abusech_key", _malwarebazaar),
    Urlhaus.name: ("abusech_key", _urlhaus),
    UrlhausUrl.name: ("abusech_key", _urlhaus_url),
    VirusTotal.name: ("virustotal_key", _virustotal),
}
"""By the source's name: the setting of its key (None if it needs none), and the factory of its provider."""


def names_in_use(settings: Settings) -> tuple[str, ...]:
    """Return the names of the sources to ask, in order, without those that lack their key; no key is read."""
    named = SOURCES if settings.enrichment_providers is None else settings.enrichment_providers
    return tuple(name for name in named if name in SOURCES and not lacks_key(settings, name))


def lacks_key(settings: Settings, name: str) -> bool:
    """Return whether a source needs a key that the settings do not give."""
    setting = SOURCES[name][0]
    return setting is not None and getattr(settings, setting) is None


def configured_providers(settings: Settings) -> list[Provider]:
    """Return the providers of the sources to ask, in order: those that the settings name, else all whose key is given.

    Raises:
        ConfigurationError: a named source is not known or its key is not given, or a key cannot be read.
    """
    named = settings.enrichment_providers
    providers = []
    for name in SOURCES if named is None else named:
        if name not in SOURCES:
            raise ConfigurationError(
                f"{_VARIABLES['enrichment_providers']}: no source is called {name!r}; known are {', '.join(SOURCES)}"
            )
        key_setting, make = SOURCES[name]
        secret: Secret | None = getattr(settings, key_setting) if key_setting else None
        if key_setting is not None and secret is None:
            if named is None:
                continue
            raise ConfigurationError(
                f"{_VARIABLES['enrichment_providers']} names {name}, which needs a key: set "
                f"{_VARIABLES[key_setting]}, or take {name} out"
            )
        providers.append(make(settings, secret.reveal() if secret is not None else None))
    return providers
