"""`cowrieprocessor files list`, `show` and `sessions`, as they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.loader.rows.file_mentions import NAME
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_file, add_hash, add_mention, add_session, at, sha


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as a user calls it."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def db(engine: Engine, db_url: str) -> str:
    """A database with two files of three sessions."""
    with write_transaction(engine) as connection:
        for number in range(3):
            add_session(connection, f"s{number}", at(number))
            add_file(
                connection,
                f"s{number}",
                sha(1),
                at(number),
                filename="/tmp/x.sh",
                download_url="http://u:secret@198.51.100.7/x.sh",
            )
        add_hash(
            connection,
            sha(1),
            at(0),
            at(2),
            session_count=3,
            size_bytes=1234,
            md5="5" * 32,
            verdict="malicious",
            vt_positives=40,
            vt_total=70,
            enrichment_status="enriched",
            family="mirai",
        )
        add_file(connection, "s0", sha(2), at(0), origin="upload")
        add_hash(connection, sha(2), at(0))
        add_mention(connection, "s2", sha(1), NAME, "/tmp/second-name", at(2))
    return db_url


def test_list_shows_files_and_their_verdicts(db: str, program: Program) -> None:
    """The list has a line for each file, latest first, with hash, name, size, sessions and verdict."""
    outcome = program("files", "list", "--db", db)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert ["SHA-256", sha(1)[:12], sha(2)[:12]] == [line.split()[0] for line in lines if not line.startswith("─")]
    assert "/tmp/x.sh" in lines[2]
    assert "1.2 kB" in lines[2]
    assert "malicious 40/70" in lines[2]
    assert "not-asked" in lines[3]


def test_pages_of_the_list_are_chained_by_after(db: str, program: Program) -> None:
    """A page that is not the last prints the cursor on standard error, or in JSON as `next`."""
    first = program("files", "list", "--db", db, "--limit", "1")
    cursor = first.err.split("--after ")[1].strip().strip("'")
    second = program("files", "list", "--db", db, "--limit", "1", "--after", cursor)
    assert sha(1)[:12] in first.out
    assert sha(2)[:12] in second.out
    assert second.err == ""
    document = program("files", "list", "--db", db, "--limit", "1", "--sort", "sessions", "--json").document
    assert (f"3,{sha(1)}", sha(1)) == (document["next"], document["files"][0]["sha256"])


def test_list_takes_its_filters(db: str, program: Program) -> None:
    """Every filter reaches the query; when nothing fits, the list says so and ends with 0."""
    arguments = ("--verdict", "malicious", "--since", "2026-11-21", "--until", "2026-11-22", "--name", "X.SH")
    outcome = program("files", "list", "--db", db, *arguments, "--sensor", "lab", "--json")
    assert [sha(1)] == [file["sha256"] for file in outcome.document["files"]]
    for url in ("198.51.100.7/X", "hxxp://u:secret@198[.]51[.]100[.]7/x.sh"):
        assert [sha(1)] == [
            file["sha256"] for file in program("files", "list", "--db", db, "--url", url, "--json").document["files"]
        ]
    assert program("files", "list", "--db", db, "--url", "nowhere").out == "No files match.\n"
    second = program("files", "list", "--db", db, "--name", "SECOND", "--json").document
    assert ([sha(1)], second["complete"]) == ([file["sha256"] for file in second["files"]], True)
    nothing = program("files", "list", "--db", db, "--sensor", "lab", "--name", "nowhere")
    assert (nothing.code, nothing.out) == (0, "No files match.\n")
    unknown = program("files", "list", "--db", db, "--sensor", "nowhere")
    assert (unknown.code, "sensors list" in unknown.err) == (1, True)


def test_show_tells_everything_about_a_file(db: str, program: Program) -> None:
    """A file is shown by the beginning of its hash or its MD5, with every name, and URLs defanged and masked."""
    for name in (sha(1)[:6], sha(1).upper(), "5" * 32):
        outcome = program("files", "show", name, "--db", db)
        assert outcome.code == 0
        for text in (sha(1), "1.2 kB (1,234 bytes)", "malicious 40/70", "mirai", "/tmp/x.sh", "/tmp/second-name"):
            assert text in outcome.out
        assert "hxxp://***@198[.]51[.]100[.]7/x.sh" in outcome.out
        assert "3 from 1 address\n" in outcome.out
    document = program("files", "show", sha(1)[:6], "--db", db, "--json").document
    assert document["urls"][0]["value"] == "http://u:secret@198.51.100.7/x.sh"
    assert document["first_seen"] == "2026-11-21T00:00:00Z"


def test_show_says_what_it_did_not_count(db: str, program: Program) -> None:
    """Where fewer sessions were counted than there are, the text says so and how to count more."""
    outcome = program("files", "show", sha(1)[:6], "--db", db, "--sightings", "2")
    assert "counted over the latest 2 of 3 sessions; --sightings N counts more." in " ".join(outcome.out.split())


def test_sessions_of_a_file_are_listed(db: str, program: Program) -> None:
    """The sessions of a file come latest first, a page at a time."""
    outcome = program("files", "sessions", sha(1)[:6], "--db", db, "--limit", "2")
    assert [line.split()[0] for line in outcome.out.splitlines()[2:]] == ["s2", "s1"]
    assert "--after" in outcome.err
    document = program("files", "sessions", sha(1)[:6], "--db", db, "--json").document
    assert (sha(1), ["s2", "s1", "s0"], None) == (
        document["sha256"],
        [session["session_id"] for session in document["sessions"]],
        document["next"],
    )


@pytest.mark.parametrize("command", ["show", "sessions"])
def test_a_hash_that_is_not_there_ends_with_1(db: str, program: Program, command: str) -> None:
    """An unknown hash ends with 1 and one message; text that is no hash ends with 2."""
    unknown = program("files", command, "ffffff", "--db", db)
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err.startswith("error: no file with the hash ffffff")
    assert program("files", command, "0000", "--db", db).code == 2
    assert program("files", command, "not a hash", "--db", db).code == 2


@pytest.mark.parametrize(
    "arguments",
    [("--limit", "0"), ("--sort", "x"), ("--verdict", "x"), ("--since", "soon"), ("--after", "x")],
)
def test_a_wrong_call_ends_with_2(db: str, program: Program, arguments: tuple[str, str]) -> None:
    """A value that an option does not take ends with 2 and no output."""
    outcome = program("files", "list", "--db", db, *arguments)
    assert (outcome.code, outcome.out) == (2, "")


def test_a_database_that_is_not_there_is_not_made(program: Program, tmp_path: Path) -> None:
    """Reading a database that does not exist is an error, and creates none."""
    path = tmp_path / "none.sqlite"
    assert program("files", "list", "--db", str(path)).code == 4
    assert not path.exists()
