"""From an engine's tensors to poses: the board's own decoder on bytes, the float reference on real values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from common.arrays import Numbers
from common.decoder_options import DecoderOptions
from common.firmware_modules import firmware_module
from common.pose import Pose
from model_build.manifest import Manifest
from model_build.network import HEADS
from model_build.reference_decoder import ReferenceDecoder

Decode = Callable[[Mapping[str, Numbers]], list[Pose]]


def make_decoder(manifest: Manifest, options: DecoderOptions, float_heads: bool = False) -> Decode:
    """A function from heads (name → CHW array) to poses, best first.

    Uint8 heads go through firmware/decoder.py, as on the board; float heads (engine tflite, real values, heatmap as
    logits) through the floating-point reference.
    """
    return _float_decoder(manifest, options) if float_heads else _integer_decoder(manifest, options)


def _integer_decoder(manifest: Manifest, options: DecoderOptions) -> Decode:
    decoder = firmware_module("decoder").Decoder(manifest.to_dict(), **options.for_board())
    run = decoder.single if options.single else decoder.multi

    def decode(heads: Mapping[str, Numbers]) -> list[Pose]:
        buffers = [np.ascontiguousarray(heads[name], dtype=np.uint8).reshape(-1).data for name in HEADS]
        return [Pose.from_integers(raw) for raw in run(buffers)]

    return decode


def _float_decoder(manifest: Manifest, options: DecoderOptions) -> Decode:
    reference = ReferenceDecoder(
        manifest.output_stride, manifest.edges, **options.for_reference(), widening=manifest.widening
    )

    def decode(heads: Mapping[str, Numbers]) -> list[Pose]:
        tensors = [np.asarray(heads[name], dtype=np.float64) for name in HEADS]
        return reference.single(*tensors[:2]) if options.single else reference.multi(*tensors)

    return decode
