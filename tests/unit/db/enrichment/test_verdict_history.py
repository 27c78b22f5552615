"""The history: spans of equal answers, whatever the order in which the answers arrive."""

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

Answer = tuple[dt.datetime, Content]


def content(positives: int) -> Content:
    """Return the content of an answer of VirusTotal."""
    return ("malicious", None, positives, 70, None) if positives else ("clean", None, 0, 70, None)


def at(hours: int) -> dt.datetime:
    """Return a moment."""
    return NOW + hours * HOUR


def spans_of(answers: Sequence[Answer]) -> list[tuple[dt.datetime, dt.datetime, Content]]:
    """Return the spans after answers arrive in this order; rows are numbered as a database does."""
    known: list[Span] = []
    for moment, answer in answers:
        known = [
            Span(span.fetched_at, span.confirmed_at, span.content, number)
            for number, span in enumerate(merge_spans(known, Observation(moment, answer)))
        ]
    return [(span.fetched_at, span.confirmed_at, span.content) for span in known]


def in_order(answers: Sequence[Answer]) -> list[tuple[dt.datetime, dt.datetime, Content]]:
    """Return the spans of answers without a history: sorted, then grouped."""
    spans = []
    for answer, same in groupby(sorted(answers, key=lambda entry: entry[0]), key=lambda entry: entry[1]):
        moments = [moment for moment, _ in same]
        spans.append((moments[0], moments[-1], answer))
    return spans


answers_at_different_times = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 2)), max_size=12, unique_by=lambda entry: entry[0]
).map(lambda drawn: [(at(hour), content(positives)) for hour, positives in drawn])


@given(answers_at_different_times)
@settings(max_examples=200)
def test_answers_in_order_give_their_spans(answers: list[Answer]) -> None:
    """Answers in the order of their times give the spans that sorting and grouping give."""
    ordered = sorted(answers, key=lambda entry: entry[0])

    assert in_order(ordered) == spans_of(ordered)


@given(answers_at_different_times)
@settings(max_examples=200)
def test_in_any_order_nothing_is_invented(answers: list[Answer]) -> None:
    """In any order the first and the last answer are there, each end of a span is an answer, and neighbours differ.

    Only answers inside a span can be lost, when a late different answer splits it.
    """
    expected, found = in_order(answers), spans_of(answers)
    by_moment = dict(answers)

    assert all(by_moment[first] == answer == by_moment[last] for first, last, answer in found)
    assert all(span[1] < after[0] and span[2] != after[2] for span, after in pairwise(found))
    assert len(found) <= len(expected)
    if expected:
        assert (expected[0][0], expected[0][2]) == (found[0][0], found[0][2])
        assert (expected[-1][1], expected[-1][2]) == (found[-1][1], found[-1][2])


