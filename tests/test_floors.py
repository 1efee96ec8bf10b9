"""Imports lead to the same floor of the house or to a lower one, and never in a circle (docs/architecture.md)."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("floors")  # One process reads all files for all.

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("common", "model_build", "sim", "host_tools", "flash", "benchmarks", "tests")
PRODUCT = FLOORS[: FLOORS.index("benchmarks")]
LATE = {
    "host_tools/board_session.py",  # Unicorn
    "model_build/commands/train_demo.py",  # TensorFlow
    "sim/open_board.py",  # Unicorn
}
"""Files that import modules of the house inside functions, and the heavy thing that most commands do without."""


def sources(floors: tuple[str, ...]) -> list[Path]:
    """All modules on these floors, without the stand-ins for MaixPy's modules, which only MicroPython imports."""
    paths = [ROOT / "flash.py", *(path for floor in floors for path in (ROOT / floor).rglob("*.py"))]
    return [path for path in paths if not path.is_relative_to(ROOT / "sim" / "boards" / "modules")]


def module_name(source: Path) -> str:
    return ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(node: ast.AST, place: str = "module") -> Iterator[tuple[str, str]]:
    """Pairs of (full name, place) of everything that is imported. The place is "module", "function" or "types".

    "types" means that only the type checker executes the import.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, place) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from ((f"{child.module}.{alias.name}", place) for alias in child.names)
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from imports(child, "types")
        else:
            yield from imports(child, "function" if isinstance(child, ast.FunctionDef) else place)


@functools.cache
def imports_of(source: Path) -> list[tuple[str, str]]:
    return list(imports(ast.parse(source.read_text(encoding="utf-8"))))


def floor_of(name: str) -> int:
    """The number of the floor that a name belongs to, or -1 if it is not a name of this house."""
    first = name.split(".")[0]
    return FLOORS.index(first) if first in FLOORS else -1


def test_no_import_leads_upwards():
    """Who changes a lower floor must not need to know the floors above it."""
    everything = sources(FLOORS)
    assert len(everything) > 100
    for source in everything:
        above = {name for name, _ in imports_of(source) if floor_of(name) > floor_of(module_name(source))}
        assert not above, f"{source} imports upwards: {above}"


def test_no_import_leads_in_a_circle():
    """Modules that need each other cannot be understood one by one. Imports inside functions count as well."""
    modules = {module_name(source): source for source in sources(PRODUCT)}
    graph = {}
    for module, source in modules.items():
        names = [name for name, place in imports_of(source) if place != "types"]
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in names} & set(modules)
    list(TopologicalSorter(graph).static_order())  # CycleError names the modules


def test_imports_inside_functions_load_something_heavy():
    """An import inside a function hides a dependency.

    Only the files in LATE may do so, each for the reason beside it.
    """
    late = {
        source.relative_to(ROOT).as_posix()
        for source in sources(PRODUCT)
        if any(place == "function" and floor_of(name) >= 0 for name, place in imports_of(source))
    }
    assert late == LATE
