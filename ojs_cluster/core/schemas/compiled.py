"""Compile a schema, and validate args with it in bounded time.

The library is ``jsonschema_rs`` (docs/adr/043). It is imported when the first schema is compiled,
so a server without schemas does not load it.

A process that serves clients calls ``check_here``, which validates what is clearly cheap. All else
is for ``check``, which runs in a process that may be killed (docs/adr/058).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ojs_cluster.core.errors import SchemaRefused
from ojs_cluster.core.schemas.cost import HERE_NS, MAX_NS, MAX_PATTERN_CHARACTERS, Cost, Estimate
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
HERE_BYTES: Final = 32 * 1024
"""Maximum size in bytes of args that are followed through a schema in a process that serves
clients."""
_HERE_ERRORS: Final = 100
_HERE_ERROR_BYTES: Final = 512 * 1024
"""The library collects all errors before it returns one. An error takes up to 40 us, and may hold a
copy of the args. These are the maximum number of errors, and of errors times bytes, that are
collected in a process that serves clients."""
_MAX_ERRORS: Final = 5_000
_MAX_ERROR_BYTES: Final = 8_000_000
"""The maxima in the other process. Above them, only the first problem is reported."""
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

    def check_here(self, args: bytes, *, explain: bool = True) -> list[Problem] | None:
        """Return why args do not match; an empty list if they match.

        Args:
            args: the JSON of the args.
            explain: whether the problems are to be named. Otherwise the one problem is that the
                args do not match.

        Returns:
            None if this validation, or its explanation, may take too long for a process that serves
            clients.
        """
        if len(args) > MAX_ARGS_BYTES:
            return [_problem(f"args above {MAX_ARGS_BYTES} bytes cannot be validated")]
        coarse = self._cost.coarse_ns(args)
        is_simple = coarse is not None and coarse <= HERE_NS
        if not is_simple and len(args) > HERE_BYTES:
            return None
        try:
            value = msgspec.json.decode(args)
        except msgspec.DecodeError as error:
            return [_unreadable(error)]
        estimate = None if is_simple else self._cost.exact(value, here=True)
        if not is_simple and estimate is None:
            return None
        if self._validator.is_valid(value):
            return []
        if not explain:
            return [UNEXPLAINED]
        if estimate is None and len(args) <= HERE_BYTES:
            estimate = self._cost.exact(value, here=True)
        if _is_explained(estimate, len(args), _HERE_ERRORS, _HERE_ERROR_BYTES):
            return self._all_problems(value)
        return None

    def check(
        self,
        args: bytes,
        *,
        explain: bool = True,
        on_mismatch: Callable[[], None] = lambda: None,
    ) -> list[Problem]:
        """Return why args do not match; an empty list if they match.

        The time has no sure bound: call this in a process that may be killed.

        Args:
            args: the JSON of the args.
            explain: whether the problems are to be named.
            on_mismatch: called when it is sure that the args do not match, before the problems are
                collected.
        """
        if len(args) > MAX_ARGS_BYTES:
            return [_problem(f"args above {MAX_ARGS_BYTES} bytes cannot be validated")]
        try:
            value = msgspec.json.decode(args)
        except msgspec.DecodeError as error:
            return [_unreadable(error)]
        estimate = self._cost.exact(value, here=False)
        if estimate is None:
            coarse = self._cost.coarse_ns(args)
            if coarse is None or coarse > MAX_NS:
                return [TOO_LARGE]
        if self._validator.is_valid(value):
            return []
        on_mismatch()
        if not explain:
            return [UNEXPLAINED]
        if _is_explained(estimate, len(args), _MAX_ERRORS, _MAX_ERROR_BYTES):
            return self._all_problems(value)
        return self._first_problem(args, value)

    def _all_problems(self, value: Any) -> list[Problem]:
        errors = self._validator.evaluate(value).errors()
        found = dict.fromkeys(_problem(each["error"], each["instanceLocation"]) for each in errors)
        return list(found)[:MAX_PROBLEMS]

    def _first_problem(self, args: bytes, value: Any) -> list[Problem]:
        if not self._has_choices and len(args) <= _FIRST_PROBLEM_BYTES:
            try:
                self._validator.validate(value)
            except _library().ValidationError as error:
                pointer = "".join(f"/{escaped(part)}" for part in error.instance_path)
                return [_problem(error.message, pointer)]
        return [UNEXPLAINED_LARGE]


def _is_explained(
    estimate: Estimate | None, size: int, max_errors: int, max_error_bytes: int
) -> bool:
    """Return whether all errors of args of this size may be collected."""
    return (
        estimate is not None
        and estimate.errors <= max_errors
        and estimate.errors * size <= max_error_bytes
    )


def _library() -> Any:
    import jsonschema_rs  # here, because only a server with schemas needs it

    return jsonschema_rs


def _problem(message: str, pointer: str = "") -> Problem:
    if len(message) > _MAX_MESSAGE:
        # A message begins with the value and ends with what is wrong with it.
        message = f"{message[: _MAX_MESSAGE // 3]}...{message[-_MAX_MESSAGE * 2 // 3 :]}"
    return Problem(f"/args{pointer[:_MAX_MESSAGE]}", message)


UNEXPLAINED: Final = _problem("the args do not match")
"""The problem of a job of a batch after those whose problems are named."""
UNEXPLAINED_LARGE: Final = _problem("the args do not match; they are too large to say where")
TOO_LARGE: Final = _problem("the args are too large to be validated with this schema in time")


def _unreadable(error: Exception) -> Problem:
    return _problem(f"the args cannot be read for validation: {error}")


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
