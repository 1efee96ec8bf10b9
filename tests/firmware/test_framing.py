"""The view closes in on people, follows them, opens when they are gone, and never moves a person in the field."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.firmware_modules import firmware_module

Framing = firmware_module("framing").Framing
FRAME_MS = 70


def person(x: float, y: float, height: float = 60, number: int = 1) -> SimpleNamespace:
    """A pose of 17 certain keypoints in a box around (x, y) px of the field, half as wide as it is high."""
    points = np.linspace((x - height / 4, y - height / 2), (x + height / 4, y + height / 2), 17)
    data = [30000]
    for px, py in points:
        data += [round(px * 256), round(py * 256), 30000]
    return SimpleNamespace(frame=array("i", data), id=number, age=0)


def framing(**options):
    return Framing(320, 240, 50, 20, **options)


def watch(view, frames, start_ms: int = 0) -> list[tuple[int, int, int]]:
    """The view after each frame; the frames are lists of people in field coordinates."""
    views = []
    for number, people in enumerate(frames):
        view.update(people, start_ms + number * FRAME_MS)
        view.view = view.wanted
        views.append(view.view)
    return views


def test_it_closes_in_on_a_person_who_stays() -> None:
    """Somebody who stays for five frames is worth a closer look."""
    # 60 px with a fifth of margin on both sides are 84 px of 240, or 17.5 units of 50; 20 is the least.
    views = watch(framing(), [[person(160, 120)]] * 6)
    assert views[3] == (0, 0, 50) and views[4] == views[5] == (15, 15, 20)


def test_it_opens_when_nobody_is_left() -> None:
    """Others can be found only in the whole field."""
    view = framing(patience=8)
    watch(view, [[person(160, 120)]] * 6)
    views = watch(view, [[]] * 8)
    assert views[6] != (0, 0, 50) and views[7] == (0, 0, 50)


def test_it_does_not_move_for_small_movements() -> None:
    """A view that follows every step makes the picture swim, and every change costs a frame."""
    view = framing(look_ms=60_000)
    views = watch(view, [[person(160 + step % 7, 120)] for step in range(100)])
    assert view.changes == 1 and len(set(views[5:])) == 1


def test_it_follows_a_person_who_walks_and_keeps_her_inside() -> None:
    """A person who is cut off by the view would lose keypoints."""
    view = framing()
    watch(view, [[person(60, 120)]] * 6)
    for step in range(60):
        walker = person(60 + 3 * step, 120)
        view.update([walker], 1000 + step * FRAME_MS)
        view.view = view.wanted
        left, _, size = view.view
        assert left * 6.4 <= walker.frame[1] / 256 and walker.frame[-3] / 256 <= (left + size) * 6.4
    assert 2 <= view.changes <= 12


def test_two_people_share_the_view() -> None:
    """Nobody may be cut off because somebody else is nearer."""
    views = watch(framing(), [[person(100, 120), person(180, 120)]] * 6)
    left, top, size = views[-1]
    assert size < 50 and left * 6.4 < 85 and (left + size) * 6.4 > 195 and top >= 0


def test_it_looks_for_others_and_comes_back() -> None:
    """Somebody else may have arrived outside the view, so it opens now and then for a short time."""
    view = framing(look_ms=2000)
    views = watch(view, [[person(160, 120)]] * 60)
    whole = [number for number, seen in enumerate(views) if seen == (0, 0, 50)]
    looks = [number for number in whole if number > 4]
    assert len(looks) in (1, 2) and views[-1] == views[5]


def pictures_of_the_whole_field(newcomers: int) -> list[int]:
    """How many pictures of the whole field each look for others takes, if the tracker does not report somebody in the
    first so many of them."""
    view = framing()
    looks: list[int] = []
    for frame in range(200):
        whole = view.view == view.whole
        if not whole:
            looks.append(0)
        elif looks:
            looks[-1] += 1
        view.update([person(160, 120)], frame * FRAME_MS, whole and bool(looks) and looks[-1] <= newcomers)
        view.view = view.wanted
    return [look for look in looks if look]


def test_a_look_for_others_is_one_picture_and_one_more_with_newcomers() -> None:
    """Every two seconds the whole field is looked at, and each such picture is one less of the person.

    The tracker reports a new person in the second picture, and not at all if it was nobody.
    """
    assert pictures_of_the_whole_field(0) == [1] * 6
    assert pictures_of_the_whole_field(1) == [2] * 6
    assert pictures_of_the_whole_field(9) == [2] * 6


def test_a_person_who_fills_the_field_leaves_it_whole() -> None:
    """There is nothing to gain from a closer view, and each change costs a frame."""
    view = framing()
    watch(view, [[person(160, 120, height=220)]] * 30)
    assert view.changes == 0


views_in_field = st.integers(20, 50).flatmap(
    lambda size: st.tuples(st.integers(0, 50 - size), st.integers(0, 50 - size), st.just(size))
)


@given(views_in_field, st.integers(0, 320 * 256), st.integers(0, 240 * 256))
def test_field_and_view_are_inverse(view, x_q8, y_q8) -> None:
    """A keypoint goes to the view and back; only one step of rounding may remain."""
    # One step of rounding is at most 1/256 px of the field, or what that is in the view.
    frame = framing()
    frame.view = view
    data = array("i", [0, x_q8, y_q8, 0])
    frame.to_view(data)
    frame.to_field(data)
    assert abs(data[1] - x_q8) <= 1 and abs(data[2] - y_q8) <= 1


@given(st.lists(st.lists(st.tuples(st.integers(-40, 360), st.integers(-40, 280), st.integers(4, 400)), max_size=4)))
def test_every_view_lies_in_the_field(frames) -> None:
    """The sensor has nothing to send from outside its field, wherever people are."""
    view = framing()
    for left, top, size in watch(view, [[person(*p) for p in people] for people in frames]):
        assert 20 <= size <= 50 and 0 <= left <= 50 - size and 0 <= top <= 50 - size


def test_a_field_smaller_than_the_least_view_is_refused() -> None:
    """Such options contradict each other, and the message must contain the wrong value."""
    with pytest.raises(ValueError, match="60"):
        Framing(320, 240, 50, 60)


def test_nothing_is_chosen_while_another_view_is_on_its_way() -> None:
    """With two buffers the next picture still has the old view. What is seen in it must not undo the change."""
    view = framing(settle=1)
    assert view.update([person(160, 120)], 0) and view.wanted != view.view
    wanted = view.wanted
    assert not view.update([person(40, 120)], FRAME_MS) and view.wanted == wanted


def test_one_by_one_each_gets_a_turn() -> None:
    """Whoever is outside the view keeps their place and grows older, and the oldest is looked at next."""
    view = framing(each=True, settle=1)
    people = {1: person(60, 120), 2: person(250, 120, number=2)}
    seen: list[int] = []
    for frame in range(12):
        for number, one in people.items():
            one.age = one.age + 1 if view.cuts_off(one.frame) else 0
            seen += [number] if view.view != view.whole and not one.age else []
        view.update(list(people.values()), frame * FRAME_MS)
        view.view = view.wanted
    assert view.view[2] == 20 and seen[:6] in ([1, 2] * 3, [2, 1] * 3)


def test_one_by_one_leaves_the_view_alone_where_it_shows_everybody() -> None:
    """If everybody fits into one close view, there is no need to change between people."""
    view = framing(each=True)
    views = watch(view, [[person(150, 120), person(170, 120, number=2)]] * 30)
    assert view.changes == 1 and len(set(views[5:])) == 1


def test_poses_that_the_view_cuts_off_are_left_out() -> None:
    """Half a person at the border becomes a pose with wrong legs. The person in the middle is the one to show."""
    view = framing(each=True)
    view.view = view.wanted = (15, 15, 20)  # 96 … 224 px of 320
    middle, cut, inside = person(160, 120), person(100, 120, number=2), person(190, 120, height=30, number=3)
    people = [cut, middle, inside]
    view.keep_whole_people(people)
    assert people == [middle, inside]


def test_a_sensor_that_cannot_scale_halves_the_field() -> None:
    """Such a sensor has only two views: the whole field and half of it."""
    sizes = {watch(framing(halving=True), [[person(160, 120, height=h)]] * 6)[-1][2] for h in (30, 60, 80, 120, 200)}
    assert sizes == {25, 50}
