"""Every source and its stand-in, asked over real connections."""

from __future__ import annotations

from contextlib import ExitStack

from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.abusech import MalwareBazaar, Urlhaus, UrlhausUrl
from cowrieprocessor.enrichment.providers.base import Failed, Limits, Outcome, Provider, Refused, Sample
from cowrieprocessor.enrichment.providers.hashlookup import Hashlookup
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from tests.stand_ins import hashlookup, malwarebazaar, urlhaus, virustotal
from tests.stand_ins.clock import ManualClock
from tests.stand_ins.server import StandIn

SHA256 = "ab" * 32
OTHER = "cd" * 32
ADDRESS = "http://192.0.2.7/bot.arm7"
SAMPLE = Sample(SHA256, download_url=ADDRESS)
KEYS = (virustotal.KEY, malwarebazaar.AUTH_KEY)
UNLIMITED = virustotal.KeyLimits(None, None, None)
SOURCES = ("hashlookup", "malwarebazaar", "urlhaus", "urlhaus-url", "virustotal")
PATIENT_S = 60.0
"""The timeout of a client where an answer comes."""


class Scene:
    """Every source and its stand-in, which knows the sample."""

    def __init__(self, stack: ExitStack, clock: ManualClock) -> None:
        vt = stack.enter_context(virustotal.VirusTotal(clock, limits=UNLIMITED))
        bazaar = stack.enter_context(malwarebazaar.MalwareBazaar(clock))
        haus = stack.enter_context(urlhaus.Urlhaus(clock))
        lookup = stack.enter_context(hashlookup.Hashlookup(clock))
        vt.add(SHA256, malicious=12)
        bazaar.add(SHA256)
        haus.add(SHA256)
        haus.add_address(ADDRESS)
        lookup.add(SHA256)
        key, auth_key = KEYS
        self.virustotal = vt
        self.providers: dict[str, tuple[StandIn, Provider]] = {
            "virustotal": (vt, VirusTotal(vt.url, key)),
            "malwarebazaar": (bazaar, MalwareBazaar(bazaar.url, auth_key, Limits())),
            "urlhaus": (haus, Urlhaus(haus.url, auth_key, Limits())),
            "urlhaus-url": (haus, UrlhausUrl(haus.url, auth_key, Limits())),
            "hashlookup": (lookup, Hashlookup(lookup.url, None, Limits())),
        }


def asked(client: HttpClient, provider: Provider, sample: Sample = SAMPLE) -> Outcome:
    """Ask one source about one file; return the outcome, which must not contain a key."""
    reply = client.send(provider.request([sample]))
    outcomes = {sample.sha256: reply} if isinstance(reply, Failed) else provider.outcomes([sample], reply)
    assert {sample.sha256} == outcomes.keys()
    outcome = outcomes[sample.sha256]
    assert_no_key(repr(outcome), repr(reply), repr(getattr(outcome, "response", "")))
    return outcome


def assert_no_key(*texts: str) -> None:
    """Check that no key, and no useful part of a key, appears in any of these texts."""
    for key in KEYS:
        for said in texts:
            assert key not in said
            assert key[:16] not in said


def summary(outcome: Outcome) -> str:
    """Return the type of an outcome and its kind or scope."""
    match outcome:
        case Failed(kind=kind):
            return f"Failed {kind}"
        case Refused(scope=scope):
            return f"Refused {scope}"
    return type(outcome).__name__
