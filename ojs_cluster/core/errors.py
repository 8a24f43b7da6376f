"""Every failure that this server reports to a client.

The classes name the kind of failure. One table in the HTTP layer maps them to status, code, catalog
number and hint. So the store and the scheduler raise the same errors without depending on HTTP.
"""

from __future__ import annotations

from typing import Any, Literal

WriteOutcome = Literal["not_applied", "unknown", "stored_unconfirmed"]
"""Whether a failed write is stored; see ``BackendUnavailable``."""


class OJSError(Exception):
    """Base of all errors whose message is safe to show to a client.

    Args:
        message: what is wrong, and what the client can do.
        field: path of the invalid input (``options.retry.max_attempts``), stored as
            ``details["field"]``.
        details: entries of ``details``. Entries that are None are left out.
    """

    def __init__(self, message: str, *, field: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = {k: v for k, v in details.items() if v is not None}
        if field is not None:
            self.details["field"] = field

    @property
    def field(self) -> str | None:
        """Path of the invalid input, or None."""
        value = self.details.get("field")
        return value if isinstance(value, str) else None


class InvalidPayload(OJSError):
    """The body is missing, is not JSON, or is a JSON value of another type than required."""


class InvalidRequest(OJSError):
    """The JSON is well formed, but its shape or one of its values breaks a rule."""


class ValidationFailed(OJSError):
    """A policy (retry, uniqueness, timeouts) is well formed but not allowed."""


class SchemaRefused(OJSError):
    """A schema is not valid, not supported, or not compatible with its previous version.

    ``details.pointer`` is the JSON pointer of the part of the schema that is wrong.
    """

    def __init__(
        self, message: str, *, pointer: str | None = None, field: str = "schema", **details: Any
    ) -> None:
        where = "" if pointer is None else f"schema at '{pointer[:200]}': "
        shown = None if pointer is None else pointer[:200]
        super().__init__(where + message, pointer=shown, field=field, **details)


class ArgsRefused(OJSError):
    """The args of a job do not match the schema of its type, and the type is validated strictly."""


class Unsupported(OJSError):
    """The request asks for something that this server does not offer."""


class NotFound(OJSError):
    """The resource does not exist.

    ``details`` name its kind and id, as ``resource`` and ``id`` and, for some SDKs, again as
    ``resource_type`` and ``resource_id``.
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
    """The resource exists, but its state or its lease does not allow the operation."""


class Duplicate(OJSError):
    """Another job has this id, or conflicts with the uniqueness policy of this job."""


class PayloadTooLarge(OJSError):
    """A body, an attribute or a batch is larger than its maximum size."""


class HeaderTooLarge(OJSError):
    """The request's header section is larger than its maximum size."""


class TooManyQueues(OJSError):
    """The job would create a queue beyond the configured limit."""


class TooManyRateLimitKeys(OJSError):
    """The request names a new rate limit key beyond the configured limit."""


class Unauthenticated(OJSError):
    """The request has no credentials, or invalid ones."""


class PermissionDenied(OJSError):
    """The credentials are valid but do not allow this operation."""


class RateLimited(OJSError):
    """One API key has sent too many requests. ``retry_after_s`` is in seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class StreamRefused(OJSError):
    """This process opens no further event stream. ``retry_after_s`` is in seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class QueueFull(OJSError):
    """The queue holds its maximum number of jobs.

    ``details`` have the ``queue``, its ``depth``, the maximum as ``bound``, and the queue's
    ``strategy`` for further jobs. ``retry_after_s`` is in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float = 5.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class QueueDraining(QueueFull):
    """The queue is draining, so it takes no new jobs. ``details`` name the ``queue``."""


class TenantLimitExceeded(QueueFull):
    """The tenant would exceed one of its limits.

    ``details`` have the ``tenant_id``, the name of the ``limit``, and the ``current`` and the
    ``maximum`` number of jobs.
    """


class UnderMaintenance(OJSError):
    """An operator has switched on maintenance mode. ``retry_after_s`` is in seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 10.0, **details: Any) -> None:
        super().__init__(message, outcome="not_applied", **details)
        self.retry_after_s = retry_after_s


class MethodNotAllowed(OJSError):
    """The path exists, but not with this method."""


class ResultPending(OJSError):
    """The client waited for a result, and the job did not finish in time."""


class ResultExpired(OJSError):
    """The job has finished, but the retention of its result has ended."""


class BackendUnavailable(OJSError):
    """Redis is unreachable or did not answer in time.

    Args:
        message: what happened.
        outcome: ``not_applied``: the write did not happen, so the client can repeat the request.
            ``unknown``: the write may have happened. ``stored_unconfirmed``: the write happened,
            but fewer replicas or disks than required have confirmed it.
        retry_after_s: time in seconds after which the client may try again.
    """

    def __init__(self, message: str, *, outcome: WriteOutcome, retry_after_s: float = 1.0) -> None:
        super().__init__(message, outcome=outcome)
        self.outcome: WriteOutcome = outcome
        self.retry_after_s = retry_after_s


class MalformedJob(OJSError):
    """The stored fields of a job are not valid, because another program has changed them.

    Cancelling or deleting the job removes it.

    Args:
        job_id: the id of the job.
        fault: what is wrong with its fields.
        shard: index of the shard that stores the job, if known.
    """

    def __init__(self, job_id: str, fault: str, shard: int | None = None) -> None:
        super().__init__(
            f"job '{job_id}' is malformed in Redis: {fault}", job_id=job_id, shard=shard
        )
        self.job_id = job_id
        self.shard = shard


class MalformedRecord(OJSError):
    """A stored record, other than a job, is not valid, because another program has changed it.

    Args:
        resource: what the record describes, such as ``workflow``.
        name: its id or name.
        fault: what is wrong with its fields.
    """

    def __init__(self, resource: str, name: str, fault: str) -> None:
        super().__init__(
            f"{resource} '{name}' is malformed in Redis: {fault}", resource=resource, id=name
        )
        self.resource = resource
        self.name = name
        self.fault = fault


class OutOfTime(BackendUnavailable):
    """The request's deadline left no time to call Redis. Redis itself may be available."""


class ValidationBusy(BackendUnavailable):
    """Args cannot be validated now. Redis itself may be available.

    Args:
        message: what happened.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, outcome="not_applied")


class WritesRefused(BackendUnavailable):
    """Redis answers but refuses writes: it is out of memory, or its disk has failed."""


class Internal(OJSError):
    """A bug. The message goes to the log; the client receives only the request id."""
