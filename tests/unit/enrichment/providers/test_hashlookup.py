"""CIRCL hashlookup: one file by SHA-256 or many by MD5, and which entries vouch for a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cowrieprocessor.clock import SystemClock
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Limits,
    Outcome,
    ProviderVerdict,
    RateLimited,
    Refused,
    Reply,
    Request,
    Sample,
    Unknown,
)
from cowrieprocessor.enrichment.providers.hashlookup import Hashlookup
from tests.stand_ins import hashlookup as stand_ins
from tests.unit.enrichment.asking import HTML, OTHER, SHA256, assert_sound, md5_of, reply, sample, sha1_of

URL = "https://hashlookup.circl.lu"
PROVIDER = Hashlookup(URL, None, Limits(per_minute=600))
BOTH = [sample(), sample(OTHER)]


def entry(sha256: str = SHA256, **changes: Any) -> dict[str, Any]:
    """Return hashlookup's entry of a file."""
    return {**stand_ins.entry(sha256), **changes}


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a document without some of its fields."""
    return {name: value for name, value in document.items() if name not in names}


def outcomes(samples: list[Sample], document: object, status: int = 200) -> list[Outcome]:
    """Return the outcome of a reply for each file, in order."""
    found = PROVIDER.outcomes(samples, reply(document, status))
    assert [*found] == [asked.sha256 for asked in samples]
    for outcome in found.values():
        assert_sound(outcome)
    return [*found.values()]


def verdict_of(document: dict[str, Any]) -> ProviderVerdict:
    """Return the verdict of an entry; its stored response must give the same verdict."""
    (found,) = outcomes([sample()], document)
    assert isinstance(found, Found)
    assert PROVIDER.verdict(json.loads(json.dumps(found.verdict.response))) == found.verdict
    return found.verdict


def test_what_is_asked() -> None:
    """One file is asked about by SHA-256, several by MD5 in upper case in one request; neither has a key."""
    assert PROVIDER.request([sample()]) == Request("GET", f"{URL}/lookup/sha256/{SHA256}")
    assert PROVIDER.request(BOTH) == Request(
        "POST", f"{URL}/bulk/md5", document={"hashes": [md5_of(SHA256).upper(), md5_of(OTHER).upper()]}
    )


def test_batches() -> None:
    """Files with an MD5 share a request, at most a hundred; a file without one is asked about alone."""
    known = [sample(f"{number:064x}") for number in range(150)]
    unknown = [Sample(f"{number:064x}", md5=md5) for number, md5 in enumerate([None, "", "short", "x" * 32])]

    assert PROVIDER.batch(known) == known[:100]
    assert PROVIDER.batch(known[:3] + unknown + known) == known[:3]
    for without_md5 in unknown:
        assert PROVIDER.batch([without_md5, *known]) == [without_md5]


def test_answers_of_a_server_are_understood() -> None:
    """Both requests work against a server, for known files and for unknown ones."""
    with stand_ins.Hashlookup() as stand_in, HttpClient(5, SystemClock()) as client:
        stand_in.add(SHA256)
        provider = Hashlookup(stand_in.url, None, Limits())
        found = []
        for samples in (BOTH[:1], BOTH[1:], BOTH):
            answer = client.send(provider.request(samples))
            assert isinstance(answer, Reply)
            found += provider.outcomes(samples, answer).values()

    assert [Found, Unknown, Found, Unknown] == [type(outcome) for outcome in found]
    assert {"known-good"} == {outcome.verdict.verdict for outcome in found if isinstance(outcome, Found)}


def test_an_entry_is_read_whole() -> None:
    """Name, hashes, size and type come from their fields."""
    found = verdict_of(entry())

    assert found == ProviderVerdict(
        "known-good",
        description="/bin/busybox",
        md5=md5_of(SHA256),
        sha1=sha1_of(SHA256),
        tlsh=found.response["TLSH"],
        size_bytes=1_131_168,
        file_type="application/x-executable",
        response=found.response,
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"hashlookup:trust": 100, "source": "snap", "db": "snap"}, "known-good"),
        ({"hashlookup:trust": 51, "source": None, "db": None}, "known-good"),
        ({"hashlookup:trust": "75", "source": None, "db": None}, "known-good"),
        ({"hashlookup:trust": 50, "source": "snap", "db": "snap"}, "unknown"),
        ({"hashlookup:trust": 50}, "known-good"),
        ({"hashlookup:trust": None}, "known-good"),
        ({"hashlookup:trust": None, "source": None, "db": "nsrl_legacy"}, "known-good"),
        ({"hashlookup:trust": None, "source": "snap", "db": "snap"}, "unknown"),
        ({"hashlookup:trust": 49}, "unknown"),
        ({"hashlookup:trust": 0}, "unknown"),
        ({"hashlookup:trust": "much"}, "unknown"),
        ({"hashlookup:trust": 101}, "unknown"),
        ({"hashlookup:trust": 100, "KnownMalicious": "vx"}, "malicious"),
        ({"hashlookup:trust": 100, "KnownMalicious": ["", "vx"]}, "malicious"),
        ({"hashlookup:trust": 100, "KnownMalicious": True}, "unknown"),
        ({"hashlookup:trust": 100, "KnownMalicious": None}, "known-good"),
        ({"hashlookup:trust": 100, "KnownMalicious": ""}, "known-good"),
    ],
)
def test_what_vouches_for_a_file(changes: dict[str, Any], verdict: str) -> None:
    """Many sources, or the reference library, vouch for a file, unless any source calls it malicious."""
    assert verdict == verdict_of(entry(**changes)).verdict


def test_a_file_known_as_malicious_is_called_as_hashlookup_does() -> None:
    """The label of a malicious file names who calls it malicious."""
    assert verdict_of(entry(KnownMalicious=["vx-one", "vx-two"])).classification == "vx-one, vx-two"


@pytest.mark.parametrize("given", [OTHER.upper(), None, 7, ""])
def test_an_entry_of_another_file_is_no_answer(given: object) -> None:
    """An answer to a question by SHA-256 must contain that SHA-256."""
    (found,) = outcomes([sample()], entry(**{"SHA-256": given}))

    assert isinstance(found, Failed)
    assert found.kind == "bad-body"


# --- many at once ---


def test_many_are_told_apart_by_their_md5() -> None:
    """Files that are listed, in any order, are known; the rest are unknown."""
    found = outcomes([*BOTH, sample("f" * 64)], [entry(OTHER), entry(SHA256)])

    assert [Found, Found, Unknown] == [type(outcome) for outcome in found]
    assert [md5_of(SHA256), md5_of(OTHER)] == [outcome.verdict.md5 for outcome in found if isinstance(outcome, Found)]


@pytest.mark.parametrize("changes", [{"SHA-256": OTHER.upper()}, {"SHA-256": 7}, {"SHA-1": sha1_of(OTHER).upper()}])
def test_a_file_with_the_md5_of_a_harmless_one_is_not_that_file(changes: dict[str, Any]) -> None:
    """A file forged to collide with a known file's MD5 does not become known-good."""
    first, _ = outcomes(BOTH, [entry(**changes)])

    assert isinstance(first, Unknown)


