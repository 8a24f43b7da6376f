"""A task: a function with the options of its jobs, its name, and its arguments on the wire."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, Unpack

from ojs_client.client import Client
from ojs_client.errors import Discard, InvalidArguments, LeaseLost, Retry, Snooze
from ojs_client.jobs import Job
from ojs_client.options import JSON, Duration, JobOptions, NewJob, iso_duration
from ojs_client.tasks.dependencies import Injection, run_sync
from ojs_client.tasks.local_jobs import local_job
from ojs_client.tasks.producer import Producer
from ojs_client.tasks.signature import Signature, job_class
from ojs_client.worker.handlers import set_retry_delay
from ojs_client.worker.processes import ProcessJob
from ojs_client.worker.running import BlockingJob, JobInfo, RunningJob

P = ParamSpec("P")
T = TypeVar("T")
TaskT = TypeVar("TaskT", bound="Task[Any, Any]")

RetryFor: TypeAlias = Mapping[type[Exception], Duration | Callable[[Any], "Duration | None"] | None]
"""The delay before the next attempt by the class of an exception, or a function that returns it."""


def check_retry_for(retry_for: RetryFor) -> None:
    """Check what a task declares.

    Raises:
        TypeError: it names what is no exception, or a delay is no duration.
        ValueError: a delay is a text that is no duration, or negative.
    """
    for kind, delay in retry_for.items():
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"retry_for names classes of exceptions, not {kind!r}")
        if delay is not None and not callable(delay):
            iso_duration(delay)


@dataclass
class Declaration:
    """What the decorator of a task says.

    Args:
        name: the type of its jobs.
        function: the function.
        is_async: whether it is a coroutine function.
        process: whether a child process runs it.
        external: whether only other programs run it.
        retry_for: see ``RetryFor``.
        producer: enqueues its jobs; None until its router is included.
    """

    name: str
    function: Callable[..., Any]
    is_async: bool
    process: bool
    external: bool
    retry_for: RetryFor
    producer: Producer | None = None

    @cached_property
    def signature(self) -> Signature:
        """The arguments and the result."""
        job = job_class(is_async=self.is_async, process=self.process)
        return Signature(self.function, job)


class Task(Generic[P, T]):
    """A function whose calls can be enqueued as jobs. ``App.task`` creates it.

    Args:
        declaration: what the decorator says.
        options: the options of its jobs.
    """

    def __init__(self, declaration: Declaration, options: JobOptions) -> None:
        self._declaration = declaration
        self.options = options
        function = declaration.function
        self.__doc__, self.__module__ = function.__doc__, function.__module__
        self.__name__: str = function.__name__
        self.__qualname__: str = function.__qualname__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __reduce__(self) -> str:
        # A child process imports it, as it imports a function.
        return self.__qualname__

    @property
    def name(self) -> str:
        """The type of its jobs."""
        return self._declaration.name

    @property
    def signature(self) -> Signature:
        """Its arguments and its result.

        Raises:
            TypeError: an argument cannot be stored by name, or the job is of another kind.
            NameError: a type hint names what does not exist.
        """
        return self._declaration.signature

    # -- for producers

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a call as a job and return it, as ``Client.enqueue`` does.

        Raises:
            TypeError: an argument is missing, or there is no such argument.
            InvalidArguments: an argument has a wrong type.
            RuntimeError: the app is not open, or the router of the task is not included.
            OJSError: as ``Client.enqueue``.
        """
        return await self._producer.enqueue(self.new_job(*args, **kwargs))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a call in a thread without an event loop, such as that of a sync handler.

        Raises:
            RuntimeError: the thread runs an event loop, which would stand still.
            OJSError: as ``Client.enqueue``.
        """
        return self._producer.enqueue_blocking(self.new_job(*args, **kwargs))

    def new_job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """Return the job of a call, for ``enqueue_many``, a workflow or a cron job."""
        return NewJob(self.name, tuple(self.signature.bind(args, kwargs)), self.options)

    def with_options(self: TaskT, **options: Unpack[JobOptions]) -> TaskT:
        """Return the same task with other options of its jobs.

        Raises:
            TypeError: there is no such option.
            ValueError: options contradict each other, or have no valid form.
        """
        changed = JobOptions(**{**self.options, **options})
        NewJob(self.name, (), changed).json(trace=False)  # refuses a wrong option now
        return type(self)(self._declaration, changed)

    async def result(self, job: Job | str, *, wait: Duration = 0) -> T:
        """Return the result of a job as the type that the function returns.

        Raises:
            ValueError: the result does not match.
            OJSError: as ``Client.result``.
        """
        return await self._result(self._producer.client, job, wait)

    def get(self, job: Job | str, *, wait: Duration = 0) -> T:
        """Return the result of a job, as ``result``, in a thread without an event loop.

        Raises:
            RuntimeError: the thread runs an event loop, which would stand still.
            ValueError: the result does not match.
            OJSError: as ``Client.result``.
        """
        return self._producer.run_blocking(lambda client: self._result(client, job, wait))

    async def _result(self, client: Client, job: Job | str, wait: Duration) -> T:
        job_id = job.id if isinstance(job, Job) else job
        value: T = self.signature.result(await client.result(job_id, wait=wait))
        return value

    def schema(self) -> dict[str, JSON]:
        """Return the JSON Schema of the ``args`` of its jobs."""
        return self.signature.schema()

    @property
    def _producer(self) -> Producer:
        if self._declaration.producer is None:
            raise RuntimeError(f"{self!r} belongs to a router that no app includes")
        return self._declaration.producer

    # -- for workers

    def handler(self) -> Callable[..., Any]:
        """Return the handler of its jobs, for ``Worker.handler``."""
        if self._declaration.process:
            return ProcessHandler(self)
        if self._declaration.is_async:

            async def run(job: RunningJob) -> JSON:
                with self._producer.running_in(job.client):
                    return await self._handle(job)

            return run

        def run_in_thread(job: BlockingJob) -> JSON:
            with self._producer.running_in(job.client):
                return run_sync(self._handle(job))

        return run_in_thread

    async def _handle(self, job: JobInfo) -> JSON:
        try:
            arguments = self.signature.arguments(job.args)
        except InvalidArguments as error:
            # Another version of the worker may know these arguments, so the policy decides.
            raise Retry(str(error), code="invalid_arguments") from error
        try:
            result = await self._call(job, arguments)
        except Exception as error:
            set_retry_delay(error, self._retry_delay)
            raise
        try:
            return self.signature.result_json(result)
        except (TypeError, ValueError) as error:
            message = f"the result is not what the task returns: {error}"
            raise Discard(message, code="invalid_result") from error

    async def _call(self, job: JobInfo, arguments: Mapping[str, Any]) -> Any:
        declared, signature = self._declaration, self.signature
        overrides = {} if declared.producer is None else declared.producer.overrides
        async with AsyncExitStack() as stack:
            injected = await Injection(job, stack, overrides).values(signature.dependencies)
            jobs = (job,) if signature.takes_job else ()
            value = declared.function(*jobs, **arguments, **injected)
            return await value if declared.is_async else value

    def _retry_delay(self, error: BaseException) -> Duration | None:
        """Return the declared delay before the next attempt; None for the backoff of the policy."""
        declared = self._declaration.retry_for
        kind = next((each for each in type(error).__mro__ if each in declared), None)
        if kind is None or isinstance(error, (Discard, LeaseLost, Retry, Snooze)):
            return (
                None  # the task may have decided itself, also if it declares a delay for Exception
            )
        delay = declared[kind]
        return delay(error) if callable(delay) else delay

    def _local(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        new = self.new_job(*args, **kwargs)
        declared = self._declaration
        job = local_job(new, job_class(is_async=declared.is_async, process=declared.process))
        return self._call(job, self.signature.arguments(list(new.args)))


class AsyncTask(Task[P, T]):
    """A task whose function is a coroutine function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[T]:
        """Call the function itself."""
        result: Awaitable[T] = self._declaration.function(*args, **kwargs)
        return result

    async def local(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call here, with its arguments as a worker gets them and with its dependencies."""
        result: T = await self._local(args, kwargs)
        return result


class SyncTask(Task[P, T]):
    """A task whose function is a sync function."""

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Call the function itself."""
        result: T = self._declaration.function(*args, **kwargs)
        return result

    def local(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call here, with its arguments as a worker gets them and with its dependencies."""
        result: T = run_sync(self._local(args, kwargs))
        return result


class ProcessHandler:
    """The handler of a task in a child process, which imports the task by its name."""

    def __init__(self, task: Task[Any, Any]) -> None:
        if getattr(sys.modules[task.__module__], task.__qualname__, None) is not task:
            raise ValueError(f"{task!r} runs in a process, so it must be a function of a module")
        self._task = task
        self.__qualname__ = task.__qualname__

    def __call__(self, job: ProcessJob) -> JSON:
        """Run the task."""
        return run_sync(self._task._handle(job))
