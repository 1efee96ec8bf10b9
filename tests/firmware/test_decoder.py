"""firmware/decoder.py: special cases worked out by hand, its definition by brute force, and the float reference."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.decoder_agreement import compare, random_scenes
from benchmarks.synthetic_heads import (
    BUILD_QUANTIZATION,
    CORAL_QUANTIZATION,
    HeadScale,
    decoder_manifest,
    dequantize,
    place,
    random_person,
    scene,
)
from common.arrays import Numbers
from common.firmware_modules import FIRMWARE_DIR, firmware_module
from common.skeleton import EDGES
from model_build.reference_decoder import ReferenceDecoder
from tests.support.micropython_command import micropython_command

Decoder = firmware_module("decoder").Decoder
NOSE, LEFT_EYE = 0, 1
ZERO_POINT = 128
# Offsets and displacements are whole pixels, so that every result can be worked out by hand.
PLAIN = (HeadScale(0.1, ZERO_POINT),) + (HeadScale(1.0, ZERO_POINT),) * 3


def plain(columns: int, rows: int, stride: int = 16) -> tuple[dict[str, Any], list[Numbers]]:
    """A manifest in whole pixels, and heads without people, offsets or displacements."""
    manifest = decoder_manifest(columns * stride, rows * stride, stride, PLAIN)
    heads = [np.full((h["channels"], rows, columns), ZERO_POINT, dtype=np.uint8) for h in manifest["heads"]]
    heads[0][:] = 20
    return manifest, heads


def decode(manifest: dict[str, Any], heads: list[Numbers], mode: str = "multi", **options: int) -> list[list[int]]:
    poses = getattr(Decoder(manifest, **options), mode)([head.tobytes() for head in heads])
    return [list(pose) for pose in poses]


def at(pose: list[int], keypoint: int) -> tuple[float, float, int]:
    """A keypoint's x and y in pixels, and its score."""
    x, y, score = pose[1 + 3 * keypoint : 4 + 3 * keypoint]
    return x / 256, y / 256, score


@pytest.mark.parametrize("mode", ["single", "multi"])
@pytest.mark.parametrize("sure", [3, 4])
def test_a_person_shows_four_keypoints(mode: str, sure: int) -> None:
    """What looks like a person in only three places is most often a lamp, however certain the network is."""
    manifest, heads = plain(6, 5)
    heads[0][:sure, 2, 3] = 250
    assert len(decode(manifest, heads, mode)) == (sure >= 4)
    assert len(decode(manifest, heads, mode, min_keypoints=0)) == 1
    assert len(decode(manifest, heads, mode, min_keypoints=sure + 1)) == 0
    reference = ReferenceDecoder(16, EDGES)
    real = dequantize(manifest, heads)
    found = reference.single(*real[:2]) if mode == "single" else reference.multi(*real)
    assert len(found) == (sure >= 4)


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_a_frame_without_people_has_no_pose(mode: str) -> None:
    """Neither a usual empty frame nor heads of all zeros may make a person appear."""
    manifest, heads = plain(6, 5)
    assert decode(manifest, heads, mode) == []
    heads[0][:] = 0
    assert decode(manifest, heads, mode, min_pose_score_q15=1) == []


def test_a_lone_keypoint_scores_too_little() -> None:
    """A pose with one scored keypoint has about a fifth of its score, which is less than a pose needs."""
    manifest, heads = plain(6, 5)
    heads[0][NOSE, 2, 3] = 255
    heads[1][NOSE, 2, 3] = ZERO_POINT - 5
    heads[1][17 + NOSE, 2, 3] = ZERO_POINT + 7
    assert decode(manifest, heads) == []
    (pose,) = decode(manifest, heads, min_pose_score_q15=1000, min_keypoints=0)
    table = manifest["sigmoid_q15"]
    assert at(pose, NOSE) == (3 * 16 + 7, 2 * 16 - 5, table[255])
    # Without displacements the others lie on the nose, and their scores are those of the nearest cell, (3, 2).
    assert {at(pose, k) for k in range(1, 17)} == {(55, 27, table[20])}
    assert pose[0] == (table[255] + 4 * table[20]) // 5


