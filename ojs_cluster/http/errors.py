"""The table of errors: the status, code and hint that a client gets for each error class.

Error codes are lower case, because SDKs compare lower-case codes. ``details`` contains the number
and the upper-case name that the error has in the OJS error catalog (spec: ojs-http-binding "Error
Responses", ojs-errors, ojs-error-catalog).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson

from ojs_cluster.core import errors
from ojs_cluster.http.messages import Headers, Response
from ojs_cluster.http.shapes.common import ItemError
from ojs_cluster.redis.errors import MalformedKey, ReplyTooLarge

# Errors that only HTTP raises. Those of ``core`` may come from any part of the server.


class BodyTimeout(errors.OJSError):
    """The body did not arrive completely in time."""


class AmbiguousLength(errors.OJSError):
    """The head has both Content-Length and Transfer-Encoding.

    A proxy in front of the server may have used the header that the server would ignore.
    """


class ForeignPage(errors.PermissionDenied):
    """A web page of another site may have sent the request with the rights of its visitor."""


class UpgradeRequired(errors.OJSError):
    """The path serves WebSockets only."""


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """One row of the table.

    Attributes:
        status: the HTTP status.
        code: the error code.
        number: the number in the OJS error catalog.
        name: the name in the OJS error catalog.
        hint: what the client or the operator can do.
        retryable: whether the same request may succeed later.
    """

    status: int
    code: str
    number: str
    name: str
    hint: str
    retryable: bool = False


INTERNAL: Final = ErrorEntry(
    500,
    "internal_error",
    "OJS-2004",
    "INTERNAL_SERVER_ERROR",
    "Report the request_id to the operator. The server's log names the cause beside this id.",
    retryable=True,
)

TABLE: Final[Mapping[type[errors.OJSError], ErrorEntry]] = MappingProxyType(
    {
        errors.InvalidPayload: ErrorEntry(
            400, "invalid_payload", "OJS-1000", "INVALID_PAYLOAD", "Send a JSON object as the body."
        ),
        errors.InvalidRequest: ErrorEntry(
            400,
            "invalid_request",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Correct the value named in details.field and send the request again.",
        ),
        errors.ValidationFailed: ErrorEntry(
            422,
            "validation_error",
            "OJS-1006",
            "INVALID_RETRY_POLICY",
            "Correct the policy named in details.field and send the request again.",
        ),
        errors.SchemaRefused: ErrorEntry(
            422,
            "validation_error",
            "OJS-1008",
            "SCHEMA_VALIDATION_FAILED",
            "Correct the part of the schema that details.pointer names.",
        ),
        errors.ArgsRefused: ErrorEntry(
            422,
            "validation_error",
            "OJS-1008",
            "SCHEMA_VALIDATION_FAILED",
            "Correct the args as details.errors says. GET /ojs/v1/schemas/{type} returns the "
            "schema.",
        ),
        errors.Unsupported: ErrorEntry(
            422,
            "unsupported",
            "OJS-7000",
            "UNSUPPORTED_FEATURE",
            "GET /ojs/manifest lists what this server can do.",
        ),
        errors.NotFound: ErrorEntry(
            404,
            "not_found",
            "OJS-3000",
            "NOT_FOUND",
            "Check the id and the path. Finished jobs are removed when their retention ends.",
        ),
        errors.Conflict: ErrorEntry(
            409,
            "conflict",
            "OJS-1005",
            "INVALID_STATE_TRANSITION",
            "Read the job again: its state or its holder has changed.",
        ),
        errors.Duplicate: ErrorEntry(
            409,
            "duplicate",
            "OJS-3001",
            "DUPLICATE_JOB",
            "A job with this id exists. Leave the id out to have one generated.",
        ),
        errors.PayloadTooLarge: ErrorEntry(
            413,
            "payload_too_large",
            "OJS-1009",
            "PAYLOAD_TOO_LARGE",
            "Store large data elsewhere and pass a reference to it.",
        ),
        # The status is not 503: clients would repeat the request, and exceed the limit again.
        ReplyTooLarge: ErrorEntry(
            413,
            "answer_too_large",
            "OJS-1009",
            "PAYLOAD_TOO_LARGE",
            "Ask for fewer jobs at once. If the request was a change, the change has been made.",
        ),
        errors.HeaderTooLarge: ErrorEntry(
            431,
            "header_too_large",
            "OJS-1009",
            "PAYLOAD_TOO_LARGE",
            "Send fewer or shorter headers.",
        ),
        errors.TooManyQueues: ErrorEntry(
            422,
            "too_many_queues",
            "OJS-1002",
            "INVALID_QUEUE",
            "Use a queue that exists, or raise the server's limit on queues.",
        ),
        errors.TooManyRateLimitKeys: ErrorEntry(
            422,
            "too_many_rate_limit_keys",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Use a rate limit key that exists, or use fewer rate limit keys.",
        ),
        errors.Unauthenticated: ErrorEntry(
            401,
            "unauthenticated",
            "OJS-5000",
            "UNAUTHENTICATED",
            "Send the header 'Authorization: Bearer <API key>'.",
        ),
        errors.PermissionDenied: ErrorEntry(
            403,
            "permission_denied",
            "OJS-5001",
            "PERMISSION_DENIED",
            "Use an API key that has the scope and may access the queue that the message names.",
        ),
        ForeignPage: ErrorEntry(
            403,
            "permission_denied",
            "OJS-5001",
            "PERMISSION_DENIED",
            "OJS_CORS_ORIGINS names the origins whose pages may use the API, and OJS_ALLOWED_HOSTS "
            "the names of a server without API keys.",
        ),
        errors.RateLimited: ErrorEntry(
            429,
            "rate_limited",
            "OJS-6000",
            "RATE_LIMITED",
            "Repeat the request after Retry-After. It has not been applied.",
            retryable=True,
        ),
        # This code and the next are the only upper-case ones (spec: ojs-multi-tenancy 8.2, and
        # ojs-backpressure 7.1).
        errors.TenantLimitExceeded: ErrorEntry(
            429,
            "TENANT_LIMIT_EXCEEDED",
            "OJS-6000",
            "TENANT_LIMIT_EXCEEDED",
            "Repeat the request after Retry-After, or ask an operator for a higher limit of the "
            "tenant. It has not been applied.",
            retryable=True,
        ),
        errors.QueueFull: ErrorEntry(
            429,
            "QUEUE_FULL",
            "OJS-6000",
            "QUEUE_FULL",
            "Repeat the request after Retry-After, when workers have taken jobs. It has not been "
            "applied.",
            retryable=True,
        ),
        errors.QueueDraining: ErrorEntry(
            422,
            "queue_paused",
            "OJS-3004",
            "QUEUE_PAUSED",
            "The queue only finishes its jobs. Use another queue, or resume this one.",
            retryable=True,
        ),
        errors.UnderMaintenance: ErrorEntry(
            503,
            "maintenance",
            "OJS-2002",
            "SERVICE_UNAVAILABLE",
            "Repeat the request after Retry-After. It has not been applied.",
            retryable=True,
        ),
        errors.MethodNotAllowed: ErrorEntry(
            405,
            "method_not_allowed",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Use one of the methods in the Allow header.",
        ),
        errors.ResultPending: ErrorEntry(
            408,
            "result_pending",
            "OJS-1012",
            "REQUEST_TIMEOUT",
            "The job is not finished yet. Repeat the request.",
        ),
        AmbiguousLength: ErrorEntry(
            400,
            "invalid_request",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Send either Content-Length or Transfer-Encoding.",
        ),
        BodyTimeout: ErrorEntry(
            408,
            "request_timeout",
            "OJS-1012",
            "REQUEST_TIMEOUT",
            "Send the whole body without pausing.",
        ),
        UpgradeRequired: ErrorEntry(
            426,
            "upgrade_required",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Open a WebSocket, or read /ojs/v1/events/stream.",
        ),
        errors.ResultExpired: ErrorEntry(
            410,
            "result_expired",
            "OJS-3000",
            "NOT_FOUND",
            "Results are kept for a limited time. Read them sooner, or raise the retention.",
        ),
        errors.BackendUnavailable: ErrorEntry(
            503,
            "backend_unavailable",
            "OJS-2001",
            "BACKEND_UNAVAILABLE",
            "Repeat the request after Retry-After. With details.outcome 'unknown' it may already "
            "have been applied: send your own job id to make an enqueue safe to repeat. With "
            "'stored_unconfirmed' it is stored, but a failure now might still undo it.",
            retryable=True,
        ),
        errors.StreamRefused: ErrorEntry(
            503,
            "stream_refused",
            "OJS-6000",
            "RATE_LIMITED",
            "Connect again after Retry-After: another API process may have room.",
            retryable=True,
        ),
        # A repetition fails as well: the job is malformed until an operator repairs or removes it.
        errors.MalformedJob: ErrorEntry(
            500,
            "malformed_job",
            "OJS-2004",
            "INTERNAL_SERVER_ERROR",
            "The job's fields in Redis are damaged. Restore them there, or cancel the job: that "
            "removes it.",
        ),
        # The status is not 409: a worker would take its lease for lost.
        MalformedKey: ErrorEntry(
            503,
            "malformed_key",
            "OJS-2001",
            "BACKEND_UNAVAILABLE",
            "Another program has written a key of this server in Redis: the server's log names it. "
            "Remove or restore it, then repeat the request.",
            retryable=True,
        ),
        errors.MalformedRecord: ErrorEntry(
            409,
            "malformed_record",
            "OJS-1005",
            "INVALID_STATE_TRANSITION",
            "The record's fields in Redis are damaged. Restore them there, or cancel or delete "
            "the record: that removes it.",
        ),
        errors.Internal: INTERNAL,
    }
)


def entry_for(error: errors.OJSError) -> ErrorEntry:
    """Return the row for ``error``, or that of its nearest base class in the table."""
    for cls in type(error).__mro__:
        entry = TABLE.get(cls)
        if entry is not None:
            return entry
    return INTERNAL


def is_retryable(error: errors.OJSError) -> bool:
    """Return whether the same request may succeed later."""
    return entry_for(error).retryable


def item_error(error: errors.OJSError) -> ItemError:
    """Return the error of one item of a request as members of JSON, without its catalog name."""
    entry = entry_for(error)
    return {
        "code": entry.code,
        "message": error.message,
        "retryable": entry.retryable,
        "details": error.details,
    }


def error_response(error: errors.OJSError, request_id: str) -> Response:
    """Return the response for an error whose message the client may read."""
    entry = entry_for(error)
    if entry is INTERNAL:
        return internal_error_response(request_id)
    retry_after_s: float | None = getattr(error, "retry_after_s", None)
    headers: Headers = ()
    if retry_after_s is not None:
        headers = (("Retry-After", str(max(1, math.ceil(retry_after_s)))),)
        if type(error) is errors.QueueFull:  # its subclasses are about no depth bound
            headers += (
                ("X-OJS-Queue-Depth", str(error.details.get("depth", 0))),
                ("X-OJS-Queue-Bound", str(error.details.get("bound", 0))),
            )
    elif isinstance(error, errors.PayloadTooLarge) and "max_batch_size" in error.details:
        headers = (("X-OJS-Max-Batch-Size", str(error.details["max_batch_size"])),)
    elif isinstance(error, errors.Unauthenticated):
        headers = (("WWW-Authenticate", 'Bearer realm="ojs"'),)
    elif isinstance(error, errors.MethodNotAllowed):
        headers = (("Allow", ", ".join(error.details.get("allowed", ()))),)
    elif isinstance(error, UpgradeRequired):
        headers = (("Upgrade", "websocket"),)
    elif isinstance(error, AmbiguousLength):
        # The next bytes on this connection may be another client's request, or no request at all.
        headers = (("Connection", "close"),)
    body = _body(entry, error.message, error.details, request_id)
    return Response(entry.status, body, headers, code=entry.code)


def internal_error_response(request_id: str) -> Response:
    """Return the response for an internal error; it names the request, but not the cause."""
    message = "the server failed to handle this request"
    body = _body(INTERNAL, message, {}, request_id)
    return Response(INTERNAL.status, body, code=INTERNAL.code)


def _body(entry: ErrorEntry, message: str, details: Mapping[str, Any], request_id: str) -> bytes:
    url = f"https://openjobspec.org/errors/{entry.name}"
    return orjson.dumps(
        {
            "error": {
                "code": entry.code,
                "type": entry.code,
                "message": message,
                "retryable": entry.retryable,
                "hint": entry.hint,
                "docs_url": url,  # as the conformance suites name it (L0-OPS-030)
                "doc_url": url,  # as the spec names it (ojs-errors 3.2)
                "details": {**details, "ojs_code": entry.number, "catalog": entry.name},
                "request_id": request_id,
            }
        },
        default=str,
    )
