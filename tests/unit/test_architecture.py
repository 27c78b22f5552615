"""Imports point down only, and the names that users already call stay."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from tests.documents import PROJECT

PACKAGE = PROJECT / "cowrieprocessor"

LAYERS = (
    ("__main__", "scripts"),
    ("cli", "web"),
    ("jobs", "reporting"),
    ("loader", "enrichment", "analysis"),
    ("db",),
    ("settings",),
    ("errors",),
)
"""From the top down; a package imports only itself and what is below it."""

VOCABULARY = ("events", "sanitize")
"""What everybody may use, and what uses nothing but the errors."""


def layer(component: str) -> int:
    """Return how far from the top a component lies."""
    if component in VOCABULARY:
        return len(LAYERS) - 2
    return next(number for number, names in enumerate(LAYERS) if component in names)


def component_of(path: Path) -> str:
    """Return the component that a source file belongs to."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return parts[0] if parts[0] != "cowrieprocessor" else parts[1]


def imported_components(source: str) -> set[str]:
    """Return the components of ours that a source file imports, wherever in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {module.split(".")[1] for module in modules if module.startswith("cowrieprocessor.")}
    return {name for name in ours if not name.startswith("__")}


def upward(component: str, source: str) -> set[str]:
    """Return what a source file imports though it lies beside it or above it."""
    imported = imported_components(source) - {component}
    if component in VOCABULARY:
        return imported - {"errors"}
    return {name for name in imported if name not in VOCABULARY and layer(name) <= layer(component)}


SOURCES = sorted(
    path
    for folder in (PACKAGE, PROJECT / "scripts")
    for path in folder.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports_point_down(path: Path) -> None:
    """A module imports its own package, packages below it, and the vocabulary; never what is beside or above it."""
    assert upward(component_of(path), path.read_text(encoding="utf-8")) == set()


def test_every_component_has_a_place() -> None:
    """Each package and module of ours has its place in the picture, so that none escapes the rule."""
    placed = {name for names in LAYERS for name in names} | set(VOCABULARY)

    assert {component_of(path) for path in SOURCES} <= placed


@pytest.mark.parametrize(
    ("component", "source", "found"),
    [
        ("db", "from cowrieprocessor.loader.bulk import BulkLoader", {"loader"}),
        ("db", "from cowrieprocessor import loader", {"loader"}),
        ("db", "import cowrieprocessor.loader", {"loader"}),
        ("db", "def f():\n    from cowrieprocessor.cli.main import main", {"cli"}),
        ("jobs", "from cowrieprocessor.reporting import reports", {"reporting"}),
        ("settings", "from cowrieprocessor.db.engine import get_engine", {"db"}),
        ("errors", "from cowrieprocessor.settings import Settings", {"settings"}),
        ("events", "from cowrieprocessor.sanitize import inert", {"sanitize"}),
        ("cli", "from cowrieprocessor.db.engine import get_engine", set()),
        (
            "loader",
            "from cowrieprocessor.loader.reading.value_reader import Value\nfrom cowrieprocessor.events import Event",
            set(),
        ),
        ("cli", "from cowrieprocessor import __version__", set()),
    ],
)
def test_wrong_imports_are_found(component: str, source: str, found: set[str]) -> None:
    """An import that points up or sideways is found, however it is spelled, and one that points down is not."""
    assert upward(component, source) == found


PUBLIC = {
    "cowrieprocessor.loader.bulk.BulkLoader": ["engine"],
    "cowrieprocessor.loader.file_processor.process_file_download_event": ["payload", "session_id"],
    "cowrieprocessor.db.engine.get_engine": [],
    "cowrieprocessor.db.models.Files": [],
    "cowrieprocessor.db.migrations.apply_migrations": ["engine"],
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
