"""Dependencies: what the worker gives to a task beside its arguments."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints, overload

from ojs_client.worker.running import JobInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dependency:
    """The default of a parameter that the worker fills."""

    function: Callable[..., Any]


@overload
def Depends(function: Callable[..., AsyncIterator[T]]) -> T: ...
@overload
def Depends(function: Callable[..., Iterator[T]]) -> T: ...
@overload
def Depends(function: Callable[..., Awaitable[T]]) -> T: ...
@overload
def Depends(function: Callable[..., T]) -> T: ...
def Depends(function: Callable[..., Any]) -> Any:
    """Return the default of a parameter that the worker fills, for example with a connection.

    The function may have dependencies itself, and a parameter with the job. It is called once for
    each job. What stands behind the ``yield`` of a generator runs when the task has ended; the
    error of the task is raised there.

    Args:
        function: returns the value, or yields it. For a sync task it must be sync.
    """
    return Dependency(function)


def check_dependency(function: Callable[..., Any], *, sync: bool) -> None:
    """Check a function and its own dependencies.

    Args:
        function: returns or yields the value of a parameter.
        sync: whether the task is sync.

    Raises:
        TypeError: a dependency of a sync task is async.
    """
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if sync and is_async:
        raise TypeError(f"a dependency of a sync task is async: {function.__qualname__}")
    for parameter in inspect.signature(function).parameters.values():
        if isinstance(parameter.default, Dependency):
            check_dependency(parameter.default.function, sync=sync)


@dataclass(slots=True)
class Injection:
    """The dependencies of one run of a task.

    Args:
        job: the job.
        stack: ends the generators.
        overrides: functions that replace others, for tests.
    """

    job: JobInfo
    stack: AsyncExitStack
    overrides: Mapping[Callable[..., Any], Callable[..., Any]]
    _values: dict[Callable[..., Any], Any] = field(default_factory=dict)

    async def values(self, dependencies: Mapping[str, Dependency]) -> dict[str, Any]:
        """Return the values of parameters."""
        return {name: await self._value(each.function) for name, each in dependencies.items()}

    async def _value(self, function: Callable[..., Any]) -> Any:
        function = self.overrides.get(function, function)
        if function not in self._values:
            arguments: dict[str, Any] = {}
            hints = get_type_hints(function) if inspect.isroutine(function) else {}
            for name, parameter in inspect.signature(function).parameters.items():
                hint = hints.get(name)
                if isinstance(parameter.default, Dependency):
                    arguments[name] = await self._value(parameter.default.function)
                elif isinstance(hint, type) and issubclass(hint, JobInfo):
                    arguments[name] = self.job
            self._values[function] = await self._enter(function, arguments)
        return self._values[function]

    async def _enter(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        if inspect.isasyncgenfunction(function):
            opened = asynccontextmanager(function)(**arguments)
            return await self.stack.enter_async_context(opened)
        if inspect.isgeneratorfunction(function):
            return self.stack.enter_context(contextmanager(function)(**arguments))
        value = function(**arguments)
        return await value if inspect.isawaitable(value) else value


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing.

    Raises:
        TypeError: it waits, because a dependency of a sync task is async.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise TypeError("a dependency of a sync task is async")
