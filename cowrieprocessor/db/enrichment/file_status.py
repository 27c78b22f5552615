"""The four values of `enrichment_status`, and the verdict that the columns of one row express."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PENDING, ENRICHED, FAILED, SKIPPED = "pending", "enriched", "failed", "skipped"
STATUSES = frozenset({PENDING, ENRICHED, FAILED, SKIPPED})


def verdict_of(row: Mapping[str, Any]) -> str:
    """Return the verdict that the vt_* columns of a row from a pre-release `files` table express."""
    if row["vt_malicious"]:
        return "malicious"
    return "clean" if row["vt_scan_date"] is not None and row["vt_total"] else "unknown"
