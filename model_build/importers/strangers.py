"""Files that people mistake for readable weights are refused, with what they are and what to use instead."""

from __future__ import annotations

import re

from common.errors import FormatError

HEAD_BYTES = 512
"""This many bytes of a file are enough to tell its form."""

_TEXT_GRAPH = re.compile(rb"\s*(#[^\n]*\n\s*)*(node|versions|library|meta_info_def|graph_def)\s*:?\s*\{")
_FREEZE = (
    "freeze the graph with its checkpoint (`python -m tensorflow.python.tools.freeze_graph --input_meta_graph X.meta "
    "--input_checkpoint X --output_node_names NAMES --output_graph frozen.pb`) and give frozen.pb"
)


def refuse(name: str, head: bytes) -> None:
    """FormatError that names the file's form, if its name or first bytes tell that it holds no readable weights."""
    what = _by_content(head) or _by_name(name.lower(), head)
    if what is not None:
        raise FormatError(f"{name} is {what}")


def _by_content(head: bytes) -> str | None:
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"\nsize (\d{1,15})\n", head)
        of = f" of {int(size[1]):,} bytes" if size else ""
        return f"a Git LFS pointer, not the file{of} itself: run `git lfs pull` in its repository, or download it raw"
    if head[:4] == b"\x13\x27\0\0":
        return (
            "an smodel, a kmodel encrypted for one board: only that board can read it, and nothing can be taken out; "
            "ask its maker for the .kmodel or the .tflite"
        )
    if re.match(rb"\s*(<!doctype html|<html)", head, re.I):
        return "a web page: download the file itself (on GitHub: the button Raw)"
    if _TEXT_GRAPH.match(head):
        return f"a TensorFlow graph as text, which holds no weights: {_FREEZE}"
    if head[:4] == b"\x1f\x8b\x08\0" or head[:4] == b"\x1f\x8b\x08\x08":
        return "a gzip archive: unpack it and give what is inside"
    return None


def _by_name(name: str, head: bytes) -> str | None:
    if name.endswith((".meta", ".index")) or re.search(r"\.ckpt($|\.)|\.data-\d+-of-\d+$", name):
        return f"a part of a TensorFlow checkpoint, of which no part alone is a network: {_FREEZE}"
    if name == "saved_model.pb":
        return "a part of a SavedModel: give the folder that it lies in"
    if name.endswith(".onnx"):
        return "an ONNX network, which is not read here: convert it to TFLite (for example with onnx2tf)"
    if name.endswith((".pt", ".pth", ".torchscript")):
        return "a PyTorch file, which is not read here: export it to TFLite (for example with ai-edge-torch)"
    if name.endswith(".zip") and head[:2] == b"PK":
        return "a zip archive: unpack it and give what is inside"
    return None
