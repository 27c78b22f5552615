"""The documentation says what is the case: compared with the code, the schema, the commands and their output."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import runpy
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from typing import Any

import click
import pytest
from rich.text import Text
from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Integer, LargeBinary, String

import cowrieprocessor
from cowrieprocessor import errors, events
from cowrieprocessor.cli.main import cli
from cowrieprocessor.cli.shared.common import EXIT_INTERRUPTED
from cowrieprocessor.db.models import Base
from cowrieprocessor.loader.rows import file_aggregates, stored_payload
from cowrieprocessor.settings import SETTINGS_REFERENCE
from tests.documents import PROJECT, blocks, pages, quoted, sections, slug, table_rows, without_blocks

DOCS = PROJECT / "docs"
PAGES = {str(page.relative_to(PROJECT)): page.read_text(encoding="utf-8") for page in pages()}
REFERENCE = runpy.run_path(str(DOCS / "make_reference.py"))


# --- pages and links ---


def links_of(text: str) -> list[str]:
    """Return where the links and pictures of a page lead."""
    return re.findall(r"\]\(([^)\s]+)\)", without_blocks(text))


def broken_links(name: str, text: str) -> list[str]:
    """Return the links of a page that lead to no file of ours, or to no heading in it."""
    broken = []
    for link in links_of(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (PROJECT / name).parent / path if path else PROJECT / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    return {slug(heading) for level in range(1, 7) for heading in sections(text, level)}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Every link to a page of ours leads to a file that is there, and to a heading that it has."""
    assert broken_links(name, PAGES[name]) == []


@pytest.mark.parametrize("link", ["nowhere.md", "schema.md#nothing", "#nothing", "images/none.svg"])
def test_broken_links_are_found(link: str) -> None:
    """A link to a missing page, heading or picture does not pass."""
    assert broken_links("docs/x.md", f"see [there]({link})") == [link]


def test_every_page_is_linked_from_readme_or_index() -> None:
    """Nobody has to guess a page's name: README or docs/index.md links to it."""
    linked = {
        str(((PROJECT / name).parent / link.partition("#")[0]).resolve().relative_to(PROJECT))
        for name in ("README.md", "docs/index.md")
        for link in links_of(PAGES[name])
        if "://" not in link
    }

    assert PAGES.keys() - linked == {"README.md"} - linked


def test_every_page_that_the_code_names_is_there() -> None:
    """A message or comment that points to a page of docs/ points to one that exists."""
    named = {
        (path.name, page)
        for path in (PROJECT / "cowrieprocessor").rglob("*.py")
        for page in re.findall(r"docs/\w+\.md", path.read_text(encoding="utf-8"))
    }

    assert {page for _, page in named if not (PROJECT / page).is_file()} == set()
    assert named


# --- never copy a database that is in use ---

COPIES = re.compile(r"\b(?:cp|rsync|scp|dd|tar|cat|install)\b[^|\n]*\.(?:sqlite3?|db)\b")


def unsafe_copies(text: str) -> list[str]:
    """Return the commands that copy a database file by file, and sentences about `cp` that do not warn."""
    found = [line for block in blocks(text) for line in block.text.splitlines() if COPIES.search(line)]
    for paragraph in re.split(r"\n\s*\n", without_blocks(text)):
        found += [code for code in quoted(paragraph) if COPIES.search(code)]
        if {"cp", "rsync", "scp"} & set(quoted(paragraph)) and not re.search(r"\b(?:never|not)\b", paragraph, re.I):
            found.append(paragraph)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_no_page_suggests_to_copy_a_database_in_use(name: str) -> None:
    """A WAL database that is copied with cp is not whole: no page suggests it."""
    assert unsafe_copies(PAGES[name]) == []


@pytest.mark.parametrize(
    "text",
    ["```sh\ncp -a cowrie.sqlite backup/\n```\n", "Run `rsync cowrie.db host:` at night.", "Copy it with `cp` first."],
)
def test_a_page_that_suggests_it_is_found(text: str) -> None:
    """Commands, code in a sentence, and sentences that do not warn are all found."""
    assert unsafe_copies(text)


# --- commands ---


def commands() -> dict[str, click.Command]:
    """Return every command by the words that call it."""
    return {context.command_path: context.command for context in REFERENCE["walk"]()}


