"""kmodel files V3 and V5: round trips, strictness, damage, and real files from elsewhere."""

from __future__ import annotations

import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.straight_kmodel import from_program
from common.errors import FormatError, UserError
from model_build.engines.kpu import KpuEngine
from model_build.inspect import read_file
from model_build.kpu import kmodel_v3, kmodel_v5, registers
from tests.support import kpu_networks

_FIELDS = {name: width for register in registers._REGISTERS for name, _, width in register}


@pytest.fixture(scope="module")
def v5() -> bytes:
    return kpu_networks.nncase_v5(24, 24, widths=(3, 4, 4), strides=(1, 1))


@pytest.fixture(scope="module")
def v3(v5) -> bytes:
    return kmodel_v3.write(from_program(kmodel_v5.read(v5)))


def _values(width: int) -> st.SearchStrategy[int]:
    """All values of a field; negative widths are signed."""
    return st.integers(-(1 << (-width - 1)), (1 << (-width - 1)) - 1) if width < 0 else st.integers(0, (1 << width) - 1)


@given(st.fixed_dictionaries({name: _values(width) for name, width in _FIELDS.items()}))
def test_registers_round_trip(values):
    """Every field at any value comes back from its bits, so no two fields share a bit."""
    made = registers.LayerRegisters(**values)
    assert registers.unpack(registers.pack(made)) == made


def test_registers_have_the_sdks_bit_positions():
    """The positions of the SDK's kpu.h are written out, because a mirrored mistake would survive a round trip."""
    words = struct.unpack("<12Q", registers.pack(registers.LayerRegisters(
        depth_wise_layer=1, image_src_addr=5, image_dst_addr=7, i_ch_num=2, o_ch_num=23, o_ch_num_coef=11,
        i_row_wid=319, i_col_high=239, o_row_wid=159, o_col_high=119, kernel_type=1, pool_type=5, load_para=1,
        dma_burst_size=15, pad_value=128, load_coor=1, load_time=3, para_size=648, channel_switch_addr=1200,
        row_switch_addr=5, coef_group=1, load_act=1, wb_channel_switch_addr=360, wb_row_switch_addr=3, wb_group=1,
        arg_w=-128, arg_x=-1, arg_add=-2, send_data_out=1, channel_byte_num=19199, dma_total_byte=460799,
    )))  # fmt: skip
    assert words == (
        1 << 3,
        5 | 7 << 32,
        2 | 23 << 32 | 11 << 48,
        319 | 239 << 10 | 159 << 32 | 119 << 42,
        1 | 5 << 4 | 1 << 10 | 15 << 16 | 128 << 24,
        1 | 3 << 1 | 648 << 15,
        0,
        1200 | 5 << 16 | 1 << 28 | 1 << 31,
        360 | 3 << 16 | 1 << 20,
        (0xFFFFFF80 & 0xFFFFFF) << 8 | 0xFFFFFF << 32,
        0xFFFFFFFFFE,
        1 | 19199 << 16 | 460799 << 32,
    )


def test_register_overflow_is_refused():
    """A value that does not fit must not spill into its neighbour."""
    with pytest.raises(FormatError, match="i_row_wid = 1024"):
        registers.pack(registers.LayerRegisters(i_row_wid=1024))


def test_v3_round_trip_and_alignment(v3):
    """Reading and writing must give the same bytes, and parameters must lie where the hardware wants them."""
    model = kmodel_v3.read(v3)
    assert kmodel_v3.write(model) == v3
    count, outputs = struct.unpack_from("<I", v3, 12)[0], struct.unpack_from("<I", v3, 24)[0]
    offset = 28 + 8 * outputs + 8 * count
    for index in range(count):
        kind, size = struct.unpack_from("<2I", v3, 28 + 8 * outputs + 8 * index)
        _, _, layer_at, weights_at, norm_at, act_at = struct.unpack_from("<6I", v3, offset)
        assert (kind, layer_at % 8, weights_at % 128, norm_at % 128, act_at % 256) == (10240, 0, 0, 0, 0)
        # The runtime sets these, so they must be zero in the file.
        regs = registers.unpack(v3[layer_at : layer_at + 96])
        zero = (regs.int_en, regs.send_data_out, regs.para_start_addr, regs.bwsx_base_addr, regs.active_addr)
        assert zero == (0, 0, 0, 0, 0)
        offset += size
        assert offset % 8 == 0
    assert offset == len(v3)
    assert [output.size_bytes for output in model.outputs] == [3 * 144, 6 * 144, 4 * 144, 4 * 144]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d[:-1], "lies outside"),
        (lambda d: d + b"\0", "add up to"),
        (lambda d: d[:20], "less than its header"),
        (lambda d: b"", "less than its header"),
        (lambda d: b"\x13\x27\0\0" + d[4:], "encrypted"),
        (lambda d: b"LDMK\x05\0\0\0" + d[8:], r"V5 \(nncase 1.x\)"),
        (lambda d: b"LDMK\x04\0\0\0" + d[8:], r"V4 \(nncase 0.2\)"),
        (lambda d: b"\xff" * len(d), "begins with ff ff ff ff"),
        (lambda d: d[:8] + b"\1" + d[9:], "architecture 1"),
        (lambda d: d[:12] + b"\0\0\0\0" + d[16:], "0 layers"),
        (lambda d: d[:16] + b"\0\0\1\0" + d[20:], "65536 lines"),
        (lambda d: d[:60] + b"\x99" + d[61:], "unknown type"),
    ],
)
def test_v3_refuses_and_says_why(v3, damage, words):
    """Wrong lengths and wrong versions are the common mistakes, and each has its own sentence."""
    with pytest.raises(FormatError, match=words):
        kmodel_v3.read(damage(v3))


