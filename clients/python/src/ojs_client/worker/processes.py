"""Runs sync handlers in child processes, so that they do not hold the GIL of the worker.

A thread of the worker waits for each child. It ends the child when the job is lost, requeued or out
of time, which a thread cannot do to another thread. A child runs one job at a time, and a limited
number of them, so memory that handlers leak is freed.

Refused: ``concurrent.futures`` fails all jobs of a pool when one child dies, and cannot end one.
``anyio.to_process`` discards what handlers print, and does not replace its children.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from ojs_client.errors import LeaseLost, OJSError
from ojs_client.options import JSON
from ojs_client.transport import encode
from ojs_client.worker.handlers import HandlerFailed, error_of, timeout_error
from ojs_client.worker.held_jobs import HeldJob
from ojs_client.worker.running import BlockingJob, JobInfo

if TYPE_CHECKING:
    # Most workers have no child processes, so it is imported with the first one.
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

_CHECK_S: Final = 0.1
"""Maximum time in seconds after which a child is ended whose job is lost or out of time."""


class ProcessJob(JobInfo):
    """The job that a handler runs in a child process, which ends if the lease is lost."""

    def __init__(self, members: Mapping[str, JSON], parent: Connection) -> None:
        scope: Any = None  # the child has no event loop
        super().__init__(HeldJob(members["id"], "", members, 0.0, math.inf, scope=scope), scope)
        self._parent = parent

    def progress(
        self,
        progress: float,
        message: str | None = None,
        *,
        data: Mapping[str, JSON] | None = None,
    ) -> None:
        """Report how far the job is, as ``RunningJob.progress`` does."""
        self._ask("progress", progress, message, data)

    def save_checkpoint(self, state: JSON) -> None:
        """Store a state from which a later attempt can continue."""
        self._ask("save_checkpoint", state)

    def _ask(self, *call: JSON) -> None:
        self._parent.send(call)
        if error := self._parent.recv():
            kind, text = error
            raise (LeaseLost if kind == "lost" else OJSError)(text)


@dataclass(slots=True)
class _Child:
    process: BaseProcess
    connection: Connection
    jobs: int = 0

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass(slots=True)
class Processes:
    """The child processes of a worker: at most one for each handler that runs.

    Args:
        max_jobs: number of jobs after which a child is replaced.
    """

    max_jobs: int
    _idle: deque[_Child] = field(default_factory=deque)
    _starting: Lock = field(default_factory=Lock)
    _closed: bool = False

    def run(
        self, function: Callable[..., Any], limit_s: float, now: datetime, job: BlockingJob
    ) -> JSON:
        """Run a handler in a child, and return its result. Call it in a thread.

        Args:
            function: the handler, which the child imports by its name.
            limit_s: how long it may run, in seconds.
            now: the time on the server's clock.
            job: the job.

        Raises:
            HandlerFailed: the handler has failed, takes too long, or its process has died.
            LeaseLost: the job is lost or requeued.
        """
        import pickle

        call = pickle.dumps((function, dict(job.job.members), now))
        child = self._child()
        try:
            result = _run_in(child, call, limit_s, job)
        except HandlerFailed as failure:
            self._put_back(child, alive=failure.reported)
            raise
        except BaseException:
            child.end()
            raise
        self._put_back(child)
        return result

    def close(self) -> None:
        """End the idle children, and the others when their jobs end."""
        self._closed = True
        while self._idle:
            self._idle.pop().end()

    def _child(self) -> _Child:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread has taken it
                child = self._idle.pop()
                if child.process.is_alive():
                    return child
                child.end()
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        process = context.Process(target=_serve, args=(its,), name="ojs-handler", daemon=True)
        with self._starting:
            process.start()
        its.close()  # else the end of the child would not end the pipe
        return _Child(process, ours)

    def _put_back(self, child: _Child, *, alive: bool = True) -> None:
        child.jobs += 1
        if alive and not self._closed and child.jobs < self.max_jobs:
            self._idle.append(child)
        else:
            child.end()


def _run_in(child: _Child, call: bytes, limit_s: float, job: BlockingJob) -> JSON:
    ends_at = time.monotonic() + limit_s
    try:
        child.connection.send_bytes(call)
        while True:
            if not child.connection.poll(_CHECK_S):
                if job.lease_lost:
                    raise LeaseLost(f"job {job.id} is lost")
                if time.monotonic() >= ends_at:
                    raise HandlerFailed(timeout_error(limit_s), reported=False)
                continue
            kind, *values = child.connection.recv()
            if kind == "completed":
                return json.loads(values[0])
            if kind == "failed":
                raise HandlerFailed(values[0])
            child.connection.send(_report(getattr(job, kind), values))
    except (EOFError, OSError):
        child.process.join()
        code = child.process.exitcode
        message = f"the process of the handler has ended with {code}"
        died = {"code": "process_ended", "type": "process_ended", "message": message}
        raise HandlerFailed({**died, "retryable": True}, reported=False) from None


def _report(call: Callable[..., None], values: list[Any]) -> tuple[str, str] | None:
    """Send a report of the child; return its error, which may have no form for a pipe."""
    try:
        if call.__name__ == "progress":
            call(*values[:2], data=values[2])
        else:
            call(*values)
    except LeaseLost as error:
        return "lost", str(error)
    except OJSError as error:
        return "failed", str(error)
    return None


def _serve(parent: Connection) -> None:
    """Run handlers in this process until the worker closes the pipe."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):  # the worker drains, and then ends its children
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            parent.send(_outcome(parent.recv_bytes(), parent))


def _outcome(call: bytes, parent: Connection) -> tuple[str, Any]:
    import pickle

    began, now = time.monotonic(), datetime.now(UTC)
    try:
        function, members, now = pickle.loads(call)  # noqa: S301 - the worker has sent it
        result = function(ProcessJob(members, parent))
    except BaseException as error:
        return "failed", error_of(error, now + timedelta(seconds=time.monotonic() - began))
    try:
        return "completed", encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"the result of the handler has no JSON form: {error}"
        return "failed", {"code": "invalid_result", "message": message, "retryable": False}