def test_reference_is_what_help_says() -> None:
    """The commands in docs/reference.md are those of `--help`; `make docs` writes them again.

    In a process of its own: click remembers help options of commands that other tests called on their own.
    """
    write = "import runpy; made = runpy.run_path('docs/make_reference.py'); page = made['PAGE'].read_text('utf-8')"
    ended = subprocess.run(
        [sys.executable, "-c", f"{write}; print(made['with_commands'](page), end='')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )

    assert ended.stdout == PAGES["docs/reference.md"], "run `make docs`"


def test_every_command_is_in_the_reference() -> None:
    """Each command and group has its heading, and no other has."""
    headings = {name for name in sections(PAGES["docs/reference.md"], 3) if name.startswith("cowrieprocessor")}

    assert headings == set(commands())
    assert len(headings) > 10


def test_a_reference_without_its_marks_is_refused() -> None:
    """A page whose marks were lost is not quietly left as it is."""
    with pytest.raises(ValueError, match="have to be in it"):
        REFERENCE["with_commands"]("# Reference\n")


def wrong_calls(text: str) -> list[str]:
    """Return the calls of the program, in code of a page, that name no command or an option it lacks."""
    code = [
        line.split("  #")[0] for block in blocks(text) if block.language != "python" for line in block.text.splitlines()
    ]
    code += quoted(without_blocks(text))
    wrong = []
    for line in code:
        for call in re.findall(r"(?:^|[\s$(;&|])(cowrieprocessor(?: [^|;&)`]+)?)", line):
            if problem := _problem_of_call(call.split()):
                wrong.append(f"{call}: {problem}")
    return wrong


def _problem_of_call(words: list[str]) -> str | None:
    known = commands()
    path = words[0]
    rest = words[1:]
    while rest and isinstance(known[path], click.Group) and not rest[0].startswith("-"):
        if f"{path} {rest[0]}" not in known:
            return None if rest[0].isupper() else f"no command {rest[0]!r}"
        path, rest = f"{path} {rest[0]}", rest[1:]
    context = click.Context(known[path], info_name=path, **cli.context_settings)
    options = {name for option in known[path].get_params(context) for name in (*option.opts, *option.secondary_opts)}
    given = [word for word in rest if re.match(r"--?[a-z]", word)]
    return next((f"no option {word}" for word in given if word.split("=")[0] not in options), None)


@pytest.mark.parametrize("name", PAGES)
def test_calls_of_the_program_are_possible(name: str) -> None:
    """Every call that a page shows names a command that is there, with options that it has."""
    assert wrong_calls(PAGES[name]) == []


@pytest.mark.parametrize(
    "text",
    [
        "`cowrieprocessor pursue`",
        "```text\ncowrieprocessor load --fast x\n```\n",
        "```console\n$ cowrieprocessor db erase\n```\n",
    ],
)
def test_impossible_calls_are_found(text: str) -> None:
    """A command or option that is not there does not pass."""
    assert len(wrong_calls(text)) == 1


def test_exit_codes_are_documented() -> None:
    """The table has every code that the program can end with, and no other."""
    codes = {0, EXIT_INTERRUPTED}
    codes |= {kind.exit_code for _, kind in inspect.getmembers(errors, inspect.isclass) if hasattr(kind, "exit_code")}
    for module in pkgutil.walk_packages([str(PROJECT / "cowrieprocessor" / "cli")], "cowrieprocessor.cli."):
        members = inspect.getmembers(importlib.import_module(module.name))
        codes |= {value for name, value in members if name.startswith("EXIT_")}
    documented = table_rows(sections(PAGES["docs/reference.md"], 2)["Exit codes"], "code", "when")

    assert [int(code) for code, _ in documented] == sorted(codes)


# --- schema ---


def kind_of(column: Column[Any]) -> str:
    """Return a column's type as docs/schema.md names it."""
    kind = getattr(column.type, "impl", column.type)
    if isinstance(kind, DateTime):
        return "time"
    if isinstance(kind, Boolean):
        return "true/false"
    if isinstance(kind, BigInteger | Integer):
        return "integer"
    if isinstance(kind, JSON):
        return "JSON"
    if isinstance(kind, LargeBinary):
        return "bytes"
    assert isinstance(kind, String)
    return f"text({kind.length})" if kind.length else "text"


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_columns_are_documented(table: str) -> None:
    """docs/schema.md has each column of the table with its type and whether it can be empty, in order."""
    rows = table_rows(sections(PAGES["docs/schema.md"], 3)[table], "column", "type", "null", "meaning")

    assert [(quoted(name)[0], kind, null) for name, kind, null, _ in rows] == [
        (column.name, kind_of(column), "null" if column.nullable else "")
        for column in Base.metadata.tables[table].columns
    ]


def test_schema_has_no_other_tables() -> None:
    """docs/schema.md describes the tables that are there and no others."""
    described = sections(PAGES["docs/schema.md"], 3)

    assert described.keys() == Base.metadata.tables.keys()


# --- packages ---


def test_every_package_has_its_reason() -> None:
    """docs/decisions.md names each package of pyproject.toml, and none that is not needed any more."""
    document = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    project, own = document["project"], document["project"]["name"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    group = [requirement for requirement in document["dependency-groups"]["dev"] if not requirement.startswith(own)]
    needed = [*project["dependencies"], *extras, *group]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in needed}  # type: ignore[index]
    text = sections(PAGES["docs/decisions.md"], 2)["Packages it needs"]
    reasons = {
        quoted(row[-2])[0]: row[-1]
        for heading in (
            ("package", "what for, and why this one"),
            ("extra", "package", "what for, and why this one"),
            ("package", "what for"),
        )
        for row in table_rows(text, *heading)
    }

    assert reasons.keys() == names
    assert all(reasons.values())


# --- reasons and messages ---


def test_reasons_of_dead_letters_are_documented() -> None:
    """docs/loading.md explains every reason for a dead letter, and no other."""
    reasons = {value for name, value in vars(events).items() if name.startswith("REFUSED_")}
    for module in (file_aggregates, stored_payload):
        reasons |= {value for name, value in vars(module).items() if name.startswith("REASON_")}
    for key in ("session", "eventid", "timestamp"):
        reasons |= {f"{key} is not text", f"{key} holds a NUL", f"{key} is too long"}
    documented = {
        reason for row in table_rows(PAGES["docs/loading.md"], "reason", "what it is") for reason in quoted(row[0])
    }

    assert documented == reasons


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"session":[1]}', "session is not text"),
        (b'{"eventid":"a\\u0000"}', "eventid holds a NUL"),
        (b'{"timestamp":"' + b"9" * 65 + b'"}', "timestamp is too long"),
    ],
)
def test_reasons_about_keys_are_as_documented(raw: bytes, reason: str) -> None:
    """The reasons that are put together from a key and a complaint read as the page says."""
    refused = events.parse_event(raw, json.loads(raw))

    assert isinstance(refused, events.Refused)
    assert refused.reason == reason


