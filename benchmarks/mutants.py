"""How many small deliberate faults in the code do the quick tests notice?

    uv run python -m benchmarks.mutants                    # 13 faults in each module below
    uv run python -m benchmarks.mutants --module firmware/decoder.py --count 50
    uv run python -m benchmarks.mutants --record FILE      # goes on where an earlier run with FILE was stopped
    uv run python -m benchmarks.mutants --record FILE --show

Each fault (a "mutant") is one change to one module: `<` for `<=`, `+` for `-`, a constant that is one larger, `and` for
`or`, a condition turned round, a `continue` left out. It is written into a copy of the repository, and the quick tests
that stand beside the module are run there, up to the first that fails. A mutant that fails a test is killed; one that
passes them all survives and is printed with its line. The last line is the share that was killed.

The peer is the perfect suite, which kills every mutant that is not equivalent to the original. Equivalent ones are
listed in EQUIVALENT with the reason, and are not counted.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import hashlib
import itertools
import json
import os
import py_compile
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from common.cli import guarded
from common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

_FLASHED = "test_flashing.py::test_only_what_changed_is_written"
TESTS: dict[str, str] = {
    "firmware/decoder.py": "test_decoder.py test_decoder_interpreters.py",
    "firmware/tracker.py": "test_tracker.py",
    "firmware/link.py": "test_link_steps.py test_link.py",
    "firmware/target.py": "test_target.py test_board_link.py test_diff.py",
    "host_tools/isp_client.py": "test_isp_steps.py test_isp.py",
    "host_tools/flashing.py": f"test_repl_steps.py {_FLASHED} test_flashing.py::test_blank_board_needs_a_firmware",
    "host_tools/repl.py": "test_repl_steps.py test_install_campaign.py "
    f"{_FLASHED} test_flashing.py::test_flash_crc_is_the_boards_own_reading",
    "model_build/kpu/layout.py": "test_kpu_layout.py test_lower.py",
    "model_build/kpu/layout_search.py": "test_kpu_layout.py test_lower.py",
    "model_build/kpu/lower.py": "test_lower.py test_channel_quantization.py test_kpu_layout.py",
    "model_build/importers/convolutions.py": "test_import_parts.py test_importers.py",
    "model_build/importers/graphdef.py": "test_import_readers.py test_importers.py",
    "model_build/importers/grid.py": "test_import_parts.py",
    "model_build/importers/heads.py": "test_import_parts.py",
    "model_build/importers/operators.py": "test_import_parts.py test_import_readers.py",
    "model_build/importers/tflite.py": "test_import_readers.py test_importers.py",
    "model_build/engines/kpu_float.py": "test_kpu_engine.py",
    "model_build/engines/kpu_layer.py": "test_kpu_engine.py",
    "model_build/engines/kpu_plan.py": "test_kpu_engine.py",
    "model_build/engines/staircase.py": "test_kpu_engine.py",
    "sim/k210/devices/plic.py": "test_k210_devices.py",
    "sim/k210/devices/timer.py": "test_k210_devices.py",
    "sim/k210/devices/dmac.py": "test_k210_devices.py test_k210_soc.py",
    "sim/k210/devices/kpu.py": "test_k210_devices.py test_k210_soc.py",
}
"""Module → the quick tests that stand beside it, those that fail soonest first (found anywhere under tests/). Of files
that take minutes, single tests: what only the others notice counts as survived."""

EQUIVALENT: dict[tuple[str, str], str] = {
    ("firmware/tracker.py", "_size: if [[x < left]]:: x < left -> x <= left"): "where both are equal nothing changes",
    ("firmware/tracker.py", "_size: if [[y < top]]:: y < top -> y <= top"): "where both are equal nothing changes",
    (
        "firmware/target.py",
        "Console.read: if [[not count and wait_ms]]:: not count and wait_ms -> not count or wait_ms",
    ): ("if bytes are there or no time is given, the loop inside does not run either"),
    (
        "model_build/importers/operators.py",
        "_dilate: return Dilate(int(block[[[0]]])) if block.size == 2 and block[0] == block[1] and 0 < block[0] < 64 "
        "else None: 0 -> 1",
    ): "both numbers of the block were compared and agree",
    (
        "model_build/importers/operators.py",
        "_dilate: return Dilate(int(block[0])) if block.size == 2 and block[0] == block[1] and 0 < block[[[0]]] < 64 "
        "else None: 0 -> 1",
    ): "both numbers of the block were compared and agree",
    ("sim/k210/devices/kpu.py", ": CALC_DONE, ALMOST_EMPTY, ALMOST_FULL = 1, 2, [[4]]: 4 -> 5"): (
        "it is asked for only together with 1 and 2, and 1 | 2 | 5 is 1 | 2 | 4"
    ),
    (
        "sim/k210/devices/timer.py",
        "Wdt._restart: self.generation += [[1]]: 1 -> 2",
    ): "generations are only compared with each other",
    (
        "sim/k210/devices/timer.py",
        "Timer.reset: self.generation = [[[0]]] * CHANNELS: 0 -> 1",
    ): "generations are only compared with each other",
    (
        "sim/k210/devices/timer.py",
        "Wdt.reset: self.generation = [[0]]: 0 -> 1",
    ): "generations are only compared with each other",
    (
        "firmware/tracker.py",
        '_Track.__init__: self.common = array("i", ([[0]], 0)): 0 -> 1',
    ): "set to 0 when the track gets its person",
    ("firmware/tracker.py", "_Track.__init__: self.seen = [[0]]: 0 -> 1"): "set to 0 when the track gets its person",
    (
        "firmware/tracker.py",
        "_size: if [[x > right]]:: x > right -> x >= right",
    ): "where both are equal nothing changes",
    ("firmware/tracker.py", "Tracker.update: track.lost = -[[1]]: 1 -> 2"): (
        "every negative number says that the track is not in use"
    ),
    (
        "firmware/tracker.py",
        "Tracker.update: track.data[i] = -[[1]]: 1 -> 2",
    ): "every negative score is below every threshold",
    ("firmware/tracker.py", '_Track.__init__: self.speed = array("i", [[[0]]] * (2 * keypoints)): 0 -> 1'): (
        "set to 0 in the track's first frame, in which nothing was found before"
    ),
    (
        "firmware/tracker.py",
        ": _FAR = const([[1]] << 30): 1 -> 2",
    ): "both are above every coordinate and every distance",
    ("firmware/decoder.py", ": _CARRIES = [[0x101010100]]: 4311810304 -> 4311810305"): (
        "bit 0 of the sum is never set: both numbers that are added are even"
    ),
    ("firmware/tracker.py", "Tracker.update: track.data[0] = [[0]]: 0 -> 1"): (
        "nothing reads the pose score of the frame before"
    ),
    (
        "model_build/kpu/layout_search.py",
        "Planner._slide: ordered = pieces if [[step < 0]] else pieces[::-1]: step < 0 -> step <= 0",
    ): "a step is never 0: a group of channels takes at least one line",
    ("model_build/engines/kpu_float.py", "fit_float32: rng = np.random.default_rng([[0]]): 0 -> 1"): (
        "whatever is drawn, a fit is used only where it is proven, and gives the same bytes as the one by hand"
    ),
    (
        "model_build/engines/kpu_float.py",
        "fit_float32: origin = origin + rng.integers(-200, [[201]], len(todo)): 201 -> 202",
    ): "as for the seed: what is drawn changes no byte",
    (
        "model_build/engines/kpu_float.py",
        "fit_float32: origin = origin + rng.integers(-[[200]], 201, len(todo)): 200 -> 201",
    ): "as for the seed: what is drawn changes no byte",
    (
        "model_build/engines/kpu_float.py",
        "FloatLayer._graph: padding = tflite.SAME if [[prepared.taps == 9]] and prepared.stride == 1 else "
        "tflite.VALID: prepared.taps == 9 -> prepared.taps != 9",
    ): "a 1x1 kernel has nothing to pad, and a 3x3 one without SAME is padded by an operator of its own",
    (
        "model_build/engines/kpu_layer.py",
        "PreparedLayer._activate: rows = max([[1]], _CACHE_ELEMENTS // g.shape[1]): 1 -> 2",
    ): "each channel has a line of its own: how many are followed at once changes no byte",
    (
        "model_build/engines/kpu_layer.py",
        "PreparedLayer._run_per_channel: block = max(1, [[_BLOCK_FLOATS // (self.rows * pitch)]]): "
        "_BLOCK_FLOATS // (self.rows * pitch) -> _BLOCK_FLOATS * (self.rows * pitch)",
    ): "each channel is computed by itself: how many at a time changes no byte",
    (
        "model_build/engines/kpu_float.py",
        "_kernels: return prepared.kernels.T.reshape(1, side, side, -[[1]]): 1 -> 2",
    ): ("NumPy takes any negative side for the one that is to be found"),
    (
        "model_build/kpu/lower.py",
        "lower_layer: stored = ([[quantized.weights + WEIGHT_ZERO_POINT]]).astype(np.uint8): "
        "quantized.weights + WEIGHT_ZERO_POINT -> quantized.weights - WEIGHT_ZERO_POINT",
    ): "as a byte w + 128 and w - 128 are the same",
    (
        "sim/k210/devices/timer.py",
        "Timer.write: self.generation[channel] += [[1]]: 1 -> 2",
    ): "generations are only compared with each other",
    (
        "sim/k210/devices/plic.py",
        "Plic.write: elif register == 4 and [[value < SOURCES]]:: value < SOURCES -> value <= SOURCES",
    ): ("there is no source of that number, so it is not in service"),
    (
        "host_tools/repl.py",
        "RawRepl.ask: self._serial += [[1]]: 1 -> 2",
    ): "each question has a number of its own all the same",
    ("host_tools/repl.py", "RawRepl.ask: [[self._serial += 1]]: self._serial += 1 -> self._serial -= 1"): (
        "each question has a number of its own all the same"
    ),
    (
        "model_build/importers/convolutions.py",
        "picture_tensor: if start != graph.inputs[0] and not (abs(offset + 1) < 0.02 and "
        "[[abs(scale * 255 - 2) < 0.04]]):: abs(scale * 255 - 2) < 0.04 -> abs(scale * 255 - 2) <= 0.04",
    ): "a float64 near 2, less 2, is a multiple of 2^-52, which 0.04 as a float64 is not",
    (
        "model_build/engines/staircase.py",
        "activate: rounded = whole + np.where(carry & ([[shift > 0]]), np.where(product < 0, -1, 1), 0): "
        "shift > 0 -> shift >= 0",
    ): "without a shift there is no fraction, and nothing is carried",
    ("model_build/importers/convolutions.py", "_alone: dilation=made.dilation[[[0]]],: 0 -> 1"): (
        "both sides of the dilation were compared and agree"
    ),
    (
        "model_build/importers/grid.py",
        "shift_to_symmetric: sides = [size[1], size[0]] if size else [0, [[0]]]: 0 -> 1",
    ): "a side of 1 stays 1 and is padded by 1 at each layer, as an unknown one is",
    ("model_build/importers/heads.py", '_role: own = name.split(";", [[1]])[0]: 1 -> 2'): (
        "the first part is the same however often the name is cut"
    ),
    (
        "model_build/importers/heads.py",
        '_split_mid_offset: for name, part in (("displacement_fwd", slice(0, half)), '
        '("displacement_bwd", slice(half, [[2]] * half))):: 2 -> 3',
    ): "a slice ends where the array does",
    (
        "model_build/importers/operators.py",
        "_dilate: block = constants[0]().reshape(-1) if constants else np.zeros([[0]]): 0 -> 1",
    ): ("one number is no block either: two are wanted"),
    (
        "model_build/importers/tflite.py",
        '_activation_of_range: return "relu6" if [[abs(float(tensor.quantization.scales[0]) * 255 - 6) < 0.06]]'
        ' else "relu": abs(float(tensor.quantization.scales[0]) * 255 - 6) < 0.06 -> '
        "abs(float(tensor.quantization.scales[0]) * 255 - 6) <= 0.06",
    ): "a float32 near 6/255, times 255, less 6, is a multiple of 2^-29, which 0.06 as a float64 is not",
}
"""(module, the function, the line with the change marked, and the change) → why no input tells it from the original."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change to the node that comes at position `place` when the module's tree is walked."""

    module: str
    line: int
    description: str
    text: str
    place: int

    @cached_property
    def source(self) -> str:
        """The whole mutated module."""
        tree = ast.parse(self.text)
        _apply(next(itertools.islice(ast.walk(tree), self.place, None)))
        return ast.unparse(ast.fix_missing_locations(tree))

    @cached_property
    def digest(self) -> str:
        """A name that tells mutants apart; a mutant of a module that has changed since gets another one."""
        return hashlib.sha256(f"{self.module}\n{self.source}".encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Outcome:
    """One run of tests: `by` names the first test that failed, and the seconds are those of the processor."""

    passed: bool
    by: str
    seconds: float


@dataclass(frozen=True)
class Result:
    module: str
    line: int
    description: str
    digest: str
    killed: bool
    by: str


def mutants_of(module: str, seed: int) -> Iterator[Mutant]:
    """Every single change to a module, in an order that the seed gives."""
    text = (ROOT / module).read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.splitlines()
    scopes = _scopes(tree)
    types = {id(part) for node in ast.walk(tree) for part in _annotations(node)}
    nodes = list(ast.walk(tree))
    places = [i for i, node in enumerate(nodes) if id(node) not in types and _can_change(node)]
    random.Random(f"{seed} {module}").shuffle(places)
    for place in places:
        node = copy.deepcopy(nodes[place])
        line = getattr(node, "lineno", 0)
        where = f"{scopes.get(line, '')}: {_marked(lines, node)}"
        yield Mutant(module, line, f"{where}: {_apply(node)}", text, place)


def check_equivalent(module: str) -> None:
    """Each entry of EQUIVALENT must mark exactly one change that the module has today."""
    changes = Counter(mutant.description for mutant in mutants_of(module, 0))
    for other, description in EQUIVALENT:
        if other == module and changes[description] != 1:
            raise UserError(f"EQUIVALENT: {changes[description]} changes to {module} read '{description}'")


def _scopes(tree: ast.AST, within: str = "") -> dict[int, str]:
    """Line -> the function or class in which it stands, with those around it ("Tracker.update")."""
    found: dict[int, str] = {}
    for node in ast.iter_child_nodes(tree):
        name = within
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            name = f"{within}.{node.name}".lstrip(".")
            found.update(dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), name))
        found.update(_scopes(node, name))
    return found