@given(answers_at_different_times, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_without_a_return_to_an_old_answer_the_order_does_not_matter(answers: list[Answer], random: Any) -> None:
    """If a provider never returns to an earlier answer, the spans are the same in every order."""
    ordered = sorted(answers, key=lambda entry: entry[0])
    rising = [(moment, content(number // 3)) for number, (moment, _) in enumerate(ordered)]
    shuffled = list(rising)
    random.shuffle(shuffled)

    assert in_order(rising) == spans_of(shuffled)


@given(answers_at_different_times)
@settings(max_examples=200)
def test_again_changes_nothing(answers: list[Answer]) -> None:
    """Answers recorded in order change nothing when they are recorded again, in any order."""
    ordered = sorted(answers, key=lambda entry: entry[0])

    assert spans_of(ordered) == spans_of([*ordered, *answers, *ordered])


@given(st.lists(st.integers(0, 5), max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_of_one_moment_one_answer_counts(positives: list[int], random: Any) -> None:
    """Of several answers of one moment the same answer counts, whatever their order."""
    answers = [(at(0), content(count)) for count in positives]
    shuffled = list(answers)
    random.shuffle(shuffled)

    assert spans_of(answers) == spans_of(shuffled)
    assert len(spans_of(answers)) == min(1, len(answers))


def store(engine: Engine, verdict: ProviderVerdict, moment: dt.datetime, sha256: str = sha(1)) -> None:
    """Record an answer in the history."""
    with write_transaction(engine) as connection:
        record_answer(connection, sha256, VT, verdict, moment, NOW + 999 * DAY)


def history(engine: Engine) -> list[tuple[Any, ...]]:
    """Return the rows of the history, in order."""
    return [
        (entry["fetched_at"], entry["confirmed_at"], entry["verdict"], entry["positives"])
        for entry in sorted(rows(engine, "file_verdicts"), key=lambda entry: entry["fetched_at"])
    ]


def test_only_a_different_answer_makes_a_row(engine: Engine) -> None:
    """A row is added only when more than the time changed; an equal answer confirms the present row."""
    store(engine, ProviderVerdict("unknown"), at(0))
    store(engine, ProviderVerdict("unknown"), at(1))
    store(engine, vt_verdict(12, 70), at(2))
    store(engine, vt_verdict(12, 70), at(3))
    store(engine, vt_verdict(40, 71), at(4))

    assert history(engine) == [
        (at(0), at(1), "unknown", None),
        (at(2), at(3), "malicious", 12),
        (at(4), at(4), "malicious", 40),
    ]


def test_a_new_label_makes_a_row_and_a_new_analysis_does_not(engine: Engine) -> None:
    """A new label makes a row; a new analysis with the same result updates the row's time and response."""
    store(engine, vt_verdict(12, classification="trojan.mirai", last_analysis=at(-9)), at(0))
    store(engine, vt_verdict(12, classification="trojan.mirai", last_analysis=at(-1), description="ELF"), at(1))
    store(engine, vt_verdict(12, classification="trojan.gafgyt", last_analysis=at(-1)), at(2))

    first, second = rows(engine, "file_verdicts")
    assert (first["last_analysis"], first["confirmed_at"], first["response"]["description"]) == (at(-1), at(1), "ELF")
    assert (second["classification"], second["fetched_at"]) == ("trojan.gafgyt", at(2))


def test_an_older_equal_answer_extends_its_span(engine: Engine) -> None:
    """A late answer equal to the next moves the beginning of that row, and nothing else."""
    store(engine, vt_verdict(12, description="new"), at(5))
    store(engine, vt_verdict(12, description="old"), at(1))

    (entry,) = rows(engine, "file_verdicts")
    assert (entry["fetched_at"], entry["confirmed_at"], entry["response"]["description"]) == (at(1), at(5), "new")


def test_an_older_different_answer_splits_its_span(engine: Engine) -> None:
    """A different answer in the middle of a span leaves its two ends."""
    store(engine, vt_verdict(12), at(1))
    store(engine, vt_verdict(12), at(9))
    store(engine, vt_verdict(3), at(5))

    assert history(engine) == [
        (at(1), at(1), "malicious", 12),
        (at(5), at(5), "malicious", 3),
        (at(9), at(9), "malicious", 12),
    ]
    assert [entry["response"] for entry in rows(engine, "file_verdicts", positives=12)] == [
        {"answer": {"positives": 12}},
        {"answer": {"positives": 12}},
    ]


def test_a_graver_answer_of_the_same_moment_counts(engine: Engine) -> None:
    """Of two answers of one moment the graver counts, whichever comes first; the other leaves no row."""
    for sha256, order in ((sha(1), (0, 9)), (sha(2), (9, 0))):
        for positives in order:
            store(engine, vt_verdict(positives), at(0), sha256)

    assert [(entry["sha256"], entry["positives"]) for entry in rows(engine, "file_verdicts")] in (
        [(sha(1), 9), (sha(2), 9)],
        [(sha(2), 9), (sha(1), 9)],
    )


def test_the_latest_verdict_of_each_provider(engine: Engine) -> None:
    """Aggregation reads each provider's latest verdict, with the details that only the response has."""
    store(engine, vt_verdict(1), at(9))
    store(engine, vt_verdict(12, description="ELF 32-bit", family="mirai"), at(9 + 24))
    store(engine, vt_verdict(3), at(2))
    with write_transaction(engine) as connection:
        record_answer(connection, sha(1), "hashlookup", ProviderVerdict("unknown"), NOW + DAY, NOW + DAY)
        latest = latest_verdicts(connection, sha(1))
        nothing = latest_verdicts(connection, sha(2))

    assert nothing == {}
    assert {name: item.verdict for name, item in latest.items()} == {VT: "malicious", "hashlookup": "unknown"}
    assert (latest[VT].positives, latest[VT].description, latest[VT].family) == (12, "ELF 32-bit", "mirai")
    assert (latest[VT].is_found, latest["hashlookup"].is_found) == (True, False)


@given(answers_at_different_times, st.integers(0, 12))
@settings(max_examples=200)
def test_two_histories_merge_in_order(answers: list[Answer], cut: int) -> None:
    """Two databases' histories of one provider merge in either direction, and nothing is invented."""
    first, second = (
        [Span(first, last, answer, number * sign) for number, (first, last, answer) in enumerate(in_order(part), 1)]
        for part, sign in ((answers[:cut], 1), (answers[cut:], -1))
    )
    by_moment = dict(answers)

    found = merge_spans([*first, *second])

    assert [(span.fetched_at, span.content) for span in found] == [
        (span.fetched_at, span.content) for span in merge_spans([*second, *first])
    ]
    assert all(by_moment[span.fetched_at] == span.content == by_moment[span.confirmed_at] for span in found)
    assert all(span.confirmed_at < after.fetched_at for span, after in pairwise(found))


def test_rows_of_another_history_are_merged(engine: Engine) -> None:
    """Incoming rows lie between stored ones, extend them or equal them; each keeps its response."""
    store(engine, vt_verdict(3), at(0))
    store(engine, vt_verdict(9, description="ours"), at(10))
    columns = {"sha256": sha(1), "provider": VT, "classification": None, "total": 70, "first_seen": None}

    def given(positives: int, first: int, last: int) -> dict[str, Any]:
        times = {"fetched_at": at(first), "confirmed_at": at(last), "last_analysis": None}
        return {**columns, **times, "verdict": "malicious", "positives": positives, "response": {"of": positives}}

    for _ in range(2):
        with write_transaction(engine) as connection:
            merge_history(connection, sha(1), VT, [given(3, 0, 2), given(5, 4, 5), given(9, 7, 8), given(11, 12, 13)])

        assert history(engine) == [
            (at(0), at(2), "malicious", 3),
            (at(4), at(5), "malicious", 5),
            (at(7), at(10), "malicious", 9),
            (at(12), at(13), "malicious", 11),
        ]
    assert row(engine, "file_verdicts", positives=9)["response"]["description"] == "ours"
    assert row(engine, "file_verdicts", positives=11)["response"] == {"of": 11}
