"""What a run of enrichment is told, its progress, and its result."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from cowrieprocessor.db.enrichment.claims import Order
from cowrieprocessor.enrichment.verdict_repository import Counters


@dataclass(frozen=True, slots=True)
class EnrichProgress:
    """The progress of a run.

    Attributes:
        state: running or waiting.
        files: files that this run has sent requests about.
        limit: the most files; None for no limit.
        counters: what came of the requests, by source and kind.
        until: until when it waits; None if it does not.
        reason: why it waits; None if it does not.
    """

    state: str
    files: int
    limit: int | None
    counters: dict[str, Counters]
    until: dt.datetime | None = None
    reason: str | None = None


@dataclass(slots=True)
class EnrichResult:
    """The result of a run.

    Attributes:
        files: files that requests were sent about; without a limit those of the source that was asked most.
        counters: what came of the requests, by source: requests, found, unknown, cached, failed: KIND and so on.
        replayed: answers stored without a request: from the cache, and from Cowrie's own events.
        rows_updated: rows of `files` that got a new verdict.
        staged: whether verdicts were staged: only cache, queue and ledger were written.
        stopped: whether the run was asked to stop before its end.
        refused: why a source does not accept its key, by source.
        unanswered: the last failure of each source that failed and gave no answer, by source.
        paused_until: when the first of the blocked sources may be asked again; None if none is.
        reasons: why a source is blocked, by source.
    """

    files: int = 0
    counters: dict[str, Counters] = field(default_factory=dict)
    replayed: Counters = field(default_factory=dict)
    rows_updated: int = 0
    staged: bool = False
    stopped: bool = False
    refused: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    paused_until: dt.datetime | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        """Whether requests failed and none was answered, though the run went to its end.

        A source that only wants fewer requests did not fail; nor did a run that was asked to stop during an outage.
        """
        answered = any(has_answers(counters) for counters in self.counters.values())
        return bool(self.unanswered) and not answered and not self.stopped


@dataclass(frozen=True, slots=True)
class EnrichOptions:
    """The options of a run.

    Attributes:
        limit: the most files to send requests about; None for no limit.
        providers: the names of the sources to ask; None for all that are configured.
        watch: never end: wait for quota, retries and new files.
        order: which files come first among those never asked about: `turn` (most sessions first) or `oldest`.
        only: SHA-256 of files to ask about now, whatever is known of them; None for all files in their turn.
    """

    limit: int | None = None
    providers: tuple[str, ...] | None = None
    watch: bool = False
    order: Order = "turn"
    only: tuple[str, ...] | None = None


def has_answers(counters: Counters) -> bool:
    """Return whether a source answered any request about a file, by its counters."""
    return any(counters.get(kind) for kind in ("found", "unknown", "refused"))
