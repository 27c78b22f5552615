"""VirusTotal's verdicts that Cowrie's own plug-in logged: they cost no quota.

Source: Cowrie, src/cowrie/output/virustotal.py and docs/OUTPUT.rst, `cowrie.virustotal.scanfile`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cowrieprocessor.db.enrichment.provider_verdict import (
    CLEAN,
    COWRIE_VIRUSTOTAL,
    MALICIOUS,
    SUSPICIOUS,
    UNKNOWN,
    ProviderVerdict,
)
from cowrieprocessor.enrichment.providers.json_values import (
    bounded,
    hexadecimal,
    integer,
    mapping,
    parsed,
    plausible_time,
    text,
    time_from_epoch,
    time_from_text,
)
from cowrieprocessor.errors import UnreadableTimestamp
from cowrieprocessor.events import parse_timestamp

EVENT_TYPE = "cowrie.virustotal.scanfile"

_MAX_ENGINES = 10_000
_STORED = ("sha256", "is_new", "positives", "total", "scan_date")


@dataclass(frozen=True, slots=True)
class Scan:
    """The content of one event.

    Attributes:
        sha256: the file that Cowrie asked VirusTotal about.
        verdict: VirusTotal's verdict; `unknown` if it did not know the file.
        scanned_at: when Cowrie asked.
    """

    sha256: str
    verdict: ProviderVerdict
    scanned_at: dt.datetime


class CowrieLog:
    """Reads `cowrie.virustotal.scanfile` events; it sends no requests.

    `total` counts every engine, including those without a verdict: it is larger than the total of VirusTotal's own
    report and must not be compared with it.

    Args:
        malicious_at: how many engines must say malicious for a file to count as malicious, 1 or more.
    """

    name: ClassVar[str] = COWRIE_VIRUSTOTAL

    def __init__(self, malicious_at: int = 1) -> None:
        self.malicious_at = malicious_at

    def scan(self, payload: Mapping[str, Any] | str | bytes) -> Scan | None:
        """Return the content of an event, or None if it says nothing about a file. Never raises.

        Args:
            payload: one log line, decoded or not.
        """
        event = mapping(parsed(payload) if isinstance(payload, (str, bytes)) else payload)
        sha256 = hexadecimal(event.get("sha256"), 64)
        if sha256 is None or event.get("eventid") != EVENT_TYPE:
            return None
        try:
            scanned_at = plausible_time(parse_timestamp(event.get("timestamp")))
        except UnreadableTimestamp:
            return None
        verdict = self.verdict(bounded(_relevant(event)))
        has_is_new = (text(event.get("is_new")) or "").lower() in ("true", "false")
        if scanned_at is None or (verdict.total is None and not has_is_new):
            return None
        return Scan(sha256, verdict, scanned_at)

    def verdict(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return the verdict of the stored fields of an event. Never raises."""
        positives = integer(response.get("positives"), high=_MAX_ENGINES)
        total = integer(response.get("total"), high=_MAX_ENGINES)
        if positives is None or total is None or positives > total:
            positives, total = None, None
        verdict = CLEAN if total else UNKNOWN
        if positives:
            verdict = MALICIOUS if positives >= self.malicious_at else SUSPICIOUS
        scan_date = response.get("scan_date")
        return ProviderVerdict(
            verdict,
            positives=positives,
            total=total,
            last_analysis=time_from_epoch(scan_date) or time_from_text(scan_date),
            response=dict(response),
        )


def _relevant(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event that are stored, and of the engines those that detected something."""
    relevant = {name: event[name] for name in _STORED if event.get(name) is not None}
    scans = mapping(event.get("scans")).items()
    detected = {
        engine: mapping(scan).get("result")
        for engine, scan in scans
        if (text(mapping(scan).get("detected")) or "").lower() == "true"
    }
    return {**relevant, "detected": detected} if detected else relevant