def _dequantized(v3: bytes, body: bytes) -> bytes:
    """The V3 file with a CPU layer behind its convolutions, whose header gives the body's size padded to 8 bytes."""
    layer = kmodel_v3.CpuLayer(12, body + bytes(-len(body) % 8))
    model = kmodel_v3.read(v3)
    return kmodel_v3.write(replace(model, layers=(*model.layers, layer)))


@pytest.mark.parametrize("missing", range(1, 8))
def test_a_v3_without_its_last_padding_is_read(v3, missing):
    """nncase 0.1 leaves out the padding of the last body. Boards load such files, so they are read here too.

    One more missing byte is missing content, and so is any byte of a file that ends with a convolution's table.
    """
    body = bytes(range(33 + 7 - missing))
    whole = _dequantized(v3, body)
    short = whole[: len(whole) - missing]
    layer = kmodel_v3.read(short).layers[-1]
    assert isinstance(layer, kmodel_v3.CpuLayer) and layer.body == body
    again = kmodel_v3.read(kmodel_v3.write(kmodel_v3.read(short))).layers[-1]
    assert isinstance(again, kmodel_v3.CpuLayer) and again.body == body
    with pytest.raises(FormatError, match="lies outside"):
        kmodel_v3.read(whole[:-8])
    with pytest.raises(FormatError, match="lies outside"):
        kmodel_v3.read(v3[:-missing])


def _old_v5(modules: list[tuple[str, dict[str, bytes]]]) -> bytes:
    """A V5 file as nncase wrote it before 6 August 2021 (runtime/model.h of that time).

    It has 24 bytes of header and modules without functions, each with one input and one output.
    """
    data = struct.pack("<4s5I", b"LDMK", 5, 0, 8, len(modules), 0)
    for kind, sections in modules:
        body = struct.pack("<BBHII", 0, 9, 0, 0, 3072) + struct.pack("<5I", 4, 1, 3, 16, 16)
        body += struct.pack("<BBHII", 1, 9, 0, 0, 40) + struct.pack("<3I", 2, 1, 10)
        for name, content in sections.items():
            body += struct.pack("<16s4I", name.encode(), 0, 4, len(content), 0) + bytes(4) + content
        data += struct.pack("<16s6I", kind.encode(), len(body), 0, 1, 1, len(sections), 0) + body
    return data


def test_a_v5_of_before_august_2021_is_read():
    """The same version number had another layout. Such files were once described as empty, "no code for the KPU"."""
    data = _old_v5([("stackvm", {".rdata": b"", ".text": bytes(20)}), ("k210", {".text": bytes(12)})])
    stackvm, k210 = kmodel_v5.read_modules(data)
    assert (stackvm.type, k210.type) == ("stackvm", "k210")
    assert stackvm.functions[0].input_shapes == ((1, 3, 16, 16),)
    assert stackvm.functions[0].output_shapes == ((1, 10),)
    assert {name: len(body) for name, body in stackvm.sections.items()} == {".rdata": 0, ".text": 20}
    found = read_file.describe_bytes(data, "old.kmodel")
    assert found.facts["modules"] == "1 stackvm, 1 k210"
    assert not any("no code" in note for note in found.notes)
    for cut in range(len(data)):
        with pytest.raises(FormatError):
            kmodel_v5.read_modules(data[:cut])


def test_v5_without_modules_is_damaged(v5):
    """A header without modules or of unknown length is damage and never means "it holds no code"."""
    for damaged, words in (
        (v5[:20] + struct.pack("<I", 0) + v5[24:], "names no module"),
        (v5[:8] + struct.pack("<I", 28) + v5[12:], "header has 28 bytes"),
        (v5[:8] + bytes(4) + v5[12:], "kmodel V5"),
        (_old_v5([]), "names no module"),
    ):
        with pytest.raises(FormatError, match=words):
            read_file.describe_bytes(damaged, "x.kmodel")


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut or insert bytes, mostly in the first kilobyte, where the structure is."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        where = rng.randrange(min(len(made), rng.choice((64, 1024, len(made)))) or 1)
        action = rng.randrange(5)
        if action == 0 and made:
            made[where] ^= 1 << rng.randrange(8)
        elif action == 1:
            made[where : where + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1, rng.randrange(2**32))))
        elif action == 2:
            made[where : where + 4] = struct.pack("<I", rng.randrange(4096))
        elif action == 3:
            del made[rng.randrange(len(made)) :]
        else:
            made[where:where] = bytes(rng.randrange(1, 9))
        if not made:
            break
    return bytes(made)


