"""No function branches so much that it cannot be read in one go."""

from __future__ import annotations

from pathlib import Path

import pytest
from radon.complexity import cc_visit
from radon.visitors import Class, Function

from tests.documents import PROJECT

MOST = 15
"""The largest cyclomatic complexity of a function, as `radon cc` counts it."""

SOURCES = sorted(
    path for tree in ("cowrieprocessor", "scripts", "benchmarks") for path in (PROJECT / tree).rglob("*.py")
)


def too_complex(source: str, most: int = MOST) -> dict[str, int]:
    """Return the functions and methods of a source file that branch more than `most`, with their complexity."""
    functions: list[Function] = []
    blocks = list(cc_visit(source))
    while blocks:
        block = blocks.pop()
        blocks += block.closures if isinstance(block, Function) else block.methods if isinstance(block, Class) else []
        if isinstance(block, Function):
            functions.append(block)
    return {f"{block.classname or ''}.{block.name}": block.complexity for block in functions if block.complexity > most}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_functions_are_steps(path: Path) -> None:
    """Every function of the package, its scripts and its benchmarks branches at most fifteen times."""
    assert too_complex(path.read_text(encoding="utf-8")) == {}


def test_a_complex_function_is_found() -> None:
    """A function with too many branches is found wherever it stands, a simple one is not."""
    branches = "\n".join(f"        if x == {number}: return {number}" for number in range(5))
    source = f"class A:\n    def simple(self): pass\n    def complex(self, x):\n{branches}\n"

    assert too_complex(source, most=5) == {"A.complex": 6}
