"""Reports: every number equals an independent recount."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import NotFound
from cowrieprocessor.loader.rows.file_mentions import URL
from cowrieprocessor.reporting.periods import Period, PeriodKind, period_of
from cowrieprocessor.reporting.queries.activity import Ranked, Ranking, Totals
from cowrieprocessor.reporting.reports import Change, make_report, newest_period
from tests.unit.reporting.scene import DAY, add_dead_letter, add_file, add_hash, add_mention, add_session, at, sha

NOW = at(12, days=1)

MOMENTS = (
    at(0) - dt.timedelta(microseconds=1),
    at(0),
    at(12),
    at(24) - dt.timedelta(microseconds=1),
    at(24),
    at(-3),
    at(0, days=-1),
    at(0, days=-1) - dt.timedelta(microseconds=1),
)
SENSORS = ("lab", "Office", None)
LAST_SEEN = at(30)
COMMANDS = ("id", "W", "uname -a", "ä")
SESSION_COUNT = 60
HASH_COUNT = 6
FILE_COUNT = 80
SEVERITY = {"malicious": 0, "suspicious": 1}


@dataclass(frozen=True)
class SessionRow:
    """A session in the database; `attributes` is whether its address, user and protocol are stored."""

    session_id: str
    first: dt.datetime | None
    sensor: str | None
    attributes: bool
    src_ip: str | None
    username: str | None
    login_success: bool | None
    protocol: str
    commands: dict[str, int]
    file_downloads: int
    event_count: int
    login_attempts: int


@dataclass(frozen=True)
class HashRow:
    """A row of `file_hashes`."""

    sha256: str
    verdict: str
    first: dt.datetime


@dataclass(frozen=True)
class FileRow:
    """A row of `files`."""

    session_id: str
    sha256: str
    seen: dt.datetime
    origin: str
    filename: str | None
    download_url: str | None


@dataclass(frozen=True)
class Truth:
    """The content of the database as plain Python."""

    sessions: list[SessionRow]
    files: list[FileRow]
    hashes: dict[str, HashRow]


def _random_session(rng: random.Random, number: int) -> SessionRow:
    return SessionRow(
        session_id=f"s{number}",
        first=rng.choice((*MOMENTS, None)),
        sensor=rng.choice(SENSORS),
        attributes=rng.random() < 0.9,
        src_ip=rng.choice(("10.0.0.1", "10.0.0.2", "2001:db8::1", None)),
        username=rng.choice(("root", "Admin", "admin", "ä", None)),
        login_success=rng.choice((True, False, None)),
        protocol=rng.choice(("ssh", "telnet")),
        commands={command: rng.randrange(1, 4) for command in rng.sample(COMMANDS, rng.randrange(4))},
        file_downloads=rng.choice((0, 0, 1, 5)),
        event_count=rng.randrange(50),
        login_attempts=rng.randrange(5),
    )


def _random_hash(rng: random.Random, number: int) -> HashRow:
    return HashRow(
        sha256=sha(number),
        verdict=rng.choice(("malicious", "suspicious", "unknown", "clean")),
        first=rng.choice((at(-300), at(0), at(-1))),
    )


def _random_file(rng: random.Random, session_id: str, sha256: str) -> FileRow:
    return FileRow(
        session_id=session_id,
        sha256=sha256,
        seen=rng.choice(MOMENTS),
        origin="artifact" if session_id.startswith("artifact") else rng.choice(("download", "upload")),
        filename=rng.choice(("x", "Y", "ä", None)),
        download_url=rng.choice(("http://u/1", "http://u/2", None)),
    )


def _random_truth(seed: int) -> Truth:
    """Return random sessions and files around the edges of the day."""
    rng = random.Random(seed)
    sessions = [_random_session(rng, number) for number in range(SESSION_COUNT)]
    hashes = [_random_hash(rng, number) for number in range(HASH_COUNT)]
    session_ids = [*(session.session_id for session in sessions), "artifact:lab"]
    pairs = [(session_id, row.sha256) for session_id in session_ids for row in hashes]
    files = [_random_file(rng, session_id, sha256) for session_id, sha256 in rng.sample(pairs, FILE_COUNT)]
    return Truth(sessions, files, {row.sha256: row for row in hashes})


def _store(engine: Engine, truth: Truth) -> None:
    with write_transaction(engine) as connection:
        for session in truth.sessions:
            columns = {name: value for name, value in asdict(session).items() if name not in ("session_id", "first")}
            add_session(connection, session.session_id, session.first, **columns)
        for row in truth.hashes.values():
            add_hash(connection, row.sha256, row.first, LAST_SEEN, verdict=row.verdict)
        for file in truth.files:
            columns = {name: getattr(file, name) for name in ("origin", "filename", "download_url")}
            add_file(connection, file.session_id, file.sha256, file.seen, **columns)


class Recount:
    """Everything that a report counts, counted again in plain Python."""

    def __init__(self, truth: Truth, period: Period, sensor: str | None) -> None:
        """Pick the rows that belong to the period, and to the sensor unless it is None."""
        self._truth = truth
        self._start = period.start
        sensors = {session.session_id: session.sensor for session in truth.sessions} | {"artifact:lab": "lab"}
        self._sessions = [
            session
            for session in truth.sessions
            if session.first and period.start <= session.first < period.end and sensor in (None, session.sensor)
        ]
        self._files = [
            file
            for file in truth.files
            if period.start <= file.seen < period.end and sensor in (None, sensors[file.session_id])
        ]
        self._known = [session for session in self._sessions if session.attributes]
        self._hashes = {file.sha256 for file in self._files}

    def totals(self) -> dict[str, int]:
        """Return every number of `Totals` that sessions and files make up; those of verdicts are 0."""
        return asdict(Totals(**self._session_totals(), **self._file_totals()))

    def _session_totals(self) -> dict[str, int]:
        with_files = {file.session_id for file in self._truth.files}
        return {
            "sessions": len(self._sessions),
            "sessions_logged_in": sum(session.login_success is True for session in self._known),
            "sessions_without_attributes": len(self._sessions) - len(self._known),
            "sessions_without_their_files": sum(
                session.file_downloads > 0 and session.session_id not in with_files for session in self._sessions
            ),
            "addresses": len({session.src_ip for session in self._known} - {None}),
            "sensors": len({session.sensor for session in self._sessions} - {None}),
            "sessions_without_sensor": sum(session.sensor is None for session in self._sessions),
            "events": sum(session.event_count for session in self._sessions),
            "commands": sum(sum(session.commands.values()) for session in self._sessions),
            "login_attempts": sum(session.login_attempts for session in self._sessions),
        }

    def _file_totals(self) -> dict[str, int]:
        verdicts = Counter(self._truth.hashes[sha256].verdict for sha256 in self._hashes)
        origins = Counter(file.origin for file in self._files)
        return {
            "sessions_with_files": len({file.session_id for file in self._files if file.origin != "artifact"}),
            "sessions_begun_earlier": len(self._begun_earlier()),
            "files": len(self._hashes),
            "files_new": sum(self._is_new(sha256) for sha256 in self._hashes),
            "files_malicious": verdicts["malicious"],
            "files_suspicious": verdicts["suspicious"],
            "files_clean": verdicts["clean"],
            "files_not_asked": verdicts["unknown"],
            "downloads": origins["download"],
            "uploads": origins["upload"],
            "artifacts": origins["artifact"],
        }

    def _begun_earlier(self) -> set[str]:
        ids = {file.session_id for file in self._files if file.origin != "artifact"}
        return {
            row.session_id
            for row in self._truth.sessions
            if row.session_id in ids and row.first and row.first < self._start
        }

    def rankings(self) -> dict[str, list[Ranked]]:
        """Return every ranking of a report by its name."""
        return {
            "addresses": _ranked((session.src_ip, session.event_count) for session in self._known),
            "usernames": _ranked((session.username, session.login_attempts) for session in self._known),
            "protocols": _ranked((session.protocol, session.event_count) for session in self._known),
            "sensors": _ranked((session.sensor, session.event_count) for session in self._sessions),
            "commands": _ranked(item for session in self._sessions for item in session.commands.items()),
            "urls": self._ranked_urls(),
        }

    def _ranked_urls(self) -> list[Ranked]:
        files: defaultdict[str, list[FileRow]] = defaultdict(list)
        for file in self._files:
            if file.download_url:
                files[file.download_url].append(file)
        return _sorted(
            Ranked(url, len({row.session_id for row in rows}), len({row.sha256 for row in rows}))
            for url, rows in files.items()
        )

    def files(self) -> list[FileFacts]:
        """Return what a report says about each file, in the order of the report."""
        in_sessions = Counter(file.sha256 for file in self._files if file.origin != "artifact")

        def order(sha256: str) -> tuple[int, int, str]:
            return SEVERITY.get(self._truth.hashes[sha256].verdict, 2), -in_sessions[sha256], sha256

        return [self._file_facts(sha256) for sha256 in sorted(self._hashes, key=order)]

    def _file_facts(self, sha256: str) -> FileFacts:
        rows = [file for file in self._files if file.sha256 == sha256]
        return FileFacts(
            sha256=sha256,
            downloads=sum(row.origin == "download" for row in rows),
            uploads=sum(row.origin == "upload" for row in rows),
            first_in_window=min(row.seen for row in rows),
            name=self._name(sha256),
            new=self._is_new(sha256),
        )

    def _name(self, sha256: str) -> str | None:
        """Return the name in the first sighting, else in the last, else the least; the period does not matter."""
        named = [(file.seen, file.filename) for file in self._truth.files if file.sha256 == sha256 and file.filename]
        first, last = self._truth.hashes[sha256].first, LAST_SEEN
        for chosen in ([name for seen, name in named if seen == moment] for moment in (first, last)):
            if chosen:
                return min(chosen, key=str.encode)
        return min((name for _, name in named), key=str.encode, default=None)

    def _is_new(self, sha256: str) -> bool:
        return self._truth.hashes[sha256].first >= self._start


@dataclass(frozen=True)
class FileFacts:
    """What is checked of each file in a report."""

    sha256: str
    downloads: int
    uploads: int
    first_in_window: dt.datetime
    name: str | None
    new: bool


def _ranked(values: Iterable[tuple[str | None, int]]) -> list[Ranked]:
    """Return values, each given with a count once per session, in the order of a ranking; None is no value."""
    counts: defaultdict[str, list[int]] = defaultdict(list)
    for value, count in values:
        if value is not None:
            counts[value].append(count)
    return _sorted(Ranked(value, len(numbers), sum(numbers)) for value, numbers in counts.items())


def _sorted(rows: Iterable[Ranked]) -> list[Ranked]:
    return sorted(rows, key=lambda row: (-row.sessions, -row.times, row.value.encode()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sensor", [None, "lab", "Office"])
def test_every_number_equals_a_recount(engine: Engine, seed: int, sensor: str | None) -> None:
    """Totals, comparison and rankings are what plain Python counts from the same rows, edges of the day included."""
    truth = _random_truth(seed)
    _store(engine, truth)
    period = period_of(PeriodKind.DAILY, DAY)

    with read_transaction(engine) as connection:
        report = make_report(connection, period, sensor=sensor)

    recount = Recount(truth, period, sensor)
    assert recount.totals() == asdict(report.totals)
    assert Recount(truth, period.previous(), sensor).totals() == asdict(report.previous)
    for name, expected in recount.rankings().items():
        ranking: Ranking = getattr(report, name)
        assert (expected, len(expected)) == (list(ranking.top), ranking.distinct), name
    names = [field.name for field in fields(FileFacts)]
    assert recount.files() == [FileFacts(**{name: getattr(file, name) for name in names}) for file in report.files]


def test_lists_are_cut_and_have_their_full_length(engine: Engine) -> None:
    """A ranking has the most frequent values and the number of all; for files that number is in the totals."""
    with write_transaction(engine) as connection:
        for number in range(12):
            add_session(connection, f"s{number}", at(1), src_ip=f"10.0.0.{number}")
            add_hash(connection, sha(number), at(1))
            add_file(connection, f"s{number}", sha(number), at(1))
    with read_transaction(engine) as connection:
        report = make_report(connection, period_of(PeriodKind.DAILY, DAY), top_files=5, top_values=3)
    assert (
        len(report.addresses.top),
        report.addresses.distinct,
        len(report.files),
        report.totals.files,
    ) == (3, 12, 5, 12)


def test_dead_letters_are_the_unresolved_ones(engine: Engine) -> None:
    """A report counts unresolved dead letters of any date, because an unreadable line has no event time."""
    with write_transaction(engine) as connection:
        add_dead_letter(connection, "not JSON", {}, created_at=at(0, days=300))
        add_dead_letter(connection, "not JSON", {}, resolved=True)
    with read_transaction(engine) as connection:
        report = make_report(connection, period_of(PeriodKind.DAILY, DAY))
    assert [(letters.reason, letters.count) for letters in report.dead_letters] == [("not JSON", 1)]
    assert report.is_empty


def test_newest_period_is_that_of_the_newest_session_or_file(engine: Engine) -> None:
    """The newest period is that of the newest session or file, else None; also for one sensor."""
    with read_transaction(engine) as connection:
        assert newest_period(connection, PeriodKind.DAILY, NOW) is None
    with write_transaction(engine) as connection:
        add_file(connection, "artifact:box", sha(1), at(0, days=-9), origin="artifact")
    with read_transaction(engine) as connection:
        assert _newest_period_name(engine, None) == "2026-11-12"
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(3), sensor="lab")
        add_session(connection, "b", at(3, days=-2), sensor="office")
        add_session(connection, "c", None, sensor="office")
    assert _newest_period_name(engine, None) == "2026-11-21"
    assert _newest_period_name(engine, "office") == "2026-11-19"
    assert _newest_period_name(engine, "box") == "2026-11-12"


def test_newest_period_is_that_of_a_file_after_the_newest_session(engine: Engine) -> None:
    """A file or URL after midnight, and a captured file that no log names, are newer than the session's beginning."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(23.9, days=-1), sensor="lab")
        add_session(connection, "b", at(23.9, days=-2), sensor="office")
    names = [_newest_period_name(engine, None)]
    with write_transaction(engine) as connection:
        add_file(connection, "a", sha(1), at(0.1))
    names.append(_newest_period_name(engine, None))
    with write_transaction(engine) as connection:
        add_mention(connection, "b", "", URL, "http://198.51.100.7/x", at(0.1, days=1))
    names.append(_newest_period_name(engine, None))
    with write_transaction(engine) as connection:
        add_file(connection, "artifact:box", sha(2), at(0, days=1), origin="artifact")
        add_file(connection, "artifact:lab", sha(2), at(0, days=400), origin="artifact")
    sensors = [_newest_period_name(engine, sensor) for sensor in ("lab", "office", "box", None)]
    assert names == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert sensors == ["2026-11-21", "2026-11-22", "2026-11-22", "2026-11-22"]


