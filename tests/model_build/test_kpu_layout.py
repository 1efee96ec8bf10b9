"""Layouts for any size: the same bytes as nncase where nncase finds room, and sound everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.kpu_layouts import posenet_nodes
from common.errors import UserError
from model_build.engines.kpu import KpuEngine
from model_build.kpu import constraints, cycles, kmodel_v3, kmodel_v5, layout, layout_search, overlap, ram
from tests.support import kpu_networks
from tests.support.layouts import piece_sources

SHAPE = {"widths": (8, 12, 20, 20), "strides": (2, 1)}
ALL_FORMS = [("plain",), ("sliding",), ("plain", "diagonal"), ("sliding", "diagonal"), layout_search.FORMS]


def _outputs(model, pictures):
    engine = KpuEngine(kmodel_v3.write(model))
    return [engine.run(kpu_networks.planes(picture)) for picture in pictures]


@pytest.mark.parametrize("forms", ALL_FORMS, ids="+".join)
def test_same_bytes_as_nncase(forms):
    """At a size for which nncase finds room, our layout must give nncase's bytes in every form of the layers."""
    v5 = kpu_networks.nncase_v5(72, 56, **SHAPE)
    program = kmodel_v5.read(v5)
    model, plan = layout.lay_out(program, 72, 56, forms)
    overlap.check(model, piece_sources(program, plan))
    used = {piece.form for piece in plan.pieces if program.layers[piece.layer].depthwise}
    assert used <= set(forms)
    pictures = kpu_networks.pictures(2, 72, 56, seed=5)
    for picture, found in zip(pictures, _outputs(model, pictures), strict=True):
        for ours, theirs in zip(found, kpu_networks.nncase_bytes(v5, picture), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (136, 40), (32, 32)])
def test_a_program_can_be_laid_out_at_any_size(width, height):
    """It was calibrated at 72x56. At other sizes all forms must give the same bytes as each other."""
    program = kpu_networks.lowered(**SHAPE)
    pictures = kpu_networks.pictures(2, width, height, seed=6)
    reference = _outputs(layout.lay_out(program, width, height, ("plain",))[0], pictures)
    for forms in ALL_FORMS[1:]:
        found = _outputs(layout.lay_out(program, width, height, forms)[0], pictures)
        for expected, got in zip(reference, found, strict=True):
            for a, b in zip(expected, got, strict=True):
                np.testing.assert_array_equal(a, b)


def _needed_lines(program, width, height, forms):
    """The fewest lines of KPU RAM with which a layout is found, by bisection."""
    nodes = layout.nodes_of(program)
    low, high = 0, ram.RAM_LINES
    while high - low > 1:
        middle = (low + high) // 2
        try:
            layout.plan(nodes, width, height, forms, middle)
            high = middle
        except UserError:
            low = middle
    return high


@pytest.mark.slow
def test_tight_memory_uses_bands_and_slides():
    """With just enough RAM the search must find the forms that save RAM, and their bytes must still be right."""
    program = kpu_networks.lowered(widths=(12, 24, 32), strides=(1, 2))
    width, height = 144, 96
    pictures = kpu_networks.pictures(2, width, height, seed=7)
    reference = _outputs(layout.lay_out(program, width, height, ("plain",))[0], pictures)
    needed = {}
    for forms in (("plain",), ("plain", "sliding"), layout_search.FORMS):
        needed[forms] = _needed_lines(program, width, height, forms)
        model, plan = layout.lay_out(program, width, height, forms, needed[forms])
        overlap.check(model, piece_sources(program, plan))
        assert plan.peak_lines <= needed[forms]
        assert model.max_start_line <= needed[forms]
        for expected, got in zip(reference, _outputs(model, pictures), strict=True):
            for a, b in zip(expected, got, strict=True):
                np.testing.assert_array_equal(a, b)
        if forms == ("plain", "sliding"):
            assert any(piece.form == "sliding" for piece in plan.pieces)
        if forms == layout_search.FORMS:
            assert any(piece.form == "banded" for piece in plan.pieces)
    assert needed[layout_search.FORMS] < needed[("plain", "sliding")] < needed[("plain",)]


