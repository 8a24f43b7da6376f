"""Apps and routers: collections of tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from ojs_client.client import Client
from ojs_client.options import JobOptions, NewJob, is_job_type
from ojs_client.sync import SyncClient
from ojs_client.tasks.producer import Producer, ProducerMiddleware
from ojs_client.tasks.task import AsyncTask, Declaration, RetryFor, SyncTask, Task, check_retry_for
from ojs_client.worker.handlers import Lifespan, Middleware
from ojs_client.worker.processes import ProcessJob
from ojs_client.worker.running import BlockingJob, RunningJob

if TYPE_CHECKING:
    from ojs_client.worker.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")


class TaskOptions(JobOptions, total=False):
    """The keywords of ``App.task``, beside those of ``Client.enqueue``."""

    name: str
    retry_for: RetryFor
    external: bool


class _Declares(Protocol):
    """The decorator that ``task`` returns.

    A coroutine function also matches the overloads of sync functions; the first match counts.
    """

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[RunningJob, P], Coroutine[Any, Any, T]], /
    ) -> AsyncTask[P, T]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncTask[P, T]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[BlockingJob, P], T], /) -> SyncTask[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> SyncTask[P, T]: ...


class _DeclaresProcess(Protocol):
    """The decorator that ``task`` returns for a task that runs in a child process."""

    @overload
    def __call__(self, function: Callable[Concatenate[ProcessJob, P], T], /) -> SyncTask[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> SyncTask[P, T]: ...


class TaskRouter:
    """Tasks of a module, which an app or another router includes.

    Args:
        prefix: stands before the names of the tasks, joined by a dot.
        **options: options of all jobs of the tasks, see ``JobOptions``.
    """

    def __init__(self, prefix: str = "", **options: Unpack[JobOptions]) -> None:
        self._prefix = prefix
        self._options = options
        self._declared: dict[str, tuple[Task[Any, Any], Declaration]] = {}
        self._included = False

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The tasks by name, those of included routers among them."""
        return {name: task for name, (task, _) in self._declared.items()}

    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[RunningJob, P], Coroutine[Any, Any, T]], /
    ) -> AsyncTask[P, T]: ...
    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncTask[P, T]: ...
    @overload
    def task(self, function: Callable[Concatenate[BlockingJob, P], T], /) -> SyncTask[P, T]: ...
    @overload
    def task(self, function: Callable[P, T], /) -> SyncTask[P, T]: ...
    @overload
    def task(
        self, *, process: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> _Declares: ...
    @overload
    def task(
        self, *, process: Literal[True], **options: Unpack[TaskOptions]
    ) -> _DeclaresProcess: ...

    # mypy does not see that it accepts the keywords of the last two.
    def task(  # type: ignore[misc]
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Declare a task; a decorator, with or without arguments.

        A coroutine function runs in the event loop. Any other function runs in a thread, or with
        ``process`` in a child process. Its first parameter may be a RunningJob, a BlockingJob or a
        ProcessJob. The worker fills parameters with ``Depends``. All others are arguments.

        Args:
            function: the function.
            **options: with ``process`` a child process runs it, because it computes for seconds.
                ``name`` is the type of the jobs; without it the name of the function.
                ``retry_for`` says after which exceptions the job runs again when. ``external``
                declares a task that other programs run. The others are options of its jobs.

        Raises:
            TypeError: there is no such option, or ``retry_for`` names what is no exception.
            ValueError: no job can have the name, another task has it, or a text is no duration.
        """
        if function is None:
            return lambda function: self._declare(function, dict(options))
        return self._declare(function, options)

    def _declare(self, function: Callable[..., Any], given: dict[str, Any]) -> Task[Any, Any]:
        name, process = given.pop("name", function.__name__), given.pop("process", False)
        is_async = inspect.iscoroutinefunction(function)
        if process and is_async:
            raise ValueError("only a sync task can run in a process")
        retry_for = given.pop("retry_for", {})
        check_retry_for(retry_for)
        declaration = Declaration(
            f"{self._prefix}.{name}" if self._prefix else name,
            function,
            is_async,
            process,
            given.pop("external", False),
            retry_for,
        )
        chosen = JobOptions(**{**self._options, **given})  # type: ignore[typeddict-item]
        kind: type[Task[Any, Any]] = AsyncTask if is_async else SyncTask
        task = kind(declaration, chosen)
        NewJob(declaration.name, (), chosen).json(trace=False)  # refuses a wrong option now
        self._add(task, declaration)
        return task

    def _add(self, task: Task[Any, Any], declaration: Declaration) -> None:
        if not is_job_type(declaration.name):
            raise ValueError(f"a name is lower-case words joined by dots, not '{declaration.name}'")
        if declaration.name in self._declared:
            raise ValueError(f"there is a task '{declaration.name}' already")
        self._declared[declaration.name] = task, declaration

    def include(self, router: TaskRouter) -> None:
        """Add the tasks of a router, which must be complete.

        Raises:
            ValueError: the router is included already, or two tasks have the same name.
        """
        if router._included or isinstance(router, App):
            raise ValueError("a router is included once, and an app nowhere")
        router._included = True
        for task, declaration in router._declared.values():
            if self._prefix:
                declaration.name = f"{self._prefix}.{declaration.name}"
            self._add(task, declaration)


class App(TaskRouter):
    """The tasks of a program, its server, and what its workers share.

    ``async with app:`` opens a client for ``enqueue``. Tasks that enqueue tasks use the client of
    the worker.

    Args:
        url: the address of the server; None for ``OJS_URL``, or port 8080 of this machine.
        api_key: the API key; None for ``OJS_API_KEY``.
        prefix: stands before the names of the tasks, joined by a dot.
        lifespan: returns an async context manager, which is open while a worker runs.
        middleware: functions around each run of a task; the first one is the outermost.
        producer_middleware: functions around each enqueue of a task.
        client: further arguments of ``Client``.

    Attributes:
        overrides: functions that replace dependencies, for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        prefix: str = "",
        lifespan: Lifespan | None = None,
        middleware: Sequence[Middleware] = (),
        producer_middleware: Sequence[ProducerMiddleware] = (),
        client: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(prefix)
        self._server = {"url": url, "api_key": api_key}
        self._producer = Producer({**self._server, **(client or {})}, producer_middleware)
        self._lifespan = lifespan
        self._middleware = tuple(middleware)
        self.overrides: dict[Callable[..., Any], Callable[..., Any]] = self._producer.overrides

    def _add(self, task: Task[Any, Any], declaration: Declaration) -> None:
        super()._add(task, declaration)
        declaration.producer = self._producer

    @property
    def client(self) -> Client:
        """The client of the job that runs here, or of the open app.

        Raises:
            RuntimeError: there is none.
        """
        return self._producer.client

    async def __aenter__(self) -> Self:
        """Open a client."""
        if self._producer.opened is not None:
            raise RuntimeError("the app is open already")
        self._producer.opened = await self._producer.new_client().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        client, self._producer.opened = self._producer.opened, None
        if client is not None:
            await client.__aexit__(kind, error, trace)

    @contextmanager
    def using(self, client: Client | SyncClient) -> Iterator[None]:
        """Let tasks be enqueued by a client of yours in the block, for example in a test."""
        with self._producer.running_in(client):
            yield

    def worker(self, *, queues: Sequence[str] | None = None, **arguments: Any) -> Worker:
        """Return a worker that runs the tasks.

        Args:
            queues: the queues; None for all queues of the tasks.
            **arguments: further arguments of ``Worker``.

        Raises:
            TypeError: a task has arguments that cannot be stored by name or have no JSON form, or
                wrong hints, or a sync task has an async dependency.
            ValueError: an argument is not allowed.
        """
        from ojs_client.worker.worker import Worker  # a producer does not need it

        tasks = [task for task, each in self._declared.values() if not each.external]
        named = dict.fromkeys(task.options.get("queue", "default") for task in tasks)
        if queues is None and arguments.get("pool") is None:
            queues = tuple(named) or None
        settings = {**self._server, "middleware": self._middleware, "lifespan": self._lifespan}
        worker = Worker(queues=queues, **{**settings, **arguments})
        for task, declared in self._declared.values():
            task.signature.check()  # a mistake ends the worker now, and not its jobs later
            if not declared.external:
                register: Any = worker.handler
                register(task.name, process=declared.process)(task.handler())
        return worker

    def run(self, *, backend: Literal["asyncio", "trio"] = "asyncio", **arguments: Any) -> None:
        """Run a worker until SIGTERM or SIGINT, as ``Worker.run``; see ``worker``."""
        self.worker(**arguments).run(backend)

    async def register_schemas(self, version: str) -> None:
        """Register the JSON Schema of the arguments of all tasks at the server.

        Args:
            version: the version of all schemas, such as ``1.2.0``. A schema that is registered
                already must be the same.

        Raises:
            Conflict: another schema has this version.
            ApiError: the server refused a schema, for example because it breaks the one before.
        """
        for task in self.tasks.values():
            await self.client.register_schema(task.name, version, task.schema())