def test_a_session_dated_in_the_future_is_not_the_newest(engine: Engine) -> None:
    """What a clock that was wrong dated after today counts only where there is nothing else; impossible dates never."""
    with write_transaction(engine) as connection:
        for number, moment in enumerate((dt.datetime.min, dt.datetime(9999, 12, 31))):
            add_session(connection, f"x{number}", moment.replace(tzinfo=dt.UTC))
    with read_transaction(engine) as connection:
        assert newest_period(connection, PeriodKind.MONTHLY, NOW) is None
    with write_transaction(engine) as connection:
        add_session(connection, "future", at(3, days=400))
    assert _newest_period_name(engine, None) == f"{at(3, days=400):%Y-%m-%d}"
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(3))
        add_session(connection, "tonight", at(12, days=1))
    assert _newest_period_name(engine, None) == f"{at(12, days=1):%Y-%m-%d}"


def test_a_report_says_how_many_rows_are_left_out(engine: Engine) -> None:
    """Lists that are not whole are named with what is left out of them."""
    with write_transaction(engine) as connection:
        for number in range(12):
            add_session(connection, f"s{number}", at(number), src_ip=f"203.0.113.{number}")
            add_hash(connection, sha(number), at(number))
            add_file(connection, f"s{number}", sha(number), at(number))
    with read_transaction(engine) as connection:
        cut = make_report(connection, period_of(PeriodKind.DAILY, DAY), top_files=5, top_values=3)
        whole = make_report(connection, period_of(PeriodKind.DAILY, DAY), top_files=12, top_values=12)
    assert cut.left_out() == {"files": 7, "addresses": 9}
    assert whole.left_out() == {}


