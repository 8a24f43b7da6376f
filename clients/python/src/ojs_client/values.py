"""Values of Python types as JSON, and back: what arguments and results are made of.

``msgspec`` converts most types. It is imported when the first such value is converted, so programs
without them do not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeVar
from uuid import UUID

T = TypeVar("T")


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


class _Struct(Protocol):
    __struct_fields__: ClassVar[tuple[str, ...]]


class _Model(Protocol):
    """A model of pydantic."""

    def model_dump_json(self) -> str: ...


Encodable: TypeAlias = (
    bool
    | int
    | float
    | str
    | bytes
    | Mapping[Any, object]
    | Sequence[object]
    | set[Any]
    | frozenset[Any]
    | date
    | time
    | timedelta
    | Decimal
    | UUID
    | Enum
    | _Dataclass
    | _Struct
    | _Model
    | None
)
"""What has a JSON form without ``register_type``. Members of mappings and sequences are checked
when the value is converted."""


@dataclass(frozen=True, slots=True)
class _Hook:
    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]
    schema: Mapping[str, Any]


_hooks: Final[dict[type[Any], _Hook]] = {}


def register_type(
    cls: type[T],
    *,
    to_json: Callable[[T], Encodable],
    from_json: Callable[[Any], T],
    schema: Mapping[str, Any] | None = None,
) -> None:
    """Let arguments and results have a type, in this process.

    Args:
        cls: the type; its subclasses are included, unless they are dataclasses, for example.
        to_json: returns a value that has a JSON form.
        from_json: returns the value of a JSON value, and raises ValueError for a wrong one.
        schema: the JSON Schema of the JSON values; None for any.

    Raises:
        TypeError: the type has a JSON form already, such as a dataclass or an Enum.
    """
    import msgspec

    is_custom = isinstance(msgspec.inspect.type_info(cls), msgspec.inspect.CustomType)
    if not is_custom or issubclass(cls, dict | list | tuple | set | frozenset):
        raise TypeError(f"{cls.__name__} has a JSON form already: register a class without one")
    _hooks[cls] = _Hook(to_json, from_json, schema or {})


def to_json(value: object) -> Any:
    """Return a value as JSON values.

    Raises:
        TypeError: the value, or a part of it, has no JSON form.
        ValueError: a part of it has no valid form.
    """
    import msgspec

    return msgspec.to_builtins(value, str_keys=True, enc_hook=_encode)


def from_json(value: Any, target: Any) -> Any:
    """Return JSON values as a value of a type.

    Raises:
        ValueError: the value does not match the type.
    """
    import msgspec

    return msgspec.convert(value, target, str_keys=True, dec_hook=_decode)


def check_type(target: Any) -> None:
    """Check that JSON values can become values of a type.

    Raises:
        TypeError: the type, or a part of it, does not come from JSON.
    """
    import msgspec

    parts, seen = [msgspec.inspect.type_info(target)], set[int]()
    for part in parts:  # grows while it is read
        if isinstance(part, msgspec.inspect.CustomType) and not _is_known(part.cls):
            raise _no_value_of(part.cls)
        if id(part) in seen or not isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
            continue
        seen.add(id(part))
        for name in part.__struct_fields__:
            if not name.startswith("default"):
                inner = getattr(part, name)
                parts.extend(inner if isinstance(inner, tuple) else (inner,))


def schema_of(target: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, with a definition for each class in ``$defs``.

    Raises:
        TypeError: the type has no JSON form.
    """
    import msgspec

    definitions: dict[str, Any] = {}

    def hook(custom: Any) -> dict[str, Any]:
        if (hook := _hook(custom)) is not None:
            # msgspec takes an empty one for none.
            return dict(hook.schema) or {"title": custom.__name__}
        if not hasattr(custom, "model_json_schema"):
            raise NotImplementedError
        schema: dict[str, Any] = custom.model_json_schema()
        definitions.update(schema.pop("$defs", {}))
        return schema

    (schema,), found = msgspec.json.schema_components(
        [target], schema_hook=hook, ref_template="#/$defs/{name}"
    )
    return {**schema, "$defs": {**found, **definitions}}


def _is_known(cls: Any) -> bool:
    return _hook(cls) is not None or hasattr(cls, "model_validate")


def _hook(cls: Any) -> _Hook | None:
    if not isinstance(cls, type):
        return None
    return next((_hooks[each] for each in cls.__mro__ if each in _hooks), None)


def _encode(value: Any) -> Any:
    if (hook := _hook(type(value))) is not None:
        return hook.to_json(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"an object of type {type(value).__name__} has no JSON form")


def _decode(target: Any, value: Any) -> Any:
    if (hook := _hook(target)) is not None:
        return hook.from_json(value)
    if hasattr(target, "model_validate"):
        return target.model_validate(value)
    raise _no_value_of(target)


def _no_value_of(target: Any) -> TypeError:
    name = getattr(target, "__name__", target)
    return TypeError(f"no value of type {name} comes from JSON: see register_type")
