"""The history: spans in which a source said the same, whatever the order in which its answers arrive."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.verdict_history import (
    Content,
    Observation,
    Span,
    latest_verdicts,
    merge_history,
    merge_spans,
    record_answer,
)
from tests.enrichment_scene import DAY, HOUR, NOW, VT, row, rows, sha, vt_verdict

Spoken = tuple[dt.datetime, Content]


def content(positives: int) -> Content:
    """Return what VirusTotal would say."""
    return ("malicious", None, positives, 70, None) if positives else ("clean", None, 0, 70, None)


def at(hours: int) -> dt.datetime:
    """Return a moment."""
    return NOW + hours * HOUR


def spans_of(answers: Sequence[Spoken]) -> list[tuple[dt.datetime, dt.datetime, Content]]:
    """Return the spans of answers in the order in which they arrive; rows are numbered as a database would."""
    known: list[Span] = []
    for moment, said in answers:
        known = [
            Span(span.fetched_at, span.confirmed_at, span.content, number)
            for number, span in enumerate(merge_spans(known, Observation(moment, said)))
        ]
    return [(span.fetched_at, span.confirmed_at, span.content) for span in known]


def in_order(answers: Sequence[Spoken]) -> list[tuple[dt.datetime, dt.datetime, Content]]:
    """Return the spans that answers amount to, without any history: sorted, then grouped."""
    found = []
    for said, same in groupby(sorted(answers, key=lambda entry: entry[0]), key=lambda entry: entry[1]):
        moments = [moment for moment, _ in same]
        found.append((moments[0], moments[-1], said))
    return found


answers_at_different_times = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 2)), max_size=12, unique_by=lambda entry: entry[0]
).map(lambda found: [(at(hour), content(positives)) for hour, positives in found])


@given(answers_at_different_times)
@settings(max_examples=200)
def test_answers_in_order_give_their_spans(answers: list[Spoken]) -> None:
    """Answers in the order of their times give the spans that sorting and grouping gives."""
    ordered = sorted(answers, key=lambda entry: entry[0])

    assert in_order(ordered) == spans_of(ordered)


@given(answers_at_different_times)
@settings(max_examples=200)
def test_in_any_order_nothing_is_invented(answers: list[Spoken]) -> None:
    """In any order the first and the last answer are there, each end of a span is an answer, and neighbours differ.

    Only what confirmed a span from inside can be forgotten, when late answers that say something else part it.
    """
    expected, found = in_order(answers), spans_of(answers)
    told = dict(answers)

    assert all(told[first] == said == told[last] for first, last, said in found)
    assert all(entry[1] < other[0] and entry[2] != other[2] for entry, other in pairwise(found))
    assert len(found) <= len(expected)
    if expected:
        assert (expected[0][0], expected[0][2]) == (found[0][0], found[0][2])
        assert (expected[-1][1], expected[-1][2]) == (found[-1][1], found[-1][2])


@given(answers_at_different_times, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_without_a_return_to_an_old_answer_the_order_does_not_matter(answers: list[Spoken], random: Any) -> None:
    """Where a source never says again what it said before the last change, the spans are the same in every order."""
    ordered = sorted(answers, key=lambda entry: entry[0])
    rising = [(moment, content(number // 3)) for number, (moment, _) in enumerate(ordered)]
    shuffled = list(rising)
    random.shuffle(shuffled)

    assert in_order(rising) == spans_of(shuffled)


@given(answers_at_different_times)
@settings(max_examples=200)
def test_again_changes_nothing(answers: list[Spoken]) -> None:
    """Answers that were taken in in their order change nothing when they are taken in again, in whatever order."""
    ordered = sorted(answers, key=lambda entry: entry[0])

    assert spans_of(ordered) == spans_of([*ordered, *answers, *ordered])


@given(st.lists(st.integers(0, 5), max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_of_one_moment_one_answer_counts(positives: list[int], random: Any) -> None:
    """Of several answers of one moment the same one counts, whatever their order."""
    answers = [(at(0), content(item)) for item in positives]
    shuffled = list(answers)
    random.shuffle(shuffled)

    assert spans_of(answers) == spans_of(shuffled)
    assert len(spans_of(answers)) == min(1, len(answers))


def store(engine: Engine, said: ProviderVerdict, moment: dt.datetime, sha256: str = sha(1)) -> None:
    """Write an answer into the history."""
    with write_transaction(engine) as connection:
        record_answer(connection, sha256, VT, said, moment)


def told(engine: Engine) -> list[tuple[Any, ...]]:
    """Return the rows of the history."""
    return [
        (entry["fetched_at"], entry["confirmed_at"], entry["verdict"], entry["positives"])
        for entry in sorted(rows(engine, "file_verdicts"), key=lambda entry: entry["fetched_at"])
    ]


def test_only_another_answer_makes_a_row(engine: Engine) -> None:
    """A row more only when something but the time changed; the same again confirms the row that is there."""
    store(engine, ProviderVerdict("unknown"), at(0))
    store(engine, ProviderVerdict("unknown"), at(1))
    store(engine, vt_verdict(12, 70), at(2))
    store(engine, vt_verdict(12, 70), at(3))
    store(engine, vt_verdict(40, 71), at(4))

    assert told(engine) == [
        (at(0), at(1), "unknown", None),
        (at(2), at(3), "malicious", 12),
        (at(4), at(4), "malicious", 40),
    ]


def test_another_label_is_another_answer_and_another_analysis_is_not(engine: Engine) -> None:
    """A new label makes a row; a new analysis with the same result moves the row's own time, and its response."""
    store(engine, vt_verdict(12, classification="trojan.mirai", last_analysis=at(-9)), at(0))
    store(engine, vt_verdict(12, classification="trojan.mirai", last_analysis=at(-1), description="ELF"), at(1))
    store(engine, vt_verdict(12, classification="trojan.gafgyt", last_analysis=at(-1)), at(2))

    first, second = rows(engine, "file_verdicts")
    assert (first["last_analysis"], first["confirmed_at"], first["response"]["description"]) == (at(-1), at(1), "ELF")
    assert (second["classification"], second["fetched_at"]) == ("trojan.gafgyt", at(2))


