"""The house has one way down: an import may only lead to the same floor or to one below it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("common", "model_build", "sim", "host_tools", "flash", "benchmarks", "tests")


def imports_of(source: Path) -> set[str]:
    """First names of everything that a file imports, inside functions as well."""
    nodes = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_no_import_leads_upwards():
    sources = [ROOT / "flash.py", *(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))]
    assert len(sources) > 100
    for source in sources:
        floor = FLOORS.index(source.relative_to(ROOT).parts[0].removesuffix(".py"))
        above = imports_of(source) & set(FLOORS[floor + 1 :])
        assert not above, f"{source} imports upwards: {above}"
