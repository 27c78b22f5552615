"""Loading real and made logs: what is stored, and that loading again changes nothing."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text, update

from cowrieprocessor.db.engine import get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import (
    DeadLetterEvent,
    FileHash,
    Files,
    LogFile,
    RawEvent,
    SessionAttribute,
    SessionSummary,
)
from cowrieprocessor.json_text import hash_payload
from cowrieprocessor.loader.bulk import FAILED, KNOWN, LOADED, PENDING, BulkLoader
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.settings import Settings
from tests import v3_schema
from tests.logical_digest import EVENT_TABLES, difference, logical_contents
from tests.logs import FORMS, count, events, hostile_lines, write


@pytest.mark.parametrize(
    ("log", "numbers"),
    [
        ("cowrie-3.1.4/cowrie.json", (1558, 125, 106, 17, 0)),
        ("cowrie-2.2/cowrie.json.2021-03-09", (3222, 216, 65, 2, 18)),
        ("cowrie-2.9/cowrie.json", (945, 100, 0, 0, 0)),
    ],
)
def test_real_logs_give_the_known_numbers(
    engine: Engine, corpus: Path, log: str, numbers: tuple[int, int, int, int, int]
) -> None:
    """Events, sessions, (session, hash) rows, hashes and empty downloads of each real log are as counted by hand."""
    result = BulkLoader(engine).load([corpus / log])

    stored = tuple(count(engine, model) for model in (RawEvent, SessionSummary, Files, FileHash))
    assert numbers == (*stored, result.counters["file_event_empty_shasum"])
    assert count(engine, DeadLetterEvent) == 0


def test_every_shape_of_file_event_is_taken(engine: Engine, corpus: Path) -> None:
    """The 58 shapes of file events seen in real logs give no error and no dead letter."""
    result = BulkLoader(engine).load([corpus / "file-event-shapes.jsonl"])

    assert (58, 0, 0) == (
        result.counters["events"],
        result.counters["dead_letters"],
        result.counters["file_dead_letters"],
    )


def test_counts_per_session_agree_with_an_independent_count(engine: Engine, corpus: Path) -> None:
    """Counters, times and attributes of every session are what a plain pass over the log gives."""
    path = corpus / "cowrie-3.1.4" / "cowrie.json"
    BulkLoader(engine, settings=Settings(batch_size=37)).load([path])
    expected: dict[str, list[object]] = {}
    for line in path.read_text().splitlines():
        event = json.loads(line)
        one = expected.setdefault(event["session"], [0, 0, 0, 0, event["timestamp"], event["timestamp"]])
        kinds = (True, event["eventid"] == "cowrie.command.input", event["eventid"] == "cowrie.session.file_download")
        for place, is_one in enumerate((*kinds, event["eventid"].startswith("cowrie.login."))):
            one[place] += is_one  # type: ignore[operator]
        one[4], one[5] = min(one[4], event["timestamp"]), max(one[5], event["timestamp"])  # type: ignore[type-var]

    with read_transaction(engine) as connection:
        rows = connection.execute(select(SessionSummary.__table__)).all()

    assert expected == {
        row.session_id: [
            row.event_count,
            row.command_count,
            row.file_downloads,
            row.login_attempts,
            row.first_event_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            row.last_event_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        ]
        for row in rows
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_log_is_the_same_log(engine: Engine, tmp_path: Path, form: str) -> None:
    """After the plain log, the same one renamed and in any other form of writing adds nothing."""
    lines = events()
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "cowrie.json", lines)])
    before = logical_contents(engine, tables=EVENT_TABLES)

    again = loader.load([write(tmp_path / "renamed.log", lines, form)])

    assert [KNOWN] == [one.state for one in again.files]
    assert [] == again.files[0].warnings
    assert [] == difference(before, logical_contents(engine, tables=EVENT_TABLES))


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(["lines", "pretty", "array", "gzip"], 2)))
def test_a_log_that_grew_counts_only_what_is_new(engine: Engine, tmp_path: Path, first: str, second: str) -> None:
    """Half a log in one form and then all of it in another give the events, sessions and files of all of it once."""
    lines = events(40)
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "a.json", lines[:23], first)])

    result = loader.load([write(tmp_path / "b.json", lines, second)])

    whole = get_engine(tmp_path / "whole.sqlite")
    BulkLoader(whole).load([write(tmp_path / "a.json", lines)])
    assert 17 == result.counters["events"]
    left_out = {"source", "source_offset", "source_files", "payload"}
    grown, expected = (logical_contents(of, tables=EVENT_TABLES, without=left_out) for of in (engine, whole))
    assert [] == difference(expected, grown)
    whole.dispose()


def test_an_appended_log_is_read_from_its_cursor(engine: Engine, tmp_path: Path) -> None:
    """A log that gets lines appended, again and again, ends as if it had been loaded once."""
    lines = events(60)
    path = tmp_path / "cowrie.json"
    loader = BulkLoader(engine, settings=Settings(batch_size=7))
    for size in (1, 2, 13, 14, 40, 60, 60):
        write(path, lines[:size])
        loader.load([path])

    whole = get_engine(tmp_path / "whole.sqlite")
    BulkLoader(whole).load([path])
    assert [] == difference(logical_contents(whole), logical_contents(engine))
    whole.dispose()


def test_a_partial_last_line_waits_and_is_stored_once(engine: Engine, tmp_path: Path) -> None:
    """A torn last line is not stored and not dead-lettered; once it is whole it is stored, also without its newline."""
    lines = events(3)
    path = tmp_path / "cowrie.json"
    loader = BulkLoader(engine)
    path.write_text(f"{lines[0]}\n{lines[1]}\n{lines[2][:40]}")
    torn = loader.load([path])
    path.write_text(f"{lines[0]}\n{lines[1]}\n{lines[2]}")
    without_newline = loader.load([path])
    path.write_text("\n".join(lines) + "\n")
    whole = loader.load([path])

    assert (2, 40) == (torn.counters["events"], torn.files[0].bytes_pending)
    assert (1, 0) == (without_newline.counters["events"], without_newline.files[0].bytes_pending)
    assert (0, 3) == (whole.counters["events"], count(engine, RawEvent))
    assert 0 == count(engine, DeadLetterEvent)


def test_an_older_copy_adds_nothing(engine: Engine, tmp_path: Path) -> None:
    """A copy that was made when the log was shorter, loaded later, is recognised."""
    lines = events(30)
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "cowrie.json", lines)])

    result = loader.load([write(tmp_path / "old.json", lines[:11]), write(tmp_path / "old.gz", lines[:7], "gzip")])

    assert [KNOWN, KNOWN] == [one.state for one in result.files]
    assert 30 == count(engine, RawEvent)


def test_a_log_that_only_begins_alike_is_another_log(engine: Engine, tmp_path: Path) -> None:
    """What is skipped is proven: one with the same first event and another continuation is a generation."""
    lines, others = events(20), events(20, start=500)
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "cowrie.json", lines)])

    result = loader.load([write(tmp_path / "other.json", [lines[0], *others])])

    assert 20 == result.counters["events"]
    assert [0, 1] == sorted(_column(engine, LogFile.generation))


def test_two_identical_lines_are_two_events(engine: Engine, tmp_path: Path) -> None:
    """The same line twice in one log is two events, and still two after loading again."""
    lines = events(3)
    path = write(tmp_path / "cowrie.json", [*lines, lines[2], lines[2]])
    loader = BulkLoader(engine)
    loader.load([path])
    loader.load([path])

    assert 5 == count(engine, RawEvent)


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    """Sessions that cross three logs come out the same in whatever order the logs are loaded."""
    lines = events(45)
    parts = [
        write(tmp_path / f"cowrie.json.{number}", lines[start:end])
        for number, (start, end) in enumerate([(0, 13), (13, 27), (27, 45)])
    ]
    seen = []
    for number, order in enumerate(itertools.permutations(parts)):
        engine = get_engine(tmp_path / f"{number}.sqlite")
        for path in order:
            BulkLoader(engine, settings=Settings(batch_size=4)).load([path])
        seen.append(logical_contents(engine))
        engine.dispose()

    assert 6 == len(seen)
    assert [[]] * 5 == [difference(seen[0], other) for other in seen[1:]]


def test_copytruncate_under_one_name_is_another_log(engine: Engine, tmp_path: Path) -> None:
    """A log that was truncated and filled again under the same inode is read from its beginning, NULs counted."""
    path = write(tmp_path / "cowrie.json", events(20))
    loader = BulkLoader(engine)
    loader.load([path])
    with path.open("r+b") as log:
        log.truncate(0)
        log.write(b"\0" * 1000 + FORMS["lines"](events(5, start=700)))

    result = loader.load([path])

    assert (5, 1000) == (result.counters["events"], result.files[0].bytes_nul)
    assert [0, 1] == sorted(_column(engine, LogFile.source_generation))


def test_overlapping_logs_are_said(engine: Engine, tmp_path: Path) -> None:
    """Of two logs that overlap but begin differently each event is stored once, and the overlap is said."""
    lines = events(30)
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "one.json", lines[:20])])

    result = loader.load([write(tmp_path / "two.json", lines[15:])])

    assert (10, 30) == (result.counters["events"], count(engine, RawEvent))
    assert "5 of its events are stored already from" in result.files[0].warnings[0]


def test_every_byte_is_accounted_for(engine: Engine, tmp_path: Path) -> None:
    """Stored, dead, NUL, gap and pending bytes add up to the bytes of the file."""
    lines = events(12)
    data = (
        b"\0" * 77
        + f"{lines[0]}\nnot json\n{lines[1]}\n".encode()
        + b'\xff\xfe{"x"\n[1, 2]\n'
        + f'{{"torn": "{lines[2]}\n{lines[3]}\n'.encode()
        + lines[4][:30].encode()
    )
    path = tmp_path / "cowrie.json"
    path.write_bytes(data)

    result = BulkLoader(engine, settings=Settings(batch_size=2)).load([path])

    with read_transaction(engine) as connection:
        log = connection.execute(select(LogFile.__table__)).one()
    assert len(data) == (
        log.bytes_stored + log.bytes_dead + log.bytes_nul + log.bytes_gap + result.files[0].bytes_pending
    )
    assert (77, 30) == (log.bytes_nul, result.files[0].bytes_pending)
    assert 4 == result.counters["dead_letters"] == count(engine, DeadLetterEvent)


def test_dead_letters_keep_the_bytes(engine: Engine, tmp_path: Path) -> None:
    """A dead letter holds the bytes as they came (base64 where not text), the reason, file, line and range."""
    path = tmp_path / "cowrie.json"
    path.write_bytes(f"{events(1)[0]}\n".encode() + b'{"a": "\xff"}\nplain words \x1b[31m\n')

    BulkLoader(engine).load([path])

    with read_transaction(engine) as connection:
        rows = connection.execute(select(DeadLetterEvent.__table__).order_by(DeadLetterEvent.source_offset)).all()
    assert ["eyJhIjogIv8ifQ==", "plain words \x1b[31m"] == [
        rows[0].payload["base64"],
        rows[1].payload["text"],
    ]
    assert [(2, "not JSON"), (3, "not JSON")] == [(row.metadata_json["line"], row.reason) for row in rows]
    assert {str(path)} == {row.source for row in rows}


def test_a_file_event_without_time_or_with_a_bad_hash_is_kept_without_its_file(engine: Engine, tmp_path: Path) -> None:
    """The event is stored, its file is not, and a dead letter says why."""
    good = json.loads(events(3)[2])
    untimed = {**good, "timestamp": "yesterday"}
    bad_hash = {**good, "shasum": "0123"}
    nobody = {key: value for key, value in good.items() if key != "session"}
    path = write(tmp_path / "cowrie.json", [json.dumps(one) for one in (untimed, bad_hash, nobody)])

    result = BulkLoader(engine).load([path])

    assert (3, 0, 3) == (count(engine, RawEvent), count(engine, Files), result.counters["file_dead_letters"])
    assert {
        "file: event without a readable timestamp",
        "file: shasum is not 64 hexadecimal characters",
        "file: event without a session",
    } == set(_column(engine, DeadLetterEvent.reason))


def test_later_loads_leave_enrichment_alone(engine: Engine, tmp_path: Path) -> None:
    """A later load of a session keeps its enrichment and flags, adds its path, and moves first_event_at earlier."""
    lines = events(10)
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "late.json", lines[5:])])
    with write_transaction(engine) as connection:
        connection.execute(update(SessionSummary).values(enrichment={"asn": 64500}, vt_flagged=True, risk_score=7))

    loader.load([write(tmp_path / "early.json", lines[:5])])

    with read_transaction(engine) as connection:
        row = connection.execute(select(SessionSummary.__table__)).one()
    assert ({"asn": 64500}, True, 7, 10) == (row.enrichment, row.vt_flagged, row.risk_score, row.event_count)
    assert ["early.json", "late.json"] == sorted(Path(path).name for path in row.source_files)
    assert "2026-03-01T00:00:00+00:00" == row.first_event_at.isoformat()


def test_a_new_row_of_a_known_hash_carries_its_verdict(engine: Engine, tmp_path: Path) -> None:
    """Size, verdict and status come from file_hashes, and the session of a malicious file is flagged."""
    lines = events(10)
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "one.json", lines)])
    with write_transaction(engine) as connection:
        connection.execute(
            update(FileHash)
            .where(FileHash.sha256 == f"{2:064x}")
            .values(vt_malicious=True, vt_positives=40, enrichment_status="enriched", size_bytes=123)
        )
    other = [line.replace("5e5500000000", "ffff00000000") for line in lines]

    loader.load([write(tmp_path / "two.json", other)])

    with read_transaction(engine) as connection:
        row = connection.execute(
            select(Files.__table__).where(Files.session_id == "ffff00000000", Files.shasum == f"{2:064x}")
        ).one()
        flagged = connection.execute(
            select(SessionSummary.session_id).where(SessionSummary.vt_flagged.is_(True))
        ).scalars()
        assert ["ffff00000000"] == list(flagged)
    assert (True, 40, "enriched", 123) == (row.vt_malicious, row.vt_positives, row.enrichment_status, row.file_size)


def test_a_log_removes_the_artifact_row_that_it_explains(engine: Engine, tmp_path: Path) -> None:
    """A captured file that no log named loses its artifact row when a log names it, and its times become the log's."""
    with write_transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO file_hashes (sha256, first_seen, last_seen, size_bytes) VALUES "
                "(:sha, '2020-01-01 00:00:00', '2020-01-01 00:00:00', 5)"
            ),
            {"sha": f"{2:064x}"},
        )
        connection.execute(
            text("INSERT INTO files (session_id, shasum, origin) VALUES ('artifact:hp1', :sha, 'artifact')"),
            {"sha": f"{2:064x}"},
        )

    BulkLoader(engine).load([write(tmp_path / "cowrie.json", events(10))])

    with read_transaction(engine) as connection:
        rows = connection.execute(select(Files.__table__).where(Files.shasum == f"{2:064x}")).all()
        known = connection.execute(select(FileHash.__table__).where(FileHash.sha256 == f"{2:064x}")).one()
    assert [("download", 5)] == [(row.origin, row.file_size) for row in rows]
    assert (2026, 1) == (known.first_seen.year, known.session_count)


