"""What a build says about the sources that made it: all that decide its bytes, and nothing about the checkout."""

import ast
import shutil
from pathlib import Path

from common.text import ROOT
from model_build import catalog, fingerprint

BESIDE = {
    "model_build/build_folder.py", "model_build/build_report.py", "model_build/fingerprint.py",
    "model_build/quality.py", "model_build/engines/kpu.py",
}  # fmt: skip
"""The build imports these files, but they only make the report."""


def sources(root: Path = ROOT) -> set[str]:
    return {path.relative_to(root).as_posix() for pattern in fingerprint.SOURCES for path in root.glob(pattern)}


def imported(file: str) -> set[str]:
    """The files of this repository's model_build and sim that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = [name.replace(".", "/") for name in names if name.split(".")[0] in ("model_build", "sim")]
    return {f"{path}.py" for path in paths if (ROOT / f"{path}.py").is_file()}


def test_every_source_that_the_build_imports_counts() -> None:
    """If a new module of the build were forgotten, changes to it would not reach the boards."""
    found, todo = set(), {"model_build/build.py"}
    while todo:
        found |= todo
        todo = {file for known in todo for file in imported(known)} - found - BESIDE
    assert found <= sources()


def test_the_weights_of_the_repository_count() -> None:
    """Once they did not count, so that a build with old weights of people-k210 was taken for today's."""
    ours = {entry.path.relative_to(ROOT).as_posix() for entry in catalog.NETWORKS if entry.path is not None}
    assert len(ours) == 2 and ours <= sources()


def test_the_fingerprint_is_the_same_in_every_checkout(tmp_path: Path) -> None:
    """Line endings and the folder's name do not count, whereas a changed line and a renamed file do."""
    for file in sources():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    here = fingerprint.of_sources()
    quantization = tmp_path / "model_build" / "channel_quantization.py"
    text = quantization.read_bytes()
    quantization.write_bytes(text.replace(b"\n", b"\r\n"))
    assert fingerprint.of_sources(tmp_path) == here
    quantization.write_bytes(text + b"#")
    assert fingerprint.of_sources(tmp_path) != here
    quantization.write_bytes(text)
    (tmp_path / "model_build" / "kpu" / "ram.py").rename(tmp_path / "model_build" / "kpu" / "rom.py")
    assert fingerprint.of_sources(tmp_path) != here
