"""Every failure a caller of this server can be told about.

The classes say *what went wrong*; how that looks on the wire (status, code, catalog number, hint)
is one table at the HTTP layer. Keeping statuses out of here lets the store and the scheduler raise
the same errors without knowing that HTTP exists.
"""

from __future__ import annotations

from typing import Any, Literal

Outcome = Literal["not_applied", "unknown", "stored_unconfirmed"]


class OJSError(Exception):
    """Base of all errors with a message that is safe to show to a caller.

    ``field`` is the path of the offending input (``options.retry.max_attempts``); it is kept as
    ``details["field"]``. Other keyword arguments become entries of ``details``; those that are
    ``None`` are left out.
    """

    def __init__(self, message: str, *, field: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = {k: v for k, v in details.items() if v is not None}
        if field is not None:
            self.details["field"] = field

    @property
    def field(self) -> str | None:
        """Path of the offending input, if one input is to blame."""
        value = self.details.get("field")
        return value if isinstance(value, str) else None


class InvalidPayload(OJSError):
    """The body is missing, is not JSON, or is not the kind of JSON value that was asked for."""


class InvalidRequest(OJSError):
    """The JSON is well formed, but its shape or one of its values breaks a rule."""


class ValidationFailed(OJSError):
    """A policy (retry, uniqueness, timeouts) is understood and rejected."""


class Unsupported(OJSError):
    """The request asks for something that this server does not offer."""


class NotFound(OJSError):
    """No such resource. ``details`` name it: ``resource`` (its kind) and ``id``, and again as
    ``resource_type`` and ``resource_id``, which some SDKs read.
    """

    def __init__(self, resource: str, resource_id: str, message: str | None = None) -> None:
        super().__init__(
            message or f"{resource} '{resource_id}' does not exist",
            resource=resource,
            id=resource_id,
            resource_type=resource,
            resource_id=resource_id,
        )


class Conflict(OJSError):
    """The resource exists, but not in a state or in hands that allow the operation."""


class Duplicate(OJSError):
    """A job with this id, or with this uniqueness, already exists."""


class PayloadTooLarge(OJSError):
    """A body, an attribute or a batch is over its size limit."""


class HeaderTooLarge(OJSError):
    """The request's header section is over its size limit."""


class TooManyQueues(OJSError):
    """The job would create one queue more than the server is configured to hold."""


class TooManyRateLimitKeys(OJSError):
    """The request names a rate limit key more than the server holds."""


class Unauthenticated(OJSError):
    """No credentials, or credentials that are not valid."""


class PermissionDenied(OJSError):
    """Valid credentials that do not cover this operation."""


class RateLimited(OJSError):
    """Too many requests with one API key. ``retry_after_s`` is in seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class QueueFull(OJSError):
    """As many jobs wait in the queue as may. ``details``: queue, depth, bound and strategy.

    ``retry_after_s`` is in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float = 5.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class MethodNotAllowed(OJSError):
    """The path exists, the method does not."""


class ResultPending(OJSError):
    """The result was waited for and the job did not finish in time."""


class ResultExpired(OJSError):
    """The job finished, but its result is no longer kept."""


class BackendUnavailable(OJSError):
    """Redis could not be asked, or did not answer.

    ``outcome`` tells whether the write may have happened: ``not_applied`` means that repeating the
    request is safe, ``unknown`` that it may have been applied, ``stored_unconfirmed`` that it was,
    but not confirmed by as many replicas or disks as asked for. ``retry_after_s`` is in seconds.
    """

    def __init__(self, message: str, *, outcome: Outcome, retry_after_s: float = 1.0) -> None:
        super().__init__(message, outcome=outcome)
        self.outcome: Outcome = outcome
        self.retry_after_s = retry_after_s


class MalformedJob(OJSError):
    """The stored fields of a job cannot be used: something else than this server has changed them.

    ``shard`` is the index of the shard that has the job, where it is known. Cancelling or deleting
    the job removes it.
    """

    def __init__(self, job_id: str, fault: str, shard: int | None = None) -> None:
        super().__init__(
            f"job '{job_id}' is malformed in Redis: {fault}", job_id=job_id, shard=shard
        )
        self.job_id = job_id
        self.shard = shard


class OutOfTime(BackendUnavailable):
    """A request had no time left for a call. It says nothing of the shard that was to be called."""


class WritesRefused(BackendUnavailable):
    """Redis answers, but refuses to write: no memory is left, or its disk fails."""


class Internal(OJSError):
    """A bug. The message is for the log; the caller is told only the request id."""
