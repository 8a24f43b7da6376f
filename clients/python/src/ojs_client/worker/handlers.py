"""Handlers and middleware, and the errors that the worker reports for failed handlers."""

from __future__ import annotations

import inspect
import itertools
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, TypeAlias

from ojs_client.errors import Discard, OJSError, Retry, Snooze
from ojs_client.options import JSON, Duration, iso_time, milliseconds
from ojs_client.worker.running import RunningJob

Next: TypeAlias = Callable[[], Awaitable[JSON]]
Middleware: TypeAlias = Callable[[RunningJob, Next], Awaitable[JSON]]
"""Called around each handler. It awaits the second argument, which runs the handler, and returns
the result. For a sync handler it runs in the event loop, too."""

Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]
"""Returns a context manager that is open while the worker runs."""

log: Final = logging.getLogger("ojs_client.worker")

_RETRY_DELAY: Final = "_ojs_retry_delay_ms"
"""The attribute of an exception with the delay in ms before the next attempt."""
_DETAILS: Final = "_ojs_details"
"""The attribute of an exception with more members for the details of its error."""
_MAX_FRAMES: Final = 50
"""Number of the innermost frames that an error has."""
_MAX_CAUSES: Final = 8
"""Number of the causes that an error has."""
_CALLERS: Final = frozenset({"ojs_client", "anyio", "asyncio", "trio", "outcome", "concurrent"})
"""Folders with the code that calls a handler.

A folder of the user may have such a name, too. Then its outermost frames are left out.
"""
_MAX_MESSAGE: Final = 4096
"""Number of characters of an error's message."""
SNOOZE: Final = "SNOOZE"
"""The action of an error that is none: the handler wants to run later."""
_ENDS_PROCESS: Final = (KeyboardInterrupt, GeneratorExit)


class HandlerFailed(OJSError):
    """A handler in a child process has failed.

    Args:
        error: the error of the nack.
        reported: whether the child has sent it, so that the child can run another job.
    """

    def __init__(self, error: dict[str, JSON], *, reported: bool = True) -> None:
        super().__init__(f"{error.get('type', error['code'])}: {error['message']}")
        self.error = error
        self.reported = reported
        for frame in error.get("backtrace", ()):
            self.add_note(f"  {frame}")


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered handler.

    Args:
        function: the function.
        is_async: whether it is a coroutine function; otherwise it runs in a thread.
        timeout_s: how long it may run, in seconds; None for the job's own timeout.
        process: whether it runs in a child process, for which the thread waits.
    """

    function: Callable[..., Any]
    is_async: bool
    timeout_s: float | None
    process: bool

    @classmethod
    def of(cls, function: Callable[..., Any], timeout_s: float | None, *, process: bool) -> Handler:
        """Return the handler of a function, or of an object that can be called.

        Raises:
            ValueError: a handler in a thread has a timeout, or a child process cannot run it.
        """
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - asks whether the method is async
        )
        if process and is_async:
            raise ValueError("only a sync handler can run in a process")
        if process and not getattr(function, "__qualname__", "<").isidentifier():
            raise ValueError("a handler in a process must be a function of a module")
        if timeout_s is not None and not (is_async or process):
            raise ValueError("a handler in a thread has no timeout: threads cannot be cancelled")
        return cls(function, is_async, timeout_s, process)


def wrap(middleware: tuple[Middleware, ...], job: RunningJob, run: Next) -> Next:
    """Return ``run`` with all middleware around it; the first one is the outermost."""
    for function in reversed(middleware):
        run = _around(function, job, run)
    return run


def _around(function: Middleware, job: RunningJob, inner: Next) -> Next:
    async def run() -> JSON:
        return await function(job, inner)

    return run


def failure_of(
    raised: BaseException, cancelled: type[BaseException], *, is_cancelled: bool
) -> BaseException | None:
    """Return the failure that a handler has raised; None if the worker has cancelled it.

    Args:
        raised: what the handler has raised. ``SystemExit`` is a failure: a handler that parses
            arguments, for example, must not end the worker and its other jobs.
        cancelled: the class of cancellations.
        is_cancelled: whether the worker has cancelled the handler. If not, the handler awaited a
            future or task that was cancelled, so the attempt has failed.

    Raises:
        BaseException: ``raised``, if it is a group with an exception that must end the process,
            such as ``KeyboardInterrupt``. The caller does not catch one that is in no group.
    """
    if isinstance(raised, BaseExceptionGroup):
        if raised.subgroup(_ENDS_PROCESS) is not None:
            raise raised
        return raised.split(cancelled)[1] if is_cancelled else raised
    return None if is_cancelled and isinstance(raised, cancelled) else raised


def error_of(error: BaseException, now: datetime) -> dict[str, JSON]:
    """Return the error of a nack (spec: ojs-errors): a decision, or an exception with its trace.

    Args:
        error: what the handler has raised.
        now: the time on the server's clock.
    """
    error = unwrapped(error)
    described = _described(error, now)
    if (added := error.__dict__.get(_DETAILS)) is not None:
        described["details"] = {**described.get("details", {}), **added}
    return described


def _described(error: BaseException, now: datetime) -> dict[str, JSON]:
    if isinstance(error, HandlerFailed):
        return error.error
    if isinstance(error, Snooze):
        message, delay_ms = str(error), error.delay_ms
        decided = {"code": "snooze", "message": message, "action": SNOOZE}
        return {**decided, "retryable": True, "retry_delay_ms": delay_ms}
    message = _text(error)
    if isinstance(error, Discard):
        action = "DEAD_LETTER" if error.dead_letter else "DISCARD"
        return {"code": error.code, "message": message, "retryable": False, "action": action}
    if isinstance(error, Retry):
        decision = {"code": error.code, "message": message, "retryable": True}
        if error.hold_s is not None:
            decision["rate_limit_until"] = iso_time(now + timedelta(seconds=error.hold_s))
        if error.delay_ms is not None:
            decision["retry_delay_ms"] = error.delay_ms
        return decision
    described: dict[str, JSON] = {
        "code": "handler_error",
        "type": _class(error),
        "message": message,
        "retryable": True,
        "backtrace": _frames(error),
    }
    if (declared_ms := error.__dict__.get(_RETRY_DELAY)) is not None:
        described["retry_delay_ms"] = declared_ms
    causes = list(itertools.islice(_causes(error), _MAX_CAUSES))
    if causes:
        details: dict[str, JSON] = {
            "causes": [
                {
                    "type": _class(each),
                    "message": _text(each),
                    "backtrace": _frames(each),
                }
                for each in causes
            ]
        }
        if isinstance(error, BaseExceptionGroup):
            # A retry policy can name it, because the group itself says nothing.
            details["error_class"] = _class(causes[0])
        described["details"] = details
    return described


def set_retry_delay(
    error: BaseException, delay_of: Callable[[BaseException], Duration | None]
) -> None:
    """Record when a job runs again after an error, for ``error_of``.

    Args:
        error: what the handler has raised.
        delay_of: returns the delay after an error; None for the backoff of the job's policy. If it
            fails, the backoff holds, and the job keeps the error of its handler.
    """
    error = unwrapped(error)
    try:
        delay = delay_of(error)
        delay_ms = None if delay is None else max(0, milliseconds(delay))
    except Exception:
        log.exception("the delay after %r is not known, so the backoff holds", error)
        delay_ms = None
    error.__dict__[_RETRY_DELAY] = delay_ms  # a frozen dataclass has no setattr


def add_details(error: BaseException, **details: JSON) -> None:
    """Add members to the details of what ``error_of`` returns.

    Args:
        error: what the handler has raised.
        **details: the members.
    """
    unwrapped(error).__dict__[_DETAILS] = details


def unwrapped(error: BaseException) -> BaseException:
    """Return the error that the task groups of a handler have wrapped.

    A group that was raised from another error is the handler's own: its cause must not be lost.
    """
    while (
        isinstance(error, BaseExceptionGroup)
        and len(error.exceptions) == 1
        and error.__cause__ is None
    ):
        error = error.exceptions[0]
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the members of a group, and what an error was raised from, as a traceback shows it."""
    for member in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield member
        yield from _causes(member)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield cause
        yield from _causes(cause)


