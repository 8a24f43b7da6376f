"""Compile a schema, and validate args with it in bounded time.

The library is ``jsonschema_rs`` (docs/adr/043). It is imported when the first schema is compiled,
so a server without schemas does not load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ojs_cluster.core.errors import SchemaRefused
from ojs_cluster.core.schemas.cost import MAX_NS, MAX_PATTERN_CHARACTERS, Cost
from ojs_cluster.core.schemas.document import (
    ASSERTIONS,
    DIALECT,
    FORMATS,
    MAX_SCHEMA_BYTES,
    Document,
    Node,
    escaped,
    parse_document,
)
from ojs_cluster.core.schemas.patterns import MAX_PATTERN_BYTES, pattern_times

if TYPE_CHECKING:
    import jsonschema_rs

MAX_ARGS_BYTES: Final = 1024 * 1024
"""Maximum size of args that are validated, in bytes. Decoding as many takes about 10 ms."""
MAX_PROBLEMS: Final = 10
"""Maximum number of problems that are reported for one job."""
_MAX_MESSAGE: Final = 300
_EXPLAINED_STEPS: Final = 1_000
_EXPLAINED_WORK: Final = 8_000_000
"""An explanation takes 40 us per step, and may copy the args at each step. So all problems are only
reported for few steps, and for few steps times bytes."""
_FIRST_PROBLEM_BYTES: Final = 64 * 1024
"""Maximum size of args of which the first problem is reported when there are more steps."""


class Problem(msgspec.Struct, frozen=True):
    """One reason why args do not match a schema.

    Args:
        pointer: the JSON pointer of the value in the job, such as ``/args/0/amount``.
        message: what is wrong with it.
    """

    pointer: str
    message: str

    def text(self) -> str:
        """Return the problem as one line."""
        return f"{self.pointer}: {self.message}"


class CompiledSchema:
    """A schema that is ready for validation.

    Args:
        raw: the JSON of the schema.

    Raises:
        SchemaRefused: the schema is not valid, or this server does not support it.
    """

    def __init__(self, raw: bytes) -> None:
        try:
            self._prepare(parse_document(_decode_schema(raw)))
        except RecursionError:
            raise SchemaRefused("too many subschemas refer to each other in a row") from None

    def _prepare(self, document: Document) -> None:
        _check_keywords(document)
        self._cost = Cost(document, pattern_times(_patterns(document), _fits))
        self._has_choices = any(
            not {"anyOf", "oneOf", "propertyNames", "contains"}.isdisjoint(node.keywords)
            for node in document.nodes
        )
        self._validator = _compile(document)

    def problems(self, args: bytes) -> list[Problem]:
        """Return why args do not match; an empty list if they match.

        Args:
            args: the JSON of the args.
        """
        if len(args) > MAX_ARGS_BYTES:
            return [_problem(f"args above {MAX_ARGS_BYTES} bytes cannot be validated")]
        try:
            value = msgspec.json.decode(args)
        except msgspec.DecodeError as error:
            return [_problem(f"the args cannot be read for validation: {error}")]
        coarse = self._cost.coarse_ns(args)
        if (coarse is None or coarse > MAX_NS) and self._cost.exact(value) is None:
            return [_problem("the args are too large to be validated with this schema in time")]
        if self._validator.is_valid(value):
            return []
        return self._explain(args, value)

    def _explain(self, args: bytes, value: Any) -> list[Problem]:
        cost = self._cost.exact(value)
        steps = _EXPLAINED_STEPS + 1 if cost is None else cost[1]
        if steps <= _EXPLAINED_STEPS and steps * len(args) <= _EXPLAINED_WORK:
            errors = self._validator.evaluate(value).errors()
            found = (_problem(each["error"], each["instanceLocation"]) for each in errors)
            return list(dict.fromkeys(found))[:MAX_PROBLEMS]
        if not self._has_choices and len(args) <= _FIRST_PROBLEM_BYTES:
            try:
                self._validator.validate(value)
            except _library().ValidationError as error:
                pointer = "".join(f"/{escaped(part)}" for part in error.instance_path)
                return [_problem(error.message, pointer)]
        return [_problem("the args do not match; they are too large to say where")]


def _library() -> Any:
    import jsonschema_rs  # here, because only a server with schemas needs it

    return jsonschema_rs


def _problem(message: str, pointer: str = "") -> Problem:
    if len(message) > _MAX_MESSAGE:
        # A message begins with the value and ends with what is wrong with it.
        message = f"{message[: _MAX_MESSAGE // 3]}...{message[-_MAX_MESSAGE * 2 // 3 :]}"
    return Problem(f"/args{pointer[:_MAX_MESSAGE]}", message)


def _decode_schema(raw: bytes) -> Any:
    if len(raw) > MAX_SCHEMA_BYTES:
        raise SchemaRefused(f"a schema has at most {MAX_SCHEMA_BYTES} bytes, not {len(raw)}")
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SchemaRefused(f"the schema cannot be read: {error}") from None


def _check_keywords(document: Document) -> None:
    """Check the values of all keywords against the metaschema.

    Raises:
        SchemaRefused: a keyword has a value of a wrong form.
    """
    library = _library()
    root = document.root
    if isinstance(root.schema, bool):
        return
    try:
        library.meta.validate({**_current(root), "$schema": DIALECT})
    except library.ValidationError as error:
        pointer = "".join(f"/{escaped(part)}" for part in error.instance_path)
        raise SchemaRefused(error.message[:_MAX_MESSAGE], pointer=pointer) from None


def _current(node: Node) -> Any:
    """Return a schema as it was sent, in the form of the current draft."""
    if isinstance(node.schema, bool):
        return node.schema
    return {
        **node.schema,
        **{name: _current(each) for name, each in node.single.items()},
        **{name: [_current(each) for each in items] for name, items in node.lists.items()},
        **{
            name: {key: _current(each) for key, each in members.items()}
            for name, members in node.maps.items()
        },
    }


def _patterns(document: Document) -> Iterator[tuple[str, str]]:
    """Yield all patterns, each with the JSON pointer of its subschema."""
    for node in document.nodes:
        own = [node.keywords["pattern"]] if "pattern" in node.keywords else []
        for pattern in chain(own, node.maps.get("patternProperties", ())):
            yield pattern, node.pointer


def _fits(pattern: str, size: int) -> bool:
    """Return whether a pattern is valid, and has at most ``size`` bytes when compiled."""
    try:
        _validator({"pattern": pattern}, size)
    except _library().ValidationError:
        return False
    return True


def _validator(schema: Any, pattern_bytes: int) -> jsonschema_rs.Draft202012Validator:
    library = _library()
    options = library.RegexOptions(size_limit=pattern_bytes, dfa_size_limit=pattern_bytes)
    return library.Draft202012Validator(  # type: ignore[no-any-return]
        schema, pattern_options=options, validate_formats=True, offline=True
    )


def _compile(document: Document) -> jsonschema_rs.Draft202012Validator:
    copy = _Copy(document)
    library = _library()
    try:
        return _validator(copy.schema, MAX_PATTERN_BYTES)
    except (library.ValidationError, library.ReferencingError, ValueError) as error:
        raise SchemaRefused(str(error)[:_MAX_MESSAGE]) from None


class _Copy:
    """The copy of a schema that the library compiles.

    A node that is applied in several ways becomes a definition; all others stay in their place.
    """

    def __init__(self, document: Document) -> None:
        self._root = document.root
        self._definitions: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    @cached_property
    def schema(self) -> Any:
        """The copy."""
        copy = self._applied(self._root)
        return {"$defs": self._definitions, **copy} if self._definitions else copy

    def _applied(self, node: Node) -> Any:
        if node.references < (1 if node is self._root else 2):
            return self._copied(node)
        name = self._names.get(id(node))
        if name is None:
            name = self._names[id(node)] = f"n{len(self._names)}"
            self._definitions[name] = self._copied(node)
        return {"$ref": f"#/$defs/{name}"}

    def _copied(self, node: Node) -> Any:
        if isinstance(node.schema, bool):
            return node.schema
        copy: dict[str, Any] = {
            name: value for name, value in node.schema.items() if name in ASSERTIONS
        }
        if node.schema.get("format") in FORMATS:
            copy["format"] = node.schema["format"]
        for name, each in node.single.items():
            copy[name] = self._applied(each)
        for name, items in node.lists.items():
            copy[name] = [self._applied(each) for each in items]
        for name in ("properties", "patternProperties", "dependentSchemas"):
            if name in node.maps:
                copy[name] = {key: self._applied(each) for key, each in node.maps[name].items()}
        also = [] if node.target is None else [self._applied(node.target)]
        also += [_guarded(name, copy.pop(name)) for name in ("pattern", "format") if name in copy]
        if also:
            copy["allOf"] = [*copy.get("allOf", ()), *also]
        return copy


def _guarded(name: str, value: str) -> dict[str, Any]:
    """Return a keyword for texts, so that it is not compared with long texts, which are refused."""
    short = {"maxLength": MAX_PATTERN_CHARACTERS}
    return {"if": short, "then": {name: value}, "else": short}
