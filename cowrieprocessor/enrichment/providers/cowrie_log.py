"""What Cowrie itself asked VirusTotal and wrote into its log: verdicts that cost no quota.

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
    moment_of_epoch,
    moment_of_text,
    parsed,
    text,
    within_reason,
)
from cowrieprocessor.errors import UnreadableTimestamp
from cowrieprocessor.events import parse_timestamp

EVENT_TYPE = "cowrie.virustotal.scanfile"

_MAX_ENGINES = 10_000
_KEPT = ("sha256", "is_new", "positives", "total", "scan_date")


@dataclass(frozen=True, slots=True)
class Scan:
    """What one event says.

    Attributes:
        sha256: the file that VirusTotal was asked about.
        finding: what VirusTotal said; a file that it did not know has the verdict `unknown`.
        scanned_at: when Cowrie asked.
    """

    sha256: str
    finding: ProviderVerdict
    scanned_at: dt.datetime


class CowrieLog:
    """Reads events; nothing is asked, and nobody.

    `total` counts every engine, also those that gave no verdict: it is larger than the total that VirusTotal's own
    report leads to, and not to be compared with it.

    Args:
        malicious_at: how many engines have to say malicious for the file to count as malicious.
    """

    name: ClassVar[str] = COWRIE_VIRUSTOTAL

    def __init__(self, malicious_at: int = 1) -> None:
        self.malicious_at = malicious_at

    def scan(self, payload: Mapping[str, Any] | str | bytes) -> Scan | None:
        """Return what an event says, or None if it says nothing about a file. Never raises.

        Args:
            payload: one log line, decoded or not.
        """
        event = mapping(parsed(payload) if isinstance(payload, (str, bytes)) else payload)
        sha256 = hexadecimal(event.get("sha256"), 64)
        if sha256 is None or event.get("eventid") != EVENT_TYPE:
            return None
        try:
            scanned_at = within_reason(parse_timestamp(event.get("timestamp")))
        except UnreadableTimestamp:
            return None
        finding = self.finding(bounded(_kept(event)))
        said_whether_new = (text(event.get("is_new")) or "").lower() in ("true", "false")
        if scanned_at is None or (finding.total is None and not said_whether_new):
            return None
        return Scan(sha256, finding, scanned_at)

    def finding(self, response: Mapping[str, Any]) -> ProviderVerdict:
        """Return what the kept fields of an event say. Never raises."""
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
            last_analysis=moment_of_epoch(scan_date) or moment_of_text(scan_date),
            response=dict(response),
        )


def _kept(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an event is worth keeping: of the engines those that detected something."""
    kept = {name: event[name] for name in _KEPT if event.get(name) is not None}
    scans = mapping(event.get("scans")).items()
    detected = {
        engine: mapping(scan).get("result")
        for engine, scan in scans
        if (text(mapping(scan).get("detected")) or "").lower() == "true"
    }
    return {**kept, "detected": detected} if detected else kept
