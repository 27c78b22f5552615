"""Sources' answers over time as text: the history of one file, and a report's new verdicts."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.text import Text

from cowrieprocessor.reporting.queries.file_history import FileHistory, SourceVerdict, VerdictChange
from cowrieprocessor.reporting.queries.verdicts import ChangedVerdict, FoundMalicious
from cowrieprocessor.reporting.render.limits import MAX_ROWS, left_out_text
from cowrieprocessor.reporting.render.terminal import (
    VERDICT_STYLES,
    Column,
    Screen,
    cell,
    draw,
    facts,
    file_hash,
    heading,
    minute,
    moment_text,
    number,
    sentence,
    shown,
    table,
    verdict,
)
from cowrieprocessor.wording import plural

_LABEL_CHARS = 128
_ERROR_CHARS = 300
_CHAIN_LENGTH = 8
_ARROW = " → "


def answer_text(verdict: str, positives: int | None, total: int | None) -> str:
    """Return a source's answer in short: `malicious 12/70`, `unknown`."""
    engines = engines_text(positives, total)
    return f"{shown(verdict, 16)} {engines}" if engines else shown(verdict, 16)


def engines_text(positives: int | None, total: int | None) -> str:
    """Return the number of engines that say malicious, of the total: `12/70`; empty if the source gives no numbers."""
    return f"{positives}/{total}" if positives is not None and total else ""


def change_text(change: VerdictChange | ChangedVerdict) -> Text:
    """Return a change in short: `unknown → malicious 12/70`, `malicious 12/70 → 40/71`."""
    now = answer_text(change.verdict, change.positives, change.total)
    style = VERDICT_STYLES.get(change.verdict, "")
    if change.previous_verdict is None:
        return Text(now, style=style)
    before = answer_text(change.previous_verdict, change.previous_positives, change.previous_total)
    if before == now:
        return Text(now, style=style)
    if change.verdict == change.previous_verdict:
        now = engines_text(change.positives, change.total) or now
    return Text(f"{before}{_ARROW}").append(now, style=style)


def label_text(change: VerdictChange | ChangedVerdict) -> Text:
    """Return the source's name for the file, after its previous name if that was different."""
    now, before = change.classification, change.previous_classification
    if change.previous_verdict is None or now == before or (before is None and now is not None):
        return cell(now, _LABEL_CHARS)
    return Text(f"{shown(before, _LABEL_CHARS)}{_ARROW}{shown(now, _LABEL_CHARS) or '(none)'}")


def file_history_text(history: FileHistory, screen: Screen) -> str:
    """Return the history of one file as text: each source's state, then every change in order of time."""
    fields = [
        ("SHA-256", cell(history.sha256)),
        ("verdict", verdict(history.verdict, None, None)),
        ("family", cell(history.family)),
        ("status", cell(history.enrichment_status, 32)),
        ("asked again", Text(f"{moment_text(history.next_check_at)} UTC" if history.next_check_at else "")),
    ]
    parts: list[RenderableType] = [facts(fields)]
    if history.sources:
        lines = [(source.provider, _source_summary(source, history.changes)) for source in history.sources]
        parts += [heading("Sources"), facts((shown(name, 32), text) for name, text in lines)]
    if not history.changes:
        return draw(screen, *parts, sentence("\nNo source has said anything about this file yet."))
    return draw(screen, *parts, *_changes_section(history, screen))


def _changes_section(history: FileHistory, screen: Screen) -> list[RenderableType]:
    columns = (
        Column("said first (UTC)"),
        Column("said last", needs=80),
        Column("source", wraps=True),
        Column("verdict", wraps=True),
        Column("called", wraps=True, takes_rest=True),
    )
    rows = [
        (
            minute(change.fetched_at),
            minute(change.confirmed_at),
            cell(change.provider, 32),
            change_text(change),
            label_text(change),
        )
        for change in history.changes
    ]
    parts: list[RenderableType] = [heading("What they said"), table(screen, columns, rows)]
    text = left_out_text(history.changes_total, len(history.changes), "change", MAX_ROWS, where="earlier")
    if text is not None:
        parts.append(sentence(text, "dim"))
    return parts


def source_text(source: SourceVerdict) -> Text:
    """Return a source's current answer about a file and its queue state, on one line."""
    if source.fetched_at is None:
        return Text(_queue_state(source))
    text = Text(answer_text(source.verdict, source.positives, source.total), VERDICT_STYLES.get(source.verdict, ""))
    if source.classification:
        text.append(f", {shown(source.classification, _LABEL_CHARS)}", "default")
    text.append(f"; since {_day(source.fetched_at)}, last said {_day(source.confirmed_at)}", "default")
    state = _queue_state(source)
    return text.append(f"; {state}", "default") if state else text


