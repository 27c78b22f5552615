"""Outcomes of replies that are no report: by HTTP status, by the origin of the body, and by Retry-After."""

from __future__ import annotations

import datetime as dt

import pytest

from cowrieprocessor.enrichment.providers.base import Failed, RateLimited, Refused
from cowrieprocessor.enrichment.providers.http_status import error_outcome, retry_after
from tests.unit.enrichment.asking import HTML, KEY, NOW, assert_sound, reply


def kind_of(outcome: RateLimited | Refused | Failed) -> str:
    """Return an outcome as a short text."""
    match outcome:
        case RateLimited():
            return "rate limited"
        case Refused(_, scope):
            return f"refused {scope}"
        case Failed(kind):
            return kind


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (200, None, "bad-body"),
        (202, "wait", "other"),
        (302, None, "redirect"),
        (400, "BadRequestError", "refused file"),
        (400, None, "other"),
        (401, "WrongCredentialsError", "refused source"),
        (401, None, "refused source"),
        (403, "ForbiddenError", "refused source"),
        (403, None, "other"),
        (404, None, "other"),
        (407, None, "other"),
        (409, "AlreadyExistsError", "other"),
        (424, "FailedDependencyError", "other"),
        (429, "QuotaExceededError", "rate limited"),
        (429, None, "rate limited"),
        (500, None, "server-error"),
        (502, None, "server-error"),
        (503, "TransientError", "server-error"),
        (504, "DeadlineExceededError", "server-error"),
        (999, None, "server-error"),
    ],
)
def test_statuses(status: int, said: str | None, expected: str) -> None:
    """A refusal counts only with the source's own message; a proxy's page never refuses a file or a key."""
    outcome = error_outcome(reply(HTML, status), "VirusTotal", said, key=KEY)

    assert expected == kind_of(outcome)
    assert_sound(outcome)


@pytest.mark.parametrize("status", [200, 204])
def test_an_empty_answer_is_called_so(status: int) -> None:
    """An empty body is not an answer."""
    assert kind_of(error_outcome(reply(b" ", status), "VirusTotal", None, key=None)) == "empty-answer"


def test_an_empty_403_is_the_sources_own() -> None:
    """A 403 without a body is a refusal."""
    assert kind_of(error_outcome(reply(b"", 403), "URLhaus", None, key=None)) == "refused source"


def test_reasons_say_who_answered_what_without_the_key() -> None:
    """The description has the source, the status and its message on one line, with the key redacted."""
    outcome = error_outcome(reply(b"{}", 401), "VirusTotal", f"WrongCredentialsError:\nWrong API key {KEY}", key=KEY)

    assert outcome == Refused(
        "VirusTotal answers 401: WrongCredentialsError: Wrong API key ***; check the key", "source"
    )


@pytest.mark.parametrize(
    ("header", "after_s"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("99999999999999", 31 * 86_400),
        ("Sun, 22 Nov 2026 13:15:15 GMT", 60),
        ("Sun, 22 Nov 2026 13:15:15 -0000", 60),
        ("Sun, 22 Nov 2026 15:15:15 +0200", 60),
        ("Sun, 22 Nov 2020 13:15:15 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 31 * 86_400),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(header: str, after_s: int, status: int) -> None:
    """Seconds and dates are honoured, up to 31 days ahead and never in the past."""
    outcome = error_outcome(reply(b"{}", status, {"retry-after": header}), "VirusTotal", "busy", key=None)

    assert not isinstance(outcome, Refused)
    assert NOW + dt.timedelta(seconds=after_s) == outcome.retry_at


@pytest.mark.parametrize("header", ["", "soon", "-5", "1.5", "1e3", "Sun, 99 Nov 2026 99:99:99 GMT", "\x00", "١٢"])
def test_a_retry_after_that_says_nothing_is_passed_over(header: str) -> None:
    """An invalid header counts as missing."""
    assert retry_after(reply(b"", 429, {"retry-after": header})) is None
