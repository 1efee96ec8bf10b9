"""Decodes many tensor sets in one interpreter: run by MicroPython in tests/firmware/test_decoder_interpreters.py.

run(case, data): case is the JSON of {"manifest", "options", "mode", "frames"}, data the frames' heads one after the
other. Prints one line of JSON: per frame the list of poses. One Decoder decodes all frames of a case.
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