def _frames(error: BaseException) -> list[JSON]:
    """Return the frames of an error, without those that led from the worker to the handler."""
    frames = traceback.extract_tb(handler_traceback(error))[-_MAX_FRAMES:]
    return [_valid(f"{f.filename}:{f.lineno} in {f.name}") for f in frames]


def handler_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error from the handler on; the whole one if it has no handler."""
    trace = error.__traceback__
    while trace is not None and _is_caller(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace or error.__traceback__


def _class(error: BaseException) -> str:
    return type(error).__qualname__


def _is_caller(file: str) -> bool:
    return not _CALLERS.isdisjoint(file.replace("\\", "/").split("/"))


def _text(error: BaseException) -> str:
    """Return the message of an error. The ``__str__`` of an error may fail, too."""
    try:
        return _valid(str(error)[:_MAX_MESSAGE])
    except Exception as failure:
        return f"{type(error).__qualname__}, whose message raises {type(failure).__qualname__}"


def _valid(text: str) -> str:
    """Return a text without lone surrogates, which file names may contain."""
    return text.encode(errors="replace").decode()


def timeout_error(limit_s: float) -> dict[str, JSON]:
    """Return the error of a handler that ran too long."""
    return {
        "code": "timeout",
        "type": "timeout",
        "message": f"the handler did not end within {limit_s:g} s",
        "retryable": True,
        "details": {"timeout_kind": "execution", "limit_seconds": limit_s},
    }


def expired_error() -> dict[str, JSON]:
    """Return the error of a handler that was cancelled because no heartbeat was answered.

    The server refuses the nack if another worker has the job. If no other worker has it, the nack
    frees the job before the server reaps the lease.
    """
    message = "the worker got no answer to its heartbeats"
    return {"code": "lease_expired", "message": message, "retryable": True}


def no_handler(type: str) -> dict[str, JSON]:
    """Return the error of a job whose type has no handler. Another worker may have one."""
    message = f"this worker has no handler for jobs of type '{type}'"
    return {"code": "handler_not_found", "message": message, "retryable": True}
