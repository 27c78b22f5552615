"""Sources' answers over time as text: the history of a file, its sources, and the new verdicts in a report."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.queries.file_history import VerdictChange, file_history
from cowrieprocessor.reporting.render.csv import report_csv
from cowrieprocessor.reporting.render.history import change_text, file_history_text, label_text
from cowrieprocessor.reporting.render.json import report_json
from cowrieprocessor.reporting.render.terminal import Screen
from cowrieprocessor.reporting.render.text import report_text
from cowrieprocessor.reporting.reports import Report, make_report
from tests.unit.reporting.scene import DAY, add_file, add_hash, add_queued, add_session, add_verdict, at, sha

HISTORY = """\
SHA-256  0000010000000000000000000000000000000000000000000000000000000000
verdict  malicious
family   mirai
status   enriched

Sources
hashlookup     refused, not asked again: hashlookup answers 400: illegal hash
malwarebazaar  malicious
urlhaus        failed 3 times, asked again 2026-11-25 03:00:00 UTC: timeout: no answer within 30 s
virustotal     unknown → 12/70 → 40/71

What they said
said first (UTC)  said last         source         verdict                    called
────────────────────────────────────────────────────────────────────────────────────────────────────
2026-11-16 20:00  2026-11-20 21:00  virustotal     unknown
2026-11-21 02:00  2026-11-21 03:00  virustotal     unknown → malicious 12/70  trojan.mirai/gafgyt
2026-11-21 04:00  2026-11-24 18:00  virustotal     malicious 12/70 → 40/71    trojan.mirai/gafgyt →
                                                                              trojan.mirai
2026-11-21 05:00  2026-11-24 18:00  malwarebazaar  malicious                  Mirai
"""

NEWS = """\
Found to be malicious
SHA-256       name                    sessions  source      said                    when (UTC)
────────────────────────────────────────────────────────────────────────────────────────────────────
000002000000  /root/.ssh/authorized_         7  virustotal  malicious 1/70 (now     2026-11-21 06:00
              keys                                          clean)
000001000000  /tmp/.x/redtail.x86_64         2  virustotal  malicious 12/70         2026-11-21 02:00
                                                            trojan.mirai/gafgyt

Changed verdicts and detections
SHA-256       name                         source      change                       when (UTC)
────────────────────────────────────────────────────────────────────────────────────────────────────
000002000000  /root/.ssh/authorized_keys   virustotal  malicious 1/70 → clean 0/70  2026-11-21 08:00
000001000000  /tmp/.x/redtail.x86_64       virustotal  unknown → malicious 12/70,   2026-11-21 02:00
                                                       trojan.mirai/gafgyt
000001000000  /tmp/.x/redtail.x86_64       virustotal  malicious 12/70 → 40/71,     2026-11-21 04:00
                                                       trojan.mirai/gafgyt →
                                                       trojan.mirai
