"""How many small deliberate faults in the code do the quick tests notice?

    uv run python -m benchmarks.mutants                    # 8 faults in each module below, on two processes
    uv run python -m benchmarks.mutants --module firmware/decoder.py --count 50
    uv run python -m benchmarks.mutants --seed 3 --json OUT

Each fault (a "mutant") is one change to one module: `<` for `<=`, `+` for `-`, a constant that is one larger, `and` for
`or`, a condition turned round, a statement left out. It is written into a copy of the repository, and the quick tests
that stand beside the module are run there. A mutant that fails a test is killed; one that passes them all survives
and is printed with its line. The last line is the share that was killed.

The peer is the perfect suite, which kills every mutant that is not equivalent to the original. Equivalent ones are
listed in EQUIVALENT with the reason, and are not counted.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from common.cli import guarded

ROOT = Path(__file__).resolve().parent.parent

TESTS: dict[str, str] = {
    "firmware/decoder.py": "test_decoder*.py",
    "firmware/tracker.py": "test_tracker.py",
    "firmware/link.py": "test_link_steps.py test_link.py",
    "firmware/target.py": "test_board_link.py test_board_pixels.py test_diff.py",
    "host_tools/isp_client.py": "test_isp.py",
    "host_tools/flashing.py": "test_flashing.py",
    "host_tools/repl.py": "test_board_vm.py test_flashing.py",
    "model_build/kpu/layout.py": "test_kpu_layout.py",
    "model_build/kpu/layout_search.py": "test_kpu_layout.py",
    "model_build/kpu/lower.py": "test_lower.py test_kpu_layout.py test_build.py",
    "model_build/importers/convolutions.py": "test_import_parts.py test_importers.py",
    "model_build/importers/grid.py": "test_import_parts.py test_importers.py",
    "model_build/importers/heads.py": "test_import_parts.py test_importers.py",
    "model_build/importers/tflite.py": "test_importers.py",
    "model_build/engines/kpu_float.py": "test_kpu_engine.py",
    "model_build/engines/kpu_layer.py": "test_kpu_engine.py",
    "model_build/engines/kpu_plan.py": "test_kpu_engine.py",
    "sim/k210/devices/plic.py": "test_k210_devices.py test_k210_soc.py",
    "sim/k210/devices/timer.py": "test_k210_devices.py test_k210_soc.py",
    "sim/k210/devices/dmac.py": "test_k210_devices.py test_k210_soc.py",
    "sim/k210/devices/kpu.py": "test_k210_devices.py test_k210_soc.py",
}
"""Module → the quick tests that stand beside it (name patterns, found anywhere under tests/)."""

EQUIVALENT: dict[tuple[str, str], str] = {
    ("sim/k210/devices/timer.py", "self.generation = 0: 0 -> 1"): "generations are only compared with each other",
    ("firmware/tracker.py", "track.data[i] = 0: 0 -> 1"): "a score of 1/32768 is below every threshold, as 0 is",
    ("firmware/tracker.py", "track.data[0] = 0: 0 -> 1"): "nothing reads the pose score of the frame before",
    ("model_build/importers/heads.py", 'for name, part in (("displacement_fwd", slice(0, half)), ("d: 2 -> 3'): (
        "a slice ends where the array does"
    ),
    (
        "sim/k210/devices/dmac.py",
        "if not self.status[channel] and self.enabled >> channel & 1:: not self.status[channel] and "
        "self.enabled >> channel & 1 -> not self.status[channel] or self.enabled >> channel & 1",
    ): "a poll that is taken for busy only skips time in which nothing happens",
}
"""(module, description: the line and its change) → why this change cannot be told from the original by any input."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: `source` is the whole mutated module."""

    module: str
    line: int
    description: str
    source: str


@dataclass(frozen=True)
class Result:
    module: str
    line: int
    description: str
    killed: bool
    by: str


def mutants_of(module: str) -> list[Mutant]:
    """Every single change to a module, in the order of its lines."""
    text = (ROOT / module).read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.splitlines()
    found = []
    types = {id(part) for node in ast.walk(tree) for part in _annotations(node)}
    for index, node in enumerate(ast.walk(tree)):
        for change in range(_changes(node) if id(node) not in types else 0):
            other = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(other)) if i == index)
            description = _apply(target, change)
            source = ast.unparse(ast.fix_missing_locations(other))
            line = getattr(node, "lineno", 0)
            found.append(Mutant(module, line, f"{lines[line - 1].strip()[:60]}: {description}", source))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.description))


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in the node's type hints: it does nothing when the program runs."""
    for name in ("annotation", "returns"):
        hint = getattr(node, name, None)
        if isinstance(hint, ast.AST):
            yield from ast.walk(hint)


