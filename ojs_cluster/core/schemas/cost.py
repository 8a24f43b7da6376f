"""Estimate the time of a validation before it begins.

The library validates in one call that cannot be interrupted and blocks the interpreter. A schema of
1 KB can make such a call last for minutes: references that double at each level, a long ``enum`` of
objects, a pattern with many states. So the cost is estimated first. A validation that is not
clearly cheap does not run in a process that serves clients (``compiled``).

``coarse_ns`` needs only the bytes of the args. It holds for a schema in which each value meets each
node at most once, and for args without unusual numbers (``numbers``). Otherwise, and when it is too
high, ``exact`` follows the args through the graph and assumes that every condition of the schema is
met.

The numbers are upper bounds from measurements (docs/adr/043, docs/adr/058). A test compares them
with the time that the library takes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from ojs_cluster.core.schemas.document import Document, Node
from ojs_cluster.core.schemas.numbers import (
    NumbersInside,
    is_measured,
    is_unusual,
    may_hold_unusual,
    numbers_in,
)

MAX_NS: Final = 40_000_000
"""Maximum estimated time of one validation in ns."""
MAX_STEPS: Final = 20_000
"""Maximum number of comparisons of a value with a node. As many are counted in 20 ms."""
HERE_NS: Final = 5_000_000
"""Maximum estimated time in ns of a validation in a process that serves clients."""
HERE_STEPS: Final = 2_000
"""Maximum number of comparisons of such a validation. As many are counted in 2 ms."""
MAX_PATTERN_CHARACTERS: Final = 4096
"""Maximum length of a text that is compared with a pattern."""

_NODE_NS: Final = 150
_KEYWORD_NS: Final = 60
_MEMBER_NS: Final = 60
"""Per name in ``required``, ``properties`` and the like, and per text in ``enum``."""
_INTEGER_NS: Final = 100
"""Per integer in ``enum`` and ``const``, if a float can represent it."""
_NUMBER_NS: Final = 5_000
"""Per other number in ``enum`` and ``const``, and per keyword that compares numbers."""
_UNUSUAL_NS: Final = 30_000
"""The same if one of both numbers is unusual."""
_CONTAINER_NS: Final = 500
"""Per byte of the arrays and objects in ``enum`` and ``const``."""
_UNIQUE_NS: Final = 4_000
"""Per value in an array with ``uniqueItems``."""
_UNIQUE_FLOAT_NS: Final = 25_000
"""Per float in such an array. Up to 15 items are compared in pairs, each float in 1 us."""
_UNIQUE_UNUSUAL_NS: Final = 180_000
"""Per unusual float in such an array."""
_UNIQUE_PAIR_NS: Final = 500
"""Per pair of a value and of an integer that a float cannot represent. The library has one hash for
all of these integers."""
_SMALL_BYTES: Final = 256
"""Size in bytes of args in which an integer beyond 64 bits takes no longer than ``_UNUSUAL_NS``."""
_FORMAT_NS: Final = 40
"""Per character of a text with a ``format``."""
_NUMBER_KEYWORDS: Final = frozenset(
    {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}
)


class Weight(msgspec.Struct, frozen=True):
    """The cost of one node.

    Args:
        value_ns: time per value in ns.
        number_ns: time per number in ns, beyond ``value_ns``.
        unusual_ns: time per unusual number in ns, beyond ``value_ns``.
        character_ns: time per character of a text in ns.
        key_ns: time per character of a key in ns.
        container_ns: time per array or object in ns, beyond ``value_ns``.
        unique: whether the values in an array are compared with each other.
        reads_numbers: whether the time depends on the digits of a number.
        errors: the maximum number of errors that the node itself reports for one value.
    """

    value_ns: int
    number_ns: int
    unusual_ns: int
    character_ns: int
    key_ns: int
    container_ns: int
    unique: bool
    reads_numbers: bool
    errors: int


def weigh(node: Node, pattern_ns: dict[str, int]) -> Weight:
    """Return the cost of a node.

    Args:
        node: the node.
        pattern_ns: the time per character in ns of each pattern of the schema.
    """
    keywords = node.keywords
    value_ns = _NODE_NS + _KEYWORD_NS * len(keywords)
    errors = 1 + len(keywords)
    for name in ("required", "properties", "dependentSchemas", "dependentRequired", "type"):
        members = keywords.get(name, ())
        value_ns += _MEMBER_NS * (len(members) if isinstance(members, list | dict) else 0)
    errors += len(_listed(keywords.get("required")))
    dependent = keywords.get("dependentRequired")
    if isinstance(dependent, dict):
        names = sum(len(names) for names in dependent.values())
        value_ns += _MEMBER_NS * names
        errors += names
    allowed = _listed(keywords.get("enum"))
    allowed += [keywords["const"]] if "const" in keywords else []
    containers = [each for each in allowed if isinstance(each, list | dict)]
    value_ns += _MEMBER_NS * (len(allowed) - len(containers))
    compared = [each for each in allowed if isinstance(each, int | float)]
    number_ns = sum(_INTEGER_NS if _is_small(each) else _number_ns(each) for each in compared)
    limits = [keywords[name] for name in _NUMBER_KEYWORDS & keywords.keys()]
    number_ns += sum(map(_number_ns, limits))
    compared += limits
    character_ns = 1 + _FORMAT_NS * ("format" in keywords)
    character_ns += pattern_ns.get(keywords.get("pattern", ""), 0)
    unique = keywords.get("uniqueItems") is True
    return Weight(
        value_ns=value_ns,
        number_ns=number_ns,
        unusual_ns=_UNUSUAL_NS * len(compared),
        character_ns=character_ns,
        key_ns=sum(pattern_ns[pattern] for pattern in node.maps.get("patternProperties", ())),
        container_ns=sum(map(_container_ns, containers)),
        unique=unique,
        reads_numbers=unique
        or bool(compared or allowed)
        or "number" in _listed(keywords.get("type"), one=str),
        errors=errors,
    )


def _listed(value: Any, one: type[Any] | None = None) -> list[Any]:
    if one is not None and isinstance(value, one):
        return [value]
    return list(value) if isinstance(value, list) else []


def _is_small(number: int | float) -> bool:
    return isinstance(number, int) and not is_unusual(number)


def _number_ns(number: int | float) -> int:
    """Return the time in ns of comparing a usual number with one of a schema."""
    return _UNUSUAL_NS if is_unusual(number) else _NUMBER_NS


def _container_ns(value: Any) -> int:
    """Return the time in ns of comparing an array or object with one of a schema."""
    inside = numbers_in(value)
    return (
        _CONTAINER_NS * len(msgspec.json.encode(value))
        + _NUMBER_NS * inside.floats
        + _UNUSUAL_NS * inside.unusual_floats
    )


class Estimate(msgspec.Struct, frozen=True):
    """What no validation of some args exceeds.

    Args:
        ns: the time in ns.
        steps: the number of comparisons of a value with a node.
        errors: the number of errors.
    """

    ns: int
    steps: int
    errors: int


class Cost:
    """Estimates the time of validations with one schema.

    Args:
        document: the schema.
        pattern_ns: the time per character in ns of each pattern of the schema.
    """

    def __init__(self, document: Document, pattern_ns: dict[str, int]) -> None:
        steps = {id(node): _Step(weigh(node, pattern_ns)) for node in document.nodes}
        for node in document.nodes:
            steps[id(node)].connect(node, steps)
        self._root = steps[id(document.root)]
        self._shared = document.shared
        weights = [step.weight for step in steps.values()]
        self._reads_numbers = any(each.reads_numbers for each in weights)
        self._value_ns = sum(
            each.value_ns
            + each.number_ns
            + each.container_ns
            + (_UNIQUE_NS + _UNIQUE_FLOAT_NS) * each.unique
            for each in weights
        )
        self._byte_ns = sum(each.character_ns + each.key_ns for each in weights)
        self._unusual_ns: int | None = sum(
            each.value_ns + each.unusual_ns + _UNIQUE_UNUSUAL_NS * each.unique for each in weights
        )
        """Time per value in ns if all numbers are unusual; None if that is not known."""
        if any(each.container_ns for each in weights):
            self._unusual_ns = None

    def coarse_ns(self, args: bytes) -> int | None:
        """Return an upper bound of the time in ns; None if there is none that is as simple.

        Args:
            args: the JSON of the args.
        """
        if self._shared:
            return None
        values = 1 + args.count(b",") + args.count(b"[") + args.count(b"{")
        characters_ns = len(args) * self._byte_ns
        if self._reads_numbers:
            # A scan for unusual numbers would take longer than most small args.
            if len(args) <= _SMALL_BYTES and self._unusual_ns is not None:
                most_ns = values * self._unusual_ns + characters_ns
                if most_ns <= HERE_NS:
                    return most_ns
            if may_hold_unusual(args):
                return None
        return values * self._value_ns + characters_ns

    def exact(self, args: Any, *, here: bool) -> Estimate | None:
        """Return what no validation of ``args`` exceeds.

        Args:
            args: the decoded args.
            here: whether the validation is to run in a process that serves clients. The maxima are
                lower then, and there is no estimate if the time depends on an integer beyond 64
                bits, or if an array or object with unusual numbers is compared with one of the
                schema. Otherwise these numbers count as other unusual ones.

        Returns:
            None if a maximum of the time or of the steps is exceeded.
        """
        max_ns, max_steps = (HERE_NS, HERE_STEPS) if here else (MAX_NS, MAX_STEPS)
        total_ns, steps, errors = 0, 0, 0
        waiting: list[tuple[_Step, Any]] = [(self._root, args)]
        while waiting:
            step, value = waiting.pop()
            steps += 1
            weight = step.weight
            total_ns += weight.value_ns
            errors += weight.errors
            kind = type(value)
            if kind is str:
                compared = min(len(value), MAX_PATTERN_CHARACTERS)
                total_ns += len(value) + compared * weight.character_ns
            elif kind is int or kind is float:
                if weight.reads_numbers:
                    if here and kind is int and not is_measured(value):
                        return None
                    total_ns += weight.unusual_ns if is_unusual(value) else weight.number_ns
            elif kind is list or kind is dict:
                total_ns += weight.container_ns
                if weight.key_ns and kind is dict:
                    total_ns += weight.key_ns * sum(map(len, value))
                if weight.unique or weight.container_ns:
                    inside = numbers_in(value, max_steps - steps)
                    if here and (inside.beyond or (inside.unusual and weight.container_ns)):
                        return None
                    steps += inside.values
                    total_ns += _unique_ns(inside) if weight.unique else 0
                each_steps = step.item_steps if kind is list else step.member_steps
                if steps + len(waiting) + len(value) * each_steps > max_steps:
                    return None  # before the list grows
                if kind is list:
                    step.add_items(value, waiting)
                else:
                    step.add_members(value, waiting)
            waiting.extend([(other, value) for other in step.in_place])
            if total_ns > max_ns or steps + len(waiting) > max_steps:
                return None
        return Estimate(total_ns, steps, errors)


def _unique_ns(inside: NumbersInside) -> int:
    """Return the time in ns of comparing the items of an array with each other."""
    return (
        _UNIQUE_NS * inside.values
        + _UNIQUE_FLOAT_NS * inside.floats
        + _UNIQUE_UNUSUAL_NS * inside.unusual_floats
        + _UNIQUE_PAIR_NS * inside.values * inside.unusual_integers
    )


class _Step:
    """A node in the form that is the fastest to follow."""

    __slots__ = (
        *("weight", "in_place", "prefix", "items", "every_item"),
        *("properties", "additional", "every_member", "names"),
        *("item_steps", "member_steps"),
    )

    def __init__(self, weight: Weight) -> None:
        self.weight = weight

    def connect(self, node: Node, steps: dict[int, _Step]) -> None:
        """Take over the edges of ``node``."""

        def single(*names: str) -> list[_Step]:
            return [steps[id(node.single[name])] for name in names if name in node.single]

        def first(found: list[_Step]) -> _Step | None:
            return found[0] if found else None

        in_place = [steps[id(other)] for other in node.in_place()]
        # To find unevaluated parts, the library validates the value a second time.
        again = bool(single("unevaluatedItems", "unevaluatedProperties"))
        self.in_place = in_place * 2 if again else in_place
        self.prefix = [steps[id(other)] for other in node.lists.get("prefixItems", ())]
        self.items = first(single("items"))
        self.every_item = single("contains", "unevaluatedItems")
        members = node.maps.get("properties", {}).items()
        self.properties = {key: steps[id(other)] for key, other in members}
        self.additional = first(single("additionalProperties"))
        patterns = node.maps.get("patternProperties", {}).values()
        self.every_member = [steps[id(other)] for other in patterns]
        self.every_member += single("unevaluatedProperties")
        self.names = first(single("propertyNames"))
        # Into how many steps each item or member leads, at least.
        self.item_steps = len(self.every_item) + (self.items is not None)
        self.member_steps = len(self.every_member) + sum(
            each is not None for each in (self.additional, self.names)
        )

    def add_items(self, value: list[Any], waiting: list[tuple[_Step, Any]]) -> None:
        """Add the items of an array, with the nodes that may apply to them."""
        prefix, items = self.prefix, self.items
        if prefix:
            waiting.extend(zip(prefix, value, strict=False))
        if items is not None:
            waiting.extend([(items, each) for each in value[len(prefix) :]])
        for step in self.every_item:
            waiting.extend([(step, each) for each in value])

    def add_members(self, value: dict[str, Any], waiting: list[tuple[_Step, Any]]) -> None:
        """Add the members of an object, with the nodes that may apply to them."""
        properties = self.properties
        if not self.member_steps:
            # At most as many look-ups as properties, which ``value_ns`` counts.
            fewer: Collection[str] = min(value, properties, key=len)
            both = [key for key in fewer if key in value and key in properties]
            waiting.extend([(properties[key], value[key]) for key in both])
            return
        additional = self.additional
        for key, member in value.items():
            step = properties.get(key, additional)
            if step is not None:
                waiting.append((step, member))
            waiting.extend([(other, member) for other in self.every_member])
            if self.names is not None:
                waiting.append((self.names, key))