def _source_summary(source: SourceVerdict, changes: Iterable[VerdictChange]) -> Text:
    """Return a source's answers in order and its queue state: `unknown → 12/70 → 40/71`."""
    answers = _answer_chain([change for change in changes if change.provider == source.provider])
    return Text("; ".join(part for part in (answers, _queue_state(source)) if part) or shown(source.verdict, 16))


def _answer_chain(changes: Sequence[VerdictChange]) -> str:
    """Return one source's latest answers in order, joined by arrows; empty without any.

    Equal neighbours are shown once, and answers that are left out before them as `…`.
    """
    if not changes:
        return ""
    steps = [step for step, _ in itertools.groupby(_chain_step(change) for change in changes[-_CHAIN_LENGTH:])]
    is_cut = len(changes) > _CHAIN_LENGTH or changes[0].previous_verdict is not None
    return _ARROW.join(["…", *steps] if is_cut else steps)


def _chain_step(change: VerdictChange) -> str:
    """Return `12/70` for a malicious verdict with engine counts, else the verdict alone."""
    engines = engines_text(change.positives, change.total)
    return engines if change.verdict == "malicious" and engines else answer_text(change.verdict, None, None)


def _queue_state(source: SourceVerdict) -> str:
    """Return what the queue says about a source: why it has not answered, or when it will be retried.

    Without an answer it begins with the shown verdict.
    """
    error = shown(source.last_error, _ERROR_CHARS) or "it did not say why"
    if source.status == "failed":
        again = f", asked again {moment_text(source.next_attempt_at)} UTC" if source.next_attempt_at else ""
        return f"failed {plural(source.attempts, 'time')}{again}: {error}"
    if source.status == "refused":
        return f"refused, not asked again: {error}"
    if source.status == "skipped":
        return f"skipped: {error}"
    word = "" if source.fetched_at is not None else shown(source.verdict, 16)
    if source.status == "leased":
        return f"{word}; being asked" if word else "being asked"
    if source.status == "rate-limited":
        return error
    return word


def _day(at: dt.datetime | None) -> str:
    return moment_text(at)[:10]


def found_malicious_section(files: Sequence[FoundMalicious], total: int, screen: Screen) -> list[RenderableType]:
    """Return a report's section of files first called malicious in its period; empty if there are none."""
    columns = (
        Column("SHA-256"),
        Column("name", wraps=True, takes_rest=True),
        Column("sessions", number=True, needs=56),
        Column("source", needs=72),
        Column("said", wraps=True, takes_rest=True),
        Column("when (UTC)", needs=92),
    )
    rows = [
        (
            file_hash(file.sha256, screen),
            cell(file.name, 80),
            number(file.session_count),
            cell(file.provider, 32),
            _malicious_answer(file),
            minute(file.found_at),
        )
        for file in files
    ]
    return _section(screen, "Found to be malicious", columns, rows, total)


def _malicious_answer(file: FoundMalicious) -> Text:
    """Return the answer that called a file malicious, and the aggregate verdict now if that is different."""
    text = Text(answer_text("malicious", file.positives, file.total), VERDICT_STYLES["malicious"])
    if file.classification:
        text.append(f" {shown(file.classification, 60)}", "default")
    return text if file.verdict == "malicious" else text.append(f" (now {shown(file.verdict, 16)})", "default")


def changed_verdicts_section(changes: Sequence[ChangedVerdict], total: int, screen: Screen) -> list[RenderableType]:
    """Return a report's section of answers that changed in its period; empty if there are none."""
    columns = (
        Column("SHA-256"),
        Column("name", wraps=True, takes_rest=True),
        Column("source", needs=72),
        Column("change", wraps=True, takes_rest=True),
        Column("when (UTC)", needs=92),
    )
    rows = [
        (
            file_hash(change.sha256, screen),
            cell(change.name, 80),
            cell(change.provider, 32),
            _change_with_label(change),
            minute(change.changed_at),
        )
        for change in changes
    ]
    return _section(screen, "Changed verdicts and detections", columns, rows, total)


def _change_with_label(change: ChangedVerdict) -> Text:
    """Return a change in short, with the source's names for the file if these differ."""
    text = change_text(change)
    if change.classification != change.previous_classification:
        text.append(f", {label_text(change).plain}", "default")
    return text


def _section(
    screen: Screen, title: str, columns: Sequence[Column], rows: Iterable[Sequence[Text]], total: int
) -> list[RenderableType]:
    rows = list(rows)
    if not rows:
        return []
    parts: list[RenderableType] = [heading(title), table(screen, columns, rows)]
    return [*parts, sentence(f"and {total - len(rows):,} more", "dim")] if total > len(rows) else parts
