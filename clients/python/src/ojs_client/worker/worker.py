"""The worker: fetches jobs until it is stopped, and then drains (spec: ojs-worker-protocol)."""

from __future__ import annotations

import logging
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, Literal, overload

import anyio

from ojs_client.client import Client
from ojs_client.errors import ApiError
from ojs_client.options import JSON, Duration, milliseconds, names
from ojs_client.transport import Transport
from ojs_client.worker import stop_signals
from ojs_client.worker.ending import end_process, end_without_threads
from ojs_client.worker.execution import Runner
from ojs_client.worker.fetching import Fetcher
from ojs_client.worker.handlers import Lifespan, Middleware
from ojs_client.worker.heartbeats import Directive, Heartbeats
from ojs_client.worker.held_jobs import HeldJob, HeldJobs
from ojs_client.worker.loop_watch import LoopWatch
from ojs_client.worker.prefetch import WaitingJobs
from ojs_client.worker.program import log_to_stderr, refusal_in_one_line
from ojs_client.worker.registering import RegistersHandler, RegistersProcessHandler
from ojs_client.worker.running import WorkerContext
from ojs_client.worker.settings import WorkerSettings, queues_of
from ojs_client.worker.settling import Settler
from ojs_client.worker.signal import Signal, run_in
from ojs_client.worker.view import WorkerView

log: Final = logging.getLogger("ojs_client.worker")

_MIN_CONNECTIONS: Final = 100
"""Minimum of the maximum number of connections, for handlers that send several requests at once."""
_THREAD_RETURN_LIMIT_S: Final = 1.0
"""Time in seconds that sync handlers have to return after the grace period. Then the worker
requeues their jobs."""
_CLEANUP_LIMIT_S: Final = 3.0
"""Time in seconds that cancelled handlers have to clean up. Then the worker requeues their jobs."""