def _nodes(draw):
    """The shapes of a random chain of separable blocks with heads."""
    channels = draw(st.integers(3, 40))
    nodes = [layout_search.LayoutNode(-1, False, 3, 3, channels, 5, False, False)]
    for _ in range(draw(st.integers(1, 5))):
        stride2 = draw(st.booleans())
        out = draw(st.integers(3, 80))
        last = len(nodes) - 1
        nodes.append(layout_search.LayoutNode(last, True, 3, channels, channels, 0, False, draw(st.booleans())))
        nodes.append(layout_search.LayoutNode(last + 1, False, 1, channels, out, 5 if stride2 else 0, False, False))
        channels = out
    trunk = len(nodes) - 1
    for _ in range(draw(st.integers(1, 4))):
        nodes.append(layout_search.LayoutNode(trunk, False, 1, channels, draw(st.integers(1, 40)), 0, True, False))
    return tuple(nodes)


@given(st.data())
def test_every_plan_is_sound(data):
    """No layer may read a line that anything but its source wrote last, and the limit of RAM must be kept.

    The plan is replayed line by line, whatever the network, size, RAM and forms are.
    """
    nodes = _nodes(data.draw)
    width, height = data.draw(st.integers(8, 40)) * 8, data.draw(st.integers(8, 30)) * 8
    limit = data.draw(st.sampled_from([ram.RAM_LINES, ram.RAM_LINES // 2, ram.RAM_LINES // 6]))
    forms = data.draw(st.sampled_from(ALL_FORMS))
    found = layout_search.search(nodes, width, height, forms, limit)
    assume(isinstance(found, layout_search.LayoutPlan))
    _replay(nodes, found, limit)


def _replay(nodes, plan, limit):
    """Follow what each line holds, as (program layer, block of channels)."""
    holds: list[object] = [None] * limit
    first = nodes[0]
    for offset in range(ram.lines(first.in_channels, plan.height_px, plan.width_px)):
        holds[plan.input_line + offset] = (-1, offset)
    made: dict[int, int] = {}
    sizes = {-1: (plan.height_px, plan.width_px)}
    for piece in plan.pieces:
        node = nodes[piece.layer]
        per_channel = node.depthwise
        assert sizes[node.source] == (piece.in_height, piece.in_width)
        skipped = ram.lines(piece.first, piece.in_height, piece.in_width) if per_channel else 0
        count = piece.last - piece.first if per_channel else node.in_channels
        length = ram.lines(count, piece.in_height, piece.in_width)
        for offset in range(length):
            assert holds[piece.source_line + offset] == (node.source, skipped + offset), piece
        stride = 2 if piece.pool_type == 5 else 1
        height, width = piece.in_height // stride, piece.in_width // stride
        out = ram.lines(piece.last - piece.first, height, width)
        assert piece.target_line + out <= limit
        apart = piece.target_line >= piece.source_line + length or piece.target_line + out <= piece.source_line
        assert apart, piece
        start = ram.lines(piece.first, height, width)
        if piece.first:
            assert piece.first % ram.row_layout(width).groups == 0
        for offset in range(out):
            holds[piece.target_line + offset] = (piece.layer, start + offset)
        sizes[piece.layer] = (height, width)
        made[piece.layer] = made.get(piece.layer, 0) + piece.last - piece.first
    assert made == {index: node.out_channels for index, node in enumerate(nodes)}


def test_bands_begin_at_whole_lines_of_both_maps():
    """A map 32 wide holds two channels a line and its half four; a band of 6 would begin inside a line of the half."""
    planner = layout_search.Planner(posenet_nodes(0.75), 240, 320, layout_search.FORMS, ram.RAM_LINES)
    assert planner._bands(12, 2, 32) == [(0, 8), (8, 12)]
    assert planner._bands(12, 3, 32) == [(0, 4), (4, 8), (8, 12)]
    assert planner._bands(7, 2, 64) == [(0, 4), (4, 7)], "one and two channels a line"
    assert planner._bands(7, 2, 130) == [(0, 4), (4, 7)] and planner._bands(7, 7, 130)[1] == (1, 2)


def test_groups_of_a_diagonal_layer_hold_whole_lines_of_both_maps():
    """At 40 pixels two of 16 channels share a line, which gives 8 blocks. Three groups of them have 3, 3 and 2."""
    planner = layout_search.Planner(_picture_to_heads(), 64, 96, layout_search.FORMS, ram.RAM_LINES)
    assert planner._diagonal_groups(planner.nodes[3], 40) == [1, 2, 3, 4, 8]
    assert planner._diagonal_groups(planner.nodes[3], 32) == [1, 2, 4]


def test_overlap_checker_finds_faults():
    """The checker must see each kind of fault, or its silence means nothing."""
    program = kpu_networks.lowered(**SHAPE)
    model, plan = layout.lay_out(program, 72, 56)
    sources = piece_sources(program, plan)
    overlap.check(model, sources)

    def broken(index, **registers):
        layers = list(model.layers)
        layers[index] = layers[index].with_registers(**registers)
        return replace(model, layers=tuple(layers))

    third = model.kpu_layers[2]
    with pytest.raises(UserError, match="over its input"):
        overlap.check(broken(2, image_dst_addr=third.source_line))
    with pytest.raises(UserError, match="ends at line"):
        overlap.check(broken(2, image_dst_addr=32767))
    with pytest.raises(UserError, match="not all of them were written"):
        overlap.check(broken(0, image_dst_addr=model.max_start_line + 1), None)
    with pytest.raises(UserError, match="wb_group"):
        overlap.check(broken(2, wb_group=third.registers.wb_group + 1))
    with pytest.raises(UserError, match="should read"):
        overlap.check(model, [*sources[:3], (0,), *sources[4:]])
    with pytest.raises(UserError, match="lines, but it uses"):
        overlap.check(replace(model, max_start_line=10))
    with pytest.raises(UserError, match="main memory"):
        overlap.check(replace(model, main_mem_bytes=model.main_mem_bytes - 8))


def _picture_to_heads():
    """The shapes of a small network: a stem that halves, a depthwise layer, and one whose result is halved."""
    return (
        layout_search.LayoutNode(-1, False, 3, 3, 8, 5, False, False),
        layout_search.LayoutNode(0, True, 3, 8, 8, 0, False, False),
        layout_search.LayoutNode(1, False, 1, 8, 16, 0, False, False),
        layout_search.LayoutNode(2, True, 3, 16, 16, 0, False, True),
        layout_search.LayoutNode(3, False, 1, 16, 16, 5, True, False),
    )


def test_bands_are_used_where_nothing_else_fits():
    """640 lines hold the picture (384) and the stem's map (256), but not layer 2 and its input (256 + 512)."""
    nodes = _picture_to_heads()
    without = layout_search.search(nodes, 96, 64, ("plain", "sliding", "diagonal"), 640)
    assert isinstance(without, layout_search.Planner) and without.furthest == 2 and without.most_needed[2] == 768
    found = layout_search.search(nodes, 96, 64, layout_search.FORMS, 640)
    assert isinstance(found, layout_search.LayoutPlan) and found.peak_lines == 640
    assert {piece.form for piece in found.pieces if piece.layer == 2} == {"banded"}
    _replay(nodes, found, 640)


@pytest.mark.parametrize("forms", [("plain",), layout_search.FORMS])
def test_least_time_of_the_rest_is_that_of_endless_memory(forms):
    """The search is guided by it. Too low makes the search slow, and too high misses the fastest plan."""
    nodes = _picture_to_heads()
    planner = layout_search.Planner(nodes, 64, 96, forms, ram.RAM_LINES)
    found = planner.plan()
    assert found is not None and planner.rest_us[0][0] == pytest.approx(found.estimate_us)
    assert found.estimate_us == pytest.approx(sum(piece.estimate_us for piece in found.pieces))


def test_layers_in_pieces_are_named_by_their_channels():
    """A layer in one piece keeps its name.

    A layer that writes behind what it reads needs the lines of both.
    """
    program = kpu_networks.lowered(**SHAPE)
    for forms in (("plain",), ("sliding",)):
        model, plan = layout.lay_out(program, 72, 56, forms)
        for piece, made in zip(plan.pieces, model.kpu_layers, strict=True):
            name = program.layers[piece.layer].name
            whole = piece.last - piece.first == program.layers[piece.layer].out_channels
            assert made.name == (name if whole else f"{name} [{piece.first}:{piece.last}]")
    stem = replace(
        program,
        layers=program.layers[:1],
        sources=program.sources[:1],
        outputs=(replace(program.outputs[0], layer=0),),
    )
    # 72 pixels take two lines a row and 36 take one, which gives 3 · 56 · 2 + 8 · 28.
    model, _ = layout.lay_out(stem, 72, 56, ("plain",), 560)
    assert model.max_start_line == 560


def test_the_message_names_a_size_that_fits():
    """The user learns which layer needs how many lines and which size to use instead, and that size really fits."""
    program = kpu_networks.lowered(**SHAPE)
    with pytest.raises(layout.DoesNotFitError) as caught:
        layout.lay_out(program, 320, 240, ("plain",), 4200)
    message = str(caught.value)
    assert "320x240" in message and "of 4200 lines" in message and "layer" in message
    size = message.split("these sizes fit: ")[1].split(",")[0].split(";")[0]
    width, height = map(int, size.split("x"))
    layout.lay_out(program, width, height, ("plain",), 4200)


def test_the_message_says_what_is_in_the_way_and_which_sizes_fit():
    """The user needs the layer, its need and the nearest sizes that fit.

    The network is one layer that halves the picture. Above 32 pixels a map of h rows takes 3h lines and its result h,
    so 200 lines are enough for 50 rows. Three sizes are named, which differ from a square by no more than the layer's
    stride.
    """
    nodes = (layout_search.LayoutNode(-1, False, 3, 3, 4, 5, True, False),)
    with pytest.raises(layout.DoesNotFitError) as caught:
        layout.plan(nodes, 64, 64, ram_lines=200)
    assert str(caught.value) == (
        "64x64 does not fit into KPU RAM: layer 0 (3x3, 3 to 4 channels) needs 256 of 200 lines of 64 bytes; "
        "these sizes fit: 52x50, 50x50, 48x50"
    )
    with pytest.raises(layout.DoesNotFitError, match=r"layer 0 \(3x3, 3 to 4 channels\) needs 192 of 160 lines"):
        layout.plan(nodes, 64, 64, ram_lines=160)


def test_no_size_above_the_requested_one_is_named():
    """Neither side may grow, not even by the one pixel that a network without strides could take."""
    nodes = (layout_search.LayoutNode(-1, False, 3, 3, 4, 0, True, False),)
    planner = layout_search.Planner(nodes, 20, 20, ("plain",), 2048)
    assert layout._fitting_sizes(planner) == [(20, 20), (19, 20), (20, 19)]


def test_the_message_names_a_layer_even_if_each_would_fit_alone():
    """A layer that needs exactly all lines fits. Then the one that the search could not pass is named."""
    planner = layout_search.Planner(_picture_to_heads(), 64, 96, ("plain",), 640)
    planner.most_needed, planner.furthest = {0: 640, 1: 512}, 1
    assert "layer 1 (depthwise, 8 to 8 channels) needs 512 of 640" in layout._explain(planner)


def test_fewer_channels_than_four_leave_one():
    """Of each layer half the channels stay, but all of the picture and outputs, and no layer ends without channels."""
    nodes = (
        layout_search.LayoutNode(-1, False, 3, 3, 1, 5, False, False),
        layout_search.LayoutNode(0, False, 1, 1, 9, 0, False, False),
        layout_search.LayoutNode(1, False, 1, 9, 17, 0, True, False),
    )
    shapes = [(node.in_channels, node.out_channels) for node in layout._scaled(nodes, 2)]
    assert shapes == [(3, 1), (1, 4), (4, 17)]


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [(101, 64, "nearest is 100x64"), (640, 64, "512 wide and 256 high"), (12, 64, "at least 16x16")],
)
def test_impossible_sizes_are_refused_with_their_values(width, height, words):
    """Each is one sentence that names a size or a limit to use."""
    program = kpu_networks.lowered(**SHAPE)
    with pytest.raises(UserError, match=words):
        layout.lay_out(program, width, height)


def test_constraints_page_is_current():
    """docs/constraints.md is written from the checks, so a change of either must show."""
    from pathlib import Path

    page = Path(__file__).parents[2] / "docs" / "constraints.md"
    assert page.read_text() == constraints.markdown()


def test_cycle_model_reproduces_its_source():
    """The model was fitted to published times of layers (YOLOv2 face detector, 400 MHz), within these residuals."""
    assert cycles.shape_us(False, 1, 256, 256, 15, 20) == pytest.approx(1522, abs=13)
    assert cycles.shape_us(False, 1, 128, 256, 15, 20) == pytest.approx(781, abs=13)
    assert cycles.shape_us(False, 1, 64, 64, 60, 80) == pytest.approx(1328, abs=13)
    assert cycles.shape_us(True, 3, 256, 256, 15, 20) == pytest.approx(25.6, abs=1.5)


def test_all_posenets_fit_at_320x240():
    """PoseNet 0.50, 0.75 and 1.0 all fit at the full QVGA frame. By plain ping-pong 0.75 does not."""

    with pytest.raises(layout.DoesNotFitError, match="34560 of 32768"):
        layout.plan(posenet_nodes(0.75), 320, 240, ("plain",))
    for multiplier in (0.5, 0.75, 1.0):
        found = layout.plan(posenet_nodes(multiplier), 320, 240)
        assert found.peak_lines <= ram.RAM_LINES
        _replay(posenet_nodes(multiplier), found, ram.RAM_LINES)