def _marked(lines: list[str], node: ast.AST) -> str:
    """The line with [[ ]] around what is changed, so that no other change to the line reads the same."""
    part = node.test if isinstance(node, ast.If | ast.While) else node
    assert isinstance(part, ast.expr | ast.stmt)
    line = lines[part.lineno - 1].encode()
    end = part.end_col_offset if part.end_lineno == part.lineno else len(line)
    assert end is not None
    pieces = line[: part.col_offset], b"[[", line[part.col_offset : end], b"]]", line[end:]
    return b"".join(pieces).decode().split("  # ")[0].strip()


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that stand in type hints, which do nothing when the program runs."""
    for name in ("annotation", "returns"):
        hint = getattr(node, name, None)
        if isinstance(hint, ast.AST):
            yield from ast.walk(hint)


def _can_change(node: ast.AST) -> bool:
    """Whether there is a change for this node."""
    if isinstance(node, ast.Compare):
        return len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS
    if isinstance(node, ast.BinOp | ast.AugAssign):
        # "%" on text is formatting, and "+" may join texts: what is printed is not under test here. "| None" is a type.
        words = any(isinstance(n, ast.Constant) and isinstance(n.value, str | bytes | None) for n in ast.walk(node))
        return type(node.op) in OPERATORS and not words
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    if isinstance(node, ast.If | ast.While):
        return not isinstance(node.test, ast.Constant)
    return isinstance(node, ast.BoolOp | ast.Continue)


def _apply(node: ast.AST) -> str:
    """Change the node in place and return what was done, in words for people."""
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
    """The quick tests of a module, as pytest wants them, from the repository's root."""
    found = []
    for wanted in TESTS[module].split():
        pattern, colons, name = wanted.partition("::")
        paths = sorted((ROOT / "tests").rglob(pattern))
        found += [f"{path.relative_to(ROOT)}{colons}{name}" for path in paths]
    return found


