"""The verdict that is shown: the same word for a file in every output, `unknown` only where a source said so."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from cowrieprocessor.cli.files_commands.files import _VERDICTS
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.shown_verdict import SHOWN_VERDICTS
from cowrieprocessor.db.enrichment.skipped_hashes import EMPTY_FILE_SHA256
from cowrieprocessor.db.models import HASHES
from cowrieprocessor.jobs.enrichment.run import EnrichOptions
from tests import v3_schema
from tests.stand_ins.behaviours import HTML_502
from tests.stand_ins.scene import Services, download, load, services, sha256_of
from tests.stand_ins.server import answering
from tests.stand_ins.virustotal import ERRORS, KEY, KeyLimits, error
from tests.unit.reporting.program import Program
from tests.unit.reporting.scene import add_hash, add_queued, at, sha

BAD, CLEAN, UNKNOWN, FAILED, REFUSED, LIMITED, LATER = (sha256_of(number) for number in range(7))
WORDS = {
    BAD: "malicious",
    CLEAN: "clean",
    UNKNOWN: "unknown",
    FAILED: "failed",
    REFUSED: "refused",
    LIMITED: "rate-limited",
    LATER: "not-asked",
    EMPTY_FILE_SHA256: "skipped",
}
STATUSES = {
    **dict.fromkeys((BAD, CLEAN, UNKNOWN, REFUSED), "enriched"),
    **dict.fromkeys((LIMITED, LATER), "pending"),
    FAILED: "failed",
    EMPTY_FILE_SHA256: "skipped",
}
ONLY = {"enrichment_providers": ("virustotal",), "virustotal_per_minute": 6000}


@pytest.fixture
def here() -> Iterator[Services]:
    """Every service; VirusTotal answers about each file in another way, and then only that it is asked too much."""
    with services(KeyLimits(None, 500, 15_500)) as all_of_them:
        virustotal = all_of_them.virustotal
        virustotal.add(BAD, malicious=12, total=70)
        virustotal.add(CLEAN, total=70)
        virustotal.script(FAILED, [HTML_502])
        virustotal.script(REFUSED, [answering("400", error(400, "BadRequestError"))])
        virustotal.script(LIMITED, [ERRORS["QuotaExceededError"]] * 9)
        yield all_of_them


@pytest.fixture
def files(engine: Engine, tmp_path: Path) -> None:
    """Eight files, in the order in which they are asked about."""
    load(engine, tmp_path, [download(place, sha256, day=1 + place) for place, sha256 in enumerate(WORDS)])


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program, called in a folder of its own, with a key of VirusTotal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWRIEPROC_VIRUSTOTAL_KEY", KEY)
    return Program(monkeypatch, capsys)


def assert_shown(program: Program, db_url: str, words: dict[str, str], statuses: dict[str, str]) -> None:
    """Check that every command shows these words, and that every total of them is the number of files."""

    def document(*arguments: object) -> dict[str, object]:
        outcome = program(*arguments, "--db", db_url, "--json")
        assert outcome.code == 0, outcome.err
        return outcome.document  # type: ignore[no-any-return]

    def shown(rows: object) -> dict[str, str]:
        return {row["sha256"]: row["verdict"] for row in rows}  # type: ignore[attr-defined]

    counts = Counter(words.values())
    listed = document("files", "list")["files"]
    assert words == shown(listed)
    assert statuses == {row["sha256"]: row["enrichment_status"] for row in listed}  # type: ignore[attr-defined]
    text = program("files", "list", "--db", db_url).out
    for word in SHOWN_VERDICTS:
        found = shown(document("files", "list", "--verdict", word)["files"])
        assert {sha256: word for sha256, own in words.items() if own == word} == found
        assert counts[word] == sum(f" {word} " in line for line in text.splitlines())
    for place, (sha256, word) in enumerate(words.items()):
        for command in ("show", "history"):
            assert word == document("files", command, sha256)["verdict"]
            lines = program("files", command, sha256, "--db", db_url).out.splitlines()
            assert [word] == [line.split()[1] for line in lines if line.startswith("verdict ")]
        assert {sha256: word} == shown(document("sessions", "show", f"s{place}")["files"])
        assert f" {word} " in program("sessions", "show", f"s{place}", "--db", db_url).out

    report = document("report", "monthly", "--date", "2026-02")
    assert words == shown(report["files"])
    totals = report["totals"]
    names = {word: f"files_{word.replace('-', '_')}" for word in SHOWN_VERDICTS}
    assert {word: counts[word] for word in SHOWN_VERDICTS} == {word: totals[names[word]] for word in SHOWN_VERDICTS}  # type: ignore[index]
    assert len(words) == totals["files"]  # type: ignore[index]
    table = csv.DictReader(
        io.StringIO(program("report", "monthly", "--date", "2026-02", "--db", db_url, "--format", "csv").out)
    )
    rows = list(table)
    in_csv = {row["key"]: (row["verdict"], row["enrichment_status"]) for row in rows if row["section"] == "files"}
    assert {sha256: (word, statuses[sha256]) for sha256, word in words.items()} == in_csv
    sums = {row["key"]: row["value"] for row in rows if row["section"] == "totals"}
    assert len(words) == sum(int(sums[name]) for name in names.values())
    text = program("report", "monthly", "--date", "2026-02", "--db", db_url).out
    assert all(f" {word} " in text for word in counts)

    status = document("enrich", "status")
    assert counts == status["verdicts"]
    assert counts["skipped"] == status["skipped"]
    (source,) = [source for source in status["sources"] if source["provider"] == "virustotal"]  # type: ignore[attr-defined]
    assert counts == source["verdicts"]
    parts = ", ".join(f"{counts[word]} {word}" for word in SHOWN_VERDICTS if counts[word])
    assert f"{len(words)} files: {parts}. " in " ".join(program("enrich", "status", "--db", db_url).out.split())


def test_a_file_has_one_word_everywhere(
    engine: Engine, db_url: str, files: None, here: Services, program: Program
) -> None:
    """Before any run nothing is unknown; after one each file has the word of what happened, in every output."""
    fresh = {**dict.fromkeys(WORDS, "not-asked"), EMPTY_FILE_SHA256: "skipped"}
    assert_shown(program, db_url, fresh, {**dict.fromkeys(WORDS, "pending"), EMPTY_FILE_SHA256: "skipped"})

    result = here.enrich(engine, EnrichOptions(order="oldest"), **ONLY)

    assert "times in a row" in result.reasons["virustotal"]
    assert_shown(program, db_url, WORDS, STATUSES)
    sources = program("files", "show", LIMITED, "--db", db_url, "--json").document["sources"]
    assert [("virustotal", "rate-limited", "rate-limited", 0)] == [
        (source["provider"], source["verdict"], source["status"], source["attempts"]) for source in sources
    ]
    assert "rate-limited: VirusTotal answers 429" in program("files", "history", LIMITED, "--db", db_url).out


def test_the_words_change_with_the_next_run(
    engine: Engine, db_url: str, files: None, here: Services, program: Program
) -> None:
    """A file that was rate-limited keeps its place before the others, and gets the word of its answer."""
    here.enrich(engine, EnrichOptions(order="oldest"), **ONLY)
    here.virustotal._scripts.clear()
    here.clock.advance(hours=1)
    before = len(here.virustotal.log)
    here.enrich(engine, EnrichOptions(order="oldest"), **ONLY)
    asked = [received.subject for received in here.virustotal.log[before:] if received.subject in WORDS]
    assert [LIMITED, LATER, FAILED] == asked
    words = {**WORDS, FAILED: "unknown", LIMITED: "unknown", LATER: "unknown"}
    assert_shown(program, db_url, words, {**STATUSES, **dict.fromkeys((FAILED, LIMITED, LATER), "enriched")})


def test_what_is_staged_has_its_words(
    engine: Engine, db_url: str, files: None, here: Services, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With USE_NEW_ENRICHMENT=0 cache and queue alone know what happened; the words are theirs."""
    monkeypatch.setenv("USE_NEW_ENRICHMENT", "0")
    here.enrich(engine, EnrichOptions(order="oldest"), use_new_enrichment=False, **ONLY)
    words = {**WORDS, **dict.fromkeys((BAD, CLEAN, UNKNOWN), "staged")}
    statuses = {**dict.fromkeys(WORDS, "pending"), EMPTY_FILE_SHA256: "skipped"}
    assert_shown(program, db_url, words, statuses)