"""


def _fill(connection: Connection) -> None:
    add_session(connection, "a", at(1))
    add_hash(
        connection, sha(1), at(1), verdict="malicious", session_count=2, family="mirai", enrichment_status="enriched"
    )
    add_hash(connection, sha(2), at(-90), verdict="clean", session_count=7)
    add_file(connection, "a", sha(1), at(1), filename="/tmp/.x/redtail.x86_64")
    add_file(connection, "a", sha(2), at(-90), filename="/root/.ssh/authorized_keys")
    labels = ("trojan.mirai/gafgyt", "trojan.mirai")
    add_verdict(connection, sha(1), "virustotal", at(-100), "unknown", confirmed_at=at(-3))
    add_verdict(
        connection, sha(1), "virustotal", at(2), "malicious", 12, 70, confirmed_at=at(3), classification=labels[0]
    )
    add_verdict(
        connection, sha(1), "virustotal", at(4), "malicious", 40, 71, confirmed_at=at(90), classification=labels[1]
    )
    add_verdict(connection, sha(1), "malwarebazaar", at(5), "malicious", confirmed_at=at(90), classification="Mirai")
    add_verdict(connection, sha(2), "virustotal", at(6), "malicious", 1, 70)
    add_verdict(connection, sha(2), "virustotal", at(8), "clean", 0, 70)
    add_queued(connection, sha(1), "virustotal", "answered", next_attempt_at=at(900))
    add_queued(
        connection,
        *(sha(1), "urlhaus", "failed"),
        attempts=3,
        next_attempt_at=at(99),
        last_error="timeout: no answer within 30 s",
    )
    refusal = "hashlookup answers 400: illegal hash"
    add_queued(connection, sha(1), "hashlookup", "refused", attempts=1, last_error=refusal)


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """A database with two files whose verdicts changed."""
    with write_transaction(engine) as connection:
        _fill(connection)
    return engine


def _report(engine: Engine, *, days: int = 0, top_files: int = 25) -> Report:
    with read_transaction(engine) as connection:
        return make_report(connection, period_of(PeriodKind.DAILY, at(0, days=days)), top_files=top_files)


def test_history_reads_like_this(filled: Engine) -> None:
    """The whole history, on 100 columns without colour, is this text on both databases."""
    with read_transaction(filled) as connection:
        assert file_history_text(file_history(connection, sha(1)), Screen()) == HISTORY


def test_a_cut_history_says_how_to_see_all(filled: Engine) -> None:
    """Beyond the limit only the latest changes are shown, with the number of earlier ones and how to see all."""
    with read_transaction(filled) as connection:
        text = file_history_text(file_history(connection, sha(1), limit=2), Screen())
    assert "and 2 earlier changes: --limit 4 shows all" in text
    assert "virustotal     … → 40/71\n" in text
    assert "2026-11-21 02:00" not in text


def test_a_file_without_answers_says_so(engine: Engine) -> None:
    """A file without history says so, and a file that is never sent to a source says why."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(0), enrichment_status="skipped")
        add_queued(connection, sha(1), "policy", "skipped", last_error="the empty file")
        add_queued(connection, sha(1), "virustotal", "leased")
    with read_transaction(engine) as connection:
        text = file_history_text(file_history(connection, sha(1)), Screen())
    assert "No source has said anything about this file yet." in text
    assert "policy      skipped: the empty file\n" in text
    assert "virustotal  skipped; being asked\n" in text


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (None, ("unknown", None, None), "unknown"),
        (None, ("malicious", 12, 70), "malicious 12/70"),
        (("unknown", None, None), ("malicious", 12, 70), "unknown → malicious 12/70"),
        (("malicious", 12, 70), ("malicious", 40, 71), "malicious 12/70 → 40/71"),
        (("malicious", 12, 70), ("malicious", None, None), "malicious 12/70 → malicious"),
        (("malicious", 12, 70), ("clean", 0, 70), "malicious 12/70 → clean 0/70"),
        (("malicious", 12, 70), ("malicious", 12, 70), "malicious 12/70"),
        (("suspicious", None, None), ("malicious", 3, 0), "suspicious → malicious"),
    ],
)
def test_changes_are_shown_in_short(
    before: tuple[str, int | None, int | None] | None, now: tuple[str, int | None, int | None], text: str
) -> None:
    """A change names the previous verdict only if it differs, and engine counts only if the source gives them."""
    assert text == change_text(_change(before, now, None, None)).plain


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [(None, None, ""), (None, "a", "a"), ("a", "a", "a"), ("a", "b", "a → b"), ("a", None, "a → (none)")],
)
def test_a_changed_label_shows_both(before: str | None, now: str | None, text: str) -> None:
    """A label that differs from the previous one is shown after it."""
    assert text == label_text(_change(("malicious", 1, 2), ("malicious", 1, 2), before, now)).plain


def _change(
    before: tuple[str, int | None, int | None] | None,
    now: tuple[str, int | None, int | None],
    label_before: str | None,
    label: str | None,
) -> VerdictChange:
    old = before or (None, None, None)
    return VerdictChange("x", DAY, DAY, now[0], label, now[1], now[2], None, None, old[0], label_before, old[1], old[2])


