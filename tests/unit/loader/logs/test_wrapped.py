"""Logs in a wrapper give the events that Cowrie wrote, once, whatever else is loaded and in whatever order."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import DeadLetterEvent, RawEvent, WrappedLog
from cowrieprocessor.loader.bulk import BulkLoader, LoadResult
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes
from cowrieprocessor.settings import Settings
from tests.documents import CASES
from tests.logical_digest import EVENT_TABLES, difference, logical_contents
from tests.logs import count, events
from tests.wrapped_logs import WRAPPED, docker, json_lines, prefixed

WHERE = {"source", "source_offset", "source_inode", "source_files", "source_generation"}
SMALL = ReadSizes(piece_bytes=64, feed_bytes=600)

KEY_EVENT = {
    "eventid": "cowrie.client.fingerprint",
    "session": "5e5500000000",
    "timestamp": "2026-03-01T00:00:00.500000Z",
    "type": "ssh-rsa",
    "dst_ip": "192.0.2.1",
    "dst_port": 2222,
    "input": 'a \\ " é ☃ \x1b {"eventid": "x"}',
    "number": 1.50,
}


def lines_of(count: int = 23) -> list[str]:
    """Return lines of Cowrie, one with fields that wrappers use, too, and every spelling that must not change."""
    return [*events(count), json.dumps(KEY_EVENT, separators=(",", ":")), json.dumps(KEY_EVENT | {"x": "y" * 3000})]


def load(engine: Engine, *paths: Path, batch_size: int = 7, sizes: ReadSizes = DEFAULT_SIZES) -> LoadResult:
    """Load logs one after the other."""
    result = BulkLoader(engine, settings=Settings(batch_size=batch_size), sizes=sizes).load(paths)
    assert [] == result.failed
    return result


def payloads(engine: Engine) -> list[str]:
    """Return the stored events as canonical JSON, sorted."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(RawEvent.payload)).scalars()
        return sorted(json.dumps(payload, sort_keys=True) for payload in rows)


def canonical(lines: list[str]) -> list[str]:
    """Return lines as canonical JSON, sorted."""
    return sorted(json.dumps(json.loads(line), sort_keys=True) for line in lines)


def wrapper_of(engine: Engine, generation: int = 0) -> list[tuple[str, int, int]]:
    """Return what is noted of the wrapped logs of a generation."""
    columns = (WrappedLog.wrapper, WrappedLog.lines_foreign, WrappedLog.bytes_foreign)
    with read_transaction(engine) as connection:
        rows = connection.execute(select(*columns).where(WrappedLog.generation == generation))
        return [(row.wrapper, row.lines_foreign, row.bytes_foreign) for row in rows]


def every_byte_is_accounted_for(engine: Engine) -> bool:
    """Return whether the counters of every log add up to its position."""
    with read_transaction(engine) as connection:
        rows = connection.execute(
            text(
                "SELECT byte_pos - bytes_stored - bytes_dead - bytes_nul - coalesce(bytes_foreign, 0) FROM log_files"
                " LEFT JOIN wrapped_logs USING (identity, generation)"
            )
        ).scalars()
        return set(rows) <= {0}


@pytest.mark.parametrize("form", WRAPPED)
def test_a_wrapped_log_gives_the_events_that_cowrie_wrote(engine: Engine, tmp_path: Path, form: str) -> None:
    """Each event is stored as Cowrie wrote it, the wrapper is noted, and loading again adds nothing."""
    name, wrap = WRAPPED[form]
    lines = lines_of()
    path = tmp_path / "x.json"
    path.write_bytes(wrap(lines))

    result = load(engine, path)
    again = load(engine, path)

    assert payloads(engine) == canonical(lines)
    assert [row[0] for row in wrapper_of(engine)] == [name]
    assert (result.files[0].state, again.files[0].state) == ("loaded", "known")
    assert any(name in warning for warning in result.files[0].warnings)
    assert count(engine, DeadLetterEvent) == 0
    assert every_byte_is_accounted_for(engine)


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("order", ["export first", "original first"])
def test_export_and_original_give_each_event_once(
    small: Callable[[], Engine], tmp_path: Path, form: str, order: str
) -> None:
    """The contents are those of the original alone, in either order, also if the export is cut, sorted or followed."""
    lines = lines_of()
    shuffled = random.Random(form).sample(lines, len(lines))
    original, whole, cut, mixed = (tmp_path / f"{name}.json" for name in ("original", "whole", "cut", "mixed"))
    original.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    wrap = WRAPPED[form][1]
    whole.write_bytes(wrap(lines))
    cut.write_bytes(wrap(lines[5:20]))
    mixed.write_bytes(wrap(shuffled))
    alone, both = small(), small()
    load(alone, original)

    paths = [whole, cut, mixed, original] if order == "export first" else [original, mixed, cut, whole]
    load(both, *paths)
    load(both, *reversed(paths))
    with DeltaLoader(both, paths, settings=Settings(batch_size=5)) as follower:
        follower.poll()

    expected, got = (logical_contents(engine, tables=EVENT_TABLES, without=WHERE) for engine in (alone, both))
    assert difference(expected, got) == []


