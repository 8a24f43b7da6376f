"""Bound the time of a validation before it begins.

The library validates in one call that cannot be interrupted and blocks the interpreter. A schema of
1 KB can make such a call last for minutes: references that double at each level, a long ``enum`` of
objects, a pattern with many states. So the cost is estimated first, and a validation that may block
the event loop for too long is refused.

``coarse_ns`` needs only the size of the args. It holds for a schema in which each value meets each
node at most once. For other schemas, and when it is too high, ``exact_ns`` follows the args through
the graph and assumes that every condition of the schema is met.

The numbers are upper bounds from measurements (docs/adr/043).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.schemas.document import Document, Node

MAX_NS: Final = 40_000_000
"""Maximum estimated time of one validation in ns."""
MAX_STEPS: Final = 20_000
"""Maximum number of comparisons of a value with a node. As many are counted in 20 ms."""
MAX_PATTERN_CHARACTERS: Final = 4096
"""Maximum length of a text that is compared with a pattern."""

_NODE_NS: Final = 150
_KEYWORD_NS: Final = 60
_MEMBER_NS: Final = 60
"""Per name in ``required``, ``properties`` and the like, and per text or number in ``enum``."""
_NUMBER_NS: Final = 2_000
"""Per keyword that compares numbers, which may have many digits."""
_CONTAINER_NS: Final = 500
"""Per byte of the arrays and objects in ``enum`` and ``const``."""
_UNIQUE_NS: Final = 4_000
"""Per value in an array with ``uniqueItems``."""
_FORMAT_NS: Final = 40
"""Per character of a text with a ``format``."""
_NUMBER_KEYWORDS: Final = frozenset(
    {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}
)


class Weight(msgspec.Struct, frozen=True):
    """The cost of one node.

    Args:
        value_ns: time per value in ns.
        character_ns: time per character of a text in ns.
        key_ns: time per character of a key in ns.
        container_ns: time per array or object in ns, beyond ``value_ns``.
        unique: whether the values in an array are compared with each other.
    """

    value_ns: int
    character_ns: int
    key_ns: int
    container_ns: int
    unique: bool


def weigh(node: Node, pattern_ns: dict[str, int]) -> Weight:
    """Return the cost of a node.

    Args:
        node: the node.
        pattern_ns: the time per character in ns of each pattern of the schema.
    """
    keywords = node.keywords
    value_ns = _NODE_NS + _KEYWORD_NS * len(keywords)
    value_ns += _NUMBER_NS * len(_NUMBER_KEYWORDS & keywords.keys())
    for name in ("required", "properties", "dependentSchemas", "dependentRequired", "type"):
        members = keywords.get(name, ())
        value_ns += _MEMBER_NS * (len(members) if isinstance(members, list | dict) else 0)
    dependent = keywords.get("dependentRequired")
    if isinstance(dependent, dict):
        value_ns += _MEMBER_NS * sum(len(names) for names in dependent.values())
    allowed = _listed(keywords.get("enum"))
    allowed += [keywords["const"]] if "const" in keywords else []
    containers = [each for each in allowed if isinstance(each, list | dict)]
    value_ns += _MEMBER_NS * (len(allowed) - len(containers))
    character_ns = 1 + _FORMAT_NS * ("format" in keywords)
    character_ns += pattern_ns.get(keywords.get("pattern", ""), 0)
    return Weight(
        value_ns=value_ns,
        character_ns=character_ns,
        key_ns=sum(pattern_ns[pattern] for pattern in node.maps.get("patternProperties", ())),
        container_ns=_CONTAINER_NS * sum(len(orjson.dumps(each)) for each in containers),
        unique=keywords.get("uniqueItems") is True,
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []


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
        self._value_ns = sum(
            each.value_ns + each.container_ns + _UNIQUE_NS * each.unique for each in weights
        )
        self._byte_ns = sum(each.character_ns + each.key_ns for each in weights)

    def coarse_ns(self, args: bytes) -> int | None:
        """Return an upper bound of the time in ns; None if the schema has none that is as simple.

        Args:
            args: the JSON of the args.
        """
        if self._shared:
            return None
        values = 1 + args.count(b",") + args.count(b"[") + args.count(b"{")
        return values * self._value_ns + len(args) * self._byte_ns

    def exact(self, args: Any) -> tuple[int, int] | None:
        """Return the time in ns and the number of steps that no validation of ``args`` exceeds.

        Returns:
            None if the time exceeds ``MAX_NS``, or the number of steps ``MAX_STEPS``.
        """
        total_ns, steps = 0, 0
        waiting: list[tuple[_Step, Any]] = [(self._root, args)]
        while waiting:
            step, value = waiting.pop()
            steps += 1
            weight = step.weight
            total_ns += weight.value_ns
            kind = type(value)
            if kind is str:
                compared = min(len(value), MAX_PATTERN_CHARACTERS)
                total_ns += len(value) + compared * weight.character_ns
            elif kind is list or kind is dict:
                total_ns += weight.container_ns
                if weight.key_ns and kind is dict:
                    total_ns += weight.key_ns * sum(map(len, value))
                if weight.unique:
                    inside = _count_values(value, MAX_STEPS - steps)
                    steps += inside
                    total_ns += _UNIQUE_NS * inside
                if steps + len(waiting) + len(value) * step.fan_out > MAX_STEPS:
                    return None  # before the list grows
                if kind is list:
                    step.add_items(value, waiting)
                else:
                    step.add_members(value, waiting)
            waiting.extend([(other, value) for other in step.in_place])
            if total_ns > MAX_NS or steps + len(waiting) > MAX_STEPS:
                return None
        return total_ns, steps


class _Step:
    """A node in the form that is the fastest to follow."""

    __slots__ = (
        *("weight", "in_place", "prefix", "items", "every_item"),
        *("properties", "additional", "every_member", "names", "fan_out"),
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
        self.fan_out = max(len(self.every_item) + (self.items is not None), len(self.every_member))

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
        additional = self.additional
        for key, member in value.items():
            step = self.properties.get(key, additional)
            if step is not None:
                waiting.append((step, member))
            waiting.extend([(other, member) for other in self.every_member])
            if self.names is not None:
                waiting.append((self.names, key))


def _count_values(value: Any, most: int) -> int:
    """Return the number of values in an array or object, at most ``most`` + 1."""
    count, waiting = 0, [value]
    while waiting and count <= most:
        each = waiting.pop()
        count += 1
        if isinstance(each, list):
            waiting.extend(each)
        elif isinstance(each, dict):
            waiting.extend(each.values())
    return count
