"""What only a chip can tell, as data: a silicon profile.

This project is checked against nncase's kernels and MaixPy's own code. Where those do not settle what a chip does, or
disagree, the profile has a field with the answers that a chip could give, the assumed one first. The engine
(model_build/engines/silicon_layer.py) and both boards compute with any of them; `python -m host_tools certify` finds
those of a real chip.

A profile is a small JSON file, `{"format": 1, "kpu": {...}, "board": {...}, "cycle_model": {...}}`. Questions that a
file does not name have the assumed answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from common.errors import FormatError, UserError
from common.text import printable
from model_build.kpu.cycles import PUBLISHED, CycleModel

FORMAT = 1
LARGEST_FILE_BYTES = 65536
_SHOWN = 40


def _kpu(title: str, **answers: str) -> str:
    return _field("kpu", title, answers)


def _board(title: str, **answers: str) -> str:
    return _field("board", title, answers)


def _field(part: str, title: str, answers: dict[str, str]) -> str:
    """A field whose default is the first of its answers."""
    made: str = field(default=next(iter(answers)), metadata={"part": part, "title": title, "answers": answers})
    return made


@dataclass(frozen=True)
class SiliconProfile:
    """One answer for each question; `words` tells what an answer means."""

    rounding: str = _kpu(
        "Rounding of the activation's shift, results above zero",
        half_even="to the nearest whole number, a half to the even one (nncase 1.x)",
        half_up="to the nearest whole number, a half upwards (nncase 0.1)",
        half_down="to the nearest whole number, a half downwards",
        floor="downwards always",
    )
    negative_rounding: str = _kpu(
        "Rounding of the activation's shift, results below zero",
        below="where it would round upwards, one below the next lower whole number (nncase 0.1 to 1.x)",
        nearest="to the nearest whole number",
        floor="downwards always",
    )
    segment_start: str = _kpu(
        "A value equal to the start of a segment of the activation",
        before="belongs to the segment before (nncase 0.2 to 1.x)",
        inside="belongs to the segment (nncase 0.1)",
    )
    saturation: str = _kpu(
        "Results outside of 0 to 255",
        after_bias="are held at 0 and 255 after the segment's bias is added",
        before_bias="are held at 0 and 255 before the bias is added, and after it again",
        wrap="lose their upper bits",
    )
    shift_number: str = _kpu(
        "The activation's shift has a field of eight bits",
        eight_bits="all of them count: a shift of 66 leaves nothing",
        six_bits="six of them count: a shift of 66 is a shift of 2",
    )
    norm_shift: str = _kpu(
        "The batch norm's shift of a negative product",
        floor="rounds downwards",
        to_zero="rounds towards zero",
        nearest="rounds to the nearest whole number",
    )
    sum_shift: str = _kpu(
        "The shift of a negative sum of inputs (shr_x)",
        floor="rounds downwards",
        to_zero="rounds towards zero",
    )
    norm_mul: str = _kpu(
        "The batch norm's factor of 24 bits",
        signed="has a sign",
        unsigned="has no sign",
    )
    norm_width: str = _kpu(
        "A result of the batch norm beyond 36 bits",
        wide="keeps its value",
        saturate="is held at the largest that 36 bits hold",
        wrap="loses its upper bits",
    )
    arg_add: str = _kpu(
        "The constant arg_add of a sum over several input channels",
        each_input="is added once for each input channel (nncase)",
        once="is added once",
    )
    padding: str = _kpu(
        "What lies around a map for a 3x3 kernel",
        value="the pad value",
        zero="zeros",
        edge="the map's edge, repeated",
    )
    weight_loads: str = _kpu(
        "Weights that are loaded in several times",
        each="each time the next ones",
        first="the first ones stay",
    )
    odd_pooling: str = _kpu(
        "Left-top pooling of an odd number of rows or columns",
        first="keeps pixels 0, 2, 4 ...: the last one is left over",
        last="keeps pixels 1, 3, 5 ...: the first one is left over",
    )
    line_edges: str = _kpu(
        "Maps of exactly 16, 32 or 64 columns in KPU RAM",
        registers="lie as the registers say: 4, 2, 1 channels a line",
        next="lie as a wider map would",
    )
    depthwise_overlap: str = _kpu(
        "A depthwise layer that writes over its own input",
        whole="reads all of it before it writes",
        channel="reads each channel just before it writes it",
        line="reads each row just before it writes it",
    )
    conv_overlap: str = _kpu(
        "A full convolution that writes over its own input",
        whole="reads all of it before it writes",
        channel="reads it again for each output channel",
        line="reads it again for each row",
    )
    camera_planes: str = _board(
        "The camera's planes for the KPU",
        full="have all eight bits of the sensor's pixels",
        zeros="are the display's pixels with zeros below",
        repeated="are the display's pixels with their upper bits repeated below",
    )
    camera_window: str = _board(
        "A part of the field asked for in the sensor's registers",
        honoured="comes, enlarged",
        ignored="is not cut out: the whole field comes",
    )
    cycles: CycleModel = field(default=PUBLISHED, metadata={"part": "cycle_model"})

    @property
    def assumed_arithmetic(self) -> bool:
        """Whether the KPU computes as the fast engine does."""
        return all(getattr(self, name) == answers_of(name)[0] for name in names("kpu"))

    def differences(self) -> list[str]:
        """The differences between this chip and what is assumed, one line each."""
        return [
            f"{title_of(name)}: {words(name, getattr(self, name))}"
            for name in names()
            if getattr(self, name) != answers_of(name)[0]
        ]

    def to_dict(self) -> dict[str, Any]:
        """The content of the profile's file."""
        parts = {part: {name: getattr(self, name) for name in names(part)} for part in ("kpu", "board")}
        return {"format": FORMAT, **parts, "cycle_model": asdict(self.cycles)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @staticmethod
    def from_dict(content: object) -> SiliconProfile:
        """The profile in JSON content; FormatError for anything else."""
        if isinstance(content, Mapping) and "silicon" in content:
            content = content["silicon"]  # the file that certify writes for an issue contains the profile
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, Mapping) else type(content).__name__
            raise FormatError(f"not a silicon profile of format {FORMAT}: format {printable(repr(found))[:_SHOWN]}")
        found_answers: dict[str, str] = {}
        for part in ("kpu", "board"):
            given = content.get(part, {})
            if not isinstance(given, Mapping):
                raise FormatError(f"silicon profile: {part!r} is not a table of answers")
            for name, answer in given.items():
                if name not in names(part):
                    raise FormatError(f"silicon profile: {part} has no question {printable(repr(name))[:_SHOWN]}")
                if answer not in answers_of(name):
                    raise FormatError(
                        f"silicon profile: {name} is {printable(repr(answer))[:_SHOWN]}; known answers: "
                        f"{', '.join(answers_of(name))}"
                    )
                found_answers[name] = answer
        return SiliconProfile(cycles=_cycle_model(content.get("cycle_model", {})), **found_answers)

    @staticmethod
    def load(path: Path) -> SiliconProfile:
        """The profile in a file; UserError if it cannot be read or is not a profile."""
        try:
            with path.open("rb") as file:
                data = file.read(LARGEST_FILE_BYTES + 1)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; make one with `python -m host_tools certify`") from None
        try:
            if len(data) > LARGEST_FILE_BYTES:
                raise FormatError(f"a file of more than {LARGEST_FILE_BYTES} bytes cannot be a silicon profile")
            return SiliconProfile.from_dict(json.loads(data.decode()))
        except (FormatError, ValueError, RecursionError) as error:
            reason = error if isinstance(error, FormatError) else "not JSON"
            raise UserError(f"{path}: {reason}; make one with `python -m host_tools certify`") from None


