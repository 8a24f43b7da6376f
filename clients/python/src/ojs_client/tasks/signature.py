"""The arguments of a task: from a call to the args of its job, and back.

``args`` has one object with the arguments by name, so other languages can enqueue and run the job.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, get_type_hints

from ojs_client.errors import InvalidArguments
from ojs_client.options import JSON
from ojs_client.tasks.dependencies import Dependency, check_dependency
from ojs_client.transport import encode
from ojs_client.values import check_type, from_json, schema_of, to_json
from ojs_client.worker.processes import ProcessJob
from ojs_client.worker.running import BlockingJob, JobInfo, RunningJob

_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def job_class(*, is_async: bool, process: bool) -> type[JobInfo]:
    """Return the class of the job that a function gets."""
    return RunningJob if is_async else ProcessJob if process else BlockingJob


class Signature:
    """What a task takes and returns.

    Args:
        function: the function of the task.
        job: the class of the job that it may take as its first parameter.

    Attributes:
        takes_job: whether its first parameter is the job.

    Raises:
        TypeError: the parameters cannot be stored by name, or the first one is a job of another
            kind.
    """

    def __init__(self, function: Callable[..., Any], job: type[JobInfo]) -> None:
        import msgspec  # as the first task is used, not at the import of the program

        hints = get_type_hints(function, include_extras=True)
        name = getattr(function, "__qualname__", repr(function))
        parameters = list(inspect.signature(function).parameters.values())
        first = hints.get(parameters[0].name) if parameters else None
        self._job = job
        self.takes_job: bool = isinstance(first, type) and issubclass(first, JobInfo)
        if self.takes_job:
            if not issubclass(job, first):  # type: ignore[arg-type]
                raise TypeError(f"{name} gets a {job.__name__}, not a {first.__name__}")  # type: ignore[union-attr]
            parameters = parameters[1:]
        self._injected = {
            each.name: each.default for each in parameters if isinstance(each.default, Dependency)
        }
        parameters = [each for each in parameters if each.name not in self._injected]
        for each in parameters:
            if each.kind not in _NAMED:
                raise TypeError(f"{name}: the parameter '{each}' has no name for its argument")
        self._call = inspect.Signature(parameters)
        self._defaults = {
            each.name: each.default for each in parameters if each.default is not each.empty
        }
        fields: list[Any] = []
        for each in parameters:
            hint = hints.get(each.name, Any)
            if each.default is None:  # also without ``| None`` in the hint
                hint = hint | None
            field: tuple[Any, ...] = (each.name, hint)
            if each.name in self._defaults:
                field += (msgspec.field(default_factory=_absent),)
            fields.append(field)
        self._struct = msgspec.defstruct(
            "Arguments", fields, kw_only=True, forbid_unknown_fields=True
        )
        self._returns = hints.get("return", Any)

    def check(self) -> None:
        """Check that the arguments and the result have a JSON form, and the dependencies.

        Raises:
            TypeError: a type, or a part of it, has none, or a sync task has an async dependency.
        """
        check_type(self._struct)
        check_type(self._returns)
        for each in self._injected.values():
            check_dependency(each.function, sync=self._job is not RunningJob)

    @property
    def dependencies(self) -> Mapping[str, Dependency]:
        """The parameters that the worker fills."""
        return self._injected

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[JSON]:
        """Return the args of the job of a call.

        Raises:
            TypeError: the call has too few or too many arguments.
            InvalidArguments: an argument has a wrong type.
        """
        bound = self._call.bind(*args, **kwargs)
        try:
            values = to_json(bound.arguments)
            from_json(values, self._struct)
        except (TypeError, ValueError) as error:
            raise InvalidArguments(str(error)) from error
        return [values] if values else []

    def arguments(self, args: list[JSON]) -> dict[str, Any]:
        """Return the arguments of a call by name, from the args of a job.

        Other languages may send the arguments by name, in one object, or by position.

        Raises:
            InvalidArguments: the args do not match.
        """
        values = args[0] if self._by_name(args) else None
        if values is None:
            try:
                values = self._call.bind(*args).arguments
            except TypeError as error:
                raise InvalidArguments(f"the args do not match: {error}") from error
        try:
            found = from_json(values, self._struct)
        except (TypeError, ValueError) as error:
            raise InvalidArguments(str(error)) from error
        given = {name: getattr(found, name) for name in self._call.parameters}
        return {name: value for name, value in given.items() if value is not _ABSENT}

    def _by_name(self, args: list[JSON]) -> bool:
        if len(args) != 1 or not isinstance(args[0], dict):
            return False
        names, keys = self._call.parameters.keys(), args[0].keys()
        needed = names - self._defaults.keys()
        # With all needed names it is by name, also if it has names of another version of the task.
        return len(needed) > 1 or (needed <= keys and (bool(needed) or keys <= names))

    def result_json(self, value: Any) -> JSON:
        """Return a result as JSON values.

        Raises:
            TypeError: it has no JSON form.
            ValueError: it is not what the function says that it returns.
        """
        encoded = to_json(value)
        self.result(encoded)
        return encoded

    def result(self, value: JSON) -> Any:
        """Return the result of a job as the type that the function returns.

        Raises:
            ValueError: it does not match.
        """
        return value if self._returns is Any else from_json(value, self._returns)

    def schema(self) -> dict[str, JSON]:
        """Return the JSON Schema of the args, which are in one object by name."""
        schema = schema_of(self._struct)
        definitions = schema["$defs"]
        arguments = definitions.pop("Arguments", schema)
        for name, default in self._defaults.items():
            with suppress(TypeError, ValueError):  # such as math.inf, or a value for "not given"
                value = json.loads(encode(default))
                arguments["properties"][name].setdefault("default", value)
        least = 1 if arguments.get("required") else 0
        args = {"type": "array", "minItems": least, "maxItems": 1, "prefixItems": [arguments]}
        return {**args, "$defs": definitions} if definitions else args


class _Absent:
    """The value of an argument that a job does not have."""


_ABSENT: Final = _Absent()


def _absent() -> Any:
    return _ABSENT
