"""Where files came from: every URL and name of every event, counted again by an independent pass over the lines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import Engine, event, insert, select, text

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import FileMention, RawEvent
from cowrieprocessor.events import moment_or_none
from cowrieprocessor.jobs.maintenance.remove_log import plan, remove
from cowrieprocessor.jobs.upgrade.backfill import JobProgress, backfill
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.jobs.upgrade.rollback import roll_back
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.queries.backfill import ALL_JOBS, MENTIONS_JOB, completeness
from cowrieprocessor.reporting.queries.file_details import file_details
from cowrieprocessor.reporting.queries.files import FileFilter, list_files
from cowrieprocessor.reporting.reports import make_report
from cowrieprocessor.sanitize import visible
from tests.command_line import run
from tests.earlier_revisions import go_back
from tests.loading import read_by
from tests.unit.jobs.upgraded import change

BEFORE = "0011"
"""The revision before the one that knows mentions."""

Mentions = dict[tuple[str, str, str, str], tuple[str, str]]
"""First and last time by session, hash, kind and value."""

ONE, TWO = "11" * 32, "22" * 32
DAY = moment_or_none("2026-11-21T00:00:00Z")


def line(eventid: str, session: str, at: str, **fields: object) -> str:
    """Return an event of 2026-11-21."""
    kind = "cowrie.session.file_"
    stamp = f"2026-11-21T{at}:00.000000Z"
    return json.dumps({"eventid": kind + eventid, "session": session, "timestamp": stamp, "sensor": "hp1", **fields})


OWN = [
    line("download", "aa", "01:00", shasum=ONE, url="http://203.0.113.1/own-z.sh"),
    line("download", "aa", "02:00", shasum=ONE, url="http://203.0.113.2/own-a.sh"),
    line("download", "aa", "03:00", shasum=ONE, url="http://203.0.113.2/own-a.sh"),
    line("download", "bb", "04:00", shasum=ONE, url="http://203.0.113.2/own-a.sh"),
    line("download", "bb", "04:30", shasum=TWO, url="http://203.0.113.2/own-a.sh"),
    line("download.failed", "bb", "05:00", url="http://203.0.113.2/own-a.sh"),
    line("download.failed", "cc", "05:00", url="http://203.0.113.3/dead"),
    line("download", "cc", "06:00", shasum="", outfile="", url="http://203.0.113.3/empty"),
    line("download", "cc", "06:30", shasum="22", destfile="odd", url="http://203.0.113.3/odd"),
    line("upload", "cc", "07:00", shasum=ONE, filename="redtail", destfile="/root/redtail", url="/root/redtail"),
]
"""A second URL for a hash and in a session, failed and empty downloads, a malformed hash, two names of an upload."""


def lines_of(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the decoded lines of logs."""
    for path in paths:
        for raw in path.read_text(errors="replace").splitlines():
            try:
                fields = json.loads(raw)
            except ValueError:
                continue
            if isinstance(fields, dict):
                yield fields


def recounted(paths: Iterable[Path]) -> Mentions:
    """Return what the lines of logs mention, by rules stated here once more; the logs have no text to be escaped."""
    found: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for fields in lines_of(paths):
        kind = str(fields.get("eventid")).removeprefix("cowrie.session.file_")
        if kind not in ("download", "download.failed", "upload") or not fields.get("session"):
            continue
        url, sha256 = fields.get("url") or "", fields.get("shasum") or ""
        sha256 = sha256.lower() if kind != "download.failed" and len(sha256) == len(ONE) else ""
        is_url = kind != "upload" and url not in ("", "stdin") and not url.startswith("/")
        names = {fields[key] for key in ("destfile", "filename") if fields.get(key)}
        if not names and url != "stdin":
            names = {unquote((urlsplit(url) if "://" in url else urlsplit(f"//x{url}")).path.rsplit("/", 1)[-1])}
        values = {("url", url)} if is_url else set()
        values |= {("name", name) for name in names if name and sha256}
        moment = moment_or_none(fields["timestamp"])
        assert moment is not None
        for what, value in values:
            found[fields["session"], sha256, what, value].append(moment)
    return {key: (min(times), max(times)) for key, times in found.items()}


