"""The worked example in docs/write_a_provider.md is complete, works, and does what the page says."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers import base
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Limits,
    Outcome,
    Provider,
    RateLimited,
    Refused,
    Reply,
    Unknown,
)
from tests.documents import PROJECT, blocks, table_rows
from tests.stand_ins import behaviours
from tests.stand_ins.server import Answer, Behaviour, Received, StandIn, document
from tests.unit.enrichment.asking import KEY, OTHER, SHA256, FixedClock, assert_sound, reply, sample

PAGE = (PROJECT / "docs" / "write_a_provider.md").read_text(encoding="utf-8")
ENTRY = {"malware": True, "name": "Mirai", "engines": {"said": 3, "of": 5}, "seen": 1_762_142_706}


class TeamServer(StandIn):
    """The server that the page describes; it knows one file."""

    def answer(self, received: Received) -> Answer:
        if received.headers.get("authorization") != KEY:
            return document({"error": "who are you?"}, 401)
        if received.path != f"/files/{SHA256}":
            return document({"error": "not on the list"}, 404)
        return document({"sha256": SHA256, **ENTRY})


@pytest.fixture(scope="module")
def team_list() -> Iterator[type[Provider]]:
    """The class of the page, as a module of its own."""
    (source,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    module = types.ModuleType("page_example")
    sys.modules[module.__name__] = module
    exec(compile(source, "docs/write_a_provider.md", "exec"), module.__dict__)  # noqa: S102
    yield module.__dict__["TeamList"]
    del sys.modules[module.__name__]


def ask(made: Provider, sha256: str) -> Outcome:
    """Ask about a file, as a look-up does."""
    with HttpClient(0.5, FixedClock()) as client:
        answer = client.send(made.request([sample(sha256)]))
    found = answer if isinstance(answer, Failed) else made.outcomes([sample(sha256)], answer)[sha256]
    assert_sound(found)
    return found


def test_the_example_works(team_list: type[Provider]) -> None:
    """It finds the file that the server knows, and the stored response gives the same verdict."""
    with TeamServer() as server:
        made = team_list(server.url, KEY, Limits(per_minute=60))
        known, unknown = ask(made, SHA256), ask(made, OTHER)
        wrong_key = ask(team_list(server.url, "a wrong key", Limits()), SHA256)

    assert isinstance(known, Found)
    verdict = known.verdict
    assert (verdict.verdict, verdict.classification, verdict.positives, verdict.total) == ("malicious", "Mirai", 3, 5)
    assert made.verdict(json.loads(json.dumps(verdict.response))) == verdict
    assert unknown == Unknown({"error": "not on the list"})
    assert isinstance(wrong_key, Refused)
    assert wrong_key.scope == "source"


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (behaviours.HTML_404, Failed),
        (behaviours.HTML_502, Failed),
        (behaviours.EMPTY_204, Failed),
        (behaviours.TRUNCATED, Failed),
        (behaviours.RESET, Failed),
        (behaviours.HANG, Failed),
        (behaviours.ALL_NULL, Failed),
        (behaviours.answering("busy", document({"error": "slower"}, 429, Retry_After="5")), RateLimited),
    ],
    ids=str,
)
def test_the_example_survives(behaviour: Behaviour, expected: type, team_list: type[Provider]) -> None:
    """Every kind of error has its outcome."""
    with TeamServer() as server:
        server.fail_next(1, behaviour)

        assert isinstance(ask(team_list(server.url, KEY, Limits()), SHA256), expected)


@pytest.mark.parametrize("name", [*ENTRY, "sha256"])
@pytest.mark.parametrize(
    "value", [None, "x", -1, 2**70, True, [], {}, "\x00\ud800" + "x" * 5000, [[[[[[[[[1]]]]]]]]], KEY]
)
def test_the_example_makes_nothing_up(name: str, value: Any, team_list: type[Provider]) -> None:
    """A wrong value in any field counts as missing, and an entry without its hash is not an answer."""
    made = team_list("https://host.example", KEY, Limits())

    found = made.outcomes([sample()], reply({"sha256": SHA256, **ENTRY, name: value}))[SHA256]

    assert_sound(found)
    assert isinstance(found, Failed if name == "sha256" else Found)


def test_the_page_names_every_outcome() -> None:
    """The table of answers lists exactly the outcomes."""
    named = {row[0].strip("`") for row in table_rows(PAGE, "type", "when", "what happens then")}

    assert named == {outcome.__name__ for outcome in base.Outcome.__args__}


def test_the_page_names_everything_that_can_be_overridden() -> None:
    """Each method and class variable of the interface is on the page."""
    hooks = {name for name, _ in inspect.getmembers(Provider, callable) if not name.startswith("_")}
    variables = set(inspect.get_annotations(Provider))

    assert {name for name in hooks | variables if not re.search(rf"\b{name}\b", PAGE)} == set()


def test_an_answer_is_a_reply() -> None:
    """The example takes the type that the client returns."""
    assert inspect.signature(Provider.outcomes, eval_str=True).parameters["reply"].annotation is Reply
