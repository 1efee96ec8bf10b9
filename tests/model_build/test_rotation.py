"""A network turned for a camera on its side finds in the turned frame what the original finds upright."""

from __future__ import annotations

import numpy as np
import pytest

from common.arrays import Numbers
from model_build.float_forward import forward
from model_build.network import HEADS
from model_build.rotation import MOUNTS, VECTOR_HEADS, rotate
from tests.support.kpu_networks import pictures, random_network


def turned_heads(heads: dict[str, Numbers], mount: int) -> dict[str, Numbers]:
    """Heads of the upright picture, (H, W, C), as they must come out of the turned frame."""
    turned = {}
    for name, head in heads.items():
        for _ in range(mount // 90):
            head = np.rot90(head)
            if name in VECTOR_HEADS:
                dy, dx = np.split(head, 2, axis=-1)
                head = np.concatenate([-dx, dy], axis=-1)
        turned[name] = head
    return turned


@pytest.mark.parametrize("mount", MOUNTS)
def test_the_turned_network_gives_the_turned_heads(mount: int) -> None:
    """With sizes of a multiple of the stride plus one, cells lie alike from both ends, so heads must be the same."""
    network = random_network(seed=3)
    picture = pictures(1, 49, 33, seed=5)[0]
    wanted = turned_heads(forward(network, picture), mount)
    found = forward(rotate(network, mount), np.ascontiguousarray(np.rot90(picture, mount // 90)))
    for name in HEADS:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("mount", (90, 270))
def test_vectors_point_at_the_same_pixel(mount: int) -> None:
    """One step right in the upright picture is one step up in a frame turned counter-clockwise, and down otherwise."""
    network = random_network(seed=1)
    half = len(network.keypoints)
    right = rotate(network, mount).heads["short_offset"].weights[..., :half]
    sign = -1 if mount == 90 else 1
    np.testing.assert_array_equal(right, sign * network.heads["short_offset"].weights[..., half:])


def test_four_quarter_turns_are_none() -> None:
    """Turning there and back must lose nothing."""
    network = random_network(seed=2)
    turned = rotate(rotate(network, 270), 90)
    for before, after in zip(network.layers(), turned.layers(), strict=True):
        np.testing.assert_array_equal(before.weights, after.weights)
        np.testing.assert_array_equal(before.bias, after.bias)


def test_other_angles_are_refused() -> None:
    """Pixels can be turned exactly only by quarters."""
    with pytest.raises(ValueError, match="45"):
        rotate(random_network(), 45)
