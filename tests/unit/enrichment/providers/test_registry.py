"""Which sources are asked, in which order, and what a source that is named may lack."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.enrichment.providers.base import Limits, Provider
from cowrieprocessor.enrichment.providers.registry import SOURCES, configured_providers
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings import Settings, load_settings
from tests.unit.enrichment.asking import KEY

IN_ORDER = ["hashlookup", "malwarebazaar", "urlhaus", "urlhaus-url", "virustotal"]
BOTH_KEYS = {"virustotal_key": KEY, "abusech_key": "an-auth-key"}


def settings(**given: object) -> Settings:
    """Return settings as flags would set them."""
    return load_settings(overrides=given, environ={}, toml_path=None)


def named(**given: object) -> list[str]:
    """Return the names of the sources that the settings configure."""
    return [provider.name for provider in configured_providers(settings(**given))]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["hashlookup"]),
        ({"virustotal_key": KEY}, ["hashlookup", "virustotal"]),
        ({"abusech_key": KEY}, IN_ORDER[:4]),
        (BOTH_KEYS, IN_ORDER),
        ({**BOTH_KEYS, "enrichment_providers": "virustotal,hashlookup"}, ["virustotal", "hashlookup"]),
        ({**BOTH_KEYS, "enrichment_providers": "none"}, []),
    ],
)
def test_sources_in_use(given: dict[str, Any], expected: list[str]) -> None:
    """Sources are asked in the order that the settings name; by default all that have their key, cheap ones first."""
    assert expected == named(**given)


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"enrichment_providers": "virustotal"}, "COWRIEPROC_VIRUSTOTAL_KEY"),
        ({"enrichment_providers": "hashlookup,urlhaus"}, "COWRIEPROC_ABUSECH_KEY"),
        ({"enrichment_providers": "no-such-source"}, "COWRIEPROC_ENRICHMENT_PROVIDERS"),
        ({"enrichment_providers": "cowrie-virustotal"}, "COWRIEPROC_ENRICHMENT_PROVIDERS"),
        ({"virustotal_key": "env:NOT_SET_ANYWHERE"}, "virustotal-key: the environment variable NOT_SET_ANYWHERE"),
    ],
)
def test_what_is_missing_is_named(given: dict[str, Any], variable: str) -> None:
    """A named source without its key, or an unknown one, is an error that names the setting to change."""
    with pytest.raises(ConfigurationError, match=variable):
        configured_providers(settings(**given))


def test_settings_reach_the_sources(tmp_path: Path) -> None:
    """URL, key, limits, user and threshold come from the settings; the user's own limits are kept apart."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    made = configured_providers(
        settings(
            virustotal_key=f"file:{file}",
            virustotal_url="http://127.0.0.1:8/api/v3",
            virustotal_user="me",
            virustotal_per_day=5000,
            virustotal_malicious_at=3,
            hashlookup_per_minute=7,
        )
    )
    hashlookup, virustotal = made

    assert isinstance(virustotal, VirusTotal)
    assert (virustotal.key, virustotal.url, virustotal.user) == (KEY, "http://127.0.0.1:8/api/v3", "me")
    assert virustotal.limits == Limits(4, 5000, 15_500)
    assert virustotal.own_limits == Limits(None, 5000, None)
    assert virustotal.malicious_at == 3
    assert hashlookup.limits == Limits(per_minute=7)
    assert hashlookup.key is None


def test_a_source_is_called_as_it_calls_itself() -> None:
    """Each provider has the name under which it is listed, and that fits its column."""
    for name, (_, make) in SOURCES.items():
        made = make(settings(), None)
        assert isinstance(made, Provider)
        assert (name, inspect.isabstract(type(made))) == (made.name, False)
        assert len(name) <= 32
        assert KEY not in repr(make(settings(), KEY))