def test_an_empty_database_has_no_words(engine: Engine, db_url: str, program: Program) -> None:
    """No file, no word, no source that was asked."""
    status = program("enrich", "status", "--db", db_url, "--json").document
    assert ({}, 0) == (status["verdicts"], status["skipped"])
    assert all(source["verdicts"] == {} for source in status["sources"])
    assert "0 files.\n" in program("enrich", "status", "--db", db_url).out


def test_what_pre_release_versions_left_has_its_word(engine: Engine, db_url: str, program: Program) -> None:
    """A scan that found nothing is an answer; a failure without a row of the queue failed; no status alone answers."""
    with write_transaction(engine) as connection:
        for number in range(5):
            add_hash(connection, sha(number), at(0))
        for number, values in enumerate(
            (
                {"enrichment_status": "enriched", "vt_scan_date": at(-5)},
                {"enrichment_status": "failed"},
                {"enrichment_status": "enriched"},
            )
        ):
            connection.execute(update(HASHES).where(HASHES.c.sha256 == sha(number)).values(**values))
        add_queued(connection, sha(3), "virustotal", "leased", attempts=2, last_error="timeout: no answer")
        add_queued(connection, sha(4), "virustotal", "leased", attempts=1)
    listed = program("files", "list", "--db", db_url, "--json").document["files"]
    assert ["unknown", "failed", "not-asked", "failed", "not-asked"] == [file["verdict"] for file in listed]


