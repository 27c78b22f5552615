"""All stand-ins together, the settings for them, and databases with files to ask about."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.jobs.enrichment.run import EnrichOptions, EnrichResult, enrich
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Secret, Settings
from tests.stand_ins.clock import ManualClock
from tests.stand_ins.hashlookup import Hashlookup
from tests.stand_ins.malwarebazaar import AUTH_KEY, MalwareBazaar
from tests.stand_ins.urlhaus import Urlhaus
from tests.stand_ins.virustotal import KEY, USER, KeyLimits, VirusTotal


@dataclass
class Services:
    """Every stand-in, on one clock."""

    clock: ManualClock
    virustotal: VirusTotal
    malwarebazaar: MalwareBazaar
    urlhaus: Urlhaus
    hashlookup: Hashlookup

    def settings(self, **changes: Any) -> Settings:
        """Return settings that name exactly these services."""
        base = Settings(
            virustotal_key=Secret(KEY, "COWRIEPROC_VIRUSTOTAL_KEY"),
            virustotal_user=USER,
            virustotal_url=self.virustotal.url,
            abusech_key=Secret(AUTH_KEY, "COWRIEPROC_ABUSECH_KEY"),
            malwarebazaar_url=self.malwarebazaar.url,
            urlhaus_url=self.urlhaus.url,
            hashlookup_url=self.hashlookup.url,
            request_timeout_s=10.0,
        )
        return replace(base, **changes)

    def environment(self) -> dict[str, str]:
        """Return environment variables that name exactly these services."""
        return {
            "COWRIEPROC_VIRUSTOTAL_KEY": KEY,
            "COWRIEPROC_VIRUSTOTAL_URL": self.virustotal.url,
            "COWRIEPROC_ABUSECH_KEY": AUTH_KEY,
            "COWRIEPROC_MALWAREBAZAAR_URL": self.malwarebazaar.url,
            "COWRIEPROC_URLHAUS_URL": self.urlhaus.url,
            "COWRIEPROC_HASHLOOKUP_URL": self.hashlookup.url,
        }

    def enrich(self, engine: Engine, options: EnrichOptions | None = None, **changes: Any) -> EnrichResult:
        """Run enrichment on a database, with the clock of the services."""
        return enrich(engine, self.settings(**changes), options, clock=self.clock)

    def requests(self) -> dict[str, int]:
        """Return how many requests each service has received."""
        named = {
            "virustotal": self.virustotal,
            "malwarebazaar": self.malwarebazaar,
            "urlhaus": self.urlhaus,
            "hashlookup": self.hashlookup,
        }
        return {name: len(service.log) for name, service in named.items()}


@contextlib.contextmanager
def services(limits: KeyLimits | None = None, clock: ManualClock | None = None) -> Iterator[Services]:
    """Run all services and yield them."""
    clock = clock or ManualClock()
    with (
        VirusTotal(clock, limits=limits) as virustotal,
        MalwareBazaar(clock) as malwarebazaar,
        Urlhaus(clock) as urlhaus,
        Hashlookup(clock) as hashlookup,
    ):
        yield Services(clock, virustotal, malwarebazaar, urlhaus, hashlookup)


def sha256_of(name: object) -> str:
    """Return the hash of a file from the name that a test gives it."""
    return hashlib.sha256(str(name).encode()).hexdigest()


def download(session: object, sha256: str, *, day: int = 1, url: str | None = None) -> dict[str, Any]:
    """Return the event of one download."""
    return {
        "eventid": "cowrie.session.file_download",
        "session": f"s{session}",
        "timestamp": f"2026-02-{day:02d}T10:00:00.000000Z",
        "src_ip": "198.51.100.7",
        "sensor": "hive",
        "shasum": sha256,
        "url": url or f"http://203.0.113.9/{sha256[:6]}",
        "outfile": f"var/lib/cowrie/downloads/{sha256}",
    }


def load(engine: Engine, folder: Path, events: Sequence[dict[str, Any]], name: str = "cowrie.json") -> None:
    """Load events as Cowrie writes them, through the loader."""
    path = folder / name
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")
    BulkLoader(engine).load([path])
