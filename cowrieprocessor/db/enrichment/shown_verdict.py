"""The verdict that is shown, of one source about a file and of the file as a whole: one SQL expression each.

`file_hashes.verdict` and `enrichment_status` alone do not tell why a verdict is `unknown`. `unknown` is shown
only where a source answered; where none has, the queue and the cache tell what happened instead.

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
    Connection,
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
from cowrieprocessor.db.enrichment.response_cache import CACHE, providers_in_cache
from cowrieprocessor.db.enrichment.staged_candidates import BY_HAND, CLAIM
from cowrieprocessor.db.enrichment.staged_candidates import DONE_OTHER as CLAIM_DONE_OTHER
from cowrieprocessor.db.enrichment.staged_candidates import FAILED as CLAIM_FAILED
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
    "staging_providers",
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
    claimed = func.substr(CACHE.c.key, len(CLAIM) + 1)
    of_claims = CACHE.c.provider.in_(staging), CACHE.c.key >= CLAIM, CACHE.c.key.startswith(CLAIM)

    def has_claim(*parts: str) -> ColumnElement[bool]:
        if not staging:
            return false()
        is_one = or_(*(CACHE.c.status.contains(part) for part in parts))
        return HASHES.c.sha256.in_(select(claimed).where(*of_claims, is_one))

    def is_queued(*statuses: str) -> ColumnElement[bool]:
        return HASHES.c.sha256.in_(select(QUEUE.c.sha256).where(QUEUE.c.status.in_(statuses)))

    match word:
        case "staged":
            in_cache = select(CACHE.c.key).where(CACHE.c.provider.in_(staging), CACHE.c.status.in_(VERDICTS))
            return or_(HASHES.c.sha256.in_(in_cache), has_claim(CLAIM_DONE_OTHER)) if staging else false()
        case "skipped":
            return ~worth_asking()
        case "failed":
            return or_(HASHES.c.enrichment_status == STATUS_FAILED, is_queued(FAILED, LEASED), has_claim(CLAIM_FAILED))
        case "rate-limited":
            return or_(is_queued(RATE_LIMITED, LEASED), has_claim(RATE_LIMITED))
        case "refused":
            return or_(is_queued(REFUSED), has_claim(REFUSED))
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


def staging_providers(connection: Connection) -> tuple[str, ...]:
    """Return the sources with claims in the cache: none, unless enrichment is or was staged."""
    names = []
    for provider in providers_in_cache(connection):
        # The first key from here on is a claim if there is any: the other keys are hexadecimal or begin with `url:`.
        first = select(func.min(CACHE.c.key)).where(CACHE.c.provider == provider, CACHE.c.key >= CLAIM)
        if (connection.scalar(first) or "").startswith(CLAIM):
            names.append(provider)
    return tuple(names)


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
        claim = _Claims(staging)
        whens.append((claim.answered, literal(STAGED)))
        failed, rate_limited, refused = (
            or_(failed, claim.failed),
            or_(rate_limited, claim.rate_limited),
            or_(refused, claim.refused),
        )
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


class _Claims:
    """Conditions on what the cache says while enrichment is staged.

    Args:
        providers: whose claims and answers count: names, or the column of one.
    """

    def __init__(self, providers: Sequence[str] | ColumnElement[str]) -> None:
        self._providers = providers
        claim_key = literal(CLAIM) + HASHES.c.sha256
        status = CACHE.c.status
        refused = f"{CLAIM_FAILED}:{REFUSED}"
        by_hand = f"{BY_HAND}:"
        is_failed = or_(status.startswith(f"{CLAIM_FAILED}:"), status.startswith(f"{by_hand}{CLAIM_FAILED}:"))
        # A claim alone is no answer: earlier releases wrote deferred claims as answered.
        self.answered = or_(
            self._in_cache(HASHES.c.sha256, status.in_(VERDICTS)),
            self._in_cache(claim_key, status.in_((CLAIM_DONE_OTHER, by_hand + CLAIM_DONE_OTHER))),
        )
        self.failed = self._in_cache(claim_key, is_failed, status.not_in((refused, by_hand + refused)))
        self.rate_limited = self._in_cache(claim_key, status.in_((RATE_LIMITED, by_hand + RATE_LIMITED)))
        self.refused = self._in_cache(claim_key, status.in_((refused, by_hand + refused)))

    def _in_cache(self, key: ColumnElement[str], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        own = self._providers
        is_own = CACHE.c.provider == own if isinstance(own, ColumnElement) else CACHE.c.provider.in_(own)
        return exists().where(is_own, CACHE.c.key == key, *conditions)
