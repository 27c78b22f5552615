"""Imports point down only, between packages and between the folders inside them, and the public names stay."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import pytest

import cowrieprocessor
from cowrieprocessor.errors import ConfigurationError
from tests.documents import PROJECT, blocks, quoted, sections, table_rows, without_blocks
from tests.logs import events, write
from tests.stand_ins.scene import download, load, services, sha256_of

PACKAGE = PROJECT / "cowrieprocessor"
MAX_MODULES = 20

Layers = tuple[tuple[str, ...], ...]

LAYERS: Layers = (
    ("__main__", "scripts"),
    ("cli",),
    ("web",),
    ("alerts",),
    ("export",),
    ("jobs", "reporting"),
    ("loader", "enrichment", "analysis", "delivery"),
    ("db",),
    ("settings",),
    ("interpret",),
    ("events", "sanitize", "clock", "filesystems", "child_process"),
    ("json_text", "wording"),
    ("errors",),
)
"""Packages and top modules from the top down; each imports itself and what is below it. Some are still to come."""

LAYERS_INSIDE: Mapping[str, Layers] = {
    "cli": (
        ("main",),
        ("demo",),
        (
            *("db", "dead_letters", "enrich", "enrich_status", "follow", "jobs", "load"),
            *("report", "sensors", "sessions", "work"),
        ),
        ("db_commands", "files_commands", "dead_letters_text", "enrich_text", "load_text", "work_text"),
        ("shared",),
    ),
    "jobs": (
        ("validation",),
        ("dead_letters", "enrichment", "loading", "upgrade", "watch"),
        ("maintenance", "work"),
        ("runtime",),
    ),
    "reporting": (
        ("render",),
        ("enrichment_status", "reports"),
        ("queries",),
        ("forecast", "periods", "timeline"),
    ),
    "loader": (
        ("delta",),
        ("bulk", "follow"),
        ("load_result", "packed_logs", "small_logs"),
        ("log_loading",),
        ("log_sensor", "torn_end_writer"),
        ("writer",),
        ("damage_removal", "damage_writer", "false_joins"),
        ("torn_values",),
        ("joined_halves",),
        ("torn_letters",),
        ("recompute", "row_writer"),
        ("rows",),
        ("logs",),
        ("file_processor", "reading"),
    ),
    "enrichment": (
        ("scheduler",),
        ("file_enrichment",),
        ("lookup",),
        ("virustotal", "http", "quota"),
        ("providers", "content_encoding"),
        ("verdict_repository",),
        ("expiry",),
    ),
    "db": (
        ("migrations",),
        ("upgrade", "validation"),
        ("status", "dead_letters", "enrichment"),
        ("files", "ingest"),
        ("jobs", "schema_facts"),
        ("engine", "models"),
        ("models_v3", "tables"),
        ("chunks", "columns", "dialects", "revisions", "saved_rows"),
    ),
}
"""The same inside the packages that have folders; what stands side by side does not import each other."""


def module_of(path: Path) -> str:
    """Return the dotted name of a source file; a package's own name for its `__init__`."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path.read_text(encoding="utf-8")
    for folder in (PACKAGE, PROJECT / "scripts")
    for path in sorted(folder.rglob("*.py"))
}
MODULES = {name: source for name, source in SOURCES.items() if name != "cowrieprocessor"}
"""All modules but the front door, `cowrieprocessor/__init__.py`, which names what is in the others."""


