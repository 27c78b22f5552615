"""Reports: every number equals an independent recount."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import NotFound
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.queries.activity import Ranked, Totals
from cowrieprocessor.reporting.reports import Change, make_report, newest_period
from tests.unit.reporting.scene import DAY, add_dead_letter, add_file, add_hash, add_session, at, sha

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
COMMANDS = ("id", "W", "uname -a", "ä")


@dataclass
class Truth:
    """What was put into the database, as plain Python."""

    sessions: list[dict[str, object]] = field(default_factory=list)
    files: list[dict[str, object]] = field(default_factory=list)
    hashes: dict[str, dict[str, object]] = field(default_factory=dict)


def _fill(engine: Engine, seed: int) -> Truth:
    """Put random sessions and files around the edges of the day into the database, and return them."""
    rng = random.Random(seed)
    truth = Truth()
    with write_transaction(engine) as connection:
        for number in range(60):
            row: dict[str, object] = {
                "session_id": f"s{number}",
                "first": rng.choice((*MOMENTS, None)),
                "sensor": rng.choice(SENSORS),
                "attributes": rng.random() < 0.9,
                "src_ip": rng.choice(("10.0.0.1", "10.0.0.2", "2001:db8::1", None)),
                "username": rng.choice(("root", "Admin", "admin", "ä", None)),
                "login_success": rng.choice((True, False, None)),
                "protocol": rng.choice(("ssh", "telnet")),
                "commands": {
                    c: rng.randrange(1, 4) for c in rng.sample(("id", "W", "uname -a", "ä"), rng.randrange(4))
                },
                "file_downloads": rng.choice((0, 0, 1, 5)),
                "event_count": rng.randrange(50),
                "login_attempts": rng.randrange(5),
            }
            truth.sessions.append(row)
            options = {key: value for key, value in row.items() if key not in ("session_id", "first")}
            add_session(connection, str(row["session_id"]), row["first"], **options)  # type: ignore[arg-type]
        for number in range(6):
            truth.hashes[sha(number)] = {
                "verdict": rng.choice(("malicious", "suspicious", "unknown", "clean")),
                "first": rng.choice((at(-300), at(0), at(-1))),
            }
            hashed = truth.hashes[sha(number)]
            add_hash(connection, sha(number), hashed["first"], at(30), verdict=hashed["verdict"])  # type: ignore[arg-type]
        pairs = [(f"s{n}", h) for n in range(60) for h in range(6)] + [("artifact:lab", h) for h in range(6)]
        for session_id, number in rng.sample(pairs, 80):
            file: dict[str, object] = {
                "session_id": session_id,
                "sha256": sha(number),
                "seen": rng.choice(MOMENTS),
                "origin": "artifact" if session_id.startswith("artifact") else rng.choice(("download", "upload")),
                "filename": rng.choice(("x", "Y", "ä", None)),
                "download_url": rng.choice(("http://u/1", "http://u/2", None)),
            }
            truth.files.append(file)
            add_file(
                connection,
                session_id,
                sha(number),
                file["seen"],  # type: ignore[arg-type]
                origin=file["origin"],
                filename=file["filename"],
                download_url=file["download_url"],
            )
    return truth


def _recount(
    truth: Truth, start: dt.datetime, end: dt.datetime, sensor: str | None
) -> tuple[Totals, dict[str, object]]:
    """Count everything again, from what was put in."""
    sensors = {row["session_id"]: row["sensor"] for row in truth.sessions} | {"artifact:lab": "lab"}
    sessions = [
        row
        for row in truth.sessions
        if row["first"] and start <= row["first"] < end and sensor in (None, row["sensor"])  # type: ignore[operator]
    ]
    files = [
        row
        for row in truth.files
        if start <= row["seen"] < end and sensor in (None, sensors[row["session_id"]])  # type: ignore[operator]
    ]
    known = [row for row in sessions if row["attributes"]]
    hashes = {row["sha256"] for row in files}
    verdicts = Counter(truth.hashes[str(sha256)]["verdict"] for sha256 in hashes)
    origins = Counter(row["origin"] for row in files)
    totals = Totals(
        sessions=len(sessions),
        sessions_logged_in=sum(row["login_success"] is True for row in known),
        sessions_with_files=len({row["session_id"] for row in files if row["origin"] != "artifact"}),
        sessions_without_attributes=len(sessions) - len(known),
        sessions_without_their_files=sum(
            row["file_downloads"] > 0  # type: ignore[operator]
            and row["session_id"] not in {file["session_id"] for file in truth.files}
            for row in sessions
        ),
        addresses=len({row["src_ip"] for row in known} - {None}),
        sensors=len({row["sensor"] for row in sessions} - {None}),
        events=sum(row["event_count"] for row in sessions),  # type: ignore[misc]
        commands=sum(sum(row["commands"].values()) for row in sessions),  # type: ignore[attr-defined]
        login_attempts=sum(row["login_attempts"] for row in sessions),  # type: ignore[misc]
        files=len(hashes),
        files_new=sum(truth.hashes[str(sha256)]["first"] >= start for sha256 in hashes),  # type: ignore[operator]
        files_malicious=verdicts["malicious"],
        files_suspicious=verdicts["suspicious"],
        downloads=origins["download"],
        uploads=origins["upload"],
        artifacts=origins["artifact"],
    )
    commands: defaultdict[str, list[int]] = defaultdict(list)
    for row in sessions:
        for command, times in row["commands"].items():  # type: ignore[attr-defined]
            commands[command].append(times)
    urls: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    for row in files:
        if row["download_url"]:
            urls[str(row["download_url"])].append(row)
    rankings: dict[str, object] = {
        "addresses": _ranked(_grouped(known, "src_ip", "event_count")),
        "usernames": _ranked(_grouped(known, "username", "login_attempts")),
        "protocols": _ranked(_grouped(known, "protocol", "event_count")),
        "sensors": _ranked(_grouped(sessions, "sensor", "event_count")),
        "commands": _ranked([Ranked(value, len(times), sum(times)) for value, times in commands.items()]),
        "urls": _ranked(
            [
                Ranked(url, len({row["session_id"] for row in rows}), len({row["sha256"] for row in rows}))
                for url, rows in urls.items()
            ]
        ),
    }
    severity = {"malicious": 0, "suspicious": 1}
    in_sessions = Counter(row["sha256"] for row in files if row["origin"] != "artifact")
    rankings["files"] = sorted(
        hashes,
        key=lambda sha256: (
            severity.get(str(truth.hashes[str(sha256)]["verdict"]), 2),
            -in_sessions[sha256],
            sha256,
        ),
    )
    return totals, rankings


def _grouped(rows: list[dict[str, object]], key: str, counted: str) -> list[Ranked]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row[key] is not None:
            groups[str(row[key])].append(row[counted])  # type: ignore[arg-type]
    return [Ranked(value, len(counts), sum(counts)) for value, counts in groups.items()]


def _ranked(rows: list[Ranked]) -> list[Ranked]:
    return sorted(rows, key=lambda row: (-row.sessions, -row.times, row.value.encode()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sensor", [None, "lab", "Office"])
def test_every_number_equals_a_recount(engine: Engine, seed: int, sensor: str | None) -> None:
    """Totals, comparison and rankings are what plain Python counts from the same rows, edges of the day included."""
    truth = _fill(engine, seed)
    period = period_of(PeriodKind.DAILY, DAY)
    with read_transaction(engine) as connection:
        report = make_report(connection, period, sensor=sensor)
    totals, rankings = _recount(truth, period.start, period.end, sensor)
    assert asdict(totals) == asdict(report.totals)
    before = period.previous()
    assert asdict(_recount(truth, before.start, before.end, sensor)[0]) == asdict(report.previous)
    for name in ("addresses", "usernames", "protocols", "sensors", "commands", "urls"):
        ranking = getattr(report, name)
        assert (rankings[name], len(rankings[name])) == (list(ranking.top), ranking.distinct), name  # type: ignore[arg-type]
    assert rankings["files"] == [file.sha256 for file in report.files]
    for file in report.files:
        rows = [
            row
            for row in truth.files
            if row["sha256"] == file.sha256
            and period.start <= row["seen"] < period.end  # type: ignore[operator]
            and (sensor is None or row["session_id"] in _sessions_of(truth, sensor))
        ]
        assert file.downloads == sum(row["origin"] == "download" for row in rows)
        assert file.uploads == sum(row["origin"] == "upload" for row in rows)
        assert file.first_in_window == min(row["seen"] for row in rows)  # type: ignore[type-var]
        assert file.name == min((str(row["filename"]) for row in rows if row["filename"]), key=str.encode, default=None)
        assert file.new == (truth.hashes[file.sha256]["first"] >= period.start)  # type: ignore[operator]


def _sessions_of(truth: Truth, sensor: str) -> set[object]:
    found = {row["session_id"] for row in truth.sessions if row["sensor"] == sensor}
    return found | ({"artifact:lab"} if sensor == "lab" else set())


def test_lists_are_cut_and_say_how_many_there_are(engine: Engine) -> None:
    """A ranking holds the most frequent values and the number of all; files likewise, in the totals."""
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


def test_dead_letters_are_those_that_wait(engine: Engine) -> None:
    """A report names the dead letters that wait, of any date, because what was not understood has no time."""
    with write_transaction(engine) as connection:
        add_dead_letter(connection, "not JSON", {}, created_at=at(0, days=300))
        add_dead_letter(connection, "not JSON", {}, resolved=True)
    with read_transaction(engine) as connection:
        report = make_report(connection, period_of(PeriodKind.DAILY, DAY))
    assert [(letters.reason, letters.count) for letters in report.dead_letters] == [("not JSON", 1)]
    assert report.is_empty


def test_newest_period_is_that_of_the_newest_session(engine: Engine) -> None:
    """The default is the period of the newest session, else of the newest file, else none; per sensor if asked."""
    with read_transaction(engine) as connection:
        assert newest_period(connection, PeriodKind.DAILY) is None
    with write_transaction(engine) as connection:
        add_file(connection, "artifact:box", sha(1), at(0, days=-9), origin="artifact")
    with read_transaction(engine) as connection:
        assert _newest_name(engine, None) == "2026-11-12"
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(3), sensor="lab")
        add_session(connection, "b", at(3, days=-2), sensor="office")
        add_session(connection, "c", None, sensor="office")
    assert _newest_name(engine, None) == "2026-11-21"
    assert _newest_name(engine, "office") == "2026-11-19"
    assert _newest_name(engine, "box") == "2026-11-12"


def _newest_name(engine: Engine, sensor: str | None) -> str:
    with read_transaction(engine) as connection:
        period = newest_period(connection, PeriodKind.DAILY, sensor)
    assert period is not None
    return period.name


def test_a_sensor_that_is_not_there_is_named_with_those_that_are(engine: Engine) -> None:
    """A misspelt sensor is an error that lists the sensors; one that only saw other days is none."""
    with write_transaction(engine) as connection:
        add_session(connection, "a", at(3), sensor="lab")
        add_file(connection, "artifact:box", sha(1), at(3), origin="artifact")
    with read_transaction(engine) as connection:
        with pytest.raises(NotFound, match=r"'lob'.*box, lab"):
            make_report(connection, period_of(PeriodKind.DAILY, DAY), sensor="lob")
        with pytest.raises(NotFound, match=r"'lob'.*box, lab"):
            newest_period(connection, PeriodKind.DAILY, "lob")
        assert make_report(connection, period_of(PeriodKind.DAILY, at(0, days=9)), sensor="lab").is_empty


@pytest.mark.parametrize(
    ("current", "previous", "percent"), [(3, 2, 50.0), (1, 3, -66.7), (0, 4, -100.0), (5, 0, None), (0, 0, None)]
)
def test_change_is_in_percent_of_the_number_before(current: int, previous: int, percent: float | None) -> None:
    """The change is in percent of the previous number; after nothing there is none."""
    assert percent == Change(current, previous).percent
