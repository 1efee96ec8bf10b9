"""Asks a board, step by step, what only a chip can tell: the work of `host_tools certify`.

Each step asks the board one thing and returns a result that JSON can hold. Results are saved in a file after every
step, so that a run that was cut off can continue there. `conclude` turns the results into a certificate without asking
the board again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common import rgb565
from common.errors import UserError
from common.files import write_atomic
from common.firmware_modules import firmware_module
from common.text import printable
from host_tools.board_link import BoardLink, BoardRefusedError, protocol
from model_build import silicon_questions
from model_build.kpu import cycles, silicon
from model_build.kpu.silicon import ASSUMED, SiliconProfile
from model_build.silicon_questions import Finding, Probe, Question, TimedLayer

FORMAT = 1
probe_program = firmware_module("probe")
"""The board's end, which names its buffers KMODEL and OUTPUT."""
FRAME = (160, 120)
SILENT_TRIES = 2
"""A step after which the board was gone this many times is not asked again."""
LARGEST_STATE_BYTES = 4 << 20
RUNS_OF_A_TIME = 5
AS_PUBLISHED = 0.08
"""The time of all layers may differ by this fraction from the published model, which leaves out the runtime's share."""
_LONGEST_TEXT = 200
_LEAST_CONTRAST = 8.0
_SURE = 0.75

Result = dict[str, Any]
Ask = Callable[[str], str]
"""A function that asks a person to look at what it is given, and returns a key of LCD_ANSWERS."""

LCD_ANSWERS = {
    "upright": "the white bar is on top and the red one at the left",
    "mirrored": "the white bar is on top and the red one at the right",
    "upside_down": "the white bar is at the bottom",
    "red_blue": "the bar that should be red is blue",
    "inverted": "the colours are inverted: the background is white",
    "other": "something else",
    "not_asked": "nobody looked",
}


@dataclass(frozen=True)
class Step:
    """One thing to ask. `work` asks a board; its result can be written as JSON."""

    name: str
    title: str
    work: Callable[[BoardLink], Result]