def test_of_several_entries_with_one_md5_the_files_own_counts() -> None:
    """Entries of other files with the same MD5 do not hide the file's own."""
    first, _ = outcomes(BOTH, [entry(**{"SHA-256": OTHER.upper(), "FileName": "another"}), entry()])

    assert isinstance(first, Found)
    assert first.verdict.description == "/bin/busybox"


def test_an_md5_alone_vouches_for_nothing() -> None:
    """An entry without SHA-256 counts only against a file: it gives neither known-good nor facts about the file."""
    bare = without(entry(), "SHA-256")
    good, _ = outcomes(BOTH, [bare])
    bad, _ = outcomes(BOTH, [{**bare, "KnownMalicious": "vx"}])

    assert isinstance(good, Found)
    assert isinstance(bad, Found)
    assert (good.verdict.verdict, good.verdict.size_bytes, good.verdict.sha1) == ("unknown", None, None)
    assert (bad.verdict.verdict, bad.verdict.classification) == ("malicious", "vx")


@pytest.mark.parametrize("stray", [None, 7, [], {}, {"MD5": None}, {"MD5": "short"}, stand_ins.entry("e" * 64)])
def test_an_entry_that_belongs_to_nobody_makes_nobody_unknown(stray: object) -> None:
    """If an entry is unreadable, files without an entry are asked about again; the rest have their answer."""
    first, second = outcomes(BOTH, [stray, entry()])

    assert isinstance(first, Found)
    assert isinstance(second, Failed)


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (200, [], (Unknown, None)),
        (200, {}, (Failed, "bad-body")),
        (200, {"message": "x"}, (Failed, "bad-body")),
        (200, HTML, (Failed, "bad-body")),
        (200, b"", (Failed, "empty-answer")),
        (400, {"message": "JSON format incorrect"}, (Failed, "other")),
        (404, {"message": "JSON format incorrect"}, (Failed, "other")),
        (429, {"message": "slower"}, (RateLimited, None)),
        (403, {"message": "blocked"}, (Refused, "source")),
        (502, HTML, (Failed, "server-error")),
    ],
)
def test_many_share_what_went_wrong(status: int, document: object, expected: tuple[type, str | None]) -> None:
    """An error of a request is a failure of each file in it; no file is refused for it."""
    for found in outcomes(BOTH, document, status):
        assert expected == (type(found), getattr(found, "scope", getattr(found, "kind", None)))


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (404, {"message": "Non existing SHA-256", "query": SHA256}, (Unknown, None)),
        (404, {"message": "The requested URL was not found on the server."}, (Failed, "other")),
        (404, HTML, (Failed, "other")),
        (404, {}, (Failed, "other")),
        (400, {"message": "SHA-256 value incorrect"}, (Refused, "file")),
        (400, HTML, (Failed, "other")),
        (200, [entry()], (Failed, "bad-body")),
        (200, b"", (Failed, "empty-answer")),
        (204, b"", (Failed, "empty-answer")),
        (429, HTML, (RateLimited, None)),
        (500, {"message": "Internal Server Error"}, (Failed, "server-error")),
    ],
)
def test_one_that_is_not_known(status: int, document: object, expected: tuple[type, str | None]) -> None:
    """Only hashlookup's own message makes a file unknown or refused."""
    (found,) = outcomes([sample()], document, status)

    assert expected == (type(found), getattr(found, "scope", getattr(found, "kind", None)))