def _fuzz(data: bytes, parse: Callable[[bytes], object], cases: int, seed: int) -> tuple[int, int]:
    """The numbers of refused and accepted files; anything but FormatError fails the test."""
    rng = random.Random(seed)
    refused = 0
    for _ in range(cases):
        try:
            parse(_damaged(data, rng))
        except FormatError:
            refused += 1
    return refused, cases - refused


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_v3_raises_only_format_errors(v3, seed):
    """No damage may make the reader raise anything but its own error."""
    refused, accepted = _fuzz(v3, kmodel_v3.read, 3500, seed)
    assert refused > 500
    assert accepted > 50


def test_a_damaged_old_v5_raises_only_format_errors():
    """The older layout has a reader of its own."""
    data = _old_v5([("stackvm", {".rdata": bytes(9), ".text": bytes(20)}), ("k210", {".text": bytes(12)})])
    refused, accepted = _fuzz(data, lambda damaged: read_file.describe_bytes(damaged, "x"), 2000, 1)
    assert refused > 500
    assert accepted > 50


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_v5_raises_only_format_errors(v5, seed):
    """No damage may make the reader raise anything but its own error."""
    refused, accepted = _fuzz(v5, kmodel_v5.read, 3500, seed)
    assert refused > 500
    assert accepted > 50


def test_a_damaged_v3_runs_or_is_refused_by_the_engine(v3):
    """What the reader accepts, the engine must run or refuse with an error for people."""
    rng = random.Random(5)
    picture = np.zeros((3, 24, 24), np.uint8)
    ran = 0
    for _ in range(100):
        try:
            KpuEngine(_damaged(v3, rng)).run(picture)
            ran += 1
        except UserError:
            pass
    assert ran > 10


def test_reading_v5_keeps_the_models_order(v5):
    """Four heads, two of the same shape, lie at reused addresses. Order, scales and zero points must be the model's."""
    program = kmodel_v5.read(v5)
    assert [program.layers[output.layer].out_channels for output in program.outputs] == [3, 6, 4, 4]
    assert all(output.scale and 0 <= (output.zero_point or 0) <= 255 for output in program.outputs)
    assert len({output.layer for output in program.outputs}) == 4


def test_main_memory_overflow_is_refused(v3):
    """An output beyond main memory would overwrite the heap on the board."""
    model = kmodel_v3.read(v3)
    with pytest.raises(FormatError, match="bytes main memory"):
        kmodel_v3.read(kmodel_v3.write(replace(model, main_mem_bytes=100)))


@pytest.mark.weights
def test_maixpys_face_detector_finds_faces_in_our_engine(data_dir):
    """This kfpkg from 2019 (nncase 0.1) is proof with a file that we did not make.

    It is a YOLOv2 with 20x15 cells and 5 anchors of (x, y, w, h, objectness, class).
    """
    with zipfile.ZipFile(data_dir / "kmodels" / "maixpy_face_model_at_0x300000.kfpkg") as package:
        engine = KpuEngine(package.read("facedetect.kmodel"))
    portrait = Image.open(data_dir / "photos" / "portrait_upper_body.jpg").convert("RGB").resize((320, 240))
    empty = Image.open(data_dir / "photos" / "noperson_fruit_0.jpg").convert("RGB").resize((320, 240))
    best = []
    for picture in (portrait, empty):
        (output,) = engine.run(kpu_networks.planes(np.asarray(picture)))
        objectness = 1 / (1 + np.exp(-output.reshape(5, 6, 15, 20)[:, 4]))
        best.append((objectness.max(), np.unravel_index(objectness.max(0).argmax(), (15, 20))))
    (found, cell), (other, _) = best
    assert found > 0.7 > 0.4 > other
    assert 1 <= cell[0] <= 6 and 7 <= cell[1] <= 12  # The head is there.


@pytest.mark.weights
@pytest.mark.parametrize("name", ["canmv_yolo_face_detect", "maixpy_yolov2_fruit"])
def test_other_public_kmodels_run(data_dir, name):
    """They are read to the last byte, written to an equal model, and run."""
    data = (data_dir / "kmodels" / f"{name}.kmodel").read_bytes()
    model = kmodel_v3.read(data)
    engine = KpuEngine(data)
    picture = np.random.default_rng(0).integers(0, 256, engine.input_shape).astype(np.uint8)
    (output,) = engine.run(picture)
    assert output.dtype == np.float32 and np.isfinite(output).all() and len(np.unique(output)) > 20
    (again,) = KpuEngine(kmodel_v3.write(model)).run(picture)
    np.testing.assert_array_equal(output, again)
