"""Imports v3's cache folder: files are read without a transaction, answers are stored in short ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from cowrieprocessor.db.enrichment.provider_verdict import VIRUSTOTAL
from cowrieprocessor.enrichment.providers.v3_cache import ImportedCache, read_answers
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.jobs.enrichment.answer_writer import Answer, AnswerWriter
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle

FILES_AT_ONCE = 100
"""Answers in memory at a time."""


def import_cache(
    folder: Path,
    provider: VirusTotal,
    writer: AnswerWriter,
    throttle: Throttle,
    *,
    notify: Callable[[str], None] = lambda _text: None,
    on_progress: Callable[[ImportedCache], None] = lambda _result: None,
) -> ImportedCache:
    """Import a folder of answers.

    Importing it again changes nothing; an answer older than the stored one is only added to the history.

    Args:
        folder: the cache; symbolic links in it are not followed.
        provider: interprets the answers.
        writer: stores them.
        throttle: decides when to write, and for how long.
        notify: called with the reason of each wait.
        on_progress: called with the result so far after each hundred answers.

    Raises:
        InputNotFound, InputNotReadable: there is no such folder, or it cannot be read.
        DatabaseError: the database cannot serve; what was committed is kept.
    """

    def notify_obstacle(obstacle: Obstacle | None) -> None:
        if obstacle is not None:
            notify(obstacle.reason)

    result = ImportedCache()
    cached = read_answers(folder, provider, writer.clock, result)
    while batch := list(islice(cached, FILES_AT_ONCE)):
        batch.sort(key=lambda answer: (answer.sha256, answer.fetched_at))
        answers = [Answer(VIRUSTOTAL, answer.sha256, answer.verdict, answer.fetched_at) for answer in batch]
        while answers:
            throttle.wait(notify_obstacle)
            with throttle.transaction() as turn:
                expiries = writer.store(turn, answers)
            now = writer.clock.now()
            result.expired += sum(expires_at <= now for expires_at in expiries)
            answers = answers[len(expiries) :]
        on_progress(result)
    return result