def test_fields_of_repeated_files_are_the_smallest(tmp_path: Path) -> None:
    """Several events of one session that name one hash give one row, whatever their order and batches."""
    base = {"session": "aaaabbbbcccc", "eventid": "cowrie.session.file_download", "shasum": "ab" * 32}
    observed = [
        {**base, "timestamp": "2026-01-01T00:00:03.000000Z", "destfile": "/tmp/b"},
        {**base, "timestamp": "2026-01-01T00:00:02.000000Z", "url": "http://198.51.100.1/a"},
        {**base, "timestamp": "2026-01-01T00:00:01.000000Z", "destfile": "/tmp/Ü"},
        {**base, "timestamp": "2026-01-01T00:00:04.000000Z", "eventid": "cowrie.session.file_upload", "filename": "Z"},
    ]
    seen = set()
    for number, order in enumerate(itertools.permutations(observed)):
        engine = get_engine(tmp_path / f"{number}.sqlite")
        BulkLoader(engine, settings=Settings(batch_size=1 + number % 4)).load(
            [write(tmp_path / f"{number}.json", [json.dumps(one) for one in order])]
        )
        with read_transaction(engine) as connection:
            row = connection.execute(select(Files.__table__)).one()
        seen.add((row.filename, row.download_url, row.origin, row.first_seen.isoformat()))
        engine.dispose()

    assert {("/tmp/b", "http://198.51.100.1/a", "download", "2026-01-01T00:00:01+00:00")} == seen