def test_single_takes_the_best_cell() -> None:
    """Each keypoint is its best cell times the stride plus the offset, and the score is the mean of the five best."""
    manifest, heads = plain(6, 5)
    for k in range(17):
        heads[0][k, k % 5, k % 6] = 200 + k
        heads[1][k, k % 5, k % 6] = 100 + k
        heads[1][17 + k, k % 5, k % 6] = 150 - k
    (pose,) = decode(manifest, heads, "single")
    scores = [manifest["sigmoid_q15"][200 + k] for k in range(17)]
    for k in range(17):
        assert at(pose, k) == (k % 6 * 16 + 22 - k, k % 5 * 16 + k - 28, scores[k])
    assert pose[0] == sum(scores[-5:]) // 5


def test_a_shared_keypoint_counts_for_the_better_pose_only() -> None:
    """The published instance score counts a keypoint that two poses claim only for the better one."""
    manifest, heads = plain(20, 5)
    for k in range(17):
        heads[0][k, 2, 4] = 250 if k else 255
        heads[0][k, 2, 14] = 240
    # The right person's edge to the nose leads to the left person's nose.
    heads[0][NOSE, 2, 14] = 20
    for e, (parent, _) in enumerate(EDGES):
        if parent == NOSE:
            heads[3][16 + e, 2, 14] = 0  # −128 px
    heads[1][17 + NOSE, 2, 6] = ZERO_POINT - 32
    # From the shared nose all edges lead to the left person. The right person begins at its eye, from which only nose
    # and ear are reached directly, so eye and ear are all that it has for itself.
    left, right = decode(manifest, heads, min_pose_score_q15=0, min_keypoints=0, max_poses=2)
    table = manifest["sigmoid_q15"]
    assert at(left, NOSE) == (64, 32, table[255])
    assert at(right, LEFT_EYE) == (224, 32, table[240])
    assert at(right, NOSE) == (64, 32, table[255])
    assert left[0] == (table[255] + 4 * table[250]) // 5
    assert right[0] == 2 * table[240] // 5


def test_keypoints_beyond_the_frame_stay_outside() -> None:
    """Somebody is cut by the edge. The coordinates stay outside, and the nearest cell inside is read for them."""
    manifest, heads = plain(4, 4)
    heads[0][NOSE, 0, 0] = 255
    heads[0][NOSE, 3, 3] = 200
    heads[1][NOSE, 0, 0] = heads[1][17 + NOSE, 0, 0] = ZERO_POINT - 30
    heads[1][NOSE, 3, 3] = heads[1][17 + NOSE, 3, 3] = ZERO_POINT + 40
    first, second = decode(manifest, heads, min_pose_score_q15=0, min_keypoints=0)
    assert at(first, NOSE)[:2] == (-30, -30)
    assert at(second, NOSE)[:2] == (88, 88)
    assert at(first, LEFT_EYE)[:2] == (0, 0)
    assert at(second, LEFT_EYE)[:2] == (48, 48)


def test_a_displacement_out_of_the_map_is_read_at_the_edge() -> None:
    """The displacement is followed and the offset read at the map's edge. Without refinement the place is outside."""
    manifest, heads = plain(4, 3)
    heads[0][NOSE, 1, 1] = 255
    edge = EDGES.index((NOSE, LEFT_EYE))
    heads[2][edge] = 255  # y + 127 px
    heads[2][16 + edge] = 0  # x − 128 px
    heads[1][LEFT_EYE, 2, 0] = ZERO_POINT + 3
    (pose,) = decode(manifest, heads, min_pose_score_q15=0, min_keypoints=0)
    assert at(pose, LEFT_EYE)[:2] == (0, 35)
    (pose,) = decode(manifest, heads, min_pose_score_q15=0, min_keypoints=0, refinement_steps=0)
    assert at(pose, LEFT_EYE)[:2] == (16 - 128, 16 + 127)


def test_vectors_between_cells_are_interpolated() -> None:
    """From a quarter right of and half below a cell, the four cells count ¾ and ¼ across and ½ and ½ down."""
    manifest, heads = plain(4, 4)
    heads[0][NOSE, 1, 1] = 255
    heads[1][NOSE, 1, 1] = ZERO_POINT + 8  # y
    heads[1][17 + NOSE, 1, 1] = ZERO_POINT + 4  # x
    edge = EDGES.index((NOSE, LEFT_EYE))
    heads[2][edge, 1:3, 1:3] = ZERO_POINT + np.array([[16, 32], [0, 64]])  # (16·¾ + 32·¼ + 0·¾ + 64·¼) / 2 = 18
    heads[2][16 + edge, 1:3, 1:3] = ZERO_POINT + np.array([[-8, 8], [0, 8]])  # (−8·¾ + 8·¼ + 0·¾ + 8·¼) / 2 = −1
    (pose,) = decode(manifest, heads, min_pose_score_q15=0, min_keypoints=0, refinement_steps=0)
    assert at(pose, NOSE)[:2] == (20, 24)
    assert at(pose, LEFT_EYE)[:2] == (19, 42)
    # One correction at column 1.1875 and row 2.625, that is between columns 1 and 2 and rows 2 and 3.
    heads[1][LEFT_EYE, 2:4, 1:3] = ZERO_POINT + np.array([[16, 0], [32, 16]])
    (pose,) = decode(manifest, heads, min_pose_score_q15=0, min_keypoints=0, refinement_steps=1)
    exact = 42 + 0.375 * (0.8125 * 16) + 0.625 * (0.8125 * 32 + 0.1875 * 16)
    assert at(pose, LEFT_EYE)[:2] == (19, round(exact * 256) / 256)