class Worker:
    """Runs jobs of some queues.

    Register handlers with ``handler``, then call ``run``, or await ``serve`` in your own program.

    Args:
        url: the address of the server; None for ``OJS_URL``, or port 8080 of this machine.
        queues: the queues; a fetch takes the jobs of earlier queues first. None for the queue
            ``default``, or for all queues of the pool.
        pool: the worker pool by which the server shares fetches among its queues; None for no pool.
            With ``queues``, the worker gets jobs of the queues that are in both.
        concurrency: maximum number of handlers that run at the same time.
        prefetch: number of jobs that the worker holds beyond these, so that short handlers do not
            wait for a fetch. Other workers cannot run them meanwhile. With None, it holds up to
            three while handlers take less than 5 ms, and returns those that wait for 20 ms.
        api_key: the API key; None for ``OJS_API_KEY``.
        worker_id: the id of this worker; None for the host name and a random suffix.
        lease: time after the last heartbeat until the server gives the jobs to other workers.
        heartbeat: time between two heartbeats.
        poll: maximum time that one fetch waits for jobs.
        grace: time after SIGTERM or ``stop`` until running handlers are cancelled.
        jobs_per_process: number of jobs after which a child process of handlers is replaced.
        middleware: functions around each handler; the first one is the outermost.
        lifespan: returns an async context manager that is open while the worker runs.
        labels: labels that operators see in the list of workers.
        transport: how httpx2 reaches the server, for tests and special networks.

    Raises:
        ValueError: a value is not allowed, for example one string as ``queues`` or an address
            without ``http://``.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        queues: Sequence[str] | None = None,
        pool: str | None = None,
        concurrency: int = 10,
        prefetch: int | None = None,
        api_key: str | None = None,
        worker_id: str | None = None,
        lease: Duration = 30.0,
        heartbeat: Duration = 5.0,
        poll: Duration = 10.0,
        grace: Duration = 25.0,
        jobs_per_process: int = 100,
        middleware: Sequence[Middleware] = (),
        lifespan: Lifespan | None = None,
        labels: Sequence[str] = (),
        transport: Any = None,
    ) -> None:
        self._settings = WorkerSettings(
            queues=queues_of(queues, pool),
            pool=pool,
            concurrency=concurrency,
            prefetch=prefetch,
            lease=lease,
            heartbeat=heartbeat,
            poll=poll,
            grace=grace,
            jobs_per_process=jobs_per_process,
            middleware=tuple(middleware),
            lifespan=lifespan,
            labels=names(labels, "labels"),
        )
        self.worker_id: str = worker_id or f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        self.queues: tuple[str, ...] = self._settings.queues
        self.pool: str | None = pool
        self.concurrency: int = concurrency
        self._server = {"url": url, "api_key": api_key, "transport": transport}
        # Handlers have connections of their own, so that their requests delay no heartbeat.
        most = max(_MIN_CONNECTIONS, concurrency)
        make = partial(Transport, **self._server, max_connections=most)
        self._transport, self._for_handlers = make(), make()
        self._make_parts()
        self.view.has_given_id = worker_id is not None
        for_thread = None if transport else make  # one of the caller belongs to its event loop
        self._loop_watch = LoopWatch(self._heartbeats, self.view, for_thread)
        self._quiet = False
        self._directive: Directive = "running"
        """The last state that the server asked for."""
        self._stopping = Signal()
        self._aborting = Signal()
        self._changed = Signal()
        self._refused: ApiError | None = None  # the error of a fetch that has ended the worker
        self._ends_process = False  # whether it may, because ``run`` was called

    def _make_parts(self) -> None:
        settings, transport, id = self._settings, self._transport, self.worker_id
        self._held = HeldJobs(settings.lease_s)
        self._heartbeats = Heartbeats(
            transport, self._held, id, settings.heartbeat_s, self._describe, self._follow_directive
        )
        self._settler = Settler(transport, self._held, id, self._is_idle, self._wake)
        self._fetcher = Fetcher(transport, self._held, self._heartbeats, id, settings)
        self._client = Client.over(self._for_handlers)
        context = WorkerContext(self._for_handlers, self._client, self._held, id)
        self._runner = Runner(
            context,
            self._held,
            self._settler,
            settings.middleware,
            settings.concurrency,
            settings.jobs_per_process,
            self._handler_ended,
        )
        waiting = self._waiting = WaitingJobs(self._runner, settings.concurrency, settings.prefetch)
        self.view: WorkerView = WorkerView(transport.url, settings.grace_s, self._runner, waiting)

    @overload
    def handler(
        self, type: str, *, timeout: Duration | None = None, process: Literal[False] = False
    ) -> RegistersHandler: ...
    @overload
    def handler(
        self, type: str, *, timeout: Duration | None = None, process: Literal[True]
    ) -> RegistersProcessHandler: ...
    def handler(self, type: str, *, timeout: Duration | None = None, process: bool = False) -> Any:
        """Return a decorator that registers the handler of a job type.

        A coroutine function gets a RunningJob and runs in the event loop. Any other function gets a
        BlockingJob and runs in a thread, or with ``process`` a ProcessJob in a child process. What
        it returns becomes the job's result.

        Args:
            type: the type; ``*`` for all types without a handler.
            timeout: maximum time that the handler may run; None for the timeout of the job.
            process: whether a child process runs it, because it computes for seconds.

        Raises:
            TypeError: ``handler`` is used without parentheses.
            ValueError: no job can have the type, it has a handler already, the timeout is not
                positive, a handler in a thread has one, or a child process cannot run it.
        """
        if not isinstance(type, str):
            raise TypeError('name the type of the jobs: @worker.handler("email.send")')

        def register(function: Callable[..., Any]) -> Any:
            limit_s = None if timeout is None else milliseconds(timeout) / 1000
            self._runner.register(type, function, limit_s, process=process)
            return function

        return register

    def copy(self, url: str | None = None, **changes: Any) -> Worker:
        """Return another worker with the same handlers and settings. Each worker serves once.

        Args:
            url: the address of its server; None for the same server, with the same API key.
            **changes: arguments of ``Worker`` that differ.
        """
        server = {"url": url} if url else self._server
        other = Worker(**{**server, **self._settings.arguments(), **changes})
        other._runner.handlers.update(self._runner.handlers)
        return other

    def run(
        self,
        backend: Literal["asyncio", "trio"] = "asyncio",
        *,
        main: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Run until SIGTERM or SIGINT, and then drain. A second signal ends the handlers at once.

        It logs to stderr if nothing else is set up, and ends the process if a handler never ends.

        Args:
            backend: the library whose event loop runs the async handlers.
            main: awaits ``serve`` beside other things; None for ``serve(signals=True)``.

        Raises:
            ApiError: the server refuses all fetches. If it is not caught, Python prints one line.
        """
        self._ends_process = True
        with log_to_stderr():
            try:
                with refusal_in_one_line(self._transport.url, lambda e: e is self._refused):
                    anyio.run(main or partial(self.serve, signals=True), backend=backend)
            finally:
                if self._runner.threads:
                    end_without_threads(len(self._runner.threads), self.view.exit_code)

    async def serve(self, *, signals: bool = False) -> None:
        """Run until ``stop`` is called, the server ends the worker, or the task is cancelled.

        Args:
            signals: whether SIGTERM and SIGINT stop the worker. True works only in the main thread.

        Raises:
            ApiError: the server refuses all fetches, for example because the API key is wrong.
        """
        jobs_of, url = self._settings.jobs_of, self._transport.url
        log.info("worker %s starts: %s, server %s", self.worker_id, jobs_of, url)
        async with (
            self._transport,
            self._client,
            (self._settings.lifespan or nullcontext)(),
            anyio.create_task_group() as background,
        ):
            # Shielded, because a cancelled worker still sends its last acks.
            self._beating = anyio.CancelScope(shield=True)
            scopes = [self._beating]
            background.start_soon(run_in, self._beating, self._heartbeats.run)
            for function in (self._held.watch, self._settler.run, self._loop_watch.watch):
                scopes.append(anyio.CancelScope(shield=True))
                background.start_soon(run_in, scopes[-1], function)
            self._ending_poll = anyio.CancelScope()
            background.start_soon(run_in, self._ending_poll, self._end_poll)
            if signals:
                background.start_soon(stop_signals.watch, self._stop_on_signal)
            try:
                await self._work()
            finally:
                try:
                    with anyio.CancelScope(shield=True):
                        await self._finish()
                finally:  # an error must not leave the shielded tasks running
                    self._runner.processes.close()
                    for scope in scopes:
                        scope.cancel()
                    background.cancel_scope.cancel()
        if self._refused is not None:
            raise self._refused

    def quiet(self) -> None:
        """Stop fetching; running handlers continue. Call it in the event loop."""
        self._quiet = True
        self._wake()
        self._heartbeats.send_soon()

    def resume(self) -> None:
        """Fetch again after ``quiet``. Call it in the event loop."""
        self._quiet = False
        self._wake()
        self._heartbeats.send_soon()

    def stop(self) -> None:
        """Drain: stop fetching, let handlers end, send the last acks. Call it in the event loop.

        A second call cancels the handlers at once.
        """
        if self._stopping.is_set():
            self._aborting.set()
        self._stopping.set()
        self._waiting.end()
        self._wake()
        self._heartbeats.send_soon()

    @property
    def types(self) -> list[str] | None:
        """The types that each fetch names; None for any: with a handler for ``*``, or over 100."""
        return self._runner.types

    @property
    def paused(self) -> bool:
        """Whether the worker does not fetch, after ``quiet`` or a directive of the server."""
        return self._quiet or self._directive != "running"

    @property
    def held(self) -> int:
        """Number of fetched jobs whose ack or nack the server does not have yet."""
        return len(self._held)

    def _is_idle(self) -> bool:
        return self._runner.running == 0 and not self._waiting

    def _wake(self) -> None:
        self._changed.set()

    def _handler_ended(self, job: HeldJob, run_s: float) -> None:
        if self.view.on_attempt is not None:
            self.view.on_attempt(job, run_s)
        self._waiting.handler_ended(run_s)
        self._wake()

    def _describe(self) -> dict[str, JSON]:
        # A directive does not change the reported state. Otherwise the server would keep the state
        # after the directive has ended.
        quiet = self._quiet or self._stopping.is_set()
        described = self._settings.description(self.types)
        return {"state": "quiet" if quiet else "running", **described}

    def _follow_directive(self, directive: Directive) -> None:
        if directive == self._directive or self._stopping.is_set():
            return
        log.info("the server wants this worker to be %s", directive)
        self._directive = directive
        self._wake()
        if directive == "terminate":
            self.stop()

    def _stop_on_signal(self, number: signal.Signals) -> None:
        log.info("%s: drains", number.name)
        self.stop()

    async def _work(self) -> None:
        async with anyio.create_task_group() as handlers:
            self._waiting.group = handlers
            try:
                await self._fetch_until_stopped()
            finally:
                self._waiting.end()
            await self._handlers_end(self._settings.grace_s, unless=self._aborting)
            self._runner.cancel_all()
            await self._handlers_end(_THREAD_RETURN_LIMIT_S)
            self._runner.abandon_threads()
            await self._handlers_end(_CLEANUP_LIMIT_S)
            if self._runner.running:
                self._runner.requeue_stuck()
                if self._ends_process:
                    await self._finish()
                    end_process(self.view.exit_code if self._refused is None else 1)

    async def _handlers_end(self, limit_s: float, *, unless: Signal | None = None) -> None:
        """Return when no handler runs, after some seconds, or when a signal is set."""
        with anyio.move_on_after(limit_s):
            while self._runner.running and not (unless and unless.is_set()):
                self._changed.clear()
                await self._changed.wait()

    async def _fetch_until_stopped(self) -> None:
        while not self._stopping.is_set():
            self._changed.clear()
            count = self._waiting.wanted()
            if self.paused or count < 1 or self._settler.is_full:
                with anyio.move_on_after(self._waiting.seconds_left()) as patience:
                    await self._changed.wait()
                if patience.cancelled_caught:
                    self._waiting.give_back()
                continue
            try:
                jobs = await self._fetcher.fetch(count, self.types)
            except ApiError as error:
                self._refused = error
                self.stop()
                return
            if self._fetcher.pause_s:
                with anyio.move_on_after(self._fetcher.pause_s):
                    await self._stopping.wait()
            self._waiting.add(jobs)

    async def _end_poll(self) -> None:
        await self._stopping.wait()
        await self._fetcher.end_poll()

    async def _finish(self) -> None:
        await self._settler.flush()
        # A heartbeat after the removal would add the worker again.
        self._beating.cancel()
        self._ending_poll.cancel()
        await self._heartbeats.sign_off()
        log.info("worker %s has stopped", self.worker_id)