def test_the_parser_process_gives_the_same(engine: Engine, corpus: Path, tmp_path: Path) -> None:
    """A log that another core parses is stored exactly like one parsed here, also from the middle on."""
    inline = get_engine(tmp_path / "inline.sqlite")
    log = tmp_path / "cowrie.json"
    lines = (corpus / "cowrie-3.1.4" / "cowrie.json").read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines) + b"torn {\n\0\0")
    BulkLoader(inline).load([log])
    loader = BulkLoader(engine, settings=Settings(batch_size=100), sizes=ReadSizes(other_core_bytes=0))
    log.write_bytes(b"".join(lines[:700]))
    loader.load([log])
    log.write_bytes(b"".join(lines) + b"torn {\n\0\0")

    loader.load([log])

    assert [] == difference(logical_contents(inline), logical_contents(engine))
    inline.dispose()


def test_sqlite_and_postgresql_hold_the_same(corpus: Path, tmp_path: Path, postgres_url: str) -> None:
    """What the real logs and hostile lines give is equal on both databases, row for row."""
    hostile = write(tmp_path / "hostile.json", [*events(3), *hostile_lines()])
    contents = []
    for url in (str(tmp_path / "here.sqlite"), postgres_url):
        engine = get_engine(url)
        apply_migrations(engine)
        BulkLoader(engine, settings=Settings(batch_size=500)).load(
            [
                *(corpus / name for name in ("cowrie-3.1.4", "cowrie-2.2", "cowrie-2.9", "file-event-shapes.jsonl")),
                hostile,
            ]
        )
        contents.append(logical_contents(engine))
        engine.dispose()

    assert len(contents[0]["raw_events"]) > 5783
    assert [] == difference(*contents)