def imports(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that a source file imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(source: str, modules: Iterable[str] = tuple(MODULES)) -> set[str]:
    """Return which of `modules` a source file imports, or imports a name of."""
    known = set(modules)
    names = set(imports(source))
    return {name if name in known else name.rpartition(".")[0] for name in names} & known


def child(package: str, module: str) -> str | None:
    """Return the folder or module directly inside a package that a module belongs to; None if it is not inside."""
    return module.removeprefix(f"{package}.").split(".")[0] if module.startswith(f"{package}.") else None


def component(module: str) -> str:
    """Return the package or top module that a module belongs to."""
    return child("cowrieprocessor", module) or module.split(".")[0]


def not_below(layers: Layers, importer: str, imported: Iterable[str]) -> set[str]:
    """Return what `importer` imports though it lies beside or above it."""
    level = {name: number for number, names in enumerate(layers) for name in names}
    return {name for name in imported if name != importer and level[name] <= level[importer]}


def wrong_imports(importer: str, source: str) -> set[str]:
    """Return what a module imports though it lies beside or above it, among packages and inside its own."""
    own = component(importer)
    ours = {name for name in imports(source) if name.startswith("cowrieprocessor.")}
    components = {component(name) for name in ours if child("cowrieprocessor", name) != "__version__"}
    wrong = not_below(LAYERS, own, components)
    package = f"cowrieprocessor.{own}"
    inside = child(package, importer)
    if own in LAYERS_INSIDE and inside is not None:
        wrong |= not_below(LAYERS_INSIDE[own], inside, {part for name in ours if (part := child(package, name))})
    return wrong


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the circles of a graph, each as the way round; none if it has an order."""
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(node: str, way: list[str]) -> None:
        if node in way:
            found.append([*way[way.index(node) :], node])
        elif node not in done:
            for other in sorted(graph.get(node, ())):
                visit(other, [*way, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def folder_graph(package: str) -> dict[str, set[str]]:
    """Return which folders and modules directly inside a package import which."""
    graph: dict[str, set[str]] = {}
    for name, source in MODULES.items():
        if (own := child(package, name)) is not None:
            others = {child(package, other) for other in imported_modules(source)}
            graph.setdefault(own, set()).update(other for other in others if other not in (None, own))
    return graph


PACKAGES = sorted(module_of(path) for path in PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports what is below it: among packages, and among the folders of its own package."""
    assert wrong_imports(module, MODULES[module]) == set()


def test_modules_have_an_order() -> None:
    """No module imports itself by way of others."""
    assert circles({name: imported_modules(source) - {name} for name, source in MODULES.items()}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_have_an_order(package: str) -> None:
    """No folder imports itself by way of its neighbours."""
    assert circles(folder_graph(package)) == []


def test_every_component_has_a_place() -> None:
    """Each package, folder and module has its place in the picture, so that none escapes the rule."""
    placed = {name for names in LAYERS for name in names}
    assert {component(name) for name in MODULES} <= placed
    for package, layers in LAYERS_INSIDE.items():
        inside = {child(f"cowrieprocessor.{package}", name) for name in MODULES} - {None}
        assert inside == {name for names in layers for name in names}
    with_folders = {name.split(".")[1] for name in PACKAGES if name.count(".") > 1}
    assert with_folders == set(LAYERS_INSIDE)


def test_folders_can_be_taken_in_at_a_glance() -> None:
    """No folder of the package, its tests or its benchmarks has more than twenty modules."""
    folders = [
        path.parent for tree in ("cowrieprocessor", "tests", "benchmarks") for path in (PROJECT / tree).rglob("*.py")
    ]
    crowded = {
        str(folder.relative_to(PROJECT)): count
        for folder in set(folders)
        if (count := sum(1 for path in folder.glob("*.py") if path.name != "__init__.py")) > MAX_MODULES
    }
    assert crowded == {}


@pytest.mark.parametrize(
    ("importer", "source", "found"),
    [
        ("db.x", "from cowrieprocessor.loader.bulk import BulkLoader", {"loader"}),
        ("db.x", "from cowrieprocessor import loader", {"loader"}),
        ("db.x", "import cowrieprocessor.loader", {"loader"}),
        ("db.x", "def f():\n    from cowrieprocessor.cli.main import main", {"cli"}),
        ("jobs.watch.x", "from cowrieprocessor.reporting import reports", {"reporting"}),
        ("settings.x", "from cowrieprocessor.db.engine import get_engine", {"db"}),
        ("errors", "from cowrieprocessor.settings import Settings", {"settings"}),
        ("events", "from cowrieprocessor.sanitize import inert", {"sanitize"}),
        ("interpret.x", "from cowrieprocessor.settings import Settings", {"settings"}),
        ("db.ingest.x", "from cowrieprocessor.db.enrichment.queue import QUEUE", {"enrichment"}),
        ("db.ingest.x", "from cowrieprocessor.db.files import open_files", {"files"}),
        ("jobs.runtime.x", "from cowrieprocessor.jobs.watch.follow import follow", {"watch"}),
        ("cli.load", "from cowrieprocessor.cli.report import report", {"report"}),
        ("cli.x", "from cowrieprocessor.db.engine import get_engine", set()),
        ("db.ingest.x", "from cowrieprocessor.db.ingest import statements", set()),
        ("db.upgrade.x", "from cowrieprocessor.db.enrichment.queue import QUEUE", set()),
        ("loader.rows.x", "from cowrieprocessor.loader.reading.log_stream import Piece", set()),
        ("cli.x", "from cowrieprocessor import __version__", set()),
    ],
)
def test_wrong_imports_are_found(importer: str, source: str, found: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that points up or sideways is found, however it is spelled, and one that points down is not."""
    monkeypatch.setitem(
        LAYERS_INSIDE, "cli", (*LAYERS_INSIDE["cli"][:2], (*LAYERS_INSIDE["cli"][2], "x"), *LAYERS_INSIDE["cli"][3:])
    )  # type: ignore[call-overload]
    monkeypatch.setitem(LAYERS_INSIDE, "db", (*LAYERS_INSIDE["db"], ("x",)))  # type: ignore[call-overload]

    assert wrong_imports(f"cowrieprocessor.{importer}", source) == found


def test_circles_are_found() -> None:
    """A circle is found whatever its length; two ways to the same place are none."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


PUBLIC = {
    "cowrieprocessor.loader.bulk.BulkLoader": ["engine"],
    "cowrieprocessor.loader.delta.DeltaLoader": ["engine"],
    "cowrieprocessor.loader.file_processor.process_file_download_event": ["payload", "session_id"],
    "cowrieprocessor.db.engine.get_engine": [],
    "cowrieprocessor.db.models.Files": [],
    "cowrieprocessor.db.migrations.apply_migrations": ["engine"],
    "cowrieprocessor.enrichment.file_enrichment.FileEnrichment": ["lookup", "repository", "clock"],
    "cowrieprocessor.enrichment.virustotal.VirusTotal": ["url", "key"],
    "cowrieprocessor.enrichment.virustotal.PUBLIC_LIMITS": None,
    "cowrieprocessor.db.migrations.CURRENT_SCHEMA_VERSION": None,
    "cowrieprocessor.db.migrations.SCHEMA_VERSION_KEY": None,
}
"""Names that users already call, with the arguments that they give by position; None where it is no function."""


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_stay(name: str) -> None:
    """What users already import is there, and can be called as they call it."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    arguments = PUBLIC[name]

    if arguments is None:
        assert found
    else:
        inspect.signature(found).bind(*arguments)


def test_constants_that_users_compare_with() -> None:
    """The schema's version is 4, under the key that v3 wrote it to; the table of files is called files."""
    from cowrieprocessor.db.migrations import CURRENT_SCHEMA_VERSION, SCHEMA_VERSION_KEY
    from cowrieprocessor.db.models import Files

    assert (CURRENT_SCHEMA_VERSION, SCHEMA_VERSION_KEY) == (4, "schema_version")
    assert Files.__tablename__ == "files"


API = {
    "CURRENT_SCHEMA_VERSION",
    "BulkLoader",
    "CowrieProcessorError",
    "DeltaLoader",
    "FileResult",
    "Files",
    "LoadResult",
    "Settings",
    "__version__",
    "apply_migrations",
    "get_engine",
    "load_settings",
    "process_file_download_event",
    "require_current",
}


def test_the_front_door_names_the_public_api() -> None:
    """`cowrieprocessor` itself has exactly these names, each of them the thing that its module has."""
    assert set(cowrieprocessor.__all__) == set(dir(cowrieprocessor)) == API
    for name in API:
        assert getattr(cowrieprocessor, name) is not None
    assert cowrieprocessor.BulkLoader is importlib.import_module("cowrieprocessor.loader.bulk").BulkLoader
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = cowrieprocessor.Nothing


def test_loaders_work_with_nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument or a setting, engine and loaders use `cowrieprocessor.sqlite` in the current folder.

    There is nothing to follow then, which is an error.
    """
    for name in ("COWRIEPROC_DB_URL", "COWRIEPROC_DB_PATH", "COWRIEPROC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "cowrie.json"
    log.write_text('{"eventid":"cowrie.session.connect","session":"a1","timestamp":"2026-01-01T00:00:00Z"}\n')
    engine = cowrieprocessor.get_engine()

    result = cowrieprocessor.BulkLoader(engine).load([log])
    with pytest.raises(ConfigurationError, match="no path given, and no \\[\\[sensor\\]\\]"):
        cowrieprocessor.DeltaLoader(engine)

    engine.dispose()
    assert result.counters["events"] == 1
    assert (tmp_path / "cowrieprocessor.sqlite").stat().st_size > 0


def test_tests_share_by_modules_of_their_own() -> None:
    """No test module imports from another one: what several need lies in a module that is no test."""
    importers = {
        str(path.relative_to(PROJECT)): sorted(
            name for name in imports(path.read_text(encoding="utf-8")) if ".test_" in name and name.startswith("tests.")
        )
        for path in sorted((PROJECT / "tests").rglob("*.py"))
    }
    assert {path: names for path, names in importers.items() if names} == {}


def test_larger_counts_are_run_by_torture() -> None:
    """A test file that knows of `make torture` marks what is larger there, so that `make torture` runs it."""
    knowing = {
        path
        for path in (PROJECT / "tests").rglob("test_*.py")
        if "tests.torture" in (source := path.read_text(encoding="utf-8")) or 'COWRIEPROC_TORTURE"' in source
    }
    unmarked = {path for path in knowing if "pytest.mark.torture" not in path.read_text(encoding="utf-8")}
    assert unmarked - {Path(__file__)} == set()
    assert len(knowing) > 5


# --- docs/architecture.md ---

PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_page_shows_the_layers() -> None:
    """The picture in docs/architecture.md has the layers of the test above; what is in parentheses is not there yet."""
    (picture,) = [block.text for block in blocks(PAGE) if block.language == "text"]
    drawn = [line.split() for line in picture.splitlines()]
    assert tuple(tuple(name.strip("()") for name in line) for line in drawn) == LAYERS
    there = {component(name) for name in MODULES}
    assert {name for line in drawn for name in line if not name.startswith("(")} == there


def test_the_page_names_every_folder() -> None:
    """The table of folders has each folder of the package once, and no other."""
    rows = table_rows(sections(PAGE, 2)["What each folder promises"], "folder", "holds", "promises")
    folders = [quoted(row[0])[0] for row in rows]
    there = {name.removeprefix("cowrieprocessor.").replace(".", "/") for name in PACKAGES if name != "cowrieprocessor"}
    assert sorted(folders) == sorted(there)
    assert all(row[1] for row in rows)


def test_modules_that_the_page_names_are_there() -> None:
    """Each module and test file that docs/architecture.md names exists."""
    named = {name for name in quoted(without_blocks(PAGE)) if name.endswith(".py")}
    named |= set(re.findall(r"tests/[\w/]+\.py", PAGE))
    missing = {name for name in named if not ((PACKAGE / name).is_file() or (PROJECT / name).is_file())}
    assert len(named) > 40
    assert missing == set()


def modules_of_path(heading: str) -> tuple[set[str], set[str]]:
    """Return the modules that a path of docs/architecture.md names, and those of them that run for every line."""
    rows = table_rows(sections(PAGE, 2)[heading], "step", "module")
    all_of_them = {name for _, modules in rows for name in quoted(modules)}
    return all_of_them, {name for step, modules in rows if step.endswith("*") for name in quoted(modules)}


class Profile:
    """Counts the calls of each function of the package while it is active, in this thread."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Profile:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{PACKAGE}{os.sep}"):
            self._calls[code.co_filename.removeprefix(f"{PACKAGE}{os.sep}"), code.co_qualname] += 1

    def modules(self, times: int = 1) -> set[str]:
        """Return the modules that have a function called at least `times` times."""
        return {module for (module, _), count in self._calls.items() if count >= times}


def test_the_path_of_a_line_is_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load runs through every module that the page names, and through no others for every line."""
    named, for_each_line = modules_of_path("The path of one log line")
    lines = 400
    log = write(tmp_path / "cowrie.json", events(lines))
    cli = importlib.import_module("cowrieprocessor.cli.main").cli

    with Profile() as profile, pytest.raises(SystemExit):
        cli.main(["load", str(log), "--db", str(tmp_path / "x.sqlite")])

    assert named - profile.modules() == set()
    assert profile.modules(times=lines) == for_each_line


def test_the_path_of_a_hash_is_as_the_page_says(tmp_path: Path) -> None:
    """A run of enrichment goes through every module that the page names."""
    named, _ = modules_of_path("The path of one hash")
    engine = cowrieprocessor.get_engine(tmp_path / "x.sqlite")
    cowrieprocessor.apply_migrations(engine)
    with services() as here, Profile() as profile:
        load(engine, tmp_path, [download("s1", sha256_of(1))])
        here.enrich(engine)
    engine.dispose()

    assert named - profile.modules() == {"cli/enrich.py"}