def test_the_filter_takes_every_word() -> None:
    """`files list --verdict` has exactly the words that are shown."""
    assert SHOWN_VERDICTS == _VERDICTS


def test_an_imported_answer_is_staged_too(
    engine: Engine, db_url: str, files: None, here: Services, tmp_path: Path, program: Program
) -> None:
    """Answers of Cowrie's own log and of v3's cache that only the cache has are `staged`, without any request."""
    own = {
        "eventid": "cowrie.virustotal.scanfile",
        "session": "s0",
        "timestamp": "2026-02-02T10:00:00.000000Z",
        "sensor": "hive",
        "sha256": BAD,
        "is_new": "false",
        "positives": 31,
        "total": 76,
    }
    load(engine, tmp_path, [own], "own.json")
    here.virustotal.keys.clear()
    here.enrich(engine, use_new_enrichment=False, **ONLY)
    listed = program("files", "list", "--db", db_url, "--json").document["files"]
    shown = {file["sha256"]: file["verdict"] for file in listed}
    assert {**dict.fromkeys(WORDS, "not-asked"), BAD: "staged", EMPTY_FILE_SHA256: "skipped"} == shown
    here.enrich(engine, **ONLY)
    assert "malicious" == program("files", "show", BAD, "--db", db_url, "--json").document["verdict"]


def test_a_migrated_database_says_unknown_of_nothing(program: Program, tmp_path: Path) -> None:
    """Of files that came from version 3 nobody has been asked: before the backfill, in its midst, and after it."""
    v3_schema.create(tmp_path / "v3.sqlite")
    assert program("db", "migrate", "--db", "v3.sqlite", "--yes").code == 0
    for command in ((), ("db", "backfill", "--db", "v3.sqlite")):
        assert not command or program(*command).code == 0
        listed = program("files", "list", "--db", "v3.sqlite", "--json").document["files"]
        assert {"not-asked", "skipped"} >= {file["verdict"] for file in listed}
        status = program("enrich", "status", "--db", "v3.sqlite", "--json").document
        assert len(listed) == sum(status["verdicts"].values())
        assert "unknown" not in program("enrich", "status", "--db", "v3.sqlite").out
    assert listed


def test_each_source_s_total_is_the_number_of_files(
    engine: Engine, db_url: str, files: None, here: Services, program: Program
) -> None:
    """With every source in use, some asked in part, each source's words and `files show` of each file agree."""
    here.hashlookup.add(CLEAN, trust=90)
    here.malwarebazaar.fail_next(3, HTML_502)
    here.enrich(engine, EnrichOptions(order="oldest"), virustotal_per_minute=6000)
    status = program("enrich", "status", "--db", db_url, "--json").document
    details = [program("files", "show", sha256, "--db", db_url, "--json").document for sha256 in WORDS]
    for source in status["sources"]:
        name = source["provider"]
        shown = Counter(
            next((own["verdict"] for own in file["sources"] if own["provider"] == name), None)
            or ("skipped" if file["sha256"] == EMPTY_FILE_SHA256 else "not-asked")
            for file in details
        )
        assert (name, shown) == (name, Counter(source["verdicts"]))
        assert len(WORDS) == sum(source["verdicts"].values())
    assert Counter(file["verdict"] for file in details) == status["verdicts"]