class Runner:
    """A copy of the files that git knows, as they are in the working tree, and a warm process that runs tests there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\n")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        # Python could take a mutant for the file that it replaces, if both have the same time and size.
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(str(folder), quiet=2, invalidation_mode=mode)
        environment = {**os.environ, "HYPOTHESIS_PROFILE": "verdict", "PYTHONDONTWRITEBYTECODE": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.warm_tests"], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, tests: list[str], limit_s: int) -> Outcome:
        """Run quick tests (files or node ids) up to the first failure, with a limit of processor seconds."""
        output = self.folder / "pytest-output.txt"
        options = ["-x", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider", "--assert=plain", "--tb=no"]
        job = {"arguments": [*options, *tests], "limit_s": limit_s, "output": str(output)}
        assert self.server.stdin and self.server.stdout
        print(json.dumps(job), file=self.server.stdin, flush=True)
        answer = json.loads(self.server.stdout.readline())
        if answer["code"] in (4, 5):
            raise UserError(f"pytest could not begin: {output.read_text(encoding='utf-8', errors='replace')[-300:]}")
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        failed = [line.split(" ", 1)[1].split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]
        by = failed[0] if failed else "" if answer["code"] == 0 else f"ended with {answer['code']}"
        if answer["code"] < 0:
            by = f"no end within {limit_s} s of the processor"
        return Outcome(answer["code"] == 0, by, answer["seconds"])

    def close(self) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait()


def stands(test: str) -> bool:
    """Whether a test that an earlier run named still exists; pytest refuses to run with a name that does not."""
    file, _, name = test.partition("::")
    path = ROOT / file
    return path.is_file() and f"def {name.split('[')[0].split('::')[-1]}(" in path.read_text(encoding="utf-8")


def limits_of(runner: Runner, module: str) -> int:
    """Seconds that a mutant's tests may take. First they must pass on the module itself, printed as a mutant is."""
    path = runner.folder / module
    path.write_text(ast.unparse(ast.parse((ROOT / module).read_text(encoding="utf-8"))) + "\n", encoding="utf-8")
    outcome = runner.run(test_files(module), 600)
    if not outcome.passed:
        raise UserError(f"the quick tests of {module} fail without any fault in it; mend that first: {outcome.by}")
    return int(3 * outcome.seconds + 20)


