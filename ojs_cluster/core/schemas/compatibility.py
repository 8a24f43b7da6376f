"""Compare two versions of a schema (spec: ojs-schema-registry 8, ojs-job-versioning 7).

A change is breaking if args that match the old schema may not match the new one, or if a member is
removed that consumers may read. Two schemas cannot be compared completely, so a changed combination
(``not``, ``oneOf``, ``if``) counts as breaking. ``anyOf`` may get further alternatives.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from ojs_cluster.core.schemas.document import Node, parse_document

Compatibility = Literal["backward", "forward", "full", "none"]
COMPATIBILITIES: Final[tuple[Compatibility, ...]] = ("backward", "forward", "full", "none")

_MAX_PAIRS: Final = 5_000
"""Maximum number of pairs of subschemas that are compared. It takes 20 ms."""
_MAX_CHANGES: Final = 20
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_EQUAL: Final = ("pattern", "format", "multipleOf", "const", "minContains", "maxContains")
_SINGLE: Final = ("items", "additionalProperties", "propertyNames", "contains")
_FIXED: Final = (
    *("not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties"),
    *("oneOf", "dependentSchemas", "dependentRequired", "patternProperties"),
)


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

    def changes(self, old: Any, new: Any) -> list[str]:
        try:
            self._compare(parse_document(old).root, parse_document(new).root)
        except _TooLarge:
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
            if name in after and after[name] != before.get(name, _ABSENT):
                self._note(new, f"{name} was changed")
        if after.get("uniqueItems") is True and before.get("uniqueItems") is not True:
            self._note(new, "uniqueItems was added")
        if "enum" in after:
            given = before.get("enum")
            if "const" in before:
                given = [before["const"]]
            if given is None or any(each not in after["enum"] for each in given):
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
        before, after = old.keywords, new.keywords
        for name in _FIXED:
            if name in after and after[name] != before.get(name, _ABSENT):
                self._note(new, f"{name} was changed")
        if "anyOf" in after:
            given = before.get("anyOf")
            if given is None or any(each not in after["anyOf"] for each in given):
                self._note(new, "the alternatives of anyOf were restricted")
        if any(each not in before.get("allOf", ()) for each in after.get("allOf", ())):
            self._note(new, "allOf was restricted")


_ABSENT: Final = object()
_ANYTHING: Final = Node("", True)


def _followed(node: Node) -> Node:
    """Return the node that a subschema with nothing but a reference stands for."""
    while node.target is not None and node.keywords.keys() <= {"$ref", "title", "description"}:
        node = node.target
    return node


def _types(node: Node) -> list[str] | None:
    given = node.keywords.get("type")
    return [given] if isinstance(given, str) else given


def _required(node: Node) -> set[str]:
    return set(node.keywords.get("required", ()))


def _listed(types: list[str]) -> str:
    return " or ".join(types)
