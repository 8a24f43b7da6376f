"""Check a schema, and turn it into a graph of nodes (spec: ojs-schema-registry 5).

A node is one subschema. The graph shows which nodes apply to the same value, and which apply to its
members and items. It is used to bound the cost of a validation (``cost``), and to build the copy of
the schema that the library compiles. The copy has the keywords that this module knows and nothing
else, so no other feature of the library can be reached.

References point into the same schema. Dynamic references and nested ``$id`` are refused: a graph
could not show what they apply to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from ojs_cluster.core.errors import SchemaRefused

MAX_SCHEMA_BYTES: Final = 64 * 1024
"""Maximum size of a schema in bytes."""
MAX_NODES: Final = 1000
"""Maximum number of subschemas of a schema. The library compiles as many in 25 ms, and the time for
the patterns in them comes on top (``patterns``)."""
MAX_LEVELS: Final = 32
"""Maximum number of levels of subschemas, and of references and combinations in a row."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_IN_PLACE: Final = ("not", "if", "then", "else")
_IN_PLACE_LISTS: Final = ("allOf", "anyOf", "oneOf")
_CHILDREN: Final = (
    "additionalProperties",
    "propertyNames",
    "items",
    "contains",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_MAPS: Final = ("properties", "patternProperties", "dependentSchemas")
_CONTAINERS: Final = ("$defs", "definitions")
ASSERTIONS: Final = frozenset(
    {
        *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum"),
        *("exclusiveMinimum", "maxLength", "minLength", "pattern", "maxItems", "minItems"),
        *("uniqueItems", "maxContains", "minContains", "maxProperties", "minProperties"),
        *("required", "dependentRequired"),
    }
)
FORMATS: Final = frozenset(
    {
        *("date-time", "date", "time", "duration", "email", "idn-email", "hostname"),
        *("idn-hostname", "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference"),
        *("uuid", "json-pointer", "relative-json-pointer"),
    }
)
"""Formats that are checked. ``regex`` is not one of them: to compile a text of a client as a
pattern may take long."""
_REFUSED: Final = (
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary"),
)


@dataclass(slots=True, eq=False)
class Node:
    """One subschema.

    Attributes:
        pointer: the JSON pointer of the subschema.
        schema: the subschema, with ``items`` as a list renamed to ``prefixItems``.
        single: the subschemas of keywords with one subschema.
        lists: the subschemas of keywords with a list of subschemas.
        maps: the subschemas of keywords with an object of subschemas.
        target: the node that ``$ref`` points to.
        references: the number of nodes that apply this node.
    """

    pointer: str
    schema: dict[str, Any] | bool
    single: dict[str, Node] = field(default_factory=dict)
    lists: dict[str, list[Node]] = field(default_factory=dict)
    maps: dict[str, dict[str, Node]] = field(default_factory=dict)
    target: Node | None = None
    references: int = 0

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of the subschema; none for ``true`` and ``false``."""
        return self.schema if isinstance(self.schema, dict) else {}

    def in_place(self) -> Iterator[Node]:
        """Yield the nodes that apply to the same value as this node."""
        for name in _IN_PLACE:
            if name in self.single:
                yield self.single[name]
        for name in _IN_PLACE_LISTS:
            yield from self.lists.get(name, ())
        yield from self.maps.get("dependentSchemas", {}).values()
        if self.target is not None:
            yield self.target

    def applied(self) -> Iterator[Node]:
        """Yield all nodes that this node applies, to the same value or to a part of it."""
        yield from self.in_place()
        yield from (self.single[name] for name in _CHILDREN if name in self.single)
        yield from self.lists.get("prefixItems", ())
        for name in ("properties", "patternProperties"):
            yield from self.maps.get(name, {}).values()


@dataclass(frozen=True, slots=True)
class Document:
    """A schema that has been checked.

    Attributes:
        root: the node of the whole schema.
        nodes: the nodes that the root applies, directly or through others, root first.
        shared: whether a node is applied in more than one way, so that a value may be compared
            with the same node more than once.
    """

    root: Node
    nodes: tuple[Node, ...]
    shared: bool


def parse_document(schema: Any) -> Document:
    """Check the structure of a schema, and return its graph.

    ``compiled.compile_schema`` also checks the values of keywords.

    Raises:
        SchemaRefused: the schema is not an object or a boolean, is too large or too deep, uses a
            keyword that this server refuses, or has a reference that cannot be followed.
    """
    return _Parser().parse(schema)


class _Parser:
    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._anchors: dict[str, Node] = {}
        self._is_current = False  # whether the schema declares the current draft

    def parse(self, schema: Any) -> Document:
        if isinstance(schema, dict) and "$schema" in schema:
            self._is_current = True
            if str(schema["$schema"]).rstrip("#") != DIALECT:
                raise SchemaRefused(f"$schema must be {DIALECT}", pointer="/$schema")
        root = self._add(schema, "", 1)
        for node in list(self._nodes.values()):
            if "$ref" in node.keywords:
                node.target = self._target(node)
        reachable = _reachable(root)
        heights: dict[int, int] = {}
        for node in reachable:
            for other in node.applied():
                other.references += 1
            _check_chain(node, heights, 0)
        unevaluated = {"unevaluatedItems", "unevaluatedProperties"}
        shared = root.references > 0 or any(
            node.references > 1 or not unevaluated.isdisjoint(node.keywords) for node in reachable
        )
        return Document(root, tuple(reachable), shared)

    def _add(self, schema: Any, pointer: str, level: int) -> Node:
        """Add a subschema with all subschemas in it."""
        if not isinstance(schema, dict | bool):
            raise SchemaRefused("a schema is an object or a boolean", pointer=pointer)
        if level > MAX_LEVELS:
            raise SchemaRefused(f"a schema has at most {MAX_LEVELS} levels", pointer=pointer)
        if len(self._nodes) >= MAX_NODES:
            raise SchemaRefused(f"a schema has at most {MAX_NODES} subschemas", pointer=pointer)
        node = self._nodes[pointer] = Node(pointer, schema)
        if isinstance(schema, bool):
            return node
        self._check_keywords(node)
        if not self._is_current:
            schema = node.schema = _with_prefix_items(schema)
        for name in (*_IN_PLACE, *_CHILDREN):
            if name in schema:
                node.single[name] = self._add(schema[name], f"{pointer}/{name}", level + 1)
        for name in (*_IN_PLACE_LISTS, "prefixItems"):
            if name in schema:
                items = _expect(schema[name], list, f"{pointer}/{name}")
                node.lists[name] = [
                    self._add(item, f"{pointer}/{name}/{index}", level + 1)
                    for index, item in enumerate(items)
                ]
        for name in (*_MAPS, *_CONTAINERS):
            if name in schema:
                members = _expect(schema[name], dict, f"{pointer}/{name}")
                node.maps[name] = {
                    key: self._add(member, f"{pointer}/{name}/{escaped(key)}", level + 1)
                    for key, member in members.items()
                }
        return node

    def _check_keywords(self, node: Node) -> None:
        keywords = node.keywords
        for name in _REFUSED:
            if name in keywords:
                raise SchemaRefused(f"{name} is not supported", pointer=f"{node.pointer}/{name}")
        if "$id" in keywords and node.pointer:
            raise SchemaRefused("$id is only allowed at the root", pointer=f"{node.pointer}/$id")
        anchor = keywords.get("$anchor")
        if anchor is not None:
            self._anchors[_expect(anchor, str, f"{node.pointer}/$anchor")] = node

    def _target(self, node: Node) -> Node:
        """Return the node that the reference of ``node`` points to."""
        pointer = f"{node.pointer}/$ref"
        reference = _expect(node.keywords["$ref"], str, pointer)
        if not reference.startswith("#"):
            raise SchemaRefused(
                "$ref must point into the same schema, such as #/$defs/address", pointer=pointer
            )
        fragment = unquote(reference[1:])
        found = self._nodes.get(fragment) or self._anchors.get(fragment)
        if found is None and not self._is_current:
            found = self._nodes.get(fragment.replace("/items/", "/prefixItems/"))
        if found is None:
            raise SchemaRefused("$ref points to no subschema of this schema", pointer=pointer)
        return found


def _with_prefix_items(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a subschema whose ``items`` is no list.

    Older drafts have a list here, and the published conformance suites still use it. It means what
    ``prefixItems`` means now. A schema that declares the current draft must follow it.
    """
    if not isinstance(schema.get("items"), list):
        return schema
    changed = {name: value for name, value in schema.items() if name != "additionalItems"}
    changed["prefixItems"] = changed.pop("items")
    if "additionalItems" in schema:
        changed["items"] = schema["additionalItems"]
    return changed


def _reachable(root: Node) -> list[Node]:
    found, waiting, known = [], [root], {id(root)}
    while waiting:
        node = waiting.pop()
        found.append(node)
        for other in node.applied():
            if id(other) not in known:
                known.add(id(other))
                waiting.append(other)
    return found


def _check_chain(node: Node, heights: dict[int, int], above: int) -> int:
    """Return how many nodes in a row apply to the same value, starting at ``node``.

    Raises:
        SchemaRefused: the row is longer than ``MAX_LEVELS``, or is endless.
    """
    known = heights.get(id(node))
    if known is None:
        if above > MAX_LEVELS:
            raise SchemaRefused(
                f"more than {MAX_LEVELS} references and combinations apply to one value, or they "
                "refer to each other without end",
                pointer=node.pointer,
            )
        known = heights[id(node)] = 1 + max(
            (_check_chain(other, heights, above + 1) for other in node.in_place()), default=0
        )
    if above + known > MAX_LEVELS + 1:
        raise SchemaRefused(
            f"more than {MAX_LEVELS} references and combinations apply to one value",
            pointer=node.pointer,
        )
    return known


def _expect(value: Any, kind: type[Any], pointer: str) -> Any:
    if not isinstance(value, kind):
        name = "an array" if kind is list else "an object" if kind is dict else "a string"
        raise SchemaRefused(f"must be {name}", pointer=pointer)
    return value


def escaped(key: str | int) -> str:
    """Return a part of a JSON pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")