def _changes(node: ast.AST) -> int:
    """How many changes there are for this node."""
    if isinstance(node, ast.Compare):
        return int(len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS)
    if isinstance(node, ast.BinOp | ast.AugAssign):
        # "%" on text is formatting, and "+" may join texts: what is printed is not under test here.
        words = any(isinstance(n, ast.Constant) and isinstance(n.value, str | bytes) for n in ast.walk(node))
        return int(type(node.op) in OPERATORS and not words)
    if isinstance(node, ast.Constant):
        return int(type(node.value) is int)
    if isinstance(node, ast.BoolOp | ast.Continue):
        return 1
    if isinstance(node, ast.If | ast.While):
        return int(not isinstance(node.test, ast.Constant))
    return 0


def _apply(node: ast.AST, change: int) -> str:
    """Change the node in place; what was done, for people."""
    before = ast.unparse(node).split("\n")[0][:70]
    if isinstance(node, ast.Compare):
        node.ops = [COMPARISONS[type(node.ops[0])]()]
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Constant):
        node.value = int(node.value) + 1  # type: ignore[arg-type]
        return f"{before} -> {node.value}"
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.If | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Continue):
        node.__class__ = ast.Pass  # type: ignore[assignment]
    return f"{before} -> {ast.unparse(node).split(chr(10))[0][:70]}"


def test_files(module: str) -> list[str]:
    """The quick tests of a module, as paths from the repository's root."""
    found = [path for pattern in TESTS[module].split() for path in sorted((ROOT / "tests").rglob(pattern))]
    return [str(path.relative_to(ROOT)) for path in found]


def run_tests(folder: Path, files: list[str], timeout_s: float) -> tuple[bool, str]:
    """Whether the tests fail in that copy, and which one did first. A run that does not end is a failure too."""
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "ci", "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-x", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return True, f"no end within {timeout_s:.0f} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode != 0, failed[0][:100] if failed else ""


def copies(count: int, folder: Path) -> list[Path]:
    """So many copies of the files that git knows, as they are in the working tree."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    made = []
    for index in range(count):
        place = folder / str(index)
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, place / name)
        made.append(place)
    return made


def judge(mutants: list[Mutant], processes: int, timeout_s: float) -> Iterator[Result]:
    """Run the tests against every mutant, and say so as each is done."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(processes) as pool:
        places = copies(processes, Path(folder))
        free = list(places)

        def one(mutant: Mutant) -> Result:
            place = free.pop()
            path = place / mutant.module
            original = path.read_text(encoding="utf-8")
            try:
                path.write_text(mutant.source, encoding="utf-8")
                killed, by = run_tests(place, test_files(mutant.module), timeout_s)
            finally:
                path.write_text(original, encoding="utf-8")
                free.append(place)
            return Result(mutant.module, mutant.line, mutant.description, killed, by)

        yield from pool.map(one, mutants)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--module", action="append", choices=sorted(TESTS), help="only this module (may be repeated)")
    parser.add_argument("--count", type=int, default=13, metavar="N", help="mutants of each module (default 13)")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn (default 0)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="test runs at the same time (default 2)")
    parser.add_argument("--timeout", type=float, default=180, metavar="S", help="a longer test run counts as killed")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every mutant and its fate there")
    args = parser.parse_args(arguments)
    chosen = []
    for module in args.module or [name for name in TESTS if (ROOT / name).is_file()]:
        every = [mutant for mutant in mutants_of(module) if (module, mutant.description) not in EQUIVALENT]
        some = random.Random(f"{args.seed} {module}").sample(every, min(args.count, len(every)))
        chosen += sorted(some, key=lambda mutant: mutant.line)
    results = []
    for result in judge(chosen, args.processes, args.timeout):
        results.append(result)
        if not result.killed:
            print(f"survived  {result.module}:{result.line}  {result.description}", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    print()
    for module in dict.fromkeys(result.module for result in results):
        of_module = [result for result in results if result.module == module]
        print(f"{sum(r.killed for r in of_module):4d} of {len(of_module):3d} killed  {module}")
    killed = sum(result.killed for result in results)
    print(f"{killed} of {len(results)} mutants killed: {killed / max(len(results), 1):.1%} (a perfect suite: 100 %)")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