def test_logs_of_a_v3_database_are_not_loaded_twice(corpus: Path, corpus_v3_file: Path) -> None:
    """After migrating a genuine v3 file, its logs add only the lines that v3 had not read."""
    engine = get_engine(corpus_v3_file)
    apply_migrations(engine)
    before = count(engine, RawEvent)

    result = BulkLoader(engine).load([corpus / "cowrie-3.1.4", corpus / "cowrie-2.2", corpus / "cowrie-2.9"])
    again = BulkLoader(engine).load([corpus / "cowrie-3.1.4", corpus / "cowrie-2.2", corpus / "cowrie-2.9"])

    assert [258, 0, 0] == [one.counters["events"] for one in result.files]
    assert before + 258 == count(engine, RawEvent)
    assert [0, 0, 0] == [one.counters["events"] for one in again.files]
    engine.dispose()


def test_rows_of_v3_without_inode_and_with_gaps_are_recognised(v3_file: Path, tmp_path: Path) -> None:
    """A log of which v3 stored some lines, without an inode, gets exactly the lines that are missing."""
    lines = events(30)
    engine = get_engine(v3_file)
    apply_migrations(engine)
    path = write(tmp_path / "cowrie.json", lines)
    with write_transaction(engine) as connection:
        for number, line in enumerate(lines[:20]):
            if number % 7 != 3:
                connection.execute(
                    text("INSERT INTO raw_events (source, source_offset, payload) VALUES (:source, :offset, :payload)"),
                    {"source": str(path), "offset": number, "payload": line},
                )

    first = BulkLoader(engine, settings=Settings(batch_size=6)).load([path])
    again = BulkLoader(engine).load([path])

    assert 30 - 17 == first.counters["events"]
    assert 0 == again.counters["events"]
    assert 30 == count(engine, RawEvent, RawEvent.source == str(path))
    engine.dispose()