def test_an_older_answer_moves_the_beginning_of_its_span(engine: Engine) -> None:
    """An answer that arrives late and says what the next one says moves that row's beginning, nothing else."""
    store(engine, vt_verdict(12, description="new"), at(5))
    store(engine, vt_verdict(12, description="old"), at(1))

    (entry,) = rows(engine, "file_verdicts")
    assert (entry["fetched_at"], entry["confirmed_at"], entry["response"]["description"]) == (at(1), at(5), "new")


def test_an_older_answer_inside_a_span_parts_it(engine: Engine) -> None:
    """An answer that says something else in the midst of a span leaves its two ends."""
    store(engine, vt_verdict(12), at(1))
    store(engine, vt_verdict(12), at(9))
    store(engine, vt_verdict(3), at(5))

    assert told(engine) == [
        (at(1), at(1), "malicious", 12),
        (at(5), at(5), "malicious", 3),
        (at(9), at(9), "malicious", 12),
    ]
    assert [entry["response"] for entry in rows(engine, "file_verdicts", positives=12)] == [
        {"answer": {"positives": 12}},
        {"answer": {"positives": 12}},
    ]


def test_a_graver_answer_of_the_same_moment_replaces_the_other(engine: Engine) -> None:
    """Of two answers of one moment the graver counts, whichever comes first; no row of the other is left."""
    for sha256, order in ((sha(1), (0, 9)), (sha(2), (9, 0))):
        for positives in order:
            store(engine, vt_verdict(positives), at(0), sha256)

    assert [(entry["sha256"], entry["positives"]) for entry in rows(engine, "file_verdicts")] in (
        [(sha(1), 9), (sha(2), 9)],
        [(sha(2), 9), (sha(1), 9)],
    )


def test_the_latest_answer_is_told_by_source(engine: Engine) -> None:
    """Judgement reads of each source what it said last, with what only the response keeps."""
    store(engine, vt_verdict(1), at(9))
    store(engine, vt_verdict(12, description="ELF 32-bit", family="mirai"), at(9 + 24))
    store(engine, vt_verdict(3), at(2))
    with write_transaction(engine) as connection:
        record_answer(connection, sha(1), "hashlookup", ProviderVerdict("unknown"), NOW + DAY)
        latest = latest_verdicts(connection, sha(1))
        nothing = latest_verdicts(connection, sha(2))

    assert nothing == {}
    assert {name: item.verdict for name, item in latest.items()} == {VT: "malicious", "hashlookup": "unknown"}
    assert (latest[VT].positives, latest[VT].description, latest[VT].family) == (12, "ELF 32-bit", "mirai")
    assert (latest[VT].is_found, latest["hashlookup"].is_found) == (True, False)


@given(answers_at_different_times, st.integers(0, 12))
@settings(max_examples=200)
def test_two_histories_are_put_in_order(answers: list[Spoken], cut: int) -> None:
    """Two databases' histories of one source merge into one that invents nothing, whichever comes into which."""
    span, other = (
        [Span(first, last, said, number * sign) for number, (first, last, said) in enumerate(in_order(part), 1)]
        for part, sign in ((answers[:cut], 1), (answers[cut:], -1))
    )
    told = dict(answers)

    found = merge_spans([*span, *other])

    assert [(span.fetched_at, span.content) for span in found] == [
        (span.fetched_at, span.content) for span in merge_spans([*other, *span])
    ]
    assert all(told[span.fetched_at] == span.content == told[span.confirmed_at] for span in found)
    assert all(span.confirmed_at < after.fetched_at for span, after in pairwise(found))


def test_rows_of_another_history_find_their_places(engine: Engine) -> None:
    """Rows that were saved elsewhere lie between ours, continue them or are them; each keeps its own response."""
    store(engine, vt_verdict(3), at(0))
    store(engine, vt_verdict(9, description="ours"), at(10))
    columns = {"sha256": sha(1), "provider": VT, "classification": None, "total": 70, "first_seen": None}

    def given(positives: int, first: int, last: int) -> dict[str, Any]:
        times = {"fetched_at": at(first), "confirmed_at": at(last), "last_analysis": None}
        return {**columns, **times, "verdict": "malicious", "positives": positives, "response": {"of": positives}}

    for _ in range(2):
        with write_transaction(engine) as connection:
            merge_history(connection, sha(1), VT, [given(3, 0, 2), given(5, 4, 5), given(9, 7, 8), given(11, 12, 13)])

        assert told(engine) == [
            (at(0), at(2), "malicious", 3),
            (at(4), at(5), "malicious", 5),
            (at(7), at(10), "malicious", 9),
            (at(12), at(13), "malicious", 11),
        ]
    assert row(engine, "file_verdicts", positives=9)["response"]["description"] == "ours"
    assert row(engine, "file_verdicts", positives=11)["response"] == {"of": 11}
