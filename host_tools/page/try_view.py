"""The server part of the page's "Try it": takes a picture and answers with what the chip would find in it.

The browser sends raw RGB, because it decodes cameras, photos and videos better than we could. A network is opened, and
built if it is missing, when a frame first asks for it; until it is ready, the answers tell how far it is.
"""

from __future__ import annotations

import json
import os
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cli import parse_size
from common.decoder_options import DEFAULTS, DecoderOptions
from common.drawing import COLOURS
from common.errors import UserError
from common.firmware_modules import firmware_module
from common.page_server import LARGEST_BODY_BYTES, Answer, Handler, Request
from common.pictures import CAMERA_SIZE, Letterbox, letterbox, to_planes, turn
from common.pose import SCORE_ONE_Q15, Pose
from common.skeleton import EDGES, KEYPOINTS
from host_tools.flashing import Ui
from host_tools.payload import WHAT_OURS_SEE, build_folder, default_models
from model_build import catalog
from model_build.build_folder import BuildFolder
from model_build.decoding import Decode, make_decoder
from model_build.engines import Engine, open_engine
from model_build.manifest import Manifest
from model_build.rotation import MOUNTS
from model_build.scene import Scene
from sim.framing import LEAST_UNITS, UNITS, Field, Looker, in_picture

SIZES = ("320x240", "256x240", "256x192", "224x160", "192x144")
"""Sizes that the page offers; a request may ask for any that the compiler can place."""
OPEN_NETWORKS = 4
PANELS = 16
"""How many sources keep their people's numbers and their framing; the least recently used one is dropped."""
LEAST_SCORE_SHOWN = 0.05


