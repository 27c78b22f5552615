"""Reports as CSV for spreadsheets: one table for all sections, safe to open.

A text that a spreadsheet could take for a formula is prefixed with an apostrophe, control characters become escapes,
and URLs are defanged and lose their credentials. The exact texts are in the JSON.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from cowrieprocessor.reporting.render.json import plain
from cowrieprocessor.reporting.reports import Report
from cowrieprocessor.sanitize import csv_safe, defang_all

COLUMNS = (
    "period",
    "sensor",
    "section",
    "rank",
    "key",
    "sessions",
    "value",
    "previous",
    "change_percent",
    "name",
    "size_bytes",
    "mime_type",
    "verdict",
    "new",
    "first_seen",
    "provider",
    "at",
    "classification",
    "total",
    "previous_verdict",
    "previous_classification",
    "previous_total",
    "enrichment_status",
)
"""The header. `key` identifies what a row is about, `value` is its number; docs/reports.md lists both by section."""

Cell = str | int | float | bool | None


def report_csv(report: Report) -> str:
    """Return a report as CSV (RFC 4180: comma, double quotes, CR LF)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in _rows(report):
        cells: dict[str, Cell] = {"period": report.period.name, "sensor": report.sensor, **row}
        writer.writerow([_cell(cells.get(column)) for column in COLUMNS])
    return out.getvalue()


def _cell(value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return str(value)
    return csv_safe(defang_all(value)) if value else ""


def _rows(report: Report) -> Iterator[dict[str, Cell]]:
    if not report.completeness.complete:
        yield {"section": "incomplete", "key": "backfilled_share", "value": report.completeness.share}
    for name, change in report.changes().items():
        yield {
            "section": "totals",
            "key": name,
            "value": change.current,
            "previous": change.previous,
            "change_percent": change.percent,
        }
    for rank, file in enumerate(report.files, start=1):
        yield {
            "section": "files",
            "rank": rank,
            "key": file.sha256,
            "sessions": file.sessions,
            "value": file.downloads + file.uploads,
            "name": file.name,
            "size_bytes": file.size_bytes,
            "mime_type": file.mime_type,
            "verdict": file.verdict,
            "enrichment_status": file.enrichment_status,
            "new": file.new,
            "first_seen": plain(file.first_seen),
        }
    for rank, found in enumerate(report.found_malicious, start=1):
        yield {
            "section": "found_malicious",
            "rank": rank,
            "key": found.sha256,
            "sessions": found.session_count,
            "value": found.positives,
            "name": found.name,
            "size_bytes": found.size_bytes,
            "mime_type": found.mime_type,
            "verdict": found.verdict,
            "first_seen": plain(found.first_seen),
            "provider": found.provider,
            "at": plain(found.found_at),
            "classification": found.classification,
            "total": found.total,
        }
    for rank, changed in enumerate(report.changed_verdicts, start=1):
        yield {
            "section": "changed_verdicts",
            "rank": rank,
            "key": changed.sha256,
            "sessions": changed.session_count,
            "value": changed.positives,
            "previous": changed.previous_positives,
            "name": changed.name,
            "verdict": changed.verdict,
            "provider": changed.provider,
            "at": plain(changed.changed_at),
            "classification": changed.classification,
            "total": changed.total,
            "previous_verdict": changed.previous_verdict,
            "previous_classification": changed.previous_classification,
            "previous_total": changed.previous_total,
        }
    for section, ranking in report.rankings().items():
        for rank, ranked in enumerate(ranking.top, start=1):
            yield {
                "section": section,
                "rank": rank,
                "key": ranked.value,
                "sessions": ranked.sessions,
                "value": ranked.times,
            }
    for rank, letters in enumerate(report.dead_letters, start=1):
        yield {"section": "dead_letters", "rank": rank, "key": letters.reason, "value": letters.count}
    for section, count in report.left_out().items():
        yield {"section": "left_out", "key": section, "value": count}
