"""certify on stock MaixPy in the K210 emulator, with MaixPy's own KPU library, camera driver and LCD, for two chips."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.firmware_py_mpy import compiled, installed, with_imports
from host_tools import certify
from host_tools.certify import Certificate, Progress
from host_tools.certify_html import render_page
from host_tools.commands import certify as command
from model_build.kpu import silicon
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from sim.parts.camera_source import scene_camera
from tests.support.images import firmware_image
from tests.support.touchy_network import write_touchy_build

pytestmark = [pytest.mark.slow, pytest.mark.firmware_image]


def certificate_of(chip: SiliconProfile, folder) -> Certificate:
    """The certificate of an emulated board with this chip and a small network that shows what its KPU does."""
    from sim.k210.k210_board import K210Board

    build = write_touchy_build(folder / "touchy")
    board = K210Board(firmware_image().read_bytes(), source=scene_camera().frame, silicon=chip)
    transport = installed(board, build, compiled(with_imports("posenet", "boards", "drawing"))).transport
    progress = command.ask_board(transport, Progress(folder / "state.json"), 1_500_000)
    progress.done["network"] = command.ask_network(transport, build, progress, 1_500_000)
    return certify.conclude(progress)


def test_the_control_is_as_assumed(tmp_path):
    """Nothing of MaixPy is replaced, so this shows whether its library, driver and file system are as we model them.

    The fitted cycle model must be the one that the emulator uses, plus what the runtime adds to each layer. On a line
    at 1.5 Mbaud everything takes less than two minutes of the board's time.
    """
    made = certificate_of(ASSUMED, tmp_path)
    assert made.departures == [] and made.unanswered == [] and made.network and made.network["equal"]
    assert {finding.name: finding.answer for finding in made.findings} == {
        name: silicon.answers_of(name)[0] for name in silicon.names()
    }
    assert made.facts["lcd"]["answer"] == "upright" and made.facts["double_buffer"]["buffers"] == 2
    # When the emulated hart notices a layer's end depends on what the other hart does. Factors of 1.02 and 1.06 were
    # measured, and lines of 2.90 ns where the model has 2.63.
    assert made.time_factor is not None
    assert 1 <= made.time_factor < 1.1 and made.new_error < made.old_error
    assert made.silicon.cycles.conv_line_ns == pytest.approx(ASSUMED.cycles.conv_line_ns, rel=0.15)
    assert made.seconds < 120
    assert "All as assumed" in render_page(made)
    assert json.loads(json.dumps(made.to_dict()))["as_assumed"]


def test_an_altered_chip_is_found_in_every_part(tmp_path):
    """Six alterations in KPU, camera and clock at once are all named, and with the profile the network is equal."""
    altered = {
        "rounding": "half_up", "padding": "edge", "conv_overlap": "channel", "odd_pooling": "last",
        "camera_planes": "repeated", "camera_window": "ignored",
    }  # fmt: skip
    chip = replace(ASSUMED, cycles=ASSUMED.cycles.slower(1.2), **altered)
    made = certificate_of(chip, tmp_path)
    assert {name: getattr(made.silicon, name) for name in silicon.names()} == {
        name: altered.get(name, silicon.answers_of(name)[0]) for name in silicon.names()
    }
    assert made.network and made.network["equal"] and len(made.departures) == len(altered) + 1
    assert made.time_factor is not None and 1.18 < made.time_factor < 1.32
    assert any("slower than the published times" in line for line in made.departures)