def test_further_logs_under_one_path_fit_the_constraint_of_v1(tmp_path: Path) -> None:
    """In a file that keeps v1's UNIQUE(source, source_offset), rotated logs of one path are still loaded whole."""
    engine = get_engine(v3_schema.create(tmp_path / "v3.sqlite", from_v1=True))
    apply_migrations(engine)
    path = tmp_path / "cowrie.json"
    for start in (0, 100, 200):
        write(path, events(10, start=start))
        BulkLoader(engine).load([path])
        BulkLoader(engine).load([path])

    assert 30 == count(engine, RawEvent, RawEvent.source.startswith(str(path)))
    engine.dispose()


def v3_stores(engine: Engine, source: str, lines: dict[int, str], inode: str | None = None) -> None:
    """Put rows into raw_events as v3 did."""
    with write_transaction(engine) as connection:
        for offset, line in lines.items():
            connection.execute(
                text(
                    "INSERT INTO raw_events (source, source_offset, source_inode, payload, payload_hash)"
                    " VALUES (:source, :offset, :inode, :payload, :hash)"
                ),
                {
                    "source": source,
                    "offset": offset,
                    "inode": inode,
                    "payload": line,
                    "hash": hash_payload(json.loads(line)),
                },
            )


@pytest.mark.parametrize("from_v1", [False, True])
@pytest.mark.parametrize("first", [0, 1, 7])
def test_a_log_whose_beginning_v3_did_not_store_is_recognised(tmp_path: Path, from_v1: bool, first: int) -> None:
    """What v3 stored of a log is found by its events, also if the first lines are not among them."""
    lines = events(30)
    engine = get_engine(v3_schema.create(tmp_path / "v3.sqlite", from_v1=from_v1))
    apply_migrations(engine)
    path = write(tmp_path / "cowrie.json", lines)
    v3_stores(engine, "var/log/cowrie.json", dict(list(enumerate(lines))[first:20]), inode="77")

    result = BulkLoader(engine, settings=Settings(batch_size=6)).load([path])
    again = BulkLoader(engine).load([path])

    assert (30 - (20 - first), 0) == (result.counters["events"], again.counters["events"])
    engine.dispose()