@dataclass
class Network:
    """An open network with the lock that its engine needs. kpu_ms: the report's estimate of the chip's time."""

    manifest: Manifest
    engine: Engine
    kpu_ms: float
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, build: BuildFolder) -> Network:
        """Open the network of a build folder, with up to four threads for a frame."""
        totals = json.loads(build.report_json.read_text(encoding="utf-8"))["kpu"]["totals"]
        engine = open_engine("kpu", build, threads=min(os.cpu_count() or 1, 4))
        return cls(build.load_manifest(), engine, round(float(totals["estimate_ms"]), 1))

    def heads(self, picture: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The heads for a picture, uint8 (height, width, 3)."""
        with self.lock:
            return self.engine.run(to_planes(picture))


class Networks:
    """Open networks by (name, size, mount); each is opened in a thread of its own."""

    def __init__(self, build: Callable[[str, tuple[int, int], int, Ui], Path] | None = None):
        self._build = build or (lambda name, size, mount, ui: build_folder(name, size, None, ui, mount))
        self._lock = threading.Lock()
        self._ready: OrderedDict[tuple[str, tuple[int, int], int], Network] = OrderedDict()
        self._said: dict[tuple[str, tuple[int, int], int], str] = {}
        self._failed: dict[tuple[str, tuple[int, int], int], UserError] = {}
        self._one_at_a_time = threading.Lock()

    def get(self, name: str, size: tuple[int, int], mount: int) -> Network | str:
        """The network, or a text about its progress; UserError, once, if it cannot be opened."""
        key = name, size, mount
        with self._lock:
            if (ready := self._ready.get(key)) is not None:
                self._ready.move_to_end(key)
                return ready
            if (failed := self._failed.pop(key, None)) is not None:
                raise failed
            if key not in self._said:
                self._said[key] = "opening the network"
                threading.Thread(target=self._open, args=key, daemon=True).start()
            return self._said[key]

    def _open(self, name: str, size: tuple[int, int], mount: int) -> None:
        key = name, size, mount

        def say(text: str) -> None:
            self._said[key] = text

        try:
            with self._one_at_a_time:
                opened = Network.open(BuildFolder(self._build(name, size, mount, Ui(step=say, detail=say))))
        except UserError as error:
            with self._lock:
                self._failed[key] = error
        except Exception as error:  # a bug: the page shows it
            with self._lock:
                self._failed[key] = UserError(f"this is a fault in the program: {type(error).__name__}: {error}")
        else:
            with self._lock:
                self._ready[key] = opened
                while len(self._ready) > OPEN_NETWORKS:
                    self._ready.popitem(last=False)
        finally:
            with self._lock:
                del self._said[key]


@dataclass(frozen=True)
class Wish:
    """What a request asks for, checked."""

    network: str
    size: tuple[int, int]
    mount: int
    options: DecoderOptions
    framing: bool
    is_still: bool
    heat: int | None
    """The keypoint whose heatmap and offsets to show; −1: the heatmap of all keypoints together."""
    panel: str
    track: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wish:
        """A checked wish from a request; UserError if a value is out of range."""
        size = parse_size(query.get("size", ""))
        if max(size) > 640:
            raise UserError(f"{size[0]}x{size[1]} is too large for this page: give at most 640 pixels per side")
        heat = query.get("heat", "")
        return cls(
            network=query.get("network", ""),
            size=size,
            mount=_whole(query, "mount", 0, 0, 270),
            options=DecoderOptions(
                single=query.get("single") == "1",
                max_poses=_whole(query, "people", DEFAULTS.max_poses, 1, 20),
                score_threshold=_whole(query, "threshold", round(100 * DEFAULTS.score_threshold), 1, 99) / 100,
            ),
            framing=query.get("framing") == "1",
            is_still=query.get("still") == "1",
            heat=_whole(query, "heat", -1, -1, len(KEYPOINTS) - 1) if heat else None,
            panel=query.get("panel", "")[:20],
            track=query.get("track") == "1",
        )


def _whole(query: Mapping[str, str], name: str, default: int, least: int, greatest: int) -> int:
    text = query.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r:.20}; it must be a whole number") from None
    if not least <= value <= greatest:
        raise UserError(f"{name} is {value}; it must be {least} to {greatest}")
    return value


class Panel:
    """The state of one source from frame to frame: the decoder, the framing's view, people's numbers."""

    def __init__(self, wish: Wish, network: Network):
        self.settings = self.of(wish, network)
        self.decode: Decode = make_decoder(network.manifest, wish.options)
        width, height = network.manifest.field
        self.framing = firmware_module("framing").Framing(width, height, UNITS, LEAST_UNITS)
        self.tracker = firmware_module("tracker").Tracker() if wish.track else None
        self.threshold = wish.options.for_board()["score_threshold_q15"]
        self.lock = threading.Lock()

    @staticmethod
    def of(wish: Wish, network: Network) -> tuple[Any, ...]:
        """The settings whose change needs a new panel."""
        return id(network), wish.options, wish.framing, wish.is_still, wish.track

    def named(self, poses: list[Pose]) -> list[tuple[int, Pose]]:
        """Give poses of the whole picture lasting numbers and smooth them, as the board's application does."""
        if self.tracker is None:
            return list(enumerate(poses, 1))
        seen = [
            SimpleNamespace(
                data=array("i", pose.to_integers().tolist()), id=0, track=None, threshold_q15=self.threshold
            )
            for pose in poses
        ]
        # The tracker removes people who are not reported yet from the list.
        self.tracker.update(seen, int(monotonic() * 1000))
        return [(pose.id, Pose.from_integers(pose.data)) for pose in seen]


class TryView:
    """Handlers of "Try it"."""

    def __init__(self, networks: Networks | None = None):
        self._networks = networks or Networks()
        self._panels: OrderedDict[str, Panel] = OrderedDict()
        self._lock = threading.Lock()
        self._scenes: dict[int, Scene] = {}

    def handlers(self) -> dict[str, Handler]:
        """The handlers for common.page_server.PageServer."""
        return {
            "GET /try/choices": lambda request: Answer.json(choices()),
            "GET /try/scene": self.scene,
            "POST /try/frame": self.frame,
        }

    def scene(self, request: Request) -> Answer:
        """A frame of the rendered scene at `ms`: raw RGB, of CAMERA_SIZE."""
        seed = _whole(request.query, "seed", 7, 0, 999)
        time_s = _whole(request.query, "ms", 0, 0, 1 << 40) / 1000
        with self._lock:
            if seed not in self._scenes:
                self._scenes = {seed: Scene(seed)}
            picture = self._scenes[seed].frame(time_s, *CAMERA_SIZE)
        return Answer(picture.tobytes(), "application/octet-stream")

    def frame(self, request: Request) -> Answer:
        """Raw RGB of `w`×`h` → poses in its pixels, times, and whatever else the request asks for."""
        wish = Wish.of(request.query)
        if wish.network not in names_offered():
            raise UserError(f"no network is called {wish.network!r:.40}; known networks: {', '.join(names_offered())}")
        if wish.mount not in MOUNTS:
            raise UserError(f"mount is {wish.mount}; it can be {', '.join(map(str, MOUNTS))}")
        width, height = (_whole(request.query, side, 0, 1, 4096) for side in ("w", "h"))
        if len(request.body) != 3 * width * height:
            raise UserError(
                f"{len(request.body)} bytes arrived, but {width}x{height} pixels of RGB have {3 * width * height}"
            )
        network = self._networks.get(wish.network, wish.size, wish.mount)
        if isinstance(network, str):
            return Answer.json({"wait": network})
        picture = np.frombuffer(request.body, np.uint8).reshape(height, width, 3)
        return Answer.json(self._look(picture, wish, network))

    def _panel(self, wish: Wish, network: Network) -> Panel:
        with self._lock:
            panel = self._panels.get(wish.panel)
            if panel is None or panel.settings != Panel.of(wish, network):
                panel = self._panels[wish.panel] = Panel(wish, network)
            self._panels.move_to_end(wish.panel)
            while len(self._panels) > PANELS:
                self._panels.popitem(last=False)
            return panel

    def _look(self, picture: NDArray[np.uint8], wish: Wish, network: Network) -> dict[str, Any]:
        panel = self._panel(wish, network)
        manifest = network.manifest
        times: dict[str, float] = {"network": 0.0}
        whole_heads: list[Mapping[str, NDArray[Any]]] = []

        def heads_of(fitted: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
            started = time.perf_counter()
            heads = network.heads(fitted)
            times["network"] += 1000 * (time.perf_counter() - started)
            whole_heads.append(heads)
            return heads

        with panel.lock:
            started = time.perf_counter()
            view = None
            fitted, box = letterbox(picture, manifest.width, manifest.height, wish.mount, manifest.widening)
            if wish.framing:
                poses, view = self._framed(turn(picture, wish.mount), wish, panel, heads_of, manifest)
                upright = Letterbox(1.0, 1.0, 0, 0, picture.shape[1], picture.shape[0], wish.mount)
                poses = [pose.in_source(upright) for pose in poses]
            else:
                poses = [pose.in_source(box) for pose in panel.decode(heads_of(fitted))]
            named = panel.named(poses)
            times["all"] = 1000 * (time.perf_counter() - started)
        answer = {
            "poses": [_entry(number, pose) for number, pose in named],
            "ms": {name: round(value, 1) for name, value in times.items()},
            "cpu_s": round(time.process_time(), 3),
            "kpu_ms": network.kpu_ms,
            "network": f"{manifest.network} {manifest.width}x{manifest.height}",
        }
        if view is not None:
            answer["view"] = view_corners(view, box, manifest)
        if wish.heat is not None and (view is None or len(whole_heads) == 1 and view[2] == UNITS):
            answer["heat"] = heat_cells(whole_heads[0], manifest, box, wish.heat)
        return answer

    @staticmethod
    def _framed(
        picture: NDArray[np.uint8],
        wish: Wish,
        panel: Panel,
        heads_of: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]],
        manifest: Manifest,
    ) -> tuple[list[Pose], tuple[int, int, int]]:
        """Poses in pixels of the turned picture, and the view they were seen in."""
        seen = Field(picture, manifest.width, manifest.height, widening=manifest.widening)

        def heads_of_planes(planes: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
            return heads_of(np.ascontiguousarray(planes.transpose(1, 2, 0)))

        looker = Looker(heads_of_planes, panel.decode)
        if wish.is_still:
            return looker.framed(seen), (0, 0, UNITS)
        view = panel.framing.wanted
        poses: list[SimpleNamespace] = looker.look(seen, view, panel.framing)
        panel.framing.update(poses, int(monotonic() * 1000))
        return in_picture(poses, seen), view


def _entry(number: int, pose: Pose) -> dict[str, Any]:
    points = [
        [round(float(x), 1), round(float(y), 1), round(float(score), 3)]
        for (x, y), score in zip(pose.keypoints, pose.scores, strict=True)
    ]
    return {"id": number, "score": round(float(pose.score), 3), "keypoints": points}


def view_corners(view: tuple[int, int, int], box: Letterbox, manifest: Manifest) -> list[list[float]]:
    """Corners of the framing's view in pixels of the picture."""
    left, top, size = view
    across, down = (side / UNITS for side in manifest.field)
    ends = ((left, top), (left + size, top), (left + size, top + size), (left, top + size))
    return [[round(value, 1) for value in box.to_source(x * across, y * down)] for x, y in ends]


def heat_cells(heads: Mapping[str, NDArray[Any]], manifest: Manifest, box: Letterbox, keypoint: int) -> dict[str, Any]:
    """Cells of one keypoint's heatmap with a visible score, in pixels of the picture: [x, y, score, and the x and y
    that the offset points to]. −1: the heatmap of all keypoints together, without offsets. `size`: the width of a
    cell."""
    score_of = np.asarray(manifest.sigmoid_q15) / SCORE_ONE_Q15
    scores = score_of[heads["heatmap"]]
    best = scores.max(axis=0) if keypoint < 0 else scores[keypoint]
    offsets = manifest.head("short_offset").dequantize(heads["short_offset"])
    cells = []
    for row, column in zip(*np.nonzero(best >= LEAST_SCORE_SHOWN), strict=True):
        x, y = column * manifest.output_stride * manifest.widening, row * manifest.output_stride
        cell = [*box.to_source(x, y), float(best[row, column])]
        if keypoint >= 0:
            down, across = offsets[keypoint, row, column], offsets[keypoint + len(KEYPOINTS), row, column]
            cell += box.to_source(x + across * manifest.widening, y + down)
        cells.append([round(value, 2) for value in cell])
    return {"size": round(manifest.output_stride / box.scale, 2), "cells": cells}


def names_offered() -> list[str]:
    """Names of the networks that can be chosen; those that come with the repository are last."""
    names = [name for entry in catalog.NETWORKS for name in (*entry.also, entry.name)]
    return list(dict.fromkeys(names))


def choices() -> dict[str, Any]:
    """The choices and limits that the page shows."""
    networks = []
    for name in names_offered():
        entry = catalog.find(name)
        assert entry is not None
        is_here = catalog.locate(entry) is not None
        networks.append(
            {
                "name": name,
                "what": WHAT_OURS_SEE.get(name, entry.what),
                "here": is_here,
                "size": "{}x{}".format(*catalog.usual_size(name)),
                "megabytes": round((entry.bytes or 0) / 1e6, 1),
            }
        )
    here = [network["name"] for network in networks if network["here"]]
    return {
        "networks": networks,
        "chosen": next((name for name in default_models() if name in here), catalog.OURS),
        "sizes": list(SIZES),
        "mounts": list(MOUNTS),
        "keypoints": list(KEYPOINTS),
        "edges": [list(edge) for edge in EDGES],
        "colours": ["rgb({}, {}, {})".format(*colour) for colour in COLOURS],
        "threshold": round(100 * DEFAULTS.score_threshold),
        "people": DEFAULTS.max_poses,
        "scene": list(CAMERA_SIZE),
        "largest_bytes": LARGEST_BODY_BYTES,
    }