def test_reference_can_read_the_nearest_cell() -> None:
    """tfjs reads the nearest cell, so a comparison with it needs the same: row 2 and column 1 for (20, 24) px."""
    manifest, heads = plain(4, 4)
    heads[0][NOSE, 1, 1] = 255
    heads[1][NOSE, 1, 1], heads[1][17 + NOSE, 1, 1] = ZERO_POINT + 8, ZERO_POINT + 4
    edge = EDGES.index((NOSE, LEFT_EYE))
    heads[2][edge, 2, 1] = ZERO_POINT + 30
    real = dequantize(manifest, heads)
    eyes = []
    for nearest in (True, False):
        decoder = ReferenceDecoder(16, EDGES, min_pose_score=0, min_keypoints=0, refinement_steps=0, nearest=nearest)
        eyes.append(decoder.multi(*real)[0].keypoints[LEFT_EYE].tolist())
    assert eyes == [[20, 54], [20, 24 + 30 * 0.75 * 0.5]]


@pytest.mark.parametrize("byte", [0, 255])
@pytest.mark.parametrize("mode", ["single", "multi"])
def test_equal_bytes_everywhere_give_separate_poses(byte: int, mode: str) -> None:
    """If all cells are equal, the first one wins, and further poses keep the suppression radius apart."""
    manifest, heads = plain(7, 6)
    for head in heads[1:]:
        head[:] = byte
    heads[0][:] = 255
    poses = decode(manifest, heads, mode, min_pose_score_q15=0, min_keypoints=0)
    offset = byte - ZERO_POINT
    assert at(poses[0], NOSE) == (offset, offset, manifest["sigmoid_q15"][255])
    assert len(poses) == (1 if mode == "single" else 5)


def test_ties_go_to_the_lower_keypoint_and_cell() -> None:
    """Board and host must choose alike among equal bytes, and equal neighbours are one candidate each."""
    manifest, heads = plain(9, 1)
    heads[0][3, 0, 8] = heads[0][2, 0, 0] = heads[0][2, 0, 1] = heads[0][2, 0, 5] = 200
    # Cells 0 and 1 are 16 px apart and suppress each other; the pose at cell 0 has its keypoint 3 there.
    roots = decode(manifest, heads, min_pose_score_q15=0, min_keypoints=0)
    assert [at(pose, 2)[0] for pose in roots[:2]] == [0, 80]
    assert at(roots[2], 3)[0] == 128
    assert len(roots) == 3


def test_a_map_of_one_cell_can_be_decoded() -> None:
    """The only cell is the best of every keypoint, and every displacement leads back to it."""
    manifest, heads = plain(1, 1)
    heads[0][:] = 220
    for mode in ("single", "multi"):
        (pose,) = decode(manifest, heads, mode)
        assert pose == [manifest["sigmoid_q15"][220]] + [0, 0, manifest["sigmoid_q15"][220]] * 17


def test_wrong_sizes_are_refused() -> None:
    """A kmodel that posenet.json does not describe gives other lengths. Decoding them would show nonsense."""
    manifest, heads = plain(4, 3)
    decoder = Decoder(manifest)
    for mode in (decoder.single, decoder.multi):
        with pytest.raises(ValueError, match="a head has 407 bytes, but posenet.json says 408"):
            mode([heads[0].tobytes(), heads[1].tobytes()[:-1], heads[2].tobytes(), heads[3].tobytes()])
    broken = json.loads(json.dumps(manifest))
    broken["edges"] = broken["edges"][:-1]
    with pytest.raises(ValueError, match="channels do not fit"):
        Decoder(broken)
    broken = json.loads(json.dumps(manifest))
    broken["edges"][15] = [1, 3]
    with pytest.raises(ValueError, match="do not reach every keypoint"):
        Decoder(broken)