def test_rotated_logs_that_v3_stored_under_one_path_are_recognised(v3_file: Path, tmp_path: Path) -> None:
    """Two logs that v3 read under one path without inodes, at the same offsets, add nothing."""
    engine = get_engine(v3_file)
    apply_migrations(engine)
    logs = [events(30), events(30, start=300)]
    for lines in logs:
        v3_stores(engine, "cowrie.json", dict(enumerate(lines)))

    result = BulkLoader(engine).load([write(tmp_path / f"{n}.json", lines) for n, lines in enumerate(logs)])

    assert 0 == result.counters["events"]
    engine.dispose()


def test_commands_that_v3_rewrote_are_recognised(v3_file: Path, tmp_path: Path) -> None:
    """v3 rewrote commands before it stored them; the original lines are still known."""
    engine = get_engine(v3_file)
    apply_migrations(engine)
    lines = events(10)
    rewritten = [json.dumps({**json.loads(line), "input": None, "input_safe": "x"}) for line in lines]
    v3_stores(engine, "cowrie.json", {n: rewritten[n] if n > 3 else lines[n] for n in range(10)})

    result = BulkLoader(engine).load([write(tmp_path / "cowrie.json", lines)])

    assert 0 == result.counters["events"]
    engine.dispose()


def test_a_better_copy_adds_what_was_missing(engine: Engine, tmp_path: Path) -> None:
    """A copy in which damaged lines are whole adds the events of these lines, and nothing twice."""
    lines = events(40)
    damaged = [line if n not in {11, 12} else "torn {" for n, line in enumerate(lines)]
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "bad.json", [*damaged, "more", "junk"])])

    result = loader.load([write(tmp_path / "good.json", lines)])
    again = loader.load([tmp_path / "good.json", tmp_path / "bad.json"])

    assert (2, 0, 40) == (result.counters["events"], again.counters["events"], count(engine, RawEvent))


