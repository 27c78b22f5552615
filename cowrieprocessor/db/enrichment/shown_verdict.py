"""The verdict that is shown, of one source about a file and of the file as a whole: one SQL expression each.

`file_hashes.verdict` and `enrichment_status` alone do not tell why a verdict is `unknown`. `unknown` is shown
only where a source answered; where none has, the queue tells what happened instead.

    malicious, known-good, suspicious, clean    the verdict
    unknown        a source answered that it does not know the file, or has no opinion on it
    staged         a source answered, and the answer is in the cache alone (USE_NEW_ENRICHMENT=0)
    skipped        no source is asked: the empty file, a lone newline
    failed         a request failed; it is tried again as long as the source is in use
    rate-limited   the source wanted fewer requests; it is asked again in turn
    refused        the source will not answer about the file
    not-asked      no source was asked, or the answer is still to come

Of several sources without an answer the first of these in this order gives the word of the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    FromClause,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    true,
)

from cowrieprocessor.db.enrichment.candidates import worth_asking
from cowrieprocessor.db.enrichment.file_status import FAILED as STATUS_FAILED
from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, VERDICTS
from cowrieprocessor.db.enrichment.queue import (
    FAILED,
    LEASED,
    QUEUE,
    RATE_LIMITED,
    REFUSED,
    SKIPPED,
    has_failed_before,
)
from cowrieprocessor.db.enrichment.response_cache import CACHE
from cowrieprocessor.db.enrichment.staged_answers import STAGED_SHA256_AT, staged_answers, staged_key
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import HASHES

__all__ = [
    "NOT_ASKED",
    "SHOWN_VERDICTS",
    "STAGED",
    "file_verdict",
    "latest_answer",
    "may_be_shown",
    "source_verdict",
]

STAGED, NOT_ASKED = "staged", "not-asked"
SHOWN_VERDICTS = (*VERDICTS, STAGED, SKIPPED, FAILED, RATE_LIMITED, REFUSED, NOT_ASKED)
"""Every verdict that is shown, in the order of precedence."""


def file_verdict(staging: Sequence[str] = ()) -> ColumnElement[str]:
    """Return the expression for the shown verdict of a row of `file_hashes`, also of an outer join without a row.

    Args:
        staging: as `staging_providers` returns them.
    """
    in_history = exists().where(HISTORY.c.sha256 == HASHES.c.sha256)
    return _without_answer(
        [
            (HASHES.c.sha256.is_(None), literal(NOT_ASKED)),
            (HASHES.c.verdict != UNKNOWN, HASHES.c.verdict),
            # vt_scan_date without a history: the answer of a pre-release version.
            (or_(HASHES.c.vt_scan_date.is_not(None), in_history), literal(UNKNOWN)),
        ],
        or_(HASHES.c.enrichment_status == STATUS_FAILED, _queued(_has_failed(QUEUE))),
        _queued(_is_rate_limited(QUEUE)),
        _queued(QUEUE.c.status == REFUSED),
        staging,
    )


def may_be_shown(word: str, staging: Sequence[str] = ()) -> ColumnElement[bool]:
    """Return a condition on `file_hashes` that every hash with a shown verdict meets, and that is cheap to evaluate.

    `file_verdict` evaluates subqueries for each hash; with this condition first, only for few.

    Args:
        word: one of SHOWN_VERDICTS.
        staging: as `staging_providers` returns them.
    """

    def is_queued(*statuses: str) -> ColumnElement[bool]:
        return HASHES.c.sha256.in_(select(QUEUE.c.sha256).where(QUEUE.c.status.in_(statuses)))

    match word:
        case "staged":
            of_staging = CACHE.c.provider.in_(staging)
            staged = select(func.substr(CACHE.c.key, STAGED_SHA256_AT)).where(of_staging, staged_answers())
            in_cache = select(CACHE.c.key).where(of_staging, CACHE.c.status.in_(VERDICTS))
            return or_(HASHES.c.sha256.in_(staged), HASHES.c.sha256.in_(in_cache)) if staging else false()
        case "skipped":
            return ~worth_asking()
        case "failed":
            return or_(HASHES.c.enrichment_status == STATUS_FAILED, is_queued(FAILED, LEASED))
        case "rate-limited":
            return is_queued(RATE_LIMITED, LEASED)
        case "refused":
            return is_queued(REFUSED)
    return true()


def source_verdict(
    answer: ColumnElement[str], queue: FromClause, staging: Sequence[str] | ColumnElement[str] = ()
) -> ColumnElement[str]:
    """Return the expression for the shown verdict of a source about a row of `file_hashes`.

    Args:
        answer: the verdict of its latest answer in the history; NULL without one.
        queue: its row of the queue, outer-joined.
        staging: its name if `staging_providers` names it, or the column that has it.
    """
    return _without_answer(
        [(answer.is_not(None), answer)],
        _has_failed(queue),
        _is_rate_limited(queue),
        queue.c.status == REFUSED,
        staging,
    )


def latest_answer(provider: ColumnElement[str]) -> ColumnElement[str]:
    """Return the expression for the verdict of a source's latest answer about a row of `file_hashes`; NULL if none."""
    return (
        select(HISTORY.c.verdict)
        .where(HISTORY.c.sha256 == HASHES.c.sha256, HISTORY.c.provider == provider)
        .order_by(HISTORY.c.fetched_at.desc(), HISTORY.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def _without_answer(
    answers: Sequence[tuple[ColumnElement[bool], ColumnElement[str]]],
    failed: ColumnElement[bool],
    rate_limited: ColumnElement[bool],
    refused: ColumnElement[bool],
    staging: Sequence[str] | ColumnElement[str],
) -> ColumnElement[str]:
    """Return the expression for the first that holds: an answer, else what happened instead, in order of precedence."""
    whens = [*answers]
    if isinstance(staging, ColumnElement) or staging:
        whens.append((_is_in_cache_alone(staging), literal(STAGED)))
    whens += [
        (~worth_asking(), literal(SKIPPED)),
        (failed, literal(FAILED)),
        (rate_limited, literal(RATE_LIMITED)),
        (refused, literal(REFUSED)),
    ]
    return case(*whens, else_=literal(NOT_ASKED))


def _has_failed(queue: FromClause) -> ColumnElement[bool]:
    return or_(queue.c.status == FAILED, and_(queue.c.status == LEASED, has_failed_before(queue)))


def _is_rate_limited(queue: FromClause) -> ColumnElement[bool]:
    limited = queue.c.last_error.startswith(f"{RATE_LIMITED}:")
    return or_(queue.c.status == RATE_LIMITED, and_(queue.c.status == LEASED, limited))


def _queued(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that any source's row of the queue for the hash meets a condition."""
    return exists().where(QUEUE.c.sha256 == HASHES.c.sha256, condition)


def _is_in_cache_alone(staging: Sequence[str] | ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that the cache has an answer about a hash, staged by this release or an earlier one.

    Args:
        staging: whose answers count: names, or the column of one.
    """
    is_own = CACHE.c.provider == staging if isinstance(staging, ColumnElement) else CACHE.c.provider.in_(staging)
    keys = (HASHES.c.sha256, staged_key(HASHES.c.sha256))
    return exists().where(is_own, CACHE.c.key.in_(keys), CACHE.c.status.in_(VERDICTS))
