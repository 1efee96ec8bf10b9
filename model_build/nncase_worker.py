"""nncase in a process of its own: `python -m model_build.nncase_worker FOLDER`.

nncase prints to the process's stdout, drops files into the current folder and can end the process on graphs
that it does not like; here none of that reaches the program that asked. FOLDER holds model.tflite,
samples.npy (uint8 NHWC) and options.json; the worker adds model.kmodel, or error.txt.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main(folder: Path) -> int:
    """Compile FOLDER/model.tflite; 0 on success, 1 with error.txt."""
    import nncase

    os.chdir(folder)
    options = json.loads(Path("options.json").read_text())
    samples = np.load("samples.npy")
    count, height, width, channels = samples.shape

    compile_options = nncase.CompileOptions()
    compile_options.target = "k210"
    compile_options.quant_type = "uint8"
    compile_options.input_type = "uint8"
    compile_options.input_shape = [1, height, width, channels]
    compile_options.input_layout = "NHWC"
    compile_options.output_layout = "NCHW"
    compile_options.preprocess = True
    compile_options.input_range = [0, 255]
    compile_options.mean = [128] * channels
    compile_options.std = [128] * channels
    compile_options.use_mse_quant_w = options["mse_weights"]
    compiler = nncase.Compiler(compile_options)
    try:
        compiler.import_tflite(Path("model.tflite").read_bytes(), nncase.ImportOptions())
        ptq = nncase.PTQTensorOptions()
        ptq.calibrate_method = options["calibrate_method"]
        ptq.samples_count = count
        ptq.set_tensor_data(samples.tobytes())
        compiler.use_ptq(ptq)
        started = time.perf_counter()
        compiler.compile()
        data = compiler.gencode_tobytes()
    except Exception as error:
        Path("error.txt").write_text(str(error) or type(error).__name__)
        return 1
    Path("seconds.txt").write_text(str(time.perf_counter() - started))
    Path("model.kmodel").write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
