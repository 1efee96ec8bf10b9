"""The folder that a build writes and that boards, simulators and tools read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from model_build import fingerprint
from model_build import manifest as manifest_file
from model_build.manifest import Manifest


@dataclass(frozen=True)
class BuildFolder:
    """Paths inside a build folder; nothing is read until it is needed."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def kmodel(self) -> Path:
        """kmodel V3: what the board runs."""
        return self.path / "posenet.kmodel"

    @property
    def tflite(self) -> Path:
        """Float TFLite at the size of the kmodel: the reference."""
        return self.path / "posenet.tflite"

    @property
    def manifest(self) -> Path:
        return self.path / manifest_file.FILE_NAME

    @property
    def report_json(self) -> Path:
        return self.path / "report.json"

    @property
    def report_txt(self) -> Path:
        return self.path / "report.txt"

    def settle(self) -> None:
        """Finish or undo a replacement that was interrupted: the new folder gets the name if it is complete,
        otherwise the old one."""
        for left in (self.replacement, self.replaced):
            # Another process may be doing the same at this moment.
            if not self.path.exists():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(left, self.path)

    @property
    def replacement(self) -> Path:
        """The new folder lies here, complete, while it takes this one's place."""
        return self.path.parent / f".{self.path.name}.new"

    @property
    def replaced(self) -> Path:
        """This folder lies here while the new one takes its place."""
        return self.path.parent / f".{self.path.name}.old"

    def write(self, files: Mapping[str, bytes]) -> None:
        """Replace the whole folder: afterwards it is complete, or unchanged, even if the process is killed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.settle()
        leftovers = self.replacement, self.replaced
        for left in leftovers:
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        try:
            os.chmod(temporary, 0o755)
            for name, data in files.items():
                (temporary / name).write_bytes(data)
            os.rename(temporary, self.replacement)
            if self.path.exists():
                os.rename(self.path, self.replaced)
        finally:
            self.settle()
            for left in (temporary, *leftovers):
                shutil.rmtree(left, ignore_errors=True)

    def is_complete(self) -> bool:
        """Whether the folder holds a build; builds are written completely or not at all."""
        self.settle()
        return all(file.is_file() for file in (self.kmodel, self.tflite, self.manifest))

    def is_current(self) -> bool:
        """Whether today's sources made it; builds of early versions do not say which sources made them."""
        try:
            report = json.loads(self.report_json.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(report, dict) and report.get("sources_sha256") == fingerprint.of_sources()

    def load_manifest(self) -> Manifest:
        """posenet.json of this folder; UserError if there is no build here."""
        self.settle()
        if not self.manifest.is_file():
            raise UserError(
                f"{self.path} holds no build (no posenet.json); make one: "
                f"`python -m model_build build NAME --size WxH --out {self.path.resolve()}`"
            )
        return manifest_file.load(self.manifest)


def default_folder(name: str, width: int, height: int, root: Path = Path("build"), mount: int = 0) -> BuildFolder:
    """build/<name>-<W>x<H>/, with the mount at the end unless it is 0."""
    return BuildFolder(root / f"{name}-{width}x{height}{f'-mount{mount}' if mount else ''}")
