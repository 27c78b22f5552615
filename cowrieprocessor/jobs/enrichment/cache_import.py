"""The import of v3's cache folder: files are read while others write, answers are stored in short transactions."""

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
    pace: Throttle,
    *,
    say: Callable[[str], None] = lambda _text: None,
    on_progress: Callable[[ImportedCache], None] = lambda _result: None,
) -> ImportedCache:
    """Take in a folder of answers. Again is a no-op; an answer older than what is known only adds to the history.

    Args:
        folder: the cache; symbolic links in it are not followed.
        provider: reads the answers.
        writer: stores them.
        pace: when to write, and for how long.
        say: told why it waits.
        on_progress: told after each hundred answers.

    Raises:
        InputNotFound, InputNotReadable: there is no such folder, or it cannot be read.
        DatabaseError: the database cannot serve; what was committed is kept.
    """

    def say_obstacle(obstacle: Obstacle | None) -> None:
        if obstacle is not None:
            say(obstacle.reason)

    result = ImportedCache()
    read = read_answers(folder, provider, writer.clock, result)
    while some := list(islice(read, FILES_AT_ONCE)):
        some.sort(key=lambda one: (one.sha256, one.fetched_at))
        answers = [Answer(VIRUSTOTAL, one.sha256, one.verdict, one.fetched_at) for one in some]
        while answers:
            pace.wait(say_obstacle)
            with pace.transaction() as turn:
                until = writer.store(turn, answers)
            now = writer.clock.now()
            result.expired += sum(one <= now for one in until)
            answers = answers[len(until) :]
        on_progress(result)
    return result
