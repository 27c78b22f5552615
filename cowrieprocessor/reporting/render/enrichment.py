"""The state of enrichment as text: files, sources, quota, failures, and when the backlog will be done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from cowrieprocessor.db.enrichment.queue import FAILED, RATE_LIMITED, REFUSED
from cowrieprocessor.db.enrichment.shown_verdict import NOT_ASKED, SHOWN_VERDICTS, STAGED
from cowrieprocessor.reporting.enrichment_status import EnrichmentStatus, LedgerStatus, SourceStatus
from cowrieprocessor.reporting.queries.enrichment import EnrichJob, FailureKind
from cowrieprocessor.reporting.render.terminal import (
    NO_ANSWER,
    SHORT_HASH_CHARS,
    Column,
    Screen,
    cell,
    draw,
    heading,
    moment_text,
    number,
    sentence,
    shown,
    table,
)
from cowrieprocessor.wording import plural

_SHOWN_KINDS = 20
_ENDED = ("done", "stopped", "failed")


def enrichment_text(status: EnrichmentStatus, screen: Screen) -> str:
    """Return the state of enrichment as text."""
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
    if status.not_named:
        names = ", ".join(status.not_named)
        parts.append(sentence(f"\nNot asked, as COWRIEPROC_ENRICHMENT_PROVIDERS does not name them: {names}.", "dim"))
    parts += _ledgers(status.ledgers, screen)
    return draw(screen, *parts, *_failures(status.failures, screen))


def _files_line(status: EnrichmentStatus) -> str:
    known = [(name, status.verdicts[name]) for name in SHOWN_VERDICTS if status.verdicts.get(name)]
    others = sum(count for name, count in status.verdicts.items() if name not in SHOWN_VERDICTS)
    counts = [f"{count:,} {name}" for name, count in known] + (
        [plural(others, "with another verdict", "with other verdicts")] if others else []
    )
    return plural(sum(status.verdicts.values()), "file") + (f": {', '.join(counts)}." if counts else ".")


def _job_line(job: EnrichJob | None) -> str:
    if job is None:
        return "It has not run yet: `enrich` asks the sources."
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
        Column("asked now", number=True, needs=104),
        Column("answered", number=True),
        Column("failed", number=True, needs=80),
        Column("rate-limited", number=True, needs=116),
        Column("refused", number=True, needs=64),
        Column("not-asked", number=True, needs=48),
    )
    rows = [
        (
            _name(source),
            number(source.queue.waiting + source.queue.asked_for),
            number(source.queue.retries_due),
            number(source.queue.expired),
            number(source.queue.leased),
            number(sum(count for name, count in source.verdicts.items() if name not in NO_ANSWER or name == STAGED)),
            *(number(source.verdicts.get(name, 0)) for name in (FAILED, RATE_LIMITED, REFUSED, NOT_ASKED)),
        )
        for source in sources
    ]
    return [heading("Files by source"), table(screen, columns, rows)]


def _name(source: SourceStatus) -> Text:
    name = shown(source.provider, 32)
    return Text(name) if source.in_use else Text(f"{name} (not in use)", style="dim")


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
            _ledger_name(ledger, ledgers),
            _used(ledger.used_day, ledger.allowed_day),
            _used(ledger.used_month, ledger.allowed_month),
            number(ledger.per_minute),
            number(ledger.requests if ledger.in_use else None),
            _done(ledger),
        )
        for ledger in ledgers
    ]
    parts: list[RenderableType] = [heading("Quota (UTC)"), table(screen, columns, rows)]
    return parts + [sentence(line, "yellow") for ledger in ledgers for line in _ledger_notes(ledger)]


def _ledger_name(ledger: LedgerStatus, ledgers: Sequence[LedgerStatus]) -> Text:
    """Return the ledger's name, with its key's fingerprint if several ledgers have this name."""
    name = shown(ledger.ledger, 32)
    if sum(other.ledger == ledger.ledger for other in ledgers) > 1:
        name += f" (key {shown(ledger.fingerprint, 16)})"
    return Text(name) if ledger.in_use else Text(f"{name} (not in use)", style="dim")


def _used(used: int, allowed: int | None) -> Text:
    text = f"{used:,}" if allowed is None else f"{used:,} of {allowed:,}"
    return Text(text, style="yellow" if allowed is not None and used >= allowed else "")


def _done(ledger: LedgerStatus) -> Text:
    if not ledger.requests:
        return Text("")
    return Text("in over ten years" if ledger.done_at is None else moment_text(ledger.done_at)[:-3])


def _ledger_notes(ledger: LedgerStatus) -> list[str]:
    notes = []
    name = shown(ledger.ledger, 32)
    if ledger.paused_until is not None:
        notes.append(f"{name}: nothing is sent until {_utc(ledger.paused_until)}: {shown(ledger.reason, 500)}.")
    if ledger.failures and ledger.in_use:
        notes.append(f"{name}: failed {plural(ledger.failures, 'time')} in a row.")
    if ledger.in_use:
        notes += [f"{name}: {limit}." for limit in ledger.overruled]
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
            number(failure.count),
            cell(failure.provider, 32),
            cell(failure.kind, 40),
            cell(_example(failure), 200),
        )
        for failure in failures[:_SHOWN_KINDS]
    ]
    parts: list[RenderableType] = [heading("Failed and refused"), table(screen, columns, rows)]
    if len(failures) > _SHOWN_KINDS:
        parts.append(sentence(f"and {plural(len(failures) - _SHOWN_KINDS, 'more kind')}: --json has all", "dim"))
    return parts


def _example(failure: FailureKind) -> str:
    """Return the short hash of the example with its reason; the whole hash if there is no reason."""
    if not failure.example:
        return failure.example_sha256
    return f"{failure.example_sha256[:SHORT_HASH_CHARS]}: {failure.example}"