def test_a_damaged_archive_is_not_trusted(tmp_path: Path) -> None:
    """Of an archive with one changed byte nothing is stored; the good copy then gives what an undamaged load gives."""
    lines = [
        json.dumps({**json.loads(line), "noise": f"{hash((n, 7)) & 0xFFFFFFFF:x}"})
        for n, line in enumerate(events(600))
    ]
    whole = gzip.compress(FORMS["lines"](lines))
    path = tmp_path / "cowrie.json.gz"
    clean = get_engine(tmp_path / "clean.sqlite")
    path.write_bytes(whole)
    BulkLoader(clean).load([path])
    expected = logical_contents(clean, without={"source_generation"})
    clean.dispose()
    for place in range(30, len(whole) - 12, len(whole) // 12):
        engine = get_engine(tmp_path / f"{place}.sqlite")
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        damaged = BulkLoader(engine, settings=Settings(batch_size=50)).load([path])
        path.write_bytes(whole)
        BulkLoader(engine).load([path])

        assert [FAILED] == [one.state for one in damaged.files]
        assert [] == difference(expected, logical_contents(engine, without={"source_generation"}))
        engine.dispose()


def test_archives_of_several_members_are_whole(engine: Engine, tmp_path: Path) -> None:
    """Concatenated archives, as `cat a.gz b.gz` makes them, are one log."""
    lines = events(30)
    path = tmp_path / "cowrie.json.gz"
    path.write_bytes(FORMS["gzip"](lines[:10]) + FORMS["gzip"](lines[10:]))

    assert 30 == BulkLoader(engine).load([path]).counters["events"]


def test_the_parser_process_runs_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python file among the logs, named like a module of the library, is not executed."""
    (tmp_path / "base64.py").write_text("raise SystemExit('executed')")
    (tmp_path / "orjson.py").write_text("raise SystemExit('executed')")
    log = write(tmp_path / "cowrie.json", events(10))
    monkeypatch.chdir(tmp_path)
    engine = get_engine(tmp_path / "x.sqlite")

    assert 10 == BulkLoader(engine, sizes=ReadSizes(other_core_bytes=0)).load([log]).counters["events"]
    engine.dispose()


def test_a_file_that_fails_does_not_stop_the_others(engine: Engine, tmp_path: Path) -> None:
    """A truncated archive gives what it holds and is reported; an unfinished one is loaded again when it is whole."""
    whole = gzip.compress(FORMS["lines"](events(4000)))
    cut = tmp_path / "cowrie.json.1.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    loader = BulkLoader(engine)

    first = loader.load([cut, write(tmp_path / "cowrie.json", events(5, start=9000))])
    cut.write_bytes(whole)
    second = loader.load([cut])

    assert [FAILED, LOADED] == [one.state for one in first.files]
    assert "ends early" in str(first.files[0].error)
    assert 0 < first.files[0].counters["events"] < 4000
    assert 4005 == count(engine, RawEvent)
    assert LOADED == second.files[0].state


def test_a_text_that_is_no_log_is_not_stored(engine: Engine, tmp_path: Path) -> None:
    """A file without any JSON object leaves nothing behind but a note."""
    path = tmp_path / "README"
    path.write_text("just words\n" * 10)

    result = BulkLoader(engine).load([path])

    assert (PENDING, 0) == (result.files[0].state, count(engine, DeadLetterEvent))
    assert "no complete JSON object" in result.files[0].warnings[0]


def test_a_session_without_readable_times_keeps_the_times_it_has(engine: Engine, tmp_path: Path) -> None:
    """Events without a timestamp neither clear nor move first_event_at and last_event_at."""
    lines = events(4)
    loader = BulkLoader(engine)
    loader.load([write(tmp_path / "a.json", lines)])
    untimed = [json.dumps({k: v for k, v in json.loads(line).items() if k != "timestamp"}) for line in lines]

    loader.load([write(tmp_path / "b.json", untimed)])

    with read_transaction(engine) as connection:
        row = connection.execute(select(SessionSummary.__table__)).one()
    assert ("00:00:00", "00:03:00", 8) == (
        f"{row.first_event_at:%H:%M:%S}",
        f"{row.last_event_at:%H:%M:%S}",
        row.event_count,
    )


def test_the_earliest_connect_and_login_win(tmp_path: Path) -> None:
    """Address, protocol, fingerprint and user come from the earliest events, a successful login before failed ones."""
    base = {"session": "aaaabbbbcccc"}
    observed = [
        {
            "eventid": "cowrie.session.connect",
            "src_ip": "198.51.100.2",
            "protocol": "ssh",
            "timestamp": "2026-01-01T00:00:02Z",
        },
        {
            "eventid": "cowrie.session.connect",
            "src_ip": "198.51.100.1",
            "protocol": "telnet",
            "timestamp": "2026-01-01T00:00:01Z",
        },
        {"eventid": "cowrie.login.failed", "username": "first", "timestamp": "2026-01-01T00:00:03Z"},
        {"eventid": "cowrie.login.success", "username": "second", "timestamp": "2026-01-01T00:00:05Z"},
        {"eventid": "cowrie.client.kex", "hassh": "ab" * 16, "timestamp": "2026-01-01T00:00:02Z"},
    ]
    seen = set()
    for number, order in enumerate(list(itertools.permutations(observed))[::7]):
        engine = get_engine(tmp_path / f"{number}.sqlite")
        lines = [json.dumps(base | one) for one in order]
        BulkLoader(engine, settings=Settings(batch_size=1 + number % 3)).load([write(tmp_path / "x.json", lines)])
        with read_transaction(engine) as connection:
            row = connection.execute(select(SessionAttribute.__table__)).one()
        seen.add((row.src_ip, row.protocol, row.hassh, row.username))
        engine.dispose()

    assert {("198.51.100.1", "telnet", "ab" * 16, "second")} == seen


def test_folders_are_loaded_in_the_order_of_rotation(engine: Engine, tmp_path: Path) -> None:
    """A folder's rotated logs are loaded oldest first, whatever their compression."""
    logs = tmp_path / "log"
    logs.mkdir()
    write(logs / "cowrie.json", events(5, start=300))
    write(logs / "cowrie.json.2.gz", events(5, start=100), "gzip")
    write(logs / "cowrie.json.10.xz", events(5), "xz")
    shutil.copy(logs / "cowrie.json", logs / "cowrie.log")

    result = BulkLoader(engine).load([logs])

    assert ["cowrie.json.10.xz", "cowrie.json.2.gz", "cowrie.json"] == [Path(one.path).name for one in result.files]
    assert 15 == count(engine, RawEvent)


def _column(engine: Engine, column: object) -> list[object]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(column)).scalars())  # type: ignore[call-overload]


