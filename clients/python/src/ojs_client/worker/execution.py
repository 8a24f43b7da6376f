"""Runs the handlers of fetched jobs, and decides between ack and nack."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from ojs_client.errors import Discard, Retry
from ojs_client.options import JSON, is_job_type
from ojs_client.tracing import process_span
from ojs_client.worker.handlers import (
    SNOOZE,
    Handler,
    Middleware,
    error_of,
    expired_error,
    failure_of,
    handler_traceback,
    no_handler,
    timeout_error,
    wrap,
)
from ojs_client.worker.held_jobs import HeldJob, HeldJobs
from ojs_client.worker.processes import Processes
from ojs_client.worker.running import BlockingJob, RunningJob, WorkerContext
from ojs_client.worker.settling import Settlement, Settler, ack, nack, release

log: Final = logging.getLogger("ojs_client.worker")

_MAX_TYPES: Final = 100
"""Maximum number of types that a fetch may name."""
_DECISION: Final = ("retryable", "action", "retry_delay_ms")
"""Members of an error that decide whether the job runs again. The library sets their values, so
they always have a JSON form."""


class Runner:
    """Runs the registered handlers of a worker.

    Args:
        context: what running jobs need of the worker.
        held: the held jobs.
        settler: gets the acks and nacks.
        middleware: functions around each handler.
        concurrency: maximum number of threads of sync handlers.
        jobs_per_process: number of jobs after which a child process is replaced.
        on_end: called when a handler has ended, with its run time in seconds.

    Attributes:
        handlers: the registered handlers by type.
        running: number of handlers that run.
        processes: the child processes of handlers.
        threads: the jobs whose sync handlers run, even if the job was requeued.
    """

    def __init__(
        self,
        context: WorkerContext,
        held: HeldJobs,
        settler: Settler,
        middleware: tuple[Middleware, ...],
        concurrency: int,
        jobs_per_process: int,
        on_end: Callable[[HeldJob, float], None],
    ) -> None:
        self._context = context
        self._held = held
        self._settler = settler
        self._middleware = middleware
        self._concurrency = concurrency
        self._limiter: anyio.CapacityLimiter | None = None
        self._on_end = on_end
        self.handlers: dict[str, Handler] = {}
        self.running: int = 0
        self.processes: Processes = Processes(jobs_per_process)
        self.threads: set[HeldJob] = set()

    def register(
        self,
        type: str,
        function: Callable[..., Any],
        timeout_s: float | None,
        *,
        process: bool = False,
    ) -> None:
        """Register the handler of a type.

        Raises:
            ValueError: no job can have the type, it has a handler already, the timeout is not
                positive, a handler in a thread has one, or a child process cannot run it.
        """
        if type != "*" and not is_job_type(type):
            raise ValueError(f"a type is lower-case words joined by dots, not {type!r}")
        if type in self.handlers:
            raise ValueError(f"type '{type}' has a handler already")
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError("the timeout of a handler must be positive")
        self.handlers[type] = Handler.of(function, timeout_s, process=process)

    @property
    def types(self) -> list[str] | None:
        """The types that a fetch names; None for any type."""
        if "*" in self.handlers or not 0 < len(self.handlers) <= _MAX_TYPES:
            return None
        return list(self.handlers)

    def start(self, job: HeldJob, group: TaskGroup) -> None:
        """Start the handler of a job in a task of ``group``, unless its lease is lost."""
        # A process that was stopped may start a job before it finds that the lease has expired.
        if job.lost is None and job.expires_at <= time.monotonic():
            job.lose("expired")
        if job.lost is not None:
            self.return_unstarted(job)
            return
        type = job.members["type"]
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is None:
            log.error("job %s: no handler for type '%s'", job.id, type)
            self._settler.add(nack(job, no_handler(type)))
            return
        self.running += 1
        job.in_thread = not handler.is_async
        group.start_soon(self._run, job, handler)

    def return_unstarted(self, job: HeldJob) -> None:
        """Return a job to its queue that has not started, unless the server says it is lost."""
        if job.taken:
            job.ended = True
            self._held.remove(job)
        else:
            # If the lease has expired at the server, too, the server refuses this nack.
            self._settler.add(release(job))

    def cancel_all(self) -> None:
        """Cancel all async handlers; ``lease_lost`` becomes True for all sync handlers."""
        for job in self._held:
            if job.in_thread:
                job.requeued = True
            elif not job.ended:
                job.scope.cancel()

    def abandon_threads(self) -> None:
        """Requeue the jobs of running sync handlers. Their threads continue."""
        for job in self._held:
            if job.in_thread and not job.ended:
                job.scope.cancel()

    def requeue_stuck(self) -> None:
        """Requeue the jobs of handlers that ignore their cancellation."""
        for job in self._held:
            if not job.ended:
                log.error("job %s: its handler does not end; another worker gets the job", job.id)
                self._settler.add(nack(job, None))

    async def _run(self, job: HeldJob, handler: Handler) -> None:
        # Sent only if `_outcome` raises, as when the task is cancelled.
        settlement: Settlement | None = nack(job, None)
        started_at = time.perf_counter()
        try:
            settlement = await self._outcome(job, handler)
        finally:
            self.running -= 1
            job.requeued = job.in_thread  # a thread that still runs reads it from `lease_lost`
            if settlement is None:
                job.ended = True
                self._held.remove(job)
            elif not job.ended:
                self._settler.add(settlement)
            self._settler.handler_ended()
            self._on_end(job, time.perf_counter() - started_at)

    async def _outcome(self, job: HeldJob, handler: Handler) -> Settlement | None:
        """Run the handler; return its ack or nack, or None if the server says the lease is lost."""
        with process_span(job.members, self._context.worker_id) as span:
            completed, value = await self._attempt(job, handler)
            if job.taken:
                job.outcome = "lost"
                return None
            if job.loss_read:
                completed, value = False, None
            settlement, value = _ack(job, value) if completed else (None, value)
            if settlement is not None:
                job.outcome = "completed"
                span.set_completed()
            elif value is not None and value.get("action") == SNOOZE:
                job.outcome = "snoozed"
            elif value is not None:
                job.outcome = "failed"
                span.set_failed(value, job.members.get("attempt", 0))
        # Without an error, the nack requeues the job, as after a drain that cancels the handler.
        return settlement or _nack(job, value)

    async def _attempt(self, job: HeldJob, handler: Handler) -> tuple[bool, JSON]:
        """Run the handler.

        Returns:
            Whether it has completed, and its result, or else its error. The error is None if the
            worker has cancelled the handler.
        """
        limit_s = _limit_s(job, handler)
        error: dict[str, JSON] | None = None
        with job.scope, anyio.move_on_after(math.inf if job.in_thread else limit_s) as timer:
            try:
                return True, await self._call(job, handler)
            except (Exception, SystemExit, BaseExceptionGroup, _cancelled_class()) as raised:
                # A cancellation is not raised again, because this task ends after this block.
                if failure := failure_of(raised, _cancelled_class(), is_cancelled=_is_cancelled()):
                    error = error_of(failure, job.server_time())
                    if error.get("action") != SNOOZE:
                        _log_failure(job, repr(raised), raised)
        if (
            error is None
            and timer.cancel_called
            and not (job.scope.cancel_called or _is_cancelled())
        ):
            error = timeout_error(limit_s)
            _log_failure(job, str(error["message"]))
        elif error is None and job.lost == "expired":
            error = expired_error()
        return False, error

    async def _call(self, job: HeldJob, handler: Handler) -> JSON:
        running = RunningJob(job, self._context)

        async def run() -> JSON:
            if handler.is_async:
                return await handler.function(running)
            limiter = self._limiter = self._limiter or anyio.CapacityLimiter(self._concurrency)
            blocking, now = BlockingJob(job, self._context), job.server_time()

            def in_thread() -> JSON:  # not called if the job is cancelled before a thread is free
                self.threads.add(job)
                try:
                    if handler.process:
                        limit_s = _limit_s(job, handler)
                        return self.processes.run(handler.function, limit_s, now, blocking)
                    return handler.function(blocking)
                finally:
                    self.threads.discard(job)

            return await anyio.to_thread.run_sync(
                in_thread, abandon_on_cancel=True, limiter=limiter
            )

        return await wrap(self._middleware, running, run)()


def _limit_s(job: HeldJob, handler: Handler) -> float:
    """Return how long the handler may run, in seconds."""
    return handler.timeout_s or (job.members.get("timeout_ms") or math.inf) / 1000


def _ack(job: HeldJob, result: JSON) -> tuple[Settlement | None, JSON]:
    """Return the ack of a result; None and an error if the result has no JSON form."""
    try:
        return ack(job, result), None
    except (TypeError, ValueError, RecursionError) as error:
        message = f"the result of the handler has no JSON form: {error}"
        _log_failure(job, message)
        return None, {"code": "invalid_result", "message": message, "retryable": False}


def _log_failure(job: HeldJob, why: str, raised: BaseException | None = None) -> None:
    """Log that an attempt has failed, with the traceback of what the handler did not decide.

    A warning, which Python shows without any setup: the terminal is where the author of a first
    worker looks. So the traceback begins with the handler, unless debug messages are logged too.
    """
    exc_info = None
    if raised is not None and not isinstance(raised, Retry | Discard):
        debugs = log.isEnabledFor(logging.DEBUG)
        trace = raised.__traceback__ if debugs else handler_traceback(raised)
        exc_info = (type(raised), raised, trace)
    log.warning(
        "job %s: attempt failed: %s",
        job.id,
        why,
        exc_info=exc_info,
        extra={
            "job_id": job.id,
            "job_type": job.members["type"],
            "queue": job.members.get("queue"),
            "attempt": job.members.get("attempt"),
        },
    )


def _nack(job: HeldJob, error: dict[str, JSON] | None) -> Settlement:
    try:
        return nack(job, error)
    except (TypeError, ValueError, RecursionError) as failure:
        message = f"the error of the handler has no JSON form: {failure}"
        kept = {name: value for name, value in (error or {}).items() if name in _DECISION}
        return nack(job, {"code": "invalid_error", "message": message, **kept})


def _cancelled_class() -> type[BaseException]:
    return anyio.get_cancelled_exc_class()


def _is_cancelled() -> bool:
    """Return whether a scope around the current code is cancelled."""
    return anyio.current_effective_deadline() == -math.inf