def texts_in_the_code() -> str:
    """Return every text of the package, `…` standing for what is put in."""
    found: list[str] = []
    for path in (PROJECT / "cowrieprocessor").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize(
    ("page", "heading", "least"),
    [
        ("docs/loading.md", ("message", "what it means, and what to do"), 15),
        ("docs/follow.md", ("message", "what it means, and what to do"), 10),
        ("docs/files_table_migration.md", ("message or exit code", "what it means, and what to do"), 5),
    ],
)
def test_messages_are_those_of_the_program(page: str, heading: tuple[str, str], least: int) -> None:
    """A message that a page explains is one that the program can say, word by word."""
    messages = [text for row in table_rows(PAGES[page], *heading) for text in quoted(row[0])]
    texts = texts_in_the_code()

    assert [message for message in messages if message not in texts] == []
    assert len(messages) >= least


def test_limits_are_the_defaults_of_the_settings() -> None:
    """docs/loading.md gives the limits that hold without a setting."""
    limits = table_rows(PAGES["docs/loading.md"], "what", "setting", "limit")
    defaults = {setting.name: setting.default for setting in SETTINGS_REFERENCE}

    assert [(name, limit) for _, name, limit in limits if defaults[name.strip("`")] != limit] == []
    assert len(limits) >= 6


# --- the picture ---


def test_picture_shows_the_report_of_today() -> None:
    """docs/images/report.svg shows what the report says now about the samples; `make docs` draws it again."""
    report = Text.from_ansi(runpy.run_path(str(DOCS / "make_pictures.py"))["report"]()).plain
    lines: dict[float, str] = {}
    for element in ElementTree.parse(DOCS / "images" / "report.svg").iter("{http://www.w3.org/2000/svg}text"):  # noqa: S314
        if element.get("clip-path"):
            lines[float(element.get("y", "0"))] = lines.get(float(element.get("y", "0")), "") + (element.text or "")

    shown = ["".join(lines[y].split()) for y in sorted(lines)]
    assert [line for line in shown if line] == [
        "".join(line.split()) for line in report.splitlines() if line.strip()
    ], "run `make docs`"


def test_picture_is_small_and_needs_nothing_else() -> None:
    """The picture is under 200 kB and refers to no other file, font or address."""
    text = (DOCS / "images" / "report.svg").read_text(encoding="utf-8")

    assert len(text) < 200_000
    assert not re.search(r"@font-face|url\((?!#)|href|<script|<image", text)


def test_version_is_in_the_changelog() -> None:
    """The changelog has a section for the version of the package."""
    versions = [name.split()[0] for name in sections(PAGES["CHANGELOG.md"], 2)]

    assert cowrieprocessor.__version__ in versions