def test_report_shows_new_verdicts(filled: Engine) -> None:
    """A report has the files found malicious and the changed verdicts, including a retracted one."""
    text = report_text(_report(filled), Screen())
    assert NEWS == text[text.index("Found to be malicious\n") : text.index("\nWhere from")]
    assert re.search(r"found to be malicious +2\n", text)
    assert re.search(r"changed verdicts +2\n", text)
    assert "cowrieprocessor files history 000002000000" in text


def test_a_day_without_sessions_shows_new_verdicts(filled: Engine) -> None:
    """A day without sessions still has its new verdicts, and says so; on a day without either nothing happened."""
    with write_transaction(filled) as connection:
        add_verdict(connection, sha(2), "virustotal", at(30), "malicious", 2, 70)
    text = report_text(_report(filled, days=1), Screen())
    assert "No session began and no file was seen (2026-11-22, UTC). 1 answer about earlier files changed." in text
    assert "clean 0/70 → malicious 2/70" in text
    assert "Found to be malicious" not in text
    nothing = report_text(_report(filled, days=3), Screen())
    assert "Nothing happened" in nothing
    assert "verdicts" not in nothing


def test_new_verdicts_and_history_fit_any_width(filled: Engine) -> None:
    """No line is wider than the screen, and no number is cut."""
    report = _report(filled)
    with read_transaction(filled) as connection:
        history = file_history(connection, sha(1))
    for width in (20, 40, 71, 80, 91, 92, 100, 150, 240):
        text = report_text(report, Screen(width)).partition("\nNext\n")[0]
        text += file_history_text(history, Screen(width))
        assert max(len(line) for line in text.splitlines()) <= max(width, 40)
        assert "12/70" in text
        assert "40/71" in text


def test_cut_lists_of_verdicts_say_how_many_more(filled: Engine) -> None:
    """A list of verdicts that is cut is followed by the number of the others."""
    report = _report(filled, top_files=1)
    text = report_text(report, Screen())
    assert (2, 3, 1, 1) == (
        *(report.totals.files_found_malicious, report.totals.answers_changed),
        *(len(report.found_malicious), len(report.changed_verdicts)),
    )
    assert text.index("and 1 more") < text.index("and 2 more")


def test_csv_and_json_have_the_same_verdicts(filled: Engine) -> None:
    """Each new verdict is a row of the CSV and an object of the JSON, with the previous answer."""
    report = _report(filled)
    rows = list(csv.DictReader(io.StringIO(report_csv(report), newline="")))
    found = [row for row in rows if row["section"] == "found_malicious"]
    changed = [row for row in rows if row["section"] == "changed_verdicts"]
    columns = ("rank", "key", "sessions", "value", "total", "verdict", "provider", "at", "classification")
    assert [
        ("1", sha(2), "7", "1", "70", "clean", "virustotal", "2026-11-21T06:00:00Z", ""),
        ("2", sha(1), "2", "12", "70", "malicious", "virustotal", "2026-11-21T02:00:00Z", "trojan.mirai/gafgyt"),
    ] == [tuple(row[name] for name in columns) for row in found]
    names = ("key", "verdict", "value", "total", "previous_verdict", "previous", "previous_total")
    assert [
        (sha(2), "clean", "0", "70", "malicious", "1", "70"),
        (sha(1), "malicious", "12", "70", "unknown", "", ""),
        (sha(1), "malicious", "40", "71", "malicious", "12", "70"),
    ] == [tuple(row[name] for name in names) for row in changed]
    assert "trojan.mirai/gafgyt" == changed[2]["previous_classification"]
    document = json.loads(report_json(report))
    assert [sha(2), sha(1)] == [file["sha256"] for file in document["found_malicious"]]
    assert ["malicious", "unknown", "malicious"] == [
        change["previous_verdict"] for change in document["changed_verdicts"]
    ]
    assert (2, 3, 2) == tuple(
        document["totals"][name] for name in ("files_found_malicious", "answers_changed", "verdicts_changed")
    )
