"""The one table from an error class to what a caller sees of it.

Codes are lower case, which is what the SDKs switch on; the upper-case name and the number of the
OJS error catalog travel in ``details`` (spec: ojs-http-binding "Error Responses", ojs-errors,
ojs-error-catalog).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson

from ojs_cluster.core import errors as e
from ojs_cluster.http.messages import Headers, Response
from ojs_cluster.redis.errors import ReplyTooLarge


class BodyTimeout(e.OJSError):
    """The client began a body and did not finish it in time."""


class AmbiguousLength(e.OJSError):
    """The head gives the body's length in two ways, and a proxy may have read the other one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: status, code, the catalog's number and name, whether a retry can help, a hint."""

    status: int
    code: str
    number: str
    name: str
    hint: str
    retryable: bool = False


INTERNAL: Final = Entry(
    500,
    "internal_error",
    "OJS-2004",
    "INTERNAL_SERVER_ERROR",
    "Report the request_id to the operator: the server's log has the cause under it.",
    retryable=True,
)

TABLE: Final[Mapping[type[e.OJSError], Entry]] = MappingProxyType(
    {
        e.InvalidPayload: Entry(
            400, "invalid_payload", "OJS-1000", "INVALID_PAYLOAD", "Send a JSON object as the body."
        ),
        e.InvalidRequest: Entry(
            400,
            "invalid_request",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Correct the value named in details.field and send the request again.",
        ),
        e.ValidationFailed: Entry(
            422,
            "validation_error",
            "OJS-1006",
            "INVALID_RETRY_POLICY",
            "Correct the policy named in details.field and send the request again.",
        ),
        e.Unsupported: Entry(
            422,
            "unsupported",
            "OJS-7000",
            "UNSUPPORTED_FEATURE",
            "GET /ojs/manifest lists what this server can do.",
        ),
        e.NotFound: Entry(
            404,
            "not_found",
            "OJS-3000",
            "NOT_FOUND",
            "Check the id and the path. Finished jobs are removed when their retention ends.",
        ),
        e.Conflict: Entry(
            409,
            "conflict",
            "OJS-1005",
            "INVALID_STATE_TRANSITION",
            "Read the job again: its state or its holder has changed.",
        ),
        e.Duplicate: Entry(
            409,
            "duplicate",
            "OJS-3001",
            "DUPLICATE_JOB",
            "A job with this id exists. Leave the id out to have one generated.",
        ),
        e.PayloadTooLarge: Entry(
            413,
            "payload_too_large",
            "OJS-1009",
            "PAYLOAD_TOO_LARGE",
            "Store large data elsewhere and pass a reference to it.",
        ),
        # Not a 5xx: the same request meets the same limit again, and clients repeat a 503.
        ReplyTooLarge: Entry(
            413,
            "answer_too_large",
            "OJS-1009",
            "PAYLOAD_TOO_LARGE",
            "Ask for fewer jobs at once. A change that the request asked for has been made.",
        ),
        e.HeaderTooLarge: Entry(
            431,
            "header_too_large",
            "OJS-1009",
            "PAYLOAD_TOO_LARGE",
            "Send fewer or shorter headers.",
        ),
        e.TooManyQueues: Entry(
            422,
            "too_many_queues",
            "OJS-1002",
            "INVALID_QUEUE",
            "Use a queue that exists, or raise the server's limit on queues.",
        ),
        e.TooManyRateLimitKeys: Entry(
            422,
            "too_many_rate_limit_keys",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Use a rate limit key that exists, or fewer of them.",
        ),
        e.Unauthenticated: Entry(
            401,
            "unauthenticated",
            "OJS-5000",
            "UNAUTHENTICATED",
            "Send the header 'Authorization: Bearer <key>'.",
        ),
        e.PermissionDenied: Entry(
            403, "permission_denied", "OJS-5001", "PERMISSION_DENIED", "Use a key with this right."
        ),
        e.RateLimited: Entry(
            429,
            "rate_limited",
            "OJS-6000",
            "RATE_LIMITED",
            "Repeat the request after Retry-After. It has not been applied.",
            retryable=True,
        ),
        # The one code in upper case on the wire (spec: ojs-backpressure 7.1).
        e.QueueFull: Entry(
            429,
            "QUEUE_FULL",
            "OJS-6000",
            "QUEUE_FULL",
            "Repeat the request after Retry-After, when workers have taken jobs. It has not been "
            "applied.",
            retryable=True,
        ),
        e.MethodNotAllowed: Entry(
            405,
            "method_not_allowed",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Use one of the methods in the Allow header.",
        ),
        e.ResultPending: Entry(
            408,
            "result_pending",
            "OJS-1012",
            "REQUEST_TIMEOUT",
            "The job is not finished. Ask again.",
        ),
        AmbiguousLength: Entry(
            400,
            "invalid_request",
            "OJS-1000",
            "INVALID_PAYLOAD",
            "Send either Content-Length or Transfer-Encoding.",
        ),
        BodyTimeout: Entry(
            408,
            "request_timeout",
            "OJS-1012",
            "REQUEST_TIMEOUT",
            "Send the whole body without pausing.",
        ),
        e.ResultExpired: Entry(
            410,
            "result_expired",
            "OJS-3000",
            "NOT_FOUND",
            "Results are kept for a limited time. Read them sooner, or raise the retention.",
        ),
        e.BackendUnavailable: Entry(
            503,
            "backend_unavailable",
            "OJS-2001",
            "BACKEND_UNAVAILABLE",
            "Repeat the request after Retry-After. With details.outcome 'unknown' it may already "
            "have been applied: send your own job id to make an enqueue safe to repeat. With "
            "'stored_unconfirmed' it is stored, but a failure now might still undo it.",
            retryable=True,
        ),
        # Not retryable: the job stays as it is until somebody repairs or removes it.
        e.MalformedJob: Entry(
            500,
            "malformed_job",
            "OJS-2004",
            "INTERNAL_SERVER_ERROR",
            "The job's fields in Redis are damaged. Restore them there, or cancel the job: that "
            "removes it.",
        ),
        e.Internal: INTERNAL,
    }
)


def entry_for(error: e.OJSError) -> Entry:
    """The row for ``error``; that of its nearest listed base class for one not listed itself."""
    for cls in type(error).__mro__:
        entry = TABLE.get(cls)
        if entry is not None:
            return entry
    return INTERNAL


def error_response(error: e.OJSError, request_id: str) -> Response:
    """The response for an error whose message the caller may read."""
    entry = entry_for(error)
    if entry is INTERNAL:
        return internal_error_response(request_id)
    headers: Headers = ()
    if isinstance(error, e.BackendUnavailable | e.RateLimited):
        headers = (("Retry-After", str(max(1, math.ceil(error.retry_after_s)))),)
    elif isinstance(error, e.QueueFull):
        headers = (
            ("Retry-After", str(math.ceil(error.retry_after_s))),
            ("X-OJS-Queue-Depth", str(error.details.get("depth", 0))),
            ("X-OJS-Queue-Bound", str(error.details.get("bound", 0))),
        )
    elif isinstance(error, e.Unauthenticated):
        headers = (("WWW-Authenticate", 'Bearer realm="ojs"'),)
    elif isinstance(error, e.MethodNotAllowed):
        headers = (("Allow", ", ".join(error.details.get("allowed", ()))),)
    elif isinstance(error, AmbiguousLength):
        # What follows on this connection may be another client's request, or no request at all.
        headers = (("Connection", "close"),)
    body = _body(entry, error.message, error.details, request_id)
    return Response(entry.status, body, headers, code=entry.code)


def internal_error_response(request_id: str) -> Response:
    """The response for a bug: it says which request failed, and nothing about why."""
    message = "the server failed to handle this request"
    body = _body(INTERNAL, message, {}, request_id)
    return Response(INTERNAL.status, body, code=INTERNAL.code)


def _body(entry: Entry, message: str, details: Mapping[str, Any], request_id: str) -> bytes:
    url = f"https://openjobspec.org/errors/{entry.name}"
    return orjson.dumps(
        {
            "error": {
                "code": entry.code,
                "type": entry.code,
                "message": message,
                "retryable": entry.retryable,
                "hint": entry.hint,
                "docs_url": url,
                "doc_url": url,
                "details": {**details, "ojs_code": entry.number, "catalog": entry.name},
                "request_id": request_id,
            }
        },
        default=str,
    )