def _cycle_model(given: object) -> CycleModel:
    if not isinstance(given, Mapping):
        raise FormatError("silicon profile: 'cycle_model' is not a table of times")
    known = {entry.name for entry in fields(CycleModel)}
    for name, value in given.items():
        if name not in known:
            raise FormatError(f"silicon profile: no time is called {printable(repr(name))[:_SHOWN]}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise FormatError(f"silicon profile: {name} is {printable(repr(value))[:_SHOWN]}, not a time")
    return replace(PUBLISHED, **{name: float(value) for name, value in given.items()})


ASSUMED = SiliconProfile()
_FIELDS = {entry.name: entry for entry in fields(SiliconProfile) if "answers" in entry.metadata}


def names(part: str | None = None) -> list[str]:
    """The questions, in the order in which they are asked; `part`: "kpu" or "board"."""
    return [name for name, entry in _FIELDS.items() if part in (None, entry.metadata["part"])]


def answers_of(name: str) -> list[str]:
    """All known answers, the assumed one first."""
    return list(_FIELDS[name].metadata["answers"])


def title_of(name: str) -> str:
    """The question in words."""
    title: str = _FIELDS[name].metadata["title"]
    return title


def words(name: str, answer: str) -> str:
    """What this answer means, in words."""
    text: str = _FIELDS[name].metadata["answers"][answer]
    return text


def with_answer(profile: SiliconProfile, name: str, answer: str) -> SiliconProfile:
    """The profile with another answer to one question."""
    if answer not in answers_of(name):
        raise FormatError(f"{name} has no answer {answer!r}; known answers: {', '.join(answers_of(name))}")
    return replace(profile, **{name: answer})  # type: ignore[arg-type]