def judge(mutants: list[Mutant], killers: list[str]) -> Iterator[Result]:
    """Run one module's tests against its mutants and report each when it is done.

    Tests that killed others run first.
    """
    module = mutants[0].module
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        runner = Runner(Path(folder))
        try:
            limit_s = limits_of(runner, module)
            for mutant in mutants:
                (runner.folder / module).write_text(mutant.source + "\n", encoding="utf-8")
                first = [name for name, _ in Counter(killers).most_common(6)]
                outcome = runner.run([*first, *test_files(module)], limit_s)
                if "::" in outcome.by:
                    killers.append(outcome.by)
                yield Result(module, mutant.line, mutant.description, mutant.digest, not outcome.passed, outcome.by)
        finally:
            runner.close()


def read_record(path: Path | None) -> dict[str, Result]:
    """What an earlier run found, by mutant; of two lines for one mutant the later counts."""
    if path is None or not path.exists():
        return {}
    found = [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {result.digest: result for result in found}


def table(chosen: list[Mutant], results: dict[str, Result], equivalent: dict[str, int]) -> list[str]:
    """The summary as lines of a Markdown table, one row for each module."""
    lines = ["| module | mutants | killed | survived | equivalent, not counted |", "|---|---|---|---|---|"]
    total = [0, 0, 0, 0]
    for module in dict.fromkeys(mutant.module for mutant in chosen):
        run = [results[mutant.digest] for mutant in chosen if mutant.module == module and mutant.digest in results]
        killed = sum(result.killed for result in run)
        row = [len(run), killed, len(run) - killed, equivalent[module]]
        total = [a + b for a, b in zip(total, row, strict=True)]
        lines.append(f"| {module} | " + " | ".join(map(str, row)) + " |")
    lines.append("| **all** | " + " | ".join(map(str, total)) + " |")
    share = total[1] / max(total[0], 1)
    return [*lines, "", f"{total[1]} of {total[0]} mutants killed: {share:.1%} (a perfect suite: 100 %)"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--module", action="append", choices=sorted(TESTS), help="only this module (may be repeated)")
    parser.add_argument("--count", type=int, default=13, metavar="N", help="mutants of each module (default 13)")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn (default 0)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="note each mutant there; those that it says "
                        "were killed are not run again as long as their module is the same")  # fmt: skip
    parser.add_argument("--show", action="store_true", help="only print what --record FILE holds")
    args = parser.parse_args(arguments)
    results = read_record(args.record)
    chosen: list[Mutant] = []
    equivalent = {}
    for module in args.module or TESTS:
        check_equivalent(module)
        # A larger count only adds mutants to those of a smaller one.
        drawn: list[Mutant] = []
        equivalent[module] = 0
        for mutant in mutants_of(module, args.seed):
            if (module, mutant.description) in EQUIVALENT:
                equivalent[module] += 1
            else:
                drawn.append(mutant)
            if len(drawn) == args.count:
                break
        chosen += drawn
        waiting = [mutant for mutant in drawn if mutant.digest not in results or not results[mutant.digest].killed]
        killers = [r.by for r in results.values() if r.module == module and "::" in r.by and stands(r.by)]
        for result in judge(waiting, killers) if waiting and not args.show else ():
            results[result.digest] = result
            if args.record:
                with args.record.open("a", encoding="utf-8") as record:
                    print(json.dumps(asdict(result)), file=record)
    for mutant in chosen:
        if mutant.digest in results and not results[mutant.digest].killed:
            print(f"survived  {mutant.module}:{mutant.line}  {mutant.description}")
    print("\n".join(["", *table(chosen, results, equivalent)]))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
