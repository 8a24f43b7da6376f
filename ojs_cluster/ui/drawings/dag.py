"""Draw a graph of steps in layers, from left to right, with similar steps collapsed.

A step's layer is the length of the longest path to it, so every edge leads to the right. Steps of a
layer are ordered by the average row of the steps that they wait for. (Rejected: a library. The
small ones cannot collapse, and the large ones need Graphviz.) In a graph of more
than ``MAX_BOXES`` steps, those with the same neighbours share a box. If that is not enough, whole
layers do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

MAX_BOXES: Final = 60
"""Maximum number of boxes of a drawing."""
WIDTH: Final = 168
HEIGHT: Final = 40
_GAP_X: Final = 48
_GAP_Y: Final = 12
_MARGIN: Final = 8
_PASSES: Final = 4
_WORST: Final = ("failed", "active", "pending", "waiting", "cancelled", "completed")
"""A group has the first of these states that one of its steps has."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the graph.

    Attributes:
        label: its name.
        state: its state.
        deps: the numbers of the steps that it waits for.
        job_id: its job; empty if there is none.
        caption: what its box shows; empty for the name.
        type: the type of its job, which names a box of several such steps.
    """

    label: str
    state: str
    deps: frozenset[int] = frozenset()
    job_id: str = ""
    caption: str = ""
    type: str = ""


@dataclass(slots=True)
class Box:
    """A drawn rectangle: one step, or a group of them. Positions are in pixels."""

    steps: list[int]
    label: str
    state: str
    counts: dict[str, int]
    job_id: str = ""
    x: int = 0
    y: int = 0


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes and the paths between them."""

    boxes: list[Box]
    paths: list[str]
    width: int
    height: int
    collapsed: int = field(default=0)
    """Number of steps that have no box of their own."""


def draw(steps: Sequence[Step]) -> Drawing:
    """Return the drawing of an acyclic graph.

    Args:
        steps: the steps by number. Dependencies on unknown steps, and cycles, are ignored.
    """
    layers = _layers([step.deps for step in steps])
    groups = _grouped(steps, layers)
    group_of = {number: place for place, members in enumerate(groups) for number in members}
    deps: list[set[int]] = [set() for _ in groups]
    for number, step in enumerate(steps):
        place = group_of[number]
        deps[place] |= {group_of[dep] for dep in step.deps if dep in group_of} - {place}
    boxes = [_box(steps, members) for members in groups]
    columns = _ordered(_layers([frozenset(each) for each in deps]), deps)
    tallest = max(map(len, columns), default=1)
    for column, places in enumerate(columns):
        above = (tallest - len(places)) * (HEIGHT + _GAP_Y) // 2  # columns are centred
        for row, place in enumerate(places):
            boxes[place].x = _MARGIN + column * (WIDTH + _GAP_X)
            boxes[place].y = _MARGIN + above + row * (HEIGHT + _GAP_Y)
    paths = [
        _path(boxes[dep], boxes[place])
        for place in range(len(groups))
        for dep in sorted(deps[place])
    ]
    width = 2 * _MARGIN + max(1, len(columns)) * (WIDTH + _GAP_X) - _GAP_X
    height = 2 * _MARGIN + tallest * (HEIGHT + _GAP_Y) - _GAP_Y
    collapsed = sum(len(members) for members in groups if len(members) > 1)
    return Drawing(boxes, paths, width, height, collapsed)


def _layers(deps: Sequence[Iterable[int]]) -> list[int]:
    """Return the layer of each node; 0 for a node that waits for nothing, or is part of a cycle."""
    known = [{dep for dep in each if 0 <= dep < len(deps)} for each in deps]
    following: dict[int, list[int]] = defaultdict(list)
    for number, each in enumerate(known):
        for dep in each:
            following[dep].append(number)
    missing = [len(each) for each in known]
    layers = [0] * len(deps)
    ready = [number for number, count in enumerate(missing) if not count]
    for number in ready:  # grows while it is read
        for later in following[number]:
            layers[later] = max(layers[later], layers[number] + 1)
            missing[later] -= 1
            if not missing[later]:
                ready.append(later)
    return layers


def _grouped(steps: Sequence[Step], layers: Sequence[int]) -> list[list[int]]:
    """Return the steps of each box."""
    if len(steps) <= MAX_BOXES:
        return [[number] for number in range(len(steps))]
    followers: dict[int, set[int]] = defaultdict(set)
    for number, step in enumerate(steps):
        for dep in step.deps:
            followers[dep].add(number)
    neighbours: Mapping[int, Hashable] = {
        number: (step.deps, frozenset(followers[number])) for number, step in enumerate(steps)
    }
    groups = _by_key(neighbours)
    if len(groups) > MAX_BOXES:
        deepest = max(layers) + 1
        per_box = -(-deepest // MAX_BOXES)  # rounded up
        groups = _by_key({number: layer // per_box for number, layer in enumerate(layers)})
    return groups


def _by_key(keys: Mapping[int, Hashable]) -> list[list[int]]:
    found: dict[Hashable, list[int]] = {}
    for number, key in keys.items():
        found.setdefault(key, []).append(number)
    return list(found.values())


def _box(steps: Sequence[Step], members: list[int]) -> Box:
    first = steps[members[0]]
    counts = Counter(steps[number].state for number in members)
    if len(members) == 1:
        label = first.caption or first.label
        return Box(members, label, first.state, dict(counts), first.job_id)
    state = next((name for name in _WORST if counts[name]), first.state)
    types = {steps[number].type for number in members}
    what = first.type if first.type and len(types) == 1 else "steps"
    return Box(members, f"{len(members):,} {what}", state, dict(counts))


def _ordered(layers: Sequence[int], deps: Sequence[set[int]]) -> list[list[int]]:
    """Return the boxes of each column in their order."""
    columns: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
    for place, layer in enumerate(layers):
        columns[layer].append(place)
    row = {place: index for column in columns for index, place in enumerate(column)}
    for _ in range(_PASSES):
        for column in columns[1:]:
            column.sort(key=lambda place: _average([row[dep] for dep in deps[place]], row[place]))
            row |= {place: index for index, place in enumerate(column)}
    return columns


def _average(rows: Sequence[int], own: int) -> float:
    return sum(rows) / len(rows) if rows else float(own)


def _path(start: Box, end: Box) -> str:
    """Return a curve from the right side of a box to the left side of another one."""
    x1, y1 = start.x + WIDTH, start.y + HEIGHT // 2
    x2, y2 = end.x, end.y + HEIGHT // 2
    middle = (x1 + x2) // 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