@pytest.mark.parametrize("form", WRAPPED)
def test_the_bytes_may_arrive_in_any_pieces(small: Callable[[], Engine], tmp_path: Path, form: str) -> None:
    """However the file is read and grows, followed from poll to poll, the same events come out, each once."""
    lines = lines_of()
    data = WRAPPED[form][1](lines)
    path = tmp_path / "x.json"
    engine = small()
    place = random.Random(form)
    with DeltaLoader(engine, [path], settings=Settings(batch_size=3), sizes=SMALL) as follower:
        for _ in range(12):
            path.write_bytes(data[: place.randrange(len(data))]) if not path.exists() else None
            with path.open("ab") as file:
                size = path.stat().st_size
                file.write(data[size : size + place.randrange(1, len(data) // 6)])
            follower.poll()
        with path.open("ab") as file:
            file.write(data[path.stat().st_size :])
        follower.poll()

    load(engine, path, sizes=SMALL)

    assert payloads(engine) == canonical(lines)
    assert every_byte_is_accounted_for(engine)


@pytest.mark.parametrize(
    ("name", "events_", "wrapper"),
    [
        ("docker.json", 4, "docker json-file"),
        ("es.ndjson", 4, "Elasticsearch _source"),
        ("es_bulk.json", 25, "Elasticsearch _bulk"),
        ("loki.json", 25, "Loki"),
        ("splunk_hec.json", 25, "Splunk HEC"),
        ("syslog.log", 25, "syslog"),
    ],
)
def test_the_cases_give_their_events(engine: Engine, name: str, events_: int, wrapper: str) -> None:
    """The inputs that once failed give the right number of events and no dead letter."""
    load(engine, CASES / "wrapped" / name)

    assert (count(engine, RawEvent), count(engine, DeadLetterEvent)) == (events_, 0)
    assert wrapper_of(engine) == [(wrapper, 0, 0)]


def test_docker_and_elasticsearch_are_one_log(engine: Engine) -> None:
    """Two exports of the same four events are four events."""
    load(engine, CASES / "wrapped" / "docker.json", CASES / "wrapped" / "es.ndjson")

    assert count(engine, RawEvent) == 4


def test_a_field_with_the_name_of_an_added_one_stays(engine: Engine, tmp_path: Path) -> None:
    """In a log without a wrapper nothing is removed, whatever the fields are called."""
    names = ["@timestamp", "@version", "type", "host", "agent", "log", "input", "tags", "path", "geoip", "dest_ip"]
    line = json.dumps(json.loads(events(1)[0]) | dict.fromkeys(names, "mine") | {"event": {"x": 1}, "_source": {}})
    path = tmp_path / "cowrie.json"
    path.write_text(line + "\n", encoding="utf-8")

    load(engine, path)

    assert payloads(engine) == canonical([line])
    assert wrapper_of(engine) == []


def test_lines_of_other_programs_in_a_syslog_are_counted(engine: Engine, tmp_path: Path) -> None:
    """They make no dead letters, also if they hold JSON; what may have been an event makes one, with its line."""
    lines = events(6)
    syslog = prefixed("Mar  8 11:00:00 pot cowrie[812]: ")(lines).decode().splitlines(keepends=True)
    others = [
        "Mar  8 11:00:00 pot sshd[1]: Accepted publickey for root\n",
        'Mar  8 11:00:00 pot app[2]: {"level": "info"}\n',
        'Mar  8 11:00:00 pot adbhoney[2]: {"eventid": "adbhoney.session.connect"}\n',
        "no prefix at all {\n",
    ]
    torn = f"Mar  8 11:00:00 pot cowrie[812]: {lines[0][:60]}\n"
    path = tmp_path / "messages"
    path.write_text("".join([*others * 30, *syslog[:3], torn, lines[3] + "\n", *others, *syslog[4:]]), encoding="utf-8")

    result = load(engine, path)

    assert payloads(engine) == canonical(lines)
    (file,) = result.files
    assert (file.lines_foreign, file.counters["dead_letters"]) == (31 * 4, 1)
    assert "124 lines of other programs" in " ".join(file.warnings)
    with read_transaction(engine) as connection:
        letter = connection.execute(select(DeadLetterEvent)).mappings().one()
    assert (letter["metadata_json"]["line"], letter["metadata_json"]["wrapper"]) == (30 * 4 + 4, "syslog")
    assert every_byte_is_accounted_for(engine)


def test_a_damaged_record_of_docker_is_one_dead_letter_at_its_line(engine: Engine, tmp_path: Path) -> None:
    """A torn record does not hide the one that is glued to it, and text that Cowrie prints is passed over."""
    lines = events(5)
    records = docker(lines).splitlines(keepends=True)
    text = json_lines([{"log": "2026-03-08 [-] Log opened.\n", "stream": "stdout", "time": "x"}])
    path = tmp_path / "x-json.log"
    path.write_bytes(text + records[0] + records[1][:70] + b"".join(records[1:]))

    result = load(engine, path)

    assert payloads(engine) == canonical(lines)
    assert (result.files[0].lines_foreign, result.files[0].counters["dead_letters"]) == (1, 1)
    with read_transaction(engine) as connection:
        (letter,) = connection.execute(select(DeadLetterEvent.metadata_json)).scalars()
    assert (letter["line"], letter["byte_start"]) == (3, len(text + records[0]))
    assert every_byte_is_accounted_for(engine)


def test_a_line_of_docker_that_never_ends_holds_nothing_up(engine: Engine, tmp_path: Path) -> None:
    """Its parts are given up at the limit and kept as a dead letter; what another stream wrote meanwhile is stored."""
    lines = events(60)
    endless = [{"log": '{"eventid": "cowrie.x' + "x" * 400, "stream": "stderr", "time": "x"} for _ in range(30)]
    path = tmp_path / "x-json.log"
    path.write_bytes(docker(lines[:2]) + json_lines(endless) + docker(lines[2:]))

    BulkLoader(engine, settings=Settings(max_value_bytes=3000)).load([path])
    again = BulkLoader(engine, settings=Settings(max_value_bytes=3000)).load([path])

    assert again.files[0].state == "known"
    assert payloads(engine) == canonical(lines)
    assert count(engine, DeadLetterEvent) > 0


def test_a_batch_ends_where_reading_can_resume(small: Callable[[], Engine], tmp_path: Path) -> None:
    """A value with many events is stored whole: what is stored ends between values, whatever the size of a batch."""
    lines = events(40)
    path = tmp_path / "x.json"
    path.write_bytes(WRAPPED["cloudwatch, subscription"][1](lines))
    for batch_size in (1, 2, 4, 5):
        engine = small()
        load(engine, path, batch_size=batch_size)
        with path.open("ab") as file:
            file.write(WRAPPED["cloudwatch, subscription"][1](events(3, start=100)))
        load(engine, path, batch_size=batch_size)
        path.write_bytes(WRAPPED["cloudwatch, subscription"][1](lines))

        assert payloads(engine) == canonical([*lines, *events(3, start=100)])


def test_the_second_process_reads_in_the_same_wrapper(small: Callable[[], Engine], tmp_path: Path) -> None:
    """A long log is parsed in a process of its own, which unwraps it, too."""
    lines = lines_of(300)
    path = tmp_path / "x.json"
    path.write_bytes(docker(lines))
    engine = small()

    load(engine, path, batch_size=50, sizes=ReadSizes(other_core_bytes=1))

    assert payloads(engine) == canonical(lines)


def test_a_log_that_goes_on_without_its_wrapper_has_no_note(engine: Engine, tmp_path: Path) -> None:
    """Written again without the wrapper it is a new generation; the note stays with the one that was wrapped."""
    path = tmp_path / "x.json"
    path.write_bytes(docker(events(5)))
    load(engine, path)
    path.write_text("".join(f"{line}\n" for line in events(9)), encoding="utf-8")

    load(engine, path)

    assert payloads(engine) == canonical(events(9))
    assert wrapper_of(engine) == [("docker json-file", 0, 0)]
    assert wrapper_of(engine, generation=1) == []
    assert every_byte_is_accounted_for(engine)


@pytest.mark.parametrize("form", ["docker, split", "cri, split"])
def test_a_container_that_died_in_a_line_costs_that_line_only(engine: Engine, tmp_path: Path, form: str) -> None:
    """The part that it wrote is one dead letter, and the next container's lines are whole."""
    lines = events(6)
    wrap, whole = WRAPPED[form][1], WRAPPED[form.removesuffix(", split")][1]
    died = b"".join(wrap(lines[2:3]).splitlines(keepends=True)[:3])
    path = tmp_path / "x-json.log"
    path.write_bytes(whole(lines[:2]) + died + whole(lines[3:]))

    result = load(engine, path)

    assert payloads(engine) == canonical([*lines[:2], *lines[3:]])
    assert result.counters["dead_letters"] == 1
    assert every_byte_is_accounted_for(engine)