def _newest_period_name(engine: Engine, sensor: str | None) -> str:
    with read_transaction(engine) as connection:
        period = newest_period(connection, PeriodKind.DAILY, NOW, sensor)
    assert period is not None
    return period.name


def test_an_unknown_sensor_is_an_error_that_lists_the_known_ones(engine: Engine) -> None:
    """A misspelt sensor is an error that lists the sensors; a sensor without sessions on that day is not an error."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(3), sensor="lab")
        add_file(connection, "artifact:box", sha(1), at(3), origin="artifact")
    with read_transaction(engine) as connection:
        with pytest.raises(NotFound, match=r"'lob'.*box, lab"):
            make_report(connection, period_of(PeriodKind.DAILY, DAY), sensor="lob")
        with pytest.raises(NotFound, match=r"'lob'.*box, lab"):
            newest_period(connection, PeriodKind.DAILY, NOW, "lob")
        assert make_report(connection, period_of(PeriodKind.DAILY, at(0, days=9)), sensor="lab").is_empty


@pytest.mark.parametrize(
    ("current", "previous", "percent"), [(3, 2, 50.0), (1, 3, -66.7), (0, 4, -100.0), (5, 0, None), (0, 0, None)]
)
def test_change_is_in_percent_of_the_previous_number(current: int, previous: int, percent: float | None) -> None:
    """The change is in percent of the previous number, and None if that is 0."""
    assert percent == Change(current, previous).percent