def test_a_renamed_log_keeps_its_unread_tail(engine: Engine, tmp_path: Path) -> None:
    """After a rotation by renaming, what came before it under the old name and after it under the new one is loaded."""
    live, rotated = tmp_path / "cowrie.json", tmp_path / "cowrie.json.2026-03-01"
    loader = BulkLoader(engine)
    loader.load([write(live, events(20))])
    write(live, events(26))
    live.rename(rotated)
    write(live, events(9, start=800))

    loader.load([tmp_path])
    loader.load([tmp_path])

    assert 26 + 9 == count(engine, RawEvent)


def test_payloads_are_stored_as_they_came(tmp_path: Path) -> None:
    """Evidence is not rewritten: spaces, escapes, key order and commands of a line are in raw_events as in the log."""
    line = (
        '{ "z":1.50, "session" : "s1","eventid":"cowrie.command.input", "input":"wget http:\\/\\/x; \\u001b[1m | sh" }'
    )
    engine = get_engine(tmp_path / "x.sqlite")
    path = tmp_path / "cowrie.json"
    path.write_text(f"  {line} \r\n")

    BulkLoader(engine).load([path])

    with read_transaction(engine) as connection:
        assert [(line, "text")] == connection.execute(text("SELECT payload, typeof(payload) FROM raw_events")).all()
    engine.dispose()


def test_what_is_not_known_is_null(engine: Engine, tmp_path: Path) -> None:
    """A session without enrichment holds SQL NULL, not the JSON text null."""
    BulkLoader(engine).load([write(tmp_path / "cowrie.json", events(10))])

    with read_transaction(engine) as connection:
        found = connection.execute(text("SELECT count(*) FROM session_summaries WHERE enrichment IS NULL"))
        assert 1 == found.scalar_one()


def test_a_known_log_is_not_read_again(tmp_path: Path) -> None:
    """Loading a log with nothing new reads its beginning and its end, not what lies between."""
    path = write(tmp_path / "cowrie.json", events(27_000))
    engine = get_engine(tmp_path / "x.sqlite")
    loader = BulkLoader(engine)
    loader.load([path])
    before = _bytes_read()

    result = loader.load([path])

    assert KNOWN == result.files[0].state
    assert _bytes_read() - before < path.stat().st_size / 2
    engine.dispose()


def _bytes_read() -> int:
    """Return how many bytes this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])
