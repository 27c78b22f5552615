"""How enrichment stands, as text: files, sources, quota, what failed, and when the backlog will be done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
from cowrieprocessor.reporting.enrichment_status import EnrichmentStatus, LedgerStatus, SourceStatus
from cowrieprocessor.reporting.queries.enrichment import EnrichJob, FailureKind
from cowrieprocessor.reporting.render.terminal import (
    SHORT_HASH_CHARS,
    Column,
    Screen,
    cell,
    draw,
    heading,
    moment_text,
    number,
    plural,
    sentence,
    shown,
    table,
)

_SHOWN_KINDS = 20
_ENDED = ("done", "stopped", "failed")


def enrichment_text(status: EnrichmentStatus, screen: Screen) -> str:
    """Return how enrichment stands as text."""
    parts: list[RenderableType] = [
        Text(f"Enrichment at {moment_text(status.at)} UTC", style="bold"),
        sentence(_files_line(status)),
        sentence(_job_line(status.job)),
    ]
    if status.spreading.hashes:
        since = f", the oldest since {moment_text(status.spreading.since)} UTC" if status.spreading.since else ""
        files = plural(status.spreading.hashes, "file")
        parts.append(sentence(f"New verdicts of {files} are still to reach their sessions{since}."))
    parts += _sources(status.sources, screen)
    if status.without_key:
        parts.append(sentence(f"\nNot asked, as no key is given: {', '.join(status.without_key)}.", "dim"))
    parts += _ledgers(status.ledgers, screen)
    return draw(screen, *parts, *_failures(status.failures, screen))


def _files_line(status: EnrichmentStatus) -> str:
    known = [(name, status.verdicts[name]) for name in VERDICTS if status.verdicts.get(name)]
    others = sum(count for name, count in status.verdicts.items() if name not in VERDICTS)
    told = [f"{count:,} {name}" for name, count in known] + ([f"{others:,} with other verdicts"] if others else [])
    line = plural(sum(status.verdicts.values()), "file") + (f": {', '.join(told)}" if told else "")
    return f"{line}; {status.skipped:,} of them never asked about." if status.skipped else f"{line}."


def _job_line(job: EnrichJob | None) -> str:
    if job is None:
        return "It has not run yet: `cowrieprocessor enrich` asks the sources."
    state = shown(job.state, 32)
    reason = f": {shown(job.reason, 300)}" if job.reason else ""
    if job.state in _ENDED:
        return (
            f"The last run began {_utc(job.started_at)} and ended {_utc(job.finished_at or job.updated_at)}: {state}"
            + (f"{reason}.")
        )
    return f"The last run began {_utc(job.started_at)}; {state}, last heard of {_utc(job.updated_at)}{reason}."


def _utc(at: dt.datetime) -> str:
    return f"{moment_text(at)} UTC"


def _sources(sources: Sequence[SourceStatus], screen: Screen) -> list[RenderableType]:
    if not sources:
        return []
    columns = (
        Column("source", wraps=True, takes_rest=True),
        Column("waiting", number=True),
        Column("to retry", number=True, needs=56),
        Column("to renew", number=True, needs=72),
        Column("asked now", number=True, needs=92),
        Column("answered", number=True),
        Column("failed", number=True, needs=80),
        Column("refused", number=True, needs=64),
    )
    rows = [
        (
            _name(source),
            number(source.queue.waiting + source.queue.asked_for),
            number(source.queue.retries_due),
            number(source.queue.expired),
            number(source.queue.leased),
            number(source.queue.answered),
            number(source.queue.failed),
            number(source.queue.refused),
        )
        for source in sources
    ]
    return [heading("Files by source"), table(screen, columns, rows)]


def _name(source: SourceStatus) -> Text:
    name = shown(source.provider, 32)
    return Text(name) if source.in_use else Text(f"{name} (not asked)", style="dim")


def _ledgers(ledgers: Sequence[LedgerStatus], screen: Screen) -> list[RenderableType]:
    if not ledgers:
        return []
    columns = (
        Column("requests to", wraps=True, takes_rest=True),
        Column("today", number=True),
        Column("this month", number=True, needs=56),
        Column("a minute", number=True, needs=72),
        Column("to send", number=True, needs=80),
        Column("done by (UTC)", needs=64),
    )
    rows = [
        (
            _ledger_name(one, ledgers),
            _used(one.used_day, one.allowed_day),
            _used(one.used_month, one.allowed_month),
            number(one.per_minute),
            number(one.requests if one.in_use else None),
            _done(one),
        )
        for one in ledgers
    ]
    parts: list[RenderableType] = [heading("Quota (UTC)"), table(screen, columns, rows)]
    return parts + [sentence(line, "yellow") for one in ledgers for line in _ledger_notes(one)]


def _ledger_name(one: LedgerStatus, ledgers: Sequence[LedgerStatus]) -> Text:
    """Return the ledger's name, with its key's fingerprint where there are several of one name."""
    name = shown(one.ledger, 32)
    if sum(other.ledger == one.ledger for other in ledgers) > 1:
        name += f" (key {shown(one.fingerprint, 16)})"
    return Text(name) if one.in_use else Text(f"{name} (not asked)", style="dim")


def _used(used: int, allowed: int | None) -> Text:
    text = f"{used:,}" if allowed is None else f"{used:,} of {allowed:,}"
    return Text(text, style="yellow" if allowed is not None and used >= allowed else "")


def _done(one: LedgerStatus) -> Text:
    if not one.requests:
        return Text("")
    return Text("in over ten years" if one.done_at is None else moment_text(one.done_at)[:-3])


def _ledger_notes(one: LedgerStatus) -> list[str]:
    notes = []
    name = shown(one.ledger, 32)
    if one.paused_until is not None:
        notes.append(f"{name}: nothing is sent until {_utc(one.paused_until)}: {shown(one.reason, 500)}.")
    if one.failures and one.in_use:
        notes.append(f"{name}: failed {plural(one.failures, 'time')} in a row.")
    return notes


def _failures(failures: Sequence[FailureKind], screen: Screen) -> list[RenderableType]:
    if not failures:
        return []
    columns = (
        Column("files", number=True),
        Column("source", needs=56),
        Column("kind", wraps=True),
        Column("for example", wraps=True, takes_rest=True),
    )
    rows = [
        (
            number(one.count),
            cell(one.provider, 32),
            cell(one.kind, 40),
            cell(f"{one.example_sha256[:SHORT_HASH_CHARS]}: {one.example}" if one.example else one.example_sha256, 200),
        )
        for one in failures[:_SHOWN_KINDS]
    ]
    parts: list[RenderableType] = [heading("Failed and refused"), table(screen, columns, rows)]
    if len(failures) > _SHOWN_KINDS:
        parts.append(sentence(f"and {len(failures) - _SHOWN_KINDS:,} more kinds: --json has all", "dim"))
    return parts