def exact_poses(manifest: dict[str, Any], heads: list[Numbers]) -> list[int]:
    """single() by its definition, in plain integers."""
    _, rows, columns = heads[0].shape
    pose = []
    for k in range(17):
        cell = int(heads[0][k].argmax())
        y, x = divmod(cell, columns)
        vector = []
        for channel in (17 + k, k):
            mul, zero = (np.broadcast_to(manifest["heads"][1][n], 34)[channel] for n in ("mul_q16", "zero_point"))
            vector.append(((int(heads[1][channel, y, x]) - int(zero)) * int(mul) + 128) >> 8)
        stride_q8 = manifest["output_stride"] * 256
        pose += [x * stride_q8 + vector[0], y * stride_q8 + vector[1]]
        pose.append(manifest["sigmoid_q15"][heads[0][k, y, x]])
    return [sum(sorted(pose[2::3])[-5:]) // 5] + pose


@given(data=st.data())
def test_single_agrees_with_its_definition(data: st.DataObject) -> None:
    """For any map, stride, quantization and bytes; frames that were decoded before must have no influence."""
    columns, rows = data.draw(st.integers(1, 11)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels = np.array(data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=9)), dtype=np.uint8)
    scales = data.draw(st.lists(st.floats(0.01, 3), min_size=34, max_size=34))
    zeros = data.draw(st.lists(st.integers(0, 255), min_size=34, max_size=34))
    quantization = (HeadScale(0.08, data.draw(st.integers(0, 255))), HeadScale(scales, zeros), *PLAIN[2:])
    stride = data.draw(st.sampled_from([8, 16, 32]))
    manifest = decoder_manifest(columns * stride, rows * stride, stride, quantization)
    least = data.draw(st.sampled_from([0, 4915, 16384]))
    decoder = Decoder(manifest, min_pose_score_q15=least, min_keypoints=0)
    for _ in range(3):
        heads = [rng.integers(0, 256, (h["channels"], rows, columns), dtype=np.uint8) for h in manifest["heads"]]
        heads[0] = rng.choice(levels, heads[0].shape)
        wanted = exact_poses(manifest, heads)
        poses = [list(pose) for pose in decoder.single([head.tobytes() for head in heads])]
        assert poses == ([wanted] if wanted[0] >= least else [])


