"""The drawing of workflows: layers, order, collapsing and time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.ui.drawings.dag import HEIGHT, MAX_BOXES, WIDTH, Drawing, Step, draw


def step(*deps: int, state: str = "waiting") -> Step:
    return Step(f"s{deps}", state, frozenset(deps))


def overlap(drawing: Drawing) -> bool:
    places = sorted((box.x, box.y) for box in drawing.boxes)
    return any(a[0] == b[0] and b[1] - a[1] < HEIGHT for a, b in pairwise(places))


graphs = st.lists(st.sets(st.integers(0, 200), max_size=4), max_size=150).map(
    lambda each: [step(*(dep for dep in deps if dep < number)) for number, deps in enumerate(each)]
)


@given(graphs)
def test_every_step_is_in_one_box_and_edges_lead_to_the_right(steps: list[Step]) -> None:
    drawing = draw(steps)
    drawn = sorted(number for box in drawing.boxes for number in box.steps)
    assert drawn == list(range(len(steps)))
    assert not overlap(drawing)
    assert all(box.x + WIDTH <= drawing.width for box in drawing.boxes)
    assert all(box.y + HEIGHT <= drawing.height for box in drawing.boxes)
    box_of = {number: box for box in drawing.boxes for number in box.steps}
    for number, each in enumerate(steps):
        for dep in each.deps:
            assert box_of[dep].x <= box_of[number].x
            assert box_of[dep] is box_of[number] or box_of[dep].x < box_of[number].x
    if len(steps) > MAX_BOXES:
        assert len(drawing.boxes) <= MAX_BOXES


def test_a_diamond_has_three_columns() -> None:
    drawing = draw([step(), step(0), step(0), step(1, 2)])
    assert len({box.x for box in drawing.boxes}) == 3
    assert len(drawing.paths) == 4
    assert drawing.collapsed == 0


def test_a_thousand_steps_between_two_become_one_box_that_counts_its_states() -> None:
    middle = [step(0, state="failed" if number == 7 else "completed") for number in range(998)]
    drawing = draw([step(), *middle, step(*range(1, 999))])
    assert len(drawing.boxes) == 3
    group = max(drawing.boxes, key=lambda box: len(box.steps))
    assert group.label == "998 steps"
    assert group.state == "failed"
    assert group.counts == {"completed": 997, "failed": 1}
    for types, label in ((("a.b",), "998 a.b"), (("a.b", "c.d"), "998 steps")):
        several = [Step("", "", frozenset({0}), type=types[n % len(types)]) for n in range(998)]
        assert draw([step(), *several]).boxes[1].label == label


def test_a_chain_of_a_thousand_steps_is_drawn_in_pieces() -> None:
    drawing = draw([step(*([number - 1] if number else [])) for number in range(1000)])
    assert len(drawing.boxes) <= MAX_BOXES
    assert len(drawing.paths) == len(drawing.boxes) - 1


def test_unknown_steps_and_cycles_do_not_stop_the_drawing() -> None:
    assert len(draw([step(1), step(0), step(99)]).boxes) == 3
    assert draw([]).boxes == []
