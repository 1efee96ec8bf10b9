"""Decodes many sets of tensors in one interpreter.

MicroPython runs this for tests/firmware/test_decoder_interpreters.py, after the text of firmware/decoder.py. In
run(case, data) the case is the JSON of {"manifest", "options", "mode", "frames"}, and data holds the frames' heads one
after the other. It prints one line of JSON with the list of poses of each frame. One Decoder decodes all frames of a
case.
"""

try:
    import ujson as json  # type: ignore[import-untyped]  # MicroPython's own
except ImportError:
    import json


def run(case, data):
    case = json.loads(case)
    manifest = case["manifest"]
    decoder = Decoder(manifest, **case["options"])  # type: ignore[name-defined]  # noqa: F821  (firmware/decoder.py stands before this)
    decode = getattr(decoder, case["mode"])
    cells = manifest["map"]["width"] * manifest["map"]["height"]
    view = memoryview(data)
    at = 0
    results = []
    for _ in range(case["frames"]):
        heads = []
        for head in manifest["heads"]:
            size = head["channels"] * cells
            heads.append(view[at : at + size])
            at += size
        results.append([list(pose) for pose in decode(heads)])
    print(json.dumps(results))
