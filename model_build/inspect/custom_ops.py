"""Explains the custom operators of PoseNet's files. Sources: google-coral/libcoral posenet_decoder_op.cc, and
the files themselves."""

from __future__ import annotations

from typing import Any

from common.errors import FormatError
from model_build.inspect import flexbuffer
from model_build.inspect.description import CustomOp, bytes_text

DECODER = "PosenetDecoderOp"
EDGETPU = "edgetpu-custom-op"

_KNOWN = {
    DECODER: (
        "Coral's pose decoder: turns heatmaps, short offsets and mid offsets into poses on the CPU. Not part of the "
        "neural network; interpreters without libcoral cannot run it. Here firmware/decoder.py does its work."
    ),
    EDGETPU: (
        "layers compiled for Google's Edge TPU: weights and instructions in a form that only that chip reads. The "
        "weights cannot be taken out; the .tflite file it was compiled from has them."
    ),
    "TFLite_Detection_PostProcess": "box decoding and non-maximum suppression of object detectors.",
}

_UNITS = {
    "max_detections": "poses at most",
    "score_threshold": "score (after the sigmoid)",
    "stride": "pixels a cell (output stride)",
    "nms_radius": "pixels of the input (non-maximum suppression)",
}


def describe(name: str, options: bytes) -> CustomOp:
    """A custom operator by its name and option bytes; damaged options are reported as such, not raised."""
    what = _KNOWN.get(name, "unknown to this program; its name is all that the file tells")
    if not options:
        return CustomOp(name, what, {})
    try:
        decoded = flexbuffer.read(options, f"options of {name}")
    except FormatError as error:
        return CustomOp(name, what, {"options": f"{bytes_text(len(options))}, not readable: {error}"})
    if name == EDGETPU:
        return CustomOp(name, what, _edgetpu(decoded, len(options)))
    if isinstance(decoded, dict):
        return CustomOp(name, what, {key: _with_unit(key, value) for key, value in sorted(decoded.items())})
    return CustomOp(name, what, {"options": _plain(decoded)})


def _with_unit(key: str, value: Any) -> Any:
    value = _plain(value)
    return f"{value} {_UNITS[key]}" if key in _UNITS else value


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, bytes):
        return bytes_text(len(value))
    if isinstance(value, list):
        return [_plain(item) for item in value[:64]]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _edgetpu(decoded: Any, size: int) -> dict[str, Any]:
    """The blob is a map with numbered keys; the longest value is a FlatBuffer with the identifier DWN1."""
    facts: dict[str, Any] = {"size": bytes_text(size)}
    values = decoded if isinstance(decoded, dict) else {}
    for value in values.values():
        if isinstance(value, bytes) and value[4:8] == b"DWN1":
            facts["executable"] = f"{bytes_text(len(value))}, FlatBuffer “DWN1” (Edge TPU package: code and weights)"
        elif isinstance(value, str) and value.isprintable() and value:
            facts["chip"] = f"{value}" + (" (Edge TPU)" if value == "beagle" else "")
    return facts