@given(data=st.data())
def test_single_agrees_with_its_definition_on_scenes(data: st.DataObject) -> None:
    """Maps of the usual sizes with other people in every frame, and frames without people in between."""
    size = data.draw(st.sampled_from([(320, 240, 16), (256, 192, 16), (256, 192, 8), (240, 240, 16)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    manifest = decoder_manifest(*size, data.draw(st.sampled_from([BUILD_QUANTIZATION, CORAL_QUANTIZATION])))
    least = data.draw(st.sampled_from([0, 1, 4915, 16384, 32767]))
    decoder = Decoder(manifest, min_pose_score_q15=least, min_keypoints=0)
    for people in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)):
        heads = scene(rng, manifest, people, noise=data.draw(st.sampled_from([0.3, 1.0, 3.0])))
        wanted = exact_poses(manifest, heads)
        poses = [list(pose) for pose in decoder.single([head.tobytes() for head in heads])]
        assert poses == ([wanted] if wanted[0] >= least else [])


@given(
    seed=st.integers(0, 2**32),
    columns=st.integers(1, 9),
    rows=st.integers(1, 7),
    threshold_q15=st.sampled_from([1, 16384, 30000]),
    nms_radius_px=st.sampled_from([0, 10, 20, 50]),
    refinement_steps=st.integers(0, 3),
    noise=st.floats(0, 5),
)
def test_multi_agrees_with_the_reference(
    seed: int, columns: int, rows: int, threshold_q15: int, nms_radius_px: int, refinement_steps: int, noise: float
) -> None:
    """With vectors rounded alike both decoders are exact, so that any difference would be one of method."""
    rng = np.random.default_rng(seed)
    manifest = decoder_manifest(columns * 16, rows * 16)
    frames = [scene(rng, manifest, people, noise=noise) for people in (1, 3)]
    agreement = compare(
        manifest,
        frames,
        score_threshold_q15=threshold_q15,
        nms_radius_px=nms_radius_px,
        refinement_steps=refinement_steps,
        min_pose_score_q15=0,
        min_keypoints=0,
    )
    assert agreement.unexplained == 0


@pytest.mark.parametrize(
    ("width", "height", "stride"),
    [(320, 240, 16), pytest.param(256, 192, 16, marks=pytest.mark.slow), (256, 192, 8), (256, 256, 32)],
)
def test_poses_agree_with_the_float_reference(width: int, height: int, stride: int) -> None:
    """In scenes of 0 to 5 people, numbers, places and scores may differ only by rounding."""
    manifest = decoder_manifest(width, height, stride)
    agreement = compare(manifest, random_scenes(manifest, 90, seed=stride + width))
    assert agreement.same_count >= 0.99 * agreement.scenes, agreement.report()
    assert agreement.within_1_px >= 0.99 * agreement.keypoints, agreement.report()
    assert agreement.scores_within_001 >= 0.99 * agreement.poses, agreement.report()
    assert agreement.unexplained == 0, agreement.report()


def test_a_squeezed_field_agrees_with_the_float_reference() -> None:
    """With a field of 320 px in 256 columns, cells are 20 px wide and 16 high, and radii and vectors follow that."""
    manifest = decoder_manifest(256, 240, field_width=320)
    agreement = compare(manifest, random_scenes(manifest, 90, seed=5))
    assert agreement.same_count >= 0.99 * agreement.scenes, agreement.report()
    assert agreement.within_1_px >= 0.99 * agreement.keypoints, agreement.report()


def test_a_squeezed_field_has_people_as_they_are() -> None:
    """The same heads with a squeezed field give the same y and an x that is a quarter larger."""
    plain_form, squeezed = (decoder_manifest(256, 240, field_width=width) for width in (256, 320))
    rng = np.random.default_rng(3)
    person = random_person(rng, 256, 240, (150, 200)) * 0.6 + (128, 120) * np.array(0.4)
    heads = place(rng, plain_form, [person], noise=0)
    for mode in ("single", "multi"):
        (narrow,), (wide,) = (decode(form, heads, mode) for form in (plain_form, squeezed))
        narrow_points, wide_points = (np.array(pose[1:]).reshape(-1, 3) for pose in (narrow, wide))
        sure = narrow_points[:, 2] > 16384
        assert sure.sum() > 10 and np.array_equal(narrow_points[:, 2], wide_points[:, 2])
        # Vectors are rounded to 1/256 px, and these errors add up along the edges.
        assert np.abs(wide_points[sure, 0] - 1.25 * narrow_points[sure, 0]).max() <= 24
        assert np.abs(wide_points[sure, 1] - narrow_points[sure, 1]).max() <= 24


def test_reference_finds_the_people_placed() -> None:
    """Without noise the reference must return the very keypoints that the scene was made of, up to quantization."""
    manifest = decoder_manifest(320, 240)
    rng = np.random.default_rng(11)
    person = random_person(rng, 320, 240, (150, 200)) * 0.7 + (160, 130) * np.array(0.3)
    heads = place(rng, manifest, [person], noise=0)
    (pose,) = ReferenceDecoder(16, manifest["edges"]).multi(*dequantize(manifest, heads))
    inside = ((person >= 0) & (person <= (319, 239))).all(axis=1)
    assert inside.sum() >= 12
    assert np.abs(pose.keypoints - person)[inside].max() < 0.5


MEMORY_SCRIPT = """
import gc, sys, json
import decoder
manifest = json.loads(%r)
cells = manifest["map"]["width"] * manifest["map"]["height"]
heads = [memoryview(bytearray(bytes([20]) * (h["channels"] * cells))) for h in manifest["heads"]]
d = decoder.Decoder(manifest)
for decode in (d.single, d.multi):
    decode(heads)
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    decode(heads)
    after = gc.mem_alloc()
    gc.enable()
    print(after - before)
"""


def test_allocation_does_not_grow_with_the_map(tmp_path: Path) -> None:
    """A frame without people makes the same small garbage on any map, so that no collection interrupts the frames."""
    command = micropython_command()
    shutil.copy(FIRMWARE_DIR / "decoder.py", tmp_path)
    used = []
    for columns, rows in ((4, 3), (20, 15), (40, 30), (37, 29)):
        manifest, _ = plain(columns, rows)
        (tmp_path / "memory.py").write_text(MEMORY_SCRIPT % json.dumps(manifest))
        done = subprocess.run([command, "-X", "heapsize=8M", "memory.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        used.append([int(line) for line in done.stdout.split()])
    assert used[0] == used[1] == used[2], used
    # 29×37 cells are not a whole number of words, which costs one more slice per keypoint.
    assert max(used[0]) < 1500 and max(used[3]) < 4000, used
