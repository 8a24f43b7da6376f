"""The errors of this library, and the decisions that a handler can raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from ojs_client.options import Duration, milliseconds, seconds

_MAX_HOLD_S: Final = 86_400.0
"""The server holds a key for a day at most."""


class OJSError(Exception):
    """The base class of all errors of this library."""


class ConnectionFailed(OJSError):
    """The server could not be reached, or it did not answer in time.

    Args:
        message: what happened.
        applied: False if the server has certainly not applied the request, None if it may have.
    """

    def __init__(self, message: str, *, applied: bool | None) -> None:
        super().__init__(message)
        self.applied = applied
        self.retry_after_s: float | None = None


class ApiError(OJSError):
    """The server answered with an error (spec: ojs-http-binding, Error Responses).

    Args:
        status: the HTTP status.
        code: the error code, such as ``not_found``.
        message: the server's message.
        retryable: whether the same request may succeed later.
        details: further members, such as ``field`` for an invalid value.
        request_id: the id of the request in the server's log.
        retry_after_s: the value of the header ``Retry-After`` in seconds; None without one.

    Attributes:
        applied: False if the server has certainly not applied the request, None if it may have.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retryable = retryable
        self.details: Mapping[str, Any] = details or {}
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        # Without an outcome, the error may come from a proxy or from a fault after a write.
        self.applied: bool | None = None if status >= 500 else False
        if "outcome" in self.details:
            self.applied = False if self.details["outcome"] == "not_applied" else None


class NotFound(ApiError):
    """The job, workflow or cron job does not exist (404, or 410 after its retention)."""


class Conflict(ApiError):
    """The state of the object does not allow the request (409)."""


class ResultPending(ApiError):
    """The job is not finished at the end of the wait (408)."""


class Unavailable(ApiError):
    """The server cannot answer now (503)."""


class RateLimited(ApiError):
    """The queue is full, or the client sends too much (429)."""


class InvalidArguments(OJSError, ValueError):
    """The arguments of a task do not match its signature, or a job has no JSON form."""

    applied: Final[bool] = False
    """Nothing was sent."""


class JobFailed(OJSError):
    """A job whose result was requested has not completed.

    Args:
        job_id: the job.
        state: ``discarded`` or ``cancelled``.
        error: the error of its last attempt; None if it has none.
    """

    def __init__(self, job_id: str, state: str, error: Mapping[str, Any] | None) -> None:
        reason = f": {error.get('message')}" if error else ""
        super().__init__(f"job {job_id} is {state}{reason}")
        self.job_id = job_id
        self.state = state
        self.error = error


class LeaseLost(OJSError):
    """The worker does not hold the job any more, so the handler must end."""


class JobCancelled(LeaseLost):
    """A client has cancelled the job that the handler runs, so the handler must end."""


class Retry(OJSError):
    """Raise it in a handler to fail the attempt; the job's retry policy decides when it runs again.

    An ordinary exception does the same. ``Retry`` sends the reason without a backtrace.

    Args:
        reason: the message of the error.
        code: the code of the error, which ``non_retryable_errors`` of a policy can name.
        hold: how long no job of the same rate limit key may start, for example because a service
            has answered 429; a day at most. A job without such a key is not held.
        delay: when the job runs again, if an attempt is left; None for the policy's backoff.
    """

    def __init__(
        self,
        reason: str = "",
        *,
        code: str = "retry",
        hold: Duration | None = None,
        delay: Duration | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        hold_s = None if hold is None else min(max(0.0, seconds(hold)), _MAX_HOLD_S)
        self.hold_s: float | None = hold_s
        self.delay_ms: int | None = None if delay is None else max(0, milliseconds(delay))


class Snooze(OJSError):
    """Raise it in a handler to run the job again later, without counting the attempt.

    Args:
        delay: when the job runs again.
    """

    def __init__(self, delay: Duration) -> None:
        super().__init__(f"snoozed for {seconds(delay):g} s")
        self.delay_ms: int = max(0, milliseconds(delay))


class Discard(OJSError):
    """Raise it in a handler to end the job without further attempts.

    Args:
        reason: the message of the error.
        code: the code of the error.
        dead_letter: whether the job becomes a dead letter, which an operator can retry.
    """

    def __init__(self, reason: str, *, code: str = "discard", dead_letter: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.dead_letter = dead_letter


_E = TypeVar("_E", bound=OJSError)


def copy_of(error: _E) -> _E:
    """Return an equal error for another task, because raising an error changes it."""
    other = type(error).__new__(type(error), *error.args)
    other.__dict__.update(error.__dict__)
    return other


_NO_CODE: Final = "http_error"
"""The code of an error response that has none, such as a response of a proxy."""
_MAX_DIGITS: Final = 9

_BY_STATUS: Mapping[int, type[ApiError]] = {
    404: NotFound,
    408: ResultPending,
    409: Conflict,
    410: NotFound,
    429: RateLimited,
    503: Unavailable,
}


def api_error(
    status: int, body: Any, *, retry_after: str | None = None, request_id: str = ""
) -> ApiError:
    """Return the error of a response.

    Args:
        status: the HTTP status.
        body: the decoded body; None if it is not JSON, as from a proxy.
        retry_after: the header ``Retry-After``.
        request_id: the header ``X-Request-Id``.
    """
    error = body.get("error") if isinstance(body, dict) else None
    members: dict[str, Any] = error if isinstance(error, dict) else {}
    details = members.get("details")
    kind = _BY_STATUS.get(status, ApiError)
    return kind(
        status,
        str(members.get("code") or _NO_CODE),
        str(members.get("message") or f"the server answered {status} without an error"),
        retryable=bool(members.get("retryable", status in (429, 502, 503, 504))),
        details=details if isinstance(details, dict) else None,
        request_id=str(members.get("request_id") or request_id),
        retry_after_s=_seconds(retry_after),
    )


def _seconds(text: str | None) -> float | None:
    """Return a whole number of seconds; None for a date or anything else."""
    if text and text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS:
        return float(text)
    return None


def refuses_cursor(error: ApiError) -> bool:
    """Return whether the server does not know the cursor of the request.

    During an upgrade, a process of an earlier version refuses a cursor of a later one.
    """
    return error.status == 400 and error.details.get("field") == "cursor"


def ends_worker(error: ApiError) -> bool:
    """Return whether a worker that gets this error for a fetch must end.

    It must end if every later fetch would fail too, as with a wrong API key. An error of a proxy is
    temporary: a proxy may answer 404 or 500 during a deployment.
    """
    return error.code != _NO_CODE and error.status in (400, 401, 403, 422) and not error.retryable
