"""Opens interpreters of the official small TFLite runtime, ai-edge-litert."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


def available() -> bool:
    """Whether the runtime is installed; it has no wheels for macOS on Intel."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError:
        return False
    return True


def open_interpreter(model: bytes, threads: int, input_shape: tuple[int, ...] | None = None) -> Any:
    """An interpreter of a TFLite file; its one input gets another shape if one is given.

    ImportError without the runtime, ValueError or RuntimeError if the file is not TFLite.
    """
    from ai_edge_litert.interpreter import Interpreter

    with _quiet():
        interpreter = Interpreter(model_content=model, num_threads=threads)
        if input_shape is not None:
            (given,) = interpreter.get_input_details()
            interpreter.resize_tensor_input(given["index"], input_shape)
        interpreter.allocate_tensors()
    return interpreter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress a line about acceleration that the runtime writes directly to stderr and that no option switches off."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        # This process has no stderr, so there is nothing to silence.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
