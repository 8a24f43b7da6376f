"""Compare two versions of a schema (spec: ojs-schema-registry 8, ojs-job-versioning 7).

A change is breaking if args that match the old schema may not match the new one, or if a member is
removed that consumers may read. Two schemas cannot be compared completely, so a changed combination
(``not``, ``oneOf``, ``if``) counts as breaking. ``anyOf`` may get further alternatives. A
combination has changed, too, if a definition has changed that it refers to.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from ojs_cluster.core.schemas.document import Node, parse_document

Compatibility = Literal["backward", "forward", "full", "none"]

_MAX_PAIRS: Final = 5_000
"""Maximum number of pairs of subschemas that are compared. It takes 20 ms."""
_MAX_CHANGES: Final = 20
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_EQUAL: Final = ("pattern", "format", "multipleOf", "const", "minContains", "maxContains")
_SINGLE: Final = ("items", "additionalProperties", "propertyNames", "contains")
_FIXED_SINGLE: Final = ("not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties")
_FIXED_MAPS: Final = ("dependentSchemas", "patternProperties")
_WITHOUT_EFFECT: Final = frozenset(
    {
        *("$ref", "$defs", "definitions", "$schema", "$id", "$anchor", "$comment"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    }
)
"""Keywords beside ``$ref`` with which a subschema stands for nothing but its target."""
_MAX_LOOKED_AT: Final = 50_000
"""Maximum number of subschemas that are looked at to compare combinations. It takes 50 ms."""


def breaking_changes(old: Any, new: Any, compatibility: Compatibility) -> list[str]:
    """Return the changes from ``old`` to ``new`` that a minor version must not make.

    Args:
        old: the schema of the previous version.
        new: the schema of the new version.
        compatibility: ``backward``: new consumers read old jobs. ``forward``: old consumers read
            new jobs. ``full``: both. ``none``: every change is allowed.
    """
    changes: list[str] = []
    if compatibility in ("backward", "full"):
        changes += _Comparison().changes(old, new)
    if compatibility in ("forward", "full"):
        # Jobs of the new version must match the old schema, so the comparison is reversed.
        reverse = _Comparison(removals=False).changes(new, old)
        changes += [f"from the new version back to the old one, {each}" for each in reverse]
    return changes[:_MAX_CHANGES]


class _TooLarge(Exception):
    pass


class _Comparison:
    """Collects the breaking changes between two schemas.

    Args:
        removals: whether a removed member is a breaking change.
    """

    def __init__(self, *, removals: bool = True) -> None:
        self._removals = removals
        self._found: dict[str, None] = {}
        self._seen: set[tuple[int, int]] = set()
        self._looked_at = 0

    def changes(self, old: Any, new: Any) -> list[str]:
        try:
            self._compare(parse_document(old).root, parse_document(new).root)
        except (_TooLarge, RecursionError):
            self._found["the schemas are too large to be compared"] = None
        return list(self._found)

    def _note(self, node: Node, text: str) -> None:
        self._found[f"at '{node.pointer}': {text}" if node.pointer else text] = None

    def _compare(self, old: Node, new: Node) -> None:
        old, new = _followed(old), _followed(new)
        pair = (id(old), id(new))
        if pair in self._seen:
            return
        self._seen.add(pair)
        if len(self._seen) > _MAX_PAIRS or len(self._found) > _MAX_CHANGES:
            raise _TooLarge
        if new.schema is True or new.schema == {} or old.schema is False:
            return
        if new.schema is False:
            self._note(new, "nothing is allowed any more")
            return
        self._compare_type(old, new)
        self._compare_values(old, new)
        self._compare_members(old, new)
        self._compare_items(old, new)
        self._compare_combinations(old, new)
        self._compare_references(old, new)

    def _compare_type(self, old: Node, new: Node) -> None:
        before, after = _types(old), _types(new)
        if after is None:
            return
        if before is None:
            self._note(new, f"the type was restricted to {_listed(after)}")
        elif not all(each in after or (each == "integer" and "number" in after) for each in before):
            self._note(new, f"the type was changed from {_listed(before)} to {_listed(after)}")

    def _compare_values(self, old: Node, new: Node) -> None:
        before, after = old.keywords, new.keywords
        for name in _UPPER:
            if name in after and (name not in before or after[name] < before[name]):
                self._note(new, f"{name} was lowered to {after[name]}")
        for name in _LOWER:
            if name in after and (name not in before or after[name] > before[name]):
                self._note(new, f"{name} was raised to {after[name]}")
        for name in _EQUAL:
            if name in after and (
                name not in before or _canonical(after[name]) != _canonical(before[name])
            ):
                self._note(new, f"{name} was changed")
        if after.get("uniqueItems") is True and before.get("uniqueItems") is not True:
            self._note(new, "uniqueItems was added")
        if "enum" in after:
            given = before.get("enum")
            if "const" in before:
                given = [before["const"]]
            if given is None or not _texts(given) <= _texts(after["enum"]):
                self._note(new, "the values of enum were restricted")

    def _compare_members(self, old: Node, new: Node) -> None:
        for name in sorted(set(new.keywords.get("required", ())) - _required(old)):
            self._note(new, f"required member '{name[:100]}' was added")
        before, after = old.maps.get("properties", {}), new.maps.get("properties", {})
        further = new.single.get("additionalProperties")
        for name, node in before.items():
            if name in after:
                self._compare(node, after[name])
            elif self._removals:
                self._note(new, f"member '{name[:100]}' was removed")
            elif further is not None:
                self._compare(node, further)
        rest = old.single.get("additionalProperties", _ANYTHING)
        if rest.schema is not False and further is not None and further.schema is not False:
            # A member that had no schema before has one now.
            for name in after.keys() - before.keys():
                self._compare(rest, after[name])

    def _compare_items(self, old: Node, new: Node) -> None:
        before, after = old.lists.get("prefixItems", []), new.lists.get("prefixItems", [])
        rest, new_rest = old.single.get("items", _ANYTHING), new.single.get("items", _ANYTHING)
        for index in range(max(len(before), len(after))):
            if index >= len(before) and rest is _ANYTHING:
                continue  # a further positional argument (spec: ojs-job-versioning 7.1)
            self._compare(
                before[index] if index < len(before) else rest,
                after[index] if index < len(after) else new_rest,
            )
        for name in _SINGLE:
            if name in new.single:
                self._compare(old.single.get(name, _ANYTHING), new.single[name])

    def _compare_combinations(self, old: Node, new: Node) -> None:
        for name in _FIXED_SINGLE:
            if name in new.single and (
                name not in old.single
                or self._meaning(new.single[name]) != self._meaning(old.single[name])
            ):
                self._note(new, f"{name} was changed")
        for name in _FIXED_MAPS:
            if name in new.maps and self._meanings(new.maps[name]) != self._meanings(
                old.maps.get(name, {})
            ):
                self._note(new, f"{name} was changed")
        after = new.keywords.get("dependentRequired")
        if after is not None and after != old.keywords.get("dependentRequired"):
            self._note(new, "dependentRequired was changed")
        lists = {
            name: (
                [self._meaning(each) for each in old.lists.get(name, ())],
                [self._meaning(each) for each in new.lists[name]],
            )
            for name in ("oneOf", "anyOf", "allOf")
            if name in new.lists
        }
        if "oneOf" in lists and lists["oneOf"][0] != lists["oneOf"][1]:
            self._note(new, "oneOf was changed")
        if "anyOf" in lists and ("anyOf" not in old.lists or not _are_in(*lists["anyOf"])):
            self._note(new, "the alternatives of anyOf were restricted")
        if "allOf" in lists and not _are_in(*reversed(lists["allOf"])):
            self._note(new, "allOf was restricted")

    def _compare_references(self, old: Node, new: Node) -> None:
        """Compare the targets of references with keywords beside them."""
        if new.target is not None and old.target is not None:
            self._compare(old.target, new.target)
        elif new.target is not None:
            self._note(new, "$ref was added")
        elif old.target is not None and self._removals:
            self._note(new, "$ref was removed")

    def _meanings(self, nodes: dict[str, Node]) -> dict[str, _Meaning]:
        return {name: self._meaning(node) for name, node in nodes.items()}

    def _meaning(self, node: Node) -> _Meaning:
        """Return the text of a subschema, with those that it refers to, directly or indirectly."""
        found: dict[str, str] = {}
        waiting, known = [node], {id(node)}
        while waiting:
            each = waiting.pop()
            self._looked_at += 1
            if self._looked_at > _MAX_LOOKED_AT:
                raise _TooLarge
            if each.target is not None:
                reference = each.keywords["$ref"]
                if reference not in found:
                    found[reference] = _canonical(each.target.schema)
            for other in each.applied():
                if id(other) not in known:
                    known.add(id(other))
                    waiting.append(other)
        return _canonical(node.schema), frozenset(found.items())


_Meaning = tuple[str, frozenset[tuple[str, str]]]
"""The text of a subschema, and the references in it with the texts of their targets."""
_ANYTHING: Final = Node("", True)


def _are_in(some: list[_Meaning], others: list[_Meaning]) -> bool:
    return set(some) <= set(others)


def _texts(values: list[Any]) -> set[str]:
    return {_canonical(each) for each in values}


def _canonical(value: Any) -> str:
    """Return the JSON of a value, which is the same for equal values."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 is the same number as 1
    return json.dumps(value, sort_keys=True)


def _followed(node: Node) -> Node:
    """Return the node that a subschema with nothing but a reference stands for."""
    while node.target is not None and node.keywords.keys() <= _WITHOUT_EFFECT:
        node = node.target
    return node


def _types(node: Node) -> list[str] | None:
    given = node.keywords.get("type")
    return [given] if isinstance(given, str) else given


def _required(node: Node) -> set[str]:
    return set(node.keywords.get("required", ()))


def _listed(types: list[str]) -> str:
    return " or ".join(types)