@dataclass
class Progress:
    """What is known so far, and its file. gone: the last step after which the board was gone, and how often."""

    path: Path
    done: dict[str, Result] = field(default_factory=dict)
    gone: tuple[str, int] = ("", 0)
    seconds: float = 0.0
    board: Result = field(default_factory=dict)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        content = {
            "format": FORMAT, "questions": silicon_questions.fingerprint(), "board": self.board, "done": self.done,
            "gone": list(self.gone), "seconds": round(self.seconds, 3),
        }  # fmt: skip
        write_atomic(self.path, json.dumps(content) + "\n")

    @staticmethod
    def load(path: Path) -> Progress:
        """What an earlier run left there; empty if there is nothing, or nothing that this version can continue."""
        fresh = Progress(path)
        try:
            if path.stat().st_size > LARGEST_STATE_BYTES:
                return fresh
            content = json.loads(path.read_text(encoding="utf-8"))
            if (content["format"], content["questions"]) != (FORMAT, silicon_questions.fingerprint()):
                return fresh
            name, count = content["gone"]
            done = {str(step): dict(result) for step, result in content["done"].items()}
            return Progress(path, done, (str(name), int(count)), float(content["seconds"]), dict(content["board"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return fresh


# -- steps


def identity(link: BoardLink) -> Result:
    """Which kind of board it is. It also tells whether a later run sees the same board. It holds no serial number."""
    facts = link.board
    texts = {name: printable(facts[name])[:_LONGEST_TEXT] for name in ("system", "machine")}
    return {**texts, "cpu_mhz": facts["cpu_mhz"], "kpu_mhz": facts["kpu_mhz"]}


def memory(link: BoardLink) -> Result:
    """Sizes of the programs' heap, the free heap of MaixPy, and the room for files."""
    names = ("heap_bytes", "system_heap_free_bytes", "files_free_bytes")
    return {name: link.board[name] for name in names}


def _put_kmodel(link: BoardLink, kmodel: bytes, planes: NDArray[np.uint8]) -> None:
    _, height, width = planes.shape
    link.run(["free", f"image:{width}:{height}"])
    piece_bytes = probe_program.LARGEST_PIECE_BYTES
    for at in range(0, len(kmodel), piece_bytes):
        piece = kmodel[at : at + piece_bytes]
        link.run([f"room:{len(piece)}"])
        link.put(probe_program.KMODEL, piece)
        link.run([f"store:{at}"])
    link.put(protocol.PLANES, planes.tobytes())


def ask_probe(link: BoardLink, probe: Probe) -> bytes:
    """The output bytes of a small kmodel on the board's KPU."""
    _put_kmodel(link, probe.kmodel, probe.planes)
    link.run(["load", "forward", "output"])
    said = link.get(probe_program.OUTPUT, probe.output_bytes)
    link.run(["free"])
    return said


def _ask_question(question: Question) -> Callable[[BoardLink], Result]:
    return lambda link: {"bytes": b"".join(ask_probe(link, probe) for probe in question.probes).hex()}


def _time_layer(timed: TimedLayer) -> Callable[[BoardLink], Result]:
    def work(link: BoardLink) -> Result:
        times = []
        for kmodel in (timed.few, timed.many):
            _put_kmodel(link, kmodel, timed.planes)
            report = link.run(["load", f"times:{RUNS_OF_A_TIME}"])
            times.append(report["values"]["forward"])
            link.run(["free"])
        return {"us": round((times[1] - times[0]) / timed.copies, 3)}

    return work


def _frame(link: BoardLink) -> tuple[bytes, NDArray[np.uint8]]:
    """The board's picture: the bytes of its pixels, and the KPU's planes as uint8 (3, height, width)."""
    width, height = FRAME
    pixels = link.get(protocol.PICTURE, 2 * width * height)
    planes = np.frombuffer(link.get(protocol.PLANES, 3 * width * height), np.uint8)
    return pixels, planes.reshape(3, height, width)


def planes_answer(pixels: bytes, planes: NDArray[np.uint8]) -> str | None:
    """Which answer to camera_planes a frame shows; None if it shows no known answer or does not decide."""
    values = np.frombuffer(pixels, "<u2").byteswap().reshape(planes.shape[1:])
    as_pixels = planes.transpose(1, 2, 0)
    made = {"zeros": rgb565.widen(values, False), "repeated": rgb565.widen(values, True)}
    fitting = [answer for answer, expected in made.items() if np.array_equal(as_pixels, expected)]
    if len(fitting) == 1:
        return fitting[0]
    near = np.abs(as_pixels.astype(int) - rgb565.expand(values)).max() <= 8
    return "full" if near and not fitting else None


def _camera(link: BoardLink) -> Result:
    values = link.run(["camera:0", "snap:8"])["values"]
    pixels, planes = _frame(link)
    return {
        "answer": planes_answer(pixels, planes), "sensor": values["sensor"], "snap_us": values["snap_us"],
    }  # fmt: skip


@dataclass(frozen=True)
class View:
    """A part in the middle of the field: it begins at `left` and has `size` of `units` steps, in both directions."""

    left: int
    size: int
    units: int


def middle_view(units: int, halving: bool) -> View:
    """About half of the field; exactly half if the sensor can only halve (firmware/sensor_view.py)."""
    size = units // 2
    if not halving and (units - size) % 2:
        size += 1
    return View((units - size) // 2, size, units)


def window_answer(whole: NDArray[np.uint8], part: NDArray[np.uint8], view: View) -> str | None:
    """Whether `part` shows the view of `whole`, enlarged, or all of it; None if the scene does not decide.

    Both pictures are uint8 (3, height, width).
    """
    _, height, width = whole.shape
    grey, seen = (picture.mean(axis=0).astype(np.float32) for picture in (whole, part))
    if grey.std() < _LEAST_CONTRAST or seen.std() < _LEAST_CONTRAST:
        return None
    top, left = height * view.left // view.units, width * view.left // view.units
    rows, columns = height * view.size // view.units, width * view.size // view.units
    enlarged = cv2.resize(grey[top : top + rows, left : left + columns], (width, height))
    to_part, to_whole = (float(np.abs(seen - other).mean()) for other in (enlarged, grey))
    if to_part < _SURE * to_whole:
        return "honoured"
    return "ignored" if to_whole < _SURE * to_part else None


def _write_registers(link: BoardLink, pairs: Sequence[tuple[int, int]]) -> None:
    """Write registers of the sensor and take three pictures, after which they have taken effect."""
    written = ["registers:" + ":".join(f"{register}:{value}" for register, value in pairs)] if pairs else []
    link.run([*written, "snap:3"])


def _camera_window(link: BoardLink) -> Result:
    sensor = link.run(["camera:0", "snap:2"])["values"]["sensor"]
    sensor_view = firmware_module("sensor_view")
    chosen = sensor_view.steps(sensor, *FRAME, FRAME[0])
    if chosen is None:
        return {"answer": None, "remark": "this sensor cannot show a part of its field"}
    view = middle_view(chosen[0], chosen[2])
    _write_registers(link, sensor_view.whole_registers(sensor, *FRAME, FRAME[0]))
    _, whole = _frame(link)
    part = view.left, view.left, view.size
    _write_registers(link, sensor_view.view_registers(sensor, *FRAME, part, view.units, FRAME[0]))
    return {"answer": window_answer(whole, _frame(link)[1], view)}


def _double_buffer(link: BoardLink) -> Result:
    values = link.run(["camera:1", "snap:8"])["values"]
    return {"buffers": values["buffers"], "snap_us": values["snap_us"]}


def _lcd(ask: Ask) -> Callable[[BoardLink], Result]:
    def work(link: BoardLink) -> Result:
        values = link.run(["lcd"])["values"]
        if "lcd_width" not in values:
            return {"answer": "not_asked", "remark": "no LCD by the board's settings"}
        link.transport.sleep(0.2)
        size = {"width": values["lcd_width"], "height": values["lcd_height"]}
        return {"answer": ask("the board's LCD"), **size}

    return work


def lcd_answer(shown: NDArray[np.uint8]) -> str:
    """What a person would answer who sees probe.py's picture on the LCD; uint8 (height, width, 3) RGB."""
    height, width = shown.shape[:2]
    bright = shown.astype(int)
    corners = bright[[0, 0, -1, -1], [0, -1, 0, -1]]
    if (corners.min(axis=1) > 200).all():
        return "inverted"
    white = np.argwhere(bright.min(axis=2) > 200)
    red = np.argwhere((bright[..., 0] > 200) & (bright[..., 1:].max(axis=2) < 60))
    blue = np.argwhere((bright[..., 2] > 200) & (bright[..., :2].max(axis=2) < 60))
    if not len(white):
        return "other"
    if not len(red):
        return "red_blue" if len(blue) else "other"
    if white[:, 0].mean() > red[:, 0].mean():
        return "upside_down"
    return "upright" if red[:, 1].mean() < white[:, 1].mean() else "mirrored"


def steps(ask_lcd: Ask, timed: bool = True) -> list[Step]:
    """All steps that need no network on the board, in order. timed: whether the board's times are those of a chip."""
    asked = [
        Step(question.name, silicon.title_of(question.name), _ask_question(question))
        for question in silicon_questions.questions()
    ]
    layers = [
        Step(f"time: {layer.name}", f"Time of a layer: {layer.name}", _time_layer(layer))
        for layer in silicon_questions.timed_layers()
    ]
    return [
        Step("memory", "Memory", memory),
        *asked,
        Step("camera_planes", silicon.title_of("camera_planes"), _camera),
        Step("camera_window", silicon.title_of("camera_window"), _camera_window),
        Step("double_buffer", "Two frame buffers", _double_buffer),
        Step("lcd", "The LCD", _lcd(ask_lcd)),
        *(layers if timed else ()),
    ]


def run_steps(
    link: BoardLink, todo: Sequence[Step], progress: Progress, since_s: float
) -> Iterator[tuple[Step, Result]]:
    """Ask what is not known yet, save each result and yield it. Known results are yielded too.

    since_s: when the work with this board began, by the line's clock; the time since then is part of the run's time.
    If the board refuses a step, the next one follows. A step after which the board was gone twice is not asked again.
    """
    for step in todo:
        if step.name not in progress.done:
            count = progress.gone[1] if progress.gone[0] == step.name else 0
            if count >= SILENT_TRIES:
                result: Result = {"silent": True}
            else:
                try:
                    result = step.work(link)
                except BoardRefusedError as refusal:
                    result = {"refused": printable(str(refusal).partition("cannot do it: ")[2])[:_LONGEST_TEXT]}
                except UserError:
                    progress.gone = step.name, count + 1
                    progress.save()
                    raise
                now_s = link.transport.now()
                progress.seconds += now_s - since_s
                since_s = now_s
            progress.done[step.name] = result
            progress.save()
        yield step, progress.done[step.name]


# -- what follows from it


@dataclass(frozen=True)
class Certificate:
    """The conclusions about a board. unknown: question → bytes that no known answer gives, in hex."""

    board: Result
    facts: dict[str, Result]
    silicon: SiliconProfile
    findings: tuple[Finding, ...]
    unknown: dict[str, str]
    times_us: dict[str, float]
    time_factor: float | None
    old_error: float
    new_error: float
    network: Result | None
    seconds: float

    @property
    def departures(self) -> list[str]:
        """What is not as assumed, one line each."""
        lines = self.silicon.differences()
        lines += [f"{silicon.title_of(name)}: none of the known answers" for name in sorted(self.unknown)]
        if self.time_factor is not None and abs(self.time_factor - 1) > AS_PUBLISHED:
            faster = "slower" if self.time_factor > 1 else "faster"
            lines.append(f"KPU: {abs(self.time_factor - 1):.0%} {faster} than the published times")
        lcd = self.facts.get("lcd", {}).get("answer", "not_asked")
        if lcd not in ("upright", "not_asked"):
            lines.append(f"LCD: {LCD_ANSWERS[lcd]}")
        if self.network is not None and not self.network["equal"]:
            lines.append(f"The network on stored pictures: {self.network['fault']}")
        return lines

    @property
    def unanswered(self) -> list[str]:
        """Questions without an answer, in words, one line each."""
        answered = {finding.name for finding in self.findings}
        return [silicon.title_of(name) for name in silicon.names() if name not in answered]

    def to_dict(self) -> dict[str, Any]:
        """The content of certify.json; nothing in it identifies a person or a single board."""
        return {
            "format": FORMAT,
            "questions": silicon_questions.fingerprint(),
            "as_assumed": not self.departures and not self.unanswered,
            "departures": self.departures,
            "unanswered": self.unanswered,
            "board": self.board,
            "facts": self.facts,
            "silicon": self.silicon.to_dict(),
            "unknown": self.unknown,
            "layer_us": self.times_us,
            "time_factor": self.time_factor,
            "cycle_model_error": {"published": self.old_error, "fitted": self.new_error},
            "network": self.network,
            "seconds": self.seconds,
        }


def kpu_clock_hz(board: Result) -> float:
    """The KPU's clock by the board's identity; the usual one if the board does not tell."""
    return 1e6 * (board.get("kpu_mhz") or cycles.KPU_CLOCK_HZ / 1e6)


def conclude(progress: Progress) -> Certificate:
    """Make a certificate from everything that is known so far."""
    done = progress.done
    names = silicon.names("kpu")
    said = {name: bytes.fromhex(done[name]["bytes"]) for name in names if "bytes" in done.get(name, {})}
    profile, found = silicon_questions.settle(said)
    findings = list(found)
    for name in silicon.names("board"):
        answer = done.get(name, {}).get("answer")
        if answer in silicon.answers_of(name):
            profile = silicon.with_answer(profile, name, answer)
            findings.append(Finding(name, answer))
    times = {
        layer.name: float(done[f"time: {layer.name}"]["us"])
        for layer in silicon_questions.timed_layers()
        if done.get(f"time: {layer.name}", {}).get("us", 0) > 0
    }
    kpu_hz = kpu_clock_hz(progress.board)
    complete = len(times) == len(silicon_questions.timed_layers())
    factor = silicon_questions.time_factor(times, kpu_hz) if complete else None
    if factor is not None:
        profile = replace(profile, cycles=silicon_questions.fit(times, kpu_hz))
    return Certificate(
        board=progress.board,
        facts={
            name: done[name] for name in ("memory", *silicon.names("board"), "double_buffer", "lcd") if name in done
        },
        silicon=profile,
        findings=tuple(findings),
        unknown={finding.name: said[finding.name].hex() for finding in findings if finding.answer is None},
        times_us=times,
        time_factor=None if factor is None else round(factor, 4),
        old_error=round(silicon_questions.model_error(times, kpu_hz, cycles.PUBLISHED), 4),
        new_error=round(silicon_questions.model_error(times, kpu_hz, profile.cycles), 4),
        network=done.get("network"),
        seconds=round(progress.seconds, 1),
    )


def describe(step: Step, result: Mapping[str, Any]) -> str:
    """A result in a few words, for the terminal."""
    if result.get("silent"):
        return "the board did not come back from this; left out"
    if "refused" in result:
        return f"the board cannot: {result['refused']}"
    if "bytes" in result:
        question = next(question for question in silicon_questions.questions() if question.name == step.name)
        as_assumed = bytes.fromhex(result["bytes"]) == silicon_questions.expected(question, ASSUMED)
        # The answer to another question may show in these bytes too; `settle` finds out which one it is.
        return "as assumed" if as_assumed else "other bytes than assumed, see the end"
    if step.name in silicon.names("board"):
        answer = result.get("answer")
        if answer is None:
            return str(result.get("remark", "this picture does not tell; point the camera at something with edges"))
        return "as assumed" if answer == silicon.answers_of(step.name)[0] else silicon.words(step.name, answer)
    if step.name == "lcd":
        return LCD_ANSWERS[result["answer"]]
    if step.name == "network":
        return f"{result['pictures']} pictures, every stage equal" if result["equal"] else str(result["fault"])
    if set(result) == {"us"}:
        return f"{result['us']:.1f} us"
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result.items())


def same_board(progress: Progress, board: Result) -> bool:
    """Whether a run can continue with this board, because its identity is the same."""
    return not progress.board or progress.board == board