def stored(engine: Engine) -> Mentions:
    """Return all rows of `file_mentions`."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(FileMention.__table__))
        return {
            (row.session_id, row.shasum, row.kind, visible(row.value)): (
                f"{row.first_seen:%Y-%m-%d %H:%M:%S.%f}",
                f"{row.last_seen:%Y-%m-%d %H:%M:%S.%f}",
            )
            for row in rows
        }


@pytest.fixture
def own_log(tmp_path: Path) -> Path:
    """A log with `OWN`."""
    path = tmp_path / "own.json"
    path.write_text("".join(f"{one}\n" for one in OWN))
    return path


@pytest.fixture
def logs(corpus: Path, own_log: Path) -> list[Path]:
    """The real logs, every shape of file event, and our own."""
    real = sorted(path for path in corpus.glob("cowrie-*/cowrie.json*") if path.is_file())
    return [*real, corpus / "file-event-shapes.jsonl", own_log]


def test_a_load_stores_what_the_lines_mention(engine: Engine, logs: list[Path]) -> None:
    """Whatever is loaded how often: the rows are those of an independent pass over the lines."""
    expected = recounted(logs)
    assert {kind for _, _, kind, _ in expected} == {"url", "name"}
    assert sum(not sha256 for _, sha256, _, _ in expected) >= 8

    BulkLoader(engine).load(logs[::2])
    read_by("poll", engine, logs)
    BulkLoader(engine).load(list(reversed(logs)))

    assert stored(engine) == expected
    assert validate(engine).valid


def test_views_count_every_url(engine: Engine, logs: list[Path]) -> None:
    """Report, `files show` and the filters of `files list` go by all URLs and names, with sessions and dates."""
    BulkLoader(engine).load(logs)
    of_day = {key: times for key, times in recounted(logs).items() if times[0].startswith("2026-11-21")}
    urls: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for session, sha256, kind, value in of_day:
        if kind == "url":
            urls[value][0].add(session)
            urls[value][1].update({sha256} - {""})

    with read_transaction(engine) as connection:
        day = period_of(PeriodKind.DAILY, next(iter(connection.execute(_own_day())))[0])
        report = make_report(connection, day, top_values=1000)
        on_sensor = make_report(connection, day, sensor="hp1", top_values=1000)
        show = file_details(connection, ONE)
        listed = {
            part: {file.sha256 for file in list_files(connection, FileFilter(**{kind: part})).rows}
            for kind, part in (
                ("url", "203.0.113.1/OWN-Z"),
                ("url", "203.0.113.2"),
                ("url", "203.0.113.3"),
                ("name", "own-a.sh"),
                ("name", "own-z.sh"),
                ("name", "root/redtail"),
            )
        }

    ranked = {url.value: (url.sessions, url.times) for url in report.urls.top}
    assert ranked == {url: (len(sessions), len(hashes)) for url, (sessions, hashes) in urls.items()}
    assert ranked["http://203.0.113.2/own-a.sh"] == (2, 2)
    assert {ranked[f"http://203.0.113.3/{name}"] for name in ("dead", "empty", "odd")} == {(1, 0)}
    assert on_sensor.urls.top == report.urls.top
    assert [(url.value, url.sessions, f"{url.first_seen:%H}", f"{url.last_seen:%H}") for url in show.urls] == [
        ("http://203.0.113.2/own-a.sh", 2, "02", "04"),
        ("http://203.0.113.1/own-z.sh", 1, "01", "01"),
    ]
    assert (show.names[0].value, show.names[0].sessions) == ("own-a.sh", 2)
    assert {name.value for name in show.names} == {"own-a.sh", "own-z.sh", "redtail", "/root/redtail"}
    assert (show.names_total, show.urls_total) == (4, 2)
    assert listed == {
        "203.0.113.1/OWN-Z": {ONE},
        "203.0.113.2": {ONE, TWO},
        "203.0.113.3": set(),
        "own-a.sh": {ONE, TWO},
        "own-z.sh": {ONE},
        "root/redtail": {ONE},
    }


def _own_day() -> Any:
    return select(FileMention.first_seen).where(FileMention.session_id == "aa")


def test_an_earlier_revision_is_filled_by_the_backfill(engine: Engine, logs: list[Path]) -> None:
    """After `db migrate` answers say how complete they are; `db backfill` fills them, interrupted or not."""
    BulkLoader(engine).load(logs[:-1])
    go_back(engine, BEFORE)
    apply_migrations(engine)
    BulkLoader(engine).load(logs)  # a loader of this release stores its own
    own = recounted(logs[-1:])
    assert own.items() <= stored(engine).items()
    assert len(stored(engine)) < len(recounted(logs))
    with read_transaction(engine) as connection:
        state = completeness(connection, ALL_JOBS)
        assert completeness(connection, [job for job in ALL_JOBS if job != MENTIONS_JOB]).complete
        report = make_report(connection, period_of(PeriodKind.DAILY, next(iter(connection.execute(_own_day())))[0]))
    assert (state.complete, state.share, report.completeness) == (False, 0.0, state)
    assert validate(engine).not_backfilled[MENTIONS_JOB] is None

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            backfill(engine, batch_size=20, slice_rows=5, on_progress=_interrupted)
    with read_transaction(engine) as connection:
        assert not completeness(connection, ALL_JOBS).complete
    backfill(engine)

    assert stored(engine) == recounted(logs)
    assert validate(engine).valid
    with read_transaction(engine) as connection:
        assert completeness(connection, ALL_JOBS).complete


def _interrupted(now: JobProgress) -> None:
    if now.job == MENTIONS_JOB and now.done:
        raise KeyboardInterrupt


def test_commands_say_that_urls_are_missing(tmp_path: Path, own_log: Path) -> None:
    """Until the backfill has run, JSON says `complete: false` with the share, and a hint names the command."""
    path = tmp_path / "x.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    BulkLoader(engine).load([own_log])
    go_back(engine, BEFORE)
    apply_migrations(engine)
    dispose(engine)
    commands = (
        ("report", "daily", "--date", "2026-11-21"),
        ("files", "show", ONE[:8]),
        ("files", "list", "--name", "own-a.sh"),
        ("files", "list", "--url", "203.0.113.1"),
    )

    before = [run(*command, "--json", "--db", path) for command in commands]
    others = [run(*command, "--json", "--db", path) for command in (("files", "list"), ("sessions", "list"))]
    assert run("db", "backfill", "--db", path, "--yes").returncode == 0
    after = [run(*command, "--json", "--db", path) for command in commands]

    for ended in before:
        document = json.loads(ended.stdout)
        assert (document["complete"], document["backfilled_share"]) == (False, 0.0)
        assert "db backfill --db" in ended.stderr
    assert all(json.loads(ended.stdout)["complete"] for ended in (*others, *after))
    assert [file["sha256"] for file in json.loads(after[-1].stdout)["files"]] == [ONE]
    assert "http://203.0.113.1/own-z.sh" in after[0].stdout


def test_version_3_is_filled_and_rolled_back(corpus_v3_file: Path, tmp_path: Path) -> None:
    """A genuine v3 database is filled, a validation finds each wrong row, a rollback drops the table."""
    engine = get_engine(corpus_v3_file)
    apply_migrations(engine)
    with read_transaction(engine) as connection:
        assert not completeness(connection, [MENTIONS_JOB]).complete
        payloads = [json.dumps(payload) for payload in connection.execute(select(RawEvent.payload)).scalars()]
    (tmp_path / "v3.json").write_text("".join(f"{payload}\n" for payload in payloads))
    expected = recounted([tmp_path / "v3.json"])
    backfill(engine)
    before = stored(engine)
    recount(engine)  # marks the events that v3 stored twice
    backfill(engine)

    assert before == stored(engine) == expected
    assert len(expected) > 100
    assert validate(engine).valid

    row = "(SELECT min(session_id) FROM file_mentions)"
    change(corpus_v3_file, f"DELETE FROM file_mentions WHERE session_id = {row}")
    missing = validate(engine).differences
    change(corpus_v3_file, f"UPDATE file_mentions SET value = 'x' WHERE session_id = {row}")
    different = validate(engine).differences
    change(
        corpus_v3_file,
        "INSERT INTO file_mentions VALUES ('zz', 'd', '', 'url', 'x', '2026-01-01 00:00:00', '2026-01-01 00:00:00')",
    )
    extra = validate(engine)
    assert set(missing) == {"missing in file_mentions"}
    assert different["different in file_mentions"] >= 1
    assert extra.differences["extra in file_mentions"] == 1
    assert "extra in file_mentions, session zz, URL or name x: no event of the session mentions it" in [
        difference.describe() for difference in extra.first_differences
    ]

    roll_back(engine, tmp_path / "saved.json.gz")
    with read_transaction(engine) as connection:
        assert not connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'file_mentions'")).all()
    dispose(engine)


def test_a_removed_log_takes_its_mentions_with_it(engine: Engine, own_log: Path, tmp_path: Path) -> None:
    """What only a removed log mentioned is gone; what others mention stays, with its times."""
    other = tmp_path / "other.json"
    other.write_text("".join(f"{one}\n" for one in (*OWN[2:5], OWN[6])))
    BulkLoader(engine).load([own_log])
    remove(engine, plan(engine, str(own_log)), rows=1)
    assert stored(engine) == {}

    BulkLoader(engine).load([other, own_log])
    remove(engine, plan(engine, str(own_log)), rows=2)
    read_by("poll", engine, [other])

    assert stored(engine) == recounted([other])
    assert validate(engine).valid


def test_a_removal_during_the_backfill(engine: Engine, own_log: Path, tmp_path: Path) -> None:
    """Events that are removed after the backfill has read them, and before it writes, leave no mention."""
    other = tmp_path / "other.json"
    other.write_text("".join(f"{one}\n" for one in OWN[:2]).replace('"aa"', '"dd"'))
    BulkLoader(engine).load([own_log, other])
    go_back(engine, BEFORE)
    apply_migrations(engine)
    removed: list[str] = []

    def take_out(now: JobProgress) -> None:
        if now.job == MENTIONS_JOB and now.done and not removed:
            removed.append(now.job)
            remove(engine, plan(engine, str(own_log)))

    backfill(engine, batch_size=50, slice_rows=1, on_progress=take_out)

    assert removed
    assert stored(engine) == recounted([other])
    assert validate(engine).valid


def test_a_load_without_file_events_asks_nothing_more(tmp_path: Path, own_log: Path) -> None:
    """A batch without a file event sends no statement about mentions; one with some sends no query."""
    quiet = tmp_path / "quiet.json"
    fields = {"eventid": "cowrie.login.failed", "session": "q", "timestamp": "2026-11-21T00:00:00Z", "username": "a"}
    quiet.write_text(f"{json.dumps(fields)}\n")
    path = tmp_path / "x.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    engine = get_engine(path)
    statements: list[str] = []
    event.listen(engine, "connect", lambda connection, _: connection.set_trace_callback(statements.append))
    BulkLoader(engine).load([quiet])
    quiet_ones = list(statements)
    BulkLoader(engine).load([own_log])
    dispose(engine)

    assert any("INSERT INTO session_summaries" in statement for statement in quiet_ones)
    about = [statement.split()[:3] for statement in statements if "file_mentions" in statement]
    assert not [statement for statement in quiet_ones if "file_mentions" in statement]
    assert {tuple(words) for words in about} == {("INSERT", "INTO", "file_mentions")}


def test_what_no_index_holds_is_stored(engine: Engine, tmp_path: Path) -> None:
    """URLs longer than a key may be are stored, each on its own; so is text that no database takes."""
    urls = ["http://203.0.113.9/" + "\U0001f480" * 1500 + str(number) for number in range(3)]
    log = tmp_path / "long.json"
    ends = ("a\x00b", "\u202e", "%", "_", "\\")
    lines = [line("download.failed", "aa", "01:00", url=url) for url in urls]
    lines += [line("download", "aa", "02:00", shasum=ONE, destfile=f"/tmp/{end}x") for end in ends]
    log.write_text("".join(f"{one}\n" for one in lines))
    BulkLoader(engine).load([log])
    BulkLoader(engine).load([log])

    found = stored(engine)
    assert sorted(len(value) for _, _, kind, value in found if kind == "url") == [1024] * 3
    assert len([value for _, _, kind, value in found if kind == "name"]) == len(ends)
    assert validate(engine).valid
    with read_transaction(engine) as connection:
        for part in ("\\x00B", "/%x", "/_x", "/\\x"):
            assert [file.sha256 for file in list_files(connection, FileFilter(name=part)).rows] == [ONE], part
        assert not list_files(connection, FileFilter(name="/%%x")).rows


def test_the_independent_pass_would_notice(engine: Engine, own_log: Path) -> None:
    """Negative control: a row too many, or a time that is wrong, differs from the recount."""
    BulkLoader(engine).load([own_log])
    assert stored(engine) == recounted([own_log])
    with write_transaction(engine) as connection:
        row = dict(next(iter(connection.execute(select(FileMention.__table__)).mappings())))
        connection.execute(insert(FileMention).values(row | {"digest": "x", "value": "other"}))
    assert stored(engine) != recounted([own_log])
