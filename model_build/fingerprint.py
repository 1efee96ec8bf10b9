"""The sources that a build came from: if they change, the same weights may give another kmodel."""

from __future__ import annotations

import hashlib
from pathlib import Path

from common.text import ROOT

SOURCES = (
    "model_build/build.py",
    "model_build/calibration.py",
    "model_build/catalog.py",
    "model_build/channel_quantization.py",
    "model_build/constant_channels.py",
    "model_build/float_forward.py",
    "model_build/gptq.py",
    "model_build/importers/*.py",
    "model_build/kpu/*.py",
    "model_build/manifest.py",
    "model_build/network.py",
    "model_build/padding.py",
    "model_build/quality.py",
    "model_build/rotation.py",
    "model_build/tflite_graph.py",
    "model_build/tflite_writer.py",
    "model_build/twin.py",
    "model_build/train/*_weights.npz",
    "model_build/train/weights_file.py",
    "common/flash_map.py",
    "common/pictures.py",
    "model_build/scene.py",
    "model_build/scene_figure.py",
    "model_build/scene_raster.py",
    "model_build/scene_skeleton.py",
)
"""The sources that decide the bytes of posenet.kmodel and posenet.json, with the weights that come with the repository.
quality.py is among them because it chooses how weights are rounded."""


def of_sources(root: Path = ROOT) -> str:
    """SHA-256 over names and contents of the sources; the same for both kinds of line endings."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in root.glob(pattern)}):
        data = path.read_bytes()
        if path.suffix == ".py":
            data = data.replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()
